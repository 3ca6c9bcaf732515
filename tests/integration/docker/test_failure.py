"""What is said of a tenant that does not run, and of an engine that does not answer."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiodocker import Docker
from fixtures.docker import import_image
from integration.docker.harness import (
    ABSENT,
    SECRET,
    Make,
    Tenant,
    shell,
    until,
    until_serving,
)

from landlord.compute.provider import (
    ComputeError,
    ComputeState,
    ComputeUnavailable,
    PermanentComputeError,
)
from landlord.compute.providers.docker import DockerProvider
from landlord.dev.docker import DockerEngine
from landlord.workflow import definition
from landlord.workflow.payload import TenantPayload


class Only:
    """The one provider that a workflow finds."""

    def __init__(self, provider: DockerProvider) -> None:
        self.provider = provider

    def get(self, _: str, /) -> DockerProvider:
        return self.provider


async def test_unhealthy(provider: DockerProvider, tenant: Tenant) -> None:
    check = {"test": f"echo {SECRET}; exit 7", "interval_seconds": 0.1, "retries": 2}
    await provider.apply(tenant.spec(**{**shell("sleep 1000"), "health_check": check}))
    status = await until(provider, lambda status: status.outputs.health == "unhealthy")
    assert status.state is ComputeState.RUNNING
    assert not status.serving
    assert "exit code 7" in status.message
    assert SECRET not in status.message


async def test_a_program_that_ends(provider: DockerProvider, tenant: Tenant) -> None:
    await provider.apply(tenant.spec(1, restart_policy="no", **shell("exit 3")))
    status = await until(provider, lambda status: status.state is ComputeState.FAILED)
    assert (status.outputs.health, status.message) == ("unhealthy", "exit code 3")
    await provider.apply(tenant.spec(2, restart_policy="no", **shell("exit 0")))
    status = await until(provider, lambda status: status.state is ComputeState.STOPPED)
    assert (status.generation, status.message) == (2, "exit code 0")


async def test_a_program_that_keeps_ending(provider: DockerProvider, tenant: Tenant) -> None:
    await provider.apply(tenant.spec(**shell("exit 4")))
    status = await until(provider, lambda status: status.outputs.health == "unhealthy")
    assert status.state is ComputeState.STARTING
    assert "exit code 4" in status.message
    status = await until(provider, lambda status: status.state is ComputeState.FAILED, limit=90)
    assert "keeps exiting" in status.message
    await provider.destroy("acme", generation=1)


async def test_out_of_memory(provider: DockerProvider, tenant: Tenant) -> None:
    eat = shell("exec tail -c 100000000 /dev/zero")
    await provider.apply(tenant.spec(restart_policy="no", resources={"memory_mb": 16}, **eat))
    status = await until(provider, lambda status: status.state is ComputeState.FAILED)
    # The engine does not always hear why.
    assert re.fullmatch(r"(killed, perhaps )?out of memory \(exit code 137, limit 16 MiB\)", status.message)


async def test_what_the_installation_does_not_allow_is_refused_by_the_worker_too(
    provider: DockerProvider, tenant: Tenant
) -> None:
    with pytest.raises(PermanentComputeError, match="/volumes/0/source is not allowed"):
        await provider.apply(tenant.spec(volumes=[{"source": "/", "target": "/host"}]))
    assert await tenant.ids(provider) == []


async def test_an_allowed_path_is_mounted(make: Make, tenant: Tenant, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    volumes = [{"source": str(tmp_path), "target": "/mnt", "read_only": True}]
    check = {"test": ["/bin/busybox", "test", "-f", "/mnt/file"], "interval_seconds": 0.4}
    provider = make(docker_allow_volumes=(str(tmp_path.parent),))
    await provider.apply(tenant.spec(**{**shell("sleep 1000"), "volumes": volumes, "health_check": check}))
    assert (await until_serving(provider)).outputs.health == "healthy", "it sees the file"
    [one] = await tenant.containers(provider)
    [mount] = one["Mounts"]
    assert (mount["Source"], mount["Destination"], mount["RW"]) == (str(tmp_path), "/mnt", False)


@pytest.mark.parametrize(
    "change",
    [
        {"user": "nobody-at-all"},
        {"user": "0:nobody-at-all"},
        {"tmpfs": [{"target": "/proc/nobody-at-all"}]},
        {"entrypoint": ["/nope"], "init": False},
    ],
    ids=["user", "group", "mount", "program"],
)
async def test_no_value_of_the_environment_is_in_an_error(
    provider: DockerProvider, tenant: Tenant, change: dict[str, Any]
) -> None:
    # The engine quotes the name of a user, directory or program; here that is at the same time a secret.
    secret = "/nope" if "entrypoint" in change else "nobody-at-all"
    with pytest.raises(PermanentComputeError) as caught:
        await provider.apply(tenant.spec(**{**change, "env": {"TOKEN": secret}}))
    assert secret not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"command": [f'run --token "{SECRET}"'], "entrypoint": [""]},
        {"entrypoint": [f'/opt/run\n--token "{SECRET}"']},
        {"user": f"0:{SECRET}"},
    ],
    ids=["command", "entrypoint", "user"],
)
async def test_no_value_of_the_command_is_in_an_error(
    provider: DockerProvider, tenant: Tenant, change: dict[str, Any]
) -> None:
    with pytest.raises(ComputeError, match=r"\*\*\*") as caught:
        await provider.apply(tenant.spec(**change, env={}, init=False))
    assert SECRET not in str(caught.value)


async def test_an_engine_that_is_away(make: Make, tenant: Tenant, tmp_path: Path) -> None:
    away = make(host=f"unix://{tmp_path}/none.sock")
    for call in (
        away.ready(),
        away.apply(tenant.spec()),
        away.status("acme"),
        away.destroy("acme", generation=1),
        away.retire("acme", generation=1),
    ):
        with pytest.raises(ComputeUnavailable, match="cannot be reached"):
            await call
    for host in ("nonsense", "tcp://127.0.0.1:port", "tcp://127.0.0.1:65536", "ssh://"):
        with pytest.raises(ComputeUnavailable, match="LANDLORD_DOCKER_HOST"):
            await make(host=host).ready()


async def test_an_engine_that_does_not_answer(make: Make, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute.sock"))
        mute.listen()
        with pytest.raises(ComputeUnavailable, match="no answer within 5 s"):
            await make(host=f"unix://{tmp_path}/mute.sock").ready()


async def test_an_engine_that_goes_and_comes_back(make: Make, own_docker: DockerEngine, tenant: Tenant) -> None:
    provider = make(host=own_docker.host)
    await provider.ready()
    await own_docker.kill()
    for call in (provider.ready(), provider.status("acme"), provider.apply(tenant.spec())):
        with pytest.raises(ComputeUnavailable):
            await call
    await own_docker.start()
    await provider.ready()
    assert (await provider.status("acme")).state is ABSENT


async def test_an_engine_that_goes_and_comes_back_costs_no_run(
    make: Make, own_docker: DockerEngine, docker: Docker
) -> None:
    image = await import_image(own_docker.host)
    provider = make(host=own_docker.host)
    spec = Tenant(image, docker).spec()
    payload = TenantPayload(
        installation=provider._settings.installation,
        execution_id="tenant-acme-provision",
        tenant_id=spec.tenant_id,
        incarnation="1",
        generation=spec.generation,
        action="provision",
        attempt=spec.attempt,
        compute_provider="docker",
        desired_config=spec.config,
        observed_config=None,
    )

    async def step(name: str, action: Callable[[], Awaitable[Any]], /) -> Any:
        if name in ("apply", "retire"):
            await own_docker.kill()
            back = asyncio.create_task(own_docker.start())
            done = await action()
            await back
            return done
        return await action()

    output = await definition.run(payload, compute=Only(provider), step=step, health_timeout=60)
    assert output["health"] == "healthy"
    await provider.destroy("acme", generation=1)
