"""One level-triggered step of one tenant: what is, to what has to be done. Pure.

:func:`decide` never trusts memory: it gets row and executions as just read, and the engine's word as just asked.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec.structs import replace

from landlord.tenants import outcome, runs
from landlord.tenants.lifecycle import ACTIONS, Event, transition
from landlord.tenants.model import Action, Audit, Change, Door, Execution, Snapshot, Stalled, Status, Tenant
from landlord.tenants.runs import Policy
from landlord.workflow.provider import ExecutionInfo, ExecutionState, WorkflowFailure

RECONCILER = "landlord"
"""Who stands in the audit trail for what the reconciler did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """First ``change`` is committed (if there is one), then the engine is asked, then the tenant is looked at again."""

    change: Change | None = None
    trigger: Execution | None = None
    cancel: Execution | None = None
    force: bool = False
    check_in: float | None = None
    """Seconds, where no change says when to look again."""
    settled: bool = False
    """Nothing to do until somebody changes the tenant."""


def decide(snapshot: Snapshot, *, word: ExecutionInfo | None, policy: Policy) -> Decision:
    """The next step. ``word`` is what the engine says of ``snapshot.sent``: null if it does not know it."""
    tenant = snapshot.tenant
    if tenant is None:
        return Decision(settled=True)
    if (sent := snapshot.sent) is not None:
        return _sent(snapshot, tenant, sent, word=word, policy=policy)
    if outcome.held(tenant):
        return Decision(settled=True)
    if (waiting := snapshot.waiting) is not None:
        return _waiting(snapshot, tenant, waiting, policy=policy)
    return _between(snapshot, tenant, policy=policy)


def refused(snapshot: Snapshot, execution: Execution, *, message: str, policy: Policy) -> Change:
    """The engine called the request invalid: the run, which was sent, will never be. What stands behind it follows, be
    it only a newer spec."""
    tenant = snapshot.tenant
    assert tenant is not None
    ended = replace(
        execution,
        state=ExecutionState.FAILED,
        ended_at=snapshot.now,
        error=WorkflowFailure(code="InvalidRequest", message=message, permanent=True).to_json(),
    )
    newer = ended.generation != tenant.generation and not outcome.behind(tenant)
    if snapshot.waiting is not None or newer or not outcome.concerns(tenant, ended):
        tenant, following, event = _next(snapshot, tenant, ended, policy=policy)
    else:
        tenant, following, event = outcome.refuse(tenant, ended, now=snapshot.now, policy=policy)
    change = _moved(snapshot, tenant, ended, following, event=event or "run refused", why=message, policy=policy).change
    assert change is not None
    return change


def _sent(
    snapshot: Snapshot, tenant: Tenant, sent: Execution, *, word: ExecutionInfo | None, policy: Policy
) -> Decision:
    if sent.provider != policy.provider:
        return _elsewhere(snapshot, tenant, sent, policy=policy)
    if word is None:
        return _unknown(snapshot, tenant, sent, policy=policy)
    ours = word.digest == sent.digest or (word.digest is None and not word.state.ended)
    if not ours:
        return _foreign(snapshot, tenant, sent, policy=policy)
    if word.state.ended:
        return _ended(snapshot, tenant, sent, word=word, policy=policy)
    return _active(snapshot, tenant, sent, word=word, policy=policy)


def _elsewhere(snapshot: Snapshot, tenant: Tenant, sent: Execution, *, policy: Policy) -> Decision:
    """Only its own engine can say what became of the run; no other may start it meanwhile."""
    if tenant.stalled is Stalled.ENGINE_NOT_CONFIGURED or outcome.behind(tenant):
        return Decision(check_in=policy.poll)
    why = f"{sent.execution_id} runs on {sent.provider}: configure it again until its runs have ended"
    tenant = replace(tenant, stalled=Stalled.ENGINE_NOT_CONFIGURED, status_message=why)
    return Decision(change=_change(snapshot, tenant, event="engine not configured", why=why, policy=policy))


def _unknown(snapshot: Snapshot, tenant: Tenant, sent: Execution, *, policy: Policy) -> Decision:
    """Send the same bytes again, always; one that is to be cancelled, too, so that a late trigger is absorbed."""
    cancel = sent if sent.cancel_requested_at else None
    if not sent.seen:
        return Decision(trigger=sent, cancel=cancel, check_in=1)
    change = _change(
        snapshot,
        tenant,
        updated=(replace(sent, seen=False, state=ExecutionState.PENDING),),
        event="engine forgot the run",
        why=f"{sent.provider} does not know {sent.execution_id} any more: it is sent again",
        policy=policy,
    )
    return Decision(change=change, trigger=sent, cancel=cancel)


def _foreign(snapshot: Snapshot, tenant: Tenant, sent: Execution, *, policy: Policy) -> Decision:
    """The id was used before for something else: it is not touched, the next one is used."""
    why = f"{sent.execution_id} is known to {sent.provider} with another input: the next id is used"
    ended = replace(
        sent,
        state=ExecutionState.CANCELLED,
        ended_at=snapshot.now,
        error=WorkflowFailure(code="NotOurs", message=why).to_json(),
    )
    tenant, following, _ = _next(snapshot, tenant, ended, policy=policy)
    return _moved(snapshot, tenant, ended, following, event="execution id taken", why=why, policy=policy)


def _ended(snapshot: Snapshot, tenant: Tenant, sent: Execution, *, word: ExecutionInfo, policy: Policy) -> Decision:
    ended = outcome.close(sent, word, now=snapshot.now)
    waiting = snapshot.waiting
    event: Event | None = None
    if outcome.concerns(tenant, ended) and ended.state is ExecutionState.SUCCEEDED:
        tenant, following, event = outcome.succeed(tenant, ended, waiting=waiting, now=snapshot.now, policy=policy)
    elif waiting is not None or not outcome.concerns(tenant, ended):
        tenant, following, event = _next(snapshot, tenant, ended, policy=policy)
    else:
        tenant, following, event = outcome.fail(tenant, ended, now=snapshot.now, policy=policy)
    why = ended.failure.message if ended.failure else f"{ended.execution_id} {ended.state.value}"
    return _moved(snapshot, tenant, ended, following, event=event or "run ended", why=why, policy=policy)


def _next(snapshot: Snapshot, tenant: Tenant, ended: Execution, *, policy: Policy) -> outcome.Outcome:
    """After a run that counts for nothing: the waiting one, else the status' action again, no attempt spent."""
    waiting = snapshot.waiting
    action = ACTIONS.get(tenant.status)
    if action is None:
        return replace(tenant, workflow_execution_id=None), None, None
    if outcome.held(tenant):
        return (tenant if waiting else outcome.rest(tenant, ended)), None, None
    if tenant.stalled not in outcome.BROKEN_OFF:  # that it is tried again is no progress yet
        tenant = replace(tenant, stalled=None)
    tenant, following = outcome.follow(tenant, action, waiting=waiting, now=snapshot.now, policy=policy)
    return tenant, following, None


def _moved(
    snapshot: Snapshot,
    tenant: Tenant,
    ended: Execution,
    following: Execution | None,
    *,
    event: str,
    why: str,
    policy: Policy,
) -> Decision:
    """Close what ended, and send, insert or drop what stood behind it."""
    waiting = snapshot.waiting
    updated = [ended]
    added = following
    if waiting is not None and following is not None and waiting.execution_id == following.execution_id:
        updated.append(following)
        added = None
    elif waiting is not None and tenant.head != waiting.execution_id:
        updated.append(runs.close_unsent(waiting, now=snapshot.now, why=f"{ended.execution_id} made it needless"))
    change = _change(snapshot, tenant, updated=tuple(updated), added=added, event=event, why=why, policy=policy)
    sent = following if following is not None and following.running else None
    return Decision(change=change, trigger=sent)


def _active(snapshot: Snapshot, tenant: Tenant, sent: Execution, *, word: ExecutionInfo, policy: Policy) -> Decision:
    now = snapshot.now
    seen = replace(
        sent,
        seen=True,
        state=word.state,
        engine_attempt=outcome.tries(sent, word),
        error=word.failure.to_json() if word.failure else None,
    )
    if sent.cancel_requested_at is not None:
        force = now - sent.cancel_requested_at >= timedelta(seconds=policy.force_after)
        change = None
        if seen != sent:
            change = _change(snapshot, tenant, updated=(seen,), policy=policy)
        return Decision(change=change, cancel=seen, force=force, check_in=2)
    if reason := _must_end(tenant, seen, now=now):
        return _interrupt(snapshot, tenant, seen, reason=reason, policy=policy)
    restored = tenant
    if tenant.stalled is Stalled.ENGINE_NOT_CONFIGURED:
        restored = replace(tenant, stalled=None, status_message="")
    if word.state is ExecutionState.RUNNING:
        restored = outcome.moving(restored)
    if tenant.head == sent.execution_id and tenant.workflow_execution_id is None:
        restored = replace(restored, workflow_execution_id=sent.execution_id, status_message="")
    if seen == sent and restored == tenant:
        return Decision(check_in=_patience(seen, now=now, policy=policy))
    event = "run found" if restored != tenant else None
    change = _change(
        snapshot, restored, updated=(seen,), event=event, why=f"{sent.execution_id} is {word.state}", policy=policy
    )
    return Decision(change=change)


def _must_end(tenant: Tenant, sent: Execution, *, now: datetime) -> Stalled | str | None:
    """Why a run that is alive cannot go on."""
    if sent.state is ExecutionState.PAUSED:
        return Stalled.ENGINE_PAUSED
    if sent.deadline is not None and now >= sent.deadline:
        return Stalled.DEADLINE_EXCEEDED
    superseded = sent.generation < tenant.generation and sent.action is not Action.DELETE
    if superseded and sent.state.degraded and not tenant.paused:
        return "superseded"
    return None


def _interrupt(
    snapshot: Snapshot, tenant: Tenant, sent: Execution, *, reason: Stalled | str, policy: Policy
) -> Decision:
    """Cancel it and let the next id wait for its end: no attempt is spent."""
    now = snapshot.now
    if isinstance(reason, Stalled):
        if not outcome.behind(tenant):  # which says more, and must not be forgotten
            tenant = replace(tenant, stalled=reason)
        why = f"{sent.execution_id} is {'paused by its engine' if reason is Stalled.ENGINE_PAUSED else 'overdue'}"
    else:
        tenant = replace(tenant, attempts=0)
        why = f"{sent.execution_id} keeps failing and a newer spec waits"
    action = ACTIONS[tenant.status]
    cancelled = runs.request_cancel(sent, now=now, why=why)
    tenant, waiting = runs.new_run(
        tenant=tenant, action=action, source=Door.CONTROLLER, now=now, policy=policy, send=False
    )
    change = _change(snapshot, tenant, updated=(cancelled,), added=waiting, event="interrupt", why=why, policy=policy)
    return Decision(change=change, cancel=cancelled)


def _waiting(snapshot: Snapshot, tenant: Tenant, waiting: Execution, *, policy: Policy) -> Decision:
    now = snapshot.now
    if waiting.not_before is not None and now < waiting.not_before:
        return Decision(check_in=(waiting.not_before - now).total_seconds())
    tenant, frozen = outcome.follow(tenant, waiting.action, waiting=waiting, now=now, policy=policy)
    change = _change(
        snapshot, tenant, updated=(frozen,), event="run sent", why=f"{frozen.execution_id} is due", policy=policy
    )
    return Decision(change=change, trigger=frozen)


def _between(snapshot: Snapshot, tenant: Tenant, *, policy: Policy) -> Decision:
    """Nothing is under way: does the state ask for something?"""
    now = snapshot.now
    head = snapshot.head
    event: Event
    if tenant.status is Status.REQUESTED:
        event = Event.START
    elif tenant.status is Status.READY and tenant.observed_generation != tenant.generation:
        event = Event.CHANGE_SPEC
    elif tenant.status in ACTIONS:
        done = head is not None and outcome.concerns(tenant, head) and head.state is ExecutionState.SUCCEEDED
        if done:
            assert head is not None
            event = Event.SUCCEED if head.generation == tenant.generation else Event.SUCCEED_OLDER
        else:
            event = Event.FAIL
    else:
        return Decision(settled=True)
    following = transition(tenant.status, event)
    if following.action is None:
        return Decision(settled=True)
    tenant = replace(tenant, status=following.to)
    tenant, sent = outcome.follow(tenant, following.action, waiting=None, now=now, policy=policy)
    change = _change(snapshot, tenant, added=sent, event=event, why=f"{following.action} is due", policy=policy)
    return Decision(change=change, trigger=sent)


def _change(
    snapshot: Snapshot,
    tenant: Tenant,
    *,
    policy: Policy,
    updated: tuple[Execution, ...] = (),
    added: Execution | None = None,
    event: str | None = None,
    why: str = "",
) -> Change:
    before = snapshot.tenant
    assert before is not None
    executions = (*updated, *((added,) if added else ()))
    tenant = replace(
        tenant,
        revision=before.revision + 1,
        updated_at=snapshot.now,
        next_check_at=next_check(executions or snapshot.executions, now=snapshot.now, policy=policy),
    )
    audit = None
    if event is not None:
        audit = Audit(
            change_id=str(uuid.uuid4()),
            tenant_id=tenant.id,
            incarnation=tenant.incarnation,
            at=snapshot.now,
            who=RECONCILER,
            door=Door.CONTROLLER,
            event=str(event),
            from_status=before.status,
            to_status=tenant.status,
            why=why[:1000],
            generation=tenant.generation,
            execution_id=tenant.workflow_execution_id,
        )
    return Change(tenant=tenant, expected=before.revision, added=added, updated=updated, audit=audit)


def next_check(executions: tuple[Execution, ...], *, now: datetime, policy: Policy) -> datetime | None:
    """When the reconciler has to look at what is open among these even if nothing tells it to."""
    times = []
    for execution in executions:
        if not execution.open:
            continue
        if execution.cancel_requested_at is not None:
            times.append(now + timedelta(seconds=2))
        elif execution.running:
            times.append(now + timedelta(seconds=_patience(execution, now=now, policy=policy)))
        else:
            times.append(max(execution.not_before or now, now))
    return min(times, default=None)


def _patience(sent: Execution, *, now: datetime, policy: Policy) -> float:
    """Seconds until a run under way is looked at: its end is pushed, its deadline is not."""
    # One just sent may not have arrived: whoever sent it may be gone before the trigger.
    patience = policy.poll if sent.seen else policy.trigger_timeout
    left = (sent.deadline - now).total_seconds() if sent.deadline is not None else patience
    return max(0.0, min(patience, left))
