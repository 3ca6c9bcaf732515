"""Work that is done behind an answer, best effort."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

AT_ONCE = 16
WAITING = 1000

_log = structlog.get_logger(__name__)


class Background:
    """:data:`AT_ONCE` pieces of work at a time and :data:`WAITING` behind them; what is more is dropped.

    For what somebody else guarantees anyway (the operator makes a resource that is missing).
    """

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do this soon; a failure is logged and nothing more."""
        if len(self._tasks) >= AT_ONCE + WAITING:
            _log.warning("dropped, too much is waiting", work=what)
            return
        task = asyncio.get_running_loop().create_task(self._do(what, work), name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        async with self._turn:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - best effort, and its text may hold secrets
                _log.warning("failed behind the answer", work=what, error=type(error).__name__)

    async def close(self, *, timeout: float) -> None:
        """Finish what was begun, for so many seconds; then give it up."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
