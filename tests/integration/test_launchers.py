"""The launchers of real components: starting, stopping, dying, and leaving nothing behind."""

from __future__ import annotations

import psycopg

from landlord.dev.postgres import PostgresServer


def test_a_fresh_database(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select current_database()").fetchone()[0].startswith("test_")


async def test_postgres_survives_a_crash_with_what_was_committed(own_postgres: PostgresServer) -> None:
    url = await own_postgres.create_database(name="landlord")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("create table kept as select 42 as answer")
    await own_postgres.kill()
    await own_postgres.start()
    async with await psycopg.AsyncConnection.connect(url) as connection:
        assert await (await connection.execute("select answer from kept")).fetchone() == (42,)
