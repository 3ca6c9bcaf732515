"""Rule 5: an outcome counts for its own life, action and generation."""

from __future__ import annotations

import asyncio

import pytest
from integration.rules.harness import executions, in_status, reconciling, set_deadline, submit, tenant, unique

from landlord.installation import Installation
from landlord.tenants.commands import Create, Delete, Replace
from landlord.tenants.model import Stalled, Status
from landlord.tenants.reconcile import Reconciler
from landlord.workflow.provider import ExecutionState
from landlord.workflow.providers.mock import Fail, MockProvider, Stay, Succeed

pytestmark = pytest.mark.timeout(60)


async def provisioning(parts: Installation, engine: MockProvider, reconciler: Reconciler) -> str:
    """A tenant whose provision runs, whatever is asked of it."""
    name = unique()
    engine.script(f"tenant-{name}-plan", Succeed(output={}))
    engine.default = Stay(heeds_cancel=False)
    await submit(parts, name, Create(compute_config={}))
    await asyncio.sleep(0.01)
    await reconciler.reconcile(name)
    return name


async def test_a_failure_of_an_older_generation_counts_for_nothing(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Rule 5: the newer generation follows with fresh attempts."""
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={"v": 1}))
    await reconciler.reconcile(name)
    await submit(parts, name, Replace(compute_config={"v": 2}))
    engine.finish(f"tenant-{name}-plan", Fail(permanent=True))
    await reconciler.reconcile(name)
    found = await tenant(parts, name)
    assert found.status is Status.PLANNING
    assert found.attempts == 0
    assert found.workflow_execution_id == f"tenant-{name}-plan-2"
    assert (await executions(parts, name))["plan-2"].generation == 2


async def test_success_counts_for_the_generation_it_ran(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Rule 5: provisioned for generation 1 while 2 is wanted: an update follows, without passing ready."""
    name = unique()
    engine.script(f"tenant-{name}-plan", Succeed(output={}))
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={"v": 1}))
    await asyncio.sleep(0.01)
    await reconciler.reconcile(name)
    assert (await tenant(parts, name)).status is Status.PROVISIONING
    await reconciler.reconcile(name)
    await submit(parts, name, Replace(compute_config={"v": 2}))
    engine.finish(f"tenant-{name}-provision", Succeed(output={"health": "healthy"}))
    await reconciler.reconcile(name)
    found = await tenant(parts, name)
    assert (found.status, found.observed_generation, found.generation) == (Status.UPDATING, 1, 2)
    assert found.workflow_execution_id == f"tenant-{name}-update"


async def test_delete_while_a_provision_succeeds(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Rule 5: the outcome is not of the row's action any more and moves nothing."""
    name = await provisioning(parts, engine, reconciler)
    await submit(parts, name, Delete())
    engine.finish(f"tenant-{name}-provision", Succeed(output={}))
    await reconciler.reconcile(name)
    found = await tenant(parts, name)
    assert found.status is Status.DELETING
    assert found.observed_generation is None
    assert (await executions(parts, name))["delete"].sent_at is not None


async def test_a_cancelled_run_that_succeeds_all_the_same_counts(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Rule 5: its generation is the row's, so the waiting successor for the same is closed unsent."""
    name = await provisioning(parts, engine, reconciler)
    await set_deadline(parts, seconds=0)
    await reconciler.reconcile(name)
    assert (await tenant(parts, name)).stalled is Stalled.DEADLINE_EXCEEDED
    engine.finish(f"tenant-{name}-provision", Succeed(output={"health": "healthy"}))
    await reconciler.reconcile(name)
    found = await tenant(parts, name)
    assert (found.status, found.stalled) == (Status.READY, None)
    runs = await executions(parts, name)
    assert runs["provision-2"].sent_at is None
    assert runs["provision-2"].state is ExecutionState.CANCELLED


async def test_ids_and_generations_go_on_over_lives(parts: Installation, engine: MockProvider) -> None:
    name = unique()
    engine.default = Succeed(output={})
    async with reconciling(parts):
        await submit(parts, name, Create(compute_config={}))
        first = await in_status(parts, name, Status.READY)
        await submit(parts, name, Delete())
        await in_status(parts, name, Status.DELETED)
        again = await submit(parts, name, Create(compute_config={}))
    assert again.workflow_execution_id == f"tenant-{name}-plan-2"
    assert again.generation == 2
    assert again.incarnation != first.incarnation


async def test_a_worker_of_an_earlier_life_moves_nothing(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Rule 5: the run of an incarnation that is gone cannot say anything about the next one."""
    name = unique()
    engine.default = Succeed(output={})
    async with reconciling(parts):
        await submit(parts, name, Create(compute_config={}))
        await in_status(parts, name, Status.READY)
        await submit(parts, name, Delete())
        await in_status(parts, name, Status.DELETED)
    engine.default = Stay()
    created = await submit(parts, name, Create(compute_config={}))
    engine.forget(f"tenant-{name}-plan")
    await reconciler.reconcile(name)
    found = await tenant(parts, name)
    assert found.workflow_execution_id == created.workflow_execution_id
    assert found.status is Status.PLANNING
