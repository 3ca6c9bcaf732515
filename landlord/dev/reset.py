"""Removing every container an installation has made, tenants known or not."""

from __future__ import annotations

import aiodocker

from landlord.compute.provider import LABEL_INSTALLATION


async def remove_tenants(*, installation: str, docker_host: str | None) -> int:
    """Remove the installation's containers with their anonymous volumes; how many there were.

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
