"""Connections: kept, never more than allowed, dropped when they break, free again after whoever used them has gone."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from landlord.database import engine
from landlord.database.engine import Database, DatabaseUnavailable
from landlord.database.listen import RECONNECTED, listen
from landlord.database.statement import Statement
from landlord.dev import postgres as launcher
from landlord.dev.postgres import PostgresServer

BACKEND = Statement("select pg_backend_pid() as pid, pg_sleep(:seconds)")
TERMINATE = Statement("select pg_terminate_backend(:pid)")
ACTIVE = Statement("select count(*) from pg_stat_activity where pid = :pid and state = 'active'")
CONNECTED = Statement("select count(*) from pg_stat_activity where pid = :pid")
SIZE = 2


@pytest.fixture
async def database(test_database_url: str) -> AsyncIterator[Database]:
    async with Database(SecretStr(test_database_url), pool_size=SIZE) as database:
        yield database


async def backends(database: Database, *, calls: int) -> list[int]:
    """Which served so many calls at a time."""
    answers = await asyncio.gather(*(database.execute(BACKEND, seconds=0.05) for _ in range(calls)))
    return [row.pid for [row] in answers]


async def test_connections_are_kept_and_never_more_than_allowed(database: Database) -> None:
    first = await backends(database, calls=3 * SIZE)
    assert len(set(first)) == SIZE
    assert set(await backends(database, calls=SIZE)) == set(first)


async def test_after_one_broke_nobody_gets_the_others_that_broke_with_it(
    database: Database, test_database_url: str
) -> None:
    lost = set(await backends(database, calls=SIZE))
    call = asyncio.create_task(database.execute(BACKEND, seconds=60))
    async with Database(SecretStr(test_database_url), pool_size=1) as other:
        async with asyncio.timeout(10):
            while not sum([(await other.execute(ACTIVE, pid=pid))[0].count for pid in lost]):
                await asyncio.sleep(0.01)
        for pid in lost:
            await other.execute(TERMINATE, pid=pid)
    with pytest.raises(DatabaseUnavailable, match="AdminShutdown"):
        await call
    assert not lost & set(await backends(database, calls=SIZE))


async def test_nobody_gets_a_connection_that_was_closed_while_it_was_idle(own_postgres: PostgresServer) -> None:
    """By a restart, by ``idle_session_timeout``, by whatever stands between."""
    async with Database(SecretStr(own_postgres.url()), pool_size=SIZE) as database:
        before = set(await backends(database, calls=SIZE))
        await own_postgres.stop()
        await own_postgres.start()
        assert not before & set(await backends(database, calls=SIZE))


async def test_a_caller_that_goes_away_ends_its_statement_and_leaves_its_connection(
    database: Database, test_database_url: str
) -> None:
    async with Database(SecretStr(test_database_url), pool_size=1) as other:
        [row] = await other.execute(BACKEND, seconds=0)
        call = asyncio.create_task(other.execute(BACKEND, seconds=60))
        async with asyncio.timeout(10):
            while not (await database.execute(ACTIVE, pid=row.pid))[0].count:
                await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(10):
            assert await other.execute(BACKEND, seconds=0) == [row]


async def test_who_is_not_served_in_time_is_told_and_takes_no_connection_along(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the client's own clock, also while it waits for a connection: a server that is lost keeps no limits."""
    with monkeypatch.context() as patched:
        patched.setattr(engine, "TIMEOUT", 0.3)
        async with asyncio.timeout(engine.STATEMENT_TIMEOUT / 2):
            calls = (database.execute(BACKEND, seconds=60) for _ in range(2 * SIZE))
            found = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(error) for error in found] == ["Postgres is unavailable (TimeoutError)"] * 2 * SIZE
    assert len(set(await backends(database, calls=SIZE))) == SIZE


async def test_what_is_under_way_ends_before_the_connections_are_closed(
    database: Database, test_database_url: str
) -> None:
    other = Database(SecretStr(test_database_url), pool_size=SIZE)
    [row] = await other.execute(BACKEND, seconds=0)
    call = asyncio.create_task(other.execute(BACKEND, seconds=0.3))
    async with asyncio.timeout(10):
        while not (await database.execute(ACTIVE, pid=row.pid))[0].count:
            await asyncio.sleep(0.01)
    await other.close()
    assert call.done()
    assert [found.pid for found in await call] == [row.pid]
    async with asyncio.timeout(10):
        while (await database.execute(CONNECTED, pid=row.pid))[0].count:
            await asyncio.sleep(0.01)


async def test_what_goes_on_for_long_is_not_waited_for(
    database: Database, test_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CLOSE_TIMEOUT", 0.1)
    other = Database(SecretStr(test_database_url), pool_size=1)
    call = asyncio.create_task(other.execute(BACKEND, seconds=60))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await other.close()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await other.close()


async def test_what_is_refused_leaves_its_connection(database: Database) -> None:
    pids = set(await backends(database, calls=SIZE))
    with pytest.raises(psycopg.errors.UndefinedTable):
        await database.execute(Statement("select * from nowhere"))
    with pytest.raises(KeyError):
        await database.execute(BACKEND)
    assert set(await backends(database, calls=SIZE)) == pids


async def test_a_statement_without_rows_has_none(database: Database) -> None:
    assert await database.execute(Statement("create temporary table nothing (a int)")) == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "dbname=landlord",
        "mysql://localhost/landlord",
        "postgresql://localhost:port/x?who=1",
        "postgresql://database..internal/x",
    ],
)
async def test_what_is_no_url_is_said_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="not a database URL"):
        Database(SecretStr(url), pool_size=1)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:port/landlord",
        "postgresql://127.0.0.1:65536/landlord",
        "postgresql://one.invalid:5432,two.invalid:65536/landlord",
        "postgresql:///landlord?sslmode=verify_full",
        "postgresql:///landlord?hostaddr=127.0.0.1&channel_binding=s3cret",
        "postgresql:///landlord?service=s3cret",
    ],
)
async def test_what_libpq_does_not_take_is_said_at_once(url: str) -> None:
    """And not tried for ever, as if Postgres were away."""
    with pytest.raises(ValueError, match="holds a value that libpq does not take") as refused:
        Database(SecretStr(url), pool_size=1)
    assert "s3cret" not in str(refused.value)


async def test_what_only_a_server_can_refuse_is_not_judged() -> None:
    several = "postgresql://one.invalid,two.invalid:5433/landlord?sslmode=verify-full&sslrootcert=/nowhere"
    for url in (several, "postgresql:///landlord?gssencmode=require", "postgresql:///landlord?hostaddr=127.0.0.1,::1"):
        Database(SecretStr(url), pool_size=1)


async def test_where_nobody_listens_it_is_unavailable_at_once() -> None:
    async with Database(SecretStr("postgresql://127.0.0.1:1/landlord"), pool_size=1) as database:
        with pytest.raises(DatabaseUnavailable, match=r"\(connection refused\)$"):
            await database.execute(BACKEND, seconds=0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dbname": "s3cret"}, "there is no such database"),
        ({"user": "s3cret"}, "there is no such user"),
        ({"host": "s3cret.invalid"}, "its host is unknown"),
        ({"host": "/s3cret"}, "nobody listens there"),
    ],
)
async def test_why_a_connection_is_not_made_is_said_without_what_was_configured(
    test_database_url: str, change: dict[str, str], reason: str
) -> None:
    parts = {**conninfo_to_dict(test_database_url), **change}
    query = urlencode({key: value for key, value in parts.items() if key != "dbname"})
    async with Database(SecretStr(f"postgresql:///{parts['dbname']}?{query}"), pool_size=1) as database:
        with pytest.raises(DatabaseUnavailable) as refused:
            await database.execute(BACKEND, seconds=0)
    assert str(refused.value) == f"Postgres is unavailable ({reason})"


async def test_a_database_that_takes_no_writes_is_unavailable_until_it_does(test_database_url: str) -> None:
    """After a failover to a standby, say: neither the connections of before nor new ones may be used."""
    count = Statement("create table if not exists written ()")
    async with (
        Database(SecretStr(test_database_url), pool_size=1) as database,
        await psycopg.AsyncConnection.connect(test_database_url, autocommit=True) as administrator,
    ):
        name = administrator.info.dbname
        await database.execute(Statement("set default_transaction_read_only = on"))
        with pytest.raises(DatabaseUnavailable, match="ReadOnlySqlTransaction"):
            await database.execute(count)
        await administrator.execute(f'alter database "{name}" set default_transaction_read_only = on')
        await database.close()
        with pytest.raises(DatabaseUnavailable, match="it takes no writes"):
            await database.execute(BACKEND, seconds=0)
        await administrator.execute(f'alter database "{name}" reset default_transaction_read_only')
        assert await database.execute(count) == []


async def test_of_several_hosts_the_one_that_takes_writes_is_listened_to(
    own_postgres: PostgresServer, component_folder: Path
) -> None:
    """LISTEN, too, is refused by a standby."""
    await own_postgres.stop()
    copy = component_folder / "standby"
    copy.mkdir(mode=0o711)
    await asyncio.to_thread(subprocess.run, ["cp", "-a", own_postgres.data, copy / "postgres"], check=True)
    (copy / "postgres" / "standby.signal").touch()
    await own_postgres.start()
    async with launcher.running(state=copy) as standby:
        hosts = ",".join(parse_qs(urlsplit(server.url()).query)["host"][0] for server in (standby, own_postgres))
        url = f"postgresql://landlord@/postgres?{urlencode({'host': hosts})}"
        async with (
            Database(SecretStr(url), pool_size=1) as database,
            asyncio.timeout(10),
            aclosing(listen(database.conninfo, channel="news")) as heard,
        ):
            assert await anext(heard) == RECONNECTED
            await database.execute(Statement("select pg_notify('news', 'good')"))
            assert await anext(heard) == "good"
