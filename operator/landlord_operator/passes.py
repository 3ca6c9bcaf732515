"""Which tenants have to be looked at, and the tasks that do it.

Watch, NOTIFY and resync only say "look at this". What was left by the last pass is remembered as two version numbers
per tenant, so that the echo of our own writes costs no look; nothing else is remembered, and nothing rests on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from landlord.database.engine import DatabaseUnavailable
from landlord.kubernetes import KubernetesError, NotFound, Rejected, Unavailable
from landlord.mirror import Resource
from landlord.queue import KeyedQueue
from landlord.tenants.repository import Repository
from landlord_operator.gate import ClusterGate
from landlord_operator.look import SETTLE, moves
from landlord_operator.sync import Done, TenantSync

WORKERS = 32
PATIENCE = 0.8
"""Seconds after which a status that was held back is written, whatever else may be on its way."""

PASSES = Counter("landlord_operator_passes_total", "Looks at tenants and their resources", ["result"])
SECONDS = Histogram("landlord_operator_pass_seconds", "How long a look takes")
DEPTH = Gauge("landlord_operator_queue_depth", "Tenants that wait to be looked at")
FAILING = Gauge("landlord_operator_failing", "Tenants whose last look failed")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A resource as watch or list have shown it."""

    namespace: str
    name: str
    version: str | None
    """``resourceVersion``; null for one that is gone."""
    urgent: bool
    """Somebody else than we has done something to it."""
    resource: Resource | None = None
    """As the watch has shown it, in the order of its versions; null for one that only a list has, in none."""

    @classmethod
    def watched(cls, body: Mapping[str, Any], *, gone: bool) -> Sighting:
        metadata = body["metadata"]
        seen = cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            version=None if gone else metadata["resourceVersion"],
            urgent=True,
        )
        try:
            resource = Resource.parse(body)
            calm = not gone and not resource.terminating and resource.described
        except Exception:  # noqa: BLE001 - its own pass will say so; whoever lists or watches goes on
            return seen
        return replace(seen, urgent=not calm, resource=None if gone else resource)

    @classmethod
    def listed(cls, body: Mapping[str, Any]) -> Sighting:
        return replace(cls.watched(body, gone=False), resource=None)


class Passes:
    """Only for the loop it was made in."""

    def __init__(self, *, repository: Repository, sync: TenantSync, gate: ClusterGate) -> None:
        self._repository = repository
        self._sync = sync
        self._gate = gate
        self._queue: KeyedQueue[str] = KeyedQueue(backoff=0.1, backoff_limit=60)
        self._seen: dict[str, dict[str, Sighting]] = {}
        """What no pass has looked into yet, by name and namespace."""
        self._left: dict[str, Done] = {}
        self._since: dict[str, float] = {}
        """When a status was first held back."""
        self._urgent: set[str] = set()
        self._database_up = True

    def saw(self, sighting: Sighting) -> None:
        """Look at it, unless that is how the last pass left it."""
        left = self._left.get(sighting.name)
        if left is not None and left.versions.get(sighting.namespace, "") == sighting.version:
            return
        self._seen.setdefault(sighting.name, {})[sighting.namespace] = sighting
        if sighting.urgent:
            self._urgent.add(sighting.name)
            self._queue.put(sighting.name)
        else:
            self._queue.put_later(sighting.name, seconds=SETTLE)

    def changed(self, names: Iterable[str]) -> None:
        """Their rows have changed."""
        for name in names:
            self._queue.put(name)

    def is_left(self, name: str, *, revision: int) -> bool:
        """Whether the last pass left the row at this revision."""
        left = self._left.get(name)
        return left is not None and left.revision == revision

    def forget(self, name: str) -> None:
        """It is over: there are ever more of these."""
        self._left.pop(name, None)

    def left_in(self, namespace: str, name: str) -> bool:
        """Whether the last pass left a resource there."""
        left = self._left.get(name)
        return left is not None and left.versions.get(namespace) is not None

    async def run(self) -> None:
        """Look at what has to be looked at; for ever."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._queue.work(self._look), name=f"pass {number}")

    async def _look(self, name: str) -> bool:
        """One key of the queue: errors end here, each with what it means."""
        await self._gate.passed()
        seen = self._seen.pop(name, {})
        urgent = name in self._urgent
        self._urgent.discard(name)
        try:
            with SECONDS.time():
                await self._pass(name, seen=seen, urgent=urgent)
        except KubernetesError as error:
            away = isinstance(error, Unavailable)
            if away or isinstance(error, NotFound | Rejected):
                self._gate.doubt()  # the API server? the namespace, or the whole kind?
            _log.warning("pass not finished", tenant=name, error=str(error), kind=type(error).__name__)
            result = "cluster" if away else "refused"
        except DatabaseUnavailable as error:
            self._database(up=False, why=str(error))
            result = "database"
        except Exception:  # noqa: BLE001 - a poisoned tenant must not stop the others
            _log.exception("cannot look at tenant", tenant=name)
            result = "error"
        else:
            self._database(up=True)
            result = "ok"
        PASSES.labels(result=result).inc()
        DEPTH.set(self._queue.depth)
        FAILING.set(self._queue.failing)
        if result == "ok":
            return True
        self._seen[name] = {**seen, **self._seen.get(name, {})}
        self._urgent.add(name)
        return False

    async def _pass(self, name: str, *, seen: Mapping[str, Sighting], urgent: bool) -> None:
        left = self._left.get(name)
        places = list(dict.fromkeys([*seen, *(left.versions if left else ())]))
        snapshot = await self._repository.load(name)
        tenant = snapshot.tenant
        revision = tenant.revision if tenant else None
        known = left is not None and all(left.versions.get(place, "") == each.version for place, each in seen.items())
        if left is not None and known and left.revision == revision and not left.held_back:
            return
        since = self._since.setdefault(name, time.monotonic())
        patient = time.monotonic() - since < PATIENCE
        if patient and not urgent and tenant is not None and moves(snapshot):
            self._seen[name] = {**seen, **self._seen.get(name, {})}
            self._queue.put_later(name, seconds=SETTLE)
            return
        shown = {place: each.resource for place, each in seen.items() if each.resource is not None}
        done = await self._sync.run(snapshot, namespaces=places, shown=shown, patient=patient)
        if done.held_back:
            self._queue.put_later(name, seconds=SETTLE)
        else:
            self._since.pop(name, None)
        if done.revision is None and not any(done.versions.values()):
            self._left.pop(name, None)
        else:
            self._left[name] = done

    def _database(self, *, up: bool, why: str = "") -> None:
        if up != self._database_up:
            self._database_up = up
            _log.log(20 if up else 30, "database available again" if up else "database unavailable", why=why)
