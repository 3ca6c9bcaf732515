"""Paused: nothing new runs but a delete."""

from __future__ import annotations

import pytest
from integration.rules.harness import executions, submit, tenant, unanswered, unique

from landlord.installation import Installation
from landlord.tenants.commands import Create, Delete, Edit, Patch, Replace, ResourceIdentity, Retry
from landlord.tenants.errors import Conflict
from landlord.tenants.model import Status, Tenant
from landlord.tenants.reconcile import Reconciler
from landlord.workflow.providers.mock import Fail, MockProvider, Stay, Succeed

pytestmark = pytest.mark.timeout(60)


async def test_pausing_holds_back_everything_but_delete(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={"v": 1}))
    await submit(parts, name, Patch(merge={"paused": True}))
    await submit(parts, name, Replace(compute_config={"v": 2}))
    engine.finish(f"tenant-{name}-plan", Succeed(output={}))
    await reconciler.reconcile(name)
    held = await tenant(parts, name)
    assert (held.status, held.workflow_execution_id, held.paused) == (Status.PLANNING, None, True)
    assert list(await executions(parts, name)) == ["plan"]
    deleting = await submit(parts, name, Delete())
    assert deleting.workflow_execution_id == f"tenant-{name}-delete"
    assert (await executions(parts, name))["delete"].sent_at is not None


async def test_what_failed_while_it_was_paused_can_be_unpaused_and_retried(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    await submit(parts, name, Patch(merge={"paused": True}))
    engine.finish(f"tenant-{name}-plan", Fail(message="never", permanent=True))
    await reconciler.reconcile(name)
    with pytest.raises(Conflict, match="is paused"):
        await submit(parts, name, Retry())
    unpaused = await submit(parts, name, Patch(merge={"paused": False}))
    assert (unpaused.status, unpaused.paused) == (Status.FAILED, False)
    retried = await submit(parts, name, Retry())
    assert (retried.status, retried.workflow_execution_id) == (Status.PLANNING, f"tenant-{name}-plan-2")


@pytest.mark.parametrize("v", [1, 2])
async def test_a_post_is_no_retry_of_what_is_paused(
    parts: Installation, engine: MockProvider, reconciler: Reconciler, v: int
) -> None:
    """The one that repeats or corrects a POST that was answered 500: nothing would run, now or once it is unpaused."""
    name = await unanswered(parts, engine, config={"v": 1})
    await submit(parts, name, Patch(merge={"paused": True}))
    await reconciler.reconcile(name)
    engine.finish(f"tenant-{name}-plan", Fail(message="never", permanent=True))
    await reconciler.reconcile(name)
    with pytest.raises(Conflict, match="is paused"):
        await submit(parts, name, Create(compute_config={"v": v}))
    await submit(parts, name, Patch(merge={"paused": False}))
    retried = await submit(parts, name, Create(compute_config={"v": v}))
    assert (retried.status, retried.workflow_execution_id) == (Status.PLANNING, f"tenant-{name}-plan-2")


async def test_a_correction_made_while_paused_is_the_retry_once_unpaused(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """By kubectl, where an edit of a failed tenant is its retry."""
    name = unique()
    engine.default = Stay()

    async def edit(number: int, config: dict[str, int], *, paused: bool) -> Tenant:
        identity = ResourceIdentity(namespace="default", uid="uid", generation=number)
        return await submit(parts, name, Edit(identity=identity, compute_config=config, paused=paused))

    await edit(1, {"v": 1}, paused=False)
    engine.finish(f"tenant-{name}-plan", Fail(message="never", permanent=True))
    await reconciler.reconcile(name)
    assert (await edit(2, {"v": 2}, paused=True)).status is Status.FAILED
    unpaused = await edit(3, {"v": 2}, paused=False)
    assert (unpaused.status, unpaused.generation) == (Status.PLANNING, 2)
    assert b'"v":2' in (engine.requests[-1].payload)
