"""Rule 2: the next run is sent when the one before is known to have ended, which may be asked for."""

from __future__ import annotations

import pytest
from integration.rules.harness import submit, tenant, unique

from landlord.database.statement import Statement
from landlord.installation import Installation
from landlord.tenants.commands import Create, Delete, Replace
from landlord.tenants.model import Status
from landlord.tenants.reconcile import Reconciler
from landlord.workflow.provider import ExecutionState, WorkflowFailure
from landlord.workflow.providers.mock import MockProvider, Stay, Succeed

pytestmark = pytest.mark.timeout(60)


async def test_a_cancel_nobody_obeys_is_forced_after_a_minute(
    parts: Installation, engine: MockProvider, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 2: the wish is committed first; by force only when a minute has passed."""
    name = unique()
    engine.default = Stay(heeds_cancel=False)
    await submit(parts, name, Create(compute_config={}))
    await submit(parts, name, Delete())
    await reconciler.reconcile(name)
    assert all(not force for _, force in engine.cancels)
    await parts.database.execute(
        Statement(
            "update executions set cancel_requested_at = now() - interval '61 s' where cancel_requested_at is not null"
        )
    )
    engine.default = Succeed(output={})
    await reconciler.reconcile(name)
    assert (f"tenant-{name}-plan", True) in engine.cancels
    await reconciler.reconcile(name)
    await reconciler.reconcile(name)
    assert (await tenant(parts, name)).status is Status.DELETED


async def test_a_newer_spec_does_not_wait_for_a_degraded_run(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    name = unique()
    failing = Stay(state=ExecutionState.RETRYING, failure=WorkflowFailure(code="X", message="x"), attempt=3)
    engine.script(f"tenant-{name}-plan", failing)
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={"v": 1}))
    await reconciler.reconcile(name)
    changed = await submit(parts, name, Replace(compute_config={"v": 2}))
    assert changed.workflow_execution_id == f"tenant-{name}-plan-2"
    assert (f"tenant-{name}-plan", False) in engine.cancels
