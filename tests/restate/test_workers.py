"""Workers that go, as only Restate has them: it calls them, and keeps calling."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from fixtures.restate_world import World

from landlord.tenants.commands import Create, Replace
from landlord.tenants.model import Status

pytestmark = pytest.mark.timeout(170)


def unique() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


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


async def test_a_worker_that_is_told_to_stop_hands_back_what_runs(world: World) -> None:
    """The step is longer than the worker waits: it is begun again by the next one, at once, and nothing failed."""
    name = unique()
    await world.submit(name, Create(compute_config={"delay_seconds": 8}))
    await world.until(name, Status.PROVISIONING)
    await asyncio.sleep(0.3)
    await world.worker.stop()
    await world.worker.start()
    await world.until(name, Status.READY)
    assert await world.states(name) == [("plan", "succeeded"), ("provision", "succeeded")]
    assert "run let go" in world.worker.log.read_text()
