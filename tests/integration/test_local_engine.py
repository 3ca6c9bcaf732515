"""The ``local`` engine under what happens to workers and databases: death, freezes, restarts, time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import structlog
from fixtures import local_worker
from fixtures.proxy import Proxy, target, through

from landlord.dev.postgres import PostgresServer
from landlord.settings import Settings
from landlord.workflow.execution import Step
from landlord.workflow.provider import (
    ExecutionNotFound,
    ExecutionState,
    ProviderUnavailable,
    RunFailed,
    WorkflowFailure,
    WorkflowRequest,
)
from landlord.workflow.providers.local import LocalProvider
from landlord.workflow.providers.local.run import Run
from landlord.workflow.providers.local.store import Checkpoint, Claimed, Ending
from landlord.workflow.providers.local.worker import LocalWorker

LEASE = 1.0
PROGRAM = Path(local_worker.__file__)


def _settings(url: str, **more: Any) -> Settings:
    values = {"installation": f"i{uuid.uuid4().hex[:12]}", "workflow_local_lease": LEASE, "database_pool_size": 4}
    return Settings(database_url=url, **{**values, **more})


@pytest.fixture
def settings(database_url: str) -> Settings:
    return _settings(database_url)


@pytest.fixture
async def provider(settings: Settings) -> AsyncIterator[LocalProvider]:
    provider = LocalProvider(settings=settings)
    yield provider
    await provider.close()


@pytest.fixture
async def steady(database_url: str) -> AsyncIterator[LocalProvider]:
    """Of an installation whose leases outlast every test."""
    provider = LocalProvider(settings=_settings(database_url, workflow_local_lease=10))
    yield provider
    await provider.close()


class Log:
    """What the steps of :mod:`fixtures.local_worker` wrote: (what, step, pid)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> list[tuple[str, str, int]]:
        if not self.path.exists():
            return []
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [(what, step, int(pid)) for what, step, pid in lines]

    async def until(self, what: str, step: str, *, pid: int | None = None) -> int:
        """The pid that wrote this line."""
        async with asyncio.timeout(15):
            while True:
                for entry in self():
                    if entry[:2] == (what, step) and pid in (None, entry[2]):
                        return entry[2]
                await asyncio.sleep(0.02)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "steps")


def _request(log: Log, *steps: tuple[str, float], name: str = "") -> WorkflowRequest:
    payload = orjson.dumps({"steps": steps, "log": str(log.path)})
    return WorkflowRequest(execution_id=name or f"tenant-{uuid.uuid4().hex[:8]}-plan", payload=payload)


@asynccontextmanager
async def process(settings: Settings) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """A worker process."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "LANDLORD_DATABASE_URL": settings.database_url.get_secret_value(),
        "LANDLORD_INSTALLATION": settings.installation,
        "LANDLORD_WORKFLOW_LOCAL_LEASE": str(settings.workflow_local_lease),
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"working\n"
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


@asynccontextmanager
async def working(*workers: LocalWorker) -> AsyncGenerator[asyncio.Event, None]:
    """Workers in this process, stopped in the end."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(worker.run(stop)) for worker in workers]
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.gather(*tasks)


def _row(settings: Settings, execution_id: str) -> dict[str, Any]:
    with psycopg.connect(settings.database_url.get_secret_value(), row_factory=psycopg.rows.dict_row) as connection:
        row = connection.execute("select * from local_executions where execution_id = %s", [execution_id]).fetchone()
        assert row is not None
        return row


async def test_the_log_says_of_what_a_run_failed(steady: LocalProvider, log: Log) -> None:
    """By its code alone: the message is for users, and may name what is theirs."""

    async def execute(_: bytes, __: Step) -> None:
        raise RunFailed(WorkflowFailure(code="Quota", message="hunter2"))

    request = _request(log)
    with structlog.testing.capture_logs() as said:
        async with working(steady.worker(execute)):
            await steady.trigger(request, timeout=5)
            await steady.wait(request.execution_id, timeout=10)
    [ended] = [line for line in said if line["event"] == "run ended"]
    assert (ended["execution_id"], ended["state"], ended["code"]) == (request.execution_id, "failed", "Quota")
    assert "hunter2" not in str(said)


async def test_another_worker_goes_on_where_one_was_killed(
    provider: LocalProvider, settings: Settings, log: Log
) -> None:
    request = _request(log, ("one", 0.1), ("two", 2), ("three", 0.1))
    async with process(settings) as first, process(settings) as second:
        await provider.trigger(request, timeout=5)
        victim = await log.until("begin", "two")
        {first.pid: first, second.pid: second}[victim].kill()
        info = await provider.wait(request.execution_id, timeout=15)
    assert (info.state, info.output, info.attempt) == (ExecutionState.SUCCEEDED, ["one", "two", "three"], 2)
    begun = Counter(step for what, step, _ in log() if what == "begin")
    assert begun == {"one": 1, "two": 2, "three": 1}


async def test_a_frozen_worker_is_fenced_off(provider: LocalProvider, settings: Settings, log: Log) -> None:
    request = _request(log, ("one", 0.1), ("two", 1.5), ("three", 0.1))
    async with process(settings) as frozen:
        await provider.trigger(request, timeout=5)
        await log.until("begin", "two")
        frozen.send_signal(signal.SIGSTOP)
        async with process(settings) as other:
            info = await provider.wait(request.execution_id, timeout=15)
            before = _row(settings, request.execution_id)
            frozen.send_signal(signal.SIGCONT)
            # It wakes in the middle of "two", whose time is long over: what it writes then is refused.
            await asyncio.sleep(2)
            assert other.returncode is None
        assert frozen.returncode is None, "the worker lives on"
        assert _row(settings, request.execution_id) == before
        again = _request(log, ("four", 0))
        await provider.trigger(again, timeout=5)
        assert (await provider.wait(again.execution_id, timeout=5)).state is ExecutionState.SUCCEEDED
        assert await log.until("end", "four") == frozen.pid
    assert (info.state, info.attempt) == (ExecutionState.SUCCEEDED, 2)
    assert [pid for what, step, pid in log() if (what, step) == ("end", "three")] == [other.pid]


async def test_the_fence_is_compared_where_it_is_written(provider: LocalProvider, settings: Settings) -> None:
    """The same without relying on when a process wakes: the holder of an old claim writes everything it can."""
    store = provider._store
    request = WorkflowRequest(execution_id="tenant-a-plan", payload=b"{}")
    await store.insert(request)
    (old,) = await store.claim(most=5, worker="old")
    assert await store.claim(most=5, worker="other") == []
    await asyncio.sleep(LEASE + 0.2)
    (new,) = await store.claim(most=5, worker="new")
    assert new.hold.fence > old.hold.fence
    assert not (await store.checkpoint(Checkpoint(hold=old.hold, name="s", output='"zombie"'))).held
    assert not (await store.renew([old.hold]))[old.hold].held
    assert not await store.finish(Ending(hold=old.hold, state=ExecutionState.FAILED))
    await store.hand_back([old.hold])
    row = _row(settings, request.execution_id)
    assert (row["state"], row["fence"], row["worker"]) == ("running", new.hold.fence, "new")
    assert (await store.checkpoint(Checkpoint(hold=new.hold, name="s", output='"ours"'))).held
    await provider.cancel(request.execution_id, reason="gone", force=True)
    assert not await store.finish(Ending(hold=new.hold, state=ExecutionState.SUCCEEDED))
    assert (await provider.get(request.execution_id)).state is ExecutionState.CANCELLED


async def test_a_claim_that_the_database_lost_is_not_taken_for_the_next_one(
    provider: LocalProvider, settings: Settings
) -> None:
    """A standby that takes over may not have got it, nor may a backup: fences that only count are given out twice."""
    store = provider._store
    request = WorkflowRequest(execution_id="tenant-b-plan", payload=b"{}")
    await store.insert(request)
    before = _row(settings, request.execution_id)
    (old,) = await store.claim(most=1, worker="old")
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        connection.execute("delete from local_executions where installation = %s", [settings.installation])
        columns = ", ".join(f"%({name})s" for name in before)
        connection.execute(f"insert into local_executions values ({columns})", before)
    (new,) = await store.claim(most=1, worker="new")
    assert not (await store.renew([old.hold]))[old.hold].held
    assert not (await store.checkpoint(Checkpoint(hold=old.hold, name="s", output="1"))).held
    assert not await store.finish(Ending(hold=old.hold, state=ExecutionState.SUCCEEDED))
    assert (await store.renew([new.hold]))[new.hold].held
    await provider.cancel(request.execution_id, reason="enough seen", force=True)


async def test_cancel_reaches_a_running_step_within_two_seconds(
    provider: LocalProvider, settings: Settings, log: Log
) -> None:
    request = _request(log, ("one", 60))
    async with process(settings):
        await provider.trigger(request, timeout=5)
        await log.until("begin", "one")
        began = time.monotonic()
        await provider.cancel(request.execution_id, reason="the tenant is deleted")
        info = await provider.wait(request.execution_id, timeout=5)
        assert time.monotonic() - began < 2
        await log.until("stop", "one")
    assert info.state is ExecutionState.CANCELLED
    assert info.failure is not None
    assert info.failure.message == "the tenant is deleted"


async def test_cancel_is_found_by_the_heartbeat_when_the_notification_is_lost(
    steady: LocalProvider, database_url: str
) -> None:
    """However long a lease is."""
    begun = asyncio.Event()

    async def workflow(_: bytes, step: Step) -> None:
        begun.set()
        await step("one", asyncio.Event().wait)

    request = WorkflowRequest(execution_id="tenant-unheard-plan", payload=b"{}")
    async with working(steady.worker(workflow)):
        await steady.trigger(request, timeout=5)
        await begun.wait()
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "update local_executions set cancel_reason = 'unheard' where execution_id = %s", [request.execution_id]
            )
        info = await steady.wait(request.execution_id, timeout=2)
    assert info.state is ExecutionState.CANCELLED


async def test_a_notification_that_is_not_ours_harms_nobody(provider: LocalProvider, settings: Settings) -> None:
    """Whoever may connect to the database may notify."""

    async def workflow(payload: bytes, step: Any) -> None:
        await step("one", _nothing)

    request = WorkflowRequest(execution_id="tenant-a-plan", payload=b"{}")
    heard = provider.completions()
    assert await anext(heard) == ""
    async with working(provider.worker(workflow)):
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
            for _ in range(20):  # until the worker listens
                for words in ("", " ", " cancel", " work work", " nonsense x y"):
                    for channel in ("landlord_local_workers", "landlord_local_ended"):
                        connection.execute("select pg_notify(%s, %s)", [channel, f"{settings.installation}{words}"])
                await asyncio.sleep(0.02)
        await provider.trigger(request, timeout=5)
        async with asyncio.timeout(5):
            while await anext(heard) != request.execution_id:
                pass
    await heard.aclose()


async def test_two_workers_never_run_one_run_at_once(settings: Settings) -> None:
    active: Counter[str] = Counter()
    finished: Counter[str] = Counter()

    async def workflow(payload: bytes, step: Any) -> None:
        name = payload.decode()
        assert active[name] == 0
        active[name] += 1
        try:
            await step("one", lambda: asyncio.sleep(0.05))
            await step("two", lambda: asyncio.sleep(0.05))
        finally:
            active[name] -= 1
        finished[name] += 1

    providers = [LocalProvider(settings=settings) for _ in range(3)]
    requests = [WorkflowRequest(execution_id=f"tenant-{n}-plan", payload=str(n).encode()) for n in range(300)]
    async with working(*(provider.worker(workflow) for provider in providers)):
        await asyncio.gather(*(providers[0].trigger(request, timeout=10) for request in requests))
        infos = await asyncio.gather(*(providers[1].wait(r.execution_id, timeout=30) for r in requests[::10]))
        async with asyncio.timeout(30):
            while len(finished) < len(requests):
                await asyncio.sleep(0.05)
    assert {info.state for info in infos} == {ExecutionState.SUCCEEDED}
    assert set(finished.values()) == {1}
    for provider in providers:
        await provider.close()


async def test_a_worker_does_not_take_what_it_has_in_hand(database_url: str) -> None:
    """When the database's clock is put forward all leases are over at once: whoever claims first is most likely the
    worker itself, and what the run did before would have gone on beside what it does now."""
    settings = _settings(database_url, workflow_local_lease=10)
    provider = LocalProvider(settings=settings)
    begun: list[int] = []

    async def workflow(payload: bytes, step: Any) -> None:
        async def act() -> None:
            begun.append(len(begun))
            await asyncio.sleep(1.5)

        await step("one", act)

    request = WorkflowRequest(execution_id="tenant-a-plan", payload=b"{}")
    async with working(provider.worker(workflow)):
        await provider.trigger(request, timeout=5)
        async with asyncio.timeout(5):
            while not begun:
                await asyncio.sleep(0.01)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "update local_executions set due_at = now() - interval '1 hour' where installation = %s",
                [settings.installation],
            )
            connection.execute("select pg_notify('landlord_local_workers', %s)", [f"{settings.installation} work"])
        info = await provider.wait(request.execution_id, timeout=10)
    assert (info.state, info.attempt, begun) == (ExecutionState.SUCCEEDED, 1, [0])
    await provider.close()


@pytest.mark.parametrize("force", [False, True])
async def test_a_step_that_keeps_its_cancellation_to_itself_is_the_last(steady: LocalProvider, force: bool) -> None:
    """As ``asyncio.wait_for`` of Python 3.11 does where the answer comes at the same time."""
    begun, stopped = asyncio.Event(), asyncio.Event()
    beyond: list[str] = []

    async def workflow(payload: bytes, step: Any) -> None:
        async def act() -> None:
            begun.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            stopped.set()

        async def never() -> None:
            beyond.append("the run was cancelled")

        await step("one", act)
        await step("two", never)

    request = WorkflowRequest(execution_id=f"tenant-{force}-plan", payload=b"{}")
    async with working(steady.worker(workflow)):
        await steady.trigger(request, timeout=5)
        await begun.wait()
        await steady.cancel(request.execution_id, reason="the tenant is deleted", force=force)
        await asyncio.wait_for(stopped.wait(), 5)
        info = await steady.wait(request.execution_id, timeout=5)
    assert info.state is ExecutionState.CANCELLED
    assert beyond == []


@pytest.mark.parametrize("force", [False, True])
async def test_a_cancelled_step_is_left_to_tidy_up(provider: LocalProvider, force: bool) -> None:
    """Each heartbeat says again that the run is to be cancelled, or lost."""
    begun, tidy = asyncio.Event(), asyncio.Event()

    async def workflow(payload: bytes, step: Any) -> None:
        async def act() -> None:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(LEASE)
                tidy.set()

        await step("one", act)

    request = WorkflowRequest(execution_id=f"tenant-tidy-{force}-plan", payload=b"{}")
    async with working(provider.worker(workflow)):
        await provider.trigger(request, timeout=5)
        await begun.wait()
        await provider.cancel(request.execution_id, reason="the tenant is deleted", force=force)
        await asyncio.wait_for(tidy.wait(), 5)
        assert (await provider.wait(request.execution_id, timeout=5)).state is ExecutionState.CANCELLED


async def test_a_cancel_is_heeded_by_who_takes_the_run_over(steady: LocalProvider) -> None:
    claimed = await started(steady)
    await steady.cancel(claimed.hold.execution_id, reason="the tenant is deleted")
    await steady._store.hand_back([claimed.hold])
    begun: list[bytes] = []

    async def workflow(payload: bytes, step: Any) -> None:
        begun.append(payload)

    async with working(steady.worker(workflow)):
        info = await steady.wait(claimed.hold.execution_id, timeout=5)
    assert (info.state, begun) == (ExecutionState.CANCELLED, [])
    assert info.failure == WorkflowFailure(code="Cancelled", message="the tenant is deleted")


async def test_a_worker_has_no_more_in_hand_than_it_was_set_to(database_url: str) -> None:
    provider = LocalProvider(settings=_settings(database_url, worker_concurrency=2))
    active: set[bytes] = set()
    most: set[int] = set()

    async def workflow(payload: bytes, step: Any) -> None:
        active.add(payload)
        most.add(len(active))
        await asyncio.sleep(0.05)
        active.remove(payload)

    requests = [WorkflowRequest(execution_id=f"tenant-{n}-plan", payload=str(n).encode()) for n in range(7)]
    await asyncio.gather(*(provider.trigger(request, timeout=5) for request in requests))
    async with working(provider.worker(workflow)):
        await _wait_through(provider, requests)
    assert max(most) == 2
    await provider.close()


async def test_a_worker_that_cannot_ask_lets_go_when_its_lease_is_over(database_url: str) -> None:
    """Another one may have the run by then."""
    begun, let_go = asyncio.Event(), asyncio.Event()
    async with Proxy(target(database_url)).running() as proxy:
        provider = LocalProvider(settings=_settings(through(database_url, port=proxy.port)))

        async def workflow(_: bytes, step: Step) -> None:
            async def act() -> None:
                if begun.is_set():
                    return
                begun.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    let_go.set()

            await step("one", act)

        request = WorkflowRequest(execution_id="tenant-l-plan", payload=b"{}")
        with structlog.testing.capture_logs() as said:
            async with working(provider.worker(workflow)), asyncio.timeout(20):
                await provider.trigger(request, timeout=5)
                await begun.wait()
                async with proxy.cut():
                    await let_go.wait()
                [info] = (await _wait_through(provider, [request])).values()
        await provider.close()
    assert (info.state, info.attempt) == (ExecutionState.SUCCEEDED, 2)
    assert [line["event"] for line in said].count("the engine is unavailable") == 1


async def test_a_worker_stops_though_its_engine_is_away(
    database_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landlord.workflow.providers.local.worker.GRACE", 0.2)
    begun = asyncio.Event()

    async def workflow(_: bytes, step: Step) -> None:
        begun.set()
        await step("one", asyncio.Event().wait)

    async with Proxy(target(database_url)).running() as proxy:
        provider = LocalProvider(settings=_settings(through(database_url, port=proxy.port), workflow_local_lease=10))
        request = WorkflowRequest(execution_id="tenant-away-plan", payload=b"{}")
        stop = asyncio.Event()
        working = asyncio.create_task(provider.worker(workflow).run(stop))
        await provider.trigger(request, timeout=5)
        await begun.wait()
        async with proxy.cut():
            stop.set()
            with pytest.raises(ProviderUnavailable):
                await provider.register()
            await asyncio.wait_for(working, 20)
        await provider.close()
    assert _row(settings, request.execution_id)["state"] == "running"


async def test_a_failure_that_is_no_json_ends_its_run_alone(steady: LocalProvider) -> None:
    async def workflow(payload: bytes, step: Any) -> None:
        raise RunFailed(
            WorkflowFailure(code="Odd", message="m", details={"why": object()} if payload == b"odd" else {})
        )

    requests = [WorkflowRequest(execution_id=f"tenant-{name}-plan", payload=name.encode()) for name in ("odd", "even")]
    async with working(steady.worker(workflow)):
        await asyncio.gather(*(steady.trigger(request, timeout=5) for request in requests))
        odd, even = [await steady.wait(request.execution_id, timeout=5) for request in requests]
    assert odd.failure is not None
    assert (odd.state, odd.failure.code) == (ExecutionState.FAILED, "InternalError")
    assert even.failure == WorkflowFailure(code="Odd", message="m")


async def test_a_trigger_that_meets_another_one_under_way_says_whose_the_run_is(
    steady: LocalProvider, database_url: str
) -> None:
    """The other one's row is there for who inserts, and not yet for who reads."""
    request = WorkflowRequest(execution_id="tenant-meet-plan", payload=b"{}")
    with psycopg.connect(database_url) as other, psycopg.connect(database_url, autocommit=True) as observer:
        other.execute(
            "insert into local_executions (installation, execution_id, payload, digest) values (%s, %s, '', 'theirs')",
            [steady._store._installation, request.execution_id],
        )
        trigger = asyncio.create_task(steady.trigger(request, timeout=10))
        async with asyncio.timeout(10):
            while observer.execute("select from pg_locks where not granted").fetchone() is None:
                await asyncio.sleep(0.01)
        other.commit()
        result = await trigger
    assert (result.created, result.digest) == (False, "theirs")


async def test_what_one_run_takes_long_to_let_go_of_keeps_no_other_from_being_handed_back(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landlord.workflow.providers.local.worker.GRACE", 0.2)
    monkeypatch.setattr("landlord.workflow.providers.local.worker.LET_GO", 0.5)
    begun: set[bytes] = set()
    released = asyncio.Event()

    async def workflow(payload: bytes, step: Any) -> None:
        async def act() -> None:
            begun.add(payload)
            try:
                await asyncio.sleep(60)
            finally:
                if payload == b"slow":
                    await released.wait()

        await step("one", act)

    slow, quick = (
        WorkflowRequest(execution_id=f"tenant-{name}-plan", payload=name.encode()) for name in ("slow", "quick")
    )
    stop = asyncio.Event()
    working = asyncio.create_task(provider.worker(workflow).run(stop))
    for request in (slow, quick):
        await provider.trigger(request, timeout=5)
    async with asyncio.timeout(10):
        while len(begun) < 2:
            await asyncio.sleep(0.01)
        stop.set()
        while (await provider.get(quick.execution_id)).state is not ExecutionState.PENDING:
            await asyncio.sleep(0.05)
    assert (await provider.get(slow.execution_id)).state is ExecutionState.RUNNING
    released.set()
    await working


async def test_a_stopping_worker_hands_back_what_it_cannot_finish(
    provider: LocalProvider, settings: Settings, log: Log
) -> None:
    long = _request(log, ("one", 0.1), ("two", 7))
    async with process(settings) as first:
        await provider.trigger(long, timeout=5)
        await log.until("begin", "two")
        first.terminate()
        assert await asyncio.wait_for(first.wait(), 10) == 0
        info = await provider.get(long.execution_id)
        assert (info.state, info.attempt) == (ExecutionState.PENDING, 1)
        async with process(settings) as second:
            assert await log.until("begin", "two", pid=second.pid) == second.pid
            await provider.cancel(long.execution_id, reason="enough seen")
            await provider.wait(long.execution_id, timeout=5)
    assert Counter(step for what, step, _ in log() if what == "begin") == {"one": 1, "two": 2}


async def test_a_stopping_worker_finishes_what_it_can(provider: LocalProvider, settings: Settings, log: Log) -> None:
    short = _request(log, ("one", 1), ("two", 0.1))
    async with process(settings) as worker:
        await provider.trigger(short, timeout=5)
        await log.until("begin", "one")
        worker.terminate()
        await asyncio.wait_for(worker.wait(), 5)
    info = await provider.get(short.execution_id)
    assert (info.state, info.attempt) == (ExecutionState.SUCCEEDED, 1)


async def test_a_run_that_always_loses_its_worker_ends(provider: LocalProvider, settings: Settings) -> None:
    await provider.trigger(WorkflowRequest(execution_id="tenant-poison-plan", payload=b"{}"), timeout=5)
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        connection.execute(
            "update local_executions set attempts = 10 where execution_id = 'tenant-poison-plan' and installation = %s",
            [settings.installation],
        )

    async def workflow(payload: bytes, step: Any) -> None:
        raise AssertionError("must not run again")

    async with working(provider.worker(workflow)):
        info = await provider.wait("tenant-poison-plan", timeout=5)
    assert info.failure is not None
    assert (info.state, info.failure.code) == (ExecutionState.FAILED, "WorkerLost")


async def test_postgres_restarts_under_running_steps(own_postgres: PostgresServer, log: Log) -> None:
    settings = _settings(own_postgres.url(), workflow_local_lease=8)
    provider = LocalProvider(settings=settings)
    await provider.register()
    requests = [_request(log, ("one", 0.1), ("two", 3), ("three", 0.1), name=f"tenant-{n}-plan") for n in range(20)]
    async with process(settings):
        await asyncio.gather(*(provider.trigger(request, timeout=5) for request in requests))
        await log.until("begin", "two")
        await own_postgres.kill()
        with pytest.raises(ProviderUnavailable):
            await provider.ready()
        await asyncio.sleep(1)
        await own_postgres.start()
        infos = await _wait_through(provider, requests)
    assert {info.state for info in infos.values()} == {ExecutionState.SUCCEEDED}
    assert {info.attempt for info in infos.values()} == {1}
    assert Counter(step for what, step, _ in log() if what == "begin") == {"one": 20, "two": 20, "three": 20}
    await provider.close()


async def _wait_through(provider: LocalProvider, requests: Sequence[WorkflowRequest]) -> dict[str, Any]:
    ids = [request.execution_id for request in requests]
    async with asyncio.timeout(30):
        while True:
            with suppress(ProviderUnavailable):
                infos = await provider.get_many(ids)
                if len(infos) == len(ids) and all(info.state.ended for info in infos.values()):
                    return infos
            await asyncio.sleep(0.1)


async def test_connections_that_hang_cost_no_lease(
    database_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not break: a router has forgotten them, or their server has gone and another one has its address."""
    monkeypatch.setattr("landlord.workflow.providers.local.worker.GRACE", 0.2)
    async with Proxy(target(database_url)).running() as proxy:
        url = through(database_url, port=proxy.port)
        provider = LocalProvider(settings=_settings(url, workflow_local_lease=10, database_pool_size=4))
        begun, enough = asyncio.Event(), asyncio.Event()

        async def workflow(_: bytes, step: Step) -> None:
            begun.set()
            await step("one", enough.wait)

        request = WorkflowRequest(execution_id="tenant-h-plan", payload=b"{}")
        async with working(provider.worker(workflow)), asyncio.timeout(30):
            await provider.trigger(request, timeout=5)
            await begun.wait()
            await asyncio.gather(*(provider.get(request.execution_id) for _ in range(4)))
            proxy.hang()
            over = _row(settings, request.execution_id)["due_at"]
            while _row(settings, request.execution_id)["due_at"] <= over:
                await asyncio.sleep(0.05)
            enough.set()
            info = await provider.wait(request.execution_id, timeout=20)
        await provider.close()
    assert (info.state, info.attempt) == (ExecutionState.SUCCEEDED, 1)


async def test_ended_runs_are_forgotten_after_the_retention(provider: LocalProvider, settings: Settings) -> None:
    async def workflow(payload: bytes, step: Any) -> None:
        await step("one", _nothing)

    worker = LocalWorker(provider._store, workflow, concurrency=4, lease=LEASE, retention=1.0)
    request = WorkflowRequest(execution_id="tenant-a-plan", payload=b"{}")
    pending = WorkflowRequest(execution_id="tenant-b-plan", payload=b"{}")
    async with working(worker):
        await provider.trigger(request, timeout=5)
        await provider.wait(request.execution_id, timeout=5)
        async with asyncio.timeout(10):
            while await provider.get_many([request.execution_id]):
                await asyncio.sleep(0.1)
    await provider.trigger(pending, timeout=5)
    assert await provider._store.purge(retention=0) == 0
    assert (await provider.trigger(request, timeout=5)).created
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        steps = connection.execute("select count(*) from local_steps where installation = %s", [settings.installation])
        assert steps.fetchone() == (0,)


async def test_installations_do_not_see_each_other(provider: LocalProvider, database_url: str) -> None:
    other = LocalProvider(settings=_settings(database_url))
    request = WorkflowRequest(execution_id="tenant-a-plan", payload=b"{}")
    theirs = WorkflowRequest(execution_id="tenant-a-plan", payload=b'{"their": "own"}')
    assert (await provider.trigger(request, timeout=5)).created
    assert await other.get_many([request.execution_id]) == {}
    with pytest.raises(ExecutionNotFound):
        await other.cancel(request.execution_id, reason="not theirs")
    assert (await other.trigger(theirs, timeout=5)).created
    assert (await provider.trigger(theirs, timeout=5)).digest == request.digest
    assert (await other.trigger(request, timeout=5)).digest == theirs.digest
    [claimed] = await other._store.claim(most=10, worker="x")
    assert (await other._store.checkpoint(Checkpoint(hold=claimed.hold, name="s", output='"theirs"'))).held
    assert (await provider.get(request.execution_id)).state is ExecutionState.PENDING
    [ours] = await provider._store.claim(most=10, worker="y")
    assert ours.done == {}
    assert (await provider._store.checkpoint(Checkpoint(hold=ours.hold, name="t", output='"ours"'))).held
    await provider.cancel(request.execution_id, reason="gone", force=True)
    assert await provider._store.purge(retention=-1) == 1
    assert (await other.get(request.execution_id)).state is ExecutionState.RUNNING
    assert await other._store.finish(Ending(hold=claimed.hold, state=ExecutionState.SUCCEEDED))
    assert await provider._store.purge(retention=-1) == 0
    assert (await other.get(request.execution_id)).state is ExecutionState.SUCCEEDED
    await other.close()


async def started(steady: LocalProvider) -> Claimed:
    """A run of that name, claimed."""
    name = f"tenant-{uuid.uuid4().hex[:8]}-plan"
    assert (await steady.trigger(WorkflowRequest(execution_id=name, payload=b"{}"), timeout=5)).created
    [claimed] = await steady._store.claim(most=1, worker="one")
    assert claimed.hold.execution_id == name
    return claimed


async def test_what_waits_longest_is_claimed_first_and_no_more_than_asked_for(steady: LocalProvider) -> None:
    names = [f"tenant-{letter}-plan" for letter in "bac"]
    for name in names:
        await steady.trigger(WorkflowRequest(execution_id=name, payload=b"{}"), timeout=5)
    first = await steady._store.claim(most=2, worker="one")
    second = await steady._store.claim(most=2, worker="two")
    assert sorted(each.hold.execution_id for each in first) == sorted(names[:2])
    assert [each.hold.execution_id for each in second] == names[2:]


async def test_what_another_is_just_claiming_is_not_waited_for(steady: LocalProvider, settings: Settings) -> None:
    names = ["tenant-a-plan", "tenant-b-plan"]
    for name in names:
        await steady.trigger(WorkflowRequest(execution_id=name, payload=b"{}"), timeout=5)
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        connection.execute("select 1 from local_executions where execution_id = %s for update", names[:1])
        [claimed] = await steady._store.claim(most=5, worker="one")
    assert claimed.hold.execution_id == names[1]


async def test_a_run_whose_end_is_recorded_is_not_called_lost(
    steady: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By leases that are renewed just then: nobody holds it any more."""

    async def execute(_: bytes, __: Step) -> None:
        return None

    claimed, store = await started(steady), steady._store
    run = Run(claimed, store=store, execute=execute, lease=10, asked_at=time.monotonic())
    finish = store.finish

    async def finish_and_renew(ending: Ending) -> bool:
        recorded = await finish(ending)
        run.judge((await store.renew([claimed.hold]))[claimed.hold], asked_at=time.monotonic())
        await asyncio.sleep(0)
        return recorded

    monkeypatch.setattr(store, "finish", finish_and_renew)
    with structlog.testing.capture_logs() as said:
        await asyncio.create_task(run())
    assert [(line["event"], line["state"]) for line in said] == [("run ended", "succeeded")]


async def test_a_step_that_is_done_again_keeps_what_it_said_last_and_the_lease(
    steady: LocalProvider, settings: Settings
) -> None:
    claimed = await started(steady)
    before = _row(settings, claimed.hold.execution_id)
    for output in ('"first"', '"last"'):
        assert (await steady._store.checkpoint(Checkpoint(hold=claimed.hold, name="s", output=output))).held
    row = _row(settings, claimed.hold.execution_id)
    assert row["step"] == "s"
    assert row["due_at"] > before["due_at"]
    assert (await steady._store.renew([claimed.hold]))[claimed.hold].held
    assert _row(settings, claimed.hold.execution_id)["due_at"] > row["due_at"]
    await steady._store.hand_back([claimed.hold])
    [again] = await steady._store.claim(most=1, worker="two")
    assert again.done == {"s": "last"}


async def test_what_is_handed_back_is_anybodys_and_costs_no_attempt(steady: LocalProvider, settings: Settings) -> None:
    claimed = await started(steady)
    began = _row(settings, claimed.hold.execution_id)["started_at"]
    await steady._store.hand_back([claimed.hold])
    row = _row(settings, claimed.hold.execution_id)
    assert (row["state"], row["worker"], row["attempts"]) == ("pending", None, 0)
    assert not await steady._store.finish(Ending(hold=claimed.hold, state=ExecutionState.SUCCEEDED))
    [again] = await steady._store.claim(most=1, worker="two")
    assert (again.attempt, again.hold.fence > claimed.hold.fence) == (1, True)
    assert not (await steady._store.renew([claimed.hold]))[claimed.hold].held
    assert _row(settings, claimed.hold.execution_id)["started_at"] == began


async def test_a_cancel_ends_what_nobody_holds_and_is_a_wish_to_who_does(
    steady: LocalProvider, settings: Settings
) -> None:
    waiting = WorkflowRequest(execution_id="tenant-w-delete", payload=b"{}")
    claimed = await started(steady)
    await steady.trigger(waiting, timeout=5)
    for reason in ("fi\x00rst", "second"):
        await steady.cancel(claimed.hold.execution_id, reason=reason)
        await steady.cancel(waiting.execution_id, reason=reason)
    ended, running = _row(settings, waiting.execution_id), _row(settings, claimed.hold.execution_id)
    assert (ended["state"], ended["cancel_reason"], ended["due_at"]) == ("cancelled", "first", None)
    assert ended["ended_at"] is not None
    assert (await steady.get(waiting.execution_id)).failure == WorkflowFailure(code="Cancelled", message="first")
    assert (running["state"], running["cancel_reason"], running["ended_at"]) == ("running", "first", None)
    assert (running["failure"], running["fence"]) == (None, claimed.hold.fence)
    assert (await steady._store.renew([claimed.hold]))[claimed.hold].cancel_reason == "first"
    assert await steady._store.finish(Ending(hold=claimed.hold, state=ExecutionState.SUCCEEDED))
    row = _row(settings, claimed.hold.execution_id)
    assert (row["state"], row["due_at"]) == ("succeeded", None)
    assert row["ended_at"] is not None
    assert await steady._store.purge(retention=60) == 0


async def test_missing_tables_are_explained(empty_database_url: str) -> None:
    provider = LocalProvider(settings=_settings(empty_database_url))
    request = WorkflowRequest(execution_id="tenant-a-plan", payload=b"{}")
    with pytest.raises(ProviderUnavailable, match="landlord migrate"):
        await provider.ready()
    with pytest.raises(ProviderUnavailable, match="landlord migrate"):
        await provider.trigger(request, timeout=5)
    await asyncio.gather(provider.register(), provider.register())
    await provider.ready()
    assert (await provider.trigger(request, timeout=5)).created
    await provider.close()


async def test_five_hundred_runs(provider: LocalProvider) -> None:
    async def workflow(payload: bytes, step: Any) -> str:
        for name in ("plan", "apply", "healthy"):
            await step(name, _nothing)
        return "done"

    requests = [WorkflowRequest(execution_id=f"tenant-{n}-plan", payload=b"{}") for n in range(500)]
    heard: set[str] = set()

    async def listen() -> None:
        async for execution_id in provider.completions():
            heard.add(execution_id)

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.3)
    async with working(provider.worker(workflow)):
        results = await asyncio.gather(*(provider.trigger(request, timeout=20) for request in requests))
        infos = await _wait_through(provider, requests)
    await asyncio.sleep(0.3)
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening
    assert all(result.created for result in results)
    assert {(info.state, info.output, info.attempt) for info in infos.values()} == {
        (ExecutionState.SUCCEEDED, "done", 1)
    }
    heard.discard("")  # what may have been missed before the connection was there
    assert heard == {request.execution_id for request in requests}


async def _nothing() -> None:
    return None
