"""``landlord dev`` as a new user has it: one command, both doors, Docker; what it keeps, and that it leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import yaml
from fixtures.kubernetes import binaries
from fixtures.warm import free_port

from landlord.dev import controlplane, folders
from landlord.dev.controlplane import ControlPlane

pytestmark = pytest.mark.timeout(240)


class Dev:
    """A running ``landlord dev``."""

    def __init__(self, process: asyncio.subprocess.Process, *, port: int, state: Path, output: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.state = state
        self._output = output

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.state / "kubeconfig")}

    async def says(self, line: str, *, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while line not in self.output:
                assert self.process.returncode is None, self.output
                await asyncio.sleep(0.05)

    def tree(self) -> list[psutil.Process]:
        """Everything that was started for it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.request(method, self.url + path, json=body) as answer:
            return answer.status, await answer.json()

    async def record(self, tenant: str, *, status: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                _, record = await self.request("GET", f"/api/tenants/{tenant}")
                if record.get("status") == status:
                    return dict(record)
                await asyncio.sleep(0.05)

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        process = await asyncio.create_subprocess_exec(
            "kubectl", *arguments, env=self.environment, stdin=-1, stdout=-1, stderr=-1
        )
        out, error = await process.communicate(stdin.encode())
        assert process.returncode == 0, error.decode()
        return out.decode()


@asynccontextmanager
async def dev(*arguments: str, state: Path, environment: dict[str, str]) -> AsyncIterator[Dev]:
    port = free_port()
    output = state.parent / "output"
    with output.open("w") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "landlord", "dev", "--port", str(port), "--state-dir", str(state), *arguments),
            env={**os.environ, **environment},
            stdout=file,
            stderr=file,
        )
    running = Dev(process, port=port, state=state, output=output)
    try:
        yield running
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait_for(process.wait(), 30)


async def test_both_doors_with_docker_over_a_restart(
    docker_host: str, busybox_image: str, control_plane: object, component_folder: Path
) -> None:
    """POST and kubectl apply become healthy containers; a restart finds its tenants, also where the state folder has
    been renamed; --reset leaves nothing of them, and does nothing while their engine is away."""
    environment = {"LANDLORD_DOCKER_HOST": docker_host}
    state = component_folder / "state"
    config = {
        "image": busybox_image,
        "volumes": [{"name": "data", "target": "/data"}],
        "ports": [{"container_port": 8080, "scheme": "http"}],
        "health_check": {"http": {"port": 8080, "path": "/healthz"}, "interval_seconds": 1},
    }
    async with dev("--kubernetes", "embedded", state=state, environment=environment) as running:
        await running.says("ready: ", seconds=120)
        assert "compute: docker by default" in running.output
        await running.says(f"  kubectl --kubeconfig {state / 'kubeconfig'} get tenant demo", seconds=5)
        status, _ = await running.request("POST", "/api/tenants", {"id": "by-rest", "compute_config": config})
        assert status == 202
        await running.kubectl("apply", "-f", "-", stdin=_resource("by-kubectl", config))
        await running.kubectl("wait", "--for=condition=Ready", "tenant/by-kubectl", "--timeout=60s")
        for tenant in ("by-rest", "by-kubectl"):
            record = await running.record(tenant, status="ready")
            [endpoint] = record["observed_config"]["endpoints"]
            async with aiohttp.ClientSession() as session, session.get(f"{endpoint['url']}/healthz") as answer:
                assert answer.status == 200
        await running.kubectl("wait", "--for=condition=Ready", "tenant/by-rest", "--timeout=30s")
        began = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        assert await running.process.wait() == 0, running.output
        assert time.monotonic() - began < 15
    state = state.rename(component_folder / "renamed")
    async with dev("--kubernetes", "embedded", state=state, environment=environment) as running:
        await running.says("ready: ", seconds=60)
        assert (await running.record("by-rest", status="ready"))["generation"] == 1
        listed = json.loads(await running.kubectl("get", "tenants", "-o", "json"))
        assert {item["metadata"]["name"] for item in listed["items"]} == {"by-rest", "by-kubectl"}
        assert (await running.request("DELETE", "/api/tenants/by-rest"))[0] == 202
        await running.record("by-rest", status="deleted")
        await running.kubectl("wait", "--for=delete", "tenant/by-rest", "--timeout=30s")
        assert await _made(docker_host, "by-rest") == []
        assert len(await _made(docker_host, "by-kubectl")) == 2
    reset = ("--kubernetes", "off", "--reset")
    away = {"LANDLORD_DOCKER_HOST": "unix:///nonexistent"}
    async with dev(*reset, state=state, environment=away) as running:
        assert await asyncio.wait_for(running.process.wait(), 60) == 1
        assert "containers and volumes of tenants (1 in the records)" in running.output
    async with dev(*reset, state=state, environment=environment) as running:
        await running.says("ready: ", seconds=60)
        assert await _made(docker_host, "by-kubectl") == []
        assert (await running.request("GET", "/api/tenants"))[1]["tenants"] == []


async def _made(host: str, tenant: str) -> list[str]:
    """The tenant's containers and volumes."""
    found: list[str] = []
    for listing in (("ps", "-aq"), ("volume", "ls", "-q")):
        process = await asyncio.create_subprocess_exec(
            *("docker", "-H", host, *listing, "--filter", f"label=landlord.dev/tenant-id={tenant}"), stdout=-1
        )
        out, _ = await process.communicate()
        found += out.decode().split()
    return found


async def test_both_doors_on_restate_over_a_restart(
    restate_server: object, control_plane: object, component_folder: Path
) -> None:
    """The same tenants; what runs goes on at the address it began at; a clean stop."""
    state = component_folder / "state"
    arguments = ("--workflow", "restate", "--kubernetes", "embedded", "--compute", "mock")
    async with dev(*arguments, state=state, environment={}) as running:
        await running.says("ready: ", seconds=120)
        await running.says(" get tenant demo", seconds=5)
        status, _ = await running.request("POST", "/api/tenants", {"id": "by-rest", "compute_config": {}})
        assert status == 202
        await running.kubectl("apply", "-f", "-", stdin=_resource("by-kubectl", {}))
        for tenant in ("by-rest", "by-kubectl"):
            await running.record(tenant, status="ready")
            await running.kubectl("wait", "--for=create", f"tenant/{tenant}", "--timeout=30s")
            await running.kubectl("wait", "--for=condition=Ready", f"tenant/{tenant}", "--timeout=60s")
        await running.request("POST", "/api/tenants", {"id": "slow", "compute_config": {"delay_seconds": 10}})
        await running.record("slow", status="provisioning")
        workers = await _addresses(running)
        assert len(workers) == 1
        tree = running.tree()
        began = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        assert await running.process.wait() == 0, running.output
        assert time.monotonic() - began < 15
        assert [each for each in tree if each.is_running()] == []
    async with dev(*arguments, state=state, environment={}) as running:
        await running.says("ready: ", seconds=60)
        assert await _addresses(running) == workers
        listed = json.loads(await running.kubectl("get", "tenants", "-o", "json"))
        assert {item["metadata"]["name"] for item in listed["items"]} >= {"by-rest", "by-kubectl"}
        record = await running.record("slow", status="ready")
        assert record["generation"] == 1
        executions = (await running.request("GET", "/api/tenants/slow/executions"))[1]["executions"]
        assert [each["execution_id"] for each in executions] == ["tenant-slow-provision", "tenant-slow-plan"]
        assert (await running.request("DELETE", "/api/tenants/by-kubectl"))[0] == 202
        await running.kubectl("wait", "--for=delete", "tenant/by-kubectl", "--timeout=60s")
        await running.kubectl("delete", "tenant", "by-rest", "--timeout=60s")
        for tenant in ("by-kubectl", "by-rest"):
            await running.record(tenant, status="deleted")


def _resource(name: str, config: dict[str, Any]) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "landlord.dev/v1alpha1",
            "kind": "Tenant",
            "metadata": {"name": name},
            "spec": {"computeConfig": config},
        }
    )


async def _addresses(running: Dev) -> list[str]:
    """Of the workers that its Restate server knows."""
    admin = re.search(r"admin (http://[0-9.:]+)", running.output)
    assert admin is not None
    async with aiohttp.ClientSession() as session, session.get(f"{admin[1]}/deployments") as answer:
        return [each["uri"] for each in (await answer.json())["deployments"]]


async def test_reset_takes_its_resources_out_of_a_users_cluster(
    control_plane: object, postgres: str, component_folder: Path
) -> None:
    """Nothing would ever take away the finalizer that holds them; what is not this installation's stays."""
    state = component_folder / "state"
    async with controlplane.running(binaries=binaries(), state=component_folder / "cluster") as users:
        environment = {"KUBECONFIG": str(users.kubeconfig), "LANDLORD_DOCKER_HOST": "unix:///nonexistent"}
        async with dev("--compute", "mock", state=state, environment=environment) as running:
            await running.says("ready: ", seconds=120)
            assert f"kubernetes: context {controlplane.CONTEXT}" in running.output
            await running.says(f"  kubectl --context {controlplane.CONTEXT} get tenant demo", seconds=5)
            await running.request("POST", "/api/tenants", {"id": "by-rest", "compute_config": {}})
            await _kubectl(users, "apply", "-f", "-", stdin=_resource("by-kubectl", {}))
            for tenant in ("by-rest", "by-kubectl"):
                await _kubectl(users, "wait", "--for=create", f"tenant/{tenant}", "--timeout=30s")
                await _kubectl(users, "wait", "--for=condition=Ready", f"tenant/{tenant}", "--timeout=60s")
        async with dev("--compute", "mock", state=component_folder / "other", environment=environment) as running:
            await running.says("kubernetes: off (the cluster's Tenant resources are of installation", seconds=60)
            await running.says("ready: ", seconds=60)
            await running.request("POST", "/api/tenants", {"id": "elsewhere", "compute_config": {}})
        await _kubectl(users, "apply", "-f", "-", stdin=_resource("stranger", {}))
        await _kubectl(users, "delete", "tenant", "by-rest", "--wait=false")
        reset = ("--reset", "--compute", "mock")
        await users.stop_api()
        async with dev(*reset, state=state, environment=environment) as running:
            assert await asyncio.wait_for(running.process.wait(), 90) != 0
            assert f"cannot remove the Tenant resources in context {controlplane.CONTEXT}" in running.output
            assert "--kubernetes off" in running.output
        await users.start_api()
        async with dev(*reset, state=state, environment=environment) as running:
            await running.says(f"reset: 2 Tenant resources in context {controlplane.CONTEXT} are gone", seconds=60)
        assert await _kubectl(users, "get", "tenants", "-o", "name") == "tenant.landlord.dev/stranger\n"


async def _kubectl(plane: ControlPlane, *arguments: str, stdin: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        *("kubectl", f"--kubeconfig={plane.kubeconfig}", *arguments), stdin=-1, stdout=-1, stderr=-1
    )
    out, error = await process.communicate(stdin.encode())
    assert process.returncode == 0, error.decode()
    return out.decode()


@pytest.mark.parametrize("workflow", ["local", "restate"])
async def test_nothing_is_left_when_it_is_killed(
    workflow: str, request: pytest.FixtureRequest, control_plane: object, component_folder: Path
) -> None:
    if workflow == "restate":
        request.getfixturevalue("restate_server")
    state = component_folder / "state"
    arguments = ("--workflow", workflow, "--compute", "mock")
    async with dev("--kubernetes", "embedded", *arguments, state=state, environment={}) as running:
        await running.says("ready: ", seconds=120)
        tree = running.tree()
        assert len(tree) > 5
        assert any(each.name() == "restate-server" for each in tree) == (workflow == "restate")
        running.process.kill()
        await running.process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, tree, 3)
        assert [process.name() for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        # etcd's sockets are all that stays; the next cluster there would take them away.
        shutil.rmtree(folders.RUNTIME / f"landlord-kubernetes-{folders.digest(state)}")
    async with dev("--kubernetes", "off", *arguments, state=state, environment={}) as running:
        await running.says("ready: ", seconds=60)
        await running.says("/api/docs", seconds=5)
        assert "kubectl" not in running.output


@pytest.mark.parametrize("workflow", ["local", "restate"])
async def test_a_process_that_dies_is_started_again(
    workflow: str, request: pytest.FixtureRequest, postgres: str, component_folder: Path
) -> None:
    if workflow == "restate":
        request.getfixturevalue("restate_server")  # so that there is one to be found
    state = component_folder / "state"
    arguments = ("--kubernetes", "off", "--compute", "mock", "--workflow", workflow)
    async with dev(*arguments, state=state, environment={}) as running:
        await running.says("ready: ", seconds=60)
        workers = [each for each in running.tree() if each.cmdline()[-1:] == ["worker"]]
        assert workers
        for each in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        assert (await running.request("POST", "/api/tenants", {"id": "a", "compute_config": {}}))[0] == 202
        await running.record("a", status="ready")
        assert (await running.request("POST", "/api/tenants", {"id": "b", "compute_config": {"delay_seconds": 10}}))[
            0
        ] == 202
        await running.record("b", status="provisioning")
    async with dev(*arguments, state=state, environment={}) as running:  # and what ran goes on
        await running.says("ready: ", seconds=60)
        await running.record("b", status="ready")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("postgres", ("--kubernetes", "off")),
        ("etcd", ("--kubernetes", "embedded")),
        ("restate-server", ("--kubernetes", "off", "--workflow", "restate")),
    ],
)
async def test_the_end_of_a_component_is_the_end_of_everything(
    name: str, arguments: tuple[str, ...], request: pytest.FixtureRequest, component_folder: Path
) -> None:
    """Landlord's own processes are started again; without these they would stay and do nothing."""
    request.getfixturevalue(
        {"postgres": "postgres", "etcd": "control_plane", "restate-server": "restate_server"}[name]
    )  # so that there is one to be found
    async with dev(*arguments, "--compute", "mock", state=component_folder / "state", environment={}) as running:
        await running.says("ready: ", seconds=120)
        tree = running.tree()
        [component] = [each for each in tree if each.name() == name and each.ppid() == running.process.pid]
        component.kill()
        await running.says(f"{name} has ended", seconds=2)
        assert await asyncio.wait_for(running.process.wait(), 30) == 1
        assert f"Error: {name} ended with status -9" in running.output
        assert "Traceback" not in running.output
        _, alive = await asyncio.to_thread(psutil.wait_procs, tree, 3)
        assert [each.name() for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


async def test_a_port_that_is_taken_is_not_taken_for_ours(postgres: str, component_folder: Path) -> None:
    """Even where what has it says that it is ready."""
    arguments = ("--kubernetes", "off", "--compute", "mock")
    first, second = (component_folder / name for name in ("first", "second"))
    first.mkdir(mode=0o711)
    second.mkdir(mode=0o711)
    async with dev(*arguments, state=first / "state", environment={}) as one:
        await one.says("ready: ", seconds=60)
        port = one.url.rpartition(":")[2]
        async with dev(*arguments, "--port", port, state=second / "state", environment={}) as two:
            assert await asyncio.wait_for(two.process.wait(), 60) == 1
            assert f"port {port} cannot be had (Address already in use)" in two.output
            assert "serving: " not in two.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--state-dir", "/proc/nowhere"), "cannot use /proc/nowhere"),
        (("--kubernetes", "nowhere"), "no context 'nowhere'"),
        (("--compute", "docker"), "no Docker engine answers"),
        (("--workflow", "unheard-of"), "LANDLORD_WORKFLOW_PROVIDER"),
        (("LANDLORD_RETRY_BACKOFF=-1",), "Error: LANDLORD_RETRY_BACKOFF (environment): Input should be greater than 0"),
        (("LANDLORD_COMPUTE_PROVIDERS=mock", "--compute", "docker"), "LANDLORD_COMPUTE_PROVIDERS has mock"),
    ],
)
async def test_what_cannot_be_had_is_said_in_a_line(
    postgres: str, arguments: tuple[str, ...], message: str, component_folder: Path
) -> None:
    settings = dict(each.split("=") for each in arguments if each.startswith("LANDLORD_"))
    options = (each for each in arguments if not each.startswith("LANDLORD_"))
    environment = {"LANDLORD_DOCKER_HOST": "unix:///nonexistent", "KUBECONFIG": "/nonexistent", **settings}
    async with dev(*options, state=component_folder / "state", environment=environment) as running:
        assert await asyncio.wait_for(running.process.wait(), 60) != 0
        assert message in running.output
        assert "Traceback" not in running.output


async def test_settings_choose_engine_and_compute(postgres: str, docker_host: str, component_folder: Path) -> None:
    """Where no option says otherwise: an installation with settings of its own is tried out as it is."""
    environment = {
        "LANDLORD_DOCKER_HOST": docker_host,
        "LANDLORD_COMPUTE_PROVIDERS": "mock",
        "LANDLORD_WORKFLOW_PROVIDER": "unheard-of",
    }
    state = component_folder / "state"
    async with dev("--kubernetes", "off", state=state, environment=environment) as running:
        assert await asyncio.wait_for(running.process.wait(), 60) == 1
        assert "compute: mock by default (LANDLORD_COMPUTE_PROVIDERS)" in running.output
        assert "unknown workflow provider 'unheard-of'" in running.output
    async with dev("--kubernetes", "off", "--workflow", "local", state=state, environment=environment) as running:
        await running.says("ready: ", seconds=60)


async def test_a_cache_that_cannot_be_had_is_said_in_a_line(postgres: str, component_folder: Path) -> None:
    """Nothing but the cluster is missing."""
    (component_folder / "go").write_text("#!/bin/sh\nexit 1\n")
    (component_folder / "go").chmod(0o755)
    environment = {
        "XDG_CACHE_HOME": "/proc/nowhere",
        "KUBEBUILDER_ASSETS": "",
        "PATH": f"{component_folder}{os.pathsep}{os.environ['PATH']}",
    }
    arguments = ("--kubernetes", "embedded", "--compute", "mock")
    async with dev(*arguments, state=component_folder / "state", environment=environment) as running:
        await running.says("ready: ", seconds=60)
        assert "kubernetes: off (cannot use /proc/nowhere" in running.output
