"""Whatever changes what is wanted: a new life, another spec, pausing, the end. Pure.

Here is decided whether something runs now, after what is under way, instead of it, or not at all.
"""

from __future__ import annotations

import uuid

from msgspec.structs import replace

from landlord.tenants import outcome, runs
from landlord.tenants.acceptance import Acceptance, Acceptor, bound_to
from landlord.tenants.commands import Create, ResourceIdentity
from landlord.tenants.lifecycle import ACTIONS, RETRY, Event, transition
from landlord.tenants.model import Action, Execution, Stalled, Status, Tenant
from landlord.workflow.provider import ExecutionState


class DesiredState(Acceptor, frozen=True):
    """What both doors' commands come down to."""

    def new_life(self, command: Create, *, identity: ResourceIdentity | None, generation: int) -> Acceptance:
        """A tenant where there was none, or none any more; counters go on from those of the lives before.

        ``generation`` is the newest that the resource has seen, 0 for none. Raises
        :class:`~landlord.tenants.errors.Invalid`.
        """
        before = self.snapshot.tenant
        remains = self.snapshot.remains
        provider = command.compute_provider or self.validation.default_provider
        self.check_config(provider, command.compute_config)
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
        tenant = bound_to(tenant, identity)
        if following.action is None:
            return self.to_commit(tenant, event=event, started=False)
        tenant, run = self.run(tenant, send=True)
        return self.to_commit(tenant, event=event, added=run, started=True)

    def metadata(self, changed: Tenant, *, tenant: Tenant) -> Acceptance:
        """Labels, pausing, policy: no new generation; unpausing lets what has been held back run."""
        if tenant.paused and not changed.paused and self.held(changed):
            return self.respec(changed, event=self.release_event(changed), bump=False)
        return self.to_commit(changed, event="changed", started=False)

    def release_event(self, tenant: Tenant) -> Event:
        """What unpausing means, where something was held back."""
        match tenant.status:
            case Status.REQUESTED:
                return Event.START
            case Status.FAILED:
                return self.retry_event(tenant)
            case _:
                return Event.CHANGE_SPEC

    def held(self, tenant: Tenant) -> bool:
        """Whether pausing has kept something from being started, which unpausing starts."""
        if tenant.stalled is Stalled.RECORD_BEHIND:
            return False  # until somebody says what is wanted
        if tenant.status is Status.FAILED:  # corrected while it was paused
            head = self.snapshot.head
            return head is not None and head.generation != tenant.generation
        if tenant.status is Status.READY:
            return tenant.generation != tenant.observed_generation
        return self.snapshot.sent is None

    def respec(self, tenant: Tenant, *, event: Event, bump: bool) -> Acceptance:
        """Another spec, or the same again: it runs now, or after the active run, or when the tenant is unpaused."""
        if bump:
            tenant = replace(tenant, generation=tenant.generation + 1)
        if tenant.status is Status.REQUESTED and not tenant.paused:
            event = Event.START
        following = transition(tenant.status, event)
        tenant = replace(tenant, stalled=None, attempts=0)
        if outcome.held(tenant):
            return self.to_commit(tenant, event=event, started=False)
        sent, waiting = self.snapshot.sent, self.snapshot.waiting
        if sent is not None and not self.degraded(tenant, sent):
            # It follows when that run ends: a hundred changes during one run are one run more.
            return self.to_commit(replace(tenant, status=following.to), event=event, started=True)
        tenant = replace(tenant, status=following.to, status_message="")
        if sent is None and waiting is None and event is Event.CHANGE_SPEC:
            return self.after_last(tenant, event=event)
        return self.supersede(tenant, event=event, sent=sent, waiting=waiting)

    def after_last(self, tenant: Tenant, *, event: Event) -> Acceptance:
        """Between runs with none waiting: after a provision that succeeded only an update can follow."""
        head = self.snapshot.head
        if (
            head is not None
            and head.state is ExecutionState.SUCCEEDED
            and head.incarnation == tenant.incarnation
            and ACTIONS.get(tenant.status) is head.action
            and tenant.status in (Status.PLANNING, Status.PROVISIONING)
        ):
            older = head.generation != tenant.generation
            following = transition(tenant.status, Event.SUCCEED_OLDER if older else Event.SUCCEED)
            tenant = replace(tenant, status=following.to)
        tenant, run = self.run(tenant, send=True)
        return self.to_commit(tenant, event=event, added=run, started=True)

    def supersede(
        self, tenant: Tenant, *, event: Event, sent: Execution | None, waiting: Execution | None
    ) -> Acceptance:
        """Send now, or cancel what is under way and stand behind it."""
        now = self.snapshot.now
        action = ACTIONS[tenant.status]
        updated: list[Execution] = []
        if sent is not None:
            why = "deleted" if action is Action.DELETE else "superseded by a newer spec"
            updated.append(runs.request_cancel(sent, now=now, why=why))
        if waiting is not None and waiting.action is not action:
            updated.append(runs.close_unsent(waiting, now=now, why=f"superseded by {event}"))
            waiting = None
        if waiting is None:
            tenant, run = self.run(tenant, send=sent is None)
            return self.to_commit(tenant, event=event, added=run, updated=tuple(updated), started=True)
        if sent is None:
            run = runs.freeze(waiting, tenant=tenant, now=now, policy=self.policy)
            self.check_request(run)
        else:
            run = replace(waiting, generation=tenant.generation)
        updated.append(run)
        tenant = replace(tenant, head=run.execution_id, workflow_execution_id=run.execution_id)
        return self.to_commit(tenant, event=event, updated=tuple(updated), started=True)

    def degraded(self, tenant: Tenant, sent: Execution) -> bool:
        """A run that keeps failing, or whose trigger failed, is not worth waiting for."""
        return sent.state.degraded or sent.cancel_requested_at is not None or tenant.workflow_execution_id is None

    def begin_delete(self, tenant: Tenant) -> Acceptance:
        """From any status: what is under way is cancelled, the delete goes after it."""
        following = transition(tenant.status, Event.DELETE)
        tenant = replace(tenant, status=following.to, status_message="", stalled=None, attempts=0, unanswered=False)
        return self.supersede(tenant, event=Event.DELETE, sent=self.snapshot.sent, waiting=self.snapshot.waiting)

    def retry_event(self, tenant: Tenant) -> Event:
        """What trying again means: the action that has failed, or is under way; where none is, the spec once more."""
        if tenant.status is Status.FAILED:
            head = self.snapshot.head
            assert head is not None, "a failed tenant has run something"
            return RETRY[head.action]
        if tenant.status in ACTIONS:
            return RETRY[ACTIONS[tenant.status]]
        return Event.CHANGE_SPEC
