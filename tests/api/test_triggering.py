"""requirements/api-workflow-triggering.md: every scenario, against the served API on a real Postgres."""

from __future__ import annotations

import ast
import inspect
import typing
from pathlib import Path

import pytest
from fixtures.engines import NAMES, shared
from fixtures.rest import Rest, on_each_engine, serving, serving_on, unique
from pydantic import SecretStr

import landlord_api
from landlord.settings import Settings
from landlord.workflow.client import WorkflowClient
from landlord.workflow.provider import InvalidRequest, TriggerResult, WorkflowRequest
from landlord.workflow.providers.mock import MockProvider
from landlord_api.app import create_app

CONFIG = {"image": "app:1"}


@on_each_engine
async def test_post_triggers_the_plan(rest: Rest) -> None:
    """Scenario: POST /tenants triggers provisioning workflow"""
    name = unique()
    reply = await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})
    assert reply["status"] == "planning"
    assert await rest.known(name) == [f"tenant-{name}-plan"]  # and no controller runs here
    assert (await rest.record(name))["status"] == "planning"


@on_each_engine
async def test_put_triggers_the_update(rest: Rest) -> None:
    """Scenario: PUT /tenants triggers update workflow"""
    name = await rest.ready()
    reply = await rest.put(f"/api/tenants/{name}", {"compute_config": {"image": "app:2"}})
    assert reply["status"] == "updating"
    assert (await rest.known(name))[-1] == f"tenant-{name}-update"
    assert (await rest.record(name))["status"] == "updating"


@on_each_engine
async def test_delete_triggers_the_delete(rest: Rest) -> None:
    """Scenario: DELETE /tenants triggers deletion workflow"""
    name = await rest.ready()
    reply = await rest.delete(f"/api/tenants/{name}")
    assert reply["status"] == "deleting"
    assert (await rest.known(name))[-1] == f"tenant-{name}-delete"
    assert (await rest.record(name))["status"] == "deleting"


@on_each_engine
async def test_the_answer_names_the_execution(rest: Rest) -> None:
    """Scenario: Successful workflow trigger returns execution ID"""
    name = unique()
    reply = await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})
    assert reply["workflow_execution_id"] == f"tenant-{name}-plan"
    run = await rest.get(f"/api/executions/{reply['workflow_execution_id']}")
    assert (run.status, run["tenant_id"], run["trigger_source"]) == (200, name, "api")


@on_each_engine
async def test_a_failed_trigger_answers_without_an_id(rest: Rest) -> None:
    """Scenario: Workflow trigger failure omits execution ID"""
    async with rest.doors.cut():
        reply = await rest.post("/api/tenants", {"id": unique(), "compute_config": CONFIG})
    assert reply.status == 500
    assert "workflow_execution_id" not in reply.json
    assert b"workflow_execution_id" not in reply.raw


@on_each_engine
async def test_create_answers_202(rest: Rest) -> None:
    """Scenario: Successful create returns 202"""
    name = unique()
    reply = await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})
    assert reply.status == 202
    assert reply.headers["Location"] == f"/api/tenants/{name}"


@on_each_engine
async def test_update_answers_202(rest: Rest) -> None:
    """Scenario: Successful update returns 202"""
    name = await rest.ready()
    assert (await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG})).status == 202


@on_each_engine
async def test_delete_answers_202(rest: Rest) -> None:
    """Scenario: Successful delete returns 202"""
    name = await rest.ready()
    assert (await rest.delete(f"/api/tenants/{name}")).status == 202


def test_the_application_is_given_a_workflow_client() -> None:
    """Scenario: API server receives workflow client at initialization"""
    parameter = inspect.signature(create_app).parameters["client"]
    assert parameter.default is inspect.Parameter.empty
    assert typing.get_type_hints(create_app)["client"] is WorkflowClient


class Recording(WorkflowClient):
    """Counts what comes through it."""

    triggers: list[str]

    async def trigger(self, request: WorkflowRequest) -> TriggerResult:
        self.triggers.append(request.execution_id)
        return await super().trigger(request)


async def test_handlers_trigger_through_the_client(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario: API handlers trigger workflows via WorkflowClient"""
    Recording.triggers = []
    monkeypatch.setattr("fixtures.rest.WorkflowClient", Recording)
    async with serving(settings) as rest:
        name = await rest.create()
        await rest.delete(f"/api/tenants/{name}")
        assert Recording.triggers[0] == f"tenant-{name}-plan"
        assert rest.triggered(name) == [each for each in Recording.triggers if name in each]
    for path in Path(landlord_api.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                assert not any("workflow.providers" in (module or "") for module in modules), path


@on_each_engine
async def test_an_engine_that_is_away(rest: Rest) -> None:
    """Scenario: Workflow provider unavailable"""
    async with rest.doors.cut():
        reply = await rest.post("/api/tenants", {"id": unique(), "compute_config": CONFIG})
    assert reply.status == 500
    assert reply["title"] == "Failed to trigger workflow"
    assert reply["detail"]
    assert "127.0.0.1" not in str(reply.json)


@pytest.mark.parametrize("name", NAMES)
async def test_an_engine_that_does_not_answer(
    name: str, request: pytest.FixtureRequest, settings: Settings, test_database_url: str
) -> None:
    """Scenario: Workflow trigger timeout"""
    assert Settings.model_fields["workflow_trigger_timeout"].default == 30
    own = {"workflow_trigger_timeout": 0.5, "database_url": SecretStr(test_database_url)}
    async with shared(name, request) as engine, serving_on(engine, settings.model_copy(update=own)) as rest:
        tenant = unique()
        async with rest.doors.deaf():
            reply = await rest.post("/api/tenants", {"id": tenant, "compute_config": CONFIG})
        assert reply.status == 500
        assert reply["title"] == "Failed to trigger workflow"
        assert "timed out" in reply["detail"]
        assert "0.5 s" in reply["detail"]
        record = await rest.record(tenant)
        assert (record["status"], record["workflow_execution_id"]) == ("planning", None)
        async with rest.going_on():  # its outcome was not known: it is the one that goes on
            await rest.until(tenant, "ready")
        assert await rest.known(tenant) == [f"tenant-{tenant}-plan", f"tenant-{tenant}-provision"]


class Refusing(MockProvider):
    """Refuses runs of ``refused-…``: when asked, or already on paper."""

    def check(self, request: WorkflowRequest) -> None:
        super().check(request)
        if request.execution_id.startswith("tenant-on-paper-"):
            raise InvalidRequest("mock: the payload is not taken")

    async def trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        if request.execution_id.startswith("tenant-refused-"):
            raise InvalidRequest("mock: the payload is not taken")
        return await super().trigger(request, timeout=timeout)


async def test_a_specification_that_is_not_valid(settings: Settings) -> None:
    """Scenario: Invalid workflow specification"""
    async with serving(settings, engine=Refusing()) as rest:
        # What the compute provider's schema refuses, field by field.
        wrong = {"image": 5, "env": {"A": []}}
        reply = await rest.post("/api/tenants", {"id": unique(), "compute_provider": "docker", "compute_config": wrong})
        assert reply.status == 400
        assert reply.pointers == {"/compute_config/image", "/compute_config/env/A"}
        # What the engine would refuse: nothing is stored.
        paper = f"on-paper-{unique()}"
        reply = await rest.post("/api/tenants", {"id": paper, "compute_config": CONFIG})
        assert reply.status == 400
        assert "not taken" in reply["detail"]
        assert (await rest.get(f"/api/tenants/{paper}")).status == 404
        # What it refuses when it is asked: the record says so.
        name = f"refused-{unique()}"
        reply = await rest.post("/api/tenants", {"id": name, "compute_config": CONFIG})
        assert reply.status == 400
        assert "not taken" in reply["detail"]
        assert (await rest.record(name))["status"] == "failed"


@on_each_engine
async def test_a_ready_tenant_takes_an_update(rest: Rest) -> None:
    """Scenario: Valid transition is allowed"""
    name = await rest.ready()
    before = await rest.record(name)
    reply = await rest.put(f"/api/tenants/{name}", {"compute_config": {"image": "app:2"}})
    assert (reply.status, reply["status"]) == (202, "updating")
    assert reply["generation"] == before["generation"] + 1
    assert (await rest.known(name))[-1] == f"tenant-{name}-update"


@on_each_engine
async def test_a_failed_tenant_takes_no_update(rest: Rest) -> None:
    """Scenario: Invalid transition is rejected"""
    name = await rest.failed()
    before, known = await rest.record(name), await rest.known(name)
    reply = await rest.put(f"/api/tenants/{name}", {"compute_config": CONFIG})
    assert reply.status == 409
    assert reply["detail"] == "cannot change a tenant that is failed; allowed: delete, retry"
    assert await rest.record(name) == before
    assert await rest.known(name) == known


@pytest.mark.parametrize(
    ("method", "suffix", "body"),
    [
        ("PUT", "", {"compute_config": CONFIG}),
        ("PATCH", "", {"compute_config": CONFIG}),
        ("PATCH", "", {"labels": {"a": "b"}}),
        ("DELETE", "", None),
        ("POST", "/retry", None),
        ("POST", "/retry", {"compute_config": CONFIG}),
    ],
)
async def test_a_deleted_tenant_takes_nothing(rest: Rest, method: str, suffix: str, body: object) -> None:
    """Scenario: Terminal status prevents workflow triggering"""
    name = await rest.deleted()
    before, known = await rest.record(name), await rest.known(name)
    reply = await rest.call(method, f"/api/tenants/{name}{suffix}", json=body)
    assert reply.status == 410
    assert await rest.record(name) == before
    assert await rest.known(name) == known
