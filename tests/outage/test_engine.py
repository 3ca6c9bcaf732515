"""The workflow engine, or its workers, are away: nobody fails, and everybody converges when they are back."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from crash.installation import PATIENCE, Call, Records, client, started
from fixtures.engines import Engine, OwnEngine, environment
from fixtures.warm import Process

pytestmark = pytest.mark.timeout(300)

TRIGGER_TIMEOUT = 4.0
DOWN = {"local": 10.0, "restate": 60.0}
"""Seconds an engine is away; pauses between two tries are several seconds by then."""


@dataclass(slots=True, kw_only=True)
class World:
    api: Process
    controller: Process
    worker: Process
    call: Call
    records: Records

    async def create(self, tenants: Sequence[str], **config: object) -> None:
        for tenant in tenants:
            status, answer = await self.call("POST", "/api/tenants", body(tenant, **config))
            assert status == 202, answer

    async def once_each(self, tenants: Sequence[str]) -> None:
        """One execution for each action, all of which came to a good end."""
        await self.records.check(*tenants)
        executions = await self.records.rows("select * from executions where tenant_id = any(%s)", list(tenants))
        assert {each["n"] for each in executions} == {1}
        assert {each["state"] for each in executions} == {"succeeded"}
        runs = await self.records.runs(*tenants)
        assert runs.keys() == {each["execution_id"] for each in executions}
        assert all(run.succeeded for run in runs.values())
        assert not await self.records.rows("select from audit where to_status = 'failed'")


def body(tenant: str, **config: object) -> dict[str, object]:
    return {"id": tenant, "compute_provider": "mock", "compute_config": config}


@asynccontextmanager
async def world(engine: Engine, *, database_url: str, folder: Path, **more: str) -> AsyncIterator[World]:
    settings = {
        **engine.environment,
        "LANDLORD_DATABASE_URL": database_url,
        "LANDLORD_WORKFLOW_TRIGGER_TIMEOUT": str(TRIGGER_TIMEOUT),
        "LANDLORD_WORKFLOW_LOCAL_LEASE": "1",
        "LANDLORD_RETRY_BACKOFF": "0.2",
        "LANDLORD_COMPUTE_PROVIDERS": "mock",
        "LANDLORD_KUBERNETES_MIRROR": "false",
        "LANDLORD_LOG_FORMAT": "console",
        **more,
    }
    api, controller, worker = (
        Process(each, environment=settings, log=folder / f"{each}.log") for each in ("api", "controller", "worker")
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(started(api, controller, worker))
        call = await stack.enter_async_context(client(api))
        records = await stack.enter_async_context(Records(database_url, engine=engine))
        one = World(api=api, controller=controller, worker=worker, call=call, records=records)
        await one.create(["first"])  # an engine may have to be told of the workflow by a worker
        await records.all(["first"], status="ready")
        yield one


@pytest.mark.parametrize("how", ["refuses", "is silent"])
async def test_engine_down(how: str, own_engine: OwnEngine, test_database_url: str, tmp_path: Path) -> None:
    """Long enough for back-offs to grow: every POST is answered 500 in time and kept; PUT and DELETE likewise."""
    killed = how == "refuses"
    seconds = DOWN[own_engine.name] if killed else 5.0
    async with (
        own_engine.doors() as doors,
        world(own_engine, database_url=test_database_url, folder=tmp_path, **environment(doors.settings)) as landlord,
    ):
        call, records = landlord.call, landlord.records
        before = [f"before-{number}" for number in range(5)]
        await landlord.create(before)
        await records.all(before, status="ready")
        flying = [f"flying-{number}" for number in range(5)]
        await landlord.create(flying, delay_seconds=1)
        fresh = [f"fresh-{number}" for number in range(200 if killed else 20)]

        async def create(number: int, tenant: str) -> None:
            await asyncio.sleep(number * seconds / len(fresh) if killed else 0)
            began = time.monotonic()
            status, answer = await call("POST", "/api/tenants", body(tenant))
            assert status == 500, answer
            assert time.monotonic() - began < (TRIGGER_TIMEOUT if killed else TRIGGER_TIMEOUT + 5), "too late"
            assert answer["title"] == "Failed to trigger workflow"
            assert "workflow_execution_id" not in answer
            assert "127.0.0.1" not in str(answer)
            record = await records.tenant(tenant)
            assert record is not None
            assert (record["status"], record["workflow_execution_id"]) == ("planning", None)
            assert record["compute_config"] == {}

        async with down(own_engine) if killed else doors.deaf():
            assert (await call("PUT", f"/api/tenants/{before[0]}", {"compute_config": {"v": 2}}))[0] == 500
            assert (await call("DELETE", f"/api/tenants/{before[1]}"))[0] == 500
            async with asyncio.timeout(3 * seconds + 60):
                await asyncio.gather(asyncio.sleep(seconds), *(create(*each) for each in enumerate(fresh)))
            rows = await records.rows("select id, status, attempts from tenants")
            assert not [row for row in rows if row["status"] == "failed" or row["attempts"]], rows
        # The next look at an engine that is away is as far ahead as it has been away.
        patience = PATIENCE + 1.5 * seconds
        await records.all([*fresh, *flying, before[0], *before[2:]], status="ready", seconds=patience)
        await records.all([before[1]], status="deleted")
        everybody = [*fresh, *flying, *before]
        await landlord.once_each(everybody)
        executions = await records.rows("select * from executions where tenant_id = any(%s)", everybody)
        assert len(executions) == 2 * len(everybody) + 2


@asynccontextmanager
async def down(engine: OwnEngine) -> AsyncIterator[None]:
    await engine.server.kill()
    yield
    await engine.server.start()


@pytest.mark.parametrize("worker_too", [False, True], ids=["engine", "engine and worker"])
async def test_killed_in_mid_flight(
    worker_too: bool, own_engine: OwnEngine, test_database_url: str, tmp_path: Path
) -> None:
    """At once, with ``kill -9``, while runs are in the midst of a step; and back at once."""
    async with world(own_engine, database_url=test_database_url, folder=tmp_path) as landlord:
        tenants = [f"flying-{number}" for number in range(20)]
        await landlord.create(tenants, delay_seconds=1.5)
        async with asyncio.timeout(30):
            while await landlord.records.rows("select from tenants where status = 'planning'"):
                await asyncio.sleep(0.05)
        if worker_too:
            landlord.worker.kill()
        async with down(own_engine):
            if worker_too:
                await landlord.worker.gone()
        if worker_too:
            await landlord.worker.start()
        await landlord.records.all(tenants, status="ready")
        await landlord.once_each(tenants)


async def test_workers_away_for_several_deadlines(engine: Engine, test_database_url: str, tmp_path: Path) -> None:
    """Stalled says so; no attempt is spent, nobody fails; they converge when workers are back."""
    more = {"LANDLORD_EXECUTION_DEADLINE": "1", "LANDLORD_WORKFLOW_TRIGGER_TIMEOUT": "2"}
    async with world(engine, database_url=test_database_url, folder=tmp_path, **more) as landlord:
        records = landlord.records
        await landlord.worker.stop()
        tenants = [f"away-{number}" for number in range(10)]
        await landlord.create(tenants)
        async with asyncio.timeout(120):
            while True:
                rows = await records.rows("select * from tenants where id = any(%s)", tenants)
                assert all(row["status"] == "planning" for row in rows), rows
                assert all(row["attempts"] == 0 for row in rows), "no attempt is spent"
                several = [row for row in rows if row["counters"]["plan"] >= 2]
                if len(several) == len(tenants) and all(row["stalled"] == "DeadlineExceeded" for row in rows):
                    break
                await asyncio.sleep(0.1)
        await landlord.worker.start()
        ready = await records.all(tenants, status="ready")
        assert all(row["stalled"] is None for row in ready)
        await records.check(*tenants)


async def test_a_poisoned_tenant_delays_no_other(
    engine: Engine, test_database_url: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """One in a hundred, whose step always throws. How long the others took is told, beside a hundred without it."""
    more = {"LANDLORD_RETRY_ATTEMPTS": "100"}
    async with world(engine, database_url=test_database_url, folder=tmp_path, **more) as landlord:
        for poisoned in (False, True):
            bad = ["poisoned"] if poisoned else []
            good = [f"{'beside' if poisoned else 'clean'}-{number}" for number in range(100 - len(bad))]
            await landlord.create(bad, fail_first=1000)
            began = time.monotonic()
            await asyncio.gather(*(landlord.create([tenant]) for tenant in good))
            await landlord.records.all(good, status="ready")
            took = time.monotonic() - began
            await landlord.once_each(good)
            each = await landlord.records.rows(
                "select extract(epoch from max(ended_at) - min(created_at))::float as took from executions"
                " where tenant_id = any(%s) group by tenant_id",
                good,
            )
            median = statistics.median(row["took"] for row in each)
            figures = (
                f"{engine.name}, {len(bad)} of 100 poisoned: the others ready in {took:.2f} s, median {median:.3f} s"
            )
            record_property("poisoned", figures)
        [state] = await landlord.records.rows("select status, attempts from tenants where id = 'poisoned'")
        assert state["status"] == "provisioning", "the others waited until it was given up"
        assert state["attempts"] >= 1
        assert (await landlord.call("DELETE", "/api/tenants/poisoned"))[0] == 202
        await landlord.records.all(["poisoned"], status="deleted")
