"""The parts of one operator process, put together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping

from landlord.database.listen import listen
from landlord.installation import Installation
from landlord.kubernetes import Forbidden, KubernetesError, TenantResources
from landlord.tenants.sql import CHANNEL
from landlord_operator.events import Recorder
from landlord_operator.gate import ClusterGate
from landlord_operator.passes import Passes
from landlord_operator.resync import Resync
from landlord_operator.sides import Sides
from landlord_operator.sync import TenantSync
from landlord_operator.watch import Watch

NESTING = 12_000
"""Calls within calls: a resource may hold 10,000 levels, and one that cannot be decoded would hide all others."""

Check = Callable[[], Awaitable[str | None]]


class Operator:
    """Keeps records, resources and the engine's word in agreement while :meth:`run` runs."""

    def __init__(self, *, installation: Installation, resources: TenantResources) -> None:
        settings = installation.settings
        self._database = installation.database
        self._reconciler = installation.reconciler()
        self._resources = resources
        self._gate = ClusterGate(resources, installation=settings.installation, returned=self._returned)
        self._recorder = Recorder(resources)
        sides = Sides(
            repository=installation.repository,
            service=installation.service,
            resources=resources,
            recorder=self._recorder,
        )
        self._passes = Passes(
            repository=installation.repository,
            sync=TenantSync(sides=sides, namespace=settings.kubernetes_namespace),
            gate=self._gate,
        )
        self._resync = Resync(
            repository=installation.repository,
            resources=resources,
            passes=self._passes,
            gate=self._gate,
            interval=settings.kubernetes_resync,
        )
        self._watch = Watch(saw=self._passes.saw, gate=self._gate, context=settings.kubernetes_context)

    @property
    def checks(self) -> Mapping[str, Check]:
        """Readiness of the Kubernetes side."""
        return {
            "cluster": self._gate.fault,
            "watch": self._watch.fault,
            "resync": self._resync.fault,
            "definition": self._definition_fault,
        }

    async def _definition_fault(self) -> str | None:
        """Whether it would be noticed that the definition, and not a tenant, is being deleted."""
        try:
            await self._resources.kind_is_going()
        except Forbidden:
            return (
                "our account may not get customresourcedefinitions/tenants.landlord.dev: should somebody delete that,"
                " every tenant would be deleted"
            )
        except KubernetesError:  # `cluster` tells
            return None
        return None

    async def run(self) -> None:
        """Do all of it for ever. Raises :class:`~landlord_operator.watch.WatchStuck`."""
        sys.setrecursionlimit(NESTING)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reconciler.run(), name="reconciler")
            group.create_task(self._gate.run(), name="cluster gate")
            group.create_task(self._passes.run(), name="passes")
            group.create_task(self._recorder.run(), name="events")
            group.create_task(self._resync.run(), name="resync")
            group.create_task(self._watch.run(), name="watch")
            group.create_task(self._listen(), name="listen")

    async def _listen(self) -> None:
        """Rows that have changed; after a break in the line, all of them."""
        async for payload in listen(self._database.conninfo, channel=CHANNEL):
            if payload:
                self._passes.changed(payload.split(","))
            else:
                self._resync.soon()

    async def _returned(self) -> None:
        """The API server is back: what it and its watch did meanwhile is not known."""
        self._watch.renew()
        self._resync.soon()
