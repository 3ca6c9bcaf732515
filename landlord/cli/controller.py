"""``landlord controller``: the reconciler where there is no cluster; and how every reconciling process starts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import click
import structlog

from landlord import health
from landlord.cli.run import run
from landlord.database.engine import DatabaseUnavailable
from landlord.installation import Installation, assemble
from landlord.settings import Settings
from landlord.workflow.provider import ProviderUnavailable

LOOK_AGAIN = 2.0
"""Seconds between looks at a schema that does not fit (yet)."""

_log = structlog.get_logger(__name__)


@click.command
def controller() -> None:
    """Reconcile tenants, where there is no cluster.

    Where there is one, the operator does the same. Any number may run. LANDLORD_HEALTH_PORT serves /healthz, /readyz
    and /metrics.
    """
    run(_main)


async def _main(settings: Settings, stop: asyncio.Event) -> None:
    async with assemble(settings) as installation:
        waiting = Waiting(installation)
        async with health.serve(
            host=settings.health_host,
            port=settings.health_port,
            checks={**waiting.checks, "workflow": waiting.engine_fault},
            essential=waiting.checks.keys(),
        ):
            await until_stopped(stop, waiting=waiting, work=installation.reconciler().run)


class Waiting:
    """Waits for a database whose schema this release can work with."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    @property
    def checks(self) -> Mapping[str, health.Check]:
        """What the process cannot do without."""
        return {"database": self.fault}

    async def fault(self) -> str | None:
        """Why not to work now, or null."""
        try:
            return await self._installation.schema_fault()
        except DatabaseUnavailable as error:
            return str(error)

    async def engine_fault(self) -> str | None:
        """Why no run would be started now, or null."""
        try:
            await self._installation.client.ready()
        except ProviderUnavailable as error:
            return str(error)
        return None

    async def passed(self) -> None:
        """Return once the schema fits."""
        told = None
        while (fault := await self.fault()) is not None:
            if fault != told:
                _log.warning("waiting", reason=fault)
                told = fault
            await asyncio.sleep(LOOK_AGAIN)


async def until_stopped(stop: asyncio.Event, *, waiting: Waiting, work: Callable[[], Awaitable[None]]) -> None:
    """Wait for the schema, then work until told to stop. What ends the work by itself ends the process with its error.

    Stopping breaks work off where it is: whatever was committed, the next process goes on from there.
    """

    async def begin() -> None:
        await waiting.passed()
        _log.info("working")
        await work()

    working = asyncio.ensure_future(begin())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for each in (working, stopping):
            each.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
