"""Order of writes, 4: a trigger that failed, and the request that repeats it."""

from __future__ import annotations

import pytest
from integration.rules.harness import executions, submit, tenant, unanswered, unique

from landlord.installation import Installation
from landlord.tenants.commands import Create
from landlord.tenants.errors import Exists, TriggerFailed
from landlord.tenants.reconcile import Reconciler
from landlord.workflow.providers.mock import MockProvider, Stay

pytestmark = pytest.mark.timeout(60)


async def test_a_failed_trigger_withholds_the_id_until_the_run_is_seen(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Order of writes, 4: status and head stay; the reconciler's first sight of the run restores the id."""
    name = unique()
    engine.leave_triggers_unanswered(1)
    engine.default = Stay()
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Create(compute_config={}))
    held = await tenant(parts, name)
    assert (held.workflow_execution_id, held.head, held.unanswered) == (None, f"tenant-{name}-plan", True)
    await reconciler.reconcile(name)
    assert (await tenant(parts, name)).workflow_execution_id == f"tenant-{name}-plan"


async def test_a_repeated_post_is_that_request_and_any_other_is_refused(
    parts: Installation, engine: MockProvider
) -> None:
    name = await unanswered(parts, engine, config={"v": 1})
    with pytest.raises(Exists):
        await submit(parts, name, Create(compute_config={"v": 2}))
    repeated = await submit(parts, name, Create(compute_config={"v": 1}))
    assert repeated.workflow_execution_id == f"tenant-{name}-plan"
    assert not repeated.unanswered
    with pytest.raises(Exists):
        await submit(parts, name, Create(compute_config={"v": 1}))
    assert len(await executions(parts, name)) == 1


async def test_a_repeat_that_fails_again_stays_the_same_request(parts: Installation, engine: MockProvider) -> None:
    name = unique()
    engine.unavailable()
    for _ in range(3):
        with pytest.raises(TriggerFailed):
            await submit(parts, name, Create(compute_config={"v": 1}))
    assert list(await executions(parts, name)) == ["plan"]
