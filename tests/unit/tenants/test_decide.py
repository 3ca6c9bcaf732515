"""One look at one tenant: what is written, what is asked of the engine, and what is written only once. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from landlord.tenants.accept import accept
from landlord.tenants.acceptance import Validation
from landlord.tenants.commands import Bind, Create, Delete, Patch, Replace, Request, ResourceIdentity
from landlord.tenants.decide import Decision, decide
from landlord.tenants.model import Action, Door, Execution, Snapshot, Stalled, Status, Tenant
from landlord.tenants.runs import Policy
from landlord.tenants.service import after
from landlord.workflow.provider import ExecutionInfo, ExecutionState, WorkflowFailure

POLICY = Policy(installation="test", provider="local", complete=lambda _, config: dict(config))
ANOTHER = Policy(installation="test", provider="another", complete=lambda _, config: dict(config))
VALIDATION = Validation(default_provider="mock", faults=lambda _, __: [], check=lambda _: None)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ABSENT = Snapshot(id="acme", now=NOW)


def submitted(snapshot: Snapshot, command: Any) -> Snapshot:
    request = Request(tenant_id="acme", command=command, who="tester", door=Door.API)
    change = accept(snapshot, request, policy=POLICY, validation=VALIDATION).change
    assert change is not None
    return after(snapshot, change)


def word(snapshot: Snapshot, state: ExecutionState, **fields: Any) -> ExecutionInfo:
    """The engine's, on the run that was sent."""
    sent = the(snapshot.sent)
    return ExecutionInfo(**{"execution_id": sent.execution_id, "state": state, "digest": sent.digest, **fields})


def looked(snapshot: Snapshot, said: ExecutionInfo | None, *, policy: Policy = POLICY) -> tuple[Decision, Snapshot]:
    decision = decide(snapshot, word=said, policy=policy)
    return decision, after(snapshot, decision.change) if decision.change else snapshot


def the(execution: Execution | None) -> Execution:
    assert execution is not None
    return execution


def row(snapshot: Snapshot) -> Tenant:
    assert snapshot.tenant is not None
    return snapshot.tenant


@pytest.fixture
def planning() -> Snapshot:
    """A tenant whose first run was sent, and seen by nobody."""
    return submitted(ABSENT, Create(compute_config={}))


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
    _, stalled = looked(planning, None, policy=ANOTHER)
    assert row(stalled).stalled is Stalled.ENGINE_NOT_CONFIGURED
    assert looked(stalled, None, policy=ANOTHER)[0].change is None


def test_that_the_record_is_behind_is_not_forgotten_for_the_engine(planning: Snapshot) -> None:
    identity = ResourceIdentity(namespace="default", uid="uid", generation=7)
    behind = submitted(planning, Bind(identity=identity, recorded_generation=7))
    assert row(behind).stalled is Stalled.RECORD_BEHIND
    assert row(looked(behind, None, policy=ANOTHER)[1]).stalled is Stalled.RECORD_BEHIND


def test_a_run_known_to_another_is_given_up_and_its_successor_sent(planning: Snapshot) -> None:
    taken = word(planning, ExecutionState.SUCCEEDED, digest="another")
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
    assert decision.trigger == snapshot.sent
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
