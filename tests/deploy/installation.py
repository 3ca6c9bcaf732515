"""The kustomize base, applied to an API server of the module's own, and its pods' containers as processes here.

A process gets exactly what its pod would get: the arguments, the settings of ConfigMap and Secrets as the API server
has them, and, if the pod mounts one, the token of its service account. Only what cannot be the same on one machine
differs: ports are free ones, and mounted Secrets are files in a temporary folder.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
import pytest_asyncio
import yaml
from fixtures.components import ROOT, unavailable
from fixtures.kubernetes import binaries
from fixtures.postgres import sibling

from landlord.dev import controlplane, processes
from landlord.dev.controlplane import ControlPlane
from landlord.dev.processes import Child, Unavailable
from landlord.dev.service import free_port

BASE = ROOT / "deploy" / "base"
DOCKER = ROOT / "deploy" / "components" / "docker"
LANDLORD = Path(sys.executable).with_name("landlord")
NAMESPACE = "landlord"
TENANTS = "landlord-tenants"
TOKEN = "a-long-random-text"
SECONDS = 60
"""What anything may take on a busy machine."""

Object = dict[str, Any]


async def eventually(check: Callable[[], Awaitable[bool]], *, seconds: float = SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not await check():
            await asyncio.sleep(0.1)


@dataclass(kw_only=True)
class Running:
    """One container as a process, with its probes."""

    child: Child
    container: Object
    ports: Mapping[str, int]

    def address(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    async def probe(self, name: str) -> int:
        """The status that a probe of the manifest gets; 0 if nobody listens."""
        wanted = self.container[f"{name}Probe"]["httpGet"]
        timeout = aiohttp.ClientTimeout(total=self.container[f"{name}Probe"].get("timeoutSeconds", 1))
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{self.address(wanted['port'])}{wanted['path']}") as response,
            ):
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return await self.probe("readiness") == 200

        await processes.until(is_ready, child=self.child, timeout=SECONDS)

    @property
    def log(self) -> str:
        assert self.child.log is not None
        return self.child.log.read_text()


@dataclass(kw_only=True)
class Installation:
    """The cluster with the base in it, two databases, and the processes."""

    plane: ControlPlane
    folder: Path
    stack: AsyncExitStack
    objects: list[Object]
    running: dict[str, Running] = field(default_factory=dict)

    async def kubectl(
        self,
        *arguments: str,
        account: str | None = None,
        namespace: str | None = None,
        stdin: str | None = None,
        check: bool = True,
    ) -> str:
        """As administrator, or as one of the installation's service accounts."""
        kubeconfig = self.plane.kubeconfig if account is None else await self.kubeconfig(account)
        where = [] if namespace is None else [f"--namespace={namespace}"]
        return await kubectl(f"--kubeconfig={kubeconfig}", *where, *arguments, stdin=stdin, check=check)

    async def kubeconfig(self, account: str) -> Path:
        """With a token of that service account."""
        path = self.folder / f"{account}.kubeconfig"
        if not path.exists():
            await self.plane.service_account_kubeconfig(path, namespace=NAMESPACE, service_account=account)
        return path

    async def apply(self, manifest: str) -> None:
        """Nothing of it may even cause a warning, of the pod security standard for one."""
        await self.kubectl("apply", "--server-side", "--warnings-as-errors", "-f", "-", stdin=manifest)

    def pod(self, name: str) -> Object:
        """The pod's spec of a Deployment or Job."""
        found = next(each for each in workloads(self.objects) if each["metadata"]["name"] == f"landlord-{name}")
        spec: Object = found["spec"]["template"]["spec"]
        return spec

    async def run(self, name: str) -> Running:
        """The pod's container; it ends with the module."""
        child, container, ports = await self._start(name)
        self.stack.push_async_callback(child.stop)
        self.running[name] = Running(child=child, container=container, ports=ports)
        return self.running[name]

    async def job(self, name: str) -> None:
        child, _, _ = await self._start(name)
        async with asyncio.timeout(SECONDS):
            status = await child.wait()
        await child.kill()
        assert status == 0, child.tail()

    async def _start(self, name: str) -> tuple[Child, Object, dict[str, int]]:
        pod = self.pod(name)
        (container,) = pod["containers"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder)} | await self._environment(container)
        for mount, folder in (await self._mounted(pod, container)).items():
            environment = {key: value.replace(mount, str(folder)) for key, value in environment.items()}
        ports = {}
        for port in container.get("ports", ()):
            ports[port["name"]] = free_port()
            variable = next(key for key, value in environment.items() if value == str(port["containerPort"]))
            environment[variable] = str(ports[port["name"]])
        environment["KUBECONFIG"] = os.devnull
        if pod["automountServiceAccountToken"]:
            environment["KUBECONFIG"] = str(await self.kubeconfig(pod["serviceAccountName"]))
        child = await processes.start(
            [LANDLORD, *container["args"]], name=name, log=self.folder / f"{name}.log", environment=environment
        )
        return child, container, ports

    async def _environment(self, container: Object) -> dict[str, str]:
        environment: dict[str, str] = {}
        for source in container["envFrom"]:
            environment |= (await self._get("configmap", source["configMapRef"]["name"]))["data"]
        for entry in container["env"]:
            if "value" in entry:
                environment[entry["name"]] = entry["value"]
            else:
                wanted = entry["valueFrom"]["secretKeyRef"]
                secret = await self._get("secret", wanted["name"])
                environment[entry["name"]] = base64.b64decode(secret["data"][wanted["key"]]).decode()
        return environment

    async def _mounted(self, pod: Object, container: Object) -> dict[str, Path]:
        """Where the pod's Secrets are mounted, and the folder that stands for each."""
        secrets = {each["name"]: each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
        folders = {}
        for mount in container["volumeMounts"]:
            if mount["name"] not in secrets:
                continue
            folder = self.folder / mount["name"]
            folder.mkdir(exist_ok=True)
            secret = await self._get("secret", secrets[mount["name"]])
            for key, value in secret["data"].items():
                (folder / key).write_bytes(base64.b64decode(value))
            folders[mount["mountPath"]] = folder
        return folders

    async def _get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(await self.kubectl("get", kind, name, "-o", "json", namespace=NAMESPACE))
        return found

    async def call(self, method: str, path: str, *, body: Any = None, token: str = TOKEN) -> tuple[int, Any]:
        """One request to the API process."""
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"} if token else {}) as session,
            session.request(method, f"{self.running['api'].address('http')}{path}", json=body) as response,
        ):
            return response.status, await response.json()


def workloads(objects: list[Object]) -> list[Object]:
    return [each for each in objects if each["kind"] in ("Deployment", "Job")]


async def kubectl(*arguments: str | Path, stdin: str | None = None, check: bool = True) -> str:
    """Its output. Fails the test with its words if it fails; with ``check=False`` those are returned with the rest."""
    try:
        program = binaries().kubectl
    except Unavailable as reason:
        unavailable(str(reason))
    if program is None:
        unavailable("there is no kubectl")
    process = await asyncio.create_subprocess_exec(
        program, *map(str, arguments), stdin=PIPE if stdin is not None else DEVNULL, stdout=PIPE, stderr=PIPE
    )
    output, errors = await process.communicate(None if stdin is None else stdin.encode())
    if process.returncode != 0 and check:
        pytest.fail(f"kubectl {' '.join(map(str, arguments))}: {errors.decode()}", pytrace=False)
    return (output if check else output + errors).decode()


async def rendered(folder: Path) -> str:
    """What ``kubectl kustomize`` makes of it."""
    return await kubectl("kustomize", folder)


def secrets(*, tenants: str, engine: str) -> str:
    """What deploy/README.md says has to be there."""
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    values = {
        "landlord": {"database-url": tenants, "workflow-url": engine},
        "landlord-api-tokens": {"tokens": f"tests:{digest}\n"},
    }
    return yaml.safe_dump_all(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "stringData": data,
        }
        for name, data in values.items()
    )


def empty_database(server: str, *, name: str) -> str:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'drop database if exists "{name}" with (force)')
        connection.execute(f'create database "{name}"')
    return sibling(server, name=name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(postgres: str) -> AsyncIterator[Installation]:
    """The base in a fresh API server (it brings the definition of Tenant itself). Nothing runs yet."""
    try:
        found = binaries()
    except Unavailable as reason:
        unavailable(str(reason))
    manifest = await rendered(BASE)
    name = f"deploy_{os.getpid()}"
    async with AsyncExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="deploy-", dir="/tmp", ignore_cleanup_errors=True))
        )
        plane = await stack.enter_async_context(controlplane.running(binaries=found, state=folder))
        made = Installation(plane=plane, folder=folder, stack=stack, objects=list(yaml.safe_load_all(manifest)))
        await made.apply(manifest)
        await made.apply(
            secrets(
                tenants=empty_database(postgres, name=f"{name}_tenants"),
                engine=empty_database(postgres, name=f"{name}_engine"),
            )
        )
        await made.kubectl("wait", "--for=condition=Established", "crd/tenants.landlord.dev", "--timeout=30s")
        yield made
