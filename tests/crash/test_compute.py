"""The worker, killed around its calls to the Docker engine: what it leaves is taken up, and never two of anything.

Each run of the tests takes some of the calls of a path: see :mod:`crash.sampling`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crash.installation import Call, Containers, Records, client, docker_config, started
from crash.sampling import earlier, limit, sample
from fixtures.engines import Engine
from fixtures.turns import CRASHES, Fault, Turns, proxy
from fixtures.warm import Process

pytestmark = pytest.mark.timeout(limit())

POINTS = 1
"""Calls of a path that each fault happens to."""


@dataclass(slots=True, kw_only=True)
class World:
    worker: Process
    turns: Turns
    call: Call
    records: Records
    containers: Containers
    image: str


@asynccontextmanager
async def world(
    *, docker_host: str, image: str, engine: Engine, database_url: str, folder: Path
) -> AsyncIterator[World]:
    turns = Turns()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(proxy(turns, upstream=Path(docker_host.removeprefix("unix://"))))
        containers = await stack.enter_async_context(
            Containers.connected(docker_host, installation=engine.installation)
        )
        settings = {
            **engine.environment,
            "LANDLORD_DATABASE_URL": database_url,
            "LANDLORD_RETRY_BACKOFF": "0.05",
            "LANDLORD_COMPUTE_PROVIDERS": "docker",
            "LANDLORD_DOCKER_HOST": docker_host,
            "LANDLORD_KUBERNETES_MIRROR": "false",
            "LANDLORD_LOG_FORMAT": "console",
        }
        proxied = {"LANDLORD_DOCKER_HOST": f"tcp://127.0.0.1:{port}"}
        api = Process("api", environment=settings, log=folder / "api.log")
        controller = Process("controller", environment=settings, log=folder / "controller.log")
        worker = Process("worker", environment={**settings, **proxied}, log=folder / "worker.log")
        turns.kill = worker.kill
        await stack.enter_async_context(started(api, controller, worker))
        call = await stack.enter_async_context(client(api))
        records = await stack.enter_async_context(Records(database_url, engine=engine))
        yield World(
            worker=worker,
            turns=turns,
            call=call,
            records=records,
            containers=containers,
            image=image,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    name: str
    prepared: bool
    method: str
    ends: str
    containers: list[tuple[int, str]]


PATHS = [
    Way(name="create", prepared=False, method="POST", ends="ready", containers=[(1, "running")]),
    Way(name="update", prepared=True, method="PUT", ends="ready", containers=[(2, "running")]),
    Way(name="delete", prepared=True, method="DELETE", ends="deleted", containers=[]),
]


async def ask(world: World, method: str, tenant: str, *, value: str) -> None:
    config = docker_config(world.image, VALUE=value)
    body: Any = None
    if method == "POST":
        body = {"id": tenant, "compute_provider": "docker", "compute_config": config}
    elif method == "PUT":
        body = {"compute_config": config}
    path = "/api/tenants" if method == "POST" else f"/api/tenants/{tenant}"
    status, answer = await world.call(method, path, body)
    assert status == 202, answer


async def run(world: World, way: Way, *, at: int, fault: Fault) -> bool:
    """One run with one fault; whether the fault happened."""
    tenant = f"t{uuid.uuid4().hex[:10]}"
    if way.prepared:
        await ask(world, "POST", tenant, value="1")
        await world.records.all([tenant], status="ready")
    world.turns.arm(at=at, fault=fault)
    await ask(world, way.method, tenant, value="2")
    finished = asyncio.ensure_future(world.records.all([tenant], status=way.ends))
    happened = asyncio.ensure_future(world.turns.happened.wait())
    # What was ready may still be so at the first look: the answer was 202, so the record says otherwise by now.
    await asyncio.wait({finished, happened}, return_when=asyncio.FIRST_COMPLETED)
    killed = happened.done() and fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER)
    happened.cancel()
    if killed:
        world.turns.disarm()
        await world.worker.gone()
        await world.worker.start()
    await finished
    world.turns.disarm()
    assert await world.containers.of(tenant) == way.containers
    await world.records.check(tenant)
    await world.containers.clear()
    return world.turns.happened.is_set()


@pytest.mark.parametrize("way", PATHS, ids=lambda way: way.name)
async def test_every_call_to_docker(
    way: Way, engine: Engine, docker_host: str, busybox_image: str, test_database_url: str, tmp_path: Path
) -> None:
    async with world(
        docker_host=docker_host, image=busybox_image, engine=engine, database_url=test_database_url, folder=tmp_path
    ) as installation:
        assert not await run(installation, way, at=0, fault=Fault.KILL_BEFORE)
        calls = installation.turns.count
        assert calls >= 3, "the worker was not seen to call the engine"
        happened: dict[tuple[Fault, int], bool] = {}
        for shift, fault in enumerate(CRASHES):
            for at in sample(calls, points=POINTS, shift=shift):
                happened[fault, at] = await run(installation, way, at=at, fault=fault) or await run(
                    installation, way, at=earlier(at, of=installation.turns.count), fault=fault
                )
        assert sum(happened.values()) >= len(happened) / 2, f"of {calls} calls: {happened}"
