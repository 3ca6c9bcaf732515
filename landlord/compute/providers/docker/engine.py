"""The calls Landlord makes to a Docker engine, each with a time-out and with errors of the compute interface."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from landlord.compute.provider import ComputeError, ComputeUnavailable
from landlord.compute.providers.docker import credentials, faults
from landlord.compute.providers.docker.schema import LONGEST_STOP
from landlord.compute.providers.docker.state import Found, label_generation, parse_time

if TYPE_CHECKING:
    from aiodocker import Docker

CALL_TIMEOUT = 60.0
CONNECT_TIMEOUT = 5.0
READY_TIMEOUT = 5.0
STOP_TIMEOUT = LONGEST_STOP + 30.0
PULL_TIMEOUT = 900.0
"""All in seconds."""


class Engine:
    """One engine. Connects when first used; every method raises :class:`ComputeError` or one of its kinds."""

    def __init__(self, *, host: str | None, config_file: Path | None) -> None:
        self._host = host
        self._config_file = config_file
        self._docker: Docker | None = None

    async def close(self) -> None:
        docker, self._docker = self._docker, None
        if docker is not None:
            await docker.close()

    async def ping(self) -> None:
        """Raises :class:`ComputeUnavailable` unless the engine answers."""
        try:
            async with self._calling("reach the Docker engine", timeout=READY_TIMEOUT) as docker:
                await docker.version()
        except ComputeUnavailable:
            raise
        except ComputeError as error:
            raise ComputeUnavailable(str(error)) from None

    async def now(self) -> datetime:
        """The engine's own clock: what its containers' times are compared with."""
        async with self._calling("ask for the engine's time") as docker:
            return parse_time((await docker.system.info())["SystemTime"])

    async def generations(self, labels: Mapping[str, str]) -> dict[str, int]:
        """Container id to generation, of all with these labels, in any state."""
        async with self._calling("list containers") as docker:
            listed = await docker._query_json(  # noqa: SLF001 - containers.list() wraps every row in an object
                "containers/json", params={"all": "true", "filters": _label_filter(labels)}
            )
        return {row["Id"]: label_generation(row["Labels"]) for row in listed}

    async def find(self, labels: Mapping[str, str]) -> list[Found]:
        """All with these labels, inspected, the oldest first, without those that are being removed."""
        inspected = await asyncio.gather(*(self._inspect(id_) for id_ in await self.generations(labels)))
        found = [one for one in inspected if one is not None and one.state != "removing"]
        return sorted(found, key=lambda one: one.age)

    async def inspect(self, container_id: str) -> Found:
        async with self._calling("inspect the container") as docker:
            return Found(await docker.containers.container(container_id).show())

    async def _inspect(self, container_id: str) -> Found | None:
        try:
            return await self.inspect(container_id)
        except faults.Gone:
            return None

    async def create(self, body: Mapping[str, Any], *, name: str) -> str:
        """The new container's id. Raises ``ImageAbsent``, ``Conflict`` (the name is taken)."""
        async with self._calling("create the container", secrets=_secrets(body)) as docker:
            return (await docker.containers.create(body, name=name)).id

    async def start(self, found: Found) -> None:
        """Does nothing to one that runs. Raises ``PortTaken``."""
        async with self._calling("start the container", secrets=_secrets(found.data["Config"])) as docker:
            await docker.containers.container(found.id).start()

    async def unpause(self, container_id: str) -> None:
        async with self._calling("resume the container") as docker:
            await docker.containers.container(container_id).unpause()

    async def stop(self, container_id: str) -> None:
        """By its own stop time-out. Nothing to do where it is gone or does not run."""
        try:
            async with self._calling("stop the container", timeout=STOP_TIMEOUT) as docker:
                await docker.containers.container(container_id).stop()
        except faults.Gone:
            return

    async def set_restart_policy(self, container_id: str, policy: str) -> None:
        """When the engine starts it by itself from now on. Nothing to do where it is gone."""
        body = json.dumps({"RestartPolicy": {"Name": policy}})
        try:
            async with self._calling("change the container's restart policy") as docker:
                await docker._query_json(f"containers/{container_id}/update", "POST", data=body)  # noqa: SLF001
        except faults.Gone:
            return

    async def remove(self, container_id: str) -> None:
        """With its anonymous volumes; returns also where somebody else is still at it."""
        try:
            async with self._calling("remove the container") as docker:
                await docker.containers.container(container_id).delete(force=True, v=True)
        except (faults.Gone, faults.Conflict):
            return

    async def discard(self, container_id: str) -> None:
        """Remove it, unless it runs."""
        try:
            async with self._calling("remove the container") as docker:
                await docker.containers.container(container_id).delete(v=True)
        except (faults.Gone, faults.Conflict):
            return

    async def volumes(self, labels: Mapping[str, str]) -> dict[str, int]:
        """Volume name to the generation that made it."""
        async with self._calling("list volumes") as docker:
            answer = await docker._query_json("volumes", params={"filters": _label_filter(labels)})  # noqa: SLF001
        return {row["Name"]: label_generation(row["Labels"]) for row in answer.get("Volumes") or ()}

    async def remove_volume(self, name: str) -> None:
        """Returns also where it is gone, or in use by a container that is being removed."""
        try:
            async with self._calling("remove the volume") as docker, docker._query(f"volumes/{name}", "DELETE"):  # noqa: SLF001
                return
        except (faults.Gone, faults.Conflict):
            return

    async def pull(self, image: str) -> None:
        """Raises :class:`PermanentComputeError` where the registry does not have it or refuses it."""
        from aiodocker import DockerError

        auth = None
        if self._config_file is not None:
            auth = await asyncio.to_thread(
                credentials.read_credentials, self._config_file, registry=credentials.registry_of(image)
            )
        reference = image if auth is None else credentials.qualified(image)
        async with self._calling(f"pull image {image}", timeout=PULL_TIMEOUT) as docker:
            try:
                async for _progress in docker.images.pull(reference, auth=auth, stream=True, timeout=None):
                    pass
            except DockerError as error:
                raise faults.translate_pull(status=error.status, message=error.message, image=image) from None

    def _connect(self) -> Docker:
        if self._docker is None:
            try:
                from aiodocker import Docker, DockerError
            except ImportError:
                raise ComputeUnavailable("the docker provider needs aiodocker: install landlord[docker]") from None
            timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT, sock_connect=CONNECT_TIMEOUT)
            try:
                _ = urlsplit(self._host or "").port  # ValueError for what is none: aiodocker finds out when it calls
                self._docker = Docker(url=self._host, timeout=timeout)
            except (AssertionError, ValueError, DockerError):
                # aiodocker asserts that it found a socket where it was given no address. The last is that it wants
                # something for ssh.
                where = (
                    "LANDLORD_DOCKER_HOST is not an engine's address (unix:///path or tcp://host:port)"
                    if self._host
                    else "no engine was found"
                )
                raise ComputeUnavailable(f"cannot reach the Docker engine: {where}") from None
        return self._docker

    @asynccontextmanager
    async def _calling(
        self, action: str, *, timeout: float = CALL_TIMEOUT, secrets: Iterable[str] = ()
    ) -> AsyncIterator[Docker]:
        docker = self._connect()
        from aiodocker import DockerError

        try:
            async with asyncio.timeout(timeout):
                yield docker
        except DockerError as error:
            raise faults.translate(status=error.status, message=error.message, action=action, secrets=secrets) from None
        except TimeoutError:
            raise ComputeUnavailable(f"cannot {action}: no answer within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError):
            raise ComputeUnavailable(f"cannot {action}: the connection to the Docker engine broke") from None


def _label_filter(labels: Mapping[str, str]) -> str:
    return json.dumps({"label": [f"{name}={value}" for name, value in sorted(labels.items())]})


def _secrets(config: Mapping[str, Any]) -> list[str]:
    """The values in a create body, or in an inspected ``Config``, that the engine may quote: any may be secret."""
    user = str(config.get("User") or "")
    return [
        *(entry.partition("=")[2] for entry in config.get("Env") or ()),
        *(config.get("Entrypoint") or ()),
        *(config.get("Cmd") or ()),
        *((config.get("Healthcheck") or {}).get("Test") or ())[1:],  # the first is the engine's own word: CMD, ...
        user,
        *user.split(":"),  # the user and the group are looked up, and quoted, by themselves
    ]
