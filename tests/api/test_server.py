"""requirements/http-api-server.md: every scenario, against the served API on a real Postgres."""

from __future__ import annotations

import pytest
from fixtures.rest import Rest, on_each_engine, unique
from openapi_spec_validator import OpenAPIV31SpecValidator

CONFIG = {"image": "app:1"}


@on_each_engine
async def test_create(rest: Rest) -> None:
    """Scenario: Successful tenant creation with workflow trigger"""
    name = unique()
    reply = await rest.post(
        "/api/tenants", {"id": name, "compute_config": CONFIG, "labels": {"team": "a"}, "annotations": {"note": "x y"}}
    )
    assert reply.status == 202
    assert reply["status"] == "planning"
    assert reply["workflow_execution_id"] == f"tenant-{name}-plan"
    assert reply["workflow"]["action"] == "plan"
    assert await rest.known(name) == [f"tenant-{name}-plan"]
    record = await rest.record(name)
    assert record == reply.json
    assert (record["compute_config"], record["labels"], record["annotations"]) == (
        CONFIG,
        {"team": "a"},
        {"note": "x y"},
    )


@on_each_engine
async def test_create_while_the_engine_is_away(rest: Rest) -> None:
    """Scenario: Workflow trigger fails after tenant creation"""
    name = unique()
    async with rest.doors.cut():
        reply = await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})
        assert reply.status == 500
        record = await rest.record(name)
        assert record["status"] == "planning"
        assert record["workflow_execution_id"] is None
    assert await rest.known(name) == []
    # For controller retry: it goes on with the same run.
    async with rest.going_on():
        await rest.until(name, "ready")
    assert [run["execution_id"] for run in await rest.executions(name)] == [
        f"tenant-{name}-plan",
        f"tenant-{name}-provision",
    ]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"id": "NAME", "compute_config": CONFIG}, {"/id"}),
        ({"compute_config": CONFIG}, {"/id"}),
        ({"id": "name"}, {"/compute_config"}),
        ({"id": "name", "compute_config": CONFIG, "colour": "red"}, {"/colour"}),
        ({"id": "name", "compute_config": CONFIG, "compute_provider": "nobody"}, {"/compute_provider"}),
        ({"id": "name", "compute_config": {"delay_seconds": -1}}, {"/compute_config/delay_seconds"}),
        ({}, {"/id", "/compute_config"}),
    ],
)
async def test_create_what_is_not_valid(rest: Rest, body: dict[str, object], wrong: set[str]) -> None:
    """Scenario: Invalid tenant specification"""
    reply = await rest.post("/api/tenants", body)
    assert reply.status == 400
    assert reply.pointers == wrong
    assert (await rest.get("/api/tenants/name")).status == 404
    assert rest.mock.requests == []


@on_each_engine
async def test_update(rest: Rest) -> None:
    """Scenario: Successful tenant update with workflow trigger"""
    name = await rest.ready()
    reply = await rest.put(f"/api/tenants/{name}", {"compute_config": {"image": "app:2"}})
    assert reply.status == 202
    assert reply["status"] == "updating"
    assert reply["compute_config"] == {"image": "app:2"}
    assert reply["workflow_execution_id"] == f"tenant-{name}-update"
    assert (await rest.known(name))[-1] == f"tenant-{name}-update"
    assert await rest.record(name) == reply.json


async def test_update_nothing(rest: Rest) -> None:
    """Scenario: Update on non-existent tenant"""
    reply = await rest.put(f"/api/tenants/{unique()}", {"compute_config": CONFIG})
    assert reply.status == 404
    assert rest.mock.requests == []


@on_each_engine
async def test_update_at_the_end_of_a_life(rest: Rest) -> None:
    """Scenario: Update on terminal status tenant

    "deleted" is 410, as api-workflow-triggering.md has it: the texts disagree, design.md decides.
    """
    failed, deleted = await rest.failed(), await rest.deleted()
    before = [await rest.known(each) for each in (failed, deleted)]
    assert (await rest.put(f"/api/tenants/{failed}", {"compute_config": CONFIG})).status == 409
    assert (await rest.put(f"/api/tenants/{deleted}", {"compute_config": CONFIG})).status == 410
    assert [await rest.known(each) for each in (failed, deleted)] == before


@on_each_engine
async def test_delete(rest: Rest) -> None:
    """Scenario: Successful tenant deletion with workflow trigger"""
    name = await rest.ready()
    reply = await rest.delete(f"/api/tenants/{name}")
    assert reply.status == 202
    assert reply["status"] == "deleting"
    assert reply["workflow_execution_id"] == f"tenant-{name}-delete"
    assert (await rest.known(name))[-1] == f"tenant-{name}-delete"
    again = await rest.delete(f"/api/tenants/{name}")
    assert (again.status, again["workflow_execution_id"]) == (202, f"tenant-{name}-delete")


async def test_delete_nothing(rest: Rest) -> None:
    """Scenario: Delete on non-existent tenant"""
    assert (await rest.delete(f"/api/tenants/{unique()}")).status == 404
    assert rest.mock.requests == []


@on_each_engine
async def test_delete_twice(rest: Rest) -> None:
    """Scenario: Delete on already deleted tenant"""
    name = await rest.deleted()
    before = await rest.known(name)
    assert (await rest.delete(f"/api/tenants/{name}")).status == 410
    assert await rest.known(name) == before


@on_each_engine
async def test_list(rest: Rest) -> None:
    """Scenario: List includes workflow execution IDs"""
    ready, active = await rest.ready(), await rest.create()
    reply = await rest.get("/api/tenants?limit=1000")
    assert reply.status == 200
    ids = {record["id"]: record["workflow_execution_id"] for record in reply["tenants"]}
    assert ids[active] == f"tenant-{active}-plan"
    assert ids[ready] is None
    assert all("workflow_execution_id" in record for record in reply["tenants"])


@on_each_engine
async def test_get_with_a_run(rest: Rest) -> None:
    """Scenario: Get tenant with active workflow"""
    name = await rest.create()
    reply = await rest.get(f"/api/tenants/{name}")
    assert (reply.status, reply["workflow_execution_id"]) == (200, f"tenant-{name}-plan")
    assert reply["workflow"]["generation"] == 1
    assert reply["workflow"]["attempt"] == 1
    assert reply["workflow"]["retry_count"] == 0


@on_each_engine
async def test_get_without_a_run(rest: Rest) -> None:
    """Scenario: Get tenant without active workflow"""
    name = await rest.ready()
    reply = await rest.get(f"/api/tenants/{name}")
    assert (reply.status, reply["status"]) == (200, "ready")
    assert reply["workflow_execution_id"] is None
    assert reply["workflow"] is None
    assert reply["observed_config"]["health"] == "healthy"


async def test_get_nothing(rest: Rest) -> None:
    """Scenario: Get non-existent tenant"""
    assert (await rest.get(f"/api/tenants/{unique()}")).status == 404


async def test_the_document_has_compute_config(rest: Rest) -> None:
    """Scenario: Swagger documentation present"""
    document = (await rest.get("/api/openapi.json")).json
    OpenAPIV31SpecValidator(document).validate()
    operation = document["paths"]["/api/compute/config"]["get"]
    assert [each["name"] for each in operation["parameters"]] == ["provider"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]


async def test_the_document_describes_compute_config(rest: Rest) -> None:
    """Scenario: Response schema documented"""
    document = (await rest.get("/api/openapi.json")).json
    answer = document["paths"]["/api/compute/config"]["get"]["responses"]["200"]["content"]["application/json"]
    schema = document["components"]["schemas"][answer["schema"]["$ref"].rpartition("/")[2]]
    assert set(schema["properties"]) == {"provider", "schema", "defaults"}
    assert set(schema["required"]) == {"provider", "schema", "defaults"}


async def test_compute_config_is_discovered(rest: Rest) -> None:
    default = await rest.get("/api/compute/config")
    assert (default.status, default["provider"]) == (200, "mock")
    assert default["schema"]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert default["defaults"]["delay_seconds"] == 0
    docker = await rest.get("/v1/compute/config?provider=docker")
    assert (docker.status, docker["provider"]) == (200, "docker")
    unknown = await rest.get("/api/compute/config?provider=nobody")
    assert (unknown.status, unknown.pointers) == (400, {"provider"})
