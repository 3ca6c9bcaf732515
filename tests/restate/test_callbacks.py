"""Workers on a real server say what has ended; what becomes of that on its way is nobody's loss."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog.testing
from fixtures.proxy import Proxy
from fixtures.rest import Rest, reconciling, serving, unique
from fixtures.restate import registered, restate_settings
from fixtures.workers import running
from pydantic import SecretStr

from landlord.database.statement import Statement
from landlord.settings import Settings
from landlord.workflow.metrics import CALLBACKS
from landlord.workflow.provider import WorkflowProvider
from landlord.workflow.providers.restate import RestateProvider
from landlord.workflow.worker import TenantWorker
from landlord_api.auth import Tokens

SOON = 15.0
"""Seconds in which a loaded machine does what was told; without it the next look is 25 s away."""

USERS = (("alice", ""), ("worker", ":callbacks"))
"""Who has a token, which is the name, and what it is good for."""


class Unwatched(RestateProvider):
    """Nobody polls for ends: what is noticed was told."""

    def completions(self) -> AsyncIterator[str]:
        return WorkflowProvider.completions(self)


@pytest.fixture
def settings(restate_server: dict[str, str], test_database_url: str) -> Settings:
    return Settings(
        database_url=test_database_url,  # type: ignore[arg-type]
        compute_providers=("mock",),
        retry_backoff=0.05,
        workflow_trigger_timeout=25,
        callback_url="http://127.0.0.1:1",
        **restate_settings(restate_server),
    )


@asynccontextmanager
async def working(rest: Rest, settings: Settings, **more: Any) -> AsyncIterator[None]:
    """A worker that calls back, and a reconciler."""
    own = settings.model_copy(update={"callback_url": rest.url, **more})
    async with running(TenantWorker(settings=own)):
        await registered(rest.engine)
        async with reconciling(rest.installation):
            await listened_to(rest)
            yield


async def listened_to(rest: Rest) -> None:
    listening = Statement(
        "select 1 from pg_stat_activity where datname = current_database() and query like 'listen%landlord_hints%'"
    )
    async with asyncio.timeout(10):
        while True:
            if await rest.installation.database.execute(listening):
                return
            await asyncio.sleep(0.05)


def through(rest: Rest) -> AbstractAsyncContextManager[Proxy]:
    return Proxy(("127.0.0.1", urlsplit(rest.url).port or 0)).running()


async def create(rest: Rest, **config: Any) -> str:
    name = unique()
    reply = await rest.post("/api/tenants", {"id": name, "compute_config": config})
    assert reply.status == 202, reply.json
    return name


async def states(rest: Rest, tenant: str) -> list[tuple[str, str]]:
    found = await rest.executions(tenant)
    return [(each["execution_id"].removeprefix(f"tenant-{tenant}-"), each["state"]) for each in found]


def sent(result: str) -> float:
    return float(CALLBACKS.labels(result)._value.get())


async def test_whatever_ends_is_told(settings: Settings) -> None:
    async with serving(settings, engine=Unwatched(settings=settings)) as rest, working(rest, settings):
        before = sent("ok")
        name = await create(rest)
        await rest.until(name, "ready", seconds=SOON)
        assert await states(rest, name) == [("plan", "succeeded"), ("provision", "succeeded")]
        wrong = await create(rest, permanent_error="no such image")
        await rest.until(wrong, "failed", seconds=SOON)
        long = await create(rest, delay_seconds=120)
        await rest.until(long, "provisioning", seconds=SOON)
        await asyncio.sleep(0.5)
        assert (await rest.delete(f"/api/tenants/{long}")).status == 202
        await rest.until(long, "deleted", seconds=SOON)
        assert await states(rest, long) == [("plan", "succeeded"), ("provision", "cancelled"), ("delete", "succeeded")]
        assert sent("ok") - before == 7
        for tenant in (name, wrong, long):
            found = await rest.installation.repository.executions(tenant, before=2**62, limit=9)
            assert all(rest.url.encode() not in (each.payload or b"") for _, each in found)


async def test_lost_ones_only_cost_time(settings: Settings) -> None:
    engine = RestateProvider(settings=settings)
    async with serving(settings, engine=engine) as rest, through(rest) as door:
        with structlog.testing.capture_logs() as logs:
            async with door.cut(), working(rest, settings, callback_url=f"http://127.0.0.1:{door.port}"):
                names = await asyncio.gather(*(create(rest) for _ in range(20)))
                for name in names:
                    await rest.until(name, "ready", seconds=30)
                    assert await states(rest, name) == [("plan", "succeeded"), ("provision", "succeeded")]
        told = [log for log in logs if log["event"].startswith("callbacks do not arrive")]
        assert [log["reason"] for log in told] in ([], ["the API cannot be reached"]), (
            "once, and not before three tries"
        )


async def test_repeated_ones(settings: Settings) -> None:
    """Their answers are lost, so each is sent three times."""
    engine = Unwatched(settings=settings)
    async with (
        serving(settings, engine=engine) as rest,
        through(rest) as door,
        door.deaf(),
        working(rest, settings, callback_url=f"http://127.0.0.1:{door.port}"),
    ):
        before = sent("failed")
        name = await create(rest)
        ready = await rest.until(name, "ready", seconds=SOON)
        async with asyncio.timeout(20):
            while sent("failed") - before < 2:
                await asyncio.sleep(0.1)
        assert await rest.record(name) == ready
        assert await states(rest, name) == [("plan", "succeeded"), ("provision", "succeeded")]


async def test_late_and_untrue_ones(settings: Settings) -> None:
    async with serving(settings, engine=Unwatched(settings=settings)) as rest, working(rest, settings):
        name = await create(rest, delay_seconds=4)
        began = time.perf_counter()
        await rest.until(name, "provisioning", seconds=SOON)
        for action in 10 * ("plan", "provision"):
            assert (await rest.post(f"/api/executions/tenant-{name}-{action}/callback")).status == 202
        await asyncio.sleep(1)
        record = await rest.record(name)
        assert record["status"] == "provisioning" or time.perf_counter() - began > 4
        ready = await rest.until(name, "ready", seconds=4 + SOON)
        for action in ("plan", "provision"):
            assert (await rest.post(f"/api/executions/tenant-{name}-{action}/callback")).status == 202
        await asyncio.sleep(1)
        assert await rest.record(name) == ready
        assert await states(rest, name) == [("plan", "succeeded"), ("provision", "succeeded")]


async def test_tokens(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("".join(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}{scope}\n" for name, scope in USERS))
    engine = RestateProvider(settings=settings)
    async with serving(settings, engine=engine, tokens=Tokens(file)) as rest:
        rest.headers["Authorization"] = "Bearer alice"
        with structlog.testing.capture_logs() as logs:
            async with working(rest, settings, callback_token=SecretStr("somebody else's")):
                before = sent("refused")
                await rest.until(await create(rest), "ready", seconds=30)
                async with asyncio.timeout(5):
                    while sent("refused") - before < 2:
                        await asyncio.sleep(0.05)
        told = [log["reason"] for log in logs if log["event"].startswith("callbacks do not arrive")]
        assert told == ["the API answers 401: check LANDLORD_CALLBACK_TOKEN"]
    async with serving(settings, engine=Unwatched(settings=settings), tokens=Tokens(file)) as rest:
        rest.headers["Authorization"] = "Bearer alice"
        async with working(rest, settings, callback_token=SecretStr("worker")):
            await rest.until(await create(rest), "ready", seconds=SOON)
