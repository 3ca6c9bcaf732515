"""The one back-off there is for an engine that is away: it belongs to the engine, not to its tenants.

While the gate is shut nobody asks the engine for anything but whether it is back. An outage costs no tenant an attempt,
however long it takes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from landlord.tenants.metrics import ENGINE_UP
from landlord.workflow.client import WorkflowClient
from landlord.workflow.provider import WorkflowError

BACKOFF_LIMIT = 15.0
"""Seconds between two questions to an engine that is away. One process asks for everybody, so it may ask often: nobody
should have to wait for us once the engine is back (docs/decisions/0013)."""

_log = structlog.get_logger(__name__)


class EngineGate:
    """Open while the engine answers. ``returned`` is called whenever it has come back."""

    def __init__(
        self,
        *,
        client: WorkflowClient,
        returned: Callable[[], Awaitable[None]],
        backoff: float = 1.0,
    ) -> None:
        self._client = client
        self._returned = returned
        self._backoff = backoff
        self._open = asyncio.Event()
        self._open.set()
        self._shut = asyncio.Event()
        ENGINE_UP.set(1)

    @property
    def open(self) -> bool:
        return self._open.is_set()

    async def passed(self) -> None:
        """Wait until the engine may be asked."""
        await self._open.wait()

    async def doubt(self) -> bool:
        """A call found the engine away: whether it really is. Shuts the gate if so."""
        if not self.open:
            return True
        if await self._reachable():
            return False
        if self.open:
            _log.warning("workflow engine unavailable", provider=self._client.name)
            ENGINE_UP.set(0)
            self._open.clear()
            self._shut.set()
        return True

    async def run(self) -> None:
        """Ask a shut-away engine until it is back; for ever."""
        while True:
            await self._shut.wait()
            delay = self._backoff
            while not await self._reachable():
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
                delay = min(delay * 2, BACKOFF_LIMIT)
            _log.info("workflow engine available again", provider=self._client.name)
            ENGINE_UP.set(1)
            self._shut.clear()
            self._open.set()
            await self._returned()

    async def _reachable(self) -> bool:
        try:
            await self._client.ready()
        except WorkflowError:
            return False
        return True
