"""The Kubernetes door: what is taken from a resource, and when. Pure."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.lives import (
    ABSENT,
    IDENTITY,
    decided,
    ended,
    row,
    submitted,
    the,
)
from msgspec.structs import replace

from landlord.tenants.commands import (
    Bind,
    Delete,
    Edit,
    Patch,
    Remove,
    Replace,
)
from landlord.tenants.errors import Conflict
from landlord.tenants.model import DeletionPolicy, Remains, Snapshot, Stalled, Status


def test_a_delete_of_a_lost_record_goes_on_counting() -> None:
    """The resource is terminating, the row and its tombstone are gone."""
    purged = replace(ABSENT, remains=Remains(generation=5, version=8, counters={"delete": 1}))
    gone = submitted(purged, Remove(identity=IDENTITY, retain=False, compute_provider="docker", recorded_generation=2))
    assert (row(gone).status, row(gone).generation, row(gone).compute_provider) == (Status.DELETING, 6, "docker")
    ahead = submitted(purged, Remove(identity=IDENTITY, retain=False, recorded_generation=7))
    assert (row(ahead).generation, row(ahead).compute_provider) == (8, "mock")
    assert (row(gone).resource_uid, row(gone).version) == ("u1", 9)
    assert the(gone.sent).execution_id == "tenant-acme-delete-2"


def test_an_edit_is_taken_once(ready: Snapshot) -> None:
    edit = Edit(identity=IDENTITY, compute_config={"v": 1})
    edited = submitted(ready, edit)
    assert row(edited).resource_generation == 4
    assert decided(edited, edit).change is None
    later = Edit(identity=replace(IDENTITY, generation=5), compute_config={"v": 0})
    assert row(submitted(edited, later)).generation == row(edited).generation + 1, "a revert is an edit like any other"


def test_an_edit_equal_to_the_record_is_only_bound(ready: Snapshot) -> None:
    """No version, no line in the trail."""
    change = decided(ready, Edit(identity=IDENTITY, compute_config={"v": 0}, recorded_generation=1)).change
    assert change is not None
    assert change.audit is None
    assert (change.tenant.version, change.tenant.generation) == (row(ready).version, row(ready).generation)
    assert change.tenant.resource_uid == "u1"


@pytest.mark.parametrize("field", [{"paused": True}, {"deletion_policy": DeletionPolicy.RETAIN}])
def test_an_edit_of_paused_or_policy_is_no_new_generation(ready: Snapshot, field: dict[str, Any]) -> None:
    change = decided(ready, Edit(identity=IDENTITY, compute_config={"v": 0}, **field)).change
    assert change is not None
    assert change.audit is not None
    assert (change.tenant.version, change.tenant.generation) == (row(ready).version + 1, row(ready).generation)


def test_an_edit_after_a_restored_database_runs_though_it_equals_the_record(ready: Snapshot) -> None:
    seen = Edit(identity=IDENTITY, compute_config={"v": 0}, recorded_generation=7)
    assert row(submitted(ready, seen)).generation == 8
    behind = submitted(ready, Bind(identity=IDENTITY, recorded_generation=7))
    assert (row(behind).stalled, row(behind).generation) == (Stalled.RECORD_BEHIND, 7)
    assert "generation 7" in row(behind).status_message
    later = Edit(identity=replace(IDENTITY, generation=5), compute_config={"v": 0})
    edited = submitted(behind, later)
    assert (row(edited).stalled, row(edited).generation, the(edited.sent).generation) == (None, 8, 8)


def test_an_edit_of_what_has_failed_is_its_retry(refused: Snapshot) -> None:
    edited = submitted(refused, Edit(identity=IDENTITY, compute_config={"v": 1}))
    assert (row(edited).status, row(edited).generation) == (Status.PLANNING, 2)
    assert the(edited.sent).execution_id == "tenant-acme-plan-2"


@pytest.mark.parametrize("config", [{"v": 0}, {"v": 1}])
def test_an_edit_of_what_is_being_deleted_is_refused(ready: Snapshot, config: dict[str, Any]) -> None:
    with pytest.raises(Conflict):
        decided(submitted(ready, Delete()), Edit(identity=IDENTITY, compute_config=config, paused=True))


def test_an_edit_of_what_is_deleted_begins_a_new_life(ready: Snapshot) -> None:
    again = submitted(ended(submitted(ready, Delete())), Edit(identity=IDENTITY, compute_config={"v": 0}))
    assert (row(again).status, row(again).resource_uid) == (Status.PLANNING, "u1")
    assert row(again).incarnation != row(ready).incarnation


def test_a_resource_that_goes_takes_its_tenant_along_once(ready: Snapshot) -> None:
    newer = ended(submitted(ready, Replace(compute_config={"v": 1})))
    gone = submitted(newer, Remove(identity=IDENTITY, retain=False, recorded_generation=1))
    assert (row(gone).status, row(gone).generation) == (Status.DELETING, 2)
    assert decided(gone, Remove(identity=IDENTITY, retain=False)).change is None
    assert decided(ended(gone), Remove(identity=IDENTITY, retain=False)).change is None


@pytest.mark.parametrize(("by_resource", "by_record"), [(True, "Delete"), (False, "Retain")])
def test_retain_by_either_keeps_the_tenant(ready: Snapshot, by_resource: bool, by_record: str) -> None:
    bound = submitted(ready, Bind(identity=IDENTITY), Patch(merge={"deletion_policy": by_record}))
    kept = row(submitted(bound, Remove(identity=IDENTITY, retain=by_resource)))
    assert (kept.status, kept.detached, kept.namespace) == (Status.READY, True, "home")
    assert (kept.resource_uid, kept.resource_generation) == (None, None)


def test_a_binding_is_written_once(ready: Snapshot) -> None:
    bound = submitted(ready, Bind(identity=IDENTITY))
    assert (row(bound).namespace, row(bound).resource_uid, row(bound).resource_generation) == ("home", "u1", 4)
    assert decided(bound, Bind(identity=IDENTITY)).change is None
    assert decided(bound, Bind(identity=IDENTITY, recorded_generation=1)).change is None


def test_an_applied_tenant_is_made_as_it_says(ready: Snapshot) -> None:
    edit = Edit(
        identity=IDENTITY,
        compute_provider="docker",
        compute_config={"v": 0},
        paused=True,
        deletion_policy=DeletionPolicy.RETAIN,
        recorded_generation=6,
    )
    made = row(submitted(ABSENT, edit))
    assert (made.compute_provider, made.paused, made.deletion_policy) == ("docker", True, DeletionPolicy.RETAIN)
    assert (made.status, made.generation, made.resource_uid) == (Status.REQUESTED, 7, "u1")


def test_a_resource_that_goes_has_seen_what_a_restored_record_has_not(ready: Snapshot) -> None:
    gone = submitted(ready, Remove(identity=IDENTITY, retain=False, recorded_generation=7))
    assert (row(gone).status, row(gone).generation) == (Status.DELETING, 7)
