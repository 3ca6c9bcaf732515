"""``landlord api``: serves REST."""

from __future__ import annotations

import asyncio

import click

from landlord.cli.run import run
from landlord.installation import assemble
from landlord.settings import Settings
from landlord_api.server import listening


@click.command
def api() -> None:
    """Serve the REST API.

    Any number may run. LANDLORD_API_HOST and LANDLORD_API_PORT say where; on anything but loopback
    LANDLORD_API_TOKENS_FILE is required.
    """
    run(_main)


async def _main(settings: Settings, stop: asyncio.Event) -> None:
    async with assemble(settings) as installation, listening(installation):
        await stop.wait()
