"""requirements/workflow-status-tracking.md: every scenario, against the served API on a real Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from fixtures.rest import Rest, on_each_engine, reconciling, serving, unique
from psycopg.rows import dict_row

from landlord.settings import Settings
from landlord.workflow.provider import TriggerResult, WorkflowRequest
from landlord.workflow.providers.mock import Fail, MockProvider, Stay, Succeed

CONFIG = {"image": "app:1"}


async def rows(settings: Settings, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    """Read past the application, on a connection of the test's own."""
    url = settings.database_url.get_secret_value()
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row) as connection,
        connection.cursor() as cursor,
    ):
        await cursor.execute(statement.encode(), parameters or None)
        return await cursor.fetchall() if cursor.description else []


@on_each_engine
async def test_status_and_id_are_written_together(rest: Rest) -> None:
    """Scenario: Workflow execution ID set on API trigger"""
    name = await rest.create()
    [found] = await rows(
        rest.installation.settings,
        """select t.status, t.workflow_execution_id, t.revision, t.xmin::text = e.xmin::text as together
        from tenants t join executions e on e.tenant_id = t.id where t.id = %s""",
        name,
    )
    assert found == {
        "status": "planning",
        "workflow_execution_id": f"tenant-{name}-plan",
        "revision": 1,  # one commit wrote everything
        "together": True,
    }


@on_each_engine
async def test_the_id_is_there_until_ready(rest: Rest) -> None:
    """Scenario: Workflow execution ID preserved across status transitions"""
    async with rest.going_on():
        name = await rest.create(compute_config={"delay_seconds": 0.2})
        seen: list[tuple[str, str | None]] = []
        async with asyncio.timeout(20):
            while not seen or seen[-1][0] != "ready":
                record = await rest.record(name)
                state = (record["status"], record["workflow_execution_id"])
                if not seen or seen[-1] != state:
                    seen.append(state)
        assert set(seen) <= {
            ("planning", f"tenant-{name}-plan"),
            ("provisioning", f"tenant-{name}-provision"),
            ("ready", None),
        }
        assert ("provisioning", f"tenant-{name}-provision") in seen


@on_each_engine
async def test_the_id_goes_when_ready_and_history_keeps_it(rest: Rest) -> None:
    """Scenario: Workflow execution ID cleared on completion"""
    name = await rest.ready()
    assert (await rest.record(name))["workflow_execution_id"] is None
    assert [(run["execution_id"], run["state"]) for run in await rest.executions(name)] == [
        (f"tenant-{name}-plan", "succeeded"),
        (f"tenant-{name}-provision", "succeeded"),
    ]
    events = (await rest.get(f"/api/tenants/{name}/events"))["events"]
    assert {event["execution_id"] for event in events} >= {f"tenant-{name}-plan", f"tenant-{name}-provision"}


@on_each_engine
async def test_an_active_tenant_names_its_run(rest: Rest) -> None:
    """Scenario: Tenant with active workflow returns execution ID"""
    name = await rest.create()
    assert (await rest.record(name))["workflow_execution_id"] == f"tenant-{name}-plan"
    [listed] = [each for each in (await rest.get("/api/tenants?limit=1000"))["tenants"] if each["id"] == name]
    assert listed["workflow_execution_id"] == f"tenant-{name}-plan"


@on_each_engine
async def test_an_idle_tenant_names_none(rest: Rest) -> None:
    """Scenario: Tenant without workflow returns null execution ID"""
    name = await rest.ready()
    for path in (f"/api/tenants/{name}", f"/v1/tenants/{name}"):
        reply = await rest.get(path)
        assert "workflow_execution_id" in reply.json
        assert reply["workflow_execution_id"] is None


async def test_the_controller_asks_before_it_skips(rest: Rest) -> None:
    """Scenario: Controller skips tenant with existing execution ID"""
    name = await rest.create()
    execution_id = f"tenant-{name}-plan"
    reconciler = rest.installation.reconciler()
    # Active: asked about, and left alone.
    await reconciler.reconcile(name)
    assert rest.triggered(name) == [execution_id]
    assert (await rest.record(name))["status"] == "planning"
    # Not known to the engine any more: only asking can tell, and the same run is sent again.
    rest.mock.forget(execution_id)
    await reconciler.reconcile(name)
    assert rest.triggered(name) == [execution_id, execution_id]
    first, second = (each for each in rest.mock.requests if each.execution_id == execution_id)
    assert first.payload == second.payload
    # Ended: seen, and followed.
    rest.mock.finish(execution_id, Succeed(output={}))
    await reconciler.reconcile(name)
    assert rest.triggered(name)[-1] == f"tenant-{name}-provision"


async def test_the_controller_runs_a_failed_action_again(rest: Rest) -> None:
    """Scenario: Controller re-triggers after workflow failure"""
    name = unique()
    rest.mock.script(f"tenant-{name}-plan", Fail(message="not today"))
    rest.mock.script(f"tenant-{name}-plan-2", Stay())
    async with reconciling(rest.installation):
        await rest.create(name)
        async with asyncio.timeout(10):
            while rest.triggered(name)[-1] != f"tenant-{name}-plan-2":
                await asyncio.sleep(0.01)
        record = await rest.record(name)
        assert record["workflow_execution_id"] == f"tenant-{name}-plan-2"
        assert rest.triggered(name) == [f"tenant-{name}-plan", f"tenant-{name}-plan-2"]
        assert record["workflow"]["attempt"] == 2
        assert record["workflow"]["retry_count"] == 1


@on_each_engine
async def test_a_clients_retry_takes_another_id(rest: Rest) -> None:
    """Scenario: API overwrites execution ID on retry

    POST and DELETE after a failed trigger, retry after a failed run (PUT on "failed" is 409).
    """
    # A POST that was answered 500: the same run gets through, and its id is shown.
    name = unique()
    body = {"id": name, "compute_config": CONFIG}
    async with rest.doors.cut():
        assert (await rest.post("/api/tenants", body)).status == 500
    assert (await rest.record(name))["workflow_execution_id"] is None
    again = await rest.post("/api/tenants", body)
    assert (again.status, again["workflow_execution_id"]) == (202, f"tenant-{name}-plan")
    # A PUT that was answered 500.
    ready = await rest.ready()
    body = {"compute_config": {"image": "app:2"}}
    async with rest.doors.cut():
        assert (await rest.put(f"/api/tenants/{ready}", body)).status == 500
    again = await rest.put(f"/api/tenants/{ready}", body)
    assert (again.status, again["workflow_execution_id"]) == (202, f"tenant-{ready}-update")
    assert again["generation"] == 2
    # A DELETE takes over from whatever ran before.
    again = await rest.delete(f"/api/tenants/{name}")
    assert (again.status, again["workflow_execution_id"]) == (202, f"tenant-{name}-delete")
    # A run that failed: the next id.
    failed = await rest.failed()
    run = (await rest.executions(failed))[-1]["execution_id"]
    again = await rest.post(f"/api/tenants/{failed}/retry")
    assert (again.status, again["workflow_execution_id"]) == (202, f"{run}-2")


@on_each_engine
async def test_the_id_of_a_plan(rest: Rest) -> None:
    """Scenario: Plan workflow execution ID format"""
    reply = await rest.post("/api/tenants", {"id": "my-app", "compute_config": CONFIG})
    assert reply["workflow_execution_id"] == "tenant-my-app-plan"


@on_each_engine
async def test_the_id_of_a_provision(rest: Rest) -> None:
    """Scenario: Provision workflow execution ID format"""
    name = await rest.create(compute_config={"delay_seconds": 1})
    async with rest.going_on():
        record = await rest.until(name, "provisioning", "ready")
        assert record["workflow_execution_id"] in (f"tenant-{name}-provision", None)
    [run] = [run for run in await rest.executions(name) if run["action"] == "provision"]
    assert (run["execution_id"], run["trigger_source"]) == (f"tenant-{name}-provision", "controller")


@on_each_engine
async def test_the_id_of_an_update(rest: Rest) -> None:
    """Scenario: Update workflow execution ID format"""
    name = await rest.ready()
    reply = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG})
    assert reply["workflow_execution_id"] == f"tenant-{name}-update"
    async with rest.going_on():
        await rest.until(name, "ready")
    reply = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG})
    assert reply["workflow_execution_id"] == f"tenant-{name}-update-2"


@on_each_engine
async def test_one_transaction(rest: Rest) -> None:
    """Scenario: Transaction commits both fields"""
    name = await rest.create()
    [found] = await rows(
        rest.installation.settings,
        """select count(distinct transaction) as transactions, count(*) as rows from (
            select xmin::text as transaction from tenants where id = %s
            union all select xmin::text from executions where tenant_id = %s
            union all select xmin::text from audit where tenant_id = %s
        ) written""",
        name,
        name,
        name,
    )
    assert found == {"transactions": 1, "rows": 3}


BREAK = """
create function break_off() returns trigger language plpgsql as $$
begin
    if new.tenant_id like 'broken-%' then
        raise exception 'disk on fire at /var/lib/secret';
    end if;
    return new;
end $$;
create trigger break_off before insert on {table} for each row execute function break_off();
"""
MEND = "drop trigger break_off on {table}; drop function break_off()"


@pytest.mark.parametrize("table", ["executions", "audit"])
async def test_all_or_nothing(rest: Rest, settings: Settings, table: str) -> None:
    """Scenario: Transaction rollback on database error

    The row of the tenant is written, then that of its execution or of the trail breaks off.
    """
    old, new = await rest.create(f"broken-{unique()}"), f"broken-{unique()}"
    before = await rest.record(old)
    await rows(settings, BREAK.format(table=table))
    try:
        deleted = await rest.delete(f"/api/tenants/{old}")
        created = await rest.post("/api/tenants", {"id": new, "compute_config": CONFIG})
    finally:
        await rows(settings, MEND.format(table=table))
    for reply in (deleted, created):
        assert reply.status == 500
        assert b"fire" not in reply.raw
        assert b"/var/lib" not in reply.raw
    assert await rest.record(old) == before
    assert rest.triggered(old) == [f"tenant-{old}-plan"]
    assert (await rest.get(f"/api/tenants/{new}")).status == 404
    assert rest.triggered(new) == []
    assert await rows(settings, "select 1 from executions where tenant_id = %s", new) == []


class Looking(MockProvider):
    """Sees what is committed at the time of each trigger."""

    settings_: Settings
    seen: list[list[dict[str, Any]]]

    async def trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        self.seen.append(
            await rows(
                self.settings_,
                """select t.status, t.workflow_execution_id, e.payload = %s as bytes_kept,
                    (select count(*) from pg_stat_activity where datname = current_database()
                     and state like 'idle in transaction%%') as open_transactions
                from tenants t join executions e on e.execution_id = t.head where e.execution_id = %s""",
                request.payload,
                request.execution_id,
            )
        )
        return await super().trigger(request, timeout=timeout)


async def test_the_trigger_follows_the_commit(settings: Settings) -> None:
    """Scenario: Workflow trigger outside transaction"""
    engine = Looking()
    engine.settings_, engine.seen = settings, []
    async with serving(settings, engine=engine) as rest:
        name = await rest.create()
    assert engine.seen == [
        [
            {
                "status": "planning",
                "workflow_execution_id": f"tenant-{name}-plan",
                "bytes_kept": True,
                "open_transactions": 0,
            }
        ]
    ]
