"""A tenant's container from the first call to the last, and several workers at it."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiodocker import DockerError
from fixtures.turns import Fault, Turns
from integration.docker.harness import (
    ABSENT,
    VOLUMES,
    Make,
    Tenant,
    create,
    fetch,
    shell,
    until_serving,
)

from landlord.compute.config import with_defaults
from landlord.compute.provider import (
    ComputeError,
    ComputeState,
    ComputeUnavailable,
    NewerGeneration,
)
from landlord.compute.providers.docker import DockerProvider, container


async def test_a_tenant_is_made_healthy_and_removed(provider: DockerProvider, tenant: Tenant) -> None:
    await provider.ready()
    assert (await provider.status("acme")).state is ABSENT
    config = {"resources": {"cpu_millicores": 500, "memory_mb": 32, "pids": 20}, "labels": {"team": "a"}}
    outputs = await provider.apply(tenant.spec(**config))
    status = await until_serving(provider)
    assert (status.state, status.generation, status.outputs.health) == (ComputeState.RUNNING, 1, "healthy")
    (endpoint,) = status.outputs.endpoints
    assert (outputs.endpoints, outputs.health) == ([endpoint], "starting")
    assert (endpoint.name, endpoint.address) == ("web", "127.0.0.1")
    assert await fetch(f"{endpoint.url}/healthz") == 200
    assert outputs.config["image"] == tenant.image

    (inspected,) = await tenant.containers(provider)
    assert outputs.resources == {"container": inspected["Id"], "image": inspected["Image"]}
    assert inspected["HostConfig"]["NanoCpus"] == 500_000_000
    assert inspected["HostConfig"]["Memory"] == 32 * 2**20
    assert inspected["Config"]["Labels"]["team"] == "a"
    assert inspected["NetworkSettings"]["Ports"]["8080/tcp"] == [
        {"HostIp": "127.0.0.1", "HostPort": str(endpoint.port)}
    ]

    again = await provider.apply(tenant.spec(attempt=2, **config))
    assert (again.resources, again.health) == (outputs.resources, "healthy")
    await provider.destroy("acme", generation=1)
    assert (await provider.status("acme")).state is ABSENT
    await provider.destroy("acme", generation=1)


async def test_what_nothing_checks_is_unchecked_after_five_seconds(provider: DockerProvider, tenant: Tenant) -> None:
    assert (await provider.apply(tenant.spec(health_check=None))).health == "starting"
    began = time.monotonic()
    first = await provider.status("acme")
    assert (first.state, first.outputs.health) == (ComputeState.STARTING, "starting")
    status = await until_serving(provider)
    assert status.outputs.health == "unchecked"
    assert 4 < time.monotonic() - began < 10


async def test_the_endpoint_stays_when_the_engine_restarts_it(provider: DockerProvider, tenant: Tenant) -> None:
    outputs = await provider.apply(tenant.spec())
    await until_serving(provider)
    await tenant.docker.containers.container(outputs.resources["container"]).kill()
    await tenant.docker.containers.container(outputs.resources["container"]).start()
    status = await until_serving(provider)
    assert status.outputs.endpoints == outputs.endpoints
    assert await fetch(f"{status.outputs.endpoints[0].url}/healthz") == 200


async def test_a_container_created_by_a_killed_worker_is_adopted(make: Make, tenant: Tenant) -> None:
    killed, other = make(), make()
    spec = tenant.spec()
    created = await create(killed, spec)
    assert created.data["State"]["Pid"] == 0
    assert (await other.status("acme")).state is ComputeState.STARTING
    outputs = await other.apply(spec)
    assert outputs.resources["container"] == created.id
    await until_serving(other)


@pytest.mark.parametrize("delay", [0.005, 0.02, 0.04, 0.08, 0.16, 0.32])
async def test_whenever_a_worker_is_killed_another_goes_on(make: Make, tenant: Tenant, delay: float) -> None:
    first = asyncio.create_task(make().apply(tenant.spec()))
    await asyncio.sleep(delay)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    other = make()
    outputs = await other.apply(tenant.spec(attempt=2))
    await until_serving(other)
    assert await tenant.ids(other) == [outputs.resources["container"]]


async def test_workers_at_the_same_time_make_one(make: Make, tenant: Tenant) -> None:
    providers = [make() for _ in range(4)]
    made = await asyncio.gather(*(one.apply(tenant.spec()) for one in providers))
    assert len({outputs.resources["container"] for outputs in made}) == 1
    assert len(await tenant.ids(providers[0])) == 1
    await asyncio.gather(*(one.destroy("acme", generation=1) for one in providers))
    assert (await providers[0].status("acme")).state is ABSENT


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_worker_that_is_late_leaves_nothing_of_an_older_generation(
    watched: tuple[DockerProvider, Turns], provider: DockerProvider, tenant: Tenant, cancelled: bool
) -> None:
    late, turns = watched
    turns.arm(at=1, fault=Fault.HOLD_REPLY, match=b"/containers/create")
    update = asyncio.create_task(late.apply(tenant.spec(1)))
    await turns.held.wait()
    new = await provider.apply(tenant.spec(2))
    if cancelled:
        update.cancel()
        done, _ = await asyncio.wait({update}, timeout=0.1)
        assert not done, "what it has begun it ends"
    turns.released.set()
    with pytest.raises(asyncio.CancelledError if cancelled else NewerGeneration):
        await update
    assert await tenant.ids(provider) == [new.resources["container"]]


@pytest.mark.parametrize("adopted", [False, True])
async def test_what_a_worker_was_creating_when_it_lost_its_run_is_left_to_who_has_started_it_only(
    watched: tuple[DockerProvider, Turns], provider: DockerProvider, tenant: Tenant, adopted: bool
) -> None:
    """Nobody else would ever remove it, were the tenant deleted meanwhile."""
    late, turns = watched
    turns.arm(at=1, fault=Fault.HOLD_REPLY, match=b"/containers/create")
    lost = asyncio.create_task(late.apply(tenant.spec()))
    await turns.held.wait()
    ids = [(await provider.apply(tenant.spec(attempt=2))).resources["container"]] if adopted else []
    lost.cancel()
    turns.released.set()
    with pytest.raises(asyncio.CancelledError):
        await lost
    assert await tenant.ids(provider) == ids
    if adopted:
        await until_serving(provider)


async def test_a_start_whose_reply_is_lost_has_happened(watched: tuple[DockerProvider, Turns], tenant: Tenant) -> None:
    provider, turns = watched
    old = await provider.apply(tenant.spec(1, volumes=VOLUMES))
    turns.arm(at=1, fault=Fault.LOSE_REPLY, match=b"/start ")
    with pytest.raises(ComputeUnavailable, match="cannot start the container"):
        await provider.apply(tenant.spec(2, volumes=VOLUMES))
    _, new = await tenant.containers(provider)
    outputs = await provider.apply(tenant.spec(2, attempt=2, volumes=VOLUMES))
    assert turns.disarm() == 1, "neither it nor the old one is started again"
    assert outputs.resources["container"] == new["Id"]
    assert (await tenant.container(provider, old.resources["container"]))["State"]["Status"] == "exited"


async def test_what_somebody_paused_is_resumed(provider: DockerProvider, tenant: Tenant) -> None:
    outputs = await provider.apply(tenant.spec())
    await tenant.docker.containers.container(outputs.resources["container"]).pause()
    status = await provider.status("acme")
    assert (status.state, status.message) == (ComputeState.STOPPED, "paused")
    assert (await provider.apply(tenant.spec(attempt=2))).resources == outputs.resources
    await until_serving(provider)


async def test_what_is_removed_while_it_is_looked_at_is_absent(
    watched: tuple[DockerProvider, Turns], tenant: Tenant
) -> None:
    provider, turns = watched
    outputs = await provider.apply(tenant.spec())
    turns.arm(at=1, fault=Fault.HOLD_REPLY, match=b"/containers/json")
    look = asyncio.create_task(provider.status("acme"))
    await turns.held.wait()
    await tenant.docker.containers.container(outputs.resources["container"]).delete(force=True)
    turns.released.set()
    assert (await look).state is ABSENT


async def test_a_name_that_a_container_of_somebody_else_has(provider: DockerProvider, tenant: Tenant) -> None:
    spec = tenant.spec()
    digest = container.config_hash(with_defaults(provider, spec.config))
    name = container.container_name(
        installation=provider._settings.installation, tenant_id="acme", generation=1, digest=digest
    )
    stranger = await tenant.docker.containers.create({"Image": tenant.image}, name=name)
    try:
        with pytest.raises(ComputeError, match=f"the name {name} is taken"):
            await provider.apply(spec)
    finally:
        await stranger.delete()
    assert (await provider.apply(spec)).health == "starting"


async def test_destroy_takes_everything_up_to_its_generation(provider: DockerProvider, tenant: Tenant) -> None:
    volumes = [{"name": "data", "target": "/data"}]
    await provider.apply(tenant.spec(1, volumes=volumes))
    new = await provider.apply(tenant.spec(2, volumes=volumes))
    owner = provider._owner("acme")
    assert len(await provider._engine.volumes(owner)) == 1
    await provider.destroy("acme", generation=1)
    assert await tenant.ids(provider) == [new.resources["container"]]
    assert len(await provider._engine.volumes(owner)) == 1
    await provider.destroy("acme", generation=2)
    assert await tenant.ids(provider) == []
    assert await provider._engine.volumes(owner) == {}


async def test_the_volumes_of_an_image_go_with_their_container(provider: DockerProvider, tenant: Tenant) -> None:
    plain = await provider.apply(tenant.spec(1))
    image = await tenant.docker.containers.container(plain.resources["container"]).commit(changes=["VOLUME /data"])
    try:
        await provider.apply(tenant.spec(2, image=image["Id"]))
        one = (await tenant.containers(provider))[-1]
        await provider.destroy("acme", generation=2)
        with pytest.raises(DockerError, match="no such volume"):
            await tenant.docker.volumes.get(one["Mounts"][0]["Name"])
    finally:
        await tenant.docker.images.delete(image["Id"], force=True)


async def test_nothing_is_killed_because_the_engine_was_away(
    watched: tuple[DockerProvider, Turns], tenant: Tenant
) -> None:
    provider, turns = watched
    outputs = await provider.apply(tenant.spec())
    turns.arm(at=1, fault=Fault.KILL_BEFORE, match=b"/stop")
    with pytest.raises(ComputeUnavailable, match="cannot stop the container"):
        await provider.destroy("acme", generation=1)
    one = await tenant.container(provider, outputs.resources["container"])
    assert one["State"]["Status"] == "running", "it gets its time to stop at the next attempt"


async def test_a_named_volume_outlives_an_update(provider: DockerProvider, tenant: Tenant) -> None:
    volumes = [{"name": "data", "target": "/data"}]
    await provider.apply(tenant.spec(1, volumes=volumes, **shell("echo kept > /data/file; sleep 1000")))
    await until_serving(provider)
    check = {"test": ["/bin/busybox", "grep", "-q", "kept", "/data/file"], "interval_seconds": 0.4}
    await provider.apply(tenant.spec(2, volumes=volumes, **{**shell("sleep 1000"), "health_check": check}))
    await until_serving(provider)
    await provider.retire("acme", generation=2)
    assert len(await tenant.ids(provider)) == 1


async def test_installations_on_one_engine_do_not_see_each_other(make: Make, tenant: Tenant) -> None:
    # "x" and "x-acme" would make ambiguous names, were they joined by a hyphen.
    one, two = make(), make(suffix="-acme")
    first, second = await asyncio.gather(one.apply(tenant.spec(7)), two.apply(tenant.spec(1)))
    assert first.resources["container"] != second.resources["container"]
    await one.destroy("acme", generation=7)
    assert (await one.status("acme")).state is ABSENT
    assert await tenant.ids(two) == [second.resources["container"]]
