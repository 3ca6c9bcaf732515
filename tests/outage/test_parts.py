"""Parts of an installation are killed while tenants are in flight, or the API server is away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from crash.installation import Call, Cluster, Records, client, started
from fixtures.engines import Engine
from fixtures.postgres import prepare_template
from fixtures.warm import Process
from outage.releases import other_defaults

from landlord.dev.controlplane import ControlPlane
from landlord.dev.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)

TENANTS = 24
NAMESPACE = "default"


@pytest.fixture
async def test_database_url(own_postgres: PostgresServer) -> str:
    """On a server that may be killed, the ``local`` engine's database with it."""
    url = await own_postgres.create_database(name="landlord")
    await prepare_template(url)
    return url


@dataclass(slots=True, kw_only=True)
class World:
    api: Process
    workers: list[Process]
    operator: Process
    call: Call
    cluster: Cluster
    records: Records
    settings: dict[str, str]


@asynccontextmanager
async def world(*, plane: ControlPlane, engine: Engine, database_url: str, folder: Path) -> AsyncIterator[World]:
    settings = {
        **engine.environment,
        "LANDLORD_DATABASE_URL": database_url,
        "KUBECONFIG": str(plane.kubeconfig),
        "LANDLORD_WORKFLOW_TRIGGER_TIMEOUT": "2",
        "LANDLORD_WORKFLOW_LOCAL_LEASE": "1",
        "LANDLORD_RETRY_BACKOFF": "0.2",
        "LANDLORD_COMPUTE_PROVIDERS": "mock",
        "LANDLORD_KUBERNETES_NAMESPACE": NAMESPACE,
        "LANDLORD_KUBERNETES_RESYNC": "2",
        "LANDLORD_LOG_FORMAT": "console",
    }
    async with AsyncExitStack() as stack:
        api, operator = (
            Process(each, environment=settings, log=folder / f"{each}.log") for each in ("api", "operator")
        )
        two = await stack.enter_async_context(engine.workers())
        workers = [
            Process("worker", environment={**settings, **own}, log=folder / f"worker{number}.log")
            for number, own in enumerate(two.environments)
        ]
        cluster = await stack.enter_async_context(
            Cluster.connected(kubeconfig=plane.kubeconfig, namespace=NAMESPACE, database_url=database_url)
        )
        await stack.enter_async_context(started(api, operator, *workers))
        call = await stack.enter_async_context(client(api))
        records = await stack.enter_async_context(Records(database_url, engine=engine))
        yield World(
            api=api,
            workers=workers,
            operator=operator,
            call=call,
            cluster=cluster,
            records=records,
            settings=settings,
        )


async def post(landlord: World, tenant: str, **config: object) -> None:
    """Until it is accepted, as a client does that means it."""
    wanted = {"id": tenant, "compute_provider": "mock", "compute_config": config}
    async with asyncio.timeout(60):
        while (await landlord.call("POST", "/api/tenants", wanted, key=f"post-{tenant}"))[0] != 202:
            await asyncio.sleep(0.2)


async def test_killed_in_mid_flight(
    engine: Engine,
    own_control_plane: ControlPlane,
    own_postgres: PostgresServer,
    test_database_url: str,
    tmp_path: Path,
) -> None:
    """``kill -9`` of a worker, the operator, Postgres and the API in turn; half of the tenants come by kubectl."""
    async with world(
        plane=own_control_plane, engine=engine, database_url=test_database_url, folder=tmp_path
    ) as landlord:
        rest = [f"rest-{number}" for number in range(TENANTS // 2)]
        kubectl = [f"kubectl-{number}" for number in range(TENANTS // 2)]
        doomed = [f"doomed-{number}" for number in range(4)]

        async def begin(numbers: range) -> None:
            for number in numbers:
                await post(landlord, rest[number], delay_seconds=1 + number % 3 / 2)
                await landlord.cluster.apply(kubectl[number], {"delay_seconds": 1 + number % 3 / 2})

        await asyncio.gather(*(post(landlord, tenant) for tenant in doomed))
        await landlord.records.all(doomed, status="ready")
        await begin(range(4))
        for victim in (landlord.workers[0], landlord.operator):
            await asyncio.sleep(0.5)
            victim.kill()
            await victim.gone()
            await begin(range(4, 6) if victim is landlord.operator else range(6, 8))
            await victim.start()
        for by_rest, by_kubectl in zip(doomed[:2], doomed[2:], strict=True):
            assert (await landlord.call("DELETE", f"/api/tenants/{by_rest}"))[0] == 202
            await landlord.cluster.agreed(by_kubectl)
            await landlord.cluster.delete(by_kubectl)
        await begin(range(8, 10))
        await asyncio.sleep(0.3)
        await own_postgres.kill()
        await asyncio.sleep(1.5)
        await own_postgres.start()
        await begin(range(10, 12))
        landlord.api.kill()
        await landlord.api.gone()
        await landlord.api.start()
        await landlord.records.all([*rest, *kubectl], status="ready")
        await landlord.records.all(doomed, status="deleted")
        await asyncio.gather(*(landlord.cluster.agreed(tenant) for tenant in (*rest, *kubectl, *doomed)))
        await landlord.records.check(*rest, *kubectl, *doomed)
        rows = await landlord.records.rows("select * from tenants")
        assert {row["id"]: row["generation"] for row in rows} == dict.fromkeys([*rest, *kubectl, *doomed], 1)


async def test_api_server_down(
    engine: Engine, own_control_plane: ControlPlane, test_database_url: str, tmp_path: Path
) -> None:
    """REST keeps accepting, tenants get ready; resources converge when it is back."""
    async with world(
        plane=own_control_plane, engine=engine, database_url=test_database_url, folder=tmp_path
    ) as landlord:
        old = [f"old-{number}" for number in range(3)]
        await asyncio.gather(*(post(landlord, tenant) for tenant in old))
        for tenant in old:
            await landlord.cluster.agreed(tenant)
        await own_control_plane.kill_api()
        new = [f"new-{number}" for number in range(TENANTS)]
        for tenant in new:
            wanted = {"id": tenant, "compute_provider": "mock", "compute_config": {}}
            status, answer = await landlord.call("POST", "/api/tenants", wanted)
            assert status == 202, answer
        assert (await landlord.call("PUT", "/api/tenants/old-0", {"compute_config": {"v": 2}}))[0] == 202
        assert (await landlord.call("DELETE", "/api/tenants/old-1"))[0] == 202
        await landlord.records.all([*new, "old-0", "old-2"], status="ready")
        await landlord.records.all(["old-1"], status="deleted")
        await asyncio.sleep(2)
        await own_control_plane.start_api()
        await asyncio.gather(*(landlord.cluster.agreed(tenant) for tenant in (*new, *old)))
        assert await landlord.cluster.resource("old-1") is None
        await landlord.records.check(*new, *old)
        rows = await landlord.records.rows("select * from tenants where generation <> 1")
        assert [row["id"] for row in rows] == ["old-0"]


async def test_upgrade_that_changes_defaults(
    engine: Engine, own_control_plane: ControlPlane, test_database_url: str, tmp_path: Path
) -> None:
    """No tenant is touched: no new generation, no run, no write of a resource."""
    async with world(
        plane=own_control_plane, engine=engine, database_url=test_database_url, folder=tmp_path
    ) as landlord:
        rest, kubectl = [f"rest-{number}" for number in range(5)], [f"kubectl-{number}" for number in range(5)]
        await asyncio.gather(*(post(landlord, tenant, v=1) for tenant in rest))
        for tenant in kubectl:
            await landlord.cluster.apply(tenant, {"v": 1})
        everybody = [*rest, *kubectl]
        await landlord.records.all(everybody, status="ready")
        for tenant in everybody:
            await landlord.cluster.agreed(tenant)
        statement = "select id, version, generation, revision, counters from tenants order by id"
        before = await landlord.records.rows(statement)
        versions = {tenant: await landlord.cluster.resource(tenant) for tenant in everybody}
        for process in (landlord.api, landlord.operator, *landlord.workers):
            await process.stop()
        renewed = [
            Process(each, environment=landlord.settings, log=tmp_path / f"new-{each}.log", release=other_defaults)
            for each in ("api", "operator", "worker")
        ]
        async with started(*renewed), client(renewed[0]) as call:
            status, answer = await call("GET", "/api/compute/config?provider=mock")
            assert answer["defaults"]["new_in_this_release"] == {"on": True}, (status, answer)
            await asyncio.sleep(5)  # two resyncs
            assert await landlord.records.rows(statement) == before
            for tenant, resource in versions.items():
                assert await landlord.cluster.resource(tenant) == resource
            # The next change of a tenant is carried out with them.
            assert (await call("PUT", "/api/tenants/rest-0", {"compute_config": {"v": 2}}))[0] == 202
            await landlord.records.all(["rest-0"], status="ready")
            _, record = await call("GET", "/api/tenants/rest-0")
            assert record["observed_config"]["config"]["new_in_this_release"] == {"on": True}
            assert record["compute_config"] == {"v": 2}
