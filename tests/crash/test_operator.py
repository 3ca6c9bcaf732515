"""The operator, killed around its calls to Postgres and to the API server, whatever it is doing to a ``Tenant``.

Its calls are counted over all proxies together. A path has 15 to 55 of them (the steps of its run are the operator's,
too), so each run of the tests takes some: see :mod:`crash.sampling`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from crash.installation import Call, Cluster, Records, client, kubeconfig_through, started
from crash.sampling import earlier, limit, sample
from fixtures.engines import Engine
from fixtures.proxy import target, through
from fixtures.turns import CRASHES, Fault, Turns, proxy
from fixtures.warm import Process

from landlord.dev.controlplane import ControlPlane

pytestmark = pytest.mark.timeout(limit())

POINTS = 1
"""Calls of a path that each fault happens to."""
NAMESPACE = "default"


@dataclass(slots=True, kw_only=True)
class World:
    operator: Process
    turns: Turns
    call: Call
    cluster: Cluster
    records: Records
    old: list[str] = field(default_factory=list)
    """Tenants of runs that are over."""

    async def start_again(self) -> None:
        """After a kill. What is over is taken away first: every start looks at every resource."""
        await self.operator.gone()
        await self.cluster.clear(self.old)
        await self.records.forget(self.old)
        self.old.clear()
        await self.operator.start()


@asynccontextmanager
async def world(*, plane: ControlPlane, engine: Engine, database_url: str, folder: Path) -> AsyncIterator[World]:
    turns = Turns()
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(proxy(turns, upstream=target(database_url)))
        kubernetes = await stack.enter_async_context(proxy(turns, upstream=("127.0.0.1", plane.port)))
        settings = {
            **engine.environment,
            "LANDLORD_DATABASE_URL": database_url,
            "LANDLORD_WORKFLOW_TRIGGER_TIMEOUT": "0.5",
            "LANDLORD_RETRY_BACKOFF": "0.05",
            "LANDLORD_COMPUTE_PROVIDERS": "mock",
            "LANDLORD_KUBERNETES_MIRROR": "false",
            "LANDLORD_KUBERNETES_NAMESPACE": NAMESPACE,
            "LANDLORD_LOG_FORMAT": "console",
        }
        proxied = {
            "LANDLORD_DATABASE_URL": through(database_url, port=postgres),
            "KUBECONFIG": str(kubeconfig_through(plane, port=kubernetes, file=folder / "kubeconfig")),
            **await stack.enter_async_context(engine.counted(turns)),
        }
        api = Process("api", environment=settings, log=folder / "api.log")
        worker = Process("worker", environment=settings, log=folder / "worker.log")
        operator = Process("operator", environment={**settings, **proxied}, log=folder / "operator.log")
        turns.kill = operator.kill
        cluster = await stack.enter_async_context(
            Cluster.connected(kubeconfig=plane.kubeconfig, namespace=NAMESPACE, database_url=database_url)
        )
        stack.push_async_callback(cluster.clear_all)
        await stack.enter_async_context(started(api, worker, operator))
        call = await stack.enter_async_context(client(api))
        records = await stack.enter_async_context(Records(database_url, engine=engine))
        await turns.quiet()
        yield World(operator=operator, turns=turns, call=call, cluster=cluster, records=records)


Act = Callable[[World, str], Awaitable[None]]


async def apply(world: World, tenant: str) -> None:
    await world.cluster.apply(tenant, {"v": 1})


async def apply_retained(world: World, tenant: str) -> None:
    await world.cluster.apply(tenant, {"v": 1}, deletionPolicy="Retain")


async def edit(world: World, tenant: str) -> None:
    await world.cluster.apply(tenant, {"v": 2})


async def kubectl_delete(world: World, tenant: str) -> None:
    await world.cluster.delete(tenant)


async def rest_create(world: World, tenant: str) -> None:
    body = {"id": tenant, "compute_provider": "mock", "compute_config": {"v": 1}}
    assert (await world.call("POST", "/api/tenants", body))[0] == 202


async def rest_delete(world: World, tenant: str) -> None:
    assert (await world.call("DELETE", f"/api/tenants/{tenant}"))[0] == 202


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    name: str
    prepare: Act | None = None
    act: Act
    status: str
    generation: int
    ingested: int
    """Changes that the audit trail must know of from the Kubernetes door."""
    resource: bool
    detached: bool = False


PATHS = [
    Way(name="ingest-create", act=apply, status="ready", generation=1, ingested=1, resource=True),
    Way(name="ingest-edit", prepare=apply, act=edit, status="ready", generation=2, ingested=2, resource=True),
    Way(name="mirror", act=rest_create, status="ready", generation=1, ingested=0, resource=True),
    Way(
        name="kubectl-delete",
        prepare=apply,
        act=kubectl_delete,
        status="deleted",
        generation=1,
        ingested=2,
        resource=False,
    ),
    Way(
        name="rest-delete",
        prepare=rest_create,
        act=rest_delete,
        status="deleted",
        generation=1,
        ingested=0,
        resource=False,
    ),
    Way(
        name="retain",
        prepare=apply_retained,
        act=kubectl_delete,
        status="ready",
        generation=1,
        ingested=2,
        resource=False,
        detached=True,
    ),
]
INTERNAL = {"bound"}
"""What the audit trail tells of the operator's own doing."""


async def done(world: World, tenant: str, way: Way) -> None:
    """Wait for this way's end; agreement alone is also what was before it."""
    async with asyncio.timeout(60):
        while True:
            record = await world.records.tenant(tenant)
            if (
                record is not None
                and (record["status"], record["generation"], record["detached"])
                == (way.status, way.generation, way.detached)
                and record["workflow_execution_id"] is None
            ):
                break
            await world.cluster.agrees(tenant)  # and is truthful all the time
            await asyncio.sleep(0.03)
    await world.cluster.agreed(tenant)


async def run(world: World, way: Way, *, at: int, fault: Fault) -> bool:
    """One run with one fault; whether the fault happened."""
    tenant = f"t{uuid.uuid4().hex[:10]}"
    if way.prepare is not None:
        await way.prepare(world, tenant)
        await world.cluster.agreed(tenant)
    await world.turns.quiet()
    world.turns.arm(at=at, fault=fault)
    await way.act(world, tenant)
    finished = asyncio.ensure_future(done(world, tenant, way))
    happened = asyncio.ensure_future(world.turns.happened.wait())
    await asyncio.wait({finished, happened}, return_when=asyncio.FIRST_COMPLETED)
    killed = happened.done() and fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER)
    happened.cancel()
    if killed:
        world.turns.disarm()
        await world.start_again()
    await finished
    world.turns.disarm()
    await check(world, tenant, way)
    world.old.append(tenant)
    return world.turns.happened.is_set()


async def check(world: World, tenant: str, way: Way) -> None:
    await world.records.check(tenant)
    resource = await world.cluster.resource(tenant)
    assert (resource is not None) == way.resource, resource
    ingested = [
        each
        for each in await world.records.audit(tenant)
        if each["door"] == "kubernetes" and each["event"] not in INTERNAL
    ]
    assert len(ingested) == way.ingested, ingested


@pytest.mark.parametrize("way", PATHS, ids=lambda way: way.name)
async def test_every_call_of_the_operator(
    way: Way, engine: Engine, cluster: ControlPlane, test_database_url: str, tmp_path: Path
) -> None:
    async with world(plane=cluster, engine=engine, database_url=test_database_url, folder=tmp_path) as installation:
        assert not await run(installation, way, at=0, fault=Fault.KILL_BEFORE)
        calls = installation.turns.count
        assert calls >= 8, "the operator was not seen to call anything"
        happened: dict[tuple[Fault, int], bool] = {}
        for shift, fault in enumerate(CRASHES):
            for at in sample(calls, points=POINTS, shift=shift):
                happened[fault, at] = await run(installation, way, at=at, fault=fault) or await run(
                    installation, way, at=earlier(at, of=installation.turns.count), fault=fault
                )
        assert sum(happened.values()) >= len(happened) / 2, f"of {calls} calls: {happened}"
