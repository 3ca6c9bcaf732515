"""``landlord worker``: executes tenant workflows."""

from __future__ import annotations

import asyncio

import click

from landlord import health
from landlord.cli.run import run
from landlord.settings import Settings
from landlord.workflow.worker import TenantWorker


@click.command
def worker() -> None:
    """Execute workflow runs with the compute providers.

    Any number may run. It holds no database of tenants; LANDLORD_HEALTH_PORT serves /healthz, /readyz and /metrics.
    """
    run(_main)


async def _main(settings: Settings, stop: asyncio.Event) -> None:
    tenants = TenantWorker(settings=settings)
    async with health.serve(
        host=settings.health_host, port=settings.health_port, checks=tenants.checks, essential={"workflow"}
    ):
        await tenants.run(stop)
