"""Ports of the engine's machine that somebody has."""

from __future__ import annotations

import asyncio

import pytest
from fixtures.turns import Fault, Turns
from integration.docker.harness import (
    VOLUMES,
    WEB,
    Tenant,
    create,
    until_serving,
)

from landlord.compute.config import with_defaults
from landlord.compute.provider import (
    ComputeError,
    ComputeSpec,
    NewerGeneration,
    PermanentComputeError,
)
from landlord.compute.providers.docker import DockerProvider, container


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
