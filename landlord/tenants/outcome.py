"""What the end of a run moves, and what follows it. Pure.

An outcome moves the tenant only if it is of the row's life and action; a failure counts only if it is of the row's
generation, too (design.md §4, rule 5).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from landlord import canonical
from landlord.tenants import runs
from landlord.tenants.lifecycle import ACTIONS, Event, transition
from landlord.tenants.model import Action, Door, Execution, Stalled, Status, Tenant
from landlord.tenants.runs import Policy
from landlord.workflow.provider import ExecutionInfo, ExecutionState, WorkflowFailure

OBSERVED_LIMIT = 65_536
"""Bytes of ``observed_config``."""

BROKEN_OFF = (Stalled.DEADLINE_EXCEEDED, Stalled.ENGINE_PAUSED)
"""Why a run was broken off in which nothing happened any more: true of the tenant until something happens again."""

Outcome = tuple[Tenant, Execution | None, Event | None]
"""The new row, the execution to insert or to send in place of the waiting one, and the transition taken."""


def close(execution: Execution, word: ExecutionInfo, *, now: datetime) -> Execution:
    """The execution as it ended."""
    return replace(
        execution,
        state=word.state,
        ended_at=now,
        seen=True,
        engine_attempt=tries(execution, word),
        error=_failure(word).to_json() if word.state is not ExecutionState.SUCCEEDED else None,
        output=cut(canonical.storable(word.output)) if isinstance(word.output, dict) else None,
    )


def tries(execution: Execution, word: ExecutionInfo) -> int:
    """Of the engine at this run. Some forget how many there were once it has ended, or is paused."""
    return max(execution.engine_attempt, word.attempt)


def concerns(tenant: Tenant, execution: Execution) -> bool:
    """Whether the end of this run moves the tenant at all."""
    return execution.incarnation == tenant.incarnation and ACTIONS.get(tenant.status) is execution.action


def moving(tenant: Tenant) -> Tenant:
    """Its run is being carried out, or was."""
    return replace(tenant, stalled=None) if tenant.stalled in BROKEN_OFF else tenant


def behind(tenant: Tenant) -> bool:
    """The world has seen a newer generation than the record, and nobody has said yet what is wanted."""
    return tenant.stalled is Stalled.RECORD_BEHIND and tenant.status is not Status.DELETING


def held(tenant: Tenant) -> bool:
    """Nothing but a delete may be started."""
    return behind(tenant) or (tenant.paused and tenant.status is not Status.DELETING)


def succeed(tenant: Tenant, ended: Execution, *, waiting: Execution | None, now: datetime, policy: Policy) -> Outcome:
    """A run of the status' action succeeded, for the row's generation or an older one."""
    if not behind(tenant):
        tenant = replace(tenant, stalled=None, status_message="")
    tenant = replace(tenant, attempts=0)
    if ended.action in (Action.PROVISION, Action.UPDATE):
        tenant = replace(tenant, observed_generation=ended.generation, observed_config=ended.output)
    current = ended.generation == tenant.generation
    event = Event.SUCCEED if current else Event.SUCCEED_OLDER
    following = transition(tenant.status, event)
    if following.action is None:
        tenant = replace(tenant, status=following.to, head=ended.execution_id, workflow_execution_id=None)
        if following.to is Status.DELETED:
            tenant = replace(tenant, deleted_at=now, observed_config=None)
        return tenant, None, event
    if held(tenant):
        return rest(tenant, ended), None, None
    tenant = replace(tenant, status=following.to)
    tenant, execution = follow(tenant, following.action, waiting=waiting, now=now, policy=policy)
    return tenant, execution, event


def fail(tenant: Tenant, ended: Execution, *, now: datetime, policy: Policy) -> Outcome:
    """A run of the status' action ended otherwise, not because we cancelled it, and nothing waits behind it."""
    failure = ended.failure or WorkflowFailure(code="Unknown", message="the run failed")
    deleting = tenant.status is Status.DELETING
    if failure.code == "NewerGeneration" and (ahead := failure.details.get("existing_generation")):
        if not deleting:
            return record_behind(rest(tenant, ended), generation=int(ahead)), None, None
        # The next delete takes that, too: a tenant is not deleted while anything of it is left.
        tenant = replace(tenant, generation=max(int(ahead), tenant.generation))
    tenant = moving(tenant)
    if ended.generation != tenant.generation and not deleting:
        tenant = replace(tenant, attempts=0)
        if held(tenant):
            return rest(tenant, ended), None, None
        tenant, execution = follow(tenant, ended.action, waiting=None, now=now, policy=policy)
        return tenant, execution, Event.FAIL
    tenant = replace(tenant, attempts=tenant.attempts + 1, status_message=f"{ended.action}: {failure.message}")
    spent = failure.permanent or tenant.attempts >= policy.attempts
    if spent and not deleting:
        following = transition(tenant.status, Event.GIVE_UP)
        return replace(rest(tenant, ended), status=following.to), None, Event.GIVE_UP
    if tenant.attempts >= policy.attempts:  # anything but a delete has been given up
        tenant = replace(tenant, stalled=Stalled.DELETE_FAILING)
    if held(tenant):
        return rest(tenant, ended), None, None
    pause = timedelta(seconds=policy.delay(tenant.attempts))
    tenant, execution = runs.new_run(
        tenant=tenant,
        action=ended.action,
        source=Door.CONTROLLER,
        now=now,
        policy=policy,
        send=False,
        not_before=now + pause,
    )
    return tenant, execution, Event.FAIL


def refuse(tenant: Tenant, ended: Execution, *, now: datetime, policy: Policy) -> Outcome:
    """The engine will never take this request: nothing to wait for, except for a delete, which is never given up."""
    message = f"{ended.action}: {ended.failure.message if ended.failure else 'refused by the workflow engine'}"
    tenant = replace(tenant, status_message=message)
    if tenant.status is not Status.DELETING:
        following = transition(tenant.status, Event.GIVE_UP)
        return replace(rest(tenant, ended), status=following.to), None, Event.GIVE_UP
    tenant, execution = runs.new_run(
        tenant=replace(tenant, stalled=Stalled.DELETE_REFUSED, attempts=tenant.attempts + 1),
        action=Action.DELETE,
        source=Door.CONTROLLER,
        now=now,
        policy=policy,
        send=False,
        not_before=now + timedelta(seconds=policy.backoff_limit),
    )
    return tenant, execution, Event.FAIL


def follow(
    tenant: Tenant, action: Action, *, waiting: Execution | None, now: datetime, policy: Policy
) -> tuple[Tenant, Execution]:
    """The next run, frozen: the one that waits if it is of that action, else a new one."""
    if waiting is not None and waiting.action is action:
        execution = runs.freeze(waiting, tenant=tenant, now=now, policy=policy)
        return replace(tenant, head=execution.execution_id, workflow_execution_id=execution.execution_id), execution
    return runs.new_run(tenant=tenant, action=action, source=Door.CONTROLLER, now=now, policy=policy, send=True)


def rest(tenant: Tenant, ended: Execution) -> Tenant:
    """Nothing is in charge any more; what was stays known as the head."""
    return replace(tenant, head=ended.execution_id, workflow_execution_id=None)


def record_behind(tenant: Tenant, *, generation: int) -> Tenant:
    """The world has seen a newer generation: nothing is mirrored or run until somebody says what is wanted."""
    return replace(
        tenant,
        generation=max(generation, tenant.generation),
        stalled=Stalled.RECORD_BEHIND,
        status_message=f"generation {generation} exists already: was the database restored? Change or retry the tenant",
    )


def cut(output: dict[str, Any]) -> dict[str, Any]:
    """At most :data:`OBSERVED_LIMIT` bytes: the applied configuration goes first, then the rest."""
    if len(canonical.dumps(output)) <= OBSERVED_LIMIT:
        return output
    smaller = {key: value for key, value in output.items() if key != "config"} | {"truncated": True}
    return smaller if len(canonical.dumps(smaller)) <= OBSERVED_LIMIT else {"truncated": True}


def _failure(word: ExecutionInfo) -> WorkflowFailure:
    if word.failure is not None:
        return word.failure
    return WorkflowFailure(code=word.state.value, message=f"the run ended as {word.state.value.replace('_', ' ')}")
