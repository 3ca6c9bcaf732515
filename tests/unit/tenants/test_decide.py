"""One look at one tenant: what is written, what is asked of the engine, and what is written only once. Pure."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from fixtures.lives import ABSENT, NOW, POLICY, row, submitted, the
from msgspec.structs import replace

from landlord.tenants.commands import Bind, Create, Delete, Patch, Replace, ResourceIdentity
from landlord.tenants.decide import Decision, decide, refused
from landlord.tenants.model import Action, Snapshot, Stalled, Status
from landlord.tenants.runs import Policy
from landlord.tenants.service import after
from landlord.workflow.provider import ExecutionInfo, ExecutionState, WorkflowFailure

ANOTHER = Policy(installation="test", provider="another", complete=lambda _, config: dict(config))


def word(snapshot: Snapshot, state: ExecutionState, **fields: Any) -> ExecutionInfo:
    """The engine's, on the run that was sent."""
    sent = the(snapshot.sent)
    return ExecutionInfo(**{"execution_id": sent.execution_id, "state": state, "digest": sent.digest, **fields})


def looked(snapshot: Snapshot, said: ExecutionInfo | None, *, policy: Policy = POLICY) -> tuple[Decision, Snapshot]:
    decision = decide(snapshot, word=said, policy=policy)
    return decision, after(snapshot, decision.change) if decision.change else snapshot


def event(decision: Decision) -> str | None:
    """What the trail says of it; null if nothing."""
    audit = decision.change.audit if decision.change else None
    return audit.event if audit else None


@pytest.fixture
def deleting(planning: Snapshot) -> Snapshot:
    """Its run is to be cancelled, the delete waits."""
    return submitted(planning, Delete())


def seen(snapshot: Snapshot) -> Snapshot:
    return looked(snapshot, word(snapshot, ExecutionState.RUNNING))[1]


def test_a_run_that_never_arrived_is_sent_again_and_nothing_is_written(planning: Snapshot) -> None:
    decision, _ = looked(planning, None)
    assert (decision.trigger, decision.cancel, decision.change) == (planning.sent, None, None)


def test_a_forgotten_run_is_told_once(planning: Snapshot) -> None:
    decision, forgotten = looked(seen(planning), None)
    assert decision.change is not None
    assert decision.change.audit is not None
    assert (the(forgotten.sent).seen, the(forgotten.sent).state) == (False, ExecutionState.PENDING)
    again, _ = looked(forgotten, None)
    assert (again.trigger, again.cancel, again.change) == (forgotten.sent, None, None)


@pytest.mark.parametrize("known_before", [False, True])
def test_an_unknown_run_that_is_to_be_cancelled_is_sent_then_cancelled(planning: Snapshot, known_before: bool) -> None:
    """Rule 3: so a trigger that is still on its way is absorbed."""
    deleting = submitted(seen(planning) if known_before else planning, Delete())
    decision, _ = looked(deleting, None)
    assert (decision.trigger, decision.cancel) == (deleting.sent, deleting.sent)


def test_a_run_whose_end_is_wanted_is_not_cancelled_unless_it_is(planning: Snapshot, deleting: Snapshot) -> None:
    assert looked(planning, word(planning, ExecutionState.RUNNING))[0].cancel is None
    assert looked(deleting, word(deleting, ExecutionState.RUNNING))[0].cancel is not None


def test_an_engine_that_is_not_configured_is_told_once(planning: Snapshot) -> None:
    decision, stalled = looked(planning, None, policy=ANOTHER)
    assert event(decision) == "engine not configured"
    assert row(stalled).stalled is Stalled.ENGINE_NOT_CONFIGURED
    assert row(stalled).next_check_at is not None, "whoever has an open run is looked at"
    assert looked(stalled, None, policy=ANOTHER)[0].change is None


def test_that_the_record_is_behind_is_not_forgotten_for_the_engine(planning: Snapshot) -> None:
    identity = ResourceIdentity(namespace="default", uid="uid", generation=7)
    behind = submitted(planning, Bind(identity=identity, recorded_generation=7))
    assert row(behind).stalled is Stalled.RECORD_BEHIND
    assert row(looked(behind, None, policy=ANOTHER)[1]).stalled is Stalled.RECORD_BEHIND


@pytest.mark.parametrize("state", [ExecutionState.RUNNING, ExecutionState.SUCCEEDED])
def test_a_run_known_to_another_is_given_up_and_its_successor_sent(planning: Snapshot, state: ExecutionState) -> None:
    taken = word(planning, state, digest="another")
    decision, after_it = looked(planning, taken)
    assert decision.change is not None
    assert [(e.state, e.ended_at) for e in decision.change.updated] == [(ExecutionState.CANCELLED, NOW)]
    assert decision.trigger == after_it.sent
    assert the(after_it.sent).execution_id == "tenant-acme-plan-2"
    assert the(after_it.sent).attempt == 1


def test_an_ended_run_without_a_digest_is_not_ours(planning: Snapshot) -> None:
    """Only of one under way may the engine not know it yet."""
    unknown = word(planning, ExecutionState.RUNNING, digest=None)
    assert the(looked(planning, unknown)[1].sent).state is ExecutionState.RUNNING
    ended = word(planning, ExecutionState.SUCCEEDED, digest=None)
    assert the(looked(planning, ended)[1].sent).execution_id == "tenant-acme-plan-2"


def test_what_a_run_says_while_it_goes_on_is_written_once_and_leaves_no_line(planning: Snapshot) -> None:
    """docs/decisions/0005."""
    failure = WorkflowFailure(code="X", message="not yet")
    said = word(planning, ExecutionState.RETRYING, attempt=3, failure=failure)
    decision, snapshot = looked(planning, said)
    assert decision.change is not None
    assert decision.change.audit is None
    sent = the(snapshot.sent)
    assert (sent.seen, sent.state, sent.engine_attempt, sent.failure) == (True, said.state, 3, failure)
    assert looked(snapshot, said)[0].change is None


@pytest.mark.parametrize("command", [Delete(), Patch(merge={"paused": True})])
def test_every_end_leaves_a_line_with_its_reason(planning: Snapshot, command: Any) -> None:
    """Also one that moves nothing, because the tenant is being deleted or paused."""
    snapshot = submitted(planning, command)
    decision, _ = looked(
        snapshot, word(snapshot, ExecutionState.FAILED, failure=WorkflowFailure(code="X", message="why"))
    )
    assert decision.change is not None
    assert decision.change.audit is not None
    assert (decision.change.audit.event, decision.change.audit.why) == ("run ended", "why")


def test_a_paused_tenant_keeps_what_waits_and_gets_nothing_new(planning: Snapshot) -> None:
    retrying = looked(planning, word(planning, ExecutionState.RETRYING))[1]
    waiting = submitted(submitted(retrying, Replace(compute_config={"v": 1})), Patch(merge={"paused": True}))
    assert waiting.waiting is not None
    ended = word(waiting, ExecutionState.CANCELLED)
    decision, paused = looked(waiting, ended)
    assert (decision.trigger, paused.sent, paused.waiting) == (None, None, waiting.waiting)
    assert looked(paused, None)[0].settled
    alone = submitted(planning, Patch(merge={"paused": True}))
    decision, paused = looked(alone, word(alone, ExecutionState.SUCCEEDED, digest="another"))
    assert (decision.trigger, paused.sent, paused.waiting) == (None, None, None)
    assert row(paused).workflow_execution_id is None


def test_an_engine_that_is_configured_again_stalls_nobody(planning: Snapshot) -> None:
    _, away = looked(planning, None, policy=ANOTHER)
    _, found = looked(away, word(away, ExecutionState.PENDING))
    assert (row(found).stalled, row(found).status_message) == (None, "")
    _, stalled = looked(submitted(planning, Delete()), None, policy=ANOTHER)
    _, gone = looked(stalled, word(stalled, ExecutionState.CANCELLED))
    assert row(gone).stalled is None
    assert the(gone.sent).action is Action.DELETE


def test_back_off_is_waited_for_and_the_next_run_is_sent_when_it_is_over(planning: Snapshot) -> None:
    _, waits = looked(planning, word(planning, ExecutionState.FAILED))
    due = the(waits.waiting).not_before
    assert due == NOW + timedelta(seconds=1)
    assert row(waits).next_check_at == due
    early = looked(replace(waits, now=due - timedelta(milliseconds=1)), None)[0]
    assert (early.change, early.check_in) == (None, 0.001)
    decision, snapshot = looked(replace(waits, now=due), None)
    assert (decision.trigger, event(decision)) == (snapshot.sent, "run sent")
    assert (the(snapshot.sent).attempt, row(snapshot).status) == (2, Status.PLANNING)


def test_a_delete_that_fails_backs_off_though_the_world_has_seen_a_newer_generation(deleting: Snapshot) -> None:
    _, sent = looked(deleting, word(deleting, ExecutionState.CANCELLED))
    identity = ResourceIdentity(namespace="default", uid="uid", generation=7)
    newer = submitted(sent, Bind(identity=identity, recorded_generation=7))
    _, failed = looked(newer, word(newer, ExecutionState.FAILED))
    assert (row(failed).attempts, failed.sent) == (1, None)
    assert the(failed.waiting).not_before == NOW + timedelta(seconds=1)


def test_what_a_delete_finds_to_be_newer_never_lowers_the_generation(deleting: Snapshot) -> None:
    _, sent = looked(deleting, word(deleting, ExecutionState.CANCELLED))
    identity = ResourceIdentity(namespace="default", uid="uid", generation=7)
    newer = submitted(sent, Bind(identity=identity, recorded_generation=7))
    found = WorkflowFailure(code="NewerGeneration", message="", details={"existing_generation": 5})
    assert row(looked(newer, word(newer, ExecutionState.FAILED, failure=found))[1]).generation == 7


@pytest.fixture
def superseded(planning: Snapshot) -> Snapshot:
    """A newer spec waits for the end of its run."""
    return submitted(planning, Replace(compute_config={"v": 1}))


def test_a_newer_spec_waits_for_a_run_that_goes_on(superseded: Snapshot) -> None:
    assert looked(superseded, word(superseded, ExecutionState.RUNNING))[0].cancel is None


def test_a_newer_spec_takes_the_place_of_a_run_that_keeps_failing(superseded: Snapshot) -> None:
    tried = replace(superseded, tenant=replace(row(superseded), attempts=3))
    decision, snapshot = looked(tried, word(tried, ExecutionState.RETRYING))
    assert (decision.cancel, event(decision)) == (snapshot.sent, "interrupt")
    assert the(snapshot.sent).cancel_requested_at == NOW
    assert the(snapshot.waiting).generation == 2
    assert (row(snapshot).attempts, row(snapshot).stalled) == (0, None)


def test_nothing_takes_the_place_of_a_run_while_paused(superseded: Snapshot) -> None:
    paused = submitted(superseded, Patch(merge={"paused": True}))
    assert looked(paused, word(paused, ExecutionState.RETRYING))[0].cancel is None


def test_a_delete_is_superseded_by_nothing(deleting: Snapshot) -> None:
    _, sent = looked(deleting, word(deleting, ExecutionState.CANCELLED))
    identity = ResourceIdentity(namespace="default", uid="uid", generation=7)
    newer = submitted(sent, Bind(identity=identity, recorded_generation=7))
    assert looked(newer, word(newer, ExecutionState.RETRYING))[0].cancel is None


def test_a_run_that_is_overdue_is_cancelled_with_another_behind_it(planning: Snapshot) -> None:
    late = replace(planning, now=NOW + timedelta(seconds=POLICY.deadline))
    early = replace(late, now=late.now - timedelta(seconds=1))
    assert looked(early, word(early, ExecutionState.RUNNING))[0].cancel is None
    decision, snapshot = looked(late, word(late, ExecutionState.RUNNING))
    assert (decision.cancel, event(decision)) == (snapshot.sent, "interrupt")
    assert (row(snapshot).stalled, the(snapshot.waiting).attempt) == (Stalled.DEADLINE_EXCEEDED, 1)
    identity = ResourceIdentity(namespace="default", uid="uid", generation=7)
    behind = submitted(late, Bind(identity=identity, recorded_generation=7))
    assert row(looked(behind, word(behind, ExecutionState.RUNNING))[1]).stalled is Stalled.RECORD_BEHIND


def test_a_cancel_is_asked_for_until_it_is_obeyed_and_forced_after_a_minute(deleting: Snapshot) -> None:
    running = word(deleting, ExecutionState.RUNNING)
    decision, snapshot = looked(deleting, running)
    assert (decision.cancel, decision.force, the(snapshot.sent).seen) == (snapshot.sent, False, True)
    again, _ = looked(snapshot, running)
    assert (again.cancel, again.force, again.change) == (snapshot.sent, False, None)
    late = replace(snapshot, now=NOW + timedelta(seconds=POLICY.force_after))
    assert looked(late, running)[0].force


def test_a_withheld_id_is_shown_once_the_run_is_seen(planning: Snapshot) -> None:
    running = word(planning, ExecutionState.RUNNING)
    withheld = replace(row(seen(planning)), workflow_execution_id=None, status_message="Failed to trigger workflow")
    decision, snapshot = looked(replace(seen(planning), tenant=withheld), running)
    assert event(decision) == "run found"
    assert (row(snapshot).workflow_execution_id, row(snapshot).status_message) == (row(snapshot).head, "")
    failing = replace(row(planning), status_message="plan: why the last one failed")
    shown = row(looked(replace(planning, tenant=failing), running)[1])
    assert shown.status_message == failing.status_message, "nothing was withheld"


def test_what_may_run_and_does_not_is_started() -> None:
    requested = submitted(ABSENT, Create(compute_config={}, paused=True))
    assert looked(requested, None)[0].settled
    decision, snapshot = looked(replace(requested, tenant=replace(row(requested), paused=False)), None)
    assert (decision.trigger, row(snapshot).status) == (snapshot.sent, Status.PLANNING)
    assert the(snapshot.sent).action is Action.PLAN


def test_what_the_engine_refuses_fails(planning: Snapshot) -> None:
    change = refused(planning, the(planning.sent), message="no", policy=POLICY)
    snapshot = after(planning, change)
    assert (row(snapshot).status, row(snapshot).status_message) == (Status.FAILED, "plan: no")
    assert row(snapshot).workflow_execution_id is None
    [ended] = change.updated
    assert (ended.state, ended.ended_at) == (ExecutionState.FAILED, NOW)
    assert ended.failure == WorkflowFailure(code="InvalidRequest", message="no", permanent=True)
    assert change.audit is not None
    assert change.audit.event == "give up"


def test_a_delete_that_the_engine_refuses_is_tried_again_for_ever(deleting: Snapshot) -> None:
    _, sent = looked(deleting, word(deleting, ExecutionState.CANCELLED))
    snapshot = after(sent, refused(sent, the(sent.sent), message="no", policy=POLICY))
    assert (row(snapshot).status, row(snapshot).stalled) == (Status.DELETING, Stalled.DELETE_REFUSED)
    assert the(snapshot.waiting).not_before == NOW + timedelta(seconds=POLICY.backoff_limit)


def test_a_success_is_told_as_such(planning: Snapshot, superseded: Snapshot) -> None:
    assert event(looked(planning, word(planning, ExecutionState.SUCCEEDED))[0]) == "succeed"
    older = looked(superseded, word(superseded, ExecutionState.SUCCEEDED))
    assert event(older[0]) == "succeed for an older generation"
    assert (the(older[1].sent).action, the(older[1].sent).generation) == (Action.PLAN, 2)


def test_when_somebody_looks_again(planning: Snapshot) -> None:
    """Soon while nobody has seen the run or its end is wanted; else its end is pushed, but its deadline is not."""
    hasty = dataclasses.replace(POLICY, trigger_timeout=5)
    forgotten = looked(seen(planning), None, policy=hasty)[1]
    assert row(forgotten).next_check_at == NOW + timedelta(seconds=5)
    found = looked(forgotten, word(forgotten, ExecutionState.RUNNING), policy=hasty)[1]
    assert row(found).next_check_at == NOW + timedelta(seconds=30)
    late = replace(found, now=NOW + timedelta(seconds=POLICY.deadline - 7))
    _, retrying = looked(late, word(found, ExecutionState.RETRYING), policy=hasty)
    assert row(retrying).next_check_at == the(retrying.sent).deadline
    deleting = submitted(forgotten, Delete())
    _, cancelling = looked(deleting, word(deleting, ExecutionState.RUNNING), policy=hasty)
    assert row(cancelling).next_check_at == NOW + timedelta(seconds=2)


def at_rest(snapshot: Snapshot, state: ExecutionState) -> Snapshot:
    """Its run has ended while it was paused, and it no longer is."""
    paused = submitted(snapshot, Patch(merge={"paused": True}))
    _, rests = looked(paused, word(paused, state))
    return replace(rests, tenant=replace(row(rests), paused=False))


def test_what_rests_and_should_not_goes_on(planning: Snapshot, superseded: Snapshot) -> None:
    """Level-triggered: whatever brought the row there."""
    done, older, failed = (
        looked(at_rest(snapshot, state), None)
        for snapshot, state in (
            (planning, ExecutionState.SUCCEEDED),
            (superseded, ExecutionState.SUCCEEDED),
            (planning, ExecutionState.FAILED),
        )
    )
    assert [the(snapshot.sent).execution_id for _, snapshot in (done, older, failed)] == [
        "tenant-acme-provision",
        "tenant-acme-plan-2",
        "tenant-acme-plan-2",
    ]
    assert [event(decision) for decision, _ in (done, older, failed)] == [
        "succeed",
        "succeed for an older generation",
        "fail",
    ]
    _, provisioning = looked(planning, word(planning, ExecutionState.SUCCEEDED))
    _, ready = looked(provisioning, word(provisioning, ExecutionState.SUCCEEDED))
    assert looked(ready, None)[0].settled
    newer = replace(ready, tenant=replace(row(ready), generation=2))
    assert the(looked(newer, None)[1].sent).execution_id == "tenant-acme-update"
    assert looked(replace(ready, tenant=replace(row(ready), status=Status.FAILED)), None)[0].settled
    assert looked(ABSENT, None)[0].settled
