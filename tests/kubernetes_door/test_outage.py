"""The cluster goes, comes back, or comes back older; meanwhile REST goes on, and no tenant is lost."""

from __future__ import annotations

import asyncio
import shutil

import pytest
import yaml
from fixtures.kubernetes import CRD, apply_crd
from kubernetes_door.harness import Landlord
from kubernetes_door.test_restore import lose

from landlord import mirror
from landlord.dev import definition
from landlord.dev.controlplane import ControlPlane
from landlord.dev.processes import LauncherError
from landlord.kubernetes import TenantResources, load_configuration
from landlord.tenants.commands import Create, Replace
from landlord.tenants.model import Status
from landlord_api.mirror import ApiMirror
from landlord_operator.gate import ClusterGate

pytestmark = pytest.mark.timeout(170)


@pytest.fixture
def cluster(own_control_plane: ControlPlane) -> ControlPlane:
    """These tests stop theirs."""
    return own_control_plane


async def test_api_server_away_rest_goes_on_and_all_converge_afterwards(landlord: Landlord) -> None:
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.plane.kill_api()

        await landlord.rest(Replace(compute_config={"size": 2}))
        away = landlord.name + "-away"
        first, landlord.name = landlord.name, away
        await landlord.rest(Create(compute_config={"size": 3}))

        async def ready() -> bool:
            return (await landlord.record()).status is Status.READY

        await landlord.until(ready)
        await asyncio.sleep(2)
        await landlord.plane.start_api()
        await landlord.until_ready()
        landlord.name = first
        await landlord.until_ready()
        assert (await landlord.there()).spec["computeConfig"] == {"size": 2}

        await landlord.apply({"size": 4})
        await landlord.until_ready()
        assert (await landlord.record()).compute_config == {"size": 4}, "the watch is back as well"


async def test_etcd_restored_older(landlord: Landlord) -> None:
    """What comes back is a mirror of an older record: no edit, and it is brought up to date."""
    await landlord.apply({"size": 1})
    await landlord.look()
    await landlord.reconcile()
    await landlord.look()
    data = landlord.plane.kubeconfig.parent / "kubernetes" / "etcd"
    await landlord.plane.stop()
    await asyncio.to_thread(shutil.copytree, data, data.with_name("backup"))
    await landlord.plane.start()
    for size in (2, 4):
        await landlord.merge({"spec": {"computeConfig": {"size": size}}})
        await landlord.look()
        await landlord.reconcile()
    seen = (await landlord.record()).resource_generation
    await landlord.rest(Replace(compute_config={"size": 3}))
    await landlord.reconcile()
    await landlord.look()
    latest = await landlord.there()

    await landlord.plane.stop()
    await asyncio.to_thread(shutil.rmtree, data)
    await asyncio.to_thread(data.with_name("backup").rename, data)
    await landlord.plane.start()
    stale = await landlord.there()
    assert (stale.uid, stale.spec["computeConfig"]) == (latest.uid, {"size": 1})

    await landlord.look()
    record, resource = await landlord.record(), await landlord.there()
    assert record.compute_config == {"size": 3}
    assert record.generation == 4
    assert resource.spec == mirror.spec(record)
    assert await landlord.condition() == ("True", "Ready")

    # The next edit has a generation that the record saw before the restore.
    await landlord.merge({"spec": {"computeConfig": {"size": 5}}})
    assert (await landlord.there()).generation == seen
    await landlord.look()
    assert (await landlord.record()).compute_config == {"size": 5}


async def test_definition_deleted_destroys_no_tenant(landlord: Landlord) -> None:
    """``kubectl delete crd`` deletes every resource: a loss, and nobody's wish to delete a tenant."""
    name = yaml.safe_load(CRD.read_text())["metadata"]["name"]
    async with landlord.operator():
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.kubectl("delete", "crd", name, "--timeout=30s")
        assert (await landlord.record()).status is Status.READY
        await apply_crd(landlord.plane)
        await landlord.until_ready()
    record = await landlord.record()
    assert (record.status, record.generation) == (Status.READY, 1)
    assert not any(run.execution_id.endswith("-delete") for run in landlord.engine.requests)

    # Nor what lives on without a record, for the while.
    await lose(landlord)
    deleted = asyncio.create_task(landlord.kubectl("delete", "crd", name, "--timeout=30s"))

    async def terminating() -> bool:
        return (await landlord.there()).terminating

    await landlord.until(terminating)
    await landlord.look()
    await deleted
    assert await landlord.row() is None
    await apply_crd(landlord.plane)


async def test_api_mirror_is_best_effort(landlord: Landlord) -> None:
    api = ApiMirror(landlord.resources, namespace=landlord.namespace)
    await landlord.rest(Create(compute_config={"size": 1}))
    record = await landlord.record()
    await api.create(record)
    made = await landlord.there()
    assert made.spec == mirror.spec(record)
    assert (made.held, made.described, made.incarnation) == (True, True, record.incarnation)
    await api.create(record)  # there already
    await landlord.plane.kill_api()
    async with asyncio.timeout(6):
        await api.create(record)
    await landlord.plane.start_api()
    await landlord.reconcile()
    await landlord.look()
    assert await landlord.condition() == ("True", "Ready")
    assert landlord.resources.writes["tenants"] == 2, "the create and one status"


async def test_one_cluster_is_for_one_installation(
    own_control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two operators with different records would run and delete each other's tenants."""
    request = own_control_plane.request
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition.definition()['metadata']['name']}"
    async with asyncio.timeout(30):
        while (await request("DELETE", path))[0] != 404:
            await asyncio.sleep(0.05)
    for _ in range(2):
        await definition.install(request, installation="first")
    with pytest.raises(LauncherError, match="are of installation first, and this is second"):
        await definition.install(request, installation="second")
    monkeypatch.setenv("KUBECONFIG", str(own_control_plane.kubeconfig))

    async def returned() -> None:
        pytest.fail("it was never there")

    async with TenantResources(await load_configuration(None)) as resources:
        first, second = (ClusterGate(resources, installation=name, returned=returned) for name in ("first", "second"))
        tasks = [asyncio.create_task(gate.run()) for gate in (first, second)]
        try:
            async with asyncio.timeout(10):
                await first.passed()
                while "of installation first" not in (await second.fault() or ""):
                    await asyncio.sleep(0.05)
            assert await first.fault() is None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_definition_that_nobody_has_claimed_is_shared_only_on_request(own_control_plane: ControlPlane) -> None:
    with pytest.raises(LauncherError, match="of somebody already"):
        await definition.install(own_control_plane.request, installation="first", share=False)
    for name in ("first", "second"):
        await definition.install(own_control_plane.request, installation=name)
