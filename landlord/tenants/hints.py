"""Runs that are said to have ended: from whoever hears of it (the API, of workers) to those who reconcile.

A hint is not believed, it only says when to look: the state is the engine's word. Lost, late, repeated and untrue ones
change nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from landlord.database.coalescer import Coalescer
from landlord.database.engine import Database
from landlord.database.listen import RECONNECTED, listen
from landlord.tenants import sql
from landlord.tenants.model import Snapshot
from landlord.workflow.provider import ExecutionInfo

PAUSES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Seconds between looks while the engine does not tell the end that was announced; then it is not waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """That this run of the tenant is said to have ended."""

    tenant_id: str
    execution_id: str


class Hints:
    """Told in one process, heard in all, by NOTIFY. Nothing is kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._told: Coalescer[str, bool] = Coalescer(self._tell)

    async def tell(self, execution_id: str) -> bool:
        """Say that this execution has ended; whether there is one of that id.

        Raises ``DatabaseUnavailable`` and ``Overloaded``.
        """
        return await self._told(execution_id)

    async def heard(self) -> AsyncGenerator[Hint, None]:
        """For ever. Raises nothing: what is told while the database is away is lost."""
        async for payload in listen(self._database.conninfo, channel=sql.HINTS):
            if payload != RECONNECTED:
                tenant_id, _, execution_id = payload.partition(" ")
                yield Hint(tenant_id=tenant_id, execution_id=execution_id)

    async def _tell(self, execution_ids: Sequence[str]) -> list[bool]:
        known = {row.execution_id for row in await self._database.execute(sql.HINT, ids=list(execution_ids))}
        return [execution_id in known for execution_id in execution_ids]


class Announced:
    """Ends that were announced, by tenant, and how often it was looked in vain: a worker knows of an end some
    milliseconds before its engine tells it. Pure."""

    def __init__(self) -> None:
        self._looks: dict[str, tuple[str, int]] = {}

    def add(self, hint: Hint) -> None:
        """An end was announced; it takes the place of the tenant's last one."""
        self._looks[hint.tenant_id] = (hint.execution_id, 0)

    def pause(self, snapshot: Snapshot, word: ExecutionInfo | None) -> float | None:
        """Seconds until the next look, after one that found this; null if none is due for the announcement's sake."""
        execution_id, looks = self._looks.pop(snapshot.id, ("", 0))
        sent = snapshot.sent
        if sent is None or sent.execution_id != execution_id or looks == len(PAUSES):
            return None
        if word is not None and word.state.ended:
            return None
        self._looks[snapshot.id] = (execution_id, looks + 1)
        return PAUSES[looks]
