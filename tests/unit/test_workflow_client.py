"""WorkflowClient: what it adds to every provider; and the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest
from prometheus_client import REGISTRY

from landlord.settings import ConfigurationError, Settings
from landlord.workflow import registry
from landlord.workflow.client import WorkflowClient
from landlord.workflow.provider import (
    ExecutionInfo,
    ExecutionNotFound,
    ProviderUnavailable,
    TriggerResult,
    TriggerTimeout,
    WorkflowRequest,
)
from landlord.workflow.providers.mock import MockProvider

REQUEST = WorkflowRequest(execution_id="tenant-acme-plan", payload=b"{}")


class Slow(MockProvider):
    """Records the reads, and takes its time."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.reads: list[list[str]] = []

    async def trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        await asyncio.sleep(self.seconds)
        return await super().trigger(request, timeout=timeout)

    async def get_many(self, execution_ids: Sequence[str]) -> dict[str, ExecutionInfo]:
        self.reads.append(list(execution_ids))
        await asyncio.sleep(0.01)
        return await super().get_many(execution_ids)


class Broken(MockProvider):
    async def trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        raise RuntimeError("password=hunter2")


def _count(**labels: str) -> float:
    return REGISTRY.get_sample_value("landlord_workflow_calls_total", {"provider": "mock", **labels}) or 0


async def test_concurrent_reads_share_requests() -> None:
    provider = Slow()
    client = WorkflowClient(provider, trigger_timeout=5)
    names = [f"tenant-{n}-plan" for n in range(50)]
    for name in names:
        await client.trigger(WorkflowRequest(execution_id=name, payload=b"{}"))
    infos = await asyncio.gather(*(client.get(name) for name in [*names, *names]))
    assert [info.execution_id for info in infos] == [*names, *names]
    assert len(provider.reads) <= 4


async def test_an_unknown_id_fails_only_its_own_caller() -> None:
    client = WorkflowClient(MockProvider(), trigger_timeout=5)
    await client.trigger(REQUEST)
    known, unknown = await asyncio.gather(
        client.get(REQUEST.execution_id), client.get("tenant-nobody-plan"), return_exceptions=True
    )
    assert isinstance(known, ExecutionInfo)
    assert isinstance(unknown, ExecutionNotFound)


async def test_a_trigger_ends_in_time_whatever_the_provider_does() -> None:
    client = WorkflowClient(Slow(seconds=60), trigger_timeout=0.1)
    before = _count(call="trigger", result="timeout")
    with pytest.raises(TriggerTimeout):
        await client.trigger(REQUEST)
    assert _count(call="trigger", result="timeout") == before + 1


@pytest.mark.parametrize("name", ["get", "cancel", "ready"])
async def test_what_else_is_asked_ends_in_time_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(MockProvider):
        async def get_many(self, *_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

        cancel = ready = get_many

    monkeypatch.setattr("landlord.workflow.client.CALL_TIMEOUT", 0.05)
    client = WorkflowClient(Hanging(), trigger_timeout=60)
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "get": lambda: client.get(REQUEST.execution_id),
        "cancel": lambda: client.cancel(REQUEST.execution_id, reason="enough"),
        "ready": client.ready,
    }
    before = _count(call=name, result="timeout")
    with pytest.raises(ProviderUnavailable):
        await asyncio.wait_for(calls[name](), 5)
    assert _count(call=name, result="timeout") == before + 1


async def test_unexpected_errors_lose_their_text() -> None:
    client = WorkflowClient(Broken(), trigger_timeout=1)
    before = _count(call="trigger", result="unexpected")
    with pytest.raises(ProviderUnavailable) as caught:
        await client.trigger(REQUEST)
    assert not isinstance(caught.value, TriggerTimeout)
    assert "hunter2" not in str(caught.value)
    assert _count(call="trigger", result="unexpected") == before + 1


async def test_completions_go_on_after_the_stream_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(MockProvider):
        streams = 0

        async def completions(self) -> Any:
            self.streams += 1
            yield f"tenant-{self.streams}-plan"
            raise OSError

    monkeypatch.setattr("landlord.workflow.client.LISTEN_AGAIN", 0.01)
    stream = WorkflowClient(Breaking(), trigger_timeout=1).completions()
    assert [await anext(stream) for _ in range(3)] == ["tenant-1-plan", "tenant-2-plan", "tenant-3-plan"]
    await stream.aclose()


async def test_a_cancellation_of_the_provider_s_own_is_an_unexpected_error() -> None:
    """Taken for the caller's it would end whoever reconciles, one after the other."""

    class Stray(MockProvider):
        async def get_many(self, execution_ids: Sequence[str]) -> dict[str, ExecutionInfo]:
            raise asyncio.CancelledError

    client = WorkflowClient(Stray(), trigger_timeout=1)
    before = _count(call="get", result="unexpected")
    with pytest.raises(ProviderUnavailable, match="CancelledError"):
        await client.get(REQUEST.execution_id)
    assert _count(call="get", result="unexpected") == before + 1


async def test_a_caller_that_is_cancelled_stays_so() -> None:
    task = asyncio.create_task(WorkflowClient(Slow(seconds=60), trigger_timeout=60).trigger(REQUEST))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_completions_that_cannot_be_listened_to_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(MockProvider):
        faults: ClassVar = [RuntimeError("not yet"), asyncio.CancelledError()]

        def completions(self) -> Any:
            if self.faults:
                raise self.faults.pop()
            return super().completions()

    monkeypatch.setattr("landlord.workflow.client.LISTEN_AGAIN", 0.01)
    provider = Failing()
    client = WorkflowClient(provider, trigger_timeout=1)
    stream = client.completions()
    heard = asyncio.ensure_future(anext(stream))
    while not provider._listeners and not heard.done():
        await asyncio.sleep(0.01)
    await client.trigger(REQUEST)
    assert await asyncio.wait_for(heard, 5) == REQUEST.execution_id
    await stream.aclose()


def test_an_unknown_provider_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"LANDLORD_WORKFLOW_PROVIDER: .*'nope'.*local, mock"):
        registry.create(settings=Settings(workflow_provider="nope"))


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (ModuleNotFoundError("No module named 'gone'"), "No module named 'gone'"),
        (RuntimeError("password=hunter2"), "RuntimeError"),
        (None, "unexpected keyword argument 'settings'"),
    ],
)
def test_a_provider_that_cannot_be_had_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, raised: Exception | None, reason: str
) -> None:
    class Older(MockProvider):
        def __init__(self) -> None:
            super().__init__()

    def load(_: EntryPoint) -> Any:
        if raised is not None:
            raise raised
        return Older

    monkeypatch.setattr(EntryPoint, "load", load)
    with pytest.raises(ConfigurationError, match=r"^LANDLORD_WORKFLOW_PROVIDER: .* cannot be loaded") as caught:
        registry.create(settings=Settings())
    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_bad_url_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="LANDLORD_WORKFLOW_LOCAL_URL") as caught:
        registry.create(settings=Settings(workflow_local_url="hunter2"))
    assert "hunter2" not in str(caught.value)


async def test_from_settings() -> None:
    async with WorkflowClient.from_settings(Settings(workflow_provider="mock")) as client:
        assert client.name == "mock"
        await client.ready()
        assert (await client.trigger(REQUEST)).created
