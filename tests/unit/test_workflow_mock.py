"""The scripted engine does what its script says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from landlord.workflow.provider import (
    ExecutionNotFound,
    ExecutionState,
    ProviderUnavailable,
    TriggerTimeout,
    WorkflowFailure,
    WorkflowRequest,
)
from landlord.workflow.providers.mock import Fail, MockProvider, Stay, Succeed

REQUEST = WorkflowRequest(execution_id="tenant-acme-plan", payload=b"{}")
NAME = REQUEST.execution_id


@pytest.fixture
async def mock() -> AsyncIterator[MockProvider]:
    provider = MockProvider()
    yield provider
    await provider.close()


async def _state(mock: MockProvider) -> ExecutionState:
    return (await mock.get(NAME)).state


async def test_default_and_scripted_outcomes(mock: MockProvider) -> None:
    mock.script(NAME, Fail(code="Quota", permanent=True), Succeed(output={"a": 1}))
    await mock.trigger(REQUEST, timeout=1)
    info = await mock.get(NAME)
    assert info.failure == WorkflowFailure(code="Quota", message="failed as scripted", permanent=True)
    mock.forget(NAME)
    with pytest.raises(ExecutionNotFound):
        await mock.get(NAME)
    await mock.trigger(REQUEST, timeout=1)
    assert (await mock.get(NAME)).output == {"a": 1}
    mock.forget(NAME)
    await mock.trigger(REQUEST, timeout=1)
    assert await _state(mock) is ExecutionState.SUCCEEDED
    assert len(mock.requests) == 3


async def test_outcomes_after_a_while_are_pushed(mock: MockProvider) -> None:
    mock.script(NAME, Fail(state=ExecutionState.TIMED_OUT, after=0.05))
    stream = mock.completions()
    heard = asyncio.ensure_future(anext(stream))
    await mock.trigger(REQUEST, timeout=1)
    assert await _state(mock) is ExecutionState.RUNNING
    assert await heard == NAME
    assert await _state(mock) is ExecutionState.TIMED_OUT
    await stream.aclose()


@pytest.mark.parametrize("state", [ExecutionState.PENDING, ExecutionState.RETRYING, ExecutionState.PAUSED])
async def test_staying_until_cancelled_or_finished(mock: MockProvider, state: ExecutionState) -> None:
    mock.default = Stay(state=state, failure=WorkflowFailure(code="Flaky", message="again"), attempt=4)
    await mock.trigger(REQUEST, timeout=1)
    info = await mock.get(NAME)
    assert (info.state, info.attempt) == (state, 4)
    await mock.cancel(NAME, reason="enough")
    assert await _state(mock) is ExecutionState.CANCELLED
    mock.forget(NAME)
    await mock.trigger(REQUEST, timeout=1)
    mock.finish(NAME)
    assert await _state(mock) is ExecutionState.SUCCEEDED


async def test_only_force_ends_what_no_worker_answers_for(mock: MockProvider) -> None:
    mock.default = Stay(heeds_cancel=False)
    await mock.trigger(REQUEST, timeout=1)
    await mock.cancel(NAME, reason="please")
    assert await _state(mock) is ExecutionState.RUNNING
    await mock.cancel(NAME, reason="now", force=True)
    assert await _state(mock) is ExecutionState.CANCELLED
    assert mock.cancels == [(NAME, False), (NAME, True)]


async def test_faults(mock: MockProvider) -> None:
    mock.unavailable(times=1)
    with pytest.raises(ProviderUnavailable):
        await mock.ready()
    await mock.ready()
    mock.lose_triggers()
    with pytest.raises(TriggerTimeout):
        await mock.trigger(REQUEST, timeout=1)
    assert await mock.get_many([NAME]) == {}
    mock.leave_triggers_unanswered()
    with pytest.raises(TriggerTimeout):
        await mock.trigger(REQUEST, timeout=1)
    assert await _state(mock) is ExecutionState.SUCCEEDED
    assert not (await mock.trigger(REQUEST, timeout=1)).created
    mock.unavailable()
    for _ in range(3):
        with pytest.raises(ProviderUnavailable):
            await mock.get_many([NAME])
    mock.restore()
    await mock.ready()
