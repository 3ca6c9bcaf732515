"""Whether the database has the schema this release was written for. Nothing is served on another one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from landlord.database.engine import DatabaseUnavailable
from landlord_api.problems import unavailable

AGAIN = 1.0
"""Seconds between looks while the schema does not fit or is not known."""
RECHECK = 15.0
"""Seconds between looks while it fits: somebody may migrate under a running process."""
NOT_YET = "the database's schema has not been seen yet"

_log = structlog.get_logger(__name__)


class SchemaGate:
    """``fault`` says why nothing is served, or null. An unreachable database shuts an open gate not: requests tell."""

    def __init__(self, look: Callable[[], Awaitable[str | None]]) -> None:
        self._look = look
        self.fault: str | None = NOT_YET

    def pass_through(self) -> None:
        """Raises :class:`Problem` (503) while nothing is served."""
        if self.fault is not None:
            raise unavailable(self.fault)

    async def look(self) -> None:
        """Look once. Raises nothing: the next look may succeed, and whatever is served until then stays served."""
        try:
            fault = await self._look()
        except DatabaseUnavailable as error:
            if self.fault is not None:
                self._become(str(error))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the database, it is said without its text
            _log.error("cannot read the schema's version", error=type(error).__name__)
        else:
            self._become(fault)

    def _become(self, fault: str | None) -> None:
        if fault == self.fault:
            return
        if fault is None:
            _log.info("the schema fits: serving")
        else:
            _log.error("not serving", reason=fault)
        self.fault = fault

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(AGAIN if self.fault is not None else RECHECK)

    async def database(self) -> str | None:
        """Readiness: whether the database answers now."""
        try:
            await self._look()
        except DatabaseUnavailable as error:
            return str(error)
        return None

    async def migrations(self) -> str | None:
        """Readiness: whether the schema fits."""
        await self.look()
        return self.fault
