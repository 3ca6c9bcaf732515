"""Runs kopf in a thread with a loop of its own.

When kopf ends it cancels every task that was created in its loop after it, and it takes over the signal handlers; its
watchers can also end or hang without ending it. So it gets nothing of ours to break, what it sees is handed over to our
loop, and it is started again whenever it ended or the API server was away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

import kopf
import structlog

from landlord_operator import handlers
from landlord_operator.gate import ClusterGate
from landlord_operator.passes import Sighting

BEAT = 2.0
"""Seconds between two signs of life."""
STUCK = 60.0
"""Seconds without one, asked for all the time, after which the process is better started anew."""
AGAIN = 1.0
JOIN = 10.0
"""Seconds kopf may take to stop."""
STACK = 16 * 2**20
"""Bytes of kopf's stack, whatever the system's default: what it decodes may be nested very deeply."""
CLOSE = 0.1
"""Seconds for kopf's connections to be closed before the loop is."""

_log = structlog.get_logger(__name__)


def _worth_telling(record: logging.LogRecord) -> bool:
    """That signals are ours and not kopf's is nothing to be warned of at every start."""
    return not record.getMessage().startswith("OS signals are ignored")


logging.getLogger("kopf._core.reactor.running").addFilter(_worth_telling)


class WatchStuck(Exception):
    """kopf's loop does not run any more, and cannot be stopped either."""


class Watch:
    """:meth:`run` it in a task; ``saw`` is called in that task's loop."""

    def __init__(self, *, saw: Callable[[Sighting], None], gate: ClusterGate, context: str | None) -> None:
        self._saw = saw
        self._gate = gate
        self._context = context
        self._renewed = asyncio.Event()
        self._silence = 0.0

    def renew(self) -> None:
        """List and watch anew."""
        self._renewed.set()

    async def fault(self) -> str | None:
        """For readiness. While the cluster is away nobody watches, and nobody is missed."""
        return f"the watch has not moved for {self._silence:.0f} s" if self._silence > STUCK / 2 else None

    async def run(self) -> None:
        """Watch for ever. Raises :class:`WatchStuck`."""
        while True:
            await self._gate.passed()
            self._renewed.clear()
            watcher = _Watcher(saw=self._saw, context=self._context)
            watcher.start()
            try:
                await self._attend(watcher)
            finally:
                await asyncio.shield(watcher.end())
            await asyncio.sleep(AGAIN if not self._renewed.is_set() else 0)

    async def _attend(self, watcher: _Watcher) -> None:
        while watcher.alive and not self._renewed.is_set():
            self._silence = watcher.silence()
            if self._silence > STUCK:
                raise WatchStuck(f"kopf's loop has not moved for {STUCK:g} s")
            try:
                async with asyncio.timeout(BEAT):
                    await self._renewed.wait()
            except TimeoutError:
                continue
        self._silence = 0.0


class _Watcher:
    """One life of kopf."""

    def __init__(self, *, saw: Callable[[Sighting], None], context: str | None) -> None:
        self._saw = saw
        self._home = asyncio.get_running_loop()
        self._registry = handlers.build(saw=self._hand_over, context=context)
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unanswered = 0
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        before = threading.stack_size(STACK)
        try:
            self._thread.start()
        finally:
            threading.stack_size(before)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def silence(self) -> float:
        """Ask for a sign of life, every :data:`BEAT`; seconds since there was one.

        Counted by questions: what held the asking up (a busy loop, a process that was frozen) is no silence of kopf's.
        """
        silence = self._unanswered * BEAT
        self._unanswered += 1
        if self._loop is not None and self.alive:
            with contextlib.suppress(RuntimeError):  # it has just been closed
                self._loop.call_soon_threadsafe(self._answer)
        return silence

    async def end(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, JOIN)

    def _answer(self) -> None:
        self._unanswered = 0

    def _hand_over(self, sighting: Sighting) -> None:
        try:
            self._home.call_soon_threadsafe(self._saw, sighting)
        except RuntimeError:
            self._stop.set()  # our loop is gone: nobody listens any more

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
        except Exception as error:  # noqa: BLE001 - whatever ended it, it is started again
            _log.warning("watch ended", error=type(error).__name__)

    async def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await kopf.operator(registry=self._registry, clusterwide=True, standalone=True, stop_flag=self._stop)
        except Exception:
            if not self._stop.is_set():
                raise
        finally:
            self._stop.set()  # a thread waits for it, and the end of the loop for that thread
        await asyncio.sleep(CLOSE)
