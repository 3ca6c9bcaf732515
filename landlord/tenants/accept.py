"""Deciding on a request: a row and a command in, a change or a refusal out. Pure.

Every door comes through :func:`accept`: REST, ``kubectl apply``, deletion of a resource. What it returns is committed
in one statement; only then is the engine asked for anything.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from landlord import canonical
from landlord.tenants import runs
from landlord.tenants.commands import (
    Bind,
    Create,
    Delete,
    Edit,
    Patch,
    Remove,
    Replace,
    Request,
    ResourceIdentity,
    Retry,
)
from landlord.tenants.decide import next_check
from landlord.tenants.errors import (
    Conflict,
    Exists,
    Fault,
    Gone,
    Invalid,
    NotFound,
    PreconditionFailed,
)
from landlord.tenants.lifecycle import ACTIONS, RETRY, Event, InvalidTransition, transition
from landlord.tenants.model import (
    Audit,
    Change,
    DeletionPolicy,
    Execution,
    Snapshot,
    Stalled,
    Status,
    Tenant,
)
from landlord.tenants.runs import Policy
from landlord.workflow.provider import InvalidRequest, WorkflowRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The pure checks of this installation's providers."""

    default_provider: str
    faults: Callable[[str, Mapping[str, Any]], Sequence[Fault]]
    """Everything wrong with a configuration for that compute provider (which may be unknown)."""
    check: Callable[[WorkflowRequest], None]
    """The workflow provider's own check; raises ``InvalidRequest``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What is to be committed, and what the answer rests on."""

    change: Change | None
    """Null for a repeat: nothing new is stored, the head is triggered again."""
    started: bool = False
    """A run was started or is under way for this request (202 rather than 200)."""
    repeat: bool = False


def accept(snapshot: Snapshot, request: Request, *, policy: Policy, validation: Validation) -> Acceptance:
    """Decide on one request. Raises a :class:`~landlord.tenants.errors.Refusal`."""
    acceptor = _Acceptor(snapshot=snapshot, request=request, policy=policy, validation=validation)
    try:
        return acceptor.accept()
    except InvalidTransition as refused:
        if refused.status is Status.DELETED:
            raise Gone(f"tenant {request.tenant_id} is deleted") from None
        raise Conflict(str(refused)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Acceptor:
    """One request against one snapshot; only methods, no state."""

    snapshot: Snapshot
    request: Request
    policy: Policy
    validation: Validation

    def accept(self) -> Acceptance:
        command = self.request.command
        match command:
            case Create():
                return self._create(command)
            case Replace():
                return self._replace(command, tenant=self._living())
            case Patch():
                return self._patch(command, tenant=self._living())
            case Delete():
                return self._delete(tenant=self._living())
            case Retry():
                return self._retry(command, tenant=self._living())
            case Edit():
                return self._edit(command)
            case Remove():
                return self._remove(command)
            case Bind():
                return self._bind(command, tenant=self._living())

    # What a request needs before it can be looked at

    def _living(self) -> Tenant:
        tenant = self.snapshot.tenant
        if tenant is None:
            raise NotFound(f"tenant {self.request.tenant_id} does not exist")
        if not tenant.living:
            raise Gone(f"tenant {self.request.tenant_id} is deleted")
        return tenant

    def _match(self, tenant: Tenant) -> None:
        expected = self.request.if_match
        if expected is not None and expected != tenant.version:
            raise PreconditionFailed(f"If-Match names version {expected}, the tenant is at version {tenant.version}")

    def _check_config(self, provider: str, config: Mapping[str, Any]) -> None:
        faults = list(self.validation.faults(provider, config))
        if faults:
            raise Invalid("compute_config is not valid", faults=faults)

    # POST, and what applying a resource of a free name does

    def _create(self, command: Create) -> Acceptance:
        tenant = self.snapshot.tenant
        if tenant is not None and tenant.living:
            return self._create_again(command, tenant=tenant)
        self._match_absent()
        return self._new_life(command, identity=None, generation=0)

    def _match_absent(self) -> None:
        if self.request.if_match is not None:
            raise PreconditionFailed("If-Match on a tenant that does not exist")

    def _create_again(self, command: Create, *, tenant: Tenant) -> Acceptance:
        """A POST of a living id is refused, unless it repeats one that was answered 500."""
        if not tenant.unanswered:
            raise Exists(f"tenant {tenant.id} exists already")
        same = command.compute_provider in (None, tenant.compute_provider) and canonical.equal(
            command.compute_config, tenant.compute_config
        )
        if tenant.status is Status.FAILED:
            self._check_config(tenant.compute_provider, command.compute_config)
            head = self.snapshot.head
            assert head is not None
            answered = replace(tenant, unanswered=False)
            return self._respec(
                replace(answered, compute_config=command.compute_config), event=RETRY[head.action], bump=not same
            )
        if not same:
            raise Exists(f"tenant {tenant.id} exists already, with another spec")
        if self._repeats(tenant):
            return Acceptance(change=None, started=True, repeat=True)
        return self._commit(replace(tenant, unanswered=False), event="answered", started=True, accepted=False)

    def _new_life(self, command: Create, *, identity: ResourceIdentity | None, generation: int) -> Acceptance:
        before = self.snapshot.tenant
        remains = self.snapshot.remains
        provider = command.compute_provider or self.validation.default_provider
        self._check_config(provider, command.compute_config)
        event = Event.CREATE_PAUSED if command.paused else Event.CREATE
        following = transition(before.status if before else None, event)
        tenant = Tenant(
            id=self.request.tenant_id,
            incarnation=str(uuid.uuid4()),
            status=following.to,
            compute_provider=provider,
            compute_config=command.compute_config,
            labels=command.labels,
            annotations=command.annotations,
            paused=command.paused,
            deletion_policy=command.deletion_policy,
            generation=max(before.generation if before else remains.generation, generation) + 1,
            version=before.version if before else remains.version,
            revision=before.revision if before else 0,
            counters=dict(before.counters if before else remains.counters),
            created_at=self.snapshot.now,
            updated_at=self.snapshot.now,
        )
        tenant = _bound(tenant, identity)
        if following.action is None:
            return self._commit(tenant, event=event, started=False)
        tenant, run = self._run(tenant, event=event, send=True)
        return self._commit(tenant, event=event, added=run, started=True)

    # PUT and PATCH

    def _replace(self, command: Replace, *, tenant: Tenant) -> Acceptance:
        if self._repeats(tenant) and canonical.equal(command.compute_config, tenant.compute_config):
            changed = self._with(tenant, command)
            if changed == tenant:
                return Acceptance(change=None, started=True, repeat=True)
        self._match(tenant)
        if command.compute_provider not in (None, tenant.compute_provider):
            raise Invalid(
                "compute_provider cannot change",
                faults=[Fault(pointer="/compute_provider", message=f"must stay {tenant.compute_provider!r}")],
            )
        transition(tenant.status, Event.CHANGE_SPEC)
        self._check_config(tenant.compute_provider, command.compute_config)
        changed = replace(self._with(tenant, command), compute_config=command.compute_config)
        return self._respec(changed, event=Event.CHANGE_SPEC, bump=True)

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
        if "compute_config" in merged:
            return self._replace(full, tenant=tenant)
        self._match(tenant)
        if full.compute_provider not in (None, tenant.compute_provider):
            raise Invalid(
                "compute_provider cannot change",
                faults=[Fault(pointer="/compute_provider", message=f"must stay {tenant.compute_provider!r}")],
            )
        transition(tenant.status, Event.CHANGE_SPEC)
        return self._metadata(self._with(tenant, full), tenant=tenant)

    def _metadata(self, changed: Tenant, *, tenant: Tenant) -> Acceptance:
        """Labels, pausing, policy: no new generation; unpausing lets what has been held back run."""
        if tenant.paused and not changed.paused and self._held(changed):
            event = Event.START if changed.status is Status.REQUESTED else Event.CHANGE_SPEC
            return self._respec(changed, event=event, bump=False)
        return self._commit(changed, event="changed", started=False)

    def _held(self, tenant: Tenant) -> bool:
        if tenant.status is Status.READY:
            return tenant.generation != tenant.observed_generation
        return tenant.status is Status.REQUESTED or (tenant.status in ACTIONS and self.snapshot.sent is None)

    def _respec(self, tenant: Tenant, *, event: Event, bump: bool) -> Acceptance:
        """Another spec, or the same again: it runs now, or after the active run, or when the tenant is unpaused."""
        if bump:
            tenant = replace(tenant, generation=tenant.generation + 1)
        if tenant.status is Status.REQUESTED and not tenant.paused:
            event = Event.START
        following = transition(tenant.status, event)
        tenant = replace(tenant, stalled=None, attempts=0)
        if tenant.paused:
            return self._commit(tenant, event=event, started=False)
        if following.action is None:
            return self._commit(replace(tenant, status=following.to), event=event, started=False)
        sent, waiting = self.snapshot.sent, self.snapshot.waiting
        if sent is not None and waiting is None and not self._degraded(tenant, sent):
            # It follows when that run ends: a hundred changes during one run are one run more.
            return self._commit(replace(tenant, status=following.to), event=event, started=True)
        tenant = replace(tenant, status=following.to, status_message="")
        if sent is None and waiting is None and event is Event.CHANGE_SPEC:
            return self._after_last(tenant, event=event)
        return self._supersede(tenant, event=event, sent=sent, waiting=waiting)

    def _after_last(self, tenant: Tenant, *, event: Event) -> Acceptance:
        """Between runs with none waiting: after a provision that succeeded only an update can follow."""
        head = self.snapshot.head
        if (
            head is not None
            and head.state.value == "succeeded"
            and head.incarnation == tenant.incarnation
            and ACTIONS.get(tenant.status) is head.action
            and tenant.status in (Status.PLANNING, Status.PROVISIONING)
        ):
            older = head.generation != tenant.generation
            following = transition(tenant.status, Event.SUCCEED_OLDER if older else Event.SUCCEED)
            tenant = replace(tenant, status=following.to)
        tenant, run = self._run(tenant, event=event, send=True)
        return self._commit(tenant, event=event, added=run, started=True)

    def _supersede(
        self, tenant: Tenant, *, event: Event, sent: Execution | None, waiting: Execution | None
    ) -> Acceptance:
        """Send now, or cancel what is under way and stand behind it."""
        now = self.snapshot.now
        action = ACTIONS[tenant.status]
        updated: list[Execution] = []
        if sent is not None:
            why = "deleted" if action.value == "delete" else "superseded by a newer spec"
            updated.append(runs.request_cancel(sent, now=now, why=why))
        if waiting is not None and waiting.action is not action:
            updated.append(runs.close_unsent(waiting, now=now, why=f"superseded by {event}"))
            waiting = None
        if waiting is None:
            tenant, run = self._run(tenant, event=event, send=sent is None)
            return self._commit(tenant, event=event, added=run, updated=tuple(updated), started=True)
        if sent is None:
            run = runs.freeze(waiting, tenant=tenant, now=now, policy=self.policy)
            self._check_request(run)
        else:
            run = replace(waiting, generation=tenant.generation, not_before=None)
        updated.append(run)
        tenant = replace(tenant, head=run.execution_id, workflow_execution_id=run.execution_id)
        return self._commit(tenant, event=event, updated=tuple(updated), started=True)

    def _degraded(self, tenant: Tenant, sent: Execution) -> bool:
        """A run that keeps failing, or whose trigger failed, is not worth waiting for."""
        return sent.state.degraded or sent.cancel_requested_at is not None or tenant.workflow_execution_id is None

    # DELETE and retry

    def _delete(self, *, tenant: Tenant) -> Acceptance:
        if tenant.status is Status.DELETING:
            if self._repeats(tenant):
                return Acceptance(change=None, started=True, repeat=True)
            self._match(tenant)
            return Acceptance(change=None, started=True)
        self._match(tenant)
        return self._begin_delete(tenant)

    def _begin_delete(self, tenant: Tenant) -> Acceptance:
        following = transition(tenant.status, Event.DELETE)
        tenant = replace(tenant, status=following.to, status_message="", stalled=None, attempts=0)
        return self._supersede(tenant, event=Event.DELETE, sent=self.snapshot.sent, waiting=self.snapshot.waiting)

    def _retry(self, command: Retry, *, tenant: Tenant) -> Acceptance:
        if self._repeats(tenant) and command.compute_config is None:
            return Acceptance(change=None, started=True, repeat=True)
        self._match(tenant)
        failed_trigger = self._repeats(tenant)
        if tenant.status is not Status.FAILED and tenant.stalled is None and not failed_trigger:
            raise Conflict(f"tenant {tenant.id} is {tenant.status} and makes progress; only what failed is retried")
        if tenant.status is Status.DELETING and command.compute_config is not None:
            raise Conflict(f"tenant {tenant.id} is being deleted: its compute_config cannot change")
        config = tenant.compute_config if command.compute_config is None else command.compute_config
        if tenant.status is not Status.DELETING:
            self._check_config(tenant.compute_provider, config)
        behind = tenant.stalled is Stalled.RECORD_BEHIND
        return self._respec(
            replace(tenant, compute_config=config),
            event=self._retry_event(tenant),
            bump=behind or command.compute_config is not None,
        )

    def _retry_event(self, tenant: Tenant) -> Event:
        if tenant.status is Status.FAILED:
            head = self.snapshot.head
            assert head is not None, "a failed tenant has run something"
            return RETRY[head.action]
        if tenant.status in ACTIONS:
            return RETRY[ACTIONS[tenant.status]]
        return Event.CHANGE_SPEC

    # The Kubernetes door

    def _edit(self, command: Edit) -> Acceptance:
        tenant = self.snapshot.tenant
        if tenant is not None:
            if tenant.living and _names(tenant, command.identity):
                return Acceptance(change=None)  # another operator has taken it
            self._match(tenant)
        if tenant is None or not tenant.living:
            create = Create(
                compute_provider=command.compute_provider,
                compute_config=command.compute_config,
                paused=command.paused,
                deletion_policy=command.deletion_policy,
            )
            return self._new_life(create, identity=command.identity, generation=command.recorded_generation)
        if command.compute_provider not in (None, tenant.compute_provider):
            raise Invalid(
                "computeProvider cannot change",
                faults=[Fault(pointer="/computeProvider", message=f"must stay {tenant.compute_provider!r}")],
            )
        if tenant.status is Status.DELETING:
            raise Conflict(f"tenant {tenant.id} is being deleted")
        changed = replace(
            _bound(tenant, command.identity), paused=command.paused, deletion_policy=command.deletion_policy
        )
        ahead = command.recorded_generation > tenant.generation
        if ahead:
            changed = replace(changed, generation=command.recorded_generation)
        behind = ahead or tenant.stalled is Stalled.RECORD_BEHIND
        if canonical.equal(command.compute_config, tenant.compute_config) and not behind:
            if (changed.paused, changed.deletion_policy) == (tenant.paused, tenant.deletion_policy):
                return self._observe(changed)
            return self._metadata(changed, tenant=tenant)
        self._check_config(tenant.compute_provider, command.compute_config)
        event = self._retry_event(tenant) if tenant.status is Status.FAILED else Event.CHANGE_SPEC
        return self._respec(replace(changed, compute_config=command.compute_config), event=event, bump=True)

    def _remove(self, command: Remove) -> Acceptance:
        tenant = self.snapshot.tenant
        if tenant is None:
            return self._delete_unknown(command)
        if not tenant.living or tenant.status is Status.DELETING:
            return Acceptance(change=None, started=True)
        self._match(tenant)
        if command.retain or tenant.deletion_policy is DeletionPolicy.RETAIN:
            detached = replace(tenant, detached=True, resource_uid=None, resource_generation=None)
            return self._commit(detached, event="detached", started=False)
        return self._begin_delete(_bound(tenant, command.identity))

    def _delete_unknown(self, command: Remove) -> Acceptance:
        """A resource of ours is terminating and the record is lost: what it stood for is deleted all the same."""
        remains = self.snapshot.remains
        tenant = Tenant(
            id=self.request.tenant_id,
            incarnation=str(uuid.uuid4()),
            status=Status.DELETING,
            compute_provider=command.compute_provider or self.validation.default_provider,
            compute_config=command.compute_config,
            generation=max(remains.generation, command.recorded_generation) + 1,
            version=remains.version,
            counters=dict(remains.counters),
            created_at=self.snapshot.now,
            updated_at=self.snapshot.now,
        )
        tenant, run = self._run(_bound(tenant, command.identity), event=Event.DELETE, send=True)
        return self._commit(tenant, event=Event.DELETE, added=run, started=True)

    def _bind(self, command: Bind, *, tenant: Tenant) -> Acceptance:
        self._match(tenant)
        bound = _bound(tenant, command.identity)
        if command.recorded_generation > tenant.generation:
            bound = replace(
                bound,
                generation=command.recorded_generation,
                stalled=Stalled.RECORD_BEHIND,
                status_message=f"generation {command.recorded_generation} has been seen: was the database restored?",
            )
        if bound == tenant:
            return Acceptance(change=None)
        return self._observe(bound)

    # Common

    def _observe(self, tenant: Tenant) -> Acceptance:
        """Which resource is the row's: no change of the client's, so neither version nor audit trail."""
        acceptance = self._commit(tenant, event="bound", started=False, accepted=False)
        assert acceptance.change is not None
        return replace(acceptance, change=replace(acceptance.change, audit=None))

    def _repeats(self, tenant: Tenant) -> bool:
        """The head's trigger failed and its run is not known to have ended."""
        head = self.snapshot.head
        return tenant.workflow_execution_id is None and head is not None and head.open

    def _run(self, tenant: Tenant, *, event: Event, send: bool) -> tuple[Tenant, Execution]:
        action = ACTIONS[tenant.status]
        tenant, run = runs.new_run(
            tenant=tenant,
            action=action,
            source=self.request.door,
            now=self.snapshot.now,
            policy=self.policy,
            send=send,
        )
        self._check_request(run if send else runs.freeze(run, tenant=tenant, now=self.snapshot.now, policy=self.policy))
        return tenant, run

    def _check_request(self, run: Execution) -> None:
        """The engine's own limits, before anything is stored. A delete is never refused for its size."""
        if run.action.value != "delete":
            try:
                self.validation.check(runs.request(run))
            except InvalidRequest as error:
                raise Invalid(f"the workflow engine would refuse the request: {error}") from None

    def _commit(
        self,
        tenant: Tenant,
        *,
        event: str,
        started: bool,
        added: Execution | None = None,
        updated: tuple[Execution, ...] = (),
        accepted: bool = True,
    ) -> Acceptance:
        before = self.snapshot.tenant
        executions = (*updated, *((added,) if added else ()))
        tenant = replace(
            tenant,
            version=tenant.version + 1 if accepted else tenant.version,
            revision=(before.revision if before else 0) + 1,
            updated_at=self.snapshot.now,
            next_check_at=next_check(tenant, executions, now=self.snapshot.now, policy=self.policy)
            if executions
            else (tenant.next_check_at if self.snapshot.sent or self.snapshot.waiting else None),
        )
        audit = Audit(
            change_id=str(uuid.uuid4()),
            tenant_id=tenant.id,
            incarnation=tenant.incarnation,
            at=self.snapshot.now,
            who=self.request.who,
            door=self.request.door,
            event=str(event),
            from_status=before.status if before else None,
            to_status=tenant.status,
            why=f"{type(self.request.command).__name__} from {self.request.door}",
            generation=tenant.generation,
            execution_id=tenant.workflow_execution_id,
        )
        return Acceptance(
            change=Change(
                tenant=tenant,
                expected=before.revision if before else None,
                added=added,
                updated=updated,
                audit=audit,
                key=self.request.key,
            ),
            started=started,
        )


def _names(tenant: Tenant, identity: ResourceIdentity) -> bool:
    """The row has taken this very generation of this very resource."""
    return (tenant.resource_uid, tenant.resource_generation) == (identity.uid, identity.generation)


def _bound(tenant: Tenant, identity: ResourceIdentity | None) -> Tenant:
    if identity is None:
        return tenant
    return replace(
        tenant,
        namespace=identity.namespace,
        resource_uid=identity.uid,
        resource_generation=identity.generation,
        detached=False,
    )


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result
