"""What is left on a Docker engine when workers freeze, databases are restored, and tenants deleted half-made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crash.installation import Call, Containers, Records, client, docker_config, started
from fixtures.engines import Engine
from fixtures.postgres import Reader, prepare_template
from fixtures.turns import Fault, Turns, proxy
from fixtures.warm import Process

from landlord.dev.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)


@dataclass(slots=True, kw_only=True)
class World:
    worker: Process
    spare: Process
    """A second worker, not started."""
    lead_to: Callable[[int], None]
    """The engine's calls go to this one of the two."""
    parts: list[Process]
    call: Call
    records: Records
    containers: Containers
    image: str

    async def ask(self, method: str, tenant: str, *, value: str = "") -> None:
        config = docker_config(self.image, VALUE=value)
        body: Any = None
        if method == "POST":
            body = {"id": tenant, "compute_provider": "docker", "compute_config": config}
        elif method == "PUT":
            body = {"compute_config": config}
        path = "/api/tenants" if method == "POST" else f"/api/tenants/{tenant}"
        status, answer = await self.call(method, path, body)
        assert status == 202, answer


@asynccontextmanager
async def world(
    *, docker_host: str, image: str, records: Records, folder: Path, turns: Turns | None = None
) -> AsyncIterator[World]:
    """With ``turns`` the first worker reaches the Docker engine through a proxy."""
    engine = records.engine
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(records)
        containers = await stack.enter_async_context(
            Containers.connected(docker_host, installation=engine.installation)
        )
        settings = {
            **engine.environment,
            "LANDLORD_DATABASE_URL": records.database_url,
            "LANDLORD_WORKFLOW_TRIGGER_TIMEOUT": "2",
            "LANDLORD_WORKFLOW_LOCAL_LEASE": "1",
            "LANDLORD_RETRY_BACKOFF": "0.2",
            "LANDLORD_COMPUTE_PROVIDERS": "docker",
            "LANDLORD_DOCKER_HOST": docker_host,
            "LANDLORD_KUBERNETES_MIRROR": "false",
            "LANDLORD_LOG_FORMAT": "console",
        }
        proxied = dict(settings)
        if turns is not None:
            port = await stack.enter_async_context(proxy(turns, upstream=Path(docker_host.removeprefix("unix://"))))
            proxied["LANDLORD_DOCKER_HOST"] = f"tcp://127.0.0.1:{port}"
        api = Process("api", environment=settings, log=folder / "api.log")
        controller = Process("controller", environment=settings, log=folder / "controller.log")
        two = await stack.enter_async_context(engine.workers())
        worker = Process("worker", environment={**proxied, **two.environments[0]}, log=folder / "worker.log")
        spare = Process("worker", environment={**settings, **two.environments[1]}, log=folder / "spare.log")
        stack.push_async_callback(spare.stop)
        await stack.enter_async_context(started(api, controller, worker))
        call = await stack.enter_async_context(client(api))
        yield World(
            worker=worker,
            spare=spare,
            lead_to=two.lead_to,
            parts=[api, controller, worker],
            call=call,
            records=records,
            containers=containers,
            image=image,
        )


FROZEN = {
    "before it creates": b"/containers/json",
    "when it has created": b"/containers/create",
    "when it has started": b"/start",
}


@pytest.mark.parametrize("where", FROZEN)
async def test_frozen_worker_wakes_after_a_delete_and_a_new_life(
    where: str, engine: Engine, docker_host: str, busybox_image: str, test_database_url: str, tmp_path: Path
) -> None:
    """It had got as far as ``where``. Neither its writes nor what it does to containers may be seen."""
    turns = Turns()
    records = Records(test_database_url, engine=engine)
    async with world(
        docker_host=docker_host, image=busybox_image, records=records, folder=tmp_path, turns=turns
    ) as landlord:
        turns.arm(at=1, fault=Fault.HOLD_REPLY, match=FROZEN[where])
        await landlord.ask("POST", "frozen", value="first")
        async with asyncio.timeout(60):
            await turns.held.wait()
        landlord.worker.freeze()
        turns.released.set()  # the reply is on its way, and waits for it to wake
        await landlord.spare.start()
        landlord.lead_to(1)
        await records.all(["frozen"], status="ready")
        assert await landlord.containers.of("frozen") == [(1, "running")]
        await landlord.ask("DELETE", "frozen")
        await records.all(["frozen"], status="deleted")
        assert await landlord.containers.of("frozen") == []
        await landlord.ask("POST", "frozen", value="second")
        await records.all(["frozen"], status="ready")
        before = await records.runs("frozen")
        landlord.worker.wake()
        for _ in range(20):
            # It may make one before it learns that it is late, and removes it; nothing else becomes of that.
            late = {(1, "created"), (1, "removing")}
            assert set(await landlord.containers.of("frozen")) - late == {(2, "running")}
            await asyncio.sleep(0.1)
        assert await landlord.containers.of("frozen") == [(2, "running")]
        assert await records.runs("frozen") == before
        await records.check("frozen")
        # It is as good as new.
        landlord.lead_to(0)
        await landlord.spare.stop()
        await landlord.ask("PUT", "frozen", value="third")
        await records.all(["frozen"], status="ready")
        assert await landlord.containers.of("frozen") == [(3, "running")]


async def test_delete_while_provisioning_leaves_nothing(
    engine: Engine, docker_host: str, busybox_image: str, test_database_url: str, tmp_path: Path
) -> None:
    """At several moments of the provisioning, which would never end by itself."""
    records = Records(test_database_url, engine=engine)
    async with world(docker_host=docker_host, image=busybox_image, records=records, folder=tmp_path) as landlord:

        async def live(tenant: str, *, seconds: float) -> None:
            config = docker_config(landlord.image) | {"command": ["sleep", "1000"]}
            config["health_check"]["retries"] = 100
            body = {"id": tenant, "compute_provider": "docker", "compute_config": config}
            status, answer = await landlord.call("POST", "/api/tenants", body)
            assert status == 202, answer
            await asyncio.sleep(seconds)
            await landlord.ask("DELETE", tenant)

        tenants = {f"short-{number}": 0.1 * number for number in range(8)}
        await asyncio.gather(*(live(tenant, seconds=seconds) for tenant, seconds in tenants.items()))
        await records.all(list(tenants), status="deleted")
        for tenant in tenants:
            assert await landlord.containers.of(tenant) == []
        await records.check(*tenants)


async def test_restored_database(
    engine: Engine, docker_host: str, busybox_image: str, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """An older backup, with an engine and containers that are newer than it."""
    database_url = await own_postgres.create_database(name="landlord")
    await prepare_template(database_url)
    records = Records(database_url, engine=engine)
    async with (
        Reader(own_postgres.url()) as admin,
        world(docker_host=docker_host, image=busybox_image, records=records, folder=tmp_path) as landlord,
    ):
        everybody = ["once", "often", "same", "unwanted"]
        for tenant in everybody:
            await landlord.ask("POST", tenant, value="1")
        await records.all(everybody, status="ready")
        await _stop(landlord)
        await own_postgres.create_database(name="backup", template="landlord")
        await _start(landlord)
        # What the backup does not know of.
        for tenant in everybody:
            await landlord.ask("PUT", tenant, value="2")
        await records.all(everybody, status="ready")
        await landlord.ask("PUT", "often", value="3")
        await records.all(everybody, status="ready")
        await landlord.ask("POST", "lost", value="1")
        await records.all(["lost"], status="ready")
        await _stop(landlord)
        known = await records.runs(*everybody, "lost")
        await admin.rows("drop database landlord with (force)")
        await own_postgres.create_database(name="landlord", template="backup")
        await _start(landlord)

        # The id of the first update is taken by a run of other input: it is not touched, the next one is used.
        await landlord.ask("PUT", "once", value="another")
        await records.all(["once"], status="ready")
        updates = [each for each in await records.executions("once") if each["action"] == "update"]
        assert [(each["execution_id"], each["state"]) for each in updates] == [
            ("tenant-once-update", "cancelled"),
            ("tenant-once-update-2", "succeeded"),
        ]
        assert updates[0]["error"]["code"] == "NotOurs"
        record = await records.tenant("once")
        assert record is not None
        assert record["attempts"] == 0
        await landlord.containers.until("once", [(2, "running")])

        # The very same as was done before: the engine has it already.
        await landlord.ask("PUT", "same", value="2")
        await records.all(["same"], status="ready")
        assert [each["n"] for each in await records.executions("same") if each["action"] == "update"] == [1]
        await landlord.containers.until("same", [(2, "running")])

        # The container is of a newer generation than the record knows: nothing is done until somebody says what.
        await landlord.ask("PUT", "often", value="other")
        async with asyncio.timeout(60):
            while (record := await records.tenant("often")) is None or record["stalled"] != "RecordBehind":
                await asyncio.sleep(0.05)
        assert record["generation"] == 3
        assert record["status"] == "updating"
        assert await landlord.containers.of("often") == [(3, "running")]
        await landlord.ask("PUT", "often", value="wanted")
        record = (await records.all(["often"], status="ready"))[0]
        assert (record["generation"], record["observed_generation"], record["stalled"]) == (4, 4, None)
        await landlord.containers.until("often", [(4, "running")])

        # Nothing newer is left behind when a tenant is deleted.
        await landlord.ask("DELETE", "unwanted")
        await records.all(["unwanted"], status="deleted")
        assert await landlord.containers.of("unwanted") == []

        # A tenant that the backup does not know at all is made again, over what is there.
        await landlord.ask("POST", "lost", value="2")
        await records.all(["lost"], status="ready")
        assert len(await landlord.containers.of("lost")) == 1

        await records.check(*everybody, "lost")
        assert await engine.runs(known) == known, "runs of the lost time were touched"
        for tenant in ("once", "often", "same", "lost"):
            await landlord.ask("DELETE", tenant)
        await records.all([*everybody, "lost"], status="deleted")
        for tenant in (*everybody, "lost"):
            assert await landlord.containers.of(tenant) == []


async def _stop(landlord: World) -> None:
    """Nobody is connected to the database then."""
    for each in landlord.parts:
        await each.stop()
    await landlord.records.close()


async def _start(landlord: World) -> None:
    await asyncio.gather(*(each.start() for each in landlord.parts))
