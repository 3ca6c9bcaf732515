"""``landlord operator`` and ``landlord controller`` as processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from fixtures.components import ROOT
from kubernetes_door.harness import Landlord

from landlord.dev.controlplane import ControlPlane
from landlord.installation import assemble
from landlord.settings import Settings
from landlord.tenants.commands import Create, Request
from landlord.tenants.model import Door, Status

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cluster(own_control_plane: ControlPlane) -> ControlPlane:
    """These tests stop theirs."""
    return own_control_plane


LANDLORD = str(Path(sys.executable).with_name("landlord"))


class Process:
    """One ``landlord COMMAND``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = 0
        self.output = ""

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.output += line.decode()
            if found := re.search(r'"port":(\d+).*"health is served"|"health is served".*"port":(\d+)', line.decode()):
                self.port = int(found[1] or found[2])

    async def get(self, path: str) -> tuple[int, str]:
        async with asyncio.timeout(20):
            while not self.port:
                await asyncio.sleep(0.05)
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.status, await answer.text()

    async def until(self, path: str, *, code: int, text: str) -> None:
        async with asyncio.timeout(25):
            while True:
                status, body = await self.get(path)
                if status == code and text in body:
                    return
                await asyncio.sleep(0.1)


@asynccontextmanager
async def running(command: str, **environment: str) -> AsyncIterator[Process]:
    process = Process(
        await asyncio.create_subprocess_exec(
            LANDLORD, command,
            env={**os.environ, **environment}, stderr=asyncio.subprocess.PIPE,
        )
    )  # fmt: skip
    reading = asyncio.create_task(process.read())
    try:
        yield process
        process.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            assert await process.process.wait() == 0, process.output
    finally:
        if process.process.returncode is None:
            process.process.kill()
        await process.process.wait()
        await reading


async def test_operator_and_worker_make_a_tenant_ready(
    landlord: Landlord, cluster: ControlPlane, test_database_url: str
) -> None:
    environment = {
        "LANDLORD_DATABASE_URL": test_database_url,
        "LANDLORD_COMPUTE_PROVIDERS": "mock",
        "KUBECONFIG": str(cluster.kubeconfig),
        "LANDLORD_KUBERNETES_NAMESPACE": landlord.namespace,
    }
    async with running("worker", **environment), running("operator", **environment) as operator:
        await operator.until("/readyz", code=200, text='"ok"')
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        assert "OS signals are ignored" not in operator.output, "they are ours, not kopf's"
        shown = (await operator.get("/metrics"))[1]
        assert "landlord_operator_passes_total" in shown
        assert "landlord_workflow_engine_up 1.0" in shown
        assert "landlord_oldest_unconverged_seconds" in shown
        assert (await operator.get("/healthz"))[0] == 200
        await cluster.kill_api()
        await operator.until("/readyz", code=200, text='"cluster"')
        await cluster.start_api()
        await operator.until("/readyz", code=200, text='"ok"')
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")
    assert (await landlord.record()).status is Status.DELETED


async def test_operator_that_may_not_read_the_definition(
    landlord: Landlord, cluster: ControlPlane, test_database_url: str, tmp_path: Path
) -> None:
    """It works, and says what would happen; deploy/ grants it."""
    role = await granted()
    *less, definition = role["rules"]
    assert definition["resources"] == ["customresourcedefinitions"]
    kubeconfig = await account(landlord, {**role, "rules": less}, tmp_path / "kubeconfig")
    environment = {
        "LANDLORD_DATABASE_URL": test_database_url,
        "LANDLORD_COMPUTE_PROVIDERS": "mock",
        "KUBECONFIG": str(kubeconfig),
        "LANDLORD_KUBERNETES_NAMESPACE": landlord.namespace,
    }
    async with running("worker", **environment), running("operator", **environment) as operator:
        await operator.until("/readyz", code=200, text='"definition"')
        for _ in range(3):
            assert "every tenant would be deleted" in (await operator.get("/readyz"))[1]
        await landlord.apply({"size": 1})
        await landlord.until_ready()
        await landlord.kubectl("delete", "tenant", landlord.name, "--timeout=20s")
        assert operator.output.count("every tenant would be deleted") == 1
        await _apply(landlord, role)
        await operator.until("/readyz", code=200, text='"ok"')


async def test_operator_that_may_not_list_says_so(landlord: Landlord, test_database_url: str, tmp_path: Path) -> None:
    """It sees no resource at all."""
    role = await granted()
    tenants, *others = role["rules"]
    less = {**tenants, "verbs": [verb for verb in tenants["verbs"] if verb != "list"]}
    kubeconfig = await account(landlord, {**role, "rules": [less, *others]}, tmp_path / "kubeconfig")
    environment = {"LANDLORD_DATABASE_URL": test_database_url, "KUBECONFIG": str(kubeconfig)}
    async with running("operator", **environment) as operator:
        await operator.until("/readyz", code=200, text='"resync"')
        await _apply(landlord, role)
        await operator.until("/readyz", code=200, text='"ok"')


async def granted() -> dict[str, Any]:
    """What ``deploy/`` allows the operator."""
    accounts = await asyncio.to_thread((ROOT / "deploy" / "base" / "rbac.yaml").read_text)
    role: dict[str, Any]
    role = next(each for each in yaml.safe_load_all(accounts) if each["metadata"]["name"] == "landlord-operator")
    assert role["kind"] == "ClusterRole"
    return role


async def account(landlord: Landlord, role: dict[str, Any], kubeconfig: Path) -> Path:
    """The kubeconfig of an operator that is allowed this."""
    await landlord.kubectl("create", "serviceaccount", "operator")
    await _apply(landlord, role)
    bound = f"--serviceaccount={landlord.namespace}:operator"
    await landlord.kubectl("create", "clusterrolebinding", "operator", "--clusterrole=landlord-operator", bound)
    return await landlord.plane.service_account_kubeconfig(
        kubeconfig, namespace=landlord.namespace, service_account="operator"
    )


async def _apply(landlord: Landlord, body: dict[str, Any]) -> None:
    await landlord.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))


async def test_operator_without_a_cluster_names_the_setting(test_database_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        LANDLORD, "operator",
        env={**os.environ, "LANDLORD_DATABASE_URL": test_database_url, "LANDLORD_KUBERNETES_CONTEXT": "nowhere"},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert "LANDLORD_KUBERNETES_CONTEXT" in errors.decode()
    assert len(errors.decode().splitlines()) == 1


async def test_controller_waits_for_the_schema_then_reconciles(empty_database_url: str) -> None:
    environment = {"LANDLORD_DATABASE_URL": empty_database_url, "LANDLORD_COMPUTE_PROVIDERS": "mock"}
    async with running("controller", **environment) as controller:
        await controller.until("/readyz", code=503, text="landlord migrate")
        migrate = await asyncio.create_subprocess_exec(LANDLORD, "migrate", env={**os.environ, **environment})
        assert await migrate.wait() == 0
        await controller.until("/readyz", code=200, text='"ok"')
        settings = Settings(database_url=empty_database_url, compute_providers=("mock",))  # type: ignore[arg-type]
        async with running("worker", **environment), assemble(settings) as installation:
            await installation.service.submit(
                Request(tenant_id="acme", command=Create(compute_config={}), who="tester", door=Door.API)
            )
            async with asyncio.timeout(20):
                while True:
                    tenant = (await installation.repository.load("acme")).tenant
                    if tenant and tenant.status is Status.READY:
                        break
                    await asyncio.sleep(0.05)
