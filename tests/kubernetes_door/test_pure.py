"""The pure parts: stamps, classification, patches, status, conditions, events."""

from __future__ import annotations

import copy
import dataclasses
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from landlord import canonical, mirror
from landlord.kubernetes import WRITER, TenantResources
from landlord.mirror import FINALIZER, INCARNATION, LATE, STAMP, Owner, Resource, Stamp
from landlord.tenants.model import Action, DeletionPolicy, Door, Execution, Snapshot, Stalled, Status, Tenant
from landlord.workflow.provider import ExecutionState, WorkflowFailure
from landlord_operator import conditions, events, status
from landlord_operator.conditions import Refusal
from landlord_operator.passes import Sighting

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
LIFE = str(uuid.UUID(int=1))

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(max_size=5)
configs = st.dictionaries(
    st.text(max_size=5),
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)),
    max_size=4,
)


def tenant(**changes: Any) -> Tenant:
    values: dict[str, Any] = {
        "id": "acme",
        "incarnation": LIFE,
        "status": Status.READY,
        "compute_provider": "mock",
        "compute_config": {"size": 1},
        "generation": 3,
        "observed_generation": 3,
        "version": 4,
        "revision": 9,
        "namespace": "home",
        "resource_uid": "u1",
        "resource_generation": 1,
        "created_at": NOW,
        "updated_at": NOW,
        "deleted_at": LATER if changes.get("status") is Status.DELETED else None,
    }
    return Tenant(**{**values, **changes})


def resource(**changes: Any) -> Resource:
    values: dict[str, Any] = {
        "namespace": "home",
        "name": "acme",
        "uid": "u1",
        "generation": 1,
        "resource_version": "7",
        "created_at": NOW,
        "terminating": False,
        "finalizers": (FINALIZER,),
        "annotations": {},
        "writers": frozenset({WRITER}),
        "stampers": frozenset({WRITER}),
        "spec": mirror.spec(tenant()),
        "status": {},
    }
    return Resource(**{**values, **changes})


def applied(found: Resource, operations: list[dict[str, Any]]) -> Resource:
    """What the API server makes of our patches."""
    body: dict[str, Any] = {
        "metadata": {"annotations": dict(found.annotations), "finalizers": list(found.finalizers)},
        "spec": copy.deepcopy(dict(found.spec)),
    }
    for operation in operations:
        if operation["op"] == "test":
            continue
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place = body
        for part in parents:
            place = place[part]
        place[last] = operation["value"]
    changed = not canonical.equal(body["spec"], found.spec)
    return dataclasses.replace(
        found,
        generation=found.generation + changed,
        annotations=body["metadata"]["annotations"],
        finalizers=tuple(body["metadata"]["finalizers"]),
        spec=body["spec"],
    )


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.binary())
def test_stamp_there_and_back(generation: int, record: int, data: bytes) -> None:
    stamp = Stamp(resource_generation=generation, record_generation=record, sha=canonical.digest(data))
    assert Stamp.parse(str(stamp)) == stamp


@pytest.mark.parametrize("text", [None, "", "v2:1:1:" + "0" * 64, "v1:1:1:0", "v1:-1:1:" + "0" * 64, "v1:1:1"])
def test_stamp_of_somebody_else(text: str | None) -> None:
    assert Stamp.parse(text) is None


@given(configs, configs, st.booleans(), st.sampled_from(DeletionPolicy), st.booleans(), st.booleans())
def test_one_patch_makes_the_mirror_and_is_no_edit(
    before: dict[str, Any], after: dict[str, Any], paused: bool, policy: DeletionPolicy, held: bool, noted: bool
) -> None:
    row = tenant(compute_config=after, paused=paused, deletion_policy=policy)
    found = resource(
        spec=mirror.spec(tenant(compute_config=before)),
        finalizers=(FINALIZER, "other/one") if held else ("other/one",),
        annotations={"kubectl": "x"} if noted else {},
    )
    operations = mirror.mirror_patch(row, found)
    assert operations is not None
    assert operations[1] == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    written = applied(found, operations)
    assert written.described
    assert canonical.equal(written.spec, mirror.spec(row))
    assert not mirror.is_edit(replace(row, resource_uid="another"), written)
    assert mirror.mirror_patch(row, written) is None
    assert mirror.same_spec(row, written)
    assert {FINALIZER, "other/one"} == set(written.finalizers)
    assert ("kubectl" in written.annotations) is noted


def stored(body: dict[str, Any]) -> dict[str, Any]:
    """What the API server makes of a resource of ours that is created."""
    known = {"uid": "new", "generation": 1, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    annotations = {f"f:{name}": {} for name in body["metadata"]["annotations"]}
    fields = [{"manager": WRITER, "fieldsV1": {"f:metadata": {"f:annotations": annotations}, "f:spec": {}}}]
    return {**body, "metadata": {**body["metadata"], **known, "managedFields": fields}}


@given(configs)
def test_new_resource_is_its_own_mirror(config: dict[str, Any]) -> None:
    row = tenant(compute_config=config, namespace=None, resource_uid=None, resource_generation=None)
    body = mirror.new_resource(row, namespace="home")
    made = Resource.parse(stored(body))
    assert made.described
    assert mirror.owner(row, made) is Owner.OURS
    assert not mirror.is_edit(row, made)
    assert mirror.mirror_patch(row, made) is None


@pytest.mark.parametrize(("uid", "edit"), [("u1", False), ("u2", True), (None, True)])
def test_a_copied_stamp_describes_only_what_the_row_is_bound_to(uid: str | None, edit: bool) -> None:
    """On the bound resource generations go on, and tell by themselves that a stamp is old."""
    row = tenant(resource_uid=uid, resource_generation=7)
    copied = resource(annotations={INCARNATION: LIFE, **MIRRORED}, stampers=frozenset({"kubectl"}))
    assert copied.described
    assert mirror.is_edit(row, copied) is edit
    signed = dataclasses.replace(copied, stampers=frozenset({"kubectl", WRITER}))
    assert not mirror.is_edit(row, signed)
    assert mirror.is_edit(row, dataclasses.replace(signed, generation=2)), "edited since, whoever has stamped it"


def test_integral_floats_are_written_as_integers() -> None:
    """The API server keeps 1.0 as 1: written otherwise, every write of ours would look like an edit."""
    written = mirror.spec(tenant(compute_config={"a": 1.0, "b": 1.5}))["computeConfig"]
    assert [type(value) for value in written.values()] == [int, float]


EARLIER = {INCARNATION: "old", STAMP: str(Stamp(resource_generation=1, record_generation=2, sha="0" * 64))}
MIRRORED = {STAMP: str(Stamp(resource_generation=1, record_generation=2, sha=mirror.sha(mirror.spec(tenant()))))}
OLDER = {INCARNATION: "old", **MIRRORED}
MISPLACED = resource(uid="u2", namespace="else", annotations={INCARNATION: LIFE, **MIRRORED})
LATE_MIRROR = resource(uid="u2", annotations={INCARNATION: LIFE, **MIRRORED}, created_at=LATER + LATE)
STAMPED = {STAMP: str(Stamp(resource_generation=1, record_generation=2, sha="0" * 64))}


@pytest.mark.parametrize(
    ("row", "found", "expected"),
    [
        (None, resource(uid="u2"), Owner.FREE),
        (None, resource(terminating=True), Owner.ORPHAN),
        (None, resource(terminating=True, finalizers=()), Owner.STRANGER),
        (tenant(), resource(), Owner.OURS),
        (tenant(), resource(terminating=True), Owner.OURS),
        (tenant(), resource(uid="u2"), Owner.FREE),
        (tenant(), resource(uid="u2", annotations={INCARNATION: LIFE}), Owner.OURS),
        (tenant(), resource(uid="u2", annotations={INCARNATION: LIFE}, namespace="else"), Owner.TAKEN),
        (tenant(), resource(uid="u2", annotations={INCARNATION: LIFE}, terminating=True), Owner.OURS),
        (tenant(), resource(uid="u2", terminating=True), Owner.STRANGER),
        (tenant(), resource(uid="u2", namespace="else"), Owner.TAKEN),
        (tenant(), resource(uid="u2", namespace="else", terminating=True), Owner.STRANGER),
        (tenant(), resource(uid="u2", annotations=EARLIER), Owner.LEFTOVER),
        (tenant(), resource(uid="u2", annotations={INCARNATION: "old"}, terminating=True), Owner.STRANGER),
        (tenant(generation=1), resource(uid="u2", annotations={INCARNATION: "later", **STAMPED}), Owner.FREE),
        (tenant(namespace=None, resource_uid=None), resource(uid="u2", namespace="else"), Owner.FREE),
        (tenant(status=Status.DELETED), resource(uid="u2"), Owner.FREE),
        (tenant(status=Status.DELETED), resource(uid="u2", namespace="else"), Owner.FREE),
        (tenant(status=Status.DELETED), resource(), Owner.OURS),
        (tenant(), resource(uid="u2", annotations=EARLIER, created_at=NOW + 2 * LATE), Owner.FREE),
        (tenant(generation=2), resource(uid="u2", annotations=EARLIER, created_at=NOW + LATE), Owner.LEFTOVER),
        (tenant(), resource(uid="u2", annotations=EARLIER, stampers=frozenset({"kubectl"})), Owner.FREE),
        (tenant(), MISPLACED, Owner.LEFTOVER),
        (tenant(incarnation="another"), MISPLACED, Owner.TAKEN),
        (tenant(), dataclasses.replace(MISPLACED, generation=2), Owner.TAKEN),
        (tenant(), dataclasses.replace(MISPLACED, writers=frozenset({"kubectl", WRITER})), Owner.TAKEN),
        (tenant(status=Status.DELETED), MISPLACED, Owner.LEFTOVER),
        (tenant(status=Status.DELETED), LATE_MIRROR, Owner.LEFTOVER),
        (tenant(status=Status.DELETED, generation=2), LATE_MIRROR, Owner.LEFTOVER),
        (
            tenant(status=Status.DELETED),
            resource(uid="u2", annotations={INCARNATION: "old", **MIRRORED}),
            Owner.LEFTOVER,
        ),
        (tenant(status=Status.DELETED), dataclasses.replace(LATE_MIRROR, created_at=LATER + 2 * LATE), Owner.FREE),
        (tenant(status=Status.DELETED), dataclasses.replace(LATE_MIRROR, writers=frozenset({"kubectl"})), Owner.FREE),
        (tenant(status=Status.DELETED), dataclasses.replace(LATE_MIRROR, generation=2), Owner.FREE),
        (tenant(status=Status.DELETED, generation=1), LATE_MIRROR, Owner.FREE),
        (tenant(status=Status.DELETED), resource(uid="u2", annotations=EARLIER), Owner.FREE),
    ],
)
def test_whose_object_is_it(row: Tenant | None, found: Resource, expected: Owner) -> None:
    assert mirror.owner(row, found) is expected


MIRROR = resource(
    annotations={
        INCARNATION: LIFE,
        STAMP: str(Stamp(resource_generation=1, record_generation=3, sha=mirror.sha(mirror.spec(tenant())))),
    }
)
"""The row's, as it should be."""


@pytest.mark.parametrize(
    ("row", "found", "binds"),
    [
        (tenant(), MIRROR, False),
        (tenant(resource_generation=None), MIRROR, False),
        (tenant(resource_uid="u2"), MIRROR, True),
        (tenant(namespace=None), MIRROR, True),
        (tenant(detached=True), MIRROR, True),
        (tenant(resource_generation=2), MIRROR, True),
        (tenant(generation=2), MIRROR, True),
    ],
)
def test_a_resource_is_bound_where_the_row_knows_another_or_one_was_restored(
    row: Tenant, found: Resource, binds: bool
) -> None:
    assert mirror.must_bind(row, found) is binds


@pytest.mark.parametrize(
    ("row", "found", "undisputed"),
    [
        (tenant(), MIRROR, True),
        (tenant(namespace=None, resource_uid=None, resource_generation=None), MIRROR, True),
        (tenant(), dataclasses.replace(MIRROR, generation=2), False),
        (tenant(resource_generation=2), dataclasses.replace(MIRROR, generation=2), False),
        (tenant(), dataclasses.replace(MIRROR, terminating=True), False),
        (tenant(), dataclasses.replace(MIRROR, finalizers=()), False),
        (tenant(), resource(), False),
        (tenant(compute_config={"size": 2}), MIRROR, False),
        (tenant(namespace="else"), MIRROR, False),
        (tenant(resource_uid="u2"), MIRROR, False),
        (tenant(status=Status.DELETED), MIRROR, False),
        (tenant(detached=True), MIRROR, False),
        (tenant(resource_generation=2), MIRROR, False),
        (tenant(generation=2), MIRROR, False),
        (tenant(resource_uid=None), dataclasses.replace(MIRROR, stampers=frozenset({"kubectl"})), False),
    ],
)
def test_whatever_else_may_be_to_write_needs_a_fresh_look(row: Tenant, found: Resource, undisputed: bool) -> None:
    """docs/decisions/0011."""
    assert mirror.undisputed(row, found) is undisputed


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (None, False),
        (tenant(), True),
        (tenant(detached=True), False),
        (tenant(status=Status.DELETING), False),
        (tenant(status=Status.DELETED), False),
        (tenant(stalled=Stalled.RECORD_BEHIND), False),
        (tenant(stalled=Stalled.ENGINE_PAUSED), True),
    ],
)
def test_who_is_to_have_a_resource(row: Tenant | None, wanted: bool) -> None:
    assert mirror.wanted(row) is wanted


def test_what_cannot_be_understood_is_seen_all_the_same() -> None:
    """Its own pass fails; the list, or the watch, goes on."""
    body = {"metadata": {"namespace": "home", "name": "acme", "resourceVersion": "7"}}
    assert Sighting.listed(body) == Sighting(namespace="home", name="acme", version="7", urgent=True)


def snapshot(*executions: Execution, **changes: Any) -> Snapshot:
    return Snapshot(id="acme", now=NOW, tenant=tenant(**changes), executions=executions)


def run(**changes: Any) -> Execution:
    """The tenant's run in charge (where ``head`` is its id)."""
    values: dict[str, Any] = {
        "execution_id": "tenant-acme-update",
        "tenant_id": "acme",
        "incarnation": LIFE,
        "generation": 3,
        "action": Action.UPDATE,
        "n": 1,
        "provider": "local",
        "source": Door.API,
        "sent_at": NOW,
        "created_at": NOW,
    }
    return Execution(**{**values, **changes})


def condition(written: dict[str, Any], kind: str) -> tuple[str, str]:
    found = next(each for each in written["conditions"] if each["type"] == kind)
    return found["status"], found["reason"]


def ready(written: dict[str, Any]) -> tuple[str, str]:
    return condition(written, "Ready")


def message(written: dict[str, Any], kind: str) -> str:
    return str(next(each["message"] for each in written["conditions"] if each["type"] == kind))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("True", "Ready")),
        ({"observed_generation": 2}, ("False", "UpdatePending")),
        ({"observed_generation": 2, "paused": True}, ("False", "Paused")),
        ({"status": Status.FAILED}, ("False", "Failed")),
        ({"status": Status.UPDATING}, ("False", "Updating")),
        ({"status": Status.DELETING}, ("False", "Deleting")),
        ({"status": Status.REQUESTED}, ("False", "Requested")),
        ({"status": Status.REQUESTED, "paused": True}, ("False", "Paused")),
        ({"stalled": Stalled.RECORD_BEHIND}, ("False", "RecordBehind")),
    ],
)
def test_ready(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert ready(status.of_record(snapshot(**changes), resource(), refusal=None)) == expected


BROKEN = {"state": ExecutionState.FAILED, "ended_at": NOW, "error": {"code": "Full", "message": "no room"}}


@pytest.mark.parametrize(
    ("changes", "head", "retries", "error"),
    [
        ({"status": Status.PROVISIONING, "status_message": "no room"}, run(), 0, None),
        # Each failure has left its word in the record; the run that waits to try again has none of its own.
        (
            {"status": Status.PROVISIONING, "attempts": 2, "status_message": "provision: no room"},
            run(attempt=3, sent_at=None, not_before=LATER),
            2,
            "provision: no room",
        ),
        ({"status": Status.PROVISIONING}, run(state=ExecutionState.RETRYING, engine_attempt=4), 3, None),
        (
            {"status": Status.READY, "status_message": "no room"},
            run(attempt=2, state=ExecutionState.SUCCEEDED, ended_at=NOW),
            1,
            None,
        ),
        ({"status": Status.FAILED, "attempts": 5}, run(attempt=5, **BROKEN), 4, "no room"),
    ],
)
def test_retries_are_what_came_after_the_first_try(
    changes: dict[str, Any], head: Execution, retries: int, error: str | None
) -> None:
    row = snapshot(head, head=head.execution_id, **changes)
    workflow = status.of_record(row, resource(), refusal=None)["workflow"]
    assert (workflow["retries"], workflow.get("lastError")) == (retries, error)


@pytest.mark.parametrize(
    ("stalled", "why"),
    [
        (Stalled.DEADLINE_EXCEEDED, "a run did not end in time and is started anew: workers may be away, or hang"),
        (Stalled.ENGINE_PAUSED, "the workflow engine has paused a run, which is started anew: look into the engine"),
        (Stalled.DELETE_FAILING, "an earlier failure"),
    ],
)
def test_stalled_says_why_and_not_what_failed_before(stalled: Stalled, why: str) -> None:
    row = snapshot(status=Status.UPDATING, stalled=stalled, status_message="an earlier failure")
    written = status.of_record(row, resource(), refusal=None)
    assert condition(written, "Stalled") == ("True", stalled.value)
    assert message(written, "Stalled") == why


UNDER_WAY = {"status": Status.UPDATING, "head": "tenant-acme-update"}
NOTHING = ("False", "Progressing")


@pytest.mark.parametrize(
    ("changes", "reconciling", "stalled"),
    [
        ({}, ("False", "Idle"), NOTHING),
        ({"paused": True}, ("False", "Idle"), NOTHING),
        ({"observed_generation": 2}, ("True", "UpdatePending"), NOTHING),
        ({"observed_generation": 2, "paused": True}, ("False", "Paused"), NOTHING),
        ({"status": Status.REQUESTED}, ("True", "Requested"), NOTHING),
        ({"status": Status.REQUESTED, "paused": True}, ("False", "Paused"), NOTHING),
        ({"status": Status.UPDATING}, ("True", "Updating"), NOTHING),
        ({"status": Status.UPDATING, "paused": True}, ("False", "Paused"), NOTHING),
        ({"status": Status.UPDATING, "paused": True, "workflow_execution_id": "x"}, ("True", "Updating"), NOTHING),
        ({"status": Status.DELETING, "paused": True}, ("True", "Deleting"), NOTHING),
        ({"status": Status.FAILED}, ("False", "Idle"), ("True", "Failed")),
        ({"status": Status.FAILED, "observed_generation": 2}, ("False", "Idle"), ("True", "Failed")),
        ({"status": Status.UPDATING, "stalled": Stalled.ENGINE_PAUSED}, ("True", "Updating"), ("True", "EnginePaused")),
        ({"status": Status.UPDATING, "stalled": Stalled.RECORD_BEHIND}, ("False", "Idle"), ("True", "RecordBehind")),
        ({"status": Status.DELETING, "stalled": Stalled.RECORD_BEHIND}, ("True", "Deleting"), ("True", "RecordBehind")),
    ],
)
def test_reconciling_and_stalled(
    changes: dict[str, Any], reconciling: tuple[str, str], stalled: tuple[str, str]
) -> None:
    written = status.of_record(snapshot(**changes), resource(), refusal=None)
    assert condition(written, "Reconciling") == reconciling
    assert condition(written, "Stalled") == stalled


@pytest.mark.parametrize(
    ("head", "changes", "reason"),
    [
        (run(), {}, "TriggerFailed"),
        (run(), {"workflow_execution_id": "tenant-acme-update"}, "Updating"),
        (run(ended_at=NOW), {"paused": True}, "Updating"),
        (run(), {"status": Status.FAILED}, "Failed"),
    ],
)
def test_a_failed_trigger_is_told_while_its_run_may_come(head: Execution, changes: dict[str, Any], reason: str) -> None:
    assert ready(status.of_record(snapshot(head, **{**UNDER_WAY, **changes}), resource(), refusal=None))[1] == reason


@pytest.mark.parametrize(
    ("changes", "kind", "without"),
    [
        ({"status": Status.UPDATING}, "Ready", "the tenant is being brought to its new spec"),
        ({"status": Status.FAILED}, "Stalled", "the tenant failed; change or retry it"),
        ({"stalled": Stalled.DELETE_FAILING}, "Stalled", "no progress is made by itself"),
    ],
)
def test_conditions_say_what_the_record_says(changes: dict[str, Any], kind: str, without: str) -> None:
    written = status.of_record(snapshot(**changes, status_message="port taken"), resource(), refusal=None)
    assert message(written, kind) == "port taken"
    assert message(status.of_record(snapshot(**changes), resource(), refusal=None), kind) == without


def test_a_refusal_stalls_unless_it_ends_by_itself() -> None:
    invalid, deleting = (Refusal(reason=reason, message="no") for reason in ("InvalidSpec", "Deleting"))
    assert condition(status.of_record(snapshot(), resource(), refusal=invalid), "Stalled") == ("True", "InvalidSpec")
    assert condition(status.of_record(snapshot(), resource(), refusal=deleting), "Stalled") == NOTHING
    assert condition(status.of_refusal(resource(), refusal=invalid, now=NOW), "Stalled") == ("True", "InvalidSpec")
    assert condition(status.of_refusal(resource(), refusal=deleting, now=NOW), "Stalled") == ("False", "Deleting")


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    before = status.of_record(snapshot(status=Status.UPDATING), resource(), refusal=None)
    after = status.of_record(replace(snapshot(), now=LATER), resource(status=before), refusal=None)
    times = {each["type"]: each["lastTransitionTime"] for each in after["conditions"]}
    then, now = conditions.timestamp(NOW), conditions.timestamp(LATER)
    assert times == {"Ready": now, "Reconciling": now, "Stalled": then}


def test_the_run_in_charge_is_told() -> None:
    head = run(attempt=3, engine_attempt=3, error=WorkflowFailure(code="X", message="port taken").to_json())
    row = {**UNDER_WAY, "workflow_execution_id": head.execution_id}
    assert status.of_record(snapshot(head, **row), resource(), refusal=None)["workflow"] == {
        "executionId": "tenant-acme-update",
        "action": "update",
        "state": "pending",
        "retries": 4,
        "lastError": "port taken",
    }
    waits = run(sent_at=None, not_before=LATER)
    told = status.of_record(snapshot(waits, **UNDER_WAY), resource(), refusal=None)["workflow"]
    assert (told["nextCheckAt"], told["retries"]) == (conditions.timestamp(LATER), 0)
    of_before = run(incarnation="another")
    assert "workflow" not in status.of_record(snapshot(of_before, **UNDER_WAY), resource(), refusal=None)


def test_observed_generation_rises_only_with_the_record_or_a_refusal() -> None:
    edited = resource(generation=5, spec={"computeConfig": {"size": 9}}, status={"observedGeneration": 4})
    written = status.of_record(snapshot(), edited, refusal=None)
    assert written["observedGeneration"] == 4
    assert ready(written) == ("False", "UpdatePending")
    refusal = Refusal(reason=conditions.INVALID_SPEC, message="no")
    written = status.of_record(snapshot(), edited, refusal=refusal)
    assert written["observedGeneration"] == 5
    assert ready(written) == ("False", "InvalidSpec")
    assert written["phase"] == "ready", "the truth"


def test_nothing_is_written_twice_and_times_stay() -> None:
    first = status.of_record(snapshot(), resource(), refusal=None)
    body = status.patch(resource(), first)
    assert body is not None
    assert body["metadata"]["resourceVersion"] == "7"
    later = replace(snapshot(), now=datetime(2027, 1, 1, tzinfo=UTC))
    assert status.patch(resource(status=first), status.of_record(later, resource(status=first), refusal=None)) is None


def test_every_field_is_written_and_each_alone_is_reason_enough() -> None:
    endpoint = {"name": "http", "protocol": "tcp", "address": "::1", "port": 80, "url": "http://[::1]:80"}
    head = run(attempt=2, sent_at=None, not_before=LATER)
    row = {**UNDER_WAY, "workflow_execution_id": head.execution_id, "status_message": "no room"}
    observed = {"endpoints": [{**endpoint, "name": None, "secret": "x"}, endpoint, "odd"]}
    told = status.of_record(snapshot(head, **row, observed_config=observed), resource(), refusal=None)
    assert set(told) == {"phase", "observedGeneration", "recordGeneration", "workflow", "endpoints", "conditions"}
    assert set(told["workflow"]) == {"executionId", "action", "state", "retries", "lastError", "nextCheckAt"}
    assert told["endpoints"] == [{name: endpoint[name] for name in endpoint if name != "name"}, endpoint]
    body = status.patch(resource(), told)
    assert body is not None
    assert body["status"] == told
    for name in told:
        less = {each: value for each, value in told.items() if each != name}
        assert status.patch(resource(status=less), told) == body
    assert status.patch(resource(status={**told, "older": 1}), told) == {**body, "status": {**told, "older": None}}


def test_what_is_gone_is_taken_out_of_the_status() -> None:
    before = status.of_record(
        snapshot(observed_config={"endpoints": [{"name": "http", "port": 80}]}), resource(), refusal=None
    )
    assert before["endpoints"] == [{"name": "http", "port": 80}]
    body = status.patch(resource(status=before), status.of_record(snapshot(), resource(status=before), refusal=None))
    assert body is not None
    assert body["status"]["endpoints"] is None
    failed = run(error=WorkflowFailure(code="X", message="port taken").to_json())
    before = status.of_record(snapshot(failed, **UNDER_WAY), resource(), refusal=None)
    after = status.of_record(snapshot(run(), **UNDER_WAY), resource(status=before), refusal=None)
    body = status.patch(resource(status=before), after)
    assert body is not None
    assert body["status"]["workflow"]["lastError"] is None


def test_events_of_transitions_only() -> None:
    before = status.of_record(snapshot(status=Status.UPDATING), resource(), refusal=None)
    after = status.of_record(snapshot(), resource(), refusal=None)
    failed = status.of_record(snapshot(status=Status.FAILED), resource(), refusal=None)
    assert [each.reason for each in events.transitions(before, after)] == ["Ready"]
    assert list(events.transitions(after, before)) == []
    assert list(events.transitions(after, after)) == []
    assert [(each.reason, each.normal) for each in events.transitions(after, failed)] == [("Failed", False)]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"status": Status.UPDATING}, {"stalled": Stalled.ENGINE_PAUSED}, [("EnginePaused", False)]),
        ({"stalled": Stalled.ENGINE_PAUSED}, {"stalled": Stalled.ENGINE_PAUSED}, []),
        ({"stalled": Stalled.ENGINE_PAUSED}, {"stalled": Stalled.DEADLINE_EXCEEDED}, [("DeadlineExceeded", False)]),
        ({"stalled": Stalled.ENGINE_PAUSED}, {}, []),
        ({}, {"stalled": Stalled.RECORD_BEHIND}, [("RecordBehind", False)]),
        ({}, {"status": Status.DELETING}, [("Deleting", True)]),
        ({}, {"observed_generation": 2, "paused": True, "status": Status.READY}, [("Paused", True)]),
        ({}, {"observed_generation": 2, "status": Status.READY}, []),
    ],
)
def test_what_an_event_tells(before: dict[str, Any], after: dict[str, Any], told: list[tuple[str, bool]]) -> None:
    earlier, later = (
        status.of_record(snapshot(**{"status": Status.UPDATING, **each}), resource(), refusal=None)
        for each in (before, after)
    )
    assert [(each.reason, each.normal) for each in events.transitions(earlier, later)] == told


def test_events_that_are_too_many_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status that they tell of has been written."""
    monkeypatch.setattr(events, "WAITING", 1)
    recorder = events.Recorder(cast(TenantResources, None))
    after = status.of_record(snapshot(), resource(), refusal=None)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            recorder.tell(resource(), before={}, after=after)
    assert [each["error"] for each in logs] == ["too many"]
