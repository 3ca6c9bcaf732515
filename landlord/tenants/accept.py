"""Deciding on a request: a row and a command in, a change or a refusal out. Pure.

Every door comes through :func:`accept`: REST, ``kubectl apply``, deletion of a resource. What it returns is committed
in one statement; only then is the engine asked for anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from landlord import canonical
from landlord.merge_patch import merge_patch
from landlord.tenants import metadata
from landlord.tenants.acceptance import Acceptance, Validation
from landlord.tenants.commands import Bind, Create, Delete, Edit, Patch, Remove, Replace, Request, Retry
from landlord.tenants.desired import DesiredState
from landlord.tenants.errors import Conflict, Exists, Fault, Invalid
from landlord.tenants.ingest import Ingest
from landlord.tenants.lifecycle import Event, InvalidTransition, transition
from landlord.tenants.model import DeletionPolicy, Snapshot, Stalled, Status, Tenant
from landlord.tenants.runs import Policy


def accept(snapshot: Snapshot, request: Request, *, policy: Policy, validation: Validation) -> Acceptance:
    """Decide on one request. Raises a :class:`~landlord.tenants.errors.Refusal`."""
    door = Ingest if isinstance(request.command, Edit | Remove | Bind) else Rest
    try:
        return door(snapshot=snapshot, request=request, policy=policy, validation=validation).accept()
    except InvalidTransition as refused:
        raise Conflict(str(refused)) from None


class Rest(DesiredState, frozen=True):
    """The commands of HTTP."""

    def accept(self) -> Acceptance:
        match self.request.command:
            case Create() as command:
                return self._create(command)
            case Replace() as command:
                return self._replace(command, tenant=self.living())
            case Patch() as command:
                return self._patch(command, tenant=self.living())
            case Delete():
                return self._delete(tenant=self.living())
            case Retry() as command:
                return self._retry(command, tenant=self.living())
            case command:
                raise TypeError(f"{type(command).__name__} is no command of HTTP")

    def _create(self, command: Create) -> Acceptance:
        tenant = self.snapshot.tenant
        if tenant is not None and tenant.living:
            return self._create_again(command, tenant=tenant)
        return self.new_life(command, identity=None, generation=0)

    def _create_again(self, command: Create, *, tenant: Tenant) -> Acceptance:
        """A POST of a living id is refused, unless it repeats one that was answered 500."""
        if not tenant.unanswered:
            raise Exists(f"tenant {tenant.id} exists already")
        same = command.compute_provider in (None, tenant.compute_provider) and canonical.equal(
            command.compute_config, tenant.compute_config
        )
        answered = replace(tenant, unanswered=False)
        behind = tenant.stalled is Stalled.RECORD_BEHIND
        if tenant.status is Status.FAILED:
            self._check_unpaused(tenant)
            self.check_config(tenant.compute_provider, command.compute_config)
            corrected = replace(answered, compute_config=command.compute_config)
            return self.respec(corrected, event=self.retry_event(tenant), bump=behind or not same)
        if not same:
            raise Exists(f"tenant {tenant.id} exists already, with another spec")
        if self.repeats(tenant):
            return self.joined(tenant, repeat=True)
        if behind:
            return self.respec(answered, event=self.retry_event(tenant), bump=True)
        return self.to_commit(answered, event="answered", started=True, accepted=False)

    def _replace(self, command: Replace, *, tenant: Tenant) -> Acceptance:
        deleting = tenant.status is Status.DELETING  # what would be repeated is the delete
        if not deleting and self.repeats(tenant) and canonical.equal(command.compute_config, tenant.compute_config):
            changed = self._with(tenant, command)
            if changed == tenant:
                return self.joined(tenant, repeat=True)
        self.check_version(tenant)
        if command.compute_provider not in (None, tenant.compute_provider):
            raise Invalid(
                "compute_provider cannot change",
                faults=[Fault(pointer="/compute_provider", message=f"must stay {tenant.compute_provider!r}")],
            )
        transition(tenant.status, Event.CHANGE_SPEC)
        self.check_config(tenant.compute_provider, command.compute_config)
        changed = replace(self._with(tenant, command), compute_config=command.compute_config)
        return self.respec(changed, event=Event.CHANGE_SPEC, bump=True)

    @staticmethod
    def _with(tenant: Tenant, command: Replace) -> Tenant:
        return replace(
            tenant,
            labels=tenant.labels if command.labels is None else command.labels,
            annotations=tenant.annotations if command.annotations is None else command.annotations,
            paused=tenant.paused if command.paused is None else command.paused,
            deletion_policy=command.deletion_policy or tenant.deletion_policy,
        )

    def _patch(self, command: Patch, *, tenant: Tenant) -> Acceptance:
        merge = command.merge
        current = {
            "compute_config": tenant.compute_config,
            "labels": tenant.labels,
            "annotations": tenant.annotations,
        }
        merged = {name: merge_patch(current[name], merge[name]) for name in current if name in merge}
        for name in ("labels", "annotations"):
            if merged.get(name, {}) is None:  # taken away: there are none
                merged[name] = {}
        if faults := [
            Fault(pointer=f"/{name}", message="must be an object")
            for name in merged
            if not isinstance(merged[name], dict)
        ]:
            raise Invalid("the patch is not valid", faults=faults)
        policy = merge.get("deletion_policy", tenant.deletion_policy)
        full = Replace(
            compute_provider=merge.get("compute_provider"),
            compute_config=merged.get("compute_config", tenant.compute_config),
            labels=merged.get("labels"),
            annotations=merged.get("annotations"),
            paused=bool(merge.get("paused", tenant.paused)),
            deletion_policy=DeletionPolicy(policy) if policy is not None else DeletionPolicy.DELETE,
        )
        self._check_metadata(merged)
        if "compute_config" in merged:
            return self._replace(full, tenant=tenant)
        self.check_version(tenant)
        if full.compute_provider not in (None, tenant.compute_provider):
            raise Invalid(
                "compute_provider cannot change",
                faults=[Fault(pointer="/compute_provider", message=f"must stay {tenant.compute_provider!r}")],
            )
        changed = self._with(tenant, full)
        if tenant.status is not Status.FAILED or (tenant.paused, changed.paused) != (True, False):
            # But what has failed while it was paused is unpaused, or no retry could ever help it.
            transition(tenant.status, Event.CHANGE_SPEC)
        return self.metadata(changed, tenant=tenant)

    @staticmethod
    def _check_metadata(merged: Mapping[str, Any]) -> None:
        """What a patch makes of them is not larger than what a request could have sent."""
        found = {
            "/labels": metadata.labels_fault(merged.get("labels", {})),
            "/annotations": metadata.annotations_fault(merged.get("annotations", {})),
        }
        if faults := [Fault(pointer=pointer, message=why) for pointer, why in found.items() if why is not None]:
            raise Invalid("the patch is not valid", faults=faults)

    @staticmethod
    def _check_unpaused(tenant: Tenant) -> None:
        """What has failed is retried only where something would run."""
        if tenant.paused:
            raise Conflict(f"tenant {tenant.id} is paused: nothing is retried until it is unpaused")

    def _delete(self, *, tenant: Tenant) -> Acceptance:
        if tenant.status is Status.DELETING:
            if self.repeats(tenant):
                return self.joined(tenant, repeat=True)
            self.check_version(tenant)
            return self.joined(tenant, repeat=False)
        self.check_version(tenant)
        return self.begin_delete(tenant)

    def _retry(self, command: Retry, *, tenant: Tenant) -> Acceptance:
        if self.repeats(tenant) and command.compute_config is None:
            return self.joined(tenant, repeat=True)
        self.check_version(tenant)
        failed_trigger = self.repeats(tenant)
        if tenant.status is not Status.FAILED and tenant.stalled is None and not failed_trigger:
            retried = "only what failed, is stalled or could not be started is retried"
            raise Conflict(f"tenant {tenant.id} is {tenant.status}; {retried}")
        if tenant.status is Status.FAILED:
            self._check_unpaused(tenant)
        if tenant.status is Status.DELETING and command.compute_config is not None:
            raise Conflict(f"tenant {tenant.id} is being deleted: its compute_config cannot change")
        config = tenant.compute_config if command.compute_config is None else command.compute_config
        if tenant.status is not Status.DELETING:
            self.check_config(tenant.compute_provider, config)
        behind = tenant.stalled is Stalled.RECORD_BEHIND
        return self.respec(
            replace(tenant, compute_config=config),
            event=self.retry_event(tenant),
            bump=behind or command.compute_config is not None,
        )
