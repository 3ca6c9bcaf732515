"""The processes as the base runs them: settings from its ConfigMap and Secrets, tokens of its service accounts."""

from __future__ import annotations

import json

import psutil
import pytest
from deploy.installation import NAMESPACE, TENANTS, Installation, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEBIBYTE = 2**20


async def _status(installation: Installation, tenant: str) -> str:
    status, record = await installation.call("GET", f"/api/tenants/{tenant}")
    return str(record["status"]) if status == 200 else str(status)


async def _ready(installation: Installation, tenant: str, *, namespace: str) -> None:
    """Both doors say so."""

    async def there() -> bool:
        return bool(await installation.kubectl("get", "tenants", "-o", "name", namespace=namespace))

    await eventually(there)
    await installation.kubectl(
        "wait", "--for=condition=Ready", f"tenant/{tenant}", "--timeout=60s", namespace=namespace
    )
    assert await _status(installation, tenant) == "ready"


async def test_an_installation(installation: Installation) -> None:
    """Everything from the first migration to the last delete, in the order in which it happens."""
    api = await installation.run("api")

    async def waits() -> bool:
        return await api.probe("readiness") == 503

    await eventually(waits)
    assert await api.probe("liveness") == 200
    await installation.job("migrate")
    await api.ready()
    for name in ("operator", "worker"):
        await (await installation.run(name)).ready()
    for running in installation.running.values():
        assert [await running.probe(each) for each in ("startup", "liveness", "readiness")] == [200, 200, 200]

    for token in ("", "another"):
        status, problem = await installation.call("GET", "/api/tenants", token=token)
        assert (status, problem["status"]) == (401, 401)

    body = {"id": "by-rest", "compute_config": {"delay_seconds": 0.2}}
    status, record = await installation.call("POST", "/api/tenants", body=body)
    assert (status, record["workflow_execution_id"]) == (202, "tenant-by-rest-plan")
    await _ready(installation, "by-rest", namespace=TENANTS)

    await installation.kubectl("create", "namespace", "team")
    manifest = {
        "apiVersion": "landlord.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": "by-kubectl"},
        "spec": {"computeConfig": {"delay_seconds": 0.2}},
    }
    await installation.kubectl("apply", "-f", "-", stdin=json.dumps(manifest), namespace="team")
    await _ready(installation, "by-kubectl", namespace="team")

    manifest["spec"] = {"computeConfig": {"size": "large"}}
    await installation.kubectl("apply", "-f", "-", stdin=json.dumps(manifest), namespace="team")

    async def updated() -> bool:
        _, record = await installation.call("GET", "/api/tenants/by-kubectl")
        return bool(record["status"] == "ready" and record["observed_generation"] == 2)

    await eventually(updated)
    status, _ = await installation.call("PUT", "/api/tenants/by-rest", body={"compute_config": {"size": "small"}})
    assert status == 202

    async def mirrored() -> bool:
        found = await installation.kubectl("get", "tenant/by-rest", "-o", "json", namespace=TENANTS)
        return bool(json.loads(found)["spec"]["computeConfig"] == {"size": "small"})

    await eventually(mirrored)
    events = await installation.kubectl("get", "events", "-o", "name", namespace="team")
    assert "by-kubectl" in events

    status, _ = await installation.call("DELETE", "/api/tenants/by-kubectl")
    assert status == 202
    await installation.kubectl("wait", "--for=delete", "tenant/by-kubectl", "--timeout=60s", namespace="team")
    await installation.kubectl("delete", "tenant", "by-rest", "--timeout=60s", namespace=TENANTS)
    for tenant in ("by-kubectl", "by-rest"):
        assert await _status(installation, tenant) == "deleted"

    for name, running in installation.running.items():
        resources = running.container["resources"]
        used = _memory(running.child.pid)
        requested = int(resources["requests"]["memory"].removesuffix("Mi")) * MEBIBYTE
        assert used < requested, f"{name} uses {used / MEBIBYTE:.0f} MiB"
        assert "Forbidden" not in running.log
        assert "answered 403" not in running.log
        await running.child.stop(timeout=installation.pod(name)["terminationGracePeriodSeconds"])
        assert running.child.returncode == 0, running.child.tail()


def _memory(pid: int) -> int:
    used: int = psutil.Process(pid).memory_info().rss
    return used


async def test_the_api_makes_the_resource_without_the_operator(installation: Installation) -> None:
    await installation.job("migrate")
    await (await installation.run("api")).ready()
    status, _ = await installation.call(
        "POST", "/api/tenants", body={"id": "mirrored", "compute_config": {}, "paused": True}
    )
    assert status == 202

    async def there() -> bool:
        return "tenant.landlord.dev/mirrored" in await installation.kubectl(
            "get", "tenants", "-o", "name", namespace=TENANTS
        )

    await eventually(there, seconds=10)
    for arguments in (
        ["get", "tenants"],
        ["patch", "tenant/mirrored", "--type=merge", "-p", "{}"],
        ["delete", "tenant/mirrored"],
        ["create", "configmap", "mine"],
    ):
        refused = await installation.kubectl(*arguments, account="landlord-api", namespace=TENANTS, check=False)
        assert "orbidden" in refused
    refused = await installation.kubectl(
        "get", "secrets", account="landlord-operator", namespace=NAMESPACE, check=False
    )
    assert "orbidden" in refused
