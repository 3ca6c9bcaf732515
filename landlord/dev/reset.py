"""``--reset``: removing what a state's tenants have made elsewhere, then the state.

Elsewhere is a Docker engine, with containers and volumes, and clusters of the user's, with resources. The records go
last, and only if all that could be removed: without them nobody would ever know of the rest.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
from psycopg.errors import UndefinedTable
from pydantic import SecretStr

from landlord.compute.provider import LABEL_INSTALLATION
from landlord.database.engine import Database, DatabaseUnavailable
from landlord.dev import cluster, postgres, restate
from landlord.dev.processes import LauncherError, Unavailable
from landlord.kubernetes import Conflict, KubernetesError, NotFound, TenantResources, load_configuration
from landlord.mirror import Resource, release_patch
from landlord.settings import ConfigurationError
from landlord.tenants.repository import Filter, Repository

PAGE = 500
_ATTEMPTS = 5


async def reset(
    *, state: Path, installation: str, docker_host: str | None, kubernetes: bool, say: Callable[[str], None]
) -> None:
    """Remove everything of the state folder ``state``; nothing of it may run.

    ``docker_host`` is null where no engine answers. Resources in clusters of the user's stay unless ``kubernetes``.
    Raises :class:`LauncherError` where something would be left behind.
    """
    if os.environ.get("LANDLORD_DATABASE_URL"):
        raise Unavailable("--reset does not delete a database of yours: unset LANDLORD_DATABASE_URL, or empty it")
    contexts = _contexts(state, kubernetes=kubernetes, say=say)
    if (contexts or docker_host is None) and postgres.has_data(state=state):
        async with postgres.running(state=state) as server:
            url = SecretStr(await server.create_database(name="landlord"))
            if docker_host is None:
                await _refuse_docker_tenants(database_url=url, state=state)
            for name in contexts:
                await _remove_resources(database_url=url, context=name, say=say)
    containers = volumes = 0
    if docker_host is not None:
        containers, volumes = await _remove_tenants(installation=installation, docker_host=docker_host)
    await asyncio.to_thread(_discard, state)
    say(f"reset: {containers} containers, {volumes} volumes and the state in {state} are gone")


def _discard(state: Path) -> None:
    postgres.discard(state=state)
    restate.discard(state=state)
    for name in ("kubernetes", "logs"):
        shutil.rmtree(state / name, ignore_errors=True)
    (state / "kubeconfig").unlink(missing_ok=True)
    cluster.forget(state=state)


def _contexts(state: Path, *, kubernetes: bool, say: Callable[[str], None]) -> list[str]:
    """Clusters of the user's outlive the state, and so would the resources in them, held by our finalizer."""
    names = cluster.used(state=state)
    if names and not kubernetes:
        say(f"reset: Tenant resources that were made in {', '.join(names)} stay there, as --kubernetes is off")
        return []
    known = {context.name for context in cluster.contexts()[0]}
    for name in names:
        if name not in known:
            say(f"reset: context {name} is not in the kubeconfig any more; if its cluster exists, resources stay there")
    return [name for name in names if name in known]


async def _refuse_docker_tenants(*, database_url: SecretStr, state: Path) -> None:
    """Raises :class:`LauncherError` if there are any in the records."""
    async with Database(database_url, pool_size=1) as database:
        try:
            tenants = await Repository(database).count(filter=Filter(compute_provider="docker"))
        except UndefinedTable:  # it never came so far
            return
    if tenants:
        raise LauncherError(
            f"no Docker engine answers, which may have containers and volumes of tenants ({tenants} in the records):"
            f" start it, or leave them there by deleting {state} yourself"
        )


async def _remove_tenants(*, installation: str, docker_host: str) -> tuple[int, int]:
    """Remove the installation's containers and volumes, of tenants known or not; how many there were.

    Raises :class:`LauncherError`.
    """
    filters = {"label": [f"{LABEL_INSTALLATION}={installation}"]}
    try:
        async with aiodocker.Docker(url=docker_host) as client:
            containers = await client.containers.list(all=True, filters=filters)
            for container in containers:
                await container.delete(force=True, v=True)
            untyped: Any = client.volumes
            volumes = (await untyped.list(filters=filters))["Volumes"] or ()
            for volume in volumes:
                await (await untyped.get(volume["Name"])).delete()
    except (aiodocker.DockerError, aiohttp.ClientError, OSError) as error:
        raise LauncherError(f"cannot remove the tenants' containers and volumes: {error}") from error
    return len(containers), len(volumes)


async def _remove_resources(*, database_url: SecretStr, context: str, say: Callable[[str], None]) -> None:
    """Remove the ``Tenant`` resources that the records are bound to from a context of the kubeconfig.

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
        raise LauncherError(
            f"cannot remove the Tenant resources in context {context}: {error}; start that cluster, or leave them there"
            " with --kubernetes off"
        ) from None
    say(f"reset: {removed} Tenant resources in context {context} are gone")


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
