"""``landlord operator``: the Kubernetes door, and the reconciler."""

from __future__ import annotations

import asyncio

import click

from landlord import health
from landlord.cli.controller import Waiting, until_stopped
from landlord.cli.run import run
from landlord.installation import assemble
from landlord.kubernetes import TenantResources, load_configuration
from landlord.settings import Settings
from landlord_operator.operator import Operator


@click.command
def operator() -> None:
    """Keep tenants, Tenant resources and workflows in agreement.

    One is enough, more are harmless. LANDLORD_HEALTH_PORT serves /healthz, /readyz and /metrics.
    """
    run(_main)


async def _main(settings: Settings, stop: asyncio.Event) -> None:
    configuration = await load_configuration(settings.kubernetes_context)
    async with assemble(settings) as installation, TenantResources(configuration) as resources:
        waiting = Waiting(installation)
        parts = Operator(installation=installation, resources=resources)
        async with health.serve(
            host=settings.health_host,
            port=settings.health_port,
            checks={**waiting.checks, **parts.checks},
            essential={*waiting.checks, "watch"},
        ):
            await until_stopped(stop, waiting=waiting, work=parts.run)
