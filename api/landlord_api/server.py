"""Serving the application: where it listens, and how it ends."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from landlord.installation import Installation
from landlord.settings import PREFIX, ConfigurationError, Settings
from landlord.tenants.metrics import QUEUE
from landlord_api.app import create_app
from landlord_api.auth import KEY, Tokens
from landlord_api.mirroring import mirroring
from landlord_api.protocol import Runner

GRACE = 5.0
"""Seconds beyond the trigger's time-out that an accepted request has when the process ends."""

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def listening(parts: Installation) -> AsyncIterator[str]:
    """Serve REST while the context lasts, then finish what was accepted; gives the URL.

    A database or an engine that is away keeps nobody from listening. Raises
    :class:`~landlord.settings.ConfigurationError`.
    """
    settings = parts.settings
    tokens = _tokens(settings)
    async with mirroring(settings) as mirror:
        QUEUE.labels(queue="commits").set_function(lambda: parts.repository.depth)
        app = create_app(
            client=parts.client,
            service=parts.service,
            repository=parts.repository,
            hints=parts.hints,
            compute=parts.compute,
            schema_fault=parts.schema_fault,
            tokens=tokens,
            after_create=mirror.after_create,
            checks=mirror.checks,
        )
        runner = Runner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=settings.workflow_trigger_timeout + GRACE,
        )
        await runner.setup()
        try:
            url = await _listen(runner, settings)
            _log.info("started", url=url, callers="anonymous" if tokens is None else "by token")
            yield url
        finally:
            await runner.cleanup()
            _log.info("stopped")


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    host = settings.api_host
    try:
        await web.TCPSite(runner, host, settings.api_port, backlog=1024).start()
    except (OSError, UnicodeError) as error:  # the latter where the host could be nobody's name
        where = f"{host}:{settings.api_port}"
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigurationError(f"{PREFIX}API_HOST, {PREFIX}API_PORT: cannot listen on {where}: {reason}") from None
    port: int = runner.addresses[0][1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _tokens(settings: Settings) -> Tokens | None:
    """Without a file anybody is taken for the operator of the installation: on loopback only."""
    if settings.api_tokens_file is not None:
        return Tokens(settings.api_tokens_file)
    if not loopback(settings.api_host):
        raise ConfigurationError(
            f"{KEY}: must name a file of tokens where {PREFIX}API_HOST ({settings.api_host}) is not loopback"
        )
    return None


def loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
