"""The docker provider against a real engine."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import re
import socket
import tarfile
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiodocker import Docker, DockerError
from aiohttp import web  # noqa: TID251 - a registry, served by the test
from fixtures.docker import import_image
from fixtures.turns import Fault, Turns, proxy

from landlord.compute.config import with_defaults
from landlord.compute.provider import (
    ComputeError,
    ComputeSpec,
    ComputeState,
    ComputeStatus,
    ComputeUnavailable,
    NewerGeneration,
    PermanentComputeError,
)
from landlord.compute.providers.docker import DockerProvider, container
from landlord.compute.providers.docker.state import Found
from landlord.dev.docker import DockerEngine
from landlord.settings import Settings
from landlord.workflow import definition
from landlord.workflow.payload import TenantPayload

SECRET = "hunter2-s3cr3t"
WEB: dict[str, Any] = {
    "ports": [{"container_port": 8080, "scheme": "http", "name": "web"}],
    "health_check": {"http": {"port": 8080, "path": "/healthz"}, "interval_seconds": 0.4, "timeout_seconds": 10},
    "env": {"TOKEN": SECRET},
    "init": True,
    "stop_timeout_seconds": 1,
}
VOLUMES = [{"name": "data", "target": "/data"}]
NOWHERE = "127.0.0.1:1/app:1"
"""An image that cannot be pulled: no registry is there."""
ABSENT = ComputeState.ABSENT
Make = Callable[..., DockerProvider]


@pytest.fixture
async def docker(docker_host: str) -> AsyncIterator[Docker]:
    async with Docker(url=docker_host) as client:
        yield client


@pytest.fixture
async def make(docker_host: str, docker: Docker) -> AsyncIterator[Make]:
    """Makes providers of one installation of this test's own, and removes what they left."""
    installation = f"test-{uuid.uuid4().hex[:12]}"
    made: list[DockerProvider] = []

    def make_provider(*, suffix: str = "", host: str = docker_host, **settings: Any) -> DockerProvider:
        provider = DockerProvider(
            settings=Settings(installation=f"{installation}{suffix}", docker_host=host, **settings)
        )
        made.append(provider)
        return provider

    yield make_provider
    for provider in made:
        await provider.close()
    for one in await docker.containers.list(all="true"):
        if installation in one._container["Labels"].get("landlord.dev/installation", ""):
            await one.delete(force=True, v=True)
    for volume in (await docker.volumes.list())["Volumes"] or ():
        if installation in volume["Name"]:
            await (await docker.volumes.get(volume["Name"])).delete()


@pytest.fixture
def provider(make: Make) -> DockerProvider:
    return make()


@pytest.fixture
async def watched(make: Make, docker_host: str) -> AsyncIterator[tuple[DockerProvider, Turns]]:
    """A provider, and what counts or delays its calls."""
    turns = Turns()
    async with proxy(turns, upstream=Path(docker_host.removeprefix("unix://"))) as port:
        yield make(host=f"tcp://127.0.0.1:{port}"), turns


class Only:
    """The one provider that a workflow finds."""

    def __init__(self, provider: DockerProvider) -> None:
        self.provider = provider

    def get(self, _: str, /) -> DockerProvider:
        return self.provider


class Tenant:
    """One tenant's calls."""

    def __init__(self, image: str, docker: Docker) -> None:
        self.image = image
        self.docker = docker

    def spec(self, generation: int = 1, *, attempt: int = 1, **config: Any) -> ComputeSpec:
        config = {"image": self.image, **WEB, **config}
        config = {key: value for key, value in config.items() if value is not None}
        return ComputeSpec(tenant_id="acme", generation=generation, attempt=attempt, config=config)

    async def containers(self, provider: DockerProvider) -> list[dict[str, Any]]:
        return [dict(one.data) for one in await provider._find("acme")]

    async def container(self, provider: DockerProvider, container_id: str) -> dict[str, Any]:
        (one,) = [one for one in await self.containers(provider) if one["Id"] == container_id]
        return one

    async def healthy(self, provider: DockerProvider, container_id: str) -> None:
        """Wait until this one is, which need not be the newest."""
        async with asyncio.timeout(30):
            while (await self.container(provider, container_id))["State"]["Health"]["Status"] != "healthy":
                await asyncio.sleep(0.1)

    async def ids(self, provider: DockerProvider) -> list[str]:
        return [one["Id"] for one in await self.containers(provider)]


@pytest.fixture
def tenant(busybox_image: str, docker: Docker) -> Tenant:
    return Tenant(busybox_image, docker)


def shell(script: str) -> dict[str, Any]:
    """A tenant that runs this instead of the server."""
    return {"entrypoint": ["/bin/busybox"], "command": ["sh", "-c", script], "ports": None, "health_check": None}


async def until(
    provider: DockerProvider, wanted: Callable[[ComputeStatus], bool], *, limit: float = 30
) -> ComputeStatus:
    deadline = time.monotonic() + limit
    while not wanted(status := await provider.status("acme")):
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.05)
    return status


async def until_serving(provider: DockerProvider) -> ComputeStatus:
    return await until(provider, lambda status: status.serving)


async def fetch(url: str) -> int:
    def get() -> int:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)

    return await asyncio.to_thread(get)


async def create(provider: DockerProvider, spec: ComputeSpec) -> Found:
    """As far as a worker gets that is killed before it starts anything."""
    config = with_defaults(provider, spec.config)
    return await provider._create(spec, config=config, digest=container.config_hash(config), turn=0)


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


def chosen_port(provider: DockerProvider, spec: ComputeSpec) -> int:
    """The host port that is tried first."""
    body = container.create_body(
        spec=spec,
        config=with_defaults(provider, spec.config),
        installation=provider._settings.installation,
        publish_address="127.0.0.1",
    )
    return int(body["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostPort"])


async def test_chosen_ports_that_are_taken_are_replaced_by_others(provider: DockerProvider, tenant: Tenant) -> None:
    spec = tenant.spec()
    taken = chosen_port(provider, spec)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", taken)
    async with server:
        outputs = await provider.apply(spec)
    assert outputs.endpoints[0].port != taken
    await until_serving(provider)
    assert len(await tenant.ids(provider)) == 1


async def test_a_fixed_port_of_somebody_else_may_become_free(provider: DockerProvider, tenant: Tenant) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    ports = [{"container_port": 8080, "host_port": server.sockets[0].getsockname()[1]}]
    async with server:
        with pytest.raises(ComputeError, match="address already in use") as caught:
            await provider.apply(tenant.spec(ports=ports))
        assert not isinstance(caught.value, PermanentComputeError)
    await provider.apply(tenant.spec(attempt=2, ports=ports))
    await until_serving(provider)


async def test_a_fixed_port_that_is_taken_stops_the_old_only_once(
    watched: tuple[DockerProvider, Turns], tenant: Tenant
) -> None:
    provider, turns = watched
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    fixed = {"container_port": 9090, "host_port": server.sockets[0].getsockname()[1]}
    await provider.apply(tenant.spec(1, volumes=VOLUMES))
    await until_serving(provider)
    turns.arm(at=0, fault=Fault.LATE, match=b"/start ")
    async with server:
        with pytest.raises(ComputeError, match="address already in use"):
            await provider.apply(tenant.spec(2, volumes=VOLUMES, ports=[*WEB["ports"], fixed]))
    assert turns.disarm() == 2, "the new one, then the old one again"
    assert (await until_serving(provider)).generation == 1


async def test_other_ports_are_tried_while_the_old_stays_stopped(
    watched: tuple[DockerProvider, Turns], tenant: Tenant
) -> None:
    provider, turns = watched
    old = await provider.apply(tenant.spec(1, volumes=VOLUMES))
    spec = tenant.spec(2, volumes=VOLUMES)
    taken = chosen_port(provider, spec)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", taken)
    turns.arm(at=0, fault=Fault.LATE, match=b"/start ")
    async with server:
        outputs = await provider.apply(spec)
    assert turns.disarm() == 2, "the new one, with one port and with another"
    assert outputs.endpoints[0].port != taken
    assert await tenant.ids(provider) == [old.resources["container"], outputs.resources["container"]]


async def test_a_late_worker_does_not_start_the_old_beside_a_newer_generation(
    watched: tuple[DockerProvider, Turns], provider: DockerProvider, tenant: Tenant
) -> None:
    late, turns = watched
    old = await provider.apply(tenant.spec(1, volumes=VOLUMES))
    spec = tenant.spec(2, volumes=VOLUMES)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", chosen_port(late, spec))
    turns.arm(at=1, fault=Fault.HOLD_REPLY, match=b"/start ")
    async with server:
        update = asyncio.create_task(late.apply(spec))
        await turns.held.wait()
        new = await create(provider, tenant.spec(3, volumes=VOLUMES))
        turns.released.set()
        with pytest.raises(NewerGeneration):
            await update
    states = {one["Id"]: one["State"]["Status"] for one in await tenant.containers(provider)}
    assert states == {old.resources["container"]: "exited", new.id: "created"}


async def test_unhealthy(provider: DockerProvider, tenant: Tenant) -> None:
    check = {"test": f"echo {SECRET}; exit 7", "interval_seconds": 0.1, "retries": 2}
    await provider.apply(tenant.spec(**{**shell("sleep 1000"), "health_check": check}))
    status = await until(provider, lambda status: status.outputs.health == "unhealthy")
    assert status.state is ComputeState.RUNNING
    assert not status.serving
    assert "exit code 7" in status.message
    assert SECRET not in status.message


async def test_a_program_that_ends(provider: DockerProvider, tenant: Tenant) -> None:
    await provider.apply(tenant.spec(1, restart_policy="no", **shell("exit 3")))
    status = await until(provider, lambda status: status.state is ComputeState.FAILED)
    assert (status.outputs.health, status.message) == ("unhealthy", "exit code 3")
    await provider.apply(tenant.spec(2, restart_policy="no", **shell("exit 0")))
    status = await until(provider, lambda status: status.state is ComputeState.STOPPED)
    assert (status.generation, status.message) == (2, "exit code 0")


async def test_a_program_that_keeps_ending(provider: DockerProvider, tenant: Tenant) -> None:
    await provider.apply(tenant.spec(**shell("exit 4")))
    status = await until(provider, lambda status: status.outputs.health == "unhealthy")
    assert status.state is ComputeState.STARTING
    assert "exit code 4" in status.message
    status = await until(provider, lambda status: status.state is ComputeState.FAILED, limit=90)
    assert "keeps exiting" in status.message
    await provider.destroy("acme", generation=1)


async def test_out_of_memory(provider: DockerProvider, tenant: Tenant) -> None:
    eat = shell("exec tail -c 100000000 /dev/zero")
    await provider.apply(tenant.spec(restart_policy="no", resources={"memory_mb": 16}, **eat))
    status = await until(provider, lambda status: status.state is ComputeState.FAILED)
    # The engine does not always hear why.
    assert re.fullmatch(r"(killed, perhaps )?out of memory \(exit code 137, limit 16 MiB\)", status.message)


async def test_what_the_installation_does_not_allow_is_refused_by_the_worker_too(
    provider: DockerProvider, tenant: Tenant
) -> None:
    with pytest.raises(PermanentComputeError, match="/volumes/0/source is not allowed"):
        await provider.apply(tenant.spec(volumes=[{"source": "/", "target": "/host"}]))
    assert await tenant.ids(provider) == []


async def test_an_allowed_path_is_mounted(make: Make, tenant: Tenant, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    volumes = [{"source": str(tmp_path), "target": "/mnt", "read_only": True}]
    check = {"test": ["/bin/busybox", "test", "-f", "/mnt/file"], "interval_seconds": 0.4}
    provider = make(docker_allow_volumes=(str(tmp_path.parent),))
    await provider.apply(tenant.spec(**{**shell("sleep 1000"), "volumes": volumes, "health_check": check}))
    assert (await until_serving(provider)).outputs.health == "healthy", "it sees the file"
    [one] = await tenant.containers(provider)
    [mount] = one["Mounts"]
    assert (mount["Source"], mount["Destination"], mount["RW"]) == (str(tmp_path), "/mnt", False)


@pytest.mark.parametrize(
    "change",
    [
        {"user": "nobody-at-all"},
        {"user": "0:nobody-at-all"},
        {"tmpfs": [{"target": "/proc/nobody-at-all"}]},
        {"entrypoint": ["/nope"], "init": False},
    ],
    ids=["user", "group", "mount", "program"],
)
async def test_no_value_of_the_environment_is_in_an_error(
    provider: DockerProvider, tenant: Tenant, change: dict[str, Any]
) -> None:
    # The engine quotes the name of a user, directory or program; here that is at the same time a secret.
    secret = "/nope" if "entrypoint" in change else "nobody-at-all"
    with pytest.raises(PermanentComputeError) as caught:
        await provider.apply(tenant.spec(**{**change, "env": {"TOKEN": secret}}))
    assert secret not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"command": [f'run --token "{SECRET}"'], "entrypoint": [""]},
        {"entrypoint": [f'/opt/run\n--token "{SECRET}"']},
        {"user": f"0:{SECRET}"},
    ],
    ids=["command", "entrypoint", "user"],
)
async def test_no_value_of_the_command_is_in_an_error(
    provider: DockerProvider, tenant: Tenant, change: dict[str, Any]
) -> None:
    with pytest.raises(ComputeError, match=r"\*\*\*") as caught:
        await provider.apply(tenant.spec(**change, env={}, init=False))
    assert SECRET not in str(caught.value)


async def test_an_engine_that_is_away(make: Make, tenant: Tenant, tmp_path: Path) -> None:
    away = make(host=f"unix://{tmp_path}/none.sock")
    for call in (
        away.ready(),
        away.apply(tenant.spec()),
        away.status("acme"),
        away.destroy("acme", generation=1),
        away.retire("acme", generation=1),
    ):
        with pytest.raises(ComputeUnavailable, match="cannot be reached"):
            await call
    with pytest.raises(ComputeUnavailable, match="LANDLORD_DOCKER_HOST"):
        await make(host="nonsense").ready()


async def test_an_engine_that_does_not_answer(make: Make, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute.sock"))
        mute.listen()
        with pytest.raises(ComputeUnavailable, match="no answer within 5 s"):
            await make(host=f"unix://{tmp_path}/mute.sock").ready()


async def test_an_engine_that_goes_and_comes_back(make: Make, own_docker: DockerEngine, tenant: Tenant) -> None:
    provider = make(host=own_docker.host)
    await provider.ready()
    await own_docker.kill()
    for call in (provider.ready(), provider.status("acme"), provider.apply(tenant.spec())):
        with pytest.raises(ComputeUnavailable):
            await call
    await own_docker.start()
    await provider.ready()
    assert (await provider.status("acme")).state is ABSENT


async def test_an_engine_that_goes_and_comes_back_costs_no_run(
    make: Make, own_docker: DockerEngine, docker: Docker
) -> None:
    image = await import_image(own_docker.host)
    provider = make(host=own_docker.host)
    spec = Tenant(image, docker).spec()
    payload = TenantPayload(
        installation=provider._settings.installation,
        execution_id="tenant-acme-provision",
        tenant_id=spec.tenant_id,
        incarnation="1",
        generation=spec.generation,
        action="provision",
        attempt=spec.attempt,
        compute_provider="docker",
        desired_config=spec.config,
        observed_config=None,
    )

    async def step(name: str, action: Callable[[], Awaitable[Any]], /) -> Any:
        if name in ("apply", "retire"):
            await own_docker.kill()
            back = asyncio.create_task(own_docker.start())
            done = await action()
            await back
            return done
        return await action()

    output = await definition.run(payload, compute=Only(provider), step=step, health_timeout=60)
    assert output["health"] == "healthy"
    await provider.destroy("acme", generation=1)


async def test_an_absent_image_is_pulled(provider: DockerProvider, tenant: Tenant, absent_image: str) -> None:
    await provider.apply(tenant.spec(image=absent_image))
    assert (await until_serving(provider)).state is ComputeState.RUNNING
    assert absent_image in (await tenant.docker.images.inspect(absent_image))["RepoTags"]
    await provider.destroy("acme", generation=1)
    assert await tenant.containers(provider) == []


def image_files() -> dict[str, tuple[str, bytes]]:
    """An image of one empty layer, as a registry serves it: path to (media type, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("made-by-test"), io.BytesIO())
    layer = buffer.getvalue()
    packed = gzip.compress(layer)
    settings = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/none"]},
        "rootfs": {"type": "layers", "diff_ids": [sha(layer)]},
    }
    config = json.dumps(settings).encode()
    kind = "application/vnd.docker.{}"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": kind.format("distribution.manifest.v2+json"),
            "config": {
                "mediaType": kind.format("container.image.v1+json"),
                "size": len(config),
                "digest": sha(config),
            },
            "layers": [
                {
                    "mediaType": kind.format("image.rootfs.diff.tar.gzip"),
                    "size": len(packed),
                    "digest": sha(packed),
                }
            ],
        }
    ).encode()
    typed = (kind.format("distribution.manifest.v2+json"), manifest)
    blob = "application/octet-stream"
    return {
        "manifests/1": typed,
        f"manifests/{sha(manifest)}": typed,
        f"blobs/{sha(config)}": (blob, config),
        f"blobs/{sha(packed)}": (blob, packed),
    }


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
async def private_registry() -> AsyncIterator[str]:
    """The pulling half of the registry protocol for one image ``app:1``, behind a password."""
    files = image_files()

    async def serve(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}":
            return web.json_response(
                {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
                status=401,
                headers={"WWW-Authenticate": 'Basic realm="test"'},
            )
        if request.path == "/v2/":
            return web.json_response({})
        found = files.get(request.path.removeprefix("/v2/app/"))
        if found is None:
            return web.json_response(
                {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}, status=404
            )
        headers = {"Docker-Content-Digest": sha(found[1]), "Content-Type": found[0]}
        return web.Response(body=found[1], headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_an_absent_image_is_pulled_with_the_installations_credentials(
    make: Make, tenant: Tenant, private_registry: str, tmp_path: Path
) -> None:
    image = f"{private_registry}/app:1"
    spec = tenant.spec(image=image)
    with pytest.raises(PermanentComputeError, match="may not pull it"):
        await make().apply(spec)

    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"auths": {private_registry: {"auth": base64.b64encode(f"me:{SECRET}".encode()).decode()}}})
    )
    provider = make(docker_config_file=file)
    with pytest.raises(PermanentComputeError, match=f"image {private_registry}/app:2 does not exist"):
        await provider.apply(tenant.spec(image=f"{private_registry}/app:2"))
    # The image has nothing to run: that it is refused only when started shows that it was pulled and created.
    with pytest.raises(PermanentComputeError, match="cannot start the container") as caught:
        await provider.apply(tenant.spec(image=image, init=False))
    assert SECRET not in str(caught.value)
    await tenant.docker.images.delete(image)


async def test_a_registry_that_is_away_is_tried_again(provider: DockerProvider, tenant: Tenant, free_port: int) -> None:
    with pytest.raises(ComputeError, match="connection refused") as caught:
        await provider.apply(tenant.spec(image=f"127.0.0.1:{free_port}/app:1"))
    assert not isinstance(caught.value, PermanentComputeError)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
