"""The workflow engine, or its workers, are away: nobody fails, and everybody converges when they are back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from crash.installation import Records, client, started
from fixtures.proxy import Proxy, target, through
from fixtures.warm import Process

pytestmark = pytest.mark.timeout(300)

TENANTS = 20
TRIGGER_TIMEOUT = 2.0
SETTINGS = {
    "LANDLORD_WORKFLOW_TRIGGER_TIMEOUT": str(TRIGGER_TIMEOUT),
    "LANDLORD_WORKFLOW_LOCAL_LEASE": "1",
    "LANDLORD_RETRY_BACKOFF": "0.2",
    "LANDLORD_COMPUTE_PROVIDERS": "mock",
    "LANDLORD_KUBERNETES_MIRROR": "false",
    "LANDLORD_LOG_FORMAT": "console",
}


def body(tenant: str, **config: object) -> dict[str, object]:
    return {"id": tenant, "compute_provider": "mock", "compute_config": config}


@pytest.mark.parametrize("how", ["refuses", "is silent"])
async def test_engine_down(how: str, test_database_url: str, database_url: str, tmp_path: Path) -> None:
    """Long enough for back-offs to grow: every POST is answered 500 and kept; PUT and DELETE likewise."""
    records = Records(test_database_url, engine_url=database_url)
    host, port = target(database_url)
    async with Proxy(host=host, port=port).running() as engine:
        settings = {
            **SETTINGS,
            "LANDLORD_DATABASE_URL": test_database_url,
            "LANDLORD_WORKFLOW_LOCAL_URL": through(database_url, port=engine.port),
        }
        processes = [
            Process(each, environment=settings, log=tmp_path / each) for each in ("api", "controller", "worker")
        ]
        async with started(*processes), client(processes[0]) as call:
            mark = how[0]
            before = [f"{mark}-before-{number}" for number in range(5)]
            for tenant in before:
                assert (await call("POST", "/api/tenants", body(tenant)))[0] == 202
            await records.all(before, status="ready")
            flying = [f"{mark}-flying-{number}" for number in range(5)]
            for tenant in flying:
                assert (await call("POST", "/api/tenants", body(tenant, delay_seconds=1)))[0] == 202
            fresh = [f"{mark}-fresh-{number}" for number in range(TENANTS)]

            async def create(tenant: str) -> None:
                began = time.monotonic()
                status, answer = await call("POST", "/api/tenants", body(tenant))
                assert status == 500, answer
                assert time.monotonic() - began < TRIGGER_TIMEOUT + 5, "answered too late"
                assert answer["title"] == "Failed to trigger workflow"
                assert "workflow_execution_id" not in answer
                record = await records.tenant(tenant)
                assert record is not None
                assert record["status"] == "planning"
                assert record["workflow_execution_id"] is None
                assert record["compute_config"] == {}

            async with engine.cut() if how == "refuses" else engine.deaf():
                await asyncio.gather(*(create(tenant) for tenant in fresh))
                assert (await call("PUT", f"/api/tenants/{before[0]}", {"compute_config": {"v": 2}}))[0] == 500
                assert (await call("DELETE", f"/api/tenants/{before[1]}"))[0] == 500
                await asyncio.sleep(5)  # pauses are between 3 and 6 seconds by now
                rows = await records.rows("select id, status, attempts from tenants")
                assert not [row for row in rows if row["status"] == "failed" or row["attempts"]], rows
            await records.all([*fresh, *flying, before[0], *before[2:]], status="ready")
            await records.all([before[1]], status="deleted")
    everybody = [*fresh, *flying, *before]
    await records.check(*everybody)
    executions = await records.rows("select * from executions where tenant_id = any(%s)", everybody)
    assert {each["n"] for each in executions} == {1}, "one execution for each action"
    assert len(executions) == 2 * len(everybody) + 2
    assert not await records.rows("select from audit where to_status = 'failed'")


async def test_workers_away_for_several_deadlines(test_database_url: str, tmp_path: Path) -> None:
    """Stalled says so; no attempt is spent, nobody fails; they converge when workers are back."""
    records = Records(test_database_url)
    settings = {**SETTINGS, "LANDLORD_DATABASE_URL": test_database_url, "LANDLORD_EXECUTION_DEADLINE": "1"}
    # The reconciler looks at what is waited for every 30 s; what it has not seen, after the trigger timeout.
    api, controller, worker = (
        Process(each, environment=settings, log=tmp_path / each) for each in ("api", "controller", "worker")
    )
    tenants = [f"away-{number}" for number in range(10)]
    async with started(api, controller), client(api) as call:
        for tenant in tenants:
            assert (await call("POST", "/api/tenants", body(tenant)))[0] == 202
        async with asyncio.timeout(120):
            while True:
                rows = await records.rows("select * from tenants where id = any(%s)", tenants)
                assert all(row["status"] == "planning" for row in rows), rows
                assert all(row["attempts"] == 0 for row in rows), "no attempt is spent"
                several = [row for row in rows if row["counters"]["plan"] >= 3]
                if len(several) == len(tenants) and all(row["stalled"] == "DeadlineExceeded" for row in rows):
                    break
                await asyncio.sleep(0.1)
        async with started(worker):
            ready = await records.all(tenants, status="ready")
    assert all(row["stalled"] is None for row in ready)
    await records.check(*tenants)
