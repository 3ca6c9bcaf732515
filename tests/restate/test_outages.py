"""An engine that is away, answers into the void, or has lost its workers."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest
from fixtures.restate import RestateProxies, introduce, restate_settings
from fixtures.restate_world import World

from landlord.installation import assemble
from landlord.settings import Settings
from landlord.tenants.commands import Create, Delete, Replace, Request
from landlord.tenants.errors import TriggerFailed
from landlord.tenants.model import Door, Status
from landlord.workflow.worker import TenantWorker

pytestmark = pytest.mark.timeout(170)


def unique() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


async def test_accepted_while_the_server_is_down(world: World) -> None:
    """Each request is refused in time and kept; when the server is back, each has run exactly once."""
    await world.server.kill()
    names = [unique() for _ in range(50)]
    began = time.perf_counter()
    results = await asyncio.gather(
        *(world.submit(name, Create(compute_config={"image": "x"})) for name in names), return_exceptions=True
    )
    assert time.perf_counter() - began < 10
    assert all(isinstance(result, TriggerFailed) for result in results), results[:3]
    assert all("127.0.0.1" not in str(result) for result in results)
    await asyncio.sleep(6)
    await world.server.start()
    await asyncio.gather(*(world.until(name, Status.READY) for name in names))
    for name in names:
        assert await world.states(name) == [("plan", "succeeded"), ("provision", "succeeded")]


async def test_a_trigger_whose_answer_is_lost(restate_server: dict[str, str], test_database_url: str) -> None:
    async with RestateProxies(restate_server).running() as proxies:
        settings = Settings(
            database_url=test_database_url,  # type: ignore[arg-type]
            compute_providers=("mock",),
            retry_backoff=0.05,
            workflow_trigger_timeout=1,
            **{**restate_settings(restate_server), **proxies.settings},
        )
        async with assemble(settings) as installation:
            await introduce(settings, installation.client)
            name = unique()
            request = Request(tenant_id=name, command=Create(compute_config={}), who="tester", door=Door.API)
            async with proxies.deaf():
                with pytest.raises(TriggerFailed):
                    await installation.service.submit(request)
            stop = asyncio.Event()
            tasks = [
                asyncio.create_task(TenantWorker(settings=settings).run(stop)),
                asyncio.create_task(installation.reconciler().run()),
            ]
            async with asyncio.timeout(30):
                while (await installation.repository.load(name)).tenant.status is not Status.READY:  # type: ignore[union-attr]
                    await asyncio.sleep(0.02)
            found = await installation.repository.executions(name, before=2**62, limit=10)
            assert [each.execution_id for _, each in found] == [f"tenant-{name}-provision", f"tenant-{name}-plan"]
            tasks[1].cancel()
            stop.set()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_update_while_the_workers_are_away(world: World) -> None:
    """The run that cannot go on is cancelled, and the new spec runs under the next id."""
    name = unique()
    await world.submit(name, Create(compute_config={"delay_seconds": 30}))
    await world.until(name, Status.PROVISIONING)
    await asyncio.sleep(0.3)
    world.worker.kill()
    await world.worker.gone()
    await asyncio.sleep(1)
    answer = await world.submit(name, Replace(compute_config={"delay_seconds": 0}))
    assert answer.snapshot.tenant is not None
    async with asyncio.timeout(20):  # the poll of what goes well is 30 s away
        while not (await world.installation.repository.load(name)).sent.cancel_requested_at:  # type: ignore[union-attr]
            await asyncio.sleep(0.02)
    await world.worker.start()
    ready = await world.until(name, Status.READY)
    assert ready.observed_generation == 2
    assert await world.states(name) == [("plan", "succeeded"), ("provision", "cancelled"), ("provision-2", "succeeded")]


async def test_a_delete_does_not_wait_for_the_step_it_ends(world: World) -> None:
    name = unique()
    await world.submit(name, Create(compute_config={"delay_seconds": 120}))
    await world.until(name, Status.PROVISIONING)
    await asyncio.sleep(0.3)
    began = time.perf_counter()
    await world.submit(name, Delete())
    await world.until(name, Status.DELETED)
    assert time.perf_counter() - began < 15
    assert await world.states(name) == [("plan", "succeeded"), ("provision", "cancelled"), ("delete", "succeeded")]


async def test_a_poisoned_tenant_delays_no_other(world: World) -> None:
    poisoned, *names = (unique() for _ in range(100))
    await world.submit(poisoned, Create(compute_config={"fail_first": 100}))
    await asyncio.gather(*(world.submit(name, Create(compute_config={})) for name in names))
    await asyncio.gather(*(world.until(name, Status.READY) for name in names))
    for name in names:
        assert await world.states(name) == [("plan", "succeeded"), ("provision", "succeeded")]
    await world.until(poisoned, Status.FAILED)
