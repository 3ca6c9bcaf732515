"""Liveness, readiness and metrics over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from landlord import health
from landlord.settings import ConfigurationError


@asynccontextmanager
async def _served(essential: Collection[str] = (), **checks: health.Check) -> AsyncGenerator[Any, None]:
    async with (
        health.serve(host="127.0.0.1", port=0, checks=checks, essential=essential) as (host, port),
        aiohttp.ClientSession(f"http://{host}:{port}") as session,
    ):

        async def get(path: str) -> tuple[int, Any]:
            async with session.get(path) as response:
                return response.status, await response.json()

        get.session = session  # type: ignore[attr-defined]
        yield get


async def _well() -> str | None:
    return None


async def _ill() -> str | None:
    return "the schema is missing"


async def _breaks() -> str | None:
    raise RuntimeError("password=hunter2")


async def test_all_well() -> None:
    async with _served(essential={"database"}, database=_well) as get:
        assert await get("/healthz") == (200, {"status": "ok"})
        assert await get("/readyz") == (200, {"status": "ok", "failed": [], "degraded": []})


async def test_only_essential_checks_make_it_unready() -> None:
    async with _served(essential={"database"}, database=_well, engine=_ill) as get:
        degraded = [{"check": "engine", "reason": "the schema is missing"}]
        assert await get("/readyz") == (200, {"status": "degraded", "failed": [], "degraded": degraded})
    async with _served(essential={"database"}, database=_ill, engine=_well) as get:
        status, body = await get("/readyz")
        assert (status, body["status"], body["failed"][0]["check"]) == (503, "unavailable", "database")
        assert (await get("/healthz"))[0] == 200


async def test_a_check_that_breaks_or_hangs_is_a_fault_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LIMIT", 0.1)

    async def hangs() -> str | None:
        await asyncio.Event().wait()
        return None

    async with _served(breaks=_breaks, hangs=hangs) as get:
        _, body = await get("/readyz")
    assert [fault["reason"] for fault in body["degraded"]] == ["RuntimeError", "no answer within 0.1 s"]


async def test_many_probes_cost_one_look_a_second() -> None:
    looks = 0

    async def counted() -> str | None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.02)
        return None

    async with _served(counted=counted) as get:
        await asyncio.gather(*(get("/readyz") for _ in range(20)))
    assert looks == 1


async def test_who_waits_for_readiness_hears_of_it_soon() -> None:
    ready = asyncio.Event()

    async def starting() -> str | None:
        return None if ready.is_set() else "starts"

    async with _served(essential={"starting"}, starting=starting) as get:
        assert (await get("/readyz"))[0] == 503
        ready.set()
        await asyncio.sleep(health.CACHE / 5)
        assert (await get("/readyz"))[0] == 200


async def test_metrics_are_prometheus() -> None:
    async with _served() as get, get.session.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert "python_info" in await response.text()


async def test_where_nobody_can_listen() -> None:
    async with health.serve(host="127.0.0.1", port=0, checks={}, essential=()) as (_, port):
        for host in ("127.0.0.1", "nowhere.invalid", "no..name"):
            with pytest.raises(ConfigurationError, match=f"HEALTH_PORT: cannot listen on {host}:{port}: "):
                async with health.serve(host=host, port=port, checks={}, essential=()):
                    pass


def test_an_essential_check_must_exist() -> None:
    with pytest.raises(ValueError, match="typo"):
        health.Health({}, essential={"typo"})
