"""What the conformance suite cannot ask of every engine: how Restate is found wrong, and workers that change."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import structlog.testing
from fixtures.ports import free_port
from fixtures.restate import provided, registered, restate_settings
from fixtures.workers import running

from landlord import canonical
from landlord.dev.restate import RestateServer
from landlord.settings import ConfigurationError, Settings
from landlord.workflow.execution import Step
from landlord.workflow.provider import ExecutionState, ProviderUnavailable, WorkflowRequest
from landlord.workflow.providers.restate import RestateProvider
from landlord.workflow.worker import TenantWorker

TOKEN = "a-secret-of-ours"


def run_of(**payload: Any) -> WorkflowRequest:
    return WorkflowRequest(execution_id=f"tenant-{uuid.uuid4().hex[:12]}-plan", payload=canonical.dumps(payload))


@asynccontextmanager
async def answering(status: int, body: Any) -> AsyncIterator[str]:
    """Something else where Restate should be."""

    text = orjson.dumps(body)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d .\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(text)) + text)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {}, "check LANDLORD_RESTATE_TOKEN"),
        (403, {}, "check LANDLORD_RESTATE_TOKEN"),
        (503, {}, "cannot serve now (503)"),
        (404, {}, "no Restate"),
        (200, {"version": "0.9.1"}, "version 0.9.1"),
        (200, {"version": "2.0.0"}, "version 2.0.0"),
        (200, ["something else"], "version None"),
    ],
)
async def test_what_is_wrong_is_said_without_secrets_and_addresses(status: int, body: Any, reason: str) -> None:
    async with (
        answering(status, body) as url,
        provided({"ingress": url, "admin": url}, restate_token=TOKEN) as provider,
    ):
        with pytest.raises(ProviderUnavailable) as ready:
            await provider.ready()
        with pytest.raises(ProviderUnavailable) as trigger:
            await provider.trigger(run_of(), timeout=5)
        with pytest.raises(ProviderUnavailable) as read:
            await provider.get("tenant-a-plan")
    assert reason in str(ready.value)
    for error in (ready, trigger, read):
        assert TOKEN not in str(error.value)
        assert "127.0.0.1" not in str(error.value)


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:{free_port()}", "http://restate..svc:8080"], ids=["nobody", "no name"]
)
async def test_nobody_there(url: str) -> None:
    """Nor could be: that an address is misspelt is said, too, also by a worker, which went silent."""

    async def nothing(_: bytes, __: Step) -> Any:
        return None

    async with provided({"ingress": url, "admin": url}) as provider:
        with pytest.raises(ProviderUnavailable, match="cannot connect to the ingress"):
            await provider.ready()
        with structlog.testing.capture_logs() as logs:
            async with running(provider.worker(nothing)), asyncio.timeout(10):
                while not logs:
                    await asyncio.sleep(0.02)
    assert logs[0]["reason"] == "restate: cannot connect to the admin API"


async def test_no_worker_has_registered(restate_server: dict[str, str]) -> None:
    async with provided(restate_server) as provider:
        for call in (provider.ready(), provider.trigger(run_of(), timeout=5)):
            with pytest.raises(ProviderUnavailable, match="start `landlord worker`"):
                await call


async def test_what_is_kept_in_mind_has_an_end(restate_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody ever asks what has become of a run, as in the API."""
    monkeypatch.setattr("landlord.workflow.providers.restate.provider.REMEMBERED", 5)

    async def nothing(_: bytes, __: Step) -> Any:
        return None

    async with provided(restate_server) as provider, running(provider.worker(nothing)):
        await registered(provider)
        runs = [run_of(n=n) for n in range(12)]
        for run in runs:
            await provider.trigger(run, timeout=5)
        assert len(provider._known.ids) == 5
        for run in runs:
            await provider.wait(run.execution_id, timeout=10)
            await provider.cancel(run.execution_id, reason="too late")
        assert len(provider._known.ids) == 5


def test_certificates_that_are_none() -> None:
    with pytest.raises(ConfigurationError, match="LANDLORD_RESTATE_CA_FILE"):
        RestateProvider(settings=Settings(restate_ca_file=__file__))  # type: ignore[arg-type]


async def test_an_address_that_is_taken(restate_server: dict[str, str]) -> None:
    async def nothing(_: bytes, __: Step) -> Any:
        return None

    async with answering(200, {}) as url:
        port = int(url.rsplit(":", 1)[1])
        async with provided(restate_server, restate_worker_port=port) as provider:
            with pytest.raises(ConfigurationError, match="LANDLORD_RESTATE_WORKER_PORT"):
                await provider.worker(nothing).run(asyncio.Event())


async def test_an_address_that_another_installation_registered(restate_server: dict[str, str]) -> None:
    """Restate keeps what it was told of an address: silence would leave this installation unknown for ever."""

    async def nothing(_: bytes, __: Step) -> Any:
        return None

    port = free_port()
    async with provided(restate_server, restate_worker_port=port) as first, running(first.worker(nothing)):
        await registered(first)
    with structlog.testing.capture_logs() as logs:
        async with (
            provided(restate_server, restate_worker_port=port, restate_worker_force_registration=False) as second,
            running(second.worker(nothing)),
        ):
            async with asyncio.timeout(20):
                while not logs:
                    await asyncio.sleep(0.02)
            with pytest.raises(ProviderUnavailable, match="start `landlord worker`"):
                await second.ready()
    assert "another installation" in logs[0]["reason"]
    async with provided(restate_server, restate_worker_port=port) as third, running(third.worker(nothing)):
        await registered(third)


async def test_a_worker_is_ready_once_it_has_registered_itself(restate_server: dict[str, str]) -> None:
    """That another version has says nothing: Restate would not call this one."""

    async def nothing(_: bytes, __: Step) -> Any:
        return None

    async def fault_of(worker: TenantWorker) -> str | None:
        return await worker.checks["workflow"]()

    async with provided(restate_server) as old, running(old.worker(nothing)):
        await registered(old)
        address = {"restate_worker_port": free_port(), "restate_worker_url": f"http://127.0.0.1:{free_port()}"}
        new = Settings(**{**restate_settings(restate_server), "installation": old._settings.installation, **address})
        async with running(TenantWorker(settings=new)) as unreachable:
            unregistered = "restate: this worker has not registered yet"
            assert await fault_of(unreachable) == unregistered
            async with asyncio.timeout(20):
                while (fault := await fault_of(unreachable)) == unregistered:
                    await asyncio.sleep(0.02)
            assert fault == (
                "restate: does not take the worker (META0003): LANDLORD_RESTATE_WORKER_URL must be an address where"
                " Restate reaches it"
            )
        reachable = new.model_copy(update={"restate_worker_url": None})
        async with running(TenantWorker(settings=reachable)) as worker, asyncio.timeout(20):
            while await fault_of(worker) is not None:
                await asyncio.sleep(0.02)


async def test_runs_finish_on_the_worker_they_began_on(restate_server: dict[str, str]) -> None:
    """A new version has an address of its own: what runs stays with the old one, what comes goes to the new one."""
    began, go_on = asyncio.Event(), asyncio.Event()

    def version(name: str) -> Callable[[bytes, Step], Awaitable[Any]]:
        async def act() -> str:
            began.set()
            await go_on.wait()
            return name

        async def execute(_: bytes, step: Step) -> Any:
            return [await step("first", act), await step("second", act)]

        return execute

    async with provided(restate_server) as old:
        again = {"installation": old._settings.installation, "restate_worker_port": free_port()}
        async with provided(restate_server, **again) as new, running(old.worker(version("old"))):
            await registered(old)
            first, second = run_of(), run_of()
            await old.trigger(first, timeout=5)
            await began.wait()
            async with running(new.worker(version("new"))):
                await asyncio.sleep(0.5)  # for its registration
                await new.trigger(second, timeout=5)
                go_on.set()
                assert (await new.wait(second.execution_id, timeout=10)).output == ["new", "new"]
                assert (await new.wait(first.execution_id, timeout=10)).output == ["old", "old"]


async def test_steps_are_in_the_journal_by_name_and_run_once(own_restate: RestateServer) -> None:
    """Over a restart of the server: what is in the journal is not run again. A digest needs no worker."""
    acted: list[str] = []

    async def execute(_: bytes, step: Step) -> Any:
        async def act() -> None:
            acted.append("act")

        async def wait() -> str:
            acted.append("wait")
            await asyncio.sleep(1)
            return "waited"

        await step("act", act)
        return await step("wait", wait)

    async with provided({"ingress": own_restate.ingress_url, "admin": own_restate.admin_url}) as provider:
        run, idle = run_of(), run_of(other=1)
        async with running(provider.worker(execute)):
            await registered(provider)
            await provider.trigger(run, timeout=5)
            async with asyncio.timeout(10):
                while "wait" not in acted:
                    await asyncio.sleep(0.01)
            await own_restate.kill()
            await own_restate.start()
            info = await provider.wait(run.execution_id, timeout=30)
            assert (info.state, info.output, info.digest) == (ExecutionState.SUCCEEDED, "waited", run.digest)
            assert acted.count("act") == 1
            journal = f"select name, entry_type from sys_journal where id = '{info.native_id}' order by index"
            found = [row for row in await provider._engine.query(journal) if row["entry_type"] == "Command: Run"]
            assert [row["name"] for row in found] == ["act", "wait"]
        await provider.trigger(idle, timeout=5)
        for _ in range(2):
            repeat = await provider.trigger(idle, timeout=5)
            assert (repeat.created, repeat.digest) == (False, idle.digest)
        async with asyncio.timeout(10):
            while (info := await provider.get(idle.execution_id)).state is not ExecutionState.RETRYING:
                await asyncio.sleep(0.02)
        assert info.failure is not None
        assert "127.0.0.1" not in str(info)
        assert info.failure.code == "WorkerUnreachable"
        await provider.cancel(idle.execution_id, reason="no worker", force=True)
        assert (await provider.wait(idle.execution_id, timeout=10)).state is ExecutionState.CANCELLED
