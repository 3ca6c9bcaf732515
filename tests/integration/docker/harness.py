"""Providers on a real engine, one tenant's calls of them, and what tests wait for."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiodocker import Docker
from fixtures.turns import Turns, proxy

from landlord.compute.config import with_defaults
from landlord.compute.provider import (
    ComputeSpec,
    ComputeState,
    ComputeStatus,
)
from landlord.compute.providers.docker import DockerProvider, container
from landlord.compute.providers.docker.state import Found
from landlord.settings import Settings

SECRET = "hunter2-s3cr3t"
WEB: dict[str, Any] = {
    "ports": [{"container_port": 8080, "scheme": "http", "name": "web"}],
    "health_check": {"http": {"port": 8080, "path": "/healthz"}, "interval_seconds": 0.4, "timeout_seconds": 10},
    "env": {"TOKEN": SECRET},
    "init": True,
    "stop_timeout_seconds": 1,
}
VOLUMES = [{"name": "data", "target": "/data"}]
NOWHERE = "127.0.0.1:1/app:1"
"""An image that cannot be pulled: no registry is there."""
ABSENT = ComputeState.ABSENT
Make = Callable[..., DockerProvider]


@pytest.fixture
async def docker(docker_host: str) -> AsyncIterator[Docker]:
    async with Docker(url=docker_host) as client:
        yield client


@pytest.fixture
async def make(docker_host: str, docker: Docker) -> AsyncIterator[Make]:
    """Makes providers of one installation of this test's own, and removes what they left."""
    installation = f"test-{uuid.uuid4().hex[:12]}"
    made: list[DockerProvider] = []

    def make_provider(*, suffix: str = "", host: str = docker_host, **settings: Any) -> DockerProvider:
        provider = DockerProvider(
            settings=Settings(installation=f"{installation}{suffix}", docker_host=host, **settings)
        )
        made.append(provider)
        return provider

    yield make_provider
    for provider in made:
        await provider.close()
    for one in await docker.containers.list(all="true"):
        if installation in one._container["Labels"].get("landlord.dev/installation", ""):
            await one.delete(force=True, v=True)
    for volume in (await docker.volumes.list())["Volumes"] or ():
        if installation in volume["Name"]:
            await (await docker.volumes.get(volume["Name"])).delete()


@pytest.fixture
def provider(make: Make) -> DockerProvider:
    return make()


@pytest.fixture
async def watched(make: Make, docker_host: str) -> AsyncIterator[tuple[DockerProvider, Turns]]:
    """A provider, and what counts or delays its calls."""
    turns = Turns()
    async with proxy(turns, upstream=Path(docker_host.removeprefix("unix://"))) as port:
        yield make(host=f"tcp://127.0.0.1:{port}"), turns


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Tenant:
    """One tenant's calls."""

    def __init__(self, image: str, docker: Docker) -> None:
        self.image = image
        self.docker = docker

    def spec(self, generation: int = 1, *, attempt: int = 1, **config: Any) -> ComputeSpec:
        config = {"image": self.image, **WEB, **config}
        config = {key: value for key, value in config.items() if value is not None}
        return ComputeSpec(tenant_id="acme", generation=generation, attempt=attempt, config=config)

    async def containers(self, provider: DockerProvider) -> list[dict[str, Any]]:
        return [dict(one.data) for one in await provider._find("acme")]

    async def container(self, provider: DockerProvider, container_id: str) -> dict[str, Any]:
        (one,) = [one for one in await self.containers(provider) if one["Id"] == container_id]
        return one

    async def healthy(self, provider: DockerProvider, container_id: str) -> None:
        """Wait until this one is, which need not be the newest."""
        async with asyncio.timeout(30):
            while (await self.container(provider, container_id))["State"]["Health"]["Status"] != "healthy":
                await asyncio.sleep(0.1)

    async def ids(self, provider: DockerProvider) -> list[str]:
        return [one["Id"] for one in await self.containers(provider)]


@pytest.fixture
def tenant(busybox_image: str, docker: Docker) -> Tenant:
    return Tenant(busybox_image, docker)


def shell(script: str) -> dict[str, Any]:
    """A tenant that runs this instead of the server."""
    return {"entrypoint": ["/bin/busybox"], "command": ["sh", "-c", script], "ports": None, "health_check": None}


async def until(
    provider: DockerProvider, wanted: Callable[[ComputeStatus], bool], *, limit: float = 30
) -> ComputeStatus:
    deadline = time.monotonic() + limit
    while not wanted(status := await provider.status("acme")):
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.05)
    return status


async def until_serving(provider: DockerProvider) -> ComputeStatus:
    return await until(provider, lambda status: status.serving)


async def fetch(url: str) -> int:
    def get() -> int:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)

    return await asyncio.to_thread(get)


async def create(provider: DockerProvider, spec: ComputeSpec) -> Found:
    """As far as a worker gets that is killed before it starts anything."""
    config = with_defaults(provider, spec.config)
    return await provider._create(spec, config=config, digest=container.config_hash(config), turn=0)
