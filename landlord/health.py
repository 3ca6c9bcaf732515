"""Liveness, readiness and metrics of every process, over HTTP.

``/healthz`` says that the process answers. ``/readyz`` is 503 only for what the process cannot serve without; whatever
else is amiss is listed as ``degraded`` with 200, so that a process which can still do part of its work stays in its
Service. ``/metrics`` is Prometheus's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from landlord.settings import PREFIX, ConfigurationError

Check = Callable[[], Awaitable[str | None]]
"""Why something is not well, for operators and without secrets, or null. What it raises is told by its kind only."""

CACHE = 1.0
"""Seconds that a result is used again, so that probes of many cost one; a tenth of it where something essential fails,
because somebody waits for that."""
LIMIT = 3.0
"""Seconds a check may take (Kubernetes probes give up after a few)."""

_log = structlog.get_logger(__name__)


class Health:
    """Runs the checks, each bounded, at most once per :data:`CACHE` seconds, and logs when one changes its mind."""

    def __init__(self, checks: Mapping[str, Check], *, essential: Collection[str]) -> None:
        if unknown := set(essential) - set(checks):
            raise ValueError(f"no such check: {', '.join(sorted(unknown))}")
        self._checks = dict(checks)
        self._essential = frozenset(essential)
        self._lock = asyncio.Lock()
        self._looked_at = float("-inf")
        self._faults: dict[str, str] = {}

    async def faults(self) -> Mapping[str, str]:
        """Name of each check that fails to its reason."""
        async with self._lock:
            lasts = CACHE / 10 if self._essential & self._faults.keys() else CACHE
            if time.monotonic() - self._looked_at >= lasts:
                reasons = await asyncio.gather(*(self._reason(name) for name in self._checks))
                faults = {name: reason for name, reason in zip(self._checks, reasons, strict=True) if reason}
                self._tell(faults)
                self._faults = faults
                self._looked_at = time.monotonic()
            return self._faults

    async def _reason(self, name: str) -> str | None:
        try:
            async with asyncio.timeout(LIMIT):
                return await self._checks[name]()
        except TimeoutError:
            return f"no answer within {LIMIT:g} s"
        except Exception as error:  # noqa: BLE001 - a check that breaks is a fault, its text may hold secrets
            return type(error).__name__

    def _tell(self, faults: Mapping[str, str]) -> None:
        for name in self._checks:
            if name in faults and name not in self._faults:
                _log.warning("not well", check=name, reason=faults[name], essential=name in self._essential)
            elif name in self._faults and name not in faults:
                _log.info("well again", check=name)

    async def live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(self, _: web.Request) -> web.Response:
        faults = await self.faults()
        failed = sorted(self._essential & faults.keys())
        degraded = sorted(faults.keys() - self._essential)
        status = "unavailable" if failed else "degraded" if degraded else "ok"
        body = {
            "status": status,
            "failed": [{"check": name, "reason": faults[name]} for name in failed],
            "degraded": [{"check": name, "reason": faults[name]} for name in degraded],
        }
        return web.json_response(body, status=503 if failed else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def add_routes(app: web.Application, *, checks: Mapping[str, Check], essential: Collection[str]) -> Health:
    """Add ``/healthz``, ``/readyz`` and ``/metrics`` to an application. ``essential`` names the checks that gate."""
    health = Health(checks, essential=essential)
    app.router.add_get("/healthz", health.live)
    app.router.add_get("/readyz", health.ready)
    app.router.add_get("/metrics", health.metrics)
    return health


@asynccontextmanager
async def serve(
    *, host: str, port: int, checks: Mapping[str, Check], essential: Collection[str]
) -> AsyncIterator[tuple[str, int]]:
    """Serve while the context lasts; gives the address. Port 0 takes a free one.

    Raises :class:`ConfigurationError` where nobody can listen: the port is taken, or the host is not this machine's.
    """
    app = web.Application()
    add_routes(app, checks=checks, essential=essential)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, UnicodeError) as error:  # the latter where the host could be nobody's name
            reason = getattr(error, "strerror", None) or type(error).__name__
            keys = f"{PREFIX}HEALTH_HOST, {PREFIX}HEALTH_PORT"
            raise ConfigurationError(f"{keys}: cannot listen on {host}:{port}: {reason}") from None
        address: tuple[str, int] = runner.addresses[0][:2]
        _log.info("health is served", host=address[0], port=address[1])
        yield address
    finally:
        await runner.cleanup()
