"""Worker and server killed at any time: every run goes on, each exactly one, none failed, none paused."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from fixtures.restate_world import World
from fixtures.turns import Fault

from landlord.tenants.commands import Create, Delete, Replace
from landlord.tenants.model import Status

pytestmark = pytest.mark.timeout(170)
POINTS = 5
"""Turns of each way at which the worker is killed."""

WAYS: dict[str, tuple[Callable[[], Any], Status, list[tuple[str, str]]]] = {
    "create": (
        lambda: Create(compute_config={"image": "x"}),
        Status.READY,
        [("plan", "succeeded"), ("provision", "succeeded")],
    ),
    "update": (lambda: Replace(compute_config={"image": "y"}), Status.READY, [("update", "succeeded")]),
    "delete": (Delete, Status.DELETED, [("delete", "succeeded")]),
}
"""What is asked for, where it ends, and the runs it takes."""


def unique() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


async def settled(world: World, tenant: str, status: Status, runs: int) -> None:
    await world.until(tenant, status)
    async with asyncio.timeout(60):
        while len(await world.states(tenant)) < runs or (await world.until(tenant, status)).workflow_execution_id:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("fault", [Fault.KILL_BEFORE, Fault.KILL_AFTER])
async def test_a_worker_killed_between_any_two_steps(world: World, fault: Fault) -> None:
    expected: list[tuple[str, str]] = []
    tenant = unique()
    turns: dict[str, int] = {}
    for name, (command, status, runs) in WAYS.items():  # once undisturbed, to count
        world.turns.arm(at=0, fault=fault)
        expected += runs
        await world.submit(tenant, command())
        await settled(world, tenant, status, len(expected))
        turns[name] = world.turns.disarm()
        assert turns[name] >= 2, "the worker was not seen to be called"
    killed = 0
    for point in range(POINTS):
        tenant, expected = unique(), []
        for name, (command, status, runs) in WAYS.items():
            expected += runs
            world.turns.arm(at=1 + point * turns[name] // POINTS, fault=fault)
            await world.submit(tenant, command())
            waiting = asyncio.create_task(settled(world, tenant, status, len(expected)))
            happened = asyncio.create_task(world.turns.happened.wait())
            await asyncio.wait({waiting, happened}, return_when=asyncio.FIRST_COMPLETED)
            happened.cancel()
            if world.turns.happened.is_set():
                killed += 1
                await world.worker.gone()
                world.turns.disarm()
                await world.worker.start()
            await waiting
            world.turns.disarm()
        assert await world.states(tenant) == expected
    assert killed >= POINTS


async def test_a_server_killed_in_mid_flight(world: World) -> None:
    names = [unique() for _ in range(10)]
    for name in names:
        await world.submit(name, Create(compute_config={"delay_seconds": 1.5}))
    await asyncio.gather(*(world.until(name, Status.PROVISIONING) for name in names))
    await asyncio.sleep(0.3)
    await world.restart_server()
    await asyncio.gather(*(world.until(name, Status.READY) for name in names))
    for name in names:
        assert await world.states(name) == [("plan", "succeeded"), ("provision", "succeeded")]


async def test_both_killed_at_once(world: World) -> None:
    names = [unique() for _ in range(10)]
    for name in names:
        await world.submit(name, Create(compute_config={"delay_seconds": 1.5}))
    await asyncio.gather(*(world.until(name, Status.PROVISIONING) for name in names))
    await asyncio.sleep(0.3)
    await asyncio.gather(world.restart_server(), world.restart_worker())
    await asyncio.gather(*(world.until(name, Status.READY) for name in names))
    for name in names:
        assert await world.states(name) == [("plan", "succeeded"), ("provision", "succeeded")]


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
