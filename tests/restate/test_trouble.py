"""Runs that cannot go on are noticed, though nothing of them ends."""

from __future__ import annotations

import asyncio
import uuid

import aiohttp
from fixtures.restate_world import World

from landlord.tenants.commands import Create
from landlord.tenants.model import Execution, Stalled, Status
from landlord.workflow.provider import ExecutionState

SOON = 15.0
"""Seconds; the poll of what goes well is 30 s away."""


async def provisioning(world: World, *, seconds: float) -> str:
    """A tenant whose run has been seen under way."""
    name = f"t{uuid.uuid4().hex[:10]}"
    await world.submit(name, Create(compute_config={"delay_seconds": seconds}))
    await world.until(name, Status.PROVISIONING)
    await until_state(world, name, ExecutionState.RUNNING)
    return name


async def until_state(world: World, tenant: str, state: ExecutionState) -> Execution:
    async with asyncio.timeout(SOON):
        while True:
            sent = (await world.installation.repository.load(tenant)).sent
            if sent is not None and sent.seen and sent.state is state:
                return sent
            await asyncio.sleep(0.02)


async def test_a_run_whose_worker_is_away_and_comes_back(world: World) -> None:
    name = await provisioning(world, seconds=10)
    world.worker.kill()
    await world.worker.gone()
    sent = await until_state(world, name, ExecutionState.RETRYING)
    assert sent.error is not None
    assert sent.error["code"] in ("WorkerUnreachable", "WorkerLost")
    await world.worker.start()
    sent = await until_state(world, name, ExecutionState.RUNNING)
    await world.until(name, Status.READY)
    assert await world.states(name) == [("plan", "succeeded"), ("provision", "succeeded")]
    found = await world.installation.repository.executions(name, before=2**62, limit=1)
    assert found[0][1].engine_attempt >= sent.engine_attempt > 1, "Restate says how often it tried only until the end"


async def test_a_run_that_somebody_paused(world: World) -> None:
    name = await provisioning(world, seconds=8)
    info = await world.installation.client.get(f"tenant-{name}-provision")
    url = f"{world.settings.restate_admin_url}/invocations/{info.native_id}/pause"
    async with aiohttp.ClientSession() as session, session.patch(url) as answer:
        assert answer.status == 202
    async with asyncio.timeout(SOON):
        while True:
            tenant = (await world.installation.repository.load(name)).tenant
            assert tenant is not None
            if tenant.stalled is Stalled.ENGINE_PAUSED:
                break
            await asyncio.sleep(0.02)
    await world.until(name, Status.READY)
    assert await world.states(name) == [("plan", "succeeded"), ("provision", "cancelled"), ("provision-2", "succeeded")]
