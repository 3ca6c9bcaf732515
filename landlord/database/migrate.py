"""Migrations: alembic scripts of one package, run under an advisory lock so that replicas may start at once.

Each set (the tenants' tables, the ``local`` engine's) has a version table of its own, because they may live in one
database or in two. Alembic and SQLAlchemy, which every process would pay for, are imported where there is something
to migrate.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.errors import InsufficientPrivilege, UndefinedTable

from landlord.database.engine import TIMEOUT, Connection, Database, DatabaseUnavailable
from landlord.database.statement import Statement

if TYPE_CHECKING:
    import sqlalchemy
    from alembic.script import ScriptDirectory

_LOCK = 0x6C616E64  # "land"
_ENCODING = Statement("select current_setting('server_encoding') as encoding")


class DatabaseUnfit(Exception):
    """The database is there, and cannot be used as it is. ``str()`` says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrations:
    """One set of migration scripts. ``directory`` is an alembic script location.

    Each revision is a number, and its file is ``versions/NUMBER_what.py``.
    """

    name: str
    directory: Path

    @property
    def version_table(self) -> str:
        return f"{self.name}_schema_version"

    @property
    def revisions(self) -> tuple[str, ...]:
        """What this release knows, oldest first."""
        return tuple(sorted(path.name.split("_")[0] for path in (self.directory / "versions").glob("[0-9]*_*.py")))

    @property
    def head(self) -> str:
        """The revision this release needs."""
        return self.revisions[-1]

    async def upgrade(self, database: Database) -> None:
        """Bring the schema to :attr:`head`. Waits for another process that is doing the same.

        Raises ``DatabaseUnavailable`` and :class:`DatabaseUnfit`.
        """
        current = await self._current(database)
        known = await asyncio.to_thread(lambda: self.revisions)
        if current == known[-1]:
            return
        if current is not None and current not in known:
            raise DatabaseUnfit(self._difference(current, known))
        [row] = await database.execute(_ENCODING)
        if row.encoding != "UTF8":  # not all that the doors accept could be stored
            raise DatabaseUnfit(f"the database's encoding is {row.encoding}: create it with encoding 'UTF8'")
        from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import NullPool

        async def transactional() -> Connection:
            connection = await database.open()
            await connection.set_autocommit(False)
            return connection

        engine = create_async_engine("postgresql+psycopg://", async_creator=transactional, poolclass=NullPool)
        try:
            async with asyncio.timeout(TIMEOUT), engine.begin() as connection:
                await connection.run_sync(self._upgrade)
        except (OperationalError, InterfaceError, psycopg.OperationalError, OSError) as error:
            raise DatabaseUnavailable(f"Postgres broke the migration off ({type(error).__name__})") from error
        except ProgrammingError as error:  # no rights, or somebody else's tables of these names
            assert isinstance(error.orig, psycopg.Error)
            why = error.orig.diag.message_primary
            raise DatabaseUnfit(f"Postgres refuses to make the {self.name} schema: {why}") from None

    async def _current(self, database: Database) -> str | None:
        """The revision of the schema, null where there is none. Raises as :meth:`upgrade` does."""
        try:
            rows = await database.execute(Statement(f"select version_num from {self.version_table}"))  # noqa: S608 - a constant's name
        except UndefinedTable:
            return None
        except InsufficientPrivilege:
            why = f"the role may not use the {self.name} schema: grant it select, insert, update and delete"
            raise DatabaseUnfit(why) from None
        return rows[0].version_num if rows else None

    def _script(self) -> ScriptDirectory:
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(self.directory).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        return ScriptDirectory.from_config(config)

    def _upgrade(self, connection: sqlalchemy.Connection) -> None:
        from alembic.config import Config
        from alembic.runtime.environment import EnvironmentContext
        from sqlalchemy import text

        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        script = self._script()
        environment = EnvironmentContext(Config(), script)
        environment.configure(
            connection=connection,
            version_table=self.version_table,
            fn=lambda revision, _: script._upgrade_revs("head", revision),  # noqa: SLF001 - alembic's documented recipe
        )
        environment.run_migrations()

    async def fault(self, database: Database) -> str | None:
        """Why this release must not serve on this schema, or null. Raises ``DatabaseUnavailable``."""
        try:
            current = await self._current(database)
        except DatabaseUnfit as unfit:
            return str(unfit)
        known = await asyncio.to_thread(lambda: self.revisions)
        return None if current == known[-1] else self._difference(current, known)

    def _difference(self, current: str | None, known: tuple[str, ...]) -> str:
        head = known[-1]
        if current is None:
            return f"the {self.name} schema is missing: run `landlord migrate`"
        if current in known:
            return f"the {self.name} schema is at {current}, older than {head}: run `landlord migrate`"
        return f"the {self.name} schema is at {current}, newer than this release ({head}): upgrade Landlord"
