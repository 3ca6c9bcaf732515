"""What the watch has shown is read enough for the first binding and the status, and for nothing else."""

from __future__ import annotations

import pytest
from kubernetes_door.harness import Landlord
from kubernetes_door.test_ownership import ready
from kubernetes_door.test_restore import edits

from landlord.kubernetes import Conflict
from landlord.mirror import Resource
from landlord.tenants.commands import Create, Replace
from landlord.tenants.model import Status
from landlord_api.mirror import ApiMirror

pytestmark = pytest.mark.timeout(120)


async def glance(landlord: Landlord, shown: Resource) -> int:
    """A pass after the watch has shown that; how many requests it read the cluster with."""
    sync, before = landlord.sync(), landlord.resources.reads
    await sync.run(
        await landlord.snapshot(),
        namespaces=[landlord.namespace],
        shown={landlord.namespace: shown},
        patient=False,
    )
    return landlord.resources.reads - before


async def test_mirror_of_the_api_is_bound_and_told_without_reading_it_again(landlord: Landlord) -> None:
    await landlord.rest(Create(compute_config={"size": 1}))
    await ApiMirror(landlord.resources, namespace=landlord.namespace).create(await landlord.record())
    shown = await landlord.there()
    await landlord.reconcile()
    assert await glance(landlord, shown) == 0
    assert (await landlord.record()).resource_uid == shown.uid
    assert await landlord.condition() == ("True", "Ready")
    assert landlord.resources.writes == {"tenants": 2}


async def test_stale_status_is_refused_and_everything_is_read_again(landlord: Landlord) -> None:
    await landlord.rest(Create(compute_config={"size": 1}))
    await landlord.look()
    shown = await landlord.there()
    await landlord.merge({"metadata": {"labels": {"touched": "yes"}}})
    await landlord.reconcile()
    with pytest.raises(Conflict):
        await landlord.resources.patch_status(
            shown.namespace, shown.name, {"metadata": {"resourceVersion": shown.resource_version}, "status": {}}
        )
    assert await glance(landlord, shown) == 1
    assert await landlord.condition() == ("True", "Ready")


async def test_edit_that_was_taken_and_overwritten_is_not_taken_again(landlord: Landlord) -> None:
    """Another operator was faster, and a change by REST came after."""
    await ready(landlord)
    await landlord.merge({"spec": {"computeConfig": {"size": 2}}})
    shown = await landlord.there()
    await landlord.look()
    await landlord.rest(Replace(compute_config={"size": 3}))
    await landlord.look()
    assert await glance(landlord, shown) >= 1
    assert (await landlord.record()).compute_config == {"size": 3}
    assert await edits(landlord) == 2, "the create and the one edit"
    assert (await landlord.there()).spec["computeConfig"] == {"size": 3}


async def test_resource_shown_before_it_was_retained_and_deleted_is_not_bound_again(landlord: Landlord) -> None:
    await ready(landlord)
    await landlord.merge({"spec": {"deletionPolicy": "Retain"}})
    await landlord.look()
    shown = await landlord.there()
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    await landlord.look()
    assert await glance(landlord, shown) == 1
    assert await landlord.resource() is None
    record = await landlord.record()
    assert (record.detached, record.status) == (True, Status.READY)


async def test_resource_shown_before_it_was_deleted_is_made_anew(landlord: Landlord) -> None:
    """Bound or not: nobody wished the tenant gone."""
    await landlord.rest(Create(compute_config={"size": 1}))
    await ApiMirror(landlord.resources, namespace=landlord.namespace).create(await landlord.record())
    shown = await landlord.there()
    await landlord.vanish()
    await landlord.until_gone()
    await landlord.reconcile()
    await glance(landlord, shown)
    assert (await landlord.there()).uid != shown.uid
    assert (await landlord.record()).resource_uid == (await landlord.there()).uid
    assert await landlord.condition() == ("True", "Ready")
