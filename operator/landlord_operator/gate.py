"""The one back-off there is for an API server that is away: it belongs to the cluster, not to its tenants."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from landlord.kubernetes import KubernetesError, TenantResources

BACKOFF, BACKOFF_LIMIT = 0.5, 5.0
"""Seconds between two questions to an API server that is away: first, and at most."""

_log = structlog.get_logger(__name__)


class ClusterGate:
    """Open while the API server answers, knows the Tenant resource, and no other installation has claimed that.

    ``returned`` is called when it was away.
    """

    def __init__(
        self,
        resources: TenantResources,
        *,
        installation: str,
        returned: Callable[[], Awaitable[None]],
    ) -> None:
        self._resources = resources
        self._installation = installation
        self._returned = returned
        self._open = asyncio.Event()
        self._doubted = asyncio.Event()
        self._doubted.set()
        self._reason: str | None = None

    async def fault(self) -> str | None:
        """Why the cluster cannot be used now, or null; asks, so that an outage is found while all is quiet, too."""
        if not self._open.is_set():
            return self._reason or "the API server has not been reached yet"
        if (fault := await self._fault()) is not None:
            self.doubt()
        return fault

    async def passed(self) -> None:
        """Wait until the API server may be asked."""
        await self._open.wait()

    def doubt(self) -> None:
        """A call found the API server away: everybody waits until it has answered again."""
        self._open.clear()
        self._doubted.set()

    async def run(self) -> None:
        """Ask an API server that is in doubt until it answers; for ever."""
        while True:
            await self._doubted.wait()
            delay = BACKOFF
            while (fault := await self._fault()) is not None:
                if fault != self._reason:
                    _log.warning("cluster unavailable", reason=fault)
                    self._reason = fault
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
                delay = min(delay * 2, BACKOFF_LIMIT)
            was_away, self._reason = self._reason is not None, None
            self._doubted.clear()
            self._open.set()
            if was_away:
                _log.info("cluster available again")
                await self._returned()

    async def _fault(self) -> str | None:
        try:
            await self._resources.served()
            owner = await self._resources.claimed_by()
        except KubernetesError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is asked again
            return f"the API server cannot be asked ({type(error).__name__})"
        if owner not in (None, self._installation):
            return f"the cluster's Tenant resources are of installation {owner}, and this is {self._installation}"
        return None
