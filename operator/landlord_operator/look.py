"""One look at one resource of a tenant: what has to be done to it or to the row, until nothing has.

Row, resource and row again are read afresh, and only if the row stood still meanwhile is anything decided: so an edit
is never taken over a record it has not seen, and a status is never older than the resource it is written into. For the
status alone, which is a compare-and-set, what the watch has shown is read enough.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog

from landlord import mirror
from landlord.kubernetes import Conflict, Forbidden, KubernetesError, NotFound
from landlord.mirror import Owner, Resource
from landlord.tenants.commands import Bind, Edit, Remove
from landlord.tenants.model import DeletionPolicy, Snapshot, Stalled, Status, Tenant
from landlord_operator import conditions, status
from landlord_operator.conditions import Refusal
from landlord_operator.sides import Sides

ROUNDS = 12
"""Looks at one resource in one pass, after which the others have their turn."""
SETTLE = 0.4
"""Seconds for which the status of something that moves is held back: what is over by then needs no write."""

_MOVING = {Status.PLANNING, Status.PROVISIONING, Status.UPDATING, Status.DELETING}

_log = structlog.get_logger(__name__)


class Restless(KubernetesError):
    """Row or resource changed whenever we looked."""


class _Again:
    """Something was done, or somebody was faster: read again."""


AGAIN: Final = _Again()


def moves(snapshot: Snapshot) -> bool:
    """Whether the next change of the row is probably on its way."""
    tenant = snapshot.tenant
    if tenant is None or tenant.status not in _MOVING or tenant.stalled is not None:
        return False
    return snapshot.now - tenant.updated_at < timedelta(seconds=SETTLE)


class Look:
    """``snapshot`` is the row as it was read after the watch has shown ``shown``."""

    def __init__(
        self, *, sides: Sides, name: str, namespace: str, patient: bool, snapshot: Snapshot, shown: Resource | None
    ) -> None:
        self._sides = sides
        self._name = name
        self._namespace = namespace
        self._patient = patient
        self._shown = shown
        self.snapshot = snapshot
        """The row that was last decided on."""
        self.held_back = False
        self.version: str | None = None
        """The ``resourceVersion`` the resource was left with; null if it does not exist (any more)."""

    async def run(self) -> None:
        """Look until nothing is left to do. Raises :class:`Restless`.

        A write that is refused although nobody was faster is against the cluster's own rules (a policy, a webhook).
        That is raised, too, once the status tells it: what was true before must not be left standing there.
        """
        if self._shown is not None and await self._glance(self._shown):
            return
        refused: tuple[_Seen, KubernetesError] | None = None
        for _ in range(ROUNDS):
            before = await self._read()
            resource = await self._sides.get(self._namespace, self._name)
            if resource is None:
                return
            if _stood_still(before.tenant, (await self._read()).tenant):
                seen = _seen(self.snapshot, resource)
                if refused is not None and refused[0] == seen:
                    why = f"the cluster does not let us write this: {refused[1]}"
                    refusal = Refusal(reason=conditions.WRITE_REFUSED, message=why)
                    await self._tell_refusal(self.snapshot, resource, refusal)
                    raise refused[1]
                try:
                    left = await self._step(self.snapshot, resource)
                except (Conflict, Forbidden) as error:
                    refused = seen, error
                    continue
                except NotFound:
                    return
                if not isinstance(left, _Again):
                    self.version = left.resource_version if left else None
                    return
        raise Restless(f"{self._namespace}/{self._name} changed whenever it was looked at")

    async def _read(self) -> Snapshot:
        self.snapshot = await self._sides.load(self._name)
        return self.snapshot

    async def _glance(self, shown: Resource) -> bool:
        """Whether it was enough to go by what the watch has shown."""
        for _ in ("bind", "tell"):
            tenant = self.snapshot.tenant
            if tenant is None or not mirror.undisputed(tenant, shown):
                return False
            try:
                left = await self._living(self.snapshot, tenant, shown)
            except (Conflict, NotFound):
                return False
            if isinstance(left, Resource):
                self.version = left.resource_version
                return True
            await self._read()
        return False

    async def _step(self, snapshot: Snapshot, resource: Resource) -> Resource | _Again | None:
        """Whose it is comes first."""
        tenant = snapshot.tenant
        match mirror.owner(tenant, resource):
            case Owner.STRANGER:
                return await self._release(resource)
            case Owner.ORPHAN:
                return await self._orphan(resource)
            case Owner.TAKEN:
                taken = Refusal(
                    reason=conditions.NAME_TAKEN, message="a tenant of this name lives in another namespace"
                )
                return await self._refuse(snapshot, resource, taken)
            case Owner.LEFTOVER:
                await self._sides.delete(resource)
                return AGAIN
            case Owner.FREE if tenant is None or not tenant.living:
                return await self._ingest(snapshot, resource)
            case _:
                assert tenant is not None
                if resource.terminating:
                    return await self._terminating(snapshot, tenant, resource)
                if not tenant.living:
                    await self._sides.delete(resource)
                    return AGAIN
                return await self._living(snapshot, tenant, resource)

    async def _living(self, snapshot: Snapshot, tenant: Tenant, resource: Resource) -> Resource | _Again:
        if mirror.is_edit(tenant, resource):
            return await self._ingest(snapshot, resource)
        if mirror.must_bind(tenant, resource):
            bind = Bind(identity=resource.identity, recorded_generation=resource.recorded_generation)
            await self._sides.submit(tenant, resource, bind)
            return AGAIN
        behind = tenant.stalled is Stalled.RECORD_BEHIND
        if not behind and tenant.status is not Status.DELETING:
            operations = mirror.mirror_patch(tenant, resource)
            if operations is not None:
                await self._sides.patch(resource, operations)
                return AGAIN
        return await self._tell(snapshot, await self._hold(resource))

    async def _ingest(self, snapshot: Snapshot, resource: Resource) -> Resource | _Again:
        """A user's edit, through the one accept path; our finalizer is there before it commits."""
        tenant = snapshot.tenant
        edit = Edit(
            identity=resource.identity,
            compute_provider=resource.spec.get("computeProvider"),
            compute_config=dict(resource.spec.get("computeConfig") or {}),
            paused=bool(resource.spec.get("paused", False)),
            deletion_policy=DeletionPolicy(resource.spec.get("deletionPolicy", DeletionPolicy.DELETE)),
            recorded_generation=resource.recorded_generation,
        )
        refusal = self._sides.foresee(snapshot, self._sides.request(tenant, resource, edit))
        if refusal is not None:
            return await self._refuse(snapshot, resource, refusal)
        await self._sides.submit(tenant, await self._hold(resource), edit)
        return AGAIN

    async def _terminating(self, snapshot: Snapshot, tenant: Tenant, resource: Resource) -> Resource | _Again | None:
        """The row's resource was deleted: the tenant goes first, unless it is retained. Nothing is ingested."""
        if not tenant.living or tenant.detached:
            left = await self._release(resource)
            return await self._tell(snapshot, left) if left else None  # somebody else holds it: it may stay for long
        if tenant.status is Status.DELETING:
            return await self._tell(snapshot, resource)
        if await self._sides.kind_is_going():
            return await self._release(resource)
        await self._sides.submit(tenant, resource, _removal(resource))
        return AGAIN

    async def _orphan(self, resource: Resource) -> Resource | _Again | None:
        """The record was lost: what the resource stood for is deleted all the same, unless it is to be retained."""
        removal = _removal(resource)
        if await self._sides.kind_is_going():
            return await self._release(resource)
        if removal.retain:
            _log.warning("no record of a retained tenant: only its resource goes", tenant=resource.name)
            return await self._release(resource)
        await self._sides.submit(None, resource, removal)
        return AGAIN

    async def _hold(self, resource: Resource) -> Resource:
        """With our finalizer, which whoever replaces a resource may have left out: its deletion has to be seen."""
        return resource if resource.held else await self._sides.patch(resource, mirror.hold_patch(resource))

    async def _release(self, resource: Resource) -> Resource | None:
        if not resource.held:
            return resource
        left = await self._sides.patch(resource, mirror.release_patch(resource))
        return left if left.finalizers else None

    async def _tell(self, snapshot: Snapshot, resource: Resource) -> Resource:
        """The status. What moves is given a moment: often the next change is on its way."""
        if self._patient and moves(snapshot):
            self.held_back = True
            return resource
        return await self._sides.write_status(resource, status.of_record(snapshot, resource, refusal=None))

    async def _refuse(self, snapshot: Snapshot, resource: Resource, refusal: Refusal) -> Resource:
        """Nothing is remembered of a refusal: the spec is left alone, and the status says why."""
        if snapshot.tenant is not None and mirror.owner(snapshot.tenant, resource) is Owner.OURS:
            resource = await self._hold(resource)
        return await self._tell_refusal(snapshot, resource, refusal)

    async def _tell_refusal(self, snapshot: Snapshot, resource: Resource, refusal: Refusal) -> Resource:
        if snapshot.tenant is not None and mirror.owner(snapshot.tenant, resource) is Owner.OURS:
            wanted = status.of_record(snapshot, resource, refusal=refusal)
        else:
            wanted = status.of_refusal(resource, refusal=refusal, now=snapshot.now)
        return await self._sides.write_status(resource, wanted)


def _removal(resource: Resource) -> Remove:
    return Remove(
        identity=resource.identity,
        retain=resource.spec.get("deletionPolicy") == DeletionPolicy.RETAIN,
        compute_provider=resource.spec.get("computeProvider"),
        compute_config=dict(resource.spec.get("computeConfig") or {}),
        recorded_generation=resource.recorded_generation,
    )


def _stood_still(before: Tenant | None, after: Tenant | None) -> bool:
    """No client's change and no change of the binding while the resource was read."""
    if before is None or after is None:
        return before is after
    return _place(before) == _place(after)


_Seen = tuple[int | None, str]


def _seen(snapshot: Snapshot, resource: Resource) -> _Seen:
    """What a write is decided on."""
    return snapshot.tenant.revision if snapshot.tenant else None, resource.resource_version


def _place(tenant: Tenant) -> tuple[object, ...]:
    return (
        tenant.incarnation,
        tenant.version,
        tenant.generation,
        tenant.living,
        tenant.namespace,
        tenant.resource_uid,
        tenant.resource_generation,
        tenant.detached,
    )
