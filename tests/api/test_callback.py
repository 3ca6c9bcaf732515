"""Workers say that an execution has ended: a hint, which is never believed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fixtures.rest import Rest, reconciling, serving, unique

from landlord.settings import Settings
from landlord.workflow.provider import WorkflowProvider
from landlord.workflow.providers.mock import Fail, MockProvider, Stay, Succeed
from landlord_api.auth import Tokens


class Silent(MockProvider):
    """Pushes nothing by itself."""

    def completions(self) -> AsyncIterator[str]:  # type: ignore[override]
        return WorkflowProvider.completions(self)


@pytest.fixture
async def silent(settings: Settings) -> AsyncIterator[Rest]:
    engine = Silent()
    engine.default = Stay()
    async with serving(settings, engine=engine) as rest, reconciling(rest.installation, number=2):
        yield rest


async def callback(rest: Rest, tenant: str, action: str = "plan") -> int:
    reply = await rest.post(f"/api/executions/tenant-{tenant}-{action}/callback")
    if reply.status == 202:
        assert reply.json == {"execution_id": f"tenant-{tenant}-{action}"}
    return reply.status


async def seen(rest: Rest, tenant: str) -> None:
    """Wait until the reconciler has seen the run by itself: from then on it looks every 30 s."""
    async with asyncio.timeout(20):
        while True:
            sent = (await rest.installation.repository.load(tenant)).sent
            if sent is not None and sent.seen:
                return
            await asyncio.sleep(0.05)


async def test_an_end_is_noticed_at_once(silent: Rest) -> None:
    name = await silent.create()
    await seen(silent, name)
    silent.mock.finish(f"tenant-{name}-plan", Succeed())
    await asyncio.sleep(1)
    assert (await silent.record(name))["status"] == "planning", "nobody said anything"
    assert await callback(silent, name) == 202
    assert (await silent.until(name, "provisioning", seconds=5))["workflow_execution_id"] == f"tenant-{name}-provision"


async def test_a_callback_that_comes_before_the_engine_knows(silent: Rest) -> None:
    name = await silent.create()
    await seen(silent, name)
    assert await callback(silent, name) == 202
    await asyncio.sleep(0.3)
    silent.mock.finish(f"tenant-{name}-plan", Fail(message="no such image", permanent=True))
    await silent.until(name, "failed", seconds=5)


async def test_forged_repeated_and_late_ones_change_nothing(silent: Rest) -> None:
    name = await silent.create()
    await seen(silent, name)
    before = await silent.record(name)
    for _ in range(20):
        assert await callback(silent, name) == 202
    await asyncio.sleep(2)
    assert await silent.record(name) == before
    assert silent.triggered(name) == [f"tenant-{name}-plan"]

    silent.mock.finish(f"tenant-{name}-plan", Succeed())
    assert set(await asyncio.gather(*(callback(silent, name) for _ in range(20)))) == {202}
    await silent.until(name, "provisioning", seconds=5)
    silent.mock.finish(f"tenant-{name}-provision", Succeed(output={"health": "healthy"}))
    await callback(silent, name, "provision")
    ready = await silent.until(name, "ready", seconds=5)
    assert await callback(silent, name, "plan") == 202
    assert await callback(silent, name, "provision") == 202
    await asyncio.sleep(1)
    assert await silent.record(name) == ready
    assert silent.triggered(name) == [f"tenant-{name}-plan", f"tenant-{name}-provision"]


async def test_what_there_is_not(rest: Rest) -> None:
    assert await callback(rest, unique()) == 404
    name = await rest.create()
    assert await callback(rest, name, "provision") == 404
    for wrong in ("a_b", "x" * 81, "%00", "a%20b"):
        reply = await rest.post(f"/api/executions/{wrong}/callback")
        assert reply.status == 400
        assert reply.pointers == {"execution_id"}
    assert (await rest.call("GET", f"/api/executions/tenant-{name}-plan/callback")).status == 405


async def test_a_workers_token_may_do_nothing_else(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("full", "worker")}
    file.write_text(f"alice:{digests['full']}\nworker:{digests['worker']}:callbacks\n")
    full, worker = ({"Authorization": f"Bearer {token}"} for token in ("full", "worker"))
    async with serving(settings, tokens=Tokens(file)) as rest:
        body = {"id": "guarded", "compute_config": {"image": "app:1"}}
        for method, path, sent in (
            ("POST", "/api/tenants", body),
            ("POST", "/v1/tenants", body),
            ("GET", "/api/tenants", None),
            ("GET", "/api/tenants/guarded", None),
            ("DELETE", "/api/tenants/guarded", None),
            ("POST", "/api/tenants/guarded/retry", None),
            ("GET", "/api/executions/tenant-guarded-plan", None),
            ("GET", "/api/executions/tenant-guarded-plan/callback", None),
            ("GET", "/api/nothing", None),
        ):
            reply = await rest.call(method, path, json=sent, headers=worker)
            assert reply.status == 403, (method, path)
            assert reply.pointers == {"Authorization"}
            assert reply.headers["WWW-Authenticate"] == 'Bearer realm="landlord", error="insufficient_scope"'
        assert (await rest.post("/api/tenants", body, headers=full)).status == 202
        path = "/api/executions/tenant-guarded-plan/callback"
        for headers, status in ((worker, 202), (full, 202), ({}, 401), ({"Authorization": "Bearer forged"}, 401)):
            assert (await rest.post(path, headers=headers)).status == status
        assert (await rest.post("/v1" + path.removeprefix("/api"), headers=worker)).status == 202
