"""The Kubernetes door: what is read from a ``Tenant`` resource, as a change of the record. Pure.

The identity of the resource (uid and generation) is part of each change: so an edit is taken once, however many
operators read it and wherever one of them is killed.
"""

from __future__ import annotations

import uuid

from msgspec.structs import replace

from landlord import canonical
from landlord.tenants.acceptance import Acceptance, bound_to
from landlord.tenants.commands import Bind, Create, Edit, Remove, ResourceIdentity
from landlord.tenants.desired import DesiredState
from landlord.tenants.errors import Conflict, Fault, Invalid
from landlord.tenants.lifecycle import Event
from landlord.tenants.model import DeletionPolicy, Stalled, Status, Tenant


class Ingest(DesiredState, frozen=True):
    """The commands of the operator."""

    def accept(self) -> Acceptance:
        match self.request.command:
            case Edit() as command:
                return self._edit(command)
            case Remove() as command:
                return self._remove(command)
            case Bind() as command:
                return self._bind(command, tenant=self.living())
            case command:
                raise TypeError(f"{type(command).__name__} is no command of the operator")

    def _edit(self, command: Edit) -> Acceptance:
        tenant = self.snapshot.tenant
        if tenant is not None:
            if tenant.living and _names(tenant, command.identity):
                return Acceptance(change=None)  # another operator has taken it
            self.check_version(tenant)
        if tenant is None or not tenant.living:
            create = Create(
                compute_provider=command.compute_provider,
                compute_config=command.compute_config,
                paused=command.paused,
                deletion_policy=command.deletion_policy,
            )
            return self.new_life(create, identity=command.identity, generation=command.recorded_generation)
        if command.compute_provider not in (None, tenant.compute_provider):
            raise Invalid(
                "computeProvider cannot change",
                faults=[Fault(pointer="/computeProvider", message=f"must stay {tenant.compute_provider!r}")],
            )
        if tenant.status is Status.DELETING:
            raise Conflict(f"tenant {tenant.id} is being deleted")
        changed = replace(
            bound_to(tenant, command.identity), paused=command.paused, deletion_policy=command.deletion_policy
        )
        ahead = command.recorded_generation > tenant.generation
        if ahead:
            changed = replace(changed, generation=command.recorded_generation)
        behind = ahead or tenant.stalled is Stalled.RECORD_BEHIND
        if canonical.equal(command.compute_config, tenant.compute_config) and not behind:
            if (changed.paused, changed.deletion_policy) == (tenant.paused, tenant.deletion_policy):
                return self.observe(changed)
            return self.metadata(changed, tenant=tenant)
        self.check_config(tenant.compute_provider, command.compute_config)
        event = self.retry_event(tenant) if tenant.status is Status.FAILED else Event.CHANGE_SPEC
        return self.respec(replace(changed, compute_config=command.compute_config), event=event, bump=True)

    def _remove(self, command: Remove) -> Acceptance:
        tenant = self.snapshot.tenant
        if tenant is None:
            return self._delete_unknown(command)
        if not tenant.living or tenant.status is Status.DELETING:
            return Acceptance(change=None, started=True)
        self.check_version(tenant)
        if command.retain or tenant.deletion_policy is DeletionPolicy.RETAIN:
            detached = replace(tenant, detached=True, resource_uid=None, resource_generation=None)
            return self.to_commit(detached, event="detached", started=False)
        # A restored record may be behind what it made.
        newest = max(tenant.generation, command.recorded_generation)
        return self.begin_delete(replace(bound_to(tenant, command.identity), generation=newest))

    def _delete_unknown(self, command: Remove) -> Acceptance:
        """A resource of ours is terminating and the record is lost: what it stood for is deleted all the same.

        That takes no configuration, and the resource may have one that never was accepted, and that no row can hold.
        """
        remains = self.snapshot.remains
        provider = canonical.storable(command.compute_provider or self.validation.default_provider)
        refused = self.validation.faults(provider, command.compute_config)
        tenant = Tenant(
            id=self.request.tenant_id,
            incarnation=str(uuid.uuid4()),
            status=Status.DELETING,
            compute_provider=provider,
            compute_config={} if refused else command.compute_config,
            generation=max(remains.generation, command.recorded_generation) + 1,
            version=remains.version,
            counters=dict(remains.counters),
            created_at=self.snapshot.now,
            updated_at=self.snapshot.now,
        )
        tenant, run = self.run(bound_to(tenant, command.identity), send=True)
        return self.to_commit(tenant, event=Event.DELETE, added=run, started=True)

    def _bind(self, command: Bind, *, tenant: Tenant) -> Acceptance:
        self.check_version(tenant)
        bound = bound_to(tenant, command.identity)
        if command.recorded_generation > tenant.generation:
            bound = replace(
                bound,
                generation=command.recorded_generation,
                stalled=Stalled.RECORD_BEHIND,
                status_message=f"generation {command.recorded_generation} has been seen: was the database restored?",
            )
        if bound == tenant:
            return Acceptance(change=None)
        return self.observe(bound)


def _names(tenant: Tenant, identity: ResourceIdentity) -> bool:
    """The row has taken this very generation of this very resource."""
    return (tenant.resource_uid, tenant.resource_generation) == (identity.uid, identity.generation)
