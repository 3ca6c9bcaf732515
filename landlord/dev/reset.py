"""Removing what an installation has made outside its state: containers, and resources in a cluster of the user's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiodocker
from pydantic import SecretStr

from landlord.compute.provider import LABEL_INSTALLATION
from landlord.database.engine import Database, DatabaseUnavailable
from landlord.dev.processes import LauncherError
from landlord.kubernetes import Conflict, KubernetesError, NotFound, TenantResources, load_configuration
from landlord.mirror import Resource, release_patch
from landlord.settings import ConfigurationError
from landlord.tenants.repository import Repository

PAGE = 500
_ATTEMPTS = 5


async def remove_tenants(*, installation: str, docker_host: str | None) -> int:
    """Remove the installation's containers with their anonymous volumes, tenants known or not; how many there were.

    Nothing is done where there is no engine (``docker_host`` is null).
    """
    if docker_host is None:
        return 0
    client = aiodocker.Docker(url=docker_host)
    try:
        filters = {"label": [f"{LABEL_INSTALLATION}={installation}"]}
        containers = await client.containers.list(all=True, filters=filters)
        for container in containers:
            await container.delete(force=True, v=True)
        return len(containers)
    finally:
        await client.close()


async def remove_resources(*, database_url: SecretStr, context: str) -> int:
    """Remove the ``Tenant`` resources that the records are bound to from a context of the kubeconfig; how many.

    No operator may run. Resources of the same name that are not the records' stay. Raises :class:`LauncherError`.
    """
    removed = 0
    try:
        async with (
            Database(database_url, pool_size=2) as database,
            TenantResources(await load_configuration(context)) as resources,
        ):
            async for row in _bound(Repository(database)):
                removed += await _remove(resources, row)
    except (KubernetesError, ConfigurationError, DatabaseUnavailable) as error:
        raise LauncherError(f"cannot remove the Tenant resources in context {context}: {error}") from None
    return removed


async def _bound(repository: Repository) -> AsyncIterator[dict[str, Any]]:
    """Rows that have a resource."""
    after = ""
    while rows := await repository.resources(after=after, limit=PAGE):
        for row in rows:
            if row["resource_uid"] is not None:
                yield row
        after = rows[-1]["id"]


async def _remove(resources: TenantResources, row: dict[str, Any]) -> bool:
    """Whether there was one. It goes at once, as nobody is there to finish what its finalizer waits for."""
    for _ in range(_ATTEMPTS):
        try:
            resource = Resource.parse(await resources.get(row["namespace"], row["id"]))
            if resource.uid != row["resource_uid"]:
                return False
            if resource.held:
                resource = Resource.parse(
                    await resources.patch(resource.namespace, resource.name, release_patch(resource))
                )
            if not resource.terminating:
                await resources.delete(resource.namespace, resource.name, uid=resource.uid)
            return True
        except NotFound:
            return False
        except Conflict:
            await asyncio.sleep(0.2)
    raise KubernetesError(f"{row['namespace']}/{row['id']} changes all the time")
