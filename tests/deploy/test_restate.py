"""``deploy/restate``: the manifests, and the processes that they make, called by a real Restate server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml
from deploy.installation import (
    DOCKER,
    LANDLORD,
    NAMESPACE,
    RESTATE,
    TENANTS,
    Installation,
    Object,
    empty_database,
    eventually,
    installed,
    overlay,
    rendered,
    secrets,
    workloads,
)
from fixtures.components import ROOT, unavailable

from landlord.dev import restate
from landlord.dev.processes import Unavailable
from landlord.dev.restate import RestateServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

OLD, NEW = "worker-0-1-0", "worker-0-2-0"
SERVER_TOKEN = "of-the-proxy-before-restate"
CALLBACK_TOKEN = "of-workers-for-callbacks"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def _public(key: Path) -> str:
    """As Restate and the SDK write it: base58 of the 32 bytes."""
    encoded = subprocess.run(
        ["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER"], check=True, capture_output=True
    ).stdout[-32:]
    number, digits = int.from_bytes(encoded), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return f"publickeyv1_{'1' * (len(encoded) - len(encoded.lstrip(bytes(1))))}{digits}"


class SigningServer(RestateServer):
    """Calls workers with the identity of ``key``, as docs/providers/restate.md advises."""

    def __init__(self, *, program: Path, folder: Path) -> None:
        self.key = folder / "identity.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", self.key], check=True)
        setting = "RESTATE_WORKER__INVOKER__REQUEST_IDENTITY_PRIVATE_KEY_PEM_FILE"
        signing = folder / "restate-server"
        signing.write_text(f'#!/bin/sh\n{setting}={self.key} exec {program} "$@"\n')
        signing.chmod(0o700)
        super().__init__(program=signing, folder=folder, nice=0)

    async def query(self, statement: str) -> list[dict[str, Any]]:
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.post(
                f"{self.admin_url}/query", json={"query": statement}, headers={"accept": "application/json"}
            ) as response,
        ):
            rows: list[dict[str, Any]] = (await response.json())["rows"]
            return rows


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(module_folder: Path) -> AsyncIterator[SigningServer]:
    try:
        program = await restate.find_or_install()
    except Unavailable as reason:
        unavailable(str(reason))
    folder = module_folder / "server"
    await asyncio.to_thread(folder.mkdir)
    made = await asyncio.to_thread(SigningServer, program=program, folder=folder)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


def _two_versions(folder: Path, settings: dict[str, str]) -> Path:
    """What somebody writes who upgrades the workers: a folder like the one that is shipped, for the next version."""
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    shutil.copytree(ROOT / "crds", folder / "crds")
    workers = folder / "deploy" / "restate" / "workers"
    shutil.copytree(workers / "0-1-0", workers / "0-2-0")
    written = workers / "0-2-0" / "kustomization.yaml"
    written.write_text(written.read_text().replace("0-1-0", "0-2-0").replace("0.1.0", "0.2.0"))
    return overlay(
        folder / "deploy" / "mine",
        resources=[folder / "deploy" / "restate", workers / "0-2-0"],
        configMapGenerator=[
            {
                "name": "landlord",
                "namespace": NAMESPACE,
                "behavior": "merge",
                "literals": [f"{key}={value}" for key, value in settings.items()],
            }
        ],
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(postgres: str, server: SigningServer, module_folder: Path) -> AsyncIterator[Installation]:
    """Two versions of the worker, and a Restate server elsewhere than where the component looks."""
    settings = {
        "LANDLORD_RESTATE_INGRESS_URL": server.ingress_url,
        "LANDLORD_RESTATE_ADMIN_URL": server.admin_url,
        "LANDLORD_RESTATE_WORKER_IDENTITY_KEYS": await asyncio.to_thread(_public, server.key),
    }
    manifest = await rendered(await asyncio.to_thread(_two_versions, module_folder / "written", settings))
    database = empty_database(postgres, name=f"deploy_restate_{os.getpid()}")
    given = secrets({"database-url": database, "restate-token": SERVER_TOKEN, "callback-token": CALLBACK_TOKEN})
    async with installed(manifest, folder=module_folder / "installation", secrets=given) as made:
        yield made


def _named(objects: list[Object], kind: str) -> Iterator[tuple[str, Object]]:
    for each in objects:
        if each["kind"] == kind:
            yield each["metadata"]["name"].removeprefix("landlord-"), each


async def test_every_version_of_the_worker_is_by_itself(installation: Installation) -> None:
    found = {each["metadata"]["name"].removeprefix("landlord-"): each for each in workloads(installation.objects)}
    assert found.keys() == {"api", "operator", "migrate", OLD, NEW}
    services = dict(_named(installation.objects, "Service"))
    policies = dict(_named(installation.objects, "NetworkPolicy"))
    for name, version in ((OLD, "0.1.0"), (NEW, "0.2.0")):
        pod = installation.pod(name)
        (container,) = pod["containers"]
        assert container["image"] == f"landlord:{version}"
        assert pod["automountServiceAccountToken"] is False
        labels = found[name]["spec"]["template"]["metadata"]["labels"]
        selectors = (services[name]["spec"]["selector"], policies[name]["spec"]["podSelector"]["matchLabels"])
        for selector in selectors:
            assert selector == found[name]["spec"]["selector"]["matchLabels"]
            chosen = [
                each
                for each in found
                if selector.items() <= found[each]["spec"]["template"]["metadata"]["labels"].items()
            ]
            assert chosen == [name]
        assert labels["app.kubernetes.io/version"] == version.replace(".", "-")
        # Restate has to reach a worker before the worker can say that it is ready.
        assert services[name]["spec"]["publishNotReadyAddresses"] is True
    for name in found:
        assert "created (server dry run)" in await installation.admit(installation.pod(name))


async def test_only_restate_may_call_a_worker(installation: Installation) -> None:
    _, policy = next(_named(installation.objects, "NetworkPolicy"))
    ports = {port["name"]: port["containerPort"] for port in installation.pod(OLD)["containers"][0]["ports"]}
    assert ports.keys() == {"restate", "health"}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    sources = {rule["ports"][0]["port"]: rule.get("from") for rule in policy["spec"]["ingress"]}
    restate_only = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "restate"}}}]
    assert sources == {"restate": restate_only, "health": None}
    api = next(rule for rule in policy["spec"]["egress"] if {"port": "http"} in rule["ports"])
    (chosen,) = (each["podSelector"] for each in api["to"])
    assert chosen.keys() == {"matchExpressions"}
    pods = {each["metadata"]["name"]: each["spec"]["template"]["metadata"] for each in workloads(installation.objects)}
    assert [
        name
        for name, pod in pods.items()
        if all(pod["labels"].get(each["key"]) in each["values"] for each in chosen["matchExpressions"])
    ] == ["landlord-api"]


async def _config(environment: dict[str, str]) -> dict[str, Any]:
    """What landlord makes of exactly these settings."""
    process = await asyncio.create_subprocess_exec(LANDLORD, "config", env=environment, stdout=PIPE, stderr=PIPE)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    effective: dict[str, Any] = yaml.safe_load(output)
    return effective


async def test_landlord_takes_the_settings(installation: Installation, server: SigningServer) -> None:
    for name in ("api", "operator", "migrate", OLD, NEW):
        environment = await installation.environment(name)
        assert environment["LANDLORD_RESTATE_TOKEN"] == SERVER_TOKEN
        assert "LANDLORD_WORKFLOW_LOCAL_URL" not in environment
        effective = await _config(environment)
        assert effective["workflow_provider"] == "restate"
        assert effective["restate_admin_url"] == server.admin_url
        assert effective["callback_url"] == f"http://landlord-api.{NAMESPACE}.svc:8080"
        assert effective["kubernetes_namespace"] == TENANTS
        if name in (OLD, NEW):
            assert "LANDLORD_DATABASE_URL" not in environment
            assert environment["LANDLORD_CALLBACK_TOKEN"] == CALLBACK_TOKEN
            assert effective["restate_worker_url"] == f"http://landlord-{name}.{NAMESPACE}.svc:9080"
            assert effective["restate_worker_force_registration"] is False
            assert len(effective["restate_worker_identity_keys"]) == 1


async def test_the_settings_that_are_shipped(module_folder: Path) -> None:
    """Without an overlay of one's own; and none of Restate's token, which is optional."""
    objects = list(yaml.safe_load_all(await rendered(RESTATE)))
    (settings,) = (each["data"] for _, each in _named(objects, "ConfigMap"))
    effective = await _config(settings)
    assert effective["restate_ingress_url"] == "http://restate.restate.svc:8080"
    assert effective["restate_admin_url"] == "http://restate.restate.svc:9070"
    for workload in workloads(objects):
        for entry in workload["spec"]["template"]["spec"]["containers"][0]["env"]:
            if entry["name"] == "LANDLORD_RESTATE_TOKEN":
                assert entry["valueFrom"]["secretKeyRef"]["optional"] is True
    assert {name for name, _ in _named(objects, "Deployment")} == {"api", "operator", OLD}


async def test_an_old_version_keeps_its_image(module_folder: Path) -> None:
    """When an overlay names the image of the others, once the version names its own."""
    folder = module_folder / "images"
    await asyncio.to_thread(_two_versions, folder, {})
    for name in ("0-1-0", "0-2-0"):
        written = folder / "deploy" / "restate" / "workers" / name / "kustomization.yaml"
        text = await asyncio.to_thread(written.read_text)
        text = text.replace("newName: landlord", "newName: registry.example.com/landlord")
        await asyncio.to_thread(written.write_text, text)
    mine = folder / "deploy" / "mine" / "kustomization.yaml"
    body = yaml.safe_load(await asyncio.to_thread(mine.read_text))
    del body["configMapGenerator"]
    body["images"] = [{"name": "landlord", "newName": "registry.example.com/landlord", "newTag": "0.2.0"}]
    await asyncio.to_thread(mine.write_text, yaml.safe_dump(body))
    objects = list(yaml.safe_load_all(await rendered(mine.parent)))
    images = {
        each["metadata"]["name"].removeprefix("landlord-"): each["spec"]["template"]["spec"]["containers"][0]["image"]
        for each in workloads(objects)
    }
    expected = dict.fromkeys(("api", "operator", "migrate", NEW), "0.2.0") | {OLD: "0.1.0"}
    assert images == {name: f"registry.example.com/landlord:{tag}" for name, tag in expected.items()}


async def test_with_the_docker_component(installation: Installation, module_folder: Path) -> None:
    mine = overlay(module_folder / "with-docker", resources=[RESTATE], components=[DOCKER])
    manifest = await rendered(mine)
    await installation.kubectl("delete", "job", "landlord-migrate", "--ignore-not-found", namespace=NAMESPACE)
    await installation.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=manifest)
    objects = list(yaml.safe_load_all(manifest))
    worker = next(each for name, each in _named(objects, "Deployment") if name == OLD)
    assert worker["spec"]["replicas"] == 1
    assert {each["name"] for each in worker["spec"]["template"]["spec"]["volumes"]} == {"tmp", "docker"}
    (settings,) = (each["data"] for _, each in _named(objects, "ConfigMap"))
    assert settings["LANDLORD_COMPUTE_PROVIDERS"] == "docker,mock"
    assert settings["LANDLORD_WORKFLOW_PROVIDER"] == "restate"


async def _ready(installation: Installation, tenant: str) -> None:
    async def there() -> bool:
        status, record = await installation.call("GET", f"/api/tenants/{tenant}")
        return status == 200 and record["status"] == "ready"

    await eventually(there)


async def _ran_at(server: SigningServer, execution: str) -> str:
    """The address of the worker at which it ran, or runs."""
    (row,) = await server.query(
        "select d.endpoint from sys_invocation i join sys_deployment d on d.id = i.pinned_deployment_id"
        f" where i.target_service_key = '{execution}'"
    )
    return str(row["endpoint"]).rstrip("/")


async def _forget(server: SigningServer) -> None:
    """What docs/providers/restate.md says one does with the addresses of old versions."""
    page = await asyncio.to_thread((ROOT / "docs" / "providers" / "restate.md").read_text)
    (block,) = (each for each in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "DELETE" in each)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", block.replace(".landlord/restate/", f"{server.key.parent}/")), stderr=PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def test_an_installation_and_an_upgrade_of_its_workers(installation: Installation, server: SigningServer) -> None:
    await installation.job("migrate")
    for name in ("api", OLD, "operator"):
        await (await installation.run(name)).ready()
    running = installation.running[OLD]
    assert [await running.probe(each) for each in ("startup", "liveness", "readiness")] == [200, 200, 200]

    status, _ = await installation.call("POST", "/api/tenants", body={"id": "first", "compute_config": {}})
    assert status == 202
    await _ready(installation, "first")
    await installation.kubectl("wait", "--for=condition=Ready", "tenant/first", "--timeout=60s", namespace=TENANTS)
    assert await _ran_at(server, "tenant-first-provision") == running.address("restate")

    async with aiohttp.ClientSession() as session, session.get(f"{running.address('health')}/metrics") as response:
        assert 'landlord_worker_callbacks_total{result="ok"}' in await response.text()

    # Whoever is not the server is told nothing, and makes the worker do nothing.
    async with aiohttp.ClientSession() as session:
        for path in ("discover", "invoke/landlord-default/run"):
            async with session.post(f"{running.address('restate')}/{path}") as response:
                assert response.status == 401

    slow = {"id": "slow", "compute_config": {"delay_seconds": 8}}
    assert (await installation.call("POST", "/api/tenants", body=slow))[0] == 202

    async def provisioning() -> bool:
        return bool((await installation.call("GET", "/api/tenants/slow"))[1]["status"] == "provisioning")

    await eventually(provisioning)
    await (await installation.run(NEW)).ready()

    async def registered() -> bool:
        return len(await server.query("select id from sys_deployment")) == 2

    await eventually(registered)
    await _forget(server)
    assert await registered(), "something still runs on the old one"
    status, _ = await installation.call("POST", "/api/tenants", body={"id": "second", "compute_config": {}})
    assert status == 202
    for tenant in ("second", "slow"):
        await _ready(installation, tenant)
    assert await _ran_at(server, "tenant-second-provision") == installation.running[NEW].address("restate")
    assert await _ran_at(server, "tenant-slow-provision") == running.address("restate")

    # Nothing runs on it any more: the old version goes.
    old = {"deployment", "service", "networkpolicy"}
    for kind in sorted(old):
        await installation.kubectl("delete", kind, f"landlord-{OLD}", namespace=NAMESPACE)
    await _forget(server)
    assert {row["endpoint"] for row in await server.query("select endpoint from sys_deployment")} == {
        f"{installation.running[NEW].address('restate')}/"
    }
    status, _ = await installation.call("PUT", "/api/tenants/first", body={"compute_config": {"size": "large"}})
    assert status == 202

    async def updated() -> bool:
        _, record = await installation.call("GET", "/api/tenants/first")
        return bool(record["status"] == "ready" and record["observed_generation"] == 2)

    await eventually(updated)
    for name, each in installation.running.items():
        assert SERVER_TOKEN not in each.log
        assert CALLBACK_TOKEN not in each.log
        await each.child.stop(timeout=installation.pod(name)["terminationGracePeriodSeconds"])
        assert each.child.returncode == 0, each.child.tail()
    left = json.loads(await installation.kubectl("get", "deployments", "-o", "json", namespace=NAMESPACE))
    assert {each["metadata"]["name"] for each in left["items"]} == {
        "landlord-api",
        "landlord-operator",
        f"landlord-{NEW}",
    }
