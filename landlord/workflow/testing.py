"""The conformance suite of workflow providers. Any provider passes it, third parties' too.

    import pytest
    pytest.register_assert_rewrite("landlord.workflow.testing")
    from landlord.workflow.testing import Harness, WorkflowConformance

    class TestMine(WorkflowConformance):
        @pytest.fixture
        async def harness(self):
            ...  # start the engine, register the workflow
            yield MyHarness(provider)

Needs pytest and pytest-asyncio (``asyncio_mode = auto``). The suite brings its own workflow, :func:`workflow`, and has
the provider's worker execute it in this process.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import orjson
import pytest

from landlord import canonical
from landlord.workflow.execution import Step
from landlord.workflow.provider import (
    MAX_EXECUTION_ID,
    MAX_PAYLOAD,
    ExecutionInfo,
    ExecutionNotFound,
    ExecutionState,
    InvalidRequest,
    ProviderUnavailable,
    RunFailed,
    TriggerResult,
    TriggerTimeout,
    WorkflowFailure,
    WorkflowProvider,
    WorkflowRequest,
)

Result = TypeVar("Result")


async def workflow(payload: bytes, step: Step) -> Any:
    """The workflow the suite runs: two steps, then what the payload's ``behave`` says (succeed, fail, break, hang)."""
    value = orjson.loads(payload)

    async def first() -> dict[str, Any]:
        return {"first": value["behave"]}

    async def second() -> str:
        match value["behave"]:
            case "fail":
                raise RunFailed(
                    WorkflowFailure(
                        code="Quota", message="quota exceeded", permanent=True, step="second", details={"limit": 3}
                    )
                )
            case "break":
                raise ZeroDivisionError("password=hunter2")
            case "hang":
                await asyncio.Event().wait()
        return "done"

    return {**await step("first", first), "second": await step("second", second)}


class Harness(abc.ABC):
    """One engine to be tested: its provider, started and registered, and ways to trouble it."""

    patience: float = 10
    """Seconds until the engine must have shown what is expected of it."""
    pushes: bool = True
    """Whether completions are pushed."""

    provider: WorkflowProvider

    @abc.abstractmethod
    def unreachable(self) -> AbstractAsyncContextManager[None]:
        """While it lasts, the provider's calls do not reach the engine and fail."""

    @abc.abstractmethod
    def deaf(self) -> AbstractAsyncContextManager[None]:
        """While it lasts, the engine takes what is sent and its answers do not arrive."""


class WorkflowConformance:
    """Subclass, and supply a fixture ``harness``."""

    @pytest.fixture
    async def worker(self, harness: Harness) -> AsyncIterator[None]:
        async with working(harness.provider):
            yield

    async def test_a_new_run_succeeds(self, harness: Harness, worker: None) -> None:
        request = _request("succeed")
        result = await _trigger(harness, request)
        assert (result.execution_id, result.created) == (request.execution_id, True)
        info = await _ended(harness, request)
        assert info.state is ExecutionState.SUCCEEDED
        assert info.output == {"first": "succeed", "second": "done"}
        assert info.digest == request.digest
        assert info.failure is None

    async def test_a_repeat_is_absorbed_while_running(self, harness: Harness, worker: None) -> None:
        request = _request("hang")
        await _trigger(harness, request)
        await _running(harness, request)
        repeat = await _trigger(harness, request)
        assert not repeat.created
        assert repeat.digest == request.digest

    async def test_a_repeat_is_absorbed_after_the_end(self, harness: Harness, worker: None) -> None:
        request = _request("succeed")
        await _trigger(harness, request)
        ended = await _ended(harness, request)
        repeat = await _trigger(harness, request)
        assert not repeat.created
        assert repeat.digest == request.digest
        assert await harness.provider.get(request.execution_id) == ended

    async def test_another_input_meets_the_digest_of_the_first(self, harness: Harness, worker: None) -> None:
        first = _request("succeed")
        await _trigger(harness, first)
        await _ended(harness, first)
        second = WorkflowRequest(execution_id=first.execution_id, payload=_payload("fail"))
        result = await _trigger(harness, second)
        assert not result.created
        assert result.digest == first.digest != second.digest
        info = await harness.provider.get(first.execution_id)
        assert (info.state, info.digest) == (ExecutionState.SUCCEEDED, first.digest)

    async def test_many_triggers_of_one_id_create_one_run(self, harness: Harness, worker: None) -> None:
        request = _request("succeed")
        results = await asyncio.gather(*(_trigger(harness, request) for _ in range(20)))
        assert sum(result.created for result in results) == 1
        assert {result.digest for result in results} == {request.digest}

    async def test_a_failure_keeps_its_code_and_details(self, harness: Harness, worker: None) -> None:
        request = _request("fail")
        await _trigger(harness, request)
        info = await _ended(harness, request)
        assert info.state is ExecutionState.FAILED
        assert info.failure is not None
        assert (info.failure.code, info.failure.message) == ("Quota", "quota exceeded")
        assert (info.failure.permanent, dict(info.failure.details)) == (True, {"limit": 3})

    async def test_an_unexpected_error_fails_the_run_without_its_text(self, harness: Harness, worker: None) -> None:
        request = _request("break")
        await _trigger(harness, request)
        info = await _ended(harness, request)
        assert info.state is ExecutionState.FAILED
        assert info.failure is not None
        assert info.failure.code == "InternalError"
        assert not info.failure.permanent
        assert "hunter2" not in str(info.failure)

    async def test_running_is_seen(self, harness: Harness, worker: None) -> None:
        request = _request("hang")
        await _trigger(harness, request)
        info = await _running(harness, request)
        assert (info.digest, info.output) == (request.digest, None)
        assert info.attempt >= 1

    async def test_cancel_ends_a_running_step(self, harness: Harness, worker: None) -> None:
        request = _request("hang")
        await _trigger(harness, request)
        await _running(harness, request)
        await harness.provider.cancel(request.execution_id, reason="the tenant is deleted")
        assert (await _ended(harness, request)).state is ExecutionState.CANCELLED

    async def test_cancel_of_an_ended_run_changes_nothing(self, harness: Harness, worker: None) -> None:
        request = _request("succeed")
        await _trigger(harness, request)
        ended = await _ended(harness, request)
        for force in (False, True):
            await harness.provider.cancel(request.execution_id, reason="too late", force=force)
        assert await harness.provider.get(request.execution_id) == ended

    async def test_cancel_before_a_worker_took_the_run(self, harness: Harness) -> None:
        request = _request("succeed")
        await _trigger(harness, request)
        await harness.provider.cancel(request.execution_id, reason="changed my mind")
        async with working(harness.provider):
            assert (await _ended(harness, request)).state is ExecutionState.CANCELLED

    async def test_forced_cancel_needs_no_worker(self, harness: Harness) -> None:
        request = _request("hang")
        async with working(harness.provider):
            await _trigger(harness, request)
            await _running(harness, request)
        await harness.provider.cancel(request.execution_id, reason="the workers are gone", force=True)
        assert (await _ended(harness, request)).state is ExecutionState.CANCELLED

    async def test_unknown_ids_are_said_to_be_unknown(self, harness: Harness) -> None:
        name = f"tenant-{uuid.uuid4().hex[:8]}-plan"
        with pytest.raises(ExecutionNotFound):
            await harness.provider.get(name)
        with pytest.raises(ExecutionNotFound):
            await harness.provider.cancel(name, reason="?")
        with pytest.raises(ExecutionNotFound):
            await harness.provider.cancel(name, reason="?", force=True)

    async def test_get_many_gives_those_that_exist(self, harness: Harness, worker: None) -> None:
        requests = [_request("succeed"), _request("fail")]
        for request in requests:
            await _trigger(harness, request)
        known = {request.execution_id for request in requests}
        found = await harness.provider.get_many([*known, "tenant-nobody-plan"])
        assert found.keys() == known
        assert {name: info.execution_id for name, info in found.items()} == {name: name for name in known}
        assert await harness.provider.get_many([]) == {}

    async def test_wait_gives_up(self, harness: Harness, worker: None) -> None:
        request = _request("hang")
        await _trigger(harness, request)
        with pytest.raises(TimeoutError):
            await harness.provider.wait(request.execution_id, timeout=0.3)

    async def test_an_unanswered_trigger_is_repaired_by_the_same_id(self, harness: Harness, worker: None) -> None:
        request = _request("succeed")
        async with harness.deaf():
            with pytest.raises(TriggerTimeout):
                await harness.provider.trigger(request, timeout=1)
        result = await _again_until_served(lambda: _trigger(harness, request), patience=harness.patience)
        assert result.digest == request.digest
        assert (await _ended(harness, request)).state is ExecutionState.SUCCEEDED

    async def test_an_engine_that_is_away_is_unavailable_and_comes_back(self, harness: Harness, worker: None) -> None:
        request = _request("succeed")
        async with harness.unreachable():
            with pytest.raises(ProviderUnavailable):
                await harness.provider.ready()
            with pytest.raises(ProviderUnavailable):
                await harness.provider.trigger(request, timeout=2)
            with pytest.raises(ProviderUnavailable):
                await harness.provider.get(request.execution_id)
            with pytest.raises(ProviderUnavailable):
                await harness.provider.cancel(request.execution_id, reason="?")
        await _again_until_served(harness.provider.ready, patience=harness.patience)
        await _trigger(harness, request)
        assert (await _ended(harness, request)).state is ExecutionState.SUCCEEDED

    async def test_limits(self, harness: Harness, worker: None) -> None:
        largest = _request("succeed", filler=MAX_PAYLOAD - len(_payload("succeed", filler=1)) + 1)
        assert len(largest.payload) == MAX_PAYLOAD
        longest = WorkflowRequest(execution_id="t" + uuid.uuid4().hex * 3, payload=_payload("succeed"))
        longest = WorkflowRequest(execution_id=longest.execution_id[:MAX_EXECUTION_ID], payload=longest.payload)
        for request in (largest, longest):
            harness.provider.check(request)
            await _trigger(harness, request)
            assert (await _ended(harness, request)).state is ExecutionState.SUCCEEDED
        for refused in (
            WorkflowRequest(execution_id="a" * (MAX_EXECUTION_ID + 1), payload=b"{}"),
            WorkflowRequest(execution_id="", payload=b"{}"),
            WorkflowRequest(execution_id="tenant/x", payload=b"{}"),
            WorkflowRequest(execution_id="tenant-x-plan", payload=largest.payload + b" "),
        ):
            with pytest.raises(InvalidRequest):
                harness.provider.check(refused)
            with pytest.raises(InvalidRequest):
                await harness.provider.trigger(refused, timeout=5)

    async def test_completions_are_pushed(self, harness: Harness, worker: None) -> None:
        if not harness.pushes:
            pytest.skip("this engine does not push completions")
        heard: asyncio.Queue[str] = asyncio.Queue()

        async def listen() -> None:
            async for execution_id in harness.provider.completions():
                heard.put_nowait(execution_id)

        async with asyncio.timeout(harness.patience), _while_running(listen()):
            # Hints may be lost, so also while the listening begins: until one of several runs is told.
            told: str | None = None
            sent: set[str] = set()
            while told not in sent:
                request = _request("succeed")
                await _trigger(harness, request)
                sent.add(request.execution_id)
                with contextlib.suppress(TimeoutError):
                    told = await asyncio.wait_for(heard.get(), 0.5)
        assert (await harness.provider.get(str(told))).state is ExecutionState.SUCCEEDED

    async def test_an_idle_worker_stops_when_told(self, harness: Harness) -> None:
        stop = asyncio.Event()
        request = _request("succeed")
        async with asyncio.timeout(harness.patience):
            main = asyncio.create_task(harness.provider.worker(workflow).run(stop))
            await _trigger(harness, request)
            await _ended(harness, request)
            stop.set()
            await main

    async def test_register_is_idempotent(self, harness: Harness, worker: None) -> None:
        await harness.provider.register()
        await harness.provider.ready()


@asynccontextmanager
async def working(provider: WorkflowProvider) -> AsyncGenerator[None, None]:
    """The provider's worker on the suite's workflow; at the end it is gone without a word, whatever it was doing."""
    async with _while_running(provider.worker(workflow).run(asyncio.Event())):
        yield


@asynccontextmanager
async def _while_running(main: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    task = asyncio.create_task(main)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _payload(behave: str, *, filler: int = 0) -> bytes:
    return canonical.dumps({"behave": behave, "nonce": uuid.uuid4().hex, "filler": "x" * filler})


def _request(behave: str, *, filler: int = 0) -> WorkflowRequest:
    name = f"tenant-{uuid.uuid4().hex[:12]}-provision"
    return WorkflowRequest(execution_id=name, payload=_payload(behave, filler=filler))


async def _trigger(harness: Harness, request: WorkflowRequest) -> TriggerResult:
    return await harness.provider.trigger(request, timeout=harness.patience)


async def _ended(harness: Harness, request: WorkflowRequest) -> ExecutionInfo:
    return await harness.provider.wait(request.execution_id, timeout=harness.patience)


async def _running(harness: Harness, request: WorkflowRequest) -> ExecutionInfo:
    async with asyncio.timeout(harness.patience):
        while True:
            info = await harness.provider.get(request.execution_id)
            if info.state is ExecutionState.RUNNING:
                return info
            await asyncio.sleep(0.02)


async def _again_until_served(call: Callable[[], Awaitable[Result]], *, patience: float) -> Result:
    """An engine that has been away may need a moment until its connection is back."""
    async with asyncio.timeout(patience):
        while True:
            with contextlib.suppress(ProviderUnavailable):
                return await call()
            await asyncio.sleep(0.1)
