"""A server behind proxies that want a bearer token, as in production: the doors have no authentication themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
import structlog.testing
from aiohttp import web  # noqa: TID251 - the proxy is somebody else's
from fixtures.rest import reconciling, serving, unique
from fixtures.restate import registered, restate_settings
from fixtures.workers import running

from landlord.settings import Settings
from landlord.workflow.provider import ProviderUnavailable
from landlord.workflow.providers.restate import RestateProvider
from landlord.workflow.worker import TenantWorker

TOKEN = "the-token-of-the-installation"
_OWN = {"host", "authorization", "connection", "transfer-encoding", "content-length"}
"""Headers that each side of the proxy has for itself."""


@dataclass(slots=True)
class Guard:
    """How often the proxies refused."""

    refused: int = 0


@asynccontextmanager
async def guarded(upstream: str, guard: Guard) -> AsyncIterator[str]:
    """A proxy that hands on to ``upstream`` what carries the token, and answers 401 to all else; its address."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.Response:
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                guard.refused += 1
                return web.Response(status=401, text="who are you?")
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN}
            async with session.request(
                request.method, upstream + request.raw_path, data=await request.read(), headers=headers
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@pytest.fixture
async def guard() -> Guard:
    return Guard()


@pytest.fixture
async def settings(restate_server: dict[str, str], test_database_url: str, guard: Guard) -> AsyncIterator[Settings]:
    """Of an installation that has the token, by way of proxies that want it."""
    async with AsyncExitStack() as stack:
        doors = {door: await stack.enter_async_context(guarded(url, guard)) for door, url in restate_server.items()}
        yield Settings(
            database_url=test_database_url,  # type: ignore[arg-type]
            compute_providers=("mock",),
            retry_backoff=0.05,
            workflow_trigger_timeout=2,
            restate_token=TOKEN,  # type: ignore[arg-type]
            **restate_settings(doors),
        )


async def test_with_the_token_everything_goes_through(settings: Settings, guard: Guard) -> None:
    async with (
        running(TenantWorker(settings=settings)),
        serving(settings, engine=RestateProvider(settings=settings)) as rest,
    ):
        await registered(rest.engine)
        async with reconciling(rest.installation):
            name = unique()
            assert (await rest.post("/api/tenants", {"id": name, "compute_config": {}})).status == 202
            await rest.until(name, "ready")
            assert (await rest.delete(f"/api/tenants/{name}")).status == 202
            await rest.until(name, "deleted")
    assert guard.refused == 0


@pytest.mark.parametrize("token", [None, "another"])
async def test_a_token_that_is_refused(settings: Settings, guard: Guard, token: str | None) -> None:
    """Said at every door, kept out of every word; the request is kept, and goes on once the token is taken."""
    async with running(TenantWorker(settings=settings)), AsyncExitStack() as stack:
        right = await stack.enter_async_context(serving(settings, engine=RestateProvider(settings=settings)))
        await registered(right.engine)
        wrong = Settings(**{**settings.model_dump(), "restate_token": token})
        rest = await stack.enter_async_context(serving(wrong, engine=RestateProvider(settings=wrong)))
        with pytest.raises(ProviderUnavailable, match="LANDLORD_RESTATE_TOKEN"):
            await rest.engine.ready()
        ready = await rest.get("/readyz")
        assert ready.status == 200
        assert "LANDLORD_RESTATE_TOKEN" in ready["degraded"][0]["reason"]
        name = unique()
        reply = await rest.post("/api/tenants", {"id": name, "compute_config": {}})
        assert (reply.status, reply["title"]) == (500, "Failed to trigger workflow")
        assert "LANDLORD_RESTATE_TOKEN" in reply["detail"]
        record = await rest.record(name)
        assert (record["status"], record["workflow_execution_id"]) == ("planning", None)
        for told in (ready.raw, reply.raw, (await rest.get(f"/api/tenants/{name}")).raw):
            assert b"127.0.0.1" not in told
            assert TOKEN.encode() not in told
            assert token is None or token.encode() + b'"' not in told
        async with reconciling(right.installation):
            await right.until(name, "ready")


async def test_a_worker_whose_token_is_refused(settings: Settings) -> None:
    wrong = Settings(**{**settings.model_dump(), "restate_token": "another"})
    with structlog.testing.capture_logs() as logs:
        async with running(TenantWorker(settings=wrong)), asyncio.timeout(20):
            while not logs:
                await asyncio.sleep(0.02)
    assert [log["event"] for log in logs] == ["cannot register the worker"]
    assert "LANDLORD_RESTATE_TOKEN" in logs[0]["reason"]
    assert "another" not in logs[0]["reason"]
