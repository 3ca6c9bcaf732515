"""Rule 6: an engine that is away, or no longer configured, fails nobody; nor does a statement Postgres refuses."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from integration.rules.harness import executions, in_status, reconciling, submit, tenant, unique

from landlord.database.statement import Statement
from landlord.installation import Installation
from landlord.tenants.commands import Create, Delete, Patch, Replace
from landlord.tenants.decide import decide
from landlord.tenants.errors import TriggerFailed
from landlord.tenants.model import Stalled, Status
from landlord.tenants.reconcile import Reconciler
from landlord.tenants.runs import Policy
from landlord.workflow.providers.mock import Fail, MockProvider, Stay, Succeed

pytestmark = pytest.mark.timeout(60)


async def test_outages_fail_nobody(parts: Installation, engine: MockProvider) -> None:
    """Rule 6: away for longer than all attempts would take; all converge when it is back, one run each."""
    names = [unique() for _ in range(20)]
    engine.default = Succeed(output={})
    engine.unavailable()
    async with reconciling(parts):
        for name in names:
            with pytest.raises(TriggerFailed) as failed:
                await submit(parts, name, Create(compute_config={}))
            assert failed.value.tenant.workflow_execution_id is None
            assert failed.value.tenant.status is Status.PLANNING
        await asyncio.sleep(1)
        assert {(await tenant(parts, name)).attempts for name in names} == {0}
        engine.restore()
        for name in names:
            await in_status(parts, name, Status.READY)
    for name in names:
        assert list(await executions(parts, name)) == ["plan", "provision"]


async def test_a_run_of_an_engine_that_is_no_longer_configured_is_started_on_no_other(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))

    async def moved_to(provider: str) -> None:
        await parts.database.execute(Statement("update executions set provider = :provider"), provider=provider)

    await moved_to("another")
    sent = len(engine.requests)
    await reconciler.reconcile(name)
    await reconciler.reconcile(name)
    stalled = await tenant(parts, name)
    assert stalled.stalled is Stalled.ENGINE_NOT_CONFIGURED
    assert "another" in stalled.status_message
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Delete())
    assert len(engine.requests) == sent
    assert engine.cancels == []
    await moved_to("mock")
    engine.default = Succeed(output={})
    async with reconciling(parts):
        await in_status(parts, name, Status.DELETED)


async def test_a_tenant_whose_engine_comes_back_is_looked_at_again(parts: Installation, engine: MockProvider) -> None:
    """Its run may have ended meanwhile, and nobody heard of it."""
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    another = Policy(installation="default", provider="another", complete=lambda _, config: dict(config))
    decision = decide(await parts.repository.load(name), word=None, policy=another)
    assert decision.change is not None
    assert await parts.repository.commit(decision.change)
    stalled = await tenant(parts, name)
    assert (stalled.stalled, stalled.next_check_at is None) == (Stalled.ENGINE_NOT_CONFIGURED, False)
    await submit(parts, name, Replace(compute_config={"v": 2}))
    assert (await tenant(parts, name)).next_check_at is not None


async def test_a_run_that_waited_is_sent_on_the_engine_there_is_by_then(
    parts: Installation, engine: MockProvider, reconciler: Reconciler
) -> None:
    """Pause, let runs end, configure another engine, unpause: as docs/concepts.md says."""
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    engine.finish(f"tenant-{name}-plan", Fail(message="not now"))
    await reconciler.reconcile(name)
    await submit(parts, name, Patch(merge={"paused": True}))
    await parts.database.execute(Statement("update executions set provider = 'former' where sent_at is null"))
    await submit(parts, name, Patch(merge={"paused": False}))
    await reconciler.reconcile(name)
    runs = await executions(parts, name)
    assert (runs["plan-2"].provider, runs["plan-2"].sent_at is None) == ("mock", False)
    assert engine.requests[-1].execution_id == f"tenant-{name}-plan-2"


async def test_a_statement_that_postgres_refuses_does_not_end_the_reconciler(
    parts: Installation, engine: MockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[dict[str, float]] = []

    async def refused(**asked: float) -> None:
        tried.append(asked)
        raise psycopg.errors.DatetimeFieldOverflow

    monkeypatch.setattr(parts.repository, "purge", refused)
    name = unique()
    engine.default = Succeed(output={})
    async with reconciling(parts):
        await submit(parts, name, Create(compute_config={}))
        await in_status(parts, name, Status.READY)
    assert len(tried) == 1
