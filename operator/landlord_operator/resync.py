"""Lists both sides by pages and looks at whatever differs from what the last pass left: repairs what watch and NOTIFY
have missed (kopf never tells of a deletion that happened while its watch was away)."""

from __future__ import annotations

import asyncio
import time

import structlog

from landlord.database.engine import DatabaseUnavailable
from landlord.kubernetes import KubernetesError, TenantResources, Unavailable
from landlord.tenants.model import Status
from landlord.tenants.repository import Repository
from landlord_operator.gate import ClusterGate
from landlord_operator.passes import Passes, Sighting

PAGE = 1000
AGAIN = 5.0
"""Seconds after a resync that broke off."""
GATHER = 0.2
"""Seconds in which several reasons to resync become one."""

_log = structlog.get_logger(__name__)


class Resync:
    """Every ``interval`` seconds, and when :meth:`soon` is called."""

    def __init__(
        self, *, repository: Repository, resources: TenantResources, passes: Passes, gate: ClusterGate, interval: float
    ) -> None:
        self._repository = repository
        self._resources = resources
        self._passes = passes
        self._gate = gate
        self._interval = interval
        self._wanted = asyncio.Event()
        self._fault: str | None = None

    def soon(self) -> None:
        """Something may have been missed."""
        self._wanted.set()

    async def fault(self) -> str | None:
        """For readiness: why not all resources were seen the last time."""
        return self._fault

    async def run(self) -> None:
        """Resync for ever."""
        while True:
            await self._gate.passed()
            self._wanted.clear()
            pause = self._interval if await self._once() else AGAIN
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
                await asyncio.sleep(GATHER)
            except TimeoutError:
                continue

    async def _once(self) -> bool:
        began = time.monotonic()
        try:
            listed = await self._resources_seen()
            woken = await self._rows_seen(listed)
        except Unavailable:
            self._gate.doubt()
            return False
        except (KubernetesError, DatabaseUnavailable) as error:
            _log.warning("resync broke off", error=str(error))
            self._fault = str(error)
            return False
        except Exception:  # noqa: BLE001 - without a resync all that is missed would stay missed
            _log.exception("resync broke off")
            return False
        self._fault = None
        seconds = round(time.monotonic() - began, 3)
        _log.debug("resynced", resources=len(listed), rows_woken=woken, seconds=seconds)
        return True

    async def _resources_seen(self) -> set[tuple[str, str]]:
        listed = set()
        async for page in self._resources.pages():
            for body in page:
                sighting = Sighting.listed(body)
                listed.add((sighting.namespace, sighting.name))
                self._passes.saw(sighting)
        return listed

    async def _rows_seen(self, listed: set[tuple[str, str]]) -> int:
        names = {name for _, name in listed}
        after, woken = "", 0
        while rows := await self._repository.resources(after=after, limit=PAGE):
            for row in rows:
                after = row["id"]
                if row["status"] == Status.DELETED and after not in names:
                    self._passes.forget(after)
                    continue
                here = row["namespace"] is not None and (row["namespace"], after) in listed
                if row["namespace"] and not here and self._passes.left_in(row["namespace"], after):
                    self._passes.saw(Sighting(namespace=row["namespace"], name=after, version=None, urgent=True))
                    woken += 1
                elif not self._passes.is_left(after, revision=row["revision"]):
                    self._passes.changed([after])
                    woken += 1
        return woken
