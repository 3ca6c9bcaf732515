"""What the end of a run moves, and what follows it, case by case. Pure."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from landlord import canonical
from landlord.tenants import metadata, outcome, runs
from landlord.tenants.lifecycle import ACTIONS, Event
from landlord.tenants.model import Action, Door, Execution, Stalled, Status, Tenant
from landlord.tenants.outcome import OBSERVED_LIMIT
from landlord.tenants.runs import Policy
from landlord.workflow.provider import ExecutionInfo, ExecutionState, WorkflowFailure

POLICY = Policy(installation="test", provider="local", complete=lambda _, config: dict(config))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def under_way(status: Status, **changes: Any) -> tuple[Tenant, Execution]:
    """A tenant in that status and its run."""
    tenant = Tenant(
        id="acme",
        incarnation="one",
        status=status,
        compute_provider="mock",
        compute_config={},
        generation=2,
        version=2,
        created_at=NOW,
        updated_at=NOW,
    )
    return runs.new_run(
        tenant=replace(tenant, **changes), action=ACTIONS[status], source=Door.API, now=NOW, policy=POLICY, send=True
    )


def waiting(tenant: Tenant) -> tuple[Tenant, Execution]:
    """The same action again, waiting behind."""
    return runs.new_run(
        tenant=tenant, action=ACTIONS[tenant.status], source=Door.API, now=NOW, policy=POLICY, send=False
    )


def closed(execution: Execution, state: ExecutionState, **fields: Any) -> Execution:
    word = ExecutionInfo(execution_id=execution.execution_id, state=state, digest=execution.digest, **fields)
    return outcome.close(execution, word, now=NOW)


def failed(status: Status, failure: WorkflowFailure | None = None, **changes: Any) -> outcome.Outcome:
    tenant, run = under_way(status, **changes)
    return outcome.fail(tenant, closed(run, ExecutionState.FAILED, failure=failure), now=NOW, policy=POLICY)


def test_an_end_is_written_down_as_the_engine_tells_it() -> None:
    _, run = under_way(Status.UPDATING)
    done = closed(run, ExecutionState.SUCCEEDED, output={"health": "healthy"}, attempt=3)
    assert (done.seen, done.engine_attempt, done.ended_at) == (True, 3, NOW)
    assert (done.error, done.output) == (None, {"health": "healthy"})
    odd = closed(run, ExecutionState.TIMED_OUT, output=["no object"])
    assert (odd.output, odd.failure) == (None, WorkflowFailure(code="timed_out", message="the run ended as timed out"))


def test_what_is_observed_is_cut_to_size_the_configuration_first() -> None:
    frame = len(canonical.dumps({"health": ""}))
    fits = {"health": "x" * (OBSERVED_LIMIT - frame)}
    assert outcome.cut(fits) == fits
    assert outcome.cut({"health": fits["health"] + "x"}) == {"truncated": True}
    assert outcome.cut({"health": "ok", "config": fits}) == {"health": "ok", "truncated": True}
    left = OBSERVED_LIMIT - len(canonical.dumps({"health": "", "truncated": True}))
    assert outcome.cut({"health": "x" * left, "config": "y"})["health"] == "x" * left


def test_a_success_clears_what_was_wrong() -> None:
    tenant, run = under_way(Status.UPDATING, stalled=Stalled.ENGINE_PAUSED, attempts=3, status_message="why")
    done = closed(run, ExecutionState.SUCCEEDED, output={"a": 1})
    ready, following, event = outcome.succeed(tenant, done, waiting=None, now=NOW, policy=POLICY)
    assert (ready.status, following, event) == (Status.READY, None, Event.SUCCEED)
    assert (ready.stalled, ready.attempts, ready.status_message) == (None, 0, "")
    assert (ready.observed_generation, ready.observed_config) == (2, {"a": 1})
    assert (ready.head, ready.workflow_execution_id, ready.deleted_at) == (run.execution_id, None, None)


def test_a_success_does_not_bring_a_record_up_that_is_behind() -> None:
    tenant, run = under_way(Status.UPDATING, stalled=Stalled.RECORD_BEHIND, status_message="why")
    done = closed(run, ExecutionState.SUCCEEDED)
    later = replace(tenant, generation=7)
    behind, following, _ = outcome.succeed(later, done, waiting=None, now=NOW, policy=POLICY)
    assert (behind.stalled, behind.status_message, following) == (Stalled.RECORD_BEHIND, "why", None)


def test_what_waits_behind_a_success_is_sent_only_for_a_newer_generation() -> None:
    tenant, run = under_way(Status.PLANNING)
    tenant, behind = waiting(tenant)
    done = closed(run, ExecutionState.SUCCEEDED)
    _, following, _ = outcome.succeed(tenant, done, waiting=behind, now=NOW, policy=POLICY)
    assert following is not None
    assert following.execution_id == "tenant-acme-provision"
    newer = replace(tenant, generation=3, head=None, workflow_execution_id=None)
    later, following, _ = outcome.succeed(newer, done, waiting=behind, now=NOW, policy=POLICY)
    assert following is not None
    assert (following.execution_id, following.generation) == (behind.execution_id, 3)
    assert later.head == later.workflow_execution_id == behind.execution_id


@pytest.mark.parametrize("attempts", [0, 3])
def test_a_failure_spends_an_attempt(attempts: int) -> None:
    tenant, following, event = failed(Status.UPDATING, attempts=attempts)
    assert (tenant.attempts, tenant.status, event) == (attempts + 1, Status.UPDATING, Event.FAIL)
    assert following is not None
    assert following.not_before == NOW + timedelta(seconds=2**attempts)


def test_the_fifth_failure_is_the_last() -> None:
    tenant, following, event = failed(Status.UPDATING, attempts=4)
    assert (tenant.status, following, event) == (Status.FAILED, None, Event.GIVE_UP)
    assert (tenant.head, tenant.workflow_execution_id) == ("tenant-acme-update", None)


def test_a_permanent_failure_is_the_last() -> None:
    tenant, following, _ = failed(Status.UPDATING, WorkflowFailure(code="X", message="no", permanent=True))
    assert (tenant.status, following, tenant.status_message) == (Status.FAILED, None, "update: no")


@pytest.mark.parametrize(("attempts", "stalled"), [(3, None), (4, Stalled.DELETE_FAILING)])
def test_a_delete_is_tried_for_ever_and_says_so_after_the_fifth(attempts: int, stalled: Stalled | None) -> None:
    permanent = WorkflowFailure(code="X", message="no", permanent=True)
    tenant, following, _ = failed(Status.DELETING, permanent, attempts=attempts)
    assert (tenant.status, tenant.stalled) == (Status.DELETING, stalled)
    assert following is not None


def test_a_failure_of_an_older_generation_counts_for_nothing() -> None:
    tenant, run = under_way(Status.UPDATING, attempts=3, stalled=Stalled.ENGINE_PAUSED)
    ended = closed(run, ExecutionState.FAILED)
    newer, following, _ = outcome.fail(replace(tenant, generation=3), ended, now=NOW, policy=POLICY)
    assert (newer.attempts, newer.stalled) == (0, None)
    assert following is not None
    assert (following.generation, following.attempt, following.sent_at) == (3, 1, NOW)


def test_what_failed_while_paused_is_not_tried_again_yet() -> None:
    tenant, following, _ = failed(Status.UPDATING, paused=True)
    assert (tenant.attempts, following, tenant.workflow_execution_id) == (1, None, None)
    tenant, run = under_way(Status.UPDATING, paused=True, attempts=3)
    ended = closed(run, ExecutionState.FAILED)
    newer, following, _ = outcome.fail(replace(tenant, generation=3), ended, now=NOW, policy=POLICY)
    assert (newer.attempts, following, newer.head) == (0, None, run.execution_id)


def test_a_delete_goes_on_while_paused_or_behind() -> None:
    for held in ({"paused": True}, {"stalled": Stalled.RECORD_BEHIND}):
        assert failed(Status.DELETING, **held)[1] is not None


def test_a_record_is_never_brought_back_behind_itself() -> None:
    found = WorkflowFailure(code="NewerGeneration", message="", details={"existing_generation": 1})
    tenant, following, _ = failed(Status.UPDATING, found)
    assert (tenant.stalled, tenant.generation, tenant.attempts, following) == (Stalled.RECORD_BEHIND, 2, 0, None)


def test_only_a_delete_is_tried_again_after_the_engine_refused_it() -> None:
    tenant, run = under_way(Status.DELETING, attempts=2)
    refused, following, _ = outcome.refuse(tenant, closed(run, ExecutionState.FAILED), now=NOW, policy=POLICY)
    assert (refused.status, refused.stalled, refused.attempts) == (Status.DELETING, Stalled.DELETE_REFUSED, 3)
    assert following is not None
    assert (following.action, following.attempt) == (Action.DELETE, 4)
    tenant, run = under_way(Status.UPDATING)
    refused, following, _ = outcome.refuse(tenant, closed(run, ExecutionState.FAILED), now=NOW, policy=POLICY)
    assert (refused.status, following) == (Status.FAILED, None)


def test_the_end_of_an_earlier_life_moves_nothing() -> None:
    tenant, run = under_way(Status.UPDATING)
    assert outcome.concerns(tenant, run)
    assert not outcome.concerns(replace(tenant, incarnation="two"), run)
    assert not outcome.concerns(replace(tenant, status=Status.DELETING), run)
    assert not outcome.concerns(replace(tenant, status=Status.READY), run)


def test_back_off_doubles_up_to_its_limit() -> None:
    """Of a delete, too, which is tried for ever."""
    assert dataclasses.replace(POLICY, backoff=0.5).delay(10_000) == 300
    assert [POLICY.delay(attempts) for attempts in (0, 1, 2, 3, 9, 10, 10_000)] == [1, 1, 2, 4, 256, 300, 300]


def test_a_wish_to_end_a_run_is_as_old_as_the_first() -> None:
    """Or no change after it would ever let a minute pass (rule 2)."""
    _, run = under_way(Status.UPDATING)
    wished = runs.request_cancel(run, now=NOW, why="first")
    assert runs.request_cancel(wished, now=NOW + timedelta(seconds=50), why="second") == wished


def test_what_is_frozen_says_which_attempt_it_is() -> None:
    """And belongs to the engine there is by then."""
    tenant, run = under_way(Status.UPDATING, attempts=2)
    assert b'"attempt":3' in (run.payload or b"")
    elsewhere = dataclasses.replace(POLICY, provider="another")
    assert runs.freeze(run, tenant=tenant, now=NOW, policy=elsewhere).provider == "another"


def test_what_is_never_sent_says_why() -> None:
    tenant, _ = under_way(Status.UPDATING)
    _, behind = waiting(tenant)
    unsent = runs.close_unsent(behind, now=NOW, why="needless")
    assert (unsent.state, unsent.ended_at, unsent.sent_at) == (ExecutionState.CANCELLED, NOW, None)
    assert unsent.failure == WorkflowFailure(code="Superseded", message="needless")


def test_labels_and_annotations_are_allowed_up_to_their_limits() -> None:
    labels = {str(number): "" for number in range(metadata.MOST_LABELS)}
    assert metadata.labels_fault(labels) is None
    assert metadata.labels_fault({**labels, "one": "more"}) is not None
    assert metadata.annotations_fault({"k": "x" * (metadata.ANNOTATIONS_LIMIT - 1)}) is None
    assert metadata.annotations_fault({"k": "x" * metadata.ANNOTATIONS_LIMIT}) is not None
