"""Databases as others have set them up: what makes no difference, and what is refused with the reason."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import psycopg
import pytest
from fixtures.postgres import sibling
from pydantic import SecretStr

from landlord.database.engine import Database
from landlord.database.migrate import DatabaseUnfit
from landlord.database.statement import Statement
from landlord.tenants.accept import accept
from landlord.tenants.acceptance import Validation
from landlord.tenants.commands import Create, Request
from landlord.tenants.migrations import MIGRATIONS
from landlord.tenants.model import Door
from landlord.tenants.repository import Filter, Repository
from landlord.tenants.runs import Policy

POLICY = Policy(installation="test", provider="local", complete=lambda _, config: dict(config))
VALIDATION = Validation(default_provider="mock", faults=lambda _, __: [], check=lambda _: None)
WAITS = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


def unique() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


async def create(repository: Repository, tenant_id: str, *, text: str = "plain") -> None:
    command = Create(compute_config={"text": text}, annotations={"text": text})
    request = Request(tenant_id=tenant_id, command=command, who=text, door=Door.API)
    change = accept(await repository.load(tenant_id), request, policy=POLICY, validation=VALIDATION).change
    assert change is not None
    assert await repository.commit(change)


@pytest.fixture
async def administrator(postgres: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("default", ["datestyle = 'German'", "client_encoding = 'LATIN1'"])
async def test_defaults_of_a_database_make_no_difference(
    administrator: psycopg.AsyncConnection, test_database_url: str, default: str
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(test_database_url)["dbname"]
    await administrator.execute(f"alter database {name} set {default}".encode())
    async with Database(SecretStr(test_database_url), pool_size=2) as database:
        repository, tenant_id = Repository(database), unique()
        await create(repository, tenant_id, text="für 日本")
        [found] = await repository.page(filter=Filter(), after=None, limit=10)
        assert found.tenant is not None
        assert found.tenant.compute_config == found.tenant.annotations == {"text": "für 日本"}
        assert found.tenant.created_at <= found.now
        assert [line.who for _, line in await repository.audit(tenant_id, before=2**62, limit=10)] == ["für 日本"]


async def test_a_stricter_isolation_by_default_makes_no_difference(
    administrator: psycopg.AsyncConnection, test_database_url: str
) -> None:
    """Statements that met at one row would be undone, where the second only has to wait for the first."""
    name = psycopg.conninfo.conninfo_to_dict(test_database_url)["dbname"]
    await administrator.execute(f"alter database {name} set default_transaction_isolation = 'serializable'".encode())
    async with (
        Database(SecretStr(test_database_url), pool_size=2) as database,
        await psycopg.AsyncConnection.connect(test_database_url) as other,
    ):
        repository, tenant_id = Repository(database), unique()
        await create(repository, tenant_id)
        await other.execute("update tenants set next_check_at = now() where id = %s", [tenant_id])
        waking = asyncio.create_task(repository.wake())
        async with asyncio.timeout(10):
            while not (await database.execute(Statement(WAITS)))[0].count:
                await asyncio.sleep(0.01)
        await other.commit()
        await waking


async def test_a_search_path_in_the_url_is_kept(empty_database_url: str) -> None:
    """Two installations in two schemas of one database."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("create schema one; create schema two")
    urls = [f"{empty_database_url}&options=-c%20search_path%3D{schema}" for schema in ("one", "two")]
    async with (
        Database(SecretStr(urls[0]), pool_size=2) as one,
        Database(SecretStr(urls[1]), pool_size=2) as two,
    ):
        await asyncio.gather(MIGRATIONS.upgrade(one), MIGRATIONS.upgrade(two))
        tenant_id = unique()
        await create(Repository(one), tenant_id)
        assert (await Repository(one).load(tenant_id)).tenant is not None
        assert (await Repository(two).load(tenant_id)).tenant is None


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_an_encoding_that_cannot_hold_everything_is_refused(
    administrator: psycopg.AsyncConnection, postgres: str, encoding: str
) -> None:
    name = f"test_{uuid.uuid4().hex[:16]}"
    await administrator.execute(f"create database {name} encoding '{encoding}' locale 'C' template template0".encode())
    async with Database(SecretStr(sibling(postgres, name=name)), pool_size=1) as database:
        with pytest.raises(DatabaseUnfit, match=f"encoding is {encoding}"):
            await MIGRATIONS.upgrade(database)


async def test_a_newer_schema_is_left_alone(test_database_url: str) -> None:
    async with Database(SecretStr(test_database_url), pool_size=1) as database:
        await database.execute(Statement(f"update {MIGRATIONS.version_table} set version_num = '9999'"))
        with pytest.raises(DatabaseUnfit, match="newer than this release"):
            await MIGRATIONS.upgrade(database)


async def test_tables_of_somebody_else(empty_database_url: str) -> None:
    async with Database(SecretStr(empty_database_url), pool_size=1) as database:
        await database.execute(Statement("create table tenants (id int)"))
        with pytest.raises(DatabaseUnfit, match='relation "tenants" already exists'):
            await MIGRATIONS.upgrade(database)
        assert await database.execute(Statement("select * from tenants")) == []


async def test_a_role_that_owns_nothing(
    administrator: psycopg.AsyncConnection, empty_database_url: str, test_database_url: str
) -> None:
    """It cannot migrate; with the rights to rows alone it can do everything else."""
    role = f"test_{uuid.uuid4().hex[:16]}"
    await administrator.execute(f"create role {role} login".encode())

    def as_role(url: str) -> SecretStr:
        return SecretStr(url.replace("//landlord@", f"//{role}@"))

    async with Database(as_role(empty_database_url), pool_size=1) as database:
        with pytest.raises(DatabaseUnfit, match="permission denied for schema public"):
            await MIGRATIONS.upgrade(database)
    async with (
        Database(as_role(test_database_url), pool_size=1) as database,
        Database(SecretStr(test_database_url), pool_size=1) as owner,
    ):
        assert "may not use the tenants schema" in str(await MIGRATIONS.fault(database))
        await owner.execute(Statement(f"grant select, insert, update, delete on all tables in schema public to {role}"))
        assert await MIGRATIONS.fault(database) is None
        await create(Repository(database), unique())
