"""A newer configuration in place of an older one: what serves goes on serving until the new one does."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from aiodocker import Docker
from fixtures.docker import import_image
from fixtures.turns import Fault, Turns
from integration.docker.harness import (
    NOWHERE,
    SECRET,
    VOLUMES,
    Make,
    Tenant,
    create,
    fetch,
    shell,
    until,
    until_serving,
)

from landlord.compute.provider import (
    ComputeError,
    ComputeState,
    NewerGeneration,
    PermanentComputeError,
)
from landlord.compute.providers.docker import DockerProvider
from landlord.dev.docker import DockerEngine


async def test_an_update_keeps_the_old_until_the_new_serves(provider: DockerProvider, tenant: Tenant) -> None:
    old = await provider.apply(tenant.spec(1))
    await until_serving(provider)
    new = await provider.apply(tenant.spec(2, env={"TOKEN": "other"}))
    status = await provider.status("acme")
    assert status.generation == 2
    await provider.retire("acme", generation=1)  # by a worker that is late
    assert await fetch(f"{old.endpoints[0].url}/healthz") == 200
    status = await until_serving(provider)
    await provider.retire("acme", generation=2)
    assert await tenant.ids(provider) == [new.resources["container"]]
    assert await fetch(f"{status.outputs.endpoints[0].url}/healthz") == 200
    await provider.retire("acme", generation=2)
    assert (await provider.status("acme")).serving


async def test_an_update_with_a_fixed_port(provider: DockerProvider, tenant: Tenant, free_port: int) -> None:
    ports = [{"container_port": 8080, "host_port": free_port, "scheme": "http"}]
    await provider.apply(tenant.spec(1, ports=ports))
    await until_serving(provider)
    new = await provider.apply(tenant.spec(2, ports=ports))
    old, _ = await tenant.containers(provider)
    assert old["State"]["Status"] == "exited"
    assert new.endpoints[0].port == free_port
    await until_serving(provider)
    await provider.retire("acme", generation=2)
    assert await fetch(f"http://127.0.0.1:{free_port}/healthz") == 200
    assert await tenant.ids(provider) == [new.resources["container"]]


@pytest.mark.parametrize("fixed", [True, False])
async def test_an_update_that_cannot_start_leaves_the_old_serving(
    provider: DockerProvider, tenant: Tenant, free_port: int, fixed: bool
) -> None:
    port: dict[str, Any] = {"container_port": 8080, "scheme": "http"}
    ports = [{**port, "host_port": free_port}] if fixed else [port]
    old = await provider.apply(tenant.spec(1, ports=ports))
    await until_serving(provider)
    for attempt in (1, 2):
        with pytest.raises(PermanentComputeError, match="cannot start the container") as caught:
            await provider.apply(tenant.spec(2, attempt=attempt, ports=ports, init=False, entrypoint=["/nope"]))
        assert SECRET not in str(caught.value)
    assert await tenant.ids(provider) == [old.resources["container"]]
    status = await until_serving(provider)
    assert status.generation == 1
    assert await fetch(f"{old.endpoints[0].url}/healthz") == 200


async def test_the_old_is_started_again_after_a_killed_worker(
    provider: DockerProvider, tenant: Tenant, free_port: int
) -> None:
    ports = [{"container_port": 8080, "host_port": free_port}]
    old = await provider.apply(tenant.spec(1, ports=ports))
    await tenant.docker.containers.container(old.resources["container"]).stop()  # what a killed worker did last
    with pytest.raises(PermanentComputeError):
        await provider.apply(tenant.spec(2, attempt=2, ports=ports, init=False, entrypoint=["/nope"]))
    assert (await until_serving(provider)).generation == 1


async def test_of_two_that_were_replaced_the_last_is_started_again(provider: DockerProvider, tenant: Tenant) -> None:
    config = {**shell("sleep 1000"), "volumes": VOLUMES}
    first = await provider.apply(tenant.spec(1, **config))
    second = await provider.apply(tenant.spec(2, **config))  # its worker was killed before it removed the first
    with pytest.raises(PermanentComputeError):
        await provider.apply(tenant.spec(3, **{**config, "init": False, "entrypoint": ["/nope"]}))
    states = {one["Id"]: one["State"]["Status"] for one in await tenant.containers(provider)}
    assert states == {first.resources["container"]: "exited", second.resources["container"]: "running"}


@pytest.mark.parametrize(("call", "at"), [("/json", 2), ("/stop", 1)], ids=["looked at", "stopped"])
async def test_an_old_container_that_somebody_else_removes_does_not_hinder_an_update(
    watched: tuple[DockerProvider, Turns], tenant: Tenant, call: str, at: int
) -> None:
    provider, turns = watched
    old = await provider.apply(tenant.spec(1, volumes=VOLUMES))
    turns.arm(at=at, fault=Fault.HOLD_REPLY, match=f"/containers/{old.resources['container']}{call}".encode())
    update = asyncio.create_task(provider.apply(tenant.spec(2, volumes=VOLUMES)))
    await turns.held.wait()
    await tenant.docker.containers.container(old.resources["container"]).delete(force=True)
    turns.released.set()
    new = await update
    assert await tenant.ids(provider) == [new.resources["container"]]
    await until_serving(provider)


async def test_an_old_container_that_cannot_be_started_again_does_not_hide_why_the_new_one_did_not_start(
    watched: tuple[DockerProvider, Turns], tenant: Tenant
) -> None:
    provider, turns = watched
    old = await provider.apply(tenant.spec(1, volumes=VOLUMES))
    turns.arm(at=1, fault=Fault.HOLD_REPLY, match=b"/stop")
    spec = tenant.spec(2, volumes=VOLUMES, init=False, entrypoint=["/nope"])
    update = asyncio.create_task(provider.apply(spec))
    await turns.held.wait()
    await tenant.docker.containers.container(old.resources["container"]).delete(force=True)
    turns.released.set()
    with pytest.raises(PermanentComputeError, match="no such file"):
        await update


async def test_what_failed_stays_while_the_next_image_cannot_be_pulled(
    provider: DockerProvider, tenant: Tenant, free_port: int
) -> None:
    ports = [{"container_port": 8080, "host_port": free_port}]
    old = await provider.apply(tenant.spec(1, ports=ports))
    await until_serving(provider)
    sick = await provider.apply(tenant.spec(2, **{**shell("sleep 1000"), "ports": ports, "restart_policy": "no"}))
    with pytest.raises(ComputeError, match="connection refused"):
        await provider.apply(tenant.spec(3, ports=ports, image=NOWHERE))
    assert await tenant.ids(provider) == [old.resources["container"], sick.resources["container"]]
    assert (await tenant.container(provider, sick.resources["container"]))["State"]["Status"] == "running"
    assert (await tenant.container(provider, old.resources["container"]))["State"]["Status"] == "exited"

    await tenant.docker.containers.container(sick.resources["container"]).kill()
    await tenant.docker.containers.container(sick.resources["container"]).wait()
    with pytest.raises(ComputeError, match="connection refused"):
        await provider.apply(tenant.spec(3, attempt=2, ports=ports, image=NOWHERE))
    await tenant.healthy(provider, old.resources["container"])
    assert await fetch(f"http://127.0.0.1:{free_port}/healthz") == 200


async def test_what_becomes_healthy_during_a_pull_stays(
    watched: tuple[DockerProvider, Turns], provider: DockerProvider, tenant: Tenant
) -> None:
    check = {"test": ["/bin/busybox", "test", "-f", "/tmp/well"], "interval_seconds": 0.4, "retries": 100}
    old = await provider.apply(tenant.spec(1))
    program = shell("sleep 2; touch /tmp/well; sleep 1000")
    slow = await provider.apply(tenant.spec(2, **{**program, "health_check": check}))
    delayed, turns = watched
    # The reply to the call after a pull is as late as the pull would make it.
    turns.arm(at=1, fault=Fault.HOLD_REPLY, match=b"/containers/create")
    update = asyncio.create_task(delayed.apply(tenant.spec(3)))
    await turns.held.wait()
    await tenant.healthy(provider, slow.resources["container"])
    turns.released.set()
    new = await update
    assert await tenant.ids(provider) == [each.resources["container"] for each in (old, slow, new)]


async def test_what_a_killed_worker_stopped_is_started_again_where_nothing_new_can_be_pulled(
    make: Make, tenant: Tenant, free_port: int
) -> None:
    killed, other = make(), make()
    ports = [{"container_port": 8080, "host_port": free_port}]
    old = await killed.apply(tenant.spec(1, ports=ports, restart_policy="always"))
    await until_serving(killed)
    await killed._put_aside(old.resources["container"])
    with pytest.raises(ComputeError, match="connection refused"):
        await other.apply(tenant.spec(2, ports=ports, image=NOWHERE))
    assert (await until_serving(other)).generation == 1
    assert await policy(other, tenant, old.resources["container"]) == "always"


@pytest.mark.parametrize("generation", [2, 3], ids=["the same generation", "a newer generation"])
async def test_nothing_is_started_again_once_another_worker_is_at_it(
    watched: tuple[DockerProvider, Turns], provider: DockerProvider, tenant: Tenant, generation: int
) -> None:
    late, turns = watched
    repository = f"127.0.0.1:1/{uuid.uuid4().hex}"
    config = {"volumes": VOLUMES, "image": f"{repository}:1"}
    old = await provider.apply(tenant.spec(1, volumes=VOLUMES))
    turns.arm(at=1, fault=Fault.HOLD_REPLY, match=b"/containers/create")
    update = asyncio.create_task(late.apply(tenant.spec(2, **config)))
    await turns.held.wait()
    await tenant.docker.images.tag(tenant.image, repo=repository, tag="1")
    try:
        await create(provider, tenant.spec(generation, **config))
        await provider._put_aside(old.resources["container"])
        turns.released.set()
        with pytest.raises(ComputeError, match="connection refused"):
            await update
        assert (await tenant.container(provider, old.resources["container"]))["State"]["Status"] == "exited"
    finally:
        await tenant.docker.images.delete(f"{repository}:1", force=True)


async def policy(provider: DockerProvider, tenant: Tenant, container_id: str) -> str:
    return str((await tenant.container(provider, container_id))["HostConfig"]["RestartPolicy"]["Name"])


@pytest.mark.parametrize(("restart_policy", "killed"), [("always", True), ("on-failure", False)])
async def test_what_was_stopped_for_an_update_stays_stopped_when_the_engine_restarts(
    make: Make, own_docker: DockerEngine, restart_policy: str, killed: bool
) -> None:
    image = await import_image(own_docker.host)
    provider = make(host=own_docker.host)
    async with Docker(url=own_docker.host) as client:
        tenant = Tenant(image, client)
        # Ended by a signal it fails, which is what on-failure goes by.
        config = {**shell("sleep 1000"), "restart_policy": restart_policy, "volumes": VOLUMES}
        old = await provider.apply(tenant.spec(1, **config))
        if killed:
            await client.containers.container(old.resources["container"]).stop()  # what the worker did last
        new = await provider.apply(tenant.spec(2, **config))
        await own_docker.stop()
    await own_docker.start()
    await until(provider, lambda status: status.state is not ComputeState.FAILED)
    states = {one["Id"]: one["State"]["Status"] for one in await tenant.containers(provider)}
    assert states == {old.resources["container"]: "exited", new.resources["container"]: "running"}
    await provider.destroy("acme", generation=2)


@pytest.mark.parametrize("killed", [False, True])
async def test_what_is_started_again_has_its_restart_policy_again(make: Make, tenant: Tenant, killed: bool) -> None:
    first, other = make(), make()
    config = {**shell("sleep 1000"), "restart_policy": "always", "volumes": VOLUMES}
    old = await first.apply(tenant.spec(1, **config))
    if killed:
        await first._put_aside(old.resources["container"])
        assert await policy(first, tenant, old.resources["container"]) == "no"
    with pytest.raises(PermanentComputeError, match="cannot start the container"):
        await other.apply(tenant.spec(2, **{**config, "init": False, "entrypoint": ["/nope"]}))
    assert (await tenant.container(other, old.resources["container"]))["State"]["Status"] == "running"
    assert await policy(other, tenant, old.resources["container"]) == "always"


async def test_former_defaults_that_are_back_bring_back_their_container_with_its_restart_policy(
    provider: DockerProvider, tenant: Tenant
) -> None:
    config = {**shell("sleep 1000"), "restart_policy": "always", "volumes": VOLUMES}
    old = await provider.apply(tenant.spec(1, **config))
    await provider.apply(tenant.spec(1, **config, stop_timeout_seconds=2))
    assert await policy(provider, tenant, old.resources["container"]) == "no"
    assert (await provider.apply(tenant.spec(1, **config))).resources == old.resources
    assert await policy(provider, tenant, old.resources["container"]) == "always"


async def test_failed_updates_do_not_pile_up(provider: DockerProvider, tenant: Tenant) -> None:
    old = await provider.apply(tenant.spec(1))
    await until_serving(provider)
    for generation in (2, 3, 4):
        last = await provider.apply(tenant.spec(generation, **shell(f"exit {generation}")))
        await until(provider, lambda status: status.outputs.health == "unhealthy")
    assert await tenant.ids(provider) == [old.resources["container"], last.resources["container"]]
    assert await fetch(f"{old.endpoints[0].url}/healthz") == 200


async def test_a_lower_generation_is_refused(provider: DockerProvider, tenant: Tenant) -> None:
    outputs = await provider.apply(tenant.spec(5))
    with pytest.raises(NewerGeneration, match="generation 5, newer than 4"):
        await provider.apply(tenant.spec(4))
    await provider.destroy("acme", generation=4)
    await provider.retire("acme", generation=4)
    assert await tenant.ids(provider) == [outputs.resources["container"]]


async def test_the_same_generation_with_other_defaults_is_replaced(provider: DockerProvider, tenant: Tenant) -> None:
    await provider.apply(tenant.spec(1))
    new = await provider.apply(tenant.spec(1, stop_timeout_seconds=2))
    assert (await until_serving(provider)).outputs.resources == new.resources
    await provider.retire("acme", generation=1)
    assert await tenant.ids(provider) == [new.resources["container"]]
