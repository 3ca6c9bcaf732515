"""``landlord migrate``: brings the databases up to this release."""

from __future__ import annotations

import asyncio

import click

from landlord.cli.run import run
from landlord.database.engine import Database, DatabaseUnavailable
from landlord.database.migrate import DatabaseUnfit
from landlord.settings import ConfigurationError, Settings
from landlord.tenants.migrations import MIGRATIONS
from landlord.workflow import registry
from landlord.workflow.provider import ProviderUnavailable


@click.command
def migrate() -> None:
    """Bring the databases up to this release.

    Creates or upgrades the tenants' tables, and makes the workflow engine know the workflow. Safe to repeat, and to
    run from several places at once: they wait for each other.
    """
    run(_main)


async def _main(settings: Settings, stop: asyncio.Event) -> None:
    try:
        database = Database(settings.database_url, pool_size=settings.database_pool_size)
    except ValueError as error:
        raise ConfigurationError(f"LANDLORD_DATABASE_URL: {error}") from None
    provider = registry.create(settings=settings)
    async with database:
        try:
            await MIGRATIONS.upgrade(database)
            click.echo(f"{MIGRATIONS.name}: at {MIGRATIONS.head}")
            await provider.start()
            try:
                await provider.register()
            finally:
                await provider.close()
            click.echo(f"workflow provider {provider.name}: registered")
        except (DatabaseUnavailable, DatabaseUnfit, ProviderUnavailable) as error:
            raise click.ClickException(str(error)) from error
