"""What a request does to a row where rules meet: what runs now, after what is under way, or not at all. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fixtures.lives import (
    ABSENT,
    IDENTITY,
    NOW,
    PAUSE,
    POLICY,
    UNPAUSE,
    decided,
    ended,
    row,
    submitted,
    the,
)
from msgspec.structs import replace

from landlord.tenants.accept import accept
from landlord.tenants.acceptance import Validation
from landlord.tenants.commands import (
    Bind,
    Create,
    Delete,
    Edit,
    Patch,
    Remove,
    Replace,
    Request,
    Retry,
)
from landlord.tenants.decide import decide
from landlord.tenants.errors import Conflict, Exists, Fault, Gone, Invalid, NotFound, PreconditionFailed
from landlord.tenants.model import Door, Remains, Snapshot, Stalled, Status
from landlord.tenants.service import after
from landlord.workflow.provider import ExecutionInfo, ExecutionState, InvalidRequest, WorkflowRequest


def test_a_plan_is_nothing_that_was_observed(planning: Snapshot) -> None:
    planned = row(ended(planning))
    assert (planned.status, planned.observed_generation, planned.observed_config) == (Status.PROVISIONING, None, None)


def test_what_is_created_paused_runs_once_unpaused() -> None:
    requested = submitted(ABSENT, Create(compute_config={}, paused=True))
    assert (row(requested).status, requested.executions) == (Status.REQUESTED, ())
    change = decided(requested, Replace(compute_config={"v": 1})).change
    assert change is not None
    assert change.audit is not None
    assert change.audit.event == "change spec"
    changed = after(requested, change)
    assert (row(changed).status, changed.executions, row(changed).generation) == (Status.REQUESTED, (), 2)
    started = submitted(changed, UNPAUSE)
    assert (row(started).status, the(started.sent).generation) == (Status.PLANNING, 2)


def test_unpausing_starts_nothing_beside_what_is_under_way(planning: Snapshot) -> None:
    unpaused = submitted(planning, PAUSE, UNPAUSE)
    assert (unpaused.sent, unpaused.waiting) == (planning.sent, None)
    assert not decided(submitted(planning, PAUSE), UNPAUSE).started


def test_what_is_being_deleted_is_neither_paused_nor_unpaused(planning: Snapshot) -> None:
    for command in (PAUSE, UNPAUSE):
        with pytest.raises(Conflict):
            decided(submitted(planning, PAUSE, Delete()), command)


def test_unpausing_goes_on_where_a_run_ended_meanwhile(planning: Snapshot) -> None:
    paused = ended(submitted(planning, PAUSE))
    assert (paused.sent, paused.waiting) == (None, None)
    assert the(submitted(paused, UNPAUSE).sent).execution_id == "tenant-acme-provision"


def test_unpausing_repeats_what_failed_and_what_was_of_an_older_spec(planning: Snapshot) -> None:
    failed = ended(submitted(planning, PAUSE), ExecutionState.FAILED)
    assert the(submitted(failed, UNPAUSE).sent).execution_id == "tenant-acme-plan-2"
    planned = ended(submitted(planning, PAUSE, Replace(compute_config={"v": 1})))
    assert the(submitted(planned, UNPAUSE).sent).execution_id == "tenant-acme-plan-2"
    provisioned = ended(submitted(ended(planning), PAUSE, Replace(compute_config={"v": 1})))
    updating = submitted(provisioned, UNPAUSE)
    assert (row(updating).status, the(updating.sent).execution_id) == (Status.UPDATING, "tenant-acme-update")


def test_unpausing_what_is_ready_runs_only_a_newer_spec(ready: Snapshot) -> None:
    assert submitted(ready, PAUSE, UNPAUSE).sent is None
    changed = submitted(ready, PAUSE, Replace(compute_config={"v": 1}))
    assert (row(changed).status, changed.sent) == (Status.READY, None)
    assert the(submitted(changed, UNPAUSE).sent).execution_id == "tenant-acme-update"


def test_labels_start_nothing(planning: Snapshot) -> None:
    """Neither in the midst of a back-off nor while paused."""
    labels = Patch(merge={"labels": {"a": "b"}})
    waits = ended(planning, ExecutionState.FAILED)
    changed = decided(waits, labels)
    assert not changed.started
    assert changed.change is not None
    assert (changed.change.added, changed.change.updated) == (None, ())
    assert changed.change.tenant.generation == 1
    paused = submitted(planning, PAUSE)
    for each in (paused, ended(paused)):
        stalled = replace(each, tenant=replace(row(each), stalled=Stalled.DEADLINE_EXCEEDED))
        assert row(submitted(stalled, labels)).stalled is Stalled.DEADLINE_EXCEEDED


def test_what_is_looked_at_soon_is_not_put_off_by_a_change(planning: Snapshot) -> None:
    due = NOW + timedelta(seconds=1)
    soon = replace(planning, tenant=replace(row(planning), next_check_at=due))
    assert row(submitted(soon, Patch(merge={"labels": {"a": "b"}}))).next_check_at == due
    nobody = replace(planning, tenant=replace(row(planning), next_check_at=None))
    assert row(submitted(nobody, Patch(merge={"labels": {"a": "b"}}))).next_check_at is not None


def test_a_newer_spec_runs_at_once_between_two_runs(planning: Snapshot) -> None:
    waits = ended(planning, ExecutionState.FAILED)
    changed = submitted(waits, Replace(compute_config={"v": 1}))
    sent = the(changed.sent)
    assert sent.execution_id == the(waits.waiting).execution_id, "rewritten in place"
    assert (sent.generation, sent.not_before, sent.attempt) == (2, None, 1)


def test_a_newer_spec_waits_for_what_does_not_fail(planning: Snapshot) -> None:
    changed = decided(planning, Replace(compute_config={"v": 1}))
    assert changed.started
    assert changed.change is not None
    assert (changed.change.added, changed.change.updated) == (None, ())


@pytest.mark.parametrize("state", [ExecutionState.RETRYING, ExecutionState.PAUSED])
def test_a_newer_spec_takes_the_place_of_what_keeps_failing(planning: Snapshot, state: ExecutionState) -> None:
    degraded = replace(planning, executions=(replace(the(planning.sent), state=state),))
    changed = submitted(degraded, Replace(compute_config={"v": 1}))
    assert the(changed.sent).cancel_requested_at is not None
    assert the(changed.sent).cancel_reason == "superseded by a newer spec"
    assert the(changed.waiting).generation == 2
    again = submitted(changed, Replace(compute_config={"v": 2}))
    assert the(again.waiting).execution_id == the(changed.waiting).execution_id
    assert the(again.waiting).generation == 3


def test_a_newer_spec_goes_with_what_waits_behind_a_cancelled_run(planning: Snapshot) -> None:
    overdue = replace(planning, now=NOW + timedelta(seconds=POLICY.deadline))
    sent = the(overdue.sent)
    word = ExecutionInfo(execution_id=sent.execution_id, state=ExecutionState.RUNNING, digest=sent.digest)
    change = decide(overdue, word=word, policy=POLICY).change
    assert change is not None
    cancelled = after(overdue, change)
    unsure = replace(cancelled, tenant=replace(row(cancelled), workflow_execution_id=None))  # it did not get through
    for snapshot in (cancelled, unsure):
        changed = submitted(snapshot, Replace(compute_config={"v": 1}))
        assert (the(changed.waiting).execution_id, the(changed.waiting).generation) == ("tenant-acme-plan-2", 2)
        assert row(changed).head == row(changed).workflow_execution_id == "tenant-acme-plan-2"


def test_a_delete_forgets_what_was_before(planning: Snapshot) -> None:
    tenant = replace(row(planning), stalled=Stalled.ENGINE_PAUSED, attempts=3, unanswered=True, status_message="why")
    deleting = submitted(replace(planning, tenant=tenant), Delete())
    found = row(deleting)
    assert (found.stalled, found.attempts, found.unanswered, found.status_message) == (None, 0, False, "")
    assert the(deleting.sent).cancel_reason == "deleted"
    assert the(deleting.waiting).execution_id == "tenant-acme-delete"


def test_a_new_life_goes_on_counting(ready: Snapshot) -> None:
    deleted = ended(submitted(ready, Delete()))
    assert (row(deleted).status, row(deleted).deleted_at, row(deleted).observed_config) == (Status.DELETED, NOW, None)
    again = submitted(deleted, Create(compute_config={}))
    assert row(again).incarnation != row(ready).incarnation
    assert (row(again).generation, row(again).version) == (row(deleted).generation + 1, row(deleted).version + 1)
    assert row(again).revision == row(deleted).revision + 1
    assert the(again.sent).execution_id == "tenant-acme-plan-2"
    purged = replace(ABSENT, remains=Remains(generation=7, version=8, counters={"plan": 9}))
    again = submitted(purged, Create(compute_config={}))
    assert (row(again).generation, row(again).version, row(again).revision) == (8, 9, 1)
    assert the(again.sent).execution_id == "tenant-acme-plan-10"


def test_a_retry_says_what_is_wanted_of_a_record_that_is_behind(ready: Snapshot) -> None:
    behind = submitted(ready, Bind(identity=IDENTITY, recorded_generation=7))
    retried = submitted(behind, Retry())
    assert (row(retried).status, row(retried).stalled, the(retried.sent).generation) == (Status.UPDATING, None, 8)


@pytest.mark.parametrize(
    "command",
    [
        Replace(compute_config={"v": 1}),
        Patch(merge={"labels": {"a": "b"}}),
        Delete(),
        Edit(identity=IDENTITY, compute_config={"v": 1}),
        Remove(identity=IDENTITY, retain=False),
        Bind(identity=IDENTITY),
    ],
)
def test_every_change_is_made_on_the_version_it_names(ready: Snapshot, command: Any) -> None:
    with pytest.raises(PreconditionFailed):
        decided(ready, command, if_match=frozenset({row(ready).version + 1}))
    assert decided(ready, command, if_match=frozenset({row(ready).version})).change is not None


@pytest.mark.parametrize(
    "command", [Replace(compute_config={}), Patch(merge={}), Delete(), Retry(), Bind(identity=IDENTITY)]
)
def test_what_is_not_there_or_no_longer_cannot_be_changed(ready: Snapshot, command: Any) -> None:
    with pytest.raises(NotFound):
        decided(ABSENT, command)
    with pytest.raises(Gone):
        decided(ended(submitted(ready, Delete())), command)


def test_a_newer_spec_does_not_wait_for_a_run_that_may_not_have_been_started(unanswered: Snapshot) -> None:
    changed = submitted(unanswered, Replace(compute_config={"v": 1}))
    assert the(changed.sent).cancel_requested_at is not None
    assert the(changed.waiting).generation == 2


def test_a_repeated_delete_goes_on_with_the_first(planning: Snapshot) -> None:
    deleting = submitted(planning, Delete())
    again = decided(deleting, Delete())
    assert (again.change, again.started, again.repeat) == (None, True, False)
    with pytest.raises(PreconditionFailed):
        decided(deleting, Delete(), if_match=frozenset({99}))
    failed = replace(deleting, tenant=replace(row(deleting), workflow_execution_id=None))
    again = decided(failed, Delete(), if_match=frozenset({99}))
    assert (again.change, again.started, again.repeat) == (None, True, True)


def test_only_what_makes_no_progress_is_retried(planning: Snapshot, ready: Snapshot, unanswered: Snapshot) -> None:
    for snapshot in (planning, ready, submitted(planning, Delete())):
        with pytest.raises(Conflict):
            decided(snapshot, Retry())
    again = decided(unanswered, Retry())
    assert (again.change, again.started, again.repeat) == (None, True, True)
    assert row(submitted(unanswered, Retry(compute_config={"v": 1}))).generation == 2
    stalled = replace(planning, tenant=replace(row(planning), stalled=Stalled.ENGINE_PAUSED))
    assert decided(stalled, Retry()).change is not None


def test_a_retry_is_of_the_same_generation_unless_it_brings_another_spec(refused: Snapshot) -> None:
    same, other = (submitted(refused, Retry(compute_config=config)) for config in (None, {"v": 0}))
    assert [(row(each).generation, row(each).status) for each in (same, other)] == [
        (1, Status.PLANNING),
        (2, Status.PLANNING),
    ]
    told = replace(refused, tenant=replace(row(refused), status_message="plan: not taken"))
    again = row(submitted(told, Retry(compute_config={"v": 5})))
    assert (again.compute_config, again.status_message) == ({"v": 5}, "")
    with pytest.raises(PreconditionFailed):
        decided(refused, Retry(), if_match=frozenset({99}))
    with pytest.raises(Conflict):
        decided(replace(refused, tenant=replace(row(refused), paused=True)), Retry())
    wrong = Validation(
        default_provider="mock", faults=lambda _, __: [Fault(pointer="/v", message="no")], check=lambda _: None
    )
    request = Request(tenant_id="acme", command=Retry(), who="tester", door=Door.API)
    with pytest.raises(Invalid):
        accept(refused, request, policy=POLICY, validation=wrong)


def test_a_delete_is_retried_with_what_it_has(planning: Snapshot) -> None:
    deleting = submitted(planning, Delete())
    failing = replace(deleting, tenant=replace(row(deleting), stalled=Stalled.DELETE_FAILING))
    with pytest.raises(Conflict):
        decided(failing, Retry(compute_config={"v": 1}))
    wrong = Validation(
        default_provider="mock", faults=lambda _, __: [Fault(pointer="/v", message="no")], check=lambda _: None
    )
    request = Request(tenant_id="acme", command=Retry(), who="tester", door=Door.API)
    assert accept(failing, request, policy=POLICY, validation=wrong).change is not None


def test_a_post_of_what_lives_is_refused(ready: Snapshot) -> None:
    with pytest.raises(Exists):
        decided(ready, Create(compute_config={"v": 0}))


def test_a_repeated_post_is_the_request_it_repeats(unanswered: Snapshot) -> None:
    """docs/decisions/0003."""
    repeat = decided(unanswered, Create(compute_config={"v": 0}))
    assert (repeat.change, repeat.started, repeat.repeat) == (None, True, True)
    seen = replace(unanswered, tenant=replace(row(unanswered), workflow_execution_id=row(unanswered).head))
    answered = submitted(seen, Create(compute_config={"v": 0}))
    assert (row(answered).unanswered, row(answered).version) == (False, row(seen).version)
    for other in (Create(compute_config={"v": 1}), Create(compute_config={"v": 0}, compute_provider="docker")):
        with pytest.raises(Exists):
            decided(unanswered, other)


def test_a_post_corrects_one_that_the_engine_refused(refused: Snapshot) -> None:
    corrected = submitted(refused, Create(compute_config={"v": 1}))
    assert (row(corrected).status, row(corrected).generation, row(corrected).unanswered) == (Status.PLANNING, 2, False)
    assert the(corrected.sent).execution_id == "tenant-acme-plan-2"
    assert row(submitted(refused, Create(compute_config={"v": 0}))).generation == 1


def test_a_repeated_post_says_what_is_wanted_of_a_record_that_is_behind(refused: Snapshot) -> None:
    """The same spec under the generation that the world has seen would replace the newer one."""
    behind = submitted(refused, Bind(identity=IDENTITY, recorded_generation=7))
    again = submitted(behind, Create(compute_config={"v": 0}))
    assert (row(again).stalled, row(again).generation, the(again.sent).generation) == (None, 8, 8)


def test_a_put_repeats_only_what_it_would_have_made(unanswered: Snapshot) -> None:
    repeat = decided(unanswered, Replace(compute_config={"v": 0}))
    assert (repeat.change, repeat.started, repeat.repeat) == (None, True, True)
    assert decided(unanswered, Replace(compute_config={"v": 0}, labels={"a": "b"})).change is not None
    assert decided(unanswered, Replace(compute_config={"v": 1})).change is not None


@pytest.mark.parametrize(
    "command",
    [
        Replace(compute_config={"v": 1}),
        Patch(merge={"compute_config": {"v": 1}}),
        Edit(identity=IDENTITY, compute_config={"v": 1}),
    ],
)
def test_what_is_wrong_with_a_configuration_is_told_before_anything_is_stored(
    ready: Snapshot, refused: Snapshot, command: Any
) -> None:
    wrong = Validation(
        default_provider="mock",
        faults=lambda _, __: [Fault(pointer="/compute_config/v", message="no")],
        check=lambda _: None,
    )
    for snapshot, each in ((ready, command), (refused, Create(compute_config={"v": 1}))):
        request = Request(tenant_id="acme", command=each, who="tester", door=Door.API)
        with pytest.raises(Invalid):
            accept(snapshot, request, policy=POLICY, validation=wrong)


def test_what_the_engine_would_refuse_is_told_before_anything_is_stored_but_for_a_delete(planning: Snapshot) -> None:
    def too_large(_: WorkflowRequest) -> None:
        raise InvalidRequest("too large")

    strict = Validation(default_provider="mock", faults=lambda _, __: [], check=too_large)
    waits = ended(planning, ExecutionState.FAILED)
    for snapshot, command in ((ABSENT, Create(compute_config={})), (waits, Replace(compute_config={"v": 1}))):
        request = Request(tenant_id="acme", command=command, who="tester", door=Door.API)
        with pytest.raises(Invalid):
            accept(snapshot, request, policy=POLICY, validation=strict)
    request = Request(tenant_id="acme", command=Delete(), who="tester", door=Door.API)
    assert accept(waits, request, policy=POLICY, validation=strict).change is not None


@pytest.mark.parametrize(
    "command",
    [
        Replace(compute_config={"v": 1}, compute_provider="docker"),
        Patch(merge={"compute_provider": "docker"}),
        Edit(identity=IDENTITY, compute_config={"v": 1}, compute_provider="docker"),
    ],
)
def test_the_provider_cannot_change(ready: Snapshot, command: Any) -> None:
    with pytest.raises(Invalid):
        decided(ready, command)
