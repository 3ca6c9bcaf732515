"""Migrations: alembic scripts of one package, run under an advisory lock so that replicas may start at once.

Each set (the tenants' tables, the ``local`` engine's) has a version table of its own, because they may live in one
database or in two. Alembic, which every process would pay a quarter of a second for, is imported where there is
something to migrate.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.errors import UndefinedTable
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from landlord.database.engine import Database

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_LOCK = 0x6C616E64  # "land"


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
        """Bring the schema to :attr:`head`. Waits for another process that is doing the same."""
        async with database.connect() as connection:
            if await self._current(connection) == await asyncio.to_thread(lambda: self.head):
                return
        async with database.connect() as connection:
            transactional = await connection.execution_options(isolation_level="READ COMMITTED")
            async with transactional.begin():
                await transactional.run_sync(self._upgrade)
            await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def _current(self, connection: AsyncConnection) -> str | None:
        """The revision of the schema, null where there is none."""
        try:
            found: str | None = await connection.scalar(text(f"select version_num from {self.version_table}"))  # noqa: S608 - a constant's name
        except ProgrammingError as error:
            if not isinstance(error.orig, UndefinedTable):
                raise
            return None
        return found

    def _script(self) -> ScriptDirectory:
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(self.directory).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        return ScriptDirectory.from_config(config)

    def _upgrade(self, connection: Connection) -> None:
        from alembic.config import Config
        from alembic.runtime.environment import EnvironmentContext

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
        async with database.connect() as connection:
            current = await self._current(connection)
        known = await asyncio.to_thread(lambda: self.revisions)
        head = known[-1]
        if current == head:
            return None
        if current is None:
            return f"the {self.name} schema is missing: run `landlord migrate`"
        if current in known:
            return f"the {self.name} schema is at {current}, older than {head}: run `landlord migrate`"
        return f"the {self.name} schema is at {current}, newer than this release ({head}): upgrade Landlord"
