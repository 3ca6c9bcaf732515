"""Order of writes, 4: a run that the engine calls invalid when it is asked to start it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from integration.rules.harness import executions, submit, tenant, unique

from landlord.installation import Installation
from landlord.tenants.commands import Create, Delete, Replace, Retry
from landlord.tenants.errors import TriggerFailed, TriggerRefused
from landlord.tenants.model import Stalled, Status
from landlord.tenants.reconcile import Reconciler
from landlord.workflow.provider import ExecutionState, InvalidRequest, TriggerResult, WorkflowRequest
from landlord.workflow.providers.mock import MockProvider, Stay

pytestmark = pytest.mark.timeout(60)


class Refusing(MockProvider):
    """Takes no first run of the action ``refused``. ``meanwhile`` happens once, before somebody hears of it."""

    refused = "plan"
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        if not request.execution_id.endswith(f"-{self.refused}"):
            return await super().trigger(request, timeout=timeout)
        self._reach()
        if (happens := self.meanwhile) is not None:
            self.meanwhile = None
            await happens()
        raise InvalidRequest("mock: the payload is not taken")


@pytest.fixture
def engine() -> Refusing:
    engine = Refusing()
    engine.default = Stay()
    return engine


async def test_only_the_run_that_was_refused_is_given_up(
    parts: Installation, engine: Refusing, reconciler: Reconciler
) -> None:
    """Two ask for one run at once; before the second hears of it, the tenant has been corrected."""
    name = unique()
    engine.unavailable(times=1)
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Create(compute_config={"v": 1}))

    async def corrected() -> None:
        await parts.reconciler().reconcile(name)
        assert (await tenant(parts, name)).status is Status.FAILED
        await submit(parts, name, Retry(compute_config={"v": 2}))

    engine.meanwhile = corrected
    await reconciler.reconcile(name)
    found = await tenant(parts, name)
    assert (found.status, found.workflow_execution_id) == (Status.PLANNING, f"tenant-{name}-plan-2")
    runs = await executions(parts, name)
    assert (runs["plan"].state, runs["plan-2"].open) == (ExecutionState.FAILED, True)


@pytest.mark.parametrize(("command", "following"), [(Delete(), "delete"), (Replace(compute_config={"v": 2}), "plan-2")])
@pytest.mark.parametrize("heard_by", ["api", "controller"])
async def test_what_stands_behind_a_run_that_was_refused_goes_on(
    parts: Installation,
    engine: Refusing,
    reconciler: Reconciler,
    command: Delete | Replace,
    following: str,
    heard_by: str,
) -> None:
    """Only the run before it was refused, which has to be asked for once more before it can be cancelled."""
    name = unique()
    engine.unavailable(times=1 if heard_by == "api" else 2)
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Create(compute_config={"v": 1}))
    if heard_by == "api":
        await submit(parts, name, command)
        assert [request.execution_id for request in engine.requests] == [f"tenant-{name}-{following}"], "at once"
    else:
        with pytest.raises(TriggerFailed):
            await submit(parts, name, command)
    for _ in range(2):
        await reconciler.reconcile(name)
    runs = await executions(parts, name)
    assert [(run, found.state) for run, found in runs.items()] == [
        ("plan", ExecutionState.FAILED),
        (following, ExecutionState.RUNNING),
    ]
    assert [request.execution_id for request in engine.requests] == [f"tenant-{name}-{following}"]
    found = await tenant(parts, name)
    assert (found.workflow_execution_id, found.stalled) == (f"tenant-{name}-{following}", None)


async def test_a_spec_that_came_before_the_refusal_is_run(
    parts: Installation, engine: Refusing, reconciler: Reconciler
) -> None:
    """Rule 5: a failure counts only for its own generation. Nothing waits behind a run that seemed to be in order."""
    name = unique()

    async def corrected() -> None:
        await submit(parts, name, Replace(compute_config={"v": 2}))

    engine.meanwhile = corrected
    assert (await submit(parts, name, Create(compute_config={"v": 1}))).status is Status.PLANNING
    await reconciler.reconcile(name)
    found = await tenant(parts, name)
    assert (found.status, found.workflow_execution_id) == (Status.PLANNING, f"tenant-{name}-plan-2")
    assert [b'"v":2' in request.payload for request in engine.requests] == [True]


async def test_a_delete_that_was_refused_is_retried_at_once_though_the_tenant_is_paused(
    parts: Installation, engine: Refusing
) -> None:
    """Pausing holds back no delete."""
    name = unique()
    engine.refused = "delete"
    await submit(parts, name, Create(compute_config={}, paused=True))
    with pytest.raises(TriggerRefused):
        await submit(parts, name, Delete())
    assert (await tenant(parts, name)).stalled is Stalled.DELETE_REFUSED
    retried = await submit(parts, name, Retry())
    assert (retried.stalled, retried.workflow_execution_id) == (None, f"tenant-{name}-delete-2")
    assert [request.execution_id for request in engine.requests] == [f"tenant-{name}-delete-2"]
