"""The one writing statement, on a real Postgres: compare-and-set, batches, faults of one, and everything together."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from fixtures.proxy import Proxy, target, through
from msgspec import Struct
from msgspec.structs import replace
from pydantic import SecretStr

from landlord.database import engine
from landlord.database.engine import Database, DatabaseUnavailable
from landlord.database.statement import Statement
from landlord.tenants import runs
from landlord.tenants.accept import accept
from landlord.tenants.acceptance import Validation
from landlord.tenants.commands import Create, Delete, Replace, Request
from landlord.tenants.model import Action, Change, Door, Execution, IdempotencyKey, Snapshot, Status, Tenant
from landlord.tenants.repository import Filter, Repository
from landlord.tenants.runs import Policy
from landlord.tenants.service import after

POLICY = Policy(installation="test", provider="local", complete=lambda _, config: dict(config))
VALIDATION = Validation(default_provider="mock", faults=lambda _, __: [], check=lambda _: None)

WAITING = Statement(
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(SecretStr(database_url), pool_size=8) as database:
        yield database


@pytest.fixture
def repository(database: Database) -> Repository:
    return Repository(database)


def decide_on(snapshot: Snapshot, command: Any, *, key: IdempotencyKey | None = None) -> Change:
    request = Request(tenant_id=snapshot.id, command=command, who="tester", door=Door.API, key=key)
    change = accept(snapshot, request, policy=POLICY, validation=VALIDATION).change
    assert change is not None
    return change


def unique(prefix: str = "t") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


async def create(repository: Repository, tenant_id: str, **config: Any) -> Snapshot:
    change = decide_on(await repository.load(tenant_id), Create(compute_config={"image": "x", **config}))
    assert await repository.commit(change)
    return await repository.load(tenant_id)


@pytest.mark.parametrize(("table", "model"), [("tenants", Tenant), ("executions", Execution)])
async def test_columns_are_the_fields_of_the_model(database: Database, table: str, model: type[Struct]) -> None:
    listing = Statement("select column_name from information_schema.columns where table_name = :table")
    columns = {row.column_name for row in await database.execute(listing, table=table)}
    assert columns - {"seq"} == set(model.__struct_fields__)


async def test_what_was_committed_is_what_is_loaded(repository: Repository) -> None:
    tenant_id = unique()
    empty = await repository.load(tenant_id)
    assert empty.tenant is None
    change = decide_on(empty, Create(compute_config={"image": "x", "n": 1.5}, labels={"a": "b"}))
    assert await repository.commit(change)
    found = await repository.load(tenant_id)
    assert found == replace(after(empty, change), now=found.now)


async def test_a_stale_change_is_refused_and_writes_nothing(repository: Repository, database: Database) -> None:
    snapshot = await create(repository, unique())
    first = decide_on(snapshot, Replace(compute_config={"image": "y"}))
    second = decide_on(snapshot, Delete())
    assert await repository.commit(first)
    assert not await repository.commit(second)
    found = await repository.load(snapshot.id)
    assert found.tenant is not None
    assert found.tenant.status is Status.PLANNING
    assert found.tenant.compute_config == {"image": "y"}
    assert [line.event for _, line in await repository.audit(snapshot.id, before=2**62, limit=10)] == [
        "change spec",
        "create",
    ]
    assert len(await repository.executions(snapshot.id, before=2**62, limit=10)) == 1


async def test_a_change_whose_answer_was_lost_is_looked_for_in_the_trail(
    repository: Repository, database_url: str
) -> None:
    """Whoever asked would else be told 503 for what is stored, and the reconciler not trigger what it has sent."""
    tenant_id = unique()
    async with (
        Proxy(target(database_url)).running() as proxy,
        Database(SecretStr(through(database_url, port=proxy.port)), pool_size=1) as far,
    ):
        created = decide_on(await Repository(far).load(tenant_id), Create(compute_config={}))
        async with proxy.deaf(), asyncio.timeout(10):
            writing = asyncio.create_task(Repository(far).commit(created))
            while (await repository.load(tenant_id)).tenant is None:
                await asyncio.sleep(0.01)
        assert await writing
        change = decide_on(await repository.load(tenant_id), Delete())
        async with proxy.cut():
            with pytest.raises(DatabaseUnavailable):
                await Repository(far).commit(change)
        assert await repository.commit(change), "it was not stored"


async def test_ends_sends_and_inserts_go_together_under_the_unique_indexes(repository: Repository) -> None:
    """Closing the sent run, sending the waiting one and inserting another waiting one is one statement."""
    snapshot = await create(repository, unique())
    deletion = decide_on(snapshot, Delete())
    assert await repository.commit(deletion)
    snapshot = await repository.load(snapshot.id)
    assert snapshot.tenant is not None
    assert snapshot.sent is not None
    assert snapshot.waiting is not None
    ended = replace(snapshot.sent, ended_at=snapshot.now)
    sent = runs.freeze(snapshot.waiting, tenant=snapshot.tenant, now=snapshot.now, policy=POLICY)
    tenant, added = runs.new_run(
        tenant=snapshot.tenant, action=Action.DELETE, source=Door.API, now=snapshot.now, policy=POLICY, send=False
    )
    change = Change(
        tenant=replace(tenant, revision=tenant.revision + 1),
        expected=tenant.revision,
        updated=(sent, ended),
        added=added,
        audit=None,
    )
    assert await repository.commit(change)
    found = await repository.load(snapshot.id)
    assert found.sent is not None
    assert found.sent.execution_id == sent.execution_id
    assert found.sent.payload == sent.payload
    assert found.waiting is not None
    assert found.waiting.execution_id == added.execution_id


async def test_two_open_runs_of_one_tenant_cannot_be_written(repository: Repository) -> None:
    snapshot = await create(repository, unique())
    assert snapshot.tenant is not None
    tenant, added = runs.new_run(
        tenant=snapshot.tenant, action=Action.UPDATE, source=Door.API, now=snapshot.now, policy=POLICY, send=True
    )
    change = Change(tenant=replace(tenant, revision=2), expected=1, added=added, audit=None)
    with pytest.raises(psycopg.IntegrityError):
        await repository.commit(change)
    assert (await repository.load(snapshot.id)).tenant == snapshot.tenant


async def test_only_the_culprit_of_a_batch_fails(repository: Repository) -> None:
    good = [unique("good") for _ in range(20)]
    bad = unique("bad")
    change = decide_on(await repository.load(bad), Create(compute_config={"image": "x"}))
    poisoned = replace(change, tenant=replace(change.tenant, compute_config={"image": "\x00"}))
    results = await asyncio.gather(
        *(create(repository, tenant_id) for tenant_id in good), repository.commit(poisoned), return_exceptions=True
    )
    assert isinstance(results[-1], psycopg.DataError)
    assert all(isinstance(result, Snapshot) and result.tenant is not None for result in results[:-1])
    assert (await repository.load(bad)).tenant is None


async def test_a_key_is_taken_once(repository: Repository) -> None:
    key = IdempotencyKey(caller="c", method="POST", path="/api/tenants", key=unique(), body_digest="d")
    one, two = unique(), unique()
    first = decide_on(await repository.load(one), Create(compute_config={}), key=key)
    second = decide_on(await repository.load(two), Create(compute_config={}), key=key)
    assert await repository.commit(first)
    with pytest.raises(psycopg.IntegrityError):
        await repository.commit(second)
    stored = await repository.key(key)
    assert stored is not None
    assert stored.execution_id == f"tenant-{one}-plan"
    assert (await repository.load(two)).tenant is None


async def test_a_key_belongs_to_caller_method_and_path(repository: Repository) -> None:
    key = IdempotencyKey(caller="c", method="POST", path="/api/tenants", key=unique(), body_digest="d")
    assert await repository.commit(decide_on(await repository.load(unique()), Create(compute_config={}), key=key))
    assert await repository.key(key) is not None
    for other in ({"caller": "d"}, {"method": "PUT"}, {"path": "/api/tenants/a"}, {"key": unique()}):
        assert await repository.key(replace(key, **other)) is None


async def test_concurrent_creates_make_one_tenant(repository: Repository) -> None:
    tenant_id = unique()
    snapshot = await repository.load(tenant_id)
    results = await asyncio.gather(
        *(repository.commit(decide_on(snapshot, Create(compute_config={"n": n}))) for n in range(50))
    )
    assert sum(results) == 1
    assert len(await repository.audit(tenant_id, before=2**62, limit=100)) == 1


async def test_two_processes_never_deadlock_and_lose_nothing(database_url: str) -> None:
    """Every applied change raised the revision by one and left one line in the trail."""
    ids = [unique(f"h{number}") for number in range(20)]
    applied = 0

    async def hammer(repository: Repository, seed: int) -> None:
        nonlocal applied
        chance = random.Random(seed)
        for _ in range(15):
            chosen = chance.sample(ids, 10)
            snapshots = await asyncio.gather(*(repository.load(tenant_id) for tenant_id in chosen))
            changes = [
                decide_on(s, Replace(compute_config={"n": chance.random()}) if s.tenant else Create(compute_config={}))
                for s in snapshots
            ]
            results = await asyncio.gather(*(repository.commit(change) for change in changes))
            applied += sum(results)

    async with (
        Database(SecretStr(database_url), pool_size=4) as one,
        Database(SecretStr(database_url), pool_size=4) as two,
    ):
        await asyncio.gather(*(hammer(Repository(one if n % 2 else two), n) for n in range(6)))
        repository = Repository(one)
        revisions = 0
        for tenant_id in ids:
            found = await repository.load(tenant_id)
            assert found.tenant is not None
            trail = await repository.audit(tenant_id, before=2**62, limit=1000)
            assert len(trail) == found.tenant.revision
            revisions += found.tenant.revision
    assert revisions == applied


async def test_pages_go_through_everything_once(repository: Repository) -> None:
    prefix = unique("page")
    wanted = [f"{prefix}-{n:02d}" for n in range(7)]
    for tenant_id in wanted:
        change = decide_on(await repository.load(tenant_id), Create(compute_config={}, labels={"page": prefix}))
        assert await repository.commit(change)
    chosen = Filter(labels={"page": prefix}, status=Status.PLANNING, compute_provider="mock")
    first = await repository.page(filter=chosen, after=None, limit=4)
    second = await repository.page(filter=chosen, after=first[-1].id, limit=4)
    assert [snapshot.id for snapshot in (*first, *second)] == wanted
    assert len(first) == 4
    assert all(snapshot.head is not None for snapshot in first)
    assert await repository.count(filter=chosen) == 7
    others = (
        Filter(labels={"page": "another"}),
        Filter(labels={"page": prefix}, status=Status.READY),
        Filter(labels={"page": prefix}, compute_provider="docker"),
    )
    for other in others:
        assert await repository.page(filter=other, after=None, limit=4) == []
        assert await repository.count(filter=other) == 0


async def test_pages_of_resources_go_through_every_row_once(repository: Repository) -> None:
    prefix = unique("row")
    wanted = [(await create(repository, f"{prefix}-{n}")).id for n in reversed(range(3))]
    found = [prefix]
    while page := await repository.resources(after=found[-1], limit=2):
        assert len(page) <= 2
        found += [row["id"] for row in page]
    assert [name for name in found[1:] if name.startswith(prefix)] == sorted(wanted)
    assert len(found) == len(set(found))


async def test_what_has_converged_is_no_longer_waited_for(repository: Repository) -> None:
    ready = await create(repository, unique())
    assert ready.tenant is not None
    tenant = replace(ready.tenant, status=Status.READY, revision=2)
    assert await repository.commit(Change(tenant=tenant, expected=1, audit=None))
    await create(repository, unique())
    found = {line.status: line.oldest for line in await repository.in_flight()}
    assert found[Status.PLANNING] > 0
    assert found[Status.READY] == 0


async def test_claims_are_exclusive_and_leave_the_revision_alone(repository: Repository) -> None:
    snapshot = await create(repository, unique())
    assert snapshot.tenant is not None
    await repository.look_at(snapshot.tenant, seconds=-1)
    claimed = await asyncio.gather(*(repository.claim(limit=1000, lease=30) for _ in range(4)))
    assert sum(ids.count(snapshot.id) for ids in claimed) == 1
    found = await repository.load(snapshot.id)
    assert found.tenant is not None
    assert found.tenant.revision == snapshot.tenant.revision


@pytest.mark.parametrize("what", ["look", "wake"])
async def test_rows_are_locked_in_the_order_in_which_commits_do_it(
    repository: Repository, database: Database, what: str
) -> None:
    """Or batches of two processes would wait for each other: a second at least, and one of them fails."""
    one, two = sorted([unique(), unique()])
    tenants = [(await create(repository, tenant_id)).tenant for tenant_id in (two, one)]
    async with await psycopg.AsyncConnection.connect(database.conninfo) as other:
        await other.execute("select from tenants where id = %s for update", [one])
        if what == "look":
            writing = asyncio.gather(*(repository.look_at(tenant, seconds=5) for tenant in tenants if tenant))
        else:
            writing = asyncio.gather(repository.wake())
        async with asyncio.timeout(10):
            while not (await database.execute(WAITING))[0].count:
                await asyncio.sleep(0.01)
        await other.execute("select from tenants where id = %s for update", [two])
        await other.commit()
        await writing
    due = [await due_in(repository, tenant_id) for tenant_id in (one, two)]
    assert all(seconds is not None and seconds <= 5 for seconds in due), due


async def test_nobody_waits_for_what_its_user_has_paused(test_database_url: str) -> None:
    """The alert on what has not moved for long would stay for as long as anything is paused."""
    async with Database(SecretStr(test_database_url), pool_size=2) as database:
        repository = Repository(database)
        change = decide_on(await repository.load("paused"), Create(compute_config={}, paused=True))
        assert await repository.commit(change)
        assert [(line.tenants, line.oldest) for line in await repository.in_flight()] == [(1, 0)]
        await create(repository, "moving")
        assert max(line.oldest for line in await repository.in_flight()) > 0


async def due_in(repository: Repository, tenant_id: str) -> float | None:
    """Seconds until somebody looks at it; null if nobody does."""
    found = await repository.load(tenant_id)
    assert found.tenant is not None
    due = found.tenant.next_check_at
    return None if due is None else (due - found.now).total_seconds()


async def test_who_is_due_is_claimed_the_longest_waiting_first(repository: Repository) -> None:
    await repository.claim(limit=1000, lease=600)
    later, longest, short = [(await create(repository, unique())).tenant for _ in range(3)]
    assert later is not None
    assert longest is not None
    assert short is not None
    for tenant, seconds in ((later, 600), (longest, -20), (short, -10)):
        await repository.look_at(tenant, seconds=seconds)
    assert await repository.claim(limit=1, lease=30) == [longest.id]
    assert await repository.claim(limit=10, lease=30) == [short.id]
    assert await repository.claim(limit=10, lease=30) == []


async def test_who_was_changed_meanwhile_is_looked_at_when_the_change_says(repository: Repository) -> None:
    snapshot = await create(repository, unique())
    assert snapshot.tenant is not None
    assert await repository.commit(decide_on(snapshot, Replace(compute_config={"image": "y"})))
    before = await due_in(repository, snapshot.id)
    await repository.look_at(snapshot.tenant, seconds=None)
    after_it = await due_in(repository, snapshot.id)
    assert before is not None
    assert after_it is not None
    assert after_it == pytest.approx(before, abs=5)


async def test_an_engine_that_is_back_wakes_who_waits_and_nobody_else(repository: Repository) -> None:
    waits, settled = [(await create(repository, unique())).tenant for _ in range(2)]
    assert waits is not None
    assert settled is not None
    await repository.look_at(waits, seconds=600)
    await repository.look_at(settled, seconds=None)
    await repository.wake()
    seconds = await due_in(repository, waits.id)
    assert seconds is not None
    assert seconds <= 0
    assert await due_in(repository, settled.id) is None


async def buried(repository: Repository, snapshot: Snapshot, *, deleted_at: datetime) -> None:
    """Its run has ended and its tombstone is that old."""
    assert snapshot.tenant is not None
    assert snapshot.sent is not None
    tenant = replace(
        snapshot.tenant, status=Status.DELETED, deleted_at=deleted_at, revision=snapshot.tenant.revision + 1
    )
    ended = replace(snapshot.sent, ended_at=snapshot.now)
    assert await repository.commit(
        Change(tenant=tenant, expected=snapshot.tenant.revision, updated=(ended,), audit=None)
    )


async def test_old_tombstones_go_and_nothing_else(repository: Repository) -> None:
    living, old, recent = [await create(repository, unique()) for _ in range(3)]
    await buried(repository, old, deleted_at=old.now - timedelta(hours=2))
    await buried(repository, recent, deleted_at=recent.now - timedelta(minutes=30))
    await repository.purge(tombstones=3600, keys=86400)
    assert (await repository.load(old.id)).tenant is None
    assert (await repository.load(living.id)).tenant is not None
    assert (await repository.load(recent.id)).tenant is not None


async def test_what_remains_of_a_tombstone_is_of_its_last_life(repository: Repository) -> None:
    tenant_id = unique()
    for life in (1, 2):
        snapshot = await create(repository, tenant_id)
        await buried(repository, snapshot, deleted_at=snapshot.now - timedelta(hours=2))
        await repository.purge(tombstones=3600, keys=86400)
        remains = (await repository.load(tenant_id)).remains
        assert (remains.generation, remains.version, remains.counters) == (life, life, {"plan": life})


async def test_a_change_of_a_tenant_that_was_purged_is_refused(repository: Repository) -> None:
    snapshot = await create(repository, unique())
    late = decide_on(snapshot, Replace(compute_config={"image": "y"}))
    await buried(repository, snapshot, deleted_at=snapshot.now - timedelta(hours=2))
    await repository.purge(tombstones=3600, keys=86400)
    assert not await repository.commit(late)
    assert (await repository.load(snapshot.id)).tenant is None


async def test_what_was_refused_is_told_to_nobody(repository: Repository, database_url: str) -> None:
    snapshot = await create(repository, unique())
    changes = [decide_on(snapshot, Replace(compute_config={"image": image})) for image in ("y", "z")]
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("listen landlord_tenants")
        assert [await repository.commit(change) for change in changes] == [True, False]
        await connection.execute("notify landlord_tenants, 'the end'")
        heard = []
        async for notification in connection.notifies(timeout=10):
            heard.append(notification.payload)
            if heard[-1] == "the end":
                break
    assert heard == [snapshot.id, "the end"]


async def test_a_purged_tombstone_leaves_its_counters(repository: Repository, database: Database) -> None:
    snapshot = await create(repository, unique())
    assert snapshot.tenant is not None
    gone = replace(
        snapshot.tenant,
        status=Status.DELETED,
        deleted_at=datetime(2020, 1, 1, tzinfo=UTC),
        revision=2,
        workflow_execution_id=None,
    )
    assert snapshot.sent is not None
    change = Change(tenant=gone, expected=1, updated=(replace(snapshot.sent, ended_at=snapshot.now),), audit=None)
    assert await repository.commit(change)
    await repository.purge(tombstones=3600, keys=86400)
    found = await repository.load(snapshot.id)
    assert found.tenant is None
    again = decide_on(found, Create(compute_config={}))
    assert again.tenant.generation == 2
    assert again.added is not None
    assert again.added.execution_id == f"tenant-{snapshot.id}-plan-2"


async def test_what_has_gathered_for_long_is_purged_in_parts(
    test_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once would take longer than a statement may, and be undone, every time."""
    with psycopg.connect(test_database_url, autocommit=True) as connection:
        connection.execute(
            """insert into idempotency_keys
            select 'c', 'POST', '/', n::text, '', gen_random_uuid(), null, now() - interval '2 days'
            from generate_series(1, 200) n"""
        )
        connection.execute(
            """create function slowly() returns trigger language plpgsql
            as 'begin perform pg_sleep(0.005); return old; end';
            create trigger slow before delete on idempotency_keys for each row execute function slowly()"""
        )
    monkeypatch.setitem(engine._SESSION, "statement_timeout", "500ms")
    monkeypatch.setattr("landlord.tenants.repository.PURGE_BATCH", 20, raising=False)
    async with Database(SecretStr(test_database_url), pool_size=1) as database:
        await Repository(database).purge(tombstones=3600, keys=86400)
        assert (await database.execute(Statement("select count(*) from idempotency_keys")))[0].count == 0
