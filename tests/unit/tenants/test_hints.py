"""How often it is looked for an end that was announced."""

from __future__ import annotations

from datetime import UTC, datetime

from landlord.tenants.hints import PAUSES, Announced, Hint
from landlord.tenants.model import Action, Door, Execution, Snapshot
from landlord.workflow.provider import ExecutionInfo, ExecutionState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HINT = Hint(tenant_id="a", execution_id="tenant-a-plan")


def snapshot(action: Action = Action.PLAN, *, tenant: str = "a") -> Snapshot:
    sent = Execution(
        execution_id=f"tenant-{tenant}-{action}",
        tenant_id=tenant,
        incarnation="i",
        generation=1,
        action=action,
        n=1,
        provider="mock",
        source=Door.API,
        sent_at=NOW,
        created_at=NOW,
    )
    return Snapshot(id=tenant, now=NOW, executions=(sent,))


def word(state: ExecutionState) -> ExecutionInfo:
    return ExecutionInfo(execution_id="tenant-a-plan", state=state, digest=None)


def test_again_and_again_for_a_second_and_not_for_ever() -> None:
    announced = Announced()
    announced.add(HINT)
    running = word(ExecutionState.RUNNING)
    assert [announced.pause(snapshot(), running) for _ in PAUSES] == list(PAUSES)
    assert announced.pause(snapshot(), running) is None
    assert announced.pause(snapshot(), running) is None
    announced.add(HINT)
    assert announced.pause(snapshot(), None) == PAUSES[0]
    announced.add(HINT)
    assert announced.pause(snapshot(), running) == PAUSES[0]


def test_not_once_the_engine_tells_it() -> None:
    announced = Announced()
    announced.add(HINT)
    assert announced.pause(snapshot(), word(ExecutionState.SUCCEEDED)) is None
    assert announced.pause(snapshot(), word(ExecutionState.RUNNING)) is None


def test_only_of_the_run_that_was_named() -> None:
    running = word(ExecutionState.RUNNING)
    for found in (snapshot(Action.PROVISION), Snapshot(id="a", now=NOW)):
        announced = Announced()
        announced.add(HINT)
        assert announced.pause(snapshot(tenant="b"), running) is None
        assert announced.pause(found, running) is None
        assert announced.pause(snapshot(), running) is None
