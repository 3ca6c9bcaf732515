"""The cluster that the API mirrors new tenants into, if there is one. The operator does it in any case."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from landlord.health import Check
from landlord.settings import ConfigurationError, Settings
from landlord_api.handlers.tenants import AfterCreate

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirroring:
    """What :func:`landlord_api.app.create_app` is given for it."""

    after_create: AfterCreate | None = None
    checks: dict[str, Check] = field(default_factory=dict)


@asynccontextmanager
async def mirroring(settings: Settings) -> AsyncIterator[Mirroring]:
    """Connections to the cluster while the context lasts.

    Without a cluster in the configuration nothing is mirrored here; a context that was named and cannot be used raises
    :class:`ConfigurationError`.
    """
    if not settings.kubernetes_mirror:
        yield Mirroring()
        return
    # Late, because the client is large and many installations have no cluster.
    from landlord.kubernetes import KubernetesError, TenantResources, load_configuration
    from landlord_api.mirror import ApiMirror

    try:
        configuration = await load_configuration(settings.kubernetes_context)
    except ConfigurationError:
        if settings.kubernetes_context is not None:
            raise
        _log.info("no cluster is configured: tenants are not mirrored from here")
        yield Mirroring()
        return
    async with TenantResources(configuration) as resources:

        async def kubernetes() -> str | None:
            try:
                await resources.served()
            except KubernetesError as error:
                return str(error)
            return None

        mirror = ApiMirror(resources, namespace=settings.kubernetes_namespace)
        yield Mirroring(after_create=mirror.create, checks={"kubernetes": kubernetes})
