"""Runs in which nothing happens any more: overdue, or paused by their engine."""

from __future__ import annotations

import pytest
from integration.rules.harness import set_deadline, submit, tenant, unique

from landlord.installation import Installation
from landlord.tenants.commands import Create
from landlord.tenants.model import Stalled, Status
from landlord.tenants.reconcile import Reconciler
from landlord.workflow.provider import ExecutionState
from landlord.workflow.providers.mock import Fail, MockProvider, Stay, Succeed

pytestmark = pytest.mark.timeout(60)


async def test_an_overdue_run_spends_no_attempt(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    for round_ in range(2, 9):  # more often than there are attempts
        await set_deadline(parts, seconds=0)
        await reconciler.reconcile(name)
        await reconciler.reconcile(name)
        found = await tenant(parts, name)
        assert found.status is Status.PLANNING
        assert found.attempts == 0
        assert found.workflow_execution_id == f"tenant-{name}-plan-{round_}"


async def test_a_run_its_engine_has_paused_is_cancelled_and_run_anew(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    name = unique()
    engine.script(f"tenant-{name}-plan", Stay(state=ExecutionState.PAUSED))
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    await reconciler.reconcile(name)
    found = await tenant(parts, name)
    assert found.stalled is Stalled.ENGINE_PAUSED
    await reconciler.reconcile(name)
    found = await tenant(parts, name)
    assert (found.stalled, found.attempts) == (Stalled.ENGINE_PAUSED, 0), "that it was started anew is no progress"
    assert found.workflow_execution_id == f"tenant-{name}-plan-2"
    await reconciler.reconcile(name)
    assert (await tenant(parts, name)).stalled is None, "it is running"


@pytest.mark.parametrize("end", [Succeed(output={}), Fail(code="Broken", message="no")])
async def test_stalled_until_something_moves(
    parts: Installation, engine: MockProvider, reconciler: Reconciler, end: Succeed | Fail
) -> None:
    """Workers away for one deadline after the other: each new run waits like the last, and the status says so."""
    name = unique()
    engine.default = Stay(state=ExecutionState.PENDING)
    await submit(parts, name, Create(compute_config={}))
    for _ in range(3):
        await set_deadline(parts, seconds=0)
        for _ in range(4):
            await reconciler.reconcile(name)
            assert (await tenant(parts, name)).stalled is Stalled.DEADLINE_EXCEEDED
    engine.finish((await tenant(parts, name)).workflow_execution_id or "", end)
    await reconciler.reconcile(name)
    assert (await tenant(parts, name)).stalled is None


async def test_a_deadline_is_not_waited_for_longer_than_it_takes(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Nobody pushes that it has passed."""
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    await reconciler.reconcile(name)
    await set_deadline(parts, seconds=5)
    await reconciler.reconcile(name)
    found = await parts.repository.load(name)
    assert found.tenant is not None
    assert found.tenant.next_check_at is not None
    assert found.sent is not None
    assert found.sent.deadline is not None
    assert abs((found.tenant.next_check_at - found.sent.deadline).total_seconds()) < 1
