"""What has become of runs of late, by asking Restate: it pushes nothing by itself.

Kills, cancels and runs that cannot go on are seen, which no worker could tell. Either statement looks at every
invocation that the server keeps (some 15 ms for six thousand), so the pause between two follows what the last one took,
and the load stays below a sixth of a core however long runs are retained.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta

from landlord.workflow.provider import ProviderUnavailable
from landlord.workflow.providers.restate import rows
from landlord.workflow.providers.restate.engine import Engine

SHORTEST = 0.05
"""Seconds between two looks, at least: where ends are only found so, or one has just been found."""
IDLE = 1.0
"""Seconds between two looks while nothing ends, where workers tell of ends."""
SHARE = 5
"""The pause is so many times what the look took."""
LONGEST = 10.0
AWAY = 1.0
"""Seconds between looks while the server cannot be asked."""
TROUBLE = 2.0
"""Seconds between looks for runs that cannot go on."""
OVERLAP = timedelta(seconds=5)
"""How far the clocks of the servers of one cluster may differ."""

MISSED = ""
"""Some ends may not have been told: look at everything."""


async def endings(engine: Engine, *, service: str, idle: float) -> AsyncGenerator[str, None]:
    """Execution ids of ``service`` that ended, cannot go on or can again, for ever; :data:`MISSED` at first and after
    each outage. ``idle``: seconds between looks, at most, while nothing ends. Raises nothing."""
    ends, troubles = _Ends(engine, service), _Troubles(engine, service)
    pause, due = SHORTEST, 0.0
    while True:
        began = time.perf_counter()
        try:
            found = await ends.look()
            pause = SHORTEST if found else min(2 * pause, idle)
            if began >= due:
                found += await troubles.look()
                due = began + TROUBLE
        except ProviderUnavailable:
            ends.latest = None
            await asyncio.sleep(AWAY)
            continue
        took = time.perf_counter() - began
        for execution_id in found:
            yield execution_id
        await asyncio.sleep(min(max(pause, SHARE * took), LONGEST))


class _Ends:
    """Each end is told once, unless the server was away."""

    def __init__(self, engine: Engine, service: str) -> None:
        self._engine = engine
        self._service = service
        self._told: dict[tuple[str, str], datetime] = {}
        self.latest: datetime | None = None
        """When the last run ended; null where that is to be found out."""

    async def look(self) -> list[str]:
        if self.latest is None:
            [last] = await self._engine.query(rows.last_end(self._service))
            self.latest = rows.time(last.get("completed_at")) or rows.EPOCH
            return [MISSED]
        ended = await self._engine.query(rows.ends_since(self._service, self.latest - OVERLAP))
        fresh = {(row["target_service_key"], row["completed_at"]) for row in ended} - self._told.keys()
        self._told |= {(key, at): rows.time(at) or rows.EPOCH for key, at in fresh}
        self.latest = latest = max(self.latest, *self._told.values()) if self._told else self.latest
        self._told = {each: at for each, at in self._told.items() if at >= latest - OVERLAP}
        return [key for key, _ in fresh]


class _Troubles:
    """Runs that back off or are paused, once it lasts: what a worker's restart causes is not worth a word. Each is told
    once, and once more when it goes on."""

    def __init__(self, engine: Engine, service: str) -> None:
        self._engine = engine
        self._service = service
        self._before: set[str] = set()
        self._told: set[str] = set()

    async def look(self) -> list[str]:
        now = {row["target_service_key"] for row in await self._engine.query(rows.troubled(self._service))}
        lasting = now & (self._before | self._told)
        changed = lasting ^ self._told
        self._before, self._told = now, lasting
        return list(changed)
