"""Rules 3 and 4: runs that the engine has forgotten, and ids that it knows from somebody else."""

from __future__ import annotations

import pytest
from integration.rules.harness import executions, submit, tenant, unique

from landlord.installation import Installation
from landlord.tenants.commands import Create, Delete, Replace
from landlord.tenants.errors import TriggerFailed
from landlord.tenants.reconcile import Reconciler
from landlord.workflow.provider import WorkflowRequest
from landlord.workflow.providers.mock import MockProvider, Stay, Succeed

pytestmark = pytest.mark.timeout(60)


async def test_a_forgotten_run_is_sent_again_and_the_trail_says_so(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Rule 3: the same id, the same bytes, and a line in the trail because it had been seen before."""
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    await reconciler.reconcile(name)
    engine.forget(f"tenant-{name}-plan")
    await reconciler.reconcile(name)
    sent = [r for r in engine.requests if r.execution_id == f"tenant-{name}-plan"]
    assert len(sent) == 2
    assert sent[0].payload == sent[1].payload
    events = [line.event for _, line in await parts.repository.audit(name, before=2**62, limit=10)]
    assert "engine forgot the run" in events
    assert (await tenant(parts, name)).attempts == 0


async def test_an_id_that_is_taken_by_somebody_else_is_left_alone(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Rule 4 (a restored database): another digest is not ours, in any state; the next n runs, no attempt is spent."""
    name = unique()
    foreign = WorkflowRequest(execution_id=f"tenant-{name}-plan", payload=b'{"somebody":"else"}')
    engine.default = Succeed(output={})
    await engine.trigger(foreign, timeout=1)
    engine.default = Stay()
    created = await submit(parts, name, Create(compute_config={}))
    assert created.workflow_execution_id == engine.requests[-1].execution_id == f"tenant-{name}-plan-2"
    assert created.attempts == 0
    runs = await executions(parts, name)
    assert runs["plan"].error is not None
    assert runs["plan"].error["code"] == "NotOurs"
    assert engine.cancels == []


@pytest.mark.parametrize(("command", "following"), [(Delete(), "delete"), (Replace(compute_config={"v": 2}), "plan-2")])
async def test_an_id_that_is_taken_by_somebody_else_is_not_cancelled(
    parts: Installation, engine: MockProvider, command: Delete | Replace, following: str
) -> None:
    """Rule 4: nobody has seen yet whose run it is, as the engine could not be asked."""
    name = unique()
    engine.default = Stay()
    await engine.trigger(WorkflowRequest(execution_id=f"tenant-{name}-plan", payload=b'{"else":1}'), timeout=1)
    engine.unavailable(times=1)
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Create(compute_config={"v": 1}))
    await submit(parts, name, command)
    assert engine.cancels == []
    assert engine.requests[-1].execution_id == f"tenant-{name}-{following}", "at once"
    runs = await executions(parts, name)
    assert runs["plan"].error is not None
    assert runs["plan"].error["code"] == "NotOurs"
