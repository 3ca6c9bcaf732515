"""Whose object is it? Decided before spec or finalizer is looked at (design.md §6)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kubernetes_door.harness import Landlord

from landlord import mirror
from landlord.mirror import FINALIZER, INCARNATION
from landlord.tenants.commands import Create, Delete, Replace
from landlord.tenants.model import DeletionPolicy, Status
from landlord.workflow.providers.mock import Stay

pytestmark = pytest.mark.timeout(120)


async def ready(landlord: Landlord, config: dict[str, Any] | None = None) -> None:
    """A tenant by kubectl, ready, without an operator running."""
    await landlord.apply(config or {"size": 1})
    await landlord.look()
    await landlord.reconcile()
    await landlord.look()
    assert await landlord.condition() == ("True", "Ready")


async def test_name_taken_in_another_namespace_says_nothing_else(landlord: Landlord) -> None:
    await ready(landlord)
    await landlord.apply({"size": 9}, where=landlord.other)
    await landlord.look(landlord.other)
    stranger = await landlord.there(where=landlord.other)
    assert await landlord.condition(where=landlord.other) == ("False", "NameTaken")
    assert set(stranger.status) == {"observedGeneration", "conditions"}
    assert landlord.namespace not in str(stranger.status), "it does not say by whom"
    assert (stranger.finalizers, dict(stranger.spec["computeConfig"])) == ((), {"size": 9})
    assert mirror.STAMP not in stranger.annotations
    assert (await landlord.record()).compute_config == {"size": 1}


async def test_name_is_free_again_after_the_other_is_deleted(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.apply({"size": 9}, where=landlord.other)
        await landlord.until_reason("NameTaken", where=landlord.other)
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")
        await landlord.until_ready(where=landlord.other)
    assert (await landlord.record()).compute_config == {"size": 9}


async def test_deleting_the_one_whose_name_is_taken_deletes_nothing(landlord: Landlord) -> None:
    await ready(landlord)
    await landlord.apply({"size": 9}, where=landlord.other)
    await landlord.merge({"metadata": {"finalizers": [FINALIZER]}}, where=landlord.other)
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false", where=landlord.other)
    await landlord.look(landlord.other)
    assert await landlord.resource(where=landlord.other) is None
    assert (await landlord.record()).status is Status.READY


async def test_copied_annotations_bind_nothing_in_another_namespace(landlord: Landlord) -> None:
    await ready(landlord)
    mine = await landlord.there()
    await landlord.apply({"size": 1}, where=landlord.other)
    await landlord.merge(
        {"metadata": {"annotations": dict(mine.annotations), "finalizers": [FINALIZER]}}, where=landlord.other
    )
    await landlord.look(landlord.other)
    assert await landlord.condition(where=landlord.other) == ("False", "NameTaken")
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false", where=landlord.other)
    await landlord.look(landlord.other)
    assert await landlord.resource(where=landlord.other) is None
    assert (await landlord.record()).status is Status.READY


async def test_terminating_resource_of_another_incarnation_deletes_nothing(landlord: Landlord) -> None:
    """Life 1's resource hangs in deletion while REST has made life 2."""
    await ready(landlord)
    first = await landlord.record()
    await landlord.rest(Delete())
    await landlord.reconcile()
    await landlord.rest(Create(compute_config={"size": 2}))
    await landlord.reconcile()
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    leftover = await landlord.there()
    assert leftover.terminating
    assert leftover.incarnation == first.incarnation
    await landlord.look()
    assert (await landlord.record()).status is Status.READY
    made = await landlord.there()
    assert made.uid != leftover.uid
    assert made.spec["computeConfig"] == {"size": 2}


async def test_living_leftover_is_deleted_and_made_anew_never_patched(landlord: Landlord) -> None:
    await ready(landlord)
    leftover = await landlord.there()
    await landlord.rest(Delete())
    await landlord.reconcile()
    await landlord.rest(Create(compute_config={"size": 2}))
    await landlord.reconcile()
    await landlord.look()
    made, record = await landlord.there(), await landlord.record()
    assert made.uid != leftover.uid
    assert made.incarnation == record.incarnation
    assert made.spec == mirror.spec(record)
    assert await landlord.condition() == ("True", "Ready")


async def test_exported_manifest_applied_beside_a_new_life_is_no_leftover(landlord: Landlord) -> None:
    """What carries the annotations of the life before came with them: its user made it now."""
    await landlord.rest(Create(compute_config={"size": 1}))
    await landlord.look()
    exported = json.loads(await landlord.kubectl("get", "tenant", landlord.name, "-o", "json"))
    exported["metadata"] = {each: exported["metadata"][each] for each in ("name", "annotations", "finalizers")}
    await landlord.rest(Delete())
    await landlord.reconcile()
    await landlord.look()
    await landlord.rest(Create(compute_config={"size": 2}))
    await landlord.kubectl("apply", "-f", "-", stdin=json.dumps(exported))
    made = await landlord.there()
    await landlord.look()
    record, resource = await landlord.record(), await landlord.there()
    assert (record.compute_config, resource.uid) == ({"size": 1}, made.uid)
    assert resource.incarnation == record.incarnation


async def test_user_takes_the_place_of_a_missing_mirror(landlord: Landlord) -> None:
    """The row has no living resource: a user's in the same namespace is bound, and is an edit."""
    await ready(landlord)
    await landlord.vanish()
    await landlord.apply({"size": 5})
    await landlord.look()
    record, resource = await landlord.record(), await landlord.there()
    assert record.compute_config == {"size": 5}
    assert record.resource_uid == resource.uid
    assert record.generation == 2


async def test_rest_tenant_without_a_place_is_bound_where_a_user_applies_it(landlord: Landlord) -> None:
    await landlord.rest(Create(compute_config={"size": 1}))
    await landlord.apply({"size": 2}, where=landlord.other)
    await landlord.look(landlord.other)
    record = await landlord.record()
    assert record.namespace == landlord.other
    assert record.compute_config == {"size": 2}
    assert await landlord.resource() is None


async def test_rest_tenant_is_bound_to_its_own_mirror_first(landlord: Landlord) -> None:
    await landlord.rest(Create(compute_config={"size": 1}))
    body = mirror.new_resource(await landlord.record(), namespace=landlord.namespace)
    await landlord.resources.create(landlord.namespace, body)  # as the API does
    await landlord.apply({"size": 2}, where=landlord.other)
    await landlord.look(landlord.other)
    assert (await landlord.record()).namespace == landlord.namespace
    assert await landlord.condition(where=landlord.other) == ("False", "NameTaken")


async def test_absence_never_means_deletion(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        lost = await landlord.there()
        await landlord.vanish()

        async def anew() -> bool:
            found = await landlord.resource()
            return found is not None and found.uid != lost.uid and (await landlord.record()).resource_uid == found.uid

        await landlord.until(anew)
        await landlord.until_ready()
    record = await landlord.record()
    assert (record.status, record.generation) == (Status.READY, 1)
    assert (await landlord.there()).spec == mirror.spec(record)


@pytest.mark.parametrize("where", ["resource", "record"])
async def test_retain_lets_the_resource_go_and_keeps_the_tenant(landlord: Landlord, where: str) -> None:
    await ready(landlord)
    if where == "resource":  # set and deleted at once: nobody has ingested it
        await landlord.merge({"spec": {"deletionPolicy": "Retain"}})
    else:
        await landlord.rest(Replace(compute_config={"size": 1}, deletion_policy=DeletionPolicy.RETAIN))
        await landlord.reconcile()
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    await landlord.look()
    assert await landlord.resource() is None
    record = await landlord.record()
    assert record.detached
    assert record.status is Status.READY
    await landlord.look()
    assert await landlord.resource() is None, "no mirror while detached"

    await landlord.apply({"size": 1}, where=landlord.other)
    await landlord.look(landlord.other)
    assert await landlord.condition(where=landlord.other) == ("False", "NameTaken")

    await landlord.apply({"size": 3})
    await landlord.look()
    record = await landlord.record()
    assert not record.detached
    assert record.compute_config == {"size": 3}


async def test_exported_manifest_applied_after_retain_is_what_is_wanted(landlord: Landlord) -> None:
    """With the stamp of the mirror that it was exported from, and an older spec than the record's."""
    await landlord.rest(Create(compute_config={"size": 1}))
    await landlord.look()
    exported = json.loads(await landlord.kubectl("get", "tenant", landlord.name, "-o", "json"))
    exported["metadata"] = {each: exported["metadata"][each] for each in ("name", "annotations", "finalizers")}
    await landlord.rest(Replace(compute_config={"size": 2}, deletion_policy=DeletionPolicy.RETAIN))
    await landlord.reconcile()
    await landlord.look()
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    await landlord.look()
    assert (await landlord.record()).detached
    await landlord.kubectl("apply", "-f", "-", stdin=json.dumps(exported))
    assert (await landlord.there()).described
    await landlord.look()
    record, resource = await landlord.record(), await landlord.there()
    assert (record.compute_config, record.detached) == ({"size": 1}, False)
    assert resource.spec == mirror.spec(record)


async def test_detached_survives_a_crash_before_the_finalizer_went(landlord: Landlord) -> None:
    await ready(landlord)
    await landlord.merge({"spec": {"deletionPolicy": "Retain"}})
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    resource, record = await landlord.there(), await landlord.record()
    from landlord.tenants.commands import Remove

    await landlord.sides().submit(record, resource, Remove(identity=resource.identity, retain=True))
    assert await landlord.resource() is not None
    await landlord.look()
    assert await landlord.resource() is None
    assert (await landlord.record()).status is Status.READY


async def test_mirror_made_late_for_a_deleted_tenant_goes(landlord: Landlord) -> None:
    """The API's create arrives after everything is over."""
    await landlord.rest(Create(compute_config={"size": 1}))
    body = mirror.new_resource(await landlord.record(), namespace=landlord.namespace)
    await landlord.rest(Delete())
    await landlord.reconcile()
    assert (await landlord.record()).status is Status.DELETED
    await landlord.resources.create(landlord.namespace, body)
    await landlord.look()
    assert await landlord.resource() is None


@pytest.mark.parametrize("config", [{"size": 1}, {"size": 2}], ids=["as exported", "edited"])
async def test_replaced_by_force_begins_a_new_life(landlord: Landlord, config: dict[str, Any]) -> None:
    """What is exported carries the annotations of the life that the same command ends."""
    async with landlord.operator():
        await landlord.rest(Create(compute_config={"size": 1}))
        await landlord.until_ready()
        first = await landlord.record()
        exported = json.loads(await landlord.kubectl("get", "tenant", landlord.name, "-o", "json"))
        assert exported["metadata"]["annotations"][INCARNATION] == first.incarnation
        exported["spec"]["computeConfig"] = config
        await landlord.kubectl("replace", "--force", "-f", "-", stdin=json.dumps(exported))

        async def reborn() -> bool:
            return (await landlord.record()).incarnation != first.incarnation

        await landlord.until(reborn)
        await landlord.until_ready()
    record, resource = await landlord.record(), await landlord.there()
    assert (record.status, record.compute_config) == (Status.READY, config)
    assert resource.incarnation == record.incarnation


async def test_mirror_made_late_beside_a_users_resource_goes_and_never_comes_to_life(landlord: Landlord) -> None:
    await landlord.rest(Create(compute_config={"size": 1}))
    body = mirror.new_resource(await landlord.record(), namespace=landlord.namespace)
    await landlord.apply({"size": 2}, where=landlord.other)
    await landlord.look(landlord.other)
    await landlord.reconcile()
    await landlord.resources.create(landlord.namespace, body)
    await landlord.look(landlord.other, landlord.namespace)
    assert await landlord.resource() is None
    assert (await landlord.record()).namespace == landlord.other
    assert (await landlord.there(where=landlord.other)).spec["computeConfig"] == {"size": 2}

    await landlord.resources.create(landlord.namespace, body)  # as one that nobody has seen yet
    await landlord.rest(Delete())
    await landlord.reconcile()
    await landlord.look(landlord.other, landlord.namespace)
    assert await landlord.resource() is None
    assert await landlord.resource(where=landlord.other) is None
    assert (await landlord.record()).status is Status.DELETED


async def test_users_copy_of_the_whole_mirror_is_left_alone(landlord: Landlord) -> None:
    """In another namespace, down to the last byte of spec and annotations."""
    await landlord.rest(Create(compute_config={"size": 1}))
    await landlord.look()
    copied = json.loads(await landlord.kubectl("get", "tenant", landlord.name, "-o", "json"))
    copied["metadata"] = {each: copied["metadata"][each] for each in ("name", "annotations", "finalizers")}
    await landlord.kubectl("create", "-f", "-", stdin=json.dumps(copied), where=landlord.other)
    assert (await landlord.there(where=landlord.other)).described
    await landlord.look(landlord.other)
    assert await landlord.condition(where=landlord.other) == ("False", "NameTaken")
    assert not (await landlord.there(where=landlord.other)).terminating


async def test_foreign_annotation_is_no_incarnation_of_ours(landlord: Landlord) -> None:
    """Nobody gets a resource deleted, or bound, by writing an annotation from another tenant's future."""
    await ready(landlord)
    await landlord.merge({"metadata": {"annotations": {INCARNATION: "somebody-else"}}})
    await landlord.look()
    assert (await landlord.there()).incarnation == (await landlord.record()).incarnation, "bound by uid; stamped again"


async def test_terminating_is_never_ingested(landlord: Landlord) -> None:
    await ready(landlord)
    landlord.engine.script(f"tenant-{landlord.name}-delete", Stay())
    await landlord.merge({"spec": {"computeConfig": {"size": 77}}})
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    await landlord.look()
    record = await landlord.record()
    assert record.status is Status.DELETING
    assert record.compute_config == {"size": 1}
