"""The rules of design.md §4 one by one: each has a test that fails without it. Real Postgres, the scripted engine.

The reconciler is stepped by hand where the order of events is the point, and runs freely where it is not.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from landlord.database.statement import Statement
from landlord.installation import Installation, assemble
from landlord.settings import Settings
from landlord.tenants import service
from landlord.tenants.commands import (
    Bind,
    Create,
    Delete,
    Edit,
    Patch,
    Remove,
    Replace,
    Request,
    ResourceIdentity,
    Retry,
)
from landlord.tenants.decide import decide
from landlord.tenants.errors import Conflict, Exists, Gone, TriggerFailed
from landlord.tenants.model import Door, Execution, Stalled, Status, Tenant
from landlord.tenants.reconcile import Reconciler
from landlord.tenants.runs import Policy
from landlord.workflow.client import WorkflowClient
from landlord.workflow.provider import ExecutionState, WorkflowFailure, WorkflowRequest
from landlord.workflow.providers.mock import Fail, MockProvider, Stay, Succeed

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def settings(test_database_url: str) -> Settings:
    return Settings(
        database_url=SecretStr(test_database_url),
        compute_providers=("mock",),
        retry_backoff=0.02,
        workflow_trigger_timeout=0.3,
        execution_deadline=3600,
    )


@pytest.fixture
def engine() -> MockProvider:
    return MockProvider()


@pytest.fixture
async def parts(settings: Settings, engine: MockProvider) -> AsyncIterator[Installation]:
    client = WorkflowClient(engine, trigger_timeout=settings.workflow_trigger_timeout)
    async with client, assemble(settings, client=client) as installation:
        yield installation


@pytest.fixture
def reconciler(parts: Installation) -> Reconciler:
    return parts.reconciler()


@asynccontextmanager
async def reconciling(parts: Installation) -> AsyncIterator[None]:
    task = asyncio.create_task(parts.reconciler().run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def unique() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


async def submit(parts: Installation, tenant_id: str, command: Any) -> Tenant:
    answer = await parts.service.submit(Request(tenant_id=tenant_id, command=command, who="tester", door=Door.API))
    assert answer.snapshot.tenant is not None
    return answer.snapshot.tenant


async def tenant(parts: Installation, tenant_id: str) -> Tenant:
    found = (await parts.repository.load(tenant_id)).tenant
    assert found is not None
    return found


async def executions(parts: Installation, tenant_id: str) -> dict[str, Execution]:
    """By their ids without the tenant, oldest first."""
    found = await parts.repository.executions(tenant_id, before=2**62, limit=1000)
    return {e.execution_id.removeprefix(f"tenant-{tenant_id}-"): e for _, e in reversed(found)}


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await check():
            await asyncio.sleep(0.01)


async def in_status(parts: Installation, tenant_id: str, status: Status) -> Tenant:
    async def reached() -> bool:
        return (await tenant(parts, tenant_id)).status is status

    await until(reached)
    return await tenant(parts, tenant_id)


async def set_deadline(parts: Installation, *, seconds: int) -> None:
    """Of what is under way, from now."""
    await parts.database.execute(
        Statement("update executions set deadline = now() + make_interval(secs => :seconds) where ended_at is null"),
        seconds=seconds,
    )


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
    assert [r.execution_id for r in engine.requests if "update" in r.execution_id] == [f"tenant-{name}-update"]
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
    assert created.workflow_execution_id == f"tenant-{name}-plan-2"
    assert created.attempts == 0
    runs = await executions(parts, name)
    assert runs["plan"].error is not None
    assert runs["plan"].error["code"] == "NotOurs"
    assert engine.cancels == []


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
    name = unique()
    engine.script(f"tenant-{name}-plan", Succeed(output={}))
    engine.default = Stay(heeds_cancel=False)
    await submit(parts, name, Create(compute_config={}))
    await asyncio.sleep(0.01)
    await reconciler.reconcile(name)
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
    name = unique()
    engine.script(f"tenant-{name}-plan", Succeed(output={}))
    engine.default = Stay(heeds_cancel=False)
    await submit(parts, name, Create(compute_config={}))
    await asyncio.sleep(0.01)
    await reconciler.reconcile(name)
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
    name = unique()
    engine.lose_triggers(1)
    engine.default = Stay()
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Create(compute_config={"v": 1}))
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


async def test_a_delete_never_ends_failed(parts: Installation, engine: MockProvider) -> None:
    name = unique()
    async with reconciling(parts):
        engine.default = Succeed(output={})
        await submit(parts, name, Create(compute_config={}))
        await in_status(parts, name, Status.READY)
        engine.default = Fail(message="cannot remove", permanent=True)
        await submit(parts, name, Delete())

        async def stalled() -> bool:
            return (await tenant(parts, name)).stalled is Stalled.DELETE_FAILING

        await until(stalled)
        found = await tenant(parts, name)
        assert found.status is Status.DELETING
        assert "cannot remove" in found.status_message
        with pytest.raises(Conflict):
            await submit(parts, name, Replace(compute_config={}))
        engine.default = Succeed(output={})
        await submit(parts, name, Retry())
        await in_status(parts, name, Status.DELETED)
    with pytest.raises(Gone):
        await submit(parts, name, Delete())


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


async def test_a_delete_goes_on_until_what_is_newer_than_the_record_is_gone_too(
    parts: Installation, engine: MockProvider
) -> None:
    """A restored record does not know what its successor made."""
    name = unique()
    engine.default = Succeed(output={})
    async with reconciling(parts):
        await submit(parts, name, Create(compute_config={}))
        await in_status(parts, name, Status.READY)
        refusal = Fail(code="NewerGeneration", permanent=True, details={"existing_generation": 5})
        engine.script(f"tenant-{name}-delete", refusal)
        await submit(parts, name, Delete())
        await in_status(parts, name, Status.DELETED)
    assert b'"generation":5' in engine.requests[-1].payload
    assert engine.requests[-1].execution_id == f"tenant-{name}-delete-2"


async def test_a_resource_that_goes_tells_the_generation_it_has_seen(parts: Installation, engine: MockProvider) -> None:
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    engine.finish(f"tenant-{name}-plan", Succeed(output={}))
    identity = ResourceIdentity(namespace="default", uid="uid", generation=3)
    gone = await submit(parts, name, Remove(identity=identity, retain=False, recorded_generation=7))
    assert (gone.status, gone.generation) == (Status.DELETING, 7)


async def test_a_tenant_that_is_being_deleted_is_neither_created_nor_replaced(
    parts: Installation, engine: MockProvider
) -> None:
    name = unique()
    engine.default = Stay()
    engine.lose_triggers(1)
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Create(compute_config={"v": 1}))
    engine.unavailable()
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Delete())
    engine.restore()
    with pytest.raises(Exists):
        await submit(parts, name, Create(compute_config={"v": 1}))
    with pytest.raises(Conflict):
        await submit(parts, name, Replace(compute_config={"v": 1}))
    with pytest.raises(Conflict):
        await submit(parts, name, Patch(merge={"compute_config": {"v": 1}}))
    assert (await tenant(parts, name)).status is Status.DELETING


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CONTENTION", 0.2)


@asynccontextmanager
async def writing_held_up(parts: Installation, engine: MockProvider) -> AsyncIterator[str]:
    """A tenant whose row somebody has locked."""
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={"v": 1}))
    async with await parts.database.open() as other, other.transaction():
        await other.execute("select from tenants where id = %s for update", [name])
        yield name


@pytest.mark.usefixtures("impatient")
async def test_nobody_is_told_that_nothing_was_stored_while_it_is_being_written(
    parts: Installation, engine: MockProvider
) -> None:
    """A slow database: the request is in, and is answered so, however long it took."""
    async with writing_held_up(parts, engine) as name:
        change = asyncio.create_task(submit(parts, name, Replace(compute_config={"v": 2})))
        await asyncio.sleep(0.6)
        assert not change.done()
    assert (await change).generation == 2


@pytest.mark.usefixtures("impatient")
async def test_who_waits_for_others_only_is_told_in_time(parts: Installation, engine: MockProvider) -> None:
    async with writing_held_up(parts, engine) as name:
        first = asyncio.create_task(submit(parts, name, Replace(compute_config={"v": 2})))
        await asyncio.sleep(0.05)
        with pytest.raises(Conflict, match="too many at once"):
            await submit(parts, name, Replace(compute_config={"v": 3}))
    assert (await first).compute_config == {"v": 2}


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
