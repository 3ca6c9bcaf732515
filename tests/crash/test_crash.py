"""Crash safety: a real process is killed around each of its calls to the outside, one run after another.

For every path the calls are first counted at the proxies, then the path is run again for each of them (for some, each
time the tests run: see :mod:`crash.sampling`): killed before the call, killed after it, its reply lost, the call late.
The process is started again, and then: what was accepted is not lost, never were two runs of a tenant under way at
once, exactly one run succeeded for each (generation, action), and the tenant has converged.
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
from crash.installation import Call, Records, client, started
from crash.sampling import earlier, limit, sample
from fixtures.engines import Engine
from fixtures.proxy import target, through
from fixtures.turns import CRASHES, Fault, Turns, proxy
from fixtures.warm import Process

pytestmark = pytest.mark.timeout(limit())

POINTS = 2
"""Calls of a path that each fault happens to."""


@dataclass(slots=True, kw_only=True)
class World:
    """The processes of an installation; one of them, the victim, reaches the outside through proxies."""

    victim: Process
    turns: Turns
    call: Call
    records: Records


@asynccontextmanager
async def world(victim: str, *, engine: Engine, database_url: str, folder: Path) -> AsyncIterator[World]:
    """An installation in which ``victim`` (api, controller or worker) goes through the proxies."""
    turns = Turns()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(proxy(turns, upstream=target(database_url)))
        settings = {
            **engine.environment,
            "LANDLORD_DATABASE_URL": database_url,
            "LANDLORD_WORKFLOW_TRIGGER_TIMEOUT": "0.5",
            "LANDLORD_RETRY_BACKOFF": "0.05",
            "LANDLORD_COMPUTE_PROVIDERS": "mock",
            "LANDLORD_KUBERNETES_MIRROR": "false",
            "LANDLORD_LOG_FORMAT": "console",
        }
        proxied = {
            **settings,
            "LANDLORD_DATABASE_URL": through(database_url, port=port),
            **await stack.enter_async_context(engine.counted(turns)),
        }
        processes = {
            command: Process(
                command, environment=proxied if command == victim else settings, log=folder / f"{command}.log"
            )
            for command in ("api", "worker", "controller")
        }
        turns.kill = processes[victim].kill
        await stack.enter_async_context(started(*processes.values()))
        call = await stack.enter_async_context(client(processes["api"]))
        records = await stack.enter_async_context(Records(database_url, engine=engine))
        yield World(victim=processes[victim], turns=turns, call=call, records=records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way through the system: what is done before the fault, the request it happens to, and how it must end."""

    name: str
    prepare: tuple[tuple[str, str, Any], ...]
    request: tuple[str, str, Any]
    ends: str
    generation: int


CREATE = ("POST", "/api/tenants", {"compute_provider": "mock", "compute_config": {"v": 1}})
FAILING = ("POST", "/api/tenants", {"compute_provider": "mock", "compute_config": {"permanent_error": "no"}})
UPDATE = ("PUT", "/api/tenants/{id}", {"compute_config": {"v": 2}})
RETRY = ("POST", "/api/tenants/{id}/retry", {"compute_config": {"v": 3}})
DELETE = ("DELETE", "/api/tenants/{id}", None)
PATHS = [
    Way(name="create", prepare=(), request=CREATE, ends="ready", generation=1),
    Way(name="update", prepare=(CREATE,), request=UPDATE, ends="ready", generation=2),
    Way(name="delete", prepare=(CREATE,), request=DELETE, ends="deleted", generation=1),
    Way(name="retry", prepare=(FAILING,), request=RETRY, ends="ready", generation=2),
]


async def send(world: World, tenant: str, request: tuple[str, str, Any], *, key: str) -> int | None:
    method, path, body = request
    if body is not None and path == "/api/tenants":
        body = {"id": tenant, **body}
    return (await world.call(method, path.format(id=tenant), body, key=key))[0]


async def answered(world: World, tenant: str, request: tuple[str, str, Any], *, key: str) -> None:
    """A client that got no answer asks again with its key, and is answered as if it had got one."""
    async with asyncio.timeout(20):
        while (status := await send(world, tenant, request, key=key)) not in (200, 202):
            assert status in (500, 503, None), status
            await asyncio.sleep(0.1)


async def run(world: World, path: Way, *, at: int, fault: Fault) -> bool:
    """One run with one fault; whether the fault happened."""
    tenant = f"t{uuid.uuid4().hex[:10]}"
    for number, request in enumerate(path.prepare):
        await answered(world, tenant, request, key=f"{tenant}-{number}")
        await world.records.converged(tenant)
    before = await world.records.tenant(tenant)
    key = f"{tenant}-request"
    world.turns.arm(at=at, fault=fault)
    status = await send(world, tenant, path.request, key=key)
    if world.victim.command == "api":
        world.turns.disarm()
    else:
        async with asyncio.timeout(30):
            while not (world.turns.happened.is_set() or await world.records.has_converged(tenant)):
                await asyncio.sleep(0.02)
        world.turns.disarm()
    happened_at_all = world.turns.happened.is_set()
    if happened_at_all and fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER):
        await world.victim.gone()
        await world.victim.start()
    assert status in (202, 500, 503, None), status
    record = await world.records.tenant(tenant)
    accepted = record is not None and (before is None or record["version"] > before["version"])
    if status in (202, 500):
        assert accepted, f"answered {status} and nothing was recorded"
    if accepted:  # the client need not do anything more
        await world.records.converged(tenant)
    await answered(world, tenant, path.request, key=key)
    record = await world.records.converged(tenant)
    assert record["status"] == path.ends, record["status_message"]
    assert record["generation"] == path.generation
    await world.records.check(tenant)
    return happened_at_all


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
@pytest.mark.parametrize("victim", ["api", "controller", "worker"])
async def test_every_call_of(victim: str, path: Way, engine: Engine, test_database_url: str, tmp_path: Path) -> None:
    async with world(victim, engine=engine, database_url=test_database_url, folder=tmp_path) as installation:
        assert not await run(installation, path, at=0, fault=Fault.KILL_BEFORE)
        calls = installation.turns.count
        assert calls >= 2, "the victim was not seen to call anything"
        for shift, fault in enumerate(CRASHES):
            points = sample(calls, points=POINTS, shift=shift)
            happened = [
                await run(installation, path, at=at, fault=fault)
                or await run(installation, path, at=earlier(at, of=installation.turns.count), fault=fault)
                for at in points
            ]
            assert sum(happened) >= len(points) // 2, f"{fault} at {points} of {calls} calls: {happened}"
