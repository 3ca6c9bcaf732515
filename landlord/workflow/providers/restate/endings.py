"""Ends of runs, by asking Restate for those of late: it pushes nothing by itself.

The statement looks at every invocation that the server keeps (some 10 ms for six thousand), so the pause between two
follows what the last one took, and the load stays below a sixth of a core however long runs are retained. Kills and
cancels are seen like any other end, which a worker could not tell.
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
"""Seconds between two looks, at least."""
SHARE = 5
"""The pause is so many times what the look took."""
LONGEST = 10.0
AWAY = 1.0
"""Seconds between looks while the server cannot be asked."""
OVERLAP = timedelta(seconds=5)
"""How far the clocks of the servers of one cluster may differ."""

MISSED = ""
"""Some ends may not have been told: look at everything."""


async def endings(engine: Engine, *, service: str) -> AsyncGenerator[str, None]:
    """Execution ids of ``service``, for ever; :data:`MISSED` at first and after each outage. Raises nothing."""
    told: dict[tuple[str, str], datetime] = {}
    latest: datetime | None = None
    while True:
        began = time.perf_counter()
        try:
            if latest is None:
                found = await engine.query(rows.last_end(service))
                latest = rows.time(found[0].get("completed_at")) or rows.EPOCH
                yield MISSED
                continue
            ended = await engine.query(rows.ends_since(service, latest - OVERLAP))
        except ProviderUnavailable:
            latest = None
            await asyncio.sleep(AWAY)
            continue
        for row in ended:
            at = rows.time(row["completed_at"]) or rows.EPOCH
            key = (row["target_service_key"], row["completed_at"])
            if key not in told:
                told[key] = at
                latest = max(latest, at)
                yield row["target_service_key"]
        told = {key: at for key, at in told.items() if at >= latest - OVERLAP}
        await asyncio.sleep(min(max(SHORTEST, SHARE * (time.perf_counter() - began)), LONGEST))
