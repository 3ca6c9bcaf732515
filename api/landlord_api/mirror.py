"""The API's one try to create the resource behind a POST's answer. Everything else in the cluster is the operator's."""

from __future__ import annotations

import asyncio

import structlog

from landlord import mirror
from landlord.kubernetes import Conflict, KubernetesError, TenantResources
from landlord.tenants.model import Tenant

CREATE_TIMEOUT = 5.0
"""Seconds for creating the resource."""

_log = structlog.get_logger(__name__)


class ApiMirror:
    """The API's best-effort create: what it does not manage, the operator does."""

    def __init__(self, resources: TenantResources, *, namespace: str) -> None:
        self._resources = resources
        self._namespace = namespace

    async def create(self, tenant: Tenant) -> None:
        """Create the resource of a tenant that was just made. Raises nothing, and ends within a few seconds."""
        if not mirror.wanted(tenant):
            return
        namespace = tenant.namespace or self._namespace
        try:
            async with asyncio.timeout(CREATE_TIMEOUT):
                await self._resources.create(namespace, mirror.new_resource(tenant, namespace=namespace))
        except Conflict:
            return  # the operator was faster, or a user's is there: the operator sorts it out
        except (KubernetesError, TimeoutError) as error:
            _log.info("resource left to the operator", tenant=tenant.id, error=str(error) or "timeout")
