"""After a restore: a record that the world is ahead of runs nothing until somebody says what is wanted."""

from __future__ import annotations

import asyncio

import pytest
from integration.rules.harness import executions, submit, tenant, unanswered, unique

from landlord.installation import Installation
from landlord.tenants.commands import Bind, Create, Patch, Replace, ResourceIdentity, Retry
from landlord.tenants.model import Stalled, Status
from landlord.tenants.reconcile import Reconciler
from landlord.workflow.providers.mock import Fail, MockProvider, Stay, Succeed

pytestmark = pytest.mark.timeout(60)


async def test_a_newer_generation_in_the_world_stalls_the_record(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """After a restore: nothing runs until somebody says what is wanted; then one generation above what exists."""
    name = unique()
    engine.script(f"tenant-{name}-plan", Succeed(output={}))
    refusal = Fail(code="NewerGeneration", permanent=True, details={"existing_generation": 7})
    engine.script(f"tenant-{name}-provision", refusal)
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    await asyncio.sleep(0.01)
    await reconciler.reconcile(name)
    await asyncio.sleep(0.01)
    await reconciler.reconcile(name)
    behind = await tenant(parts, name)
    assert (behind.stalled, behind.generation, behind.status) == (Stalled.RECORD_BEHIND, 7, Status.PROVISIONING)
    await reconciler.reconcile(name)
    assert len(await executions(parts, name)) == 2
    changed = await submit(parts, name, Retry())
    assert (changed.stalled, changed.generation) == (None, 8)
    assert changed.workflow_execution_id == f"tenant-{name}-provision-2"


@pytest.mark.parametrize("outcome", [Succeed(output={}), Fail(message="not now")])
async def test_a_record_that_is_behind_runs_nothing_when_its_run_ends(
    parts: Installation, engine: MockProvider, reconciler: Reconciler, outcome: Succeed | Fail
) -> None:
    """The old spec would be applied over the newer world, under its very generation."""
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    identity = ResourceIdentity(namespace="default", uid="uid", generation=3)
    await submit(parts, name, Bind(identity=identity, recorded_generation=7))
    engine.finish(f"tenant-{name}-plan", outcome)
    await reconciler.reconcile(name)
    for merge in ({"paused": True}, {"paused": False}):
        await submit(parts, name, Patch(merge=merge))
        await reconciler.reconcile(name)
    behind = await tenant(parts, name)
    assert (behind.stalled, behind.generation) == (Stalled.RECORD_BEHIND, 7)
    assert [request.execution_id for request in engine.requests] == [f"tenant-{name}-plan"]
    changed = await submit(parts, name, Replace(compute_config={}))
    assert (changed.stalled, changed.generation) == (None, 8)
    assert len(engine.requests) == 2


@pytest.mark.parametrize("ended", [True, False])
async def test_a_post_that_is_repeated_says_what_is_wanted(
    parts: Installation, engine: MockProvider, reconciler: Reconciler, ended: bool
) -> None:
    """Its first try was answered 500; whether the run of that has ended meanwhile or is still under way."""
    name = await unanswered(parts, engine, config={})
    await reconciler.reconcile(name)
    identity = ResourceIdentity(namespace="default", uid="uid", generation=3)
    await submit(parts, name, Bind(identity=identity, recorded_generation=7))
    if ended:
        engine.finish(f"tenant-{name}-plan", Fail(message="not now"))
        await reconciler.reconcile(name)
    created = await submit(parts, name, Create(compute_config={}))
    assert (created.stalled, created.generation, created.unanswered) == (None, 8, False)
    if not ended:
        engine.finish(f"tenant-{name}-plan", Succeed(output={}))
        await reconciler.reconcile(name)
    assert engine.requests[-1].execution_id == f"tenant-{name}-plan-2"
    assert b'"generation":8' in engine.requests[-1].payload
