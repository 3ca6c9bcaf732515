"""Migrations: alembic scripts of one package, run under an advisory lock so that replicas may start at once.

Each set (the tenants' tables, the ``local`` engine's) has a version table of its own, because they may live in one
database or in two.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from landlord.database.engine import Database

_LOCK = 0x6C616E64  # "land"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrations:
    """One set of migration scripts. ``directory`` is an alembic script location (``versions/`` below it)."""

    name: str
    directory: Path

    @property
    def version_table(self) -> str:
        return f"{self.name}_schema_version"

    def _script(self) -> ScriptDirectory:
        config = Config()
        config.set_main_option("script_location", str(self.directory).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        return ScriptDirectory.from_config(config)

    @property
    def head(self) -> str:
        """The revision this release needs."""
        head = self._script().get_current_head()
        assert head is not None, f"{self.directory} holds no migrations"
        return head

    async def upgrade(self, database: Database) -> None:
        """Bring the schema to :attr:`head`. Waits for another process that is doing the same."""
        async with database.connect() as connection:
            transactional = await connection.execution_options(isolation_level="READ COMMITTED")
            async with transactional.begin():
                await transactional.run_sync(self._upgrade)
            await connection.execution_options(isolation_level="AUTOCOMMIT")

    def _upgrade(self, connection: Connection) -> None:
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
            current = await connection.run_sync(
                lambda sync: MigrationContext.configure(
                    sync, opts={"version_table": self.version_table}
                ).get_current_revision()
            )
        head = await asyncio.to_thread(lambda: self.head)
        if current == head:
            return None
        if current is None:
            return f"the {self.name} schema is missing: run `landlord migrate`"
        known = await asyncio.to_thread(lambda: {script.revision for script in self._script().walk_revisions()})
        if current in known:
            return f"the {self.name} schema is at {current}, older than {head}: run `landlord migrate`"
        return f"the {self.name} schema is at {current}, newer than this release ({head}): upgrade Landlord"
