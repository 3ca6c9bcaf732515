"""One level-triggered pass over one tenant: its row, and every ``Tenant`` resource of its name.

Row, resource and row again are read afresh, and only if the row stood still meanwhile is anything decided: so an edit
is never taken over a record it has not seen, and a status is never older than the resource it is written into. Every
write is a compare-and-set; one that comes too late is refused, and everything is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from landlord import mirror
from landlord.kubernetes import Conflict, Forbidden, KubernetesError, NotFound, TenantResources
from landlord.mirror import Owner, Resource
from landlord.tenants import errors
from landlord.tenants.commands import Bind, Command, Edit, Remove, Request
from landlord.tenants.errors import Invalid, TriggerFailed
from landlord.tenants.model import DeletionPolicy, Door, Snapshot, Stalled, Status, Tenant
from landlord.tenants.repository import Repository
from landlord.tenants.service import TenantService
from landlord_operator import conditions, status
from landlord_operator.conditions import Refusal
from landlord_operator.events import Recorder

ROUNDS = 12
"""Looks at one resource in one pass, after which the others have their turn."""
SETTLE = 0.4
"""Seconds for which the status of something that moves is held back: what is over by then needs no write."""

UNSETTLED = -1

_MOVING = {Status.PLANNING, Status.PROVISIONING, Status.UPDATING, Status.DELETING}

_log = structlog.get_logger(__name__)


class Restless(KubernetesError):
    """Row or resource changed whenever we looked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How far a pass came."""

    revision: int | None
    """Of the row as it was last decided on; null where there is none, :data:`UNSETTLED` where several were."""
    versions: dict[str, str | None]
    """Namespace to the ``resourceVersion`` it left there; null where there is no resource."""
    held_back: bool
    """A status was held back: look again in :data:`SETTLE` seconds."""


class _Again:
    """Something was done, or somebody was faster: read again."""


AGAIN: Final = _Again()


class TenantSync:
    """Does the passes. Raises ``DatabaseUnavailable`` and :class:`KubernetesError`; the next one goes on from there."""

    def __init__(
        self, *, repository: Repository, service: TenantService, resources: TenantResources, namespace: str
    ) -> None:
        self._repository = repository
        self._service = service
        self._resources = resources
        self._recorder = Recorder(resources)
        self._namespace = namespace

    async def run(self, name: str, *, namespaces: Sequence[str], patient: bool) -> Done:
        """Bring row and resources together. ``namespaces``: where resources of that name have been seen.

        ``patient``: the status of what moves may be held back.
        """
        snapshot = await self._repository.load(name)
        places = await self._places(snapshot, namespaces)
        looks: dict[str, _Look] = {}
        for place in places:
            looks[place] = _Look(sync=self, name=name, namespace=place, patient=patient)
            await looks[place].run()
        if looks:
            snapshot = await self._repository.load(name)
        tenant = snapshot.tenant
        if tenant is not None and mirror.wanted(tenant):
            home = self._home(tenant)
            if home not in looks or looks[home].version is None:
                await self._create(tenant, namespace=home)
                looks[home] = _Look(sync=self, name=name, namespace=home, patient=patient)
                await looks[home].run()
        revisions = {look.revision for look in looks.values()} or {_revision(snapshot)}
        return Done(
            revision=revisions.pop() if len(revisions) == 1 else UNSETTLED,
            versions={place: look.version for place, look in looks.items()},
            held_back=any(look.held_back for look in looks.values()),
        )

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
        found = {place: await self.get(place, snapshot.id) for place in places}
        ours = [place for place, each in found.items() if each and each.incarnation == tenant.incarnation]
        return list(dict.fromkeys([*ours, *places]))

    async def _create(self, tenant: Tenant, *, namespace: str) -> None:
        """The mirror is missing: absence never means deletion."""
        try:
            body = await self._resources.create(namespace, mirror.new_resource(tenant, namespace=namespace))
        except Conflict:
            return  # the API was faster
        _log.info("resource made", tenant=tenant.id, namespace=namespace, generation=tenant.generation)
        made = Resource.parse(body)
        await self.submit(tenant, made, Bind(identity=made.identity, recorded_generation=made.recorded_generation))

    @staticmethod
    def moves(snapshot: Snapshot) -> bool:
        """Whether the next change of the row is probably on its way."""
        tenant = snapshot.tenant
        if tenant is None or tenant.status not in _MOVING or tenant.stalled is not None:
            return False
        return snapshot.now - tenant.updated_at < timedelta(seconds=SETTLE)

    async def load(self, name: str) -> Snapshot:
        return await self._repository.load(name)

    async def get(self, namespace: str, name: str) -> Resource | None:
        try:
            return Resource.parse(await self._resources.get(namespace, name))
        except NotFound:
            return None

    def request(self, tenant: Tenant | None, resource: Resource, command: Command) -> Request:
        """On the row as it was seen, and on no other."""
        return Request(
            tenant_id=resource.name,
            command=command,
            who=f"{resource.namespace}/{resource.name}",
            door=Door.KUBERNETES,
            if_match=tenant.version if tenant else 0,
        )

    def foresee(self, snapshot: Snapshot, request: Request) -> Refusal | None:
        """Why the record would not take it: a pure function of row and spec."""
        try:
            self._service.foresee(snapshot, request)
        except Invalid as error:
            return Refusal(reason=conditions.INVALID_SPEC, message=_explained(error))
        except errors.Refusal as error:
            deleting = snapshot.tenant is not None and snapshot.tenant.status is Status.DELETING
            return Refusal(reason=conditions.DELETING if deleting else conditions.INVALID_SPEC, message=str(error))
        return None

    async def submit(self, tenant: Tenant | None, resource: Resource, command: Command) -> None:
        """Through the one accept path. Whatever comes of it is in the row, or will be seen in the next look at it."""
        try:
            await self._service.submit(self.request(tenant, resource, command))
        except TriggerFailed as error:
            _log.warning("trigger failed", tenant=resource.name, error=str(error))
        except errors.Refusal as error:
            _log.info("row moved on", tenant=resource.name, command=type(command).__name__, reason=str(error))

    async def patch(self, resource: Resource, operations: list[dict[str, object]]) -> Resource:
        return Resource.parse(await self._resources.patch(resource.namespace, resource.name, operations))

    async def kind_is_going(self) -> bool:
        """The whole kind is being deleted: that is a loss of resources, nobody's wish to delete a tenant.

        Not believed where our account may not know, about which ``definition`` in ``/readyz`` warns.
        """
        try:
            going = await self._resources.kind_is_going()
        except Forbidden:
            return False
        if going:
            _log.error("the definition of Tenant resources is being deleted: resources go, tenants stay")
        return going

    async def delete(self, resource: Resource) -> None:
        await self._resources.delete(resource.namespace, resource.name, uid=resource.uid)

    async def write_status(self, resource: Resource, wanted: status.Status) -> Resource:
        """Only if something changed; with the Events of what did."""
        body = status.patch(resource, wanted)
        if body is None:
            return resource
        written = Resource.parse(await self._resources.patch_status(resource.namespace, resource.name, body))
        await self._recorder.tell(resource, before=resource.status, after=written.status)
        return written


class _Look:
    """Looks at one resource until there is nothing left to do to it."""

    def __init__(self, *, sync: TenantSync, name: str, namespace: str, patient: bool) -> None:
        self._sync = sync
        self._name = name
        self._namespace = namespace
        self._patient = patient
        self.held_back = False
        self.version: str | None = None
        """The ``resourceVersion`` it was left with; null if it does not exist (any more)."""
        self.revision: int | None = None
        """Of the row that was last decided on."""

    async def run(self) -> None:
        for _ in range(ROUNDS):
            before = await self._sync.load(self._name)
            self.revision = _revision(before)
            resource = await self._sync.get(self._namespace, self._name)
            if resource is None:
                return
            snapshot = await self._sync.load(self._name)
            self.revision = _revision(snapshot)
            if _stood_still(before.tenant, snapshot.tenant):
                try:
                    left = await self._step(snapshot, resource)
                except Conflict:
                    continue
                except NotFound:
                    return
                if not isinstance(left, _Again):
                    self.version = left.resource_version if left else None
                    return
        raise Restless(f"{self._namespace}/{self._name} changed whenever it was looked at")

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
                await self._sync.delete(resource)
                return AGAIN
            case Owner.FREE if tenant is None or not tenant.living:
                return await self._ingest(snapshot, resource)
            case _:
                assert tenant is not None
                if resource.terminating:
                    return await self._terminating(snapshot, tenant, resource)
                if not tenant.living:
                    await self._sync.delete(resource)
                    return AGAIN
                return await self._living(snapshot, tenant, resource)

    async def _living(self, snapshot: Snapshot, tenant: Tenant, resource: Resource) -> Resource | _Again:
        if mirror.is_edit(tenant, resource):
            return await self._ingest(snapshot, resource)
        if mirror.must_bind(tenant, resource):
            bind = Bind(identity=resource.identity, recorded_generation=resource.recorded_generation)
            await self._sync.submit(tenant, resource, bind)
            return AGAIN
        behind = tenant.stalled is Stalled.RECORD_BEHIND
        if not behind and tenant.status is not Status.DELETING:
            operations = mirror.mirror_patch(tenant, resource)
            if operations is not None:
                await self._sync.patch(resource, operations)
                return AGAIN
        return await self._tell(snapshot, resource)

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
        refusal = self._sync.foresee(snapshot, self._sync.request(tenant, resource, edit))
        if refusal is not None:
            return await self._refuse(snapshot, resource, refusal)
        if not resource.held:
            resource = await self._sync.patch(resource, mirror.hold_patch(resource))
        await self._sync.submit(tenant, resource, edit)
        return AGAIN

    async def _terminating(self, snapshot: Snapshot, tenant: Tenant, resource: Resource) -> Resource | _Again | None:
        """The row's resource was deleted: the tenant goes first, unless it is retained. Nothing is ingested."""
        if not tenant.living or tenant.detached:
            return await self._release(resource)
        if tenant.status is Status.DELETING:
            return await self._tell(snapshot, resource)
        if await self._sync.kind_is_going():
            return await self._release(resource)
        await self._sync.submit(tenant, resource, _removal(resource))
        return AGAIN

    async def _orphan(self, resource: Resource) -> Resource | _Again | None:
        """The record was lost: what the resource stood for is deleted all the same, unless it is to be retained."""
        removal = _removal(resource)
        if await self._sync.kind_is_going():
            return await self._release(resource)
        if removal.retain:
            _log.warning("no record of a retained tenant: only its resource goes", tenant=resource.name)
            return await self._release(resource)
        await self._sync.submit(None, resource, removal)
        return AGAIN

    async def _release(self, resource: Resource) -> Resource | None:
        if not resource.held:
            return resource
        left = await self._sync.patch(resource, mirror.release_patch(resource))
        return left if left.finalizers else None

    async def _tell(self, snapshot: Snapshot, resource: Resource) -> Resource:
        """The status. What moves is given a moment: often the next change is on its way."""
        if self._patient and self._sync.moves(snapshot):
            self.held_back = True
            return resource
        return await self._sync.write_status(resource, status.of_record(snapshot, resource, refusal=None))

    async def _refuse(self, snapshot: Snapshot, resource: Resource, refusal: Refusal) -> Resource:
        """Nothing is remembered of a refusal: the resource is left alone, and its status says why."""
        tenant = snapshot.tenant
        if tenant is not None and mirror.owner(tenant, resource) is Owner.OURS:
            wanted = status.of_record(snapshot, resource, refusal=refusal)
        else:
            wanted = status.of_refusal(resource, refusal=refusal, now=snapshot.now)
        return await self._sync.write_status(resource, wanted)


def _revision(snapshot: Snapshot) -> int | None:
    return snapshot.tenant.revision if snapshot.tenant else None


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


def _explained(error: Invalid) -> str:
    faults = [f"{_field(fault.pointer)} {fault.message}" for fault in error.faults]
    return "; ".join(faults) or str(error)


def _field(pointer: str) -> str:
    """In the words of the resource."""
    return "spec" + pointer.replace("/compute_config", "/computeConfig", 1).replace(
        "/compute_provider", "/computeProvider", 1
    ).replace("/", ".")
