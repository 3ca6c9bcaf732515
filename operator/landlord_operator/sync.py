"""One level-triggered pass over one tenant: its row, and every ``Tenant`` resource of its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from landlord import mirror
from landlord.kubernetes import Conflict, KubernetesError
from landlord.mirror import Resource
from landlord.tenants.model import Snapshot, Tenant
from landlord_operator.look import Look
from landlord_operator.sides import Sides

UNSETTLED = -1

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How far a pass came."""

    revision: int | None
    """Of the row as it was last decided on; null where there is none, :data:`UNSETTLED` where several were."""
    versions: dict[str, str | None]
    """Namespace to the ``resourceVersion`` it left there; null where there is no resource."""
    held_back: bool
    """A status was held back: look again in a moment."""


class TenantSync:
    """Does the passes. Raises ``DatabaseUnavailable`` and ``KubernetesError``; the next one goes on from there."""

    def __init__(self, *, sides: Sides, namespace: str) -> None:
        self._sides = sides
        self._namespace = namespace

    async def run(
        self, snapshot: Snapshot, *, namespaces: Sequence[str], shown: Mapping[str, Resource], patient: bool
    ) -> Done:
        """Bring row and resources together.

        ``snapshot`` is the row, read after the watch has ``shown`` these resources; ``namespaces`` are where resources
        of that name have been seen. ``patient``: the status of what moves may be held back.

        A look that fails keeps none of the others from being made: a name may be used in anybody's namespace.
        """
        places = await self._places(snapshot, namespaces)
        looks: dict[str, Look] = {}
        failed: dict[str, KubernetesError] = {}
        for place in places:
            try:
                looks[place] = await self._look(place, snapshot=snapshot, shown=shown.get(place), patient=patient)
            except KubernetesError as error:
                failed[place] = error
            else:
                snapshot = looks[place].snapshot
        if snapshot.tenant is not None and self._home(snapshot.tenant) not in {*_found(looks), *failed}:
            snapshot = await self._sides.load(snapshot.id)
            if snapshot.tenant is not None and mirror.wanted(snapshot.tenant):
                home = self._home(snapshot.tenant)
                made = await self._create(snapshot.tenant, namespace=home)
                looks[home] = await self._look(home, snapshot=snapshot, shown=made, patient=patient)
        if failed:
            raise next(iter(failed.values()))
        revisions = {_revision(look.snapshot) for look in looks.values()} or {_revision(snapshot)}
        return Done(
            revision=revisions.pop() if len(revisions) == 1 else UNSETTLED,
            versions={place: look.version for place, look in looks.items()},
            held_back=any(look.held_back for look in looks.values()),
        )

    async def _look(self, place: str, *, snapshot: Snapshot, shown: Resource | None, patient: bool) -> Look:
        look = Look(
            sides=self._sides, name=snapshot.id, namespace=place, patient=patient, snapshot=snapshot, shown=shown
        )
        await look.run()
        return look

    def _home(self, tenant: Tenant) -> str:
        return tenant.namespace or self._namespace

    async def _places(self, snapshot: Snapshot, namespaces: Sequence[str]) -> list[str]:
        """Where to look: the row's own place first; before it has one, where its own mirror is."""
        tenant = snapshot.tenant
        places = list(dict.fromkeys(namespaces))
        if tenant is None:
            return places
        if tenant.namespace is not None:
            return list(dict.fromkeys([tenant.namespace, *places]))
        if self._namespace not in places:
            places.append(self._namespace)
        if len(places) == 1:
            return places
        found = {place: await self._sides.get(place, snapshot.id) for place in places}
        ours = [place for place, each in found.items() if each and each.incarnation == tenant.incarnation]
        return list(dict.fromkeys([*ours, *places]))

    async def _create(self, tenant: Tenant, *, namespace: str) -> Resource | None:
        """The mirror is missing: absence never means deletion."""
        try:
            made = await self._sides.create(namespace, mirror.new_resource(tenant, namespace=namespace))
        except Conflict:
            return None  # the API was faster
        _log.info("resource made", tenant=tenant.id, namespace=namespace, generation=tenant.generation)
        return made


def _found(looks: Mapping[str, Look]) -> set[str]:
    return {place for place, look in looks.items() if look.version is not None}


def _revision(snapshot: Snapshot) -> int | None:
    return snapshot.tenant.revision if snapshot.tenant else None
