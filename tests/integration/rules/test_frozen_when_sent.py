"""Rule 1: what is sent under an id is never changed, whoever sends it again."""

from __future__ import annotations

import pytest
from integration.rules.harness import executions, in_status, reconciling, submit, tenant, unique

from landlord.installation import Installation
from landlord.tenants.commands import Create, Delete, Replace
from landlord.tenants.errors import TriggerFailed
from landlord.tenants.model import Status
from landlord.tenants.reconcile import Reconciler
from landlord.workflow.provider import ExecutionState
from landlord.workflow.providers.mock import MockProvider, Stay, Succeed

pytestmark = pytest.mark.timeout(60)


async def test_put_after_a_put_that_timed_out_but_started(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Rules 1 and 2: A's bytes stay frozen, A is cancelled and waited for, B runs after it under the next id."""
    name = unique()
    async with reconciling(parts):
        await submit(parts, name, Create(compute_config={"v": 0}))
        await in_status(parts, name, Status.READY)
    engine.default = Stay()
    engine.leave_triggers_unanswered(1)
    with pytest.raises(TriggerFailed) as failed:
        await submit(parts, name, Replace(compute_config={"v": "A"}))
    assert failed.value.timeout
    assert (await tenant(parts, name)).workflow_execution_id is None
    after_b = await submit(parts, name, Replace(compute_config={"v": "B"}))
    assert after_b.workflow_execution_id == f"tenant-{name}-update-2"
    assert (f"tenant-{name}-update", False) in engine.cancels
    asked = {(r.execution_id, r.payload) for r in engine.requests if "update" in r.execution_id}
    assert [execution_id for execution_id, _ in asked] == [f"tenant-{name}-update"]
    engine.default = Succeed(output={})
    await reconciler.reconcile(name)
    await reconciler.reconcile(name)
    ready = await in_status(parts, name, Status.READY)
    assert ready.observed_generation == 3
    runs = await executions(parts, name)
    assert runs["update"].state is ExecutionState.CANCELLED
    assert b'"v":"A"' in (runs["update"].payload or b"")
    assert b'"v":"B"' in (runs["update-2"].payload or b"")
    assert runs["update"].ended_at is not None
    assert runs["update-2"].sent_at is not None
    assert runs["update"].ended_at <= runs["update-2"].sent_at


async def test_whoever_sends_again_sends_the_frozen_bytes(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Rule 1: a spec that changes after a lost trigger does not change what is sent under that id."""
    name = unique()
    engine.lose_triggers(1)
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Create(compute_config={"v": 1}))
    frozen = (await executions(parts, name))["plan"].payload
    engine.default = Stay()
    await submit(parts, name, Replace(compute_config={"v": 2}))
    await reconciler.reconcile(name)
    assert {r.payload for r in engine.requests if r.execution_id == f"tenant-{name}-plan"} == {frozen}


async def test_a_waiting_run_is_rewritten_in_place_and_closed_unsent_by_delete(
    parts: Installation, engine: MockProvider
) -> None:
    name = unique()
    engine.leave_triggers_unanswered(1)
    engine.default = Stay(heeds_cancel=False)
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Create(compute_config={"v": 1}))
    second = await submit(parts, name, Replace(compute_config={"v": 2}))
    third = await submit(parts, name, Replace(compute_config={"v": 3}))
    assert second.workflow_execution_id == third.workflow_execution_id == f"tenant-{name}-plan-2"
    assert (await executions(parts, name))["plan-2"].generation == 3
    deleted = await submit(parts, name, Delete())
    assert deleted.workflow_execution_id == f"tenant-{name}-delete"
    runs = await executions(parts, name)
    assert runs["plan-2"].state is ExecutionState.CANCELLED
    assert runs["plan-2"].sent_at is None
    assert runs["delete"].sent_at is None, "one at a time: the plan has not ended yet"
