"""What is away: engine, database, schema. And what breaks."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import psycopg
import pytest
from fixtures.rest import Rest, reconciling, serving, unique
from pydantic import SecretStr
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from landlord.database.engine import Database
from landlord.dev.postgres import PostgresServer
from landlord.settings import Settings
from landlord.tenants.migrations import MIGRATIONS
from landlord.tenants.model import Tenant
from landlord.workflow.providers.mock import Succeed

CONFIG = {"image": "app:1"}


async def execute(url: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement.encode())


async def until_serving(rest: Rest) -> None:
    async with asyncio.timeout(20):
        while (await rest.get("/api/tenants")).status != 200:
            await asyncio.sleep(0.02)


async def test_an_engine_that_is_away_degrades(rest: Rest) -> None:
    rest.mock.unavailable()
    reply = await rest.get("/readyz")
    assert (reply.status, reply["status"]) == (200, "degraded")
    assert [each["check"] for each in reply["degraded"]] == ["workflow"]
    assert (await rest.get("/healthz")).status == 200


async def test_all_mutations_answer_500_while_the_engine_is_away_and_all_converge(rest: Rest) -> None:
    ready, doomed, new = await rest.ready(), await rest.ready(), unique()
    rest.mock.unavailable()
    for reply in (
        await rest.post("/api/tenants", {"id": new, "compute_config": CONFIG}),
        await rest.put(f"/api/tenants/{ready}", {"compute_config": {"image": "app:2"}}),
        await rest.delete(f"/api/tenants/{doomed}"),
    ):
        assert (reply.status, reply["title"]) == (500, "Failed to trigger workflow")
        assert reply["type"] == "urn:landlord:problem:trigger-failed"
        assert "workflow_execution_id" not in reply.json
    for name in (new, ready, doomed):
        assert (await rest.record(name))["workflow_execution_id"] is None
    rest.mock.restore()
    rest.mock.default = Succeed(output={})
    async with reconciling(rest.installation):
        await rest.until(new, "ready")
        assert (await rest.until(ready, "ready"))["observed_generation"] == 2
        await rest.until(doomed, "deleted")


async def test_a_retry_and_a_delete_get_through_again(rest: Rest) -> None:
    name = unique()
    rest.mock.unavailable(times=3)
    assert (await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})).status == 500
    assert (await rest.post(f"/api/tenants/{name}/retry")).status == 500
    assert (await rest.delete(f"/api/tenants/{name}")).status == 500
    reply = await rest.delete(f"/api/tenants/{name}")
    assert (reply.status, reply["status"]) == (202, "deleting")


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("drop table tenants_schema_version", "missing"),
        ("update tenants_schema_version set version_num = '9999'", "newer"),
    ],
)
async def test_another_schema_is_not_served(
    settings: Settings, test_database_url: str, monkeypatch: pytest.MonkeyPatch, statement: str, why: str
) -> None:
    monkeypatch.setattr("landlord_api.schema_gate.AGAIN", 0.05)
    monkeypatch.setattr("landlord.health.CACHE", 0)
    keep = f"create table kept as select * from {MIGRATIONS.version_table}"
    await execute(test_database_url, keep)
    await execute(test_database_url, statement.replace("tenants_schema_version", MIGRATIONS.version_table))
    own = settings.model_copy(update={"database_url": SecretStr(test_database_url)})
    async with serving(own) as rest:
        ready = await rest.get("/readyz")
        assert ready.status == 503
        assert [each["check"] for each in ready["failed"]] == ["migrations"]
        assert why in ready["failed"][0]["reason"]
        for reply in (
            await rest.get("/api/tenants"),
            await rest.post("/api/tenants", {"id": "x", "compute_config": CONFIG}),
        ):
            assert reply.status == 503
            assert why in reply["detail"]
            assert reply.headers["Retry-After"]
        assert (await rest.get("/api/docs")).status == 200
        # Somebody migrates: it serves without being started again.
        await execute(test_database_url, f"drop table if exists {MIGRATIONS.version_table}")
        await execute(test_database_url, f"alter table kept rename to {MIGRATIONS.version_table}")
        await until_serving(rest)
        assert (await rest.get("/readyz")).status == 200


async def test_a_look_that_fails_is_not_the_last(
    settings: Settings, test_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the first. What is served stays served, until another look finds a schema that does not fit."""
    for name in ("AGAIN", "RECHECK"):
        monkeypatch.setattr(f"landlord_api.schema_gate.{name}", 0.05)
    own = settings.model_copy(update={"database_url": SecretStr(test_database_url)})
    table = MIGRATIONS.version_table
    hide = f"alter table {table} rename column version_num to hidden"
    show = f"alter table {table} rename column hidden to version_num"
    await execute(test_database_url, hide)
    async with serving(own) as rest, asyncio.timeout(20):
        for path in ("/api/tenants", "/readyz"):
            assert (await rest.get(path)).status == 503
        await execute(test_database_url, show)
        await until_serving(rest)
        with capture_logs() as logs:
            await execute(test_database_url, hide)
            while not any("cannot read the schema" in each["event"] for each in logs):
                await asyncio.sleep(0.02)
        assert (await rest.get("/api/tenants")).status == 200
        await execute(test_database_url, f"update {table} set hidden = '9999'")
        await execute(test_database_url, show)
        while (await rest.get("/api/tenants")).status != 503:
            await asyncio.sleep(0.02)


async def test_a_database_that_goes_and_returns(
    settings: Settings, own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landlord_api.schema_gate.AGAIN", 0.05)
    monkeypatch.setattr("landlord.health.CACHE", 0)
    own = settings.model_copy(update={"database_url": SecretStr(own_postgres.url())})
    await own_postgres.stop()
    # Away at the start is no reason not to listen.
    async with serving(own) as rest:
        assert (await rest.get("/healthz")).status == 200
        assert (await rest.get("/readyz")).status == 503
        assert (await rest.get("/api/tenants")).status == 503
        await own_postgres.start()
        async with Database(own.database_url, pool_size=2) as database:
            await MIGRATIONS.upgrade(database)
        await until_serving(rest)
        name = await rest.create()
        await own_postgres.stop()
        for reply in (
            await rest.get("/api/tenants"),
            await rest.get(f"/api/tenants/{name}"),
            await rest.post("/api/tenants", {"id": "x", "compute_config": CONFIG}),
        ):
            assert reply.status == 503
            assert reply.headers["Retry-After"]
            assert not re.search(rb"select|socket|/tmp|psycopg|Traceback", reply.raw)
        ready = await rest.get("/readyz")
        assert (ready.status, [each["check"] for each in ready["failed"]]) == (503, ["database"])
        await own_postgres.start()
        await until_serving(rest)
        assert (await rest.record(name))["status"] == "planning"
        assert (await rest.get("/readyz")).status == 200


async def test_a_tenant_that_too_many_change_at_once(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was asked for; that each of these may be answered is in the document."""
    name = await rest.create()
    monkeypatch.setattr("landlord.tenants.service.CONTENTION", 0)
    for reply in (
        await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG}),
        await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG}),
        await rest.patch(f"/api/tenants/{name}", {"labels": {"a": "b"}}),
        await rest.post(f"/api/tenants/{name}/retry"),
        await rest.delete(f"/api/tenants/{name}"),
    ):
        assert (reply.status, "too many" in reply["detail"]) == (409, True)


async def test_what_nobody_foresaw(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    async def burn(_: str) -> Any:
        raise RuntimeError("secret at /var/lib")

    monkeypatch.setattr(rest.installation.repository, "load", burn)
    reply = await rest.call("GET", "/metrics")
    assert reply.status == 200
    with capture_logs(processors=[merge_contextvars]) as logs:
        raw = await rest.session.get(f"{rest.url}/api/tenants/name", headers={"X-Request-ID": "find-me"})
    assert raw.status == 500
    assert {(each["event"], each["log_level"]) for each in logs if each["request_id"] == "find-me"} == {
        ("request failed unexpectedly", "error"),
        ("request", "warning"),
    }
    body = await raw.json(content_type="application/problem+json")
    assert "secret" not in str(body)
    assert body["request_id"] == "find-me"
    assert body["type"] == "urn:landlord:problem:internal"
    assert "find-me" in body["detail"]


async def test_the_mirror_is_called_behind_the_answer(settings: Settings) -> None:
    mirrored: list[Tenant] = []
    answered = asyncio.Event()

    async def mirror(tenant: Tenant) -> None:
        await answered.wait()
        mirrored.append(tenant)
        raise RuntimeError("the cluster is away")

    async with serving(settings, after_create=mirror) as rest:
        name = await rest.create()
        assert mirrored == []
        answered.set()
        rest.mock.unavailable()
        assert (await rest.post("/api/tenants", {"id": unique(), "compute_config": CONFIG})).status == 500
    assert [tenant.id for tenant in mirrored] == [name]


async def test_what_is_behind_answers_is_finished_at_the_end(settings: Settings) -> None:
    finished: list[str] = []

    async def mirror(tenant: Tenant) -> None:
        await asyncio.sleep(0.3)
        finished.append(tenant.id)

    async with serving(settings, after_create=mirror) as rest:
        names = [await rest.create() for _ in range(40)]
    assert sorted(finished) == sorted(names)


async def test_metrics(rest: Rest) -> None:
    name = await rest.create()
    await rest.get(f"/api/tenants/{name}")
    await rest.get("/api/whatever/no/route")
    text = (await rest.get("/metrics")).raw.decode()
    assert 'landlord_http_requests_total{method="GET",route="/api/tenants/{id}",status="200"}' in text
    assert 'landlord_http_requests_total{method="GET",route="unmatched",status="404"}' in text
    assert 'landlord_http_request_seconds_bucket{le="0.005",method="POST",route="/api/tenants"}' in text
    assert 'landlord_requests_accepted_total{command="create",door="api"}' in text
    assert name not in text
