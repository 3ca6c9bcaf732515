"""Crash safety: a real process is killed around each of its calls to the outside, one run after another.

For every path the calls are first counted at the proxies, then the path is run again for each of them: killed before
the call, killed after it, its reply lost, the call late. The process is started again, and then: what was accepted is
not lost, never were two runs of a tenant under way at once, exactly one run succeeded for each (generation, action),
and the tenant has converged.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import psycopg
import pytest
from fixtures.turns import CRASHES, Fault, Turns, proxy
from fixtures.warm import Process
from psycopg.rows import dict_row

pytestmark = pytest.mark.timeout(600)

SETTLED = {"ready", "failed", "deleted"}


@dataclass(slots=True, kw_only=True)
class World:
    """The processes of an installation; one of them, the victim, reaches the outside through proxies."""

    api: Process
    worker: Process
    controller: Process
    victim: Process
    turns: Turns
    database_url: str
    session: aiohttp.ClientSession

    async def send(self, method: str, path: str, body: Any = None, *, key: str) -> int | None:
        """A client's call; the status, or null if there was no answer."""
        try:
            async with self.session.request(
                method, self.api.url + path, json=body, headers={"Idempotency-Key": key}
            ) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, OSError):
            return None

    async def record(self, tenant: str) -> dict[str, Any] | None:
        async with await psycopg.AsyncConnection.connect(self.database_url, row_factory=dict_row) as connection:
            found = await connection.execute("select * from tenants where id = %s", (tenant,))
            return await found.fetchone()

    async def converged(self, tenant: str) -> dict[str, Any]:
        """The record once nothing is left to do."""
        async with asyncio.timeout(30):
            while not (record := await self.has_converged(tenant)):
                await asyncio.sleep(0.03)
            return record

    async def has_converged(self, tenant: str) -> dict[str, Any] | None:
        record = await self.record(tenant)
        if record is not None and record["status"] in SETTLED and record["workflow_execution_id"] is None:
            return record
        return None

    async def check(self, tenant: str) -> None:
        """What must hold of the history of a tenant, whatever happened."""
        async with await psycopg.AsyncConnection.connect(self.database_url, row_factory=dict_row) as connection:
            found = await connection.execute(
                "select l.* , e.generation, e.action, e.incarnation from local_executions l "
                "join executions e using (execution_id) where e.tenant_id = %s order by l.started_at",
                (tenant,),
            )
            runs = await found.fetchall()
            unknown = await connection.execute(
                "select execution_id from executions e where tenant_id = %s and sent_at is not null and not exists "
                "(select 1 from local_executions l where l.execution_id = e.execution_id)",
                (tenant,),
            )
            assert not await unknown.fetchall(), "a sent run was never made known to the engine"
        started = [run for run in runs if run["started_at"] is not None]
        for one, other in itertools.pairwise(started):
            assert one["ended_at"] <= other["started_at"], f"two runs at once: {one} {other}"
        successes = Counter(
            (run["incarnation"], run["generation"], run["action"]) for run in runs if run["state"] == "succeeded"
        )
        assert all(times == 1 for times in successes.values()), successes
        assert all(run["ended_at"] is not None for run in runs), "a run is left"


@asynccontextmanager
async def world(victim: str, *, database_url: str, folder: Path) -> AsyncIterator[World]:
    """An installation in which ``victim`` (api, controller or worker) goes through the proxies."""
    turns = Turns()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(proxy(turns, upstream=_socket(database_url)))
        settings = {
            "LANDLORD_WORKFLOW_TRIGGER_TIMEOUT": "0.5",
            "LANDLORD_WORKFLOW_LOCAL_LEASE": "0.6",
            "LANDLORD_RETRY_BACKOFF": "0.05",
            "LANDLORD_COMPUTE_PROVIDERS": "mock",
            "LANDLORD_KUBERNETES_MIRROR": "false",
            "LANDLORD_LOG_FORMAT": "console",
        }

        def process(command: str) -> Process:
            url = _through(database_url, port) if command == victim else database_url
            return Process(
                command, environment={**settings, "LANDLORD_DATABASE_URL": url}, log=folder / f"{command}.log"
            )

        processes = {command: process(command) for command in ("api", "worker", "controller")}
        turns.kill = processes[victim].kill
        for each in processes.values():
            stack.push_async_callback(each.stop)
        await asyncio.gather(*(each.start() for each in processes.values()))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)))
        yield World(**processes, victim=processes[victim], turns=turns, database_url=database_url, session=session)


def _socket(url: str) -> Path:
    folder = unquote(parse_qs(urlsplit(url).query)["host"][0])
    return Path(folder) / ".s.PGSQL.5432"


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    return f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}?sslmode=disable&gssencmode=disable"


Step = Callable[[World, str], Awaitable[int | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way through the system: what is done before the fault, the request it happens to, and how it must end."""

    name: str
    prepare: tuple[tuple[str, str, Any], ...]
    request: tuple[str, str, Any]
    ends: str
    generation: int


CREATE = ("POST", "/api/tenants", {"compute_provider": "mock", "compute_config": {"v": 1}})
FAILING = ("POST", "/api/tenants", {"compute_provider": "mock", "compute_config": {"permanent_error": "no"}})
UPDATE = ("PUT", "/api/tenants/{id}", {"compute_config": {"v": 2}})
RETRY = ("POST", "/api/tenants/{id}/retry", {"compute_config": {"v": 3}})
DELETE = ("DELETE", "/api/tenants/{id}", None)
PATHS = [
    Way(name="create", prepare=(), request=CREATE, ends="ready", generation=1),
    Way(name="update", prepare=(CREATE,), request=UPDATE, ends="ready", generation=2),
    Way(name="delete", prepare=(CREATE,), request=DELETE, ends="deleted", generation=1),
    Way(name="retry", prepare=(FAILING,), request=RETRY, ends="ready", generation=2),
]


async def send(world: World, tenant: str, request: tuple[str, str, Any], *, key: str) -> int | None:
    method, path, body = request
    if body is not None and path == "/api/tenants":
        body = {"id": tenant, **body}
    return await world.send(method, path.format(id=tenant), body, key=key)


async def answered(world: World, tenant: str, request: tuple[str, str, Any], *, key: str) -> None:
    """A client that got no answer asks again with its key, and is answered as if it had got one."""
    async with asyncio.timeout(20):
        while (status := await send(world, tenant, request, key=key)) not in (200, 202):
            assert status in (500, 503, None), status
            await asyncio.sleep(0.1)


async def run(world: World, path: Way, *, at: int, fault: Fault) -> bool:
    """One run with one fault; whether the fault happened."""
    tenant = f"t{uuid.uuid4().hex[:10]}"
    for number, request in enumerate(path.prepare):
        await answered(world, tenant, request, key=f"{tenant}-{number}")
        await world.converged(tenant)
    before = await world.record(tenant)
    key = f"{tenant}-request"
    world.turns.arm(at=at, fault=fault)
    status = await send(world, tenant, path.request, key=key)
    if world.victim is world.api:
        world.turns.disarm()
    else:
        async with asyncio.timeout(30):
            while not (world.turns.happened.is_set() or await world.has_converged(tenant)):
                await asyncio.sleep(0.02)
        world.turns.disarm()
    happened_at_all = world.turns.happened.is_set()
    if happened_at_all and fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER):
        await world.victim.gone()
        await world.victim.start()
    assert status in (202, 500, 503, None), status
    record = await world.record(tenant)
    accepted = record is not None and (before is None or record["version"] > before["version"])
    if status in (202, 500):
        assert accepted, f"answered {status} and nothing was recorded"
    if accepted:  # the client need not do anything more
        await world.converged(tenant)
    await answered(world, tenant, path.request, key=key)
    record = await world.converged(tenant)
    assert record["status"] == path.ends, record["status_message"]
    assert record["generation"] == path.generation
    await world.check(tenant)
    return happened_at_all


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
@pytest.mark.parametrize("victim", ["api", "controller", "worker"])
async def test_every_call_of(victim: str, path: Way, test_database_url: str, tmp_path: Path) -> None:
    async with world(victim, database_url=test_database_url, folder=tmp_path) as installation:
        assert not await run(installation, path, at=0, fault=Fault.KILL_BEFORE)
        calls = installation.turns.count
        assert calls >= 2, "the victim was not seen to call anything"
        happened = Counter[Fault]()
        for fault in CRASHES:
            for at in range(1, calls + 1):
                happened[fault] += await run(installation, path, at=at, fault=fault)
        for fault in CRASHES:
            assert happened[fault] >= calls // 2, f"{fault} happened {happened[fault]} times in {calls} calls"
