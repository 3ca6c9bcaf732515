"""A kustomization, applied to an API server of the module's own, and its pods' containers as processes here.

A process gets exactly what its pod would get: the arguments, the settings of ConfigMap and Secrets as the API server
has them, and, if the pod mounts one, the token of its service account. Only what cannot be the same on one machine
differs: ports are free ones, addresses of Services are those of the process that the Service leads to, and mounted
Secrets are files in a temporary folder.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
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
from fixtures.ports import free_port
from fixtures.postgres import sibling

from landlord.dev import controlplane, processes
from landlord.dev.controlplane import ControlPlane
from landlord.dev.processes import Child, Unavailable

BASE = ROOT / "deploy" / "base"
DOCKER = ROOT / "deploy" / "components" / "docker"
RESTATE = ROOT / "deploy" / "restate"
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
    """The cluster with the kustomization in it, two databases, and the processes."""

    plane: ControlPlane
    folder: Path
    stack: AsyncExitStack
    objects: list[Object]
    running: dict[str, Running] = field(default_factory=dict)
    _ports: dict[str, dict[str, int]] = field(default_factory=dict)

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
        spec: Object = self._template(name)["spec"]
        return spec

    def _template(self, name: str) -> Object:
        found = next(each for each in workloads(self.objects) if each["metadata"]["name"] == f"landlord-{name}")
        template: Object = found["spec"]["template"]
        return template

    async def admit(self, pod: Object) -> str:
        """What the API server says to such a pod in the installation's namespace."""
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any", "namespace": NAMESPACE}, "spec": pod}
        return await self.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body), check=False)

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
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder)} | await self.environment(name)
        for mount, folder in (await self._mounted(pod, container)).items():
            environment = {key: value.replace(mount, str(folder)) for key, value in environment.items()}
        ports = self._ports_of(name)
        for port in container.get("ports", ()):
            variable = next(key for key, value in environment.items() if value == str(port["containerPort"]))
            environment[variable] = str(ports[port["name"]])
        environment = {key: await self._here(value) for key, value in environment.items()}
        environment["KUBECONFIG"] = os.devnull
        if pod["automountServiceAccountToken"]:
            environment["KUBECONFIG"] = str(await self.kubeconfig(pod["serviceAccountName"]))
        child = await processes.start(
            [LANDLORD, *container["args"]], name=name, log=self.folder / f"{name}.log", environment=environment
        )
        return child, container, ports

    async def environment(self, name: str) -> dict[str, str]:
        """What the container is given, as a kubelet would make it of the manifest."""
        template = self._template(name)
        (container,) = template["spec"]["containers"]
        environment: dict[str, str] = {}
        for source in container["envFrom"]:
            environment |= (await self._get("configmap", source["configMapRef"]["name"]))["data"]
        for entry in container["env"]:
            value = await self._value(entry, metadata=template["metadata"])
            if value is not None:
                environment[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], value)
        return environment

    async def _value(self, entry: Object, *, metadata: Object) -> str | None:
        if "value" in entry:
            return str(entry["value"])
        if "fieldRef" in entry["valueFrom"]:
            label = re.fullmatch(r"metadata\.labels\['(.+)'\]", entry["valueFrom"]["fieldRef"]["fieldPath"])
            assert label is not None
            return str(metadata["labels"][label[1]])
        wanted = entry["valueFrom"]["secretKeyRef"]
        values = (await self._get("secret", wanted["name"]))["data"]
        if wanted.get("optional") and wanted["key"] not in values:
            return None
        return base64.b64decode(values[wanted["key"]]).decode()

    def _ports_of(self, name: str) -> dict[str, int]:
        """Where the pod's ports are on this machine, always the same ones."""
        if name not in self._ports:
            (container,) = self.pod(name)["containers"]
            self._ports[name] = {port["name"]: free_port() for port in container.get("ports", ())}
        return self._ports[name]

    async def _here(self, value: str) -> str:
        """A URL of one of the installation's Services as DNS and the Service would lead to a pod; else the value."""
        url = re.fullmatch(rf"http://(?P<service>[a-z0-9-]+)\.{NAMESPACE}\.svc:(?P<port>\d+)", value)
        if url is None:
            return value
        service = (await self._get("service", url["service"]))["spec"]
        (port,) = (each["targetPort"] for each in service["ports"] if each["port"] == int(url["port"]))
        (name,) = (
            each["metadata"]["name"].removeprefix("landlord-")
            for each in workloads(self.objects)
            if service["selector"].items() <= each["spec"]["template"]["metadata"]["labels"].items()
        )
        return f"http://127.0.0.1:{self._ports_of(name)[port]}"

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


def secrets(landlord: Mapping[str, str]) -> str:
    """What deploy/README.md says has to be there; ``landlord`` is the Secret of that name."""
    tokens = [f"tests:{_digest(TOKEN)}"]
    if "callback-token" in landlord:
        tokens.append(f"worker:{_digest(landlord['callback-token'])}:callbacks")
    values = {"landlord": dict(landlord), "landlord-api-tokens": {"tokens": "\n".join(tokens)}}
    return yaml.safe_dump_all(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "stringData": data,
        }
        for name, data in values.items()
    )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def empty_database(server: str, *, name: str) -> str:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'drop database if exists "{name}" with (force)')
        connection.execute(f'create database "{name}"')
    return sibling(server, name=name)


def overlay(folder: Path, **keys: Any) -> Path:
    """What a user writes: a kustomization in ``folder`` with these keys; a ``Path`` becomes a relative one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("resources", "components"):
        keys[name] = [os.path.relpath(path, folder) for path in keys.get(name, ())]
    body = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **keys}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(body))
    return folder


@asynccontextmanager
async def installed(manifest: str, *, folder: Path, secrets: str) -> AsyncIterator[Installation]:
    """The manifest in a fresh API server (it brings the definition of Tenant itself). Nothing runs yet."""
    try:
        found = binaries()
    except Unavailable as reason:
        unavailable(str(reason))
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(controlplane.running(binaries=found, state=folder))
        made = Installation(plane=plane, folder=folder, stack=stack, objects=list(yaml.safe_load_all(manifest)))
        await made.apply(manifest)
        await made.apply(secrets)
        await made.kubectl("wait", "--for=condition=Established", "crd/tenants.landlord.dev", "--timeout=30s")
        yield made


@pytest.fixture(scope="module")
def module_folder() -> Iterator[Path]:
    """Short, and every user can pass through its parents."""
    with tempfile.TemporaryDirectory(prefix="deploy-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(postgres: str, module_folder: Path) -> AsyncIterator[Installation]:
    """The base."""
    name = f"deploy_{os.getpid()}"
    databases = {
        "database-url": empty_database(postgres, name=f"{name}_tenants"),
        "workflow-url": empty_database(postgres, name=f"{name}_engine"),
    }
    async with installed(await rendered(BASE), folder=module_folder, secrets=secrets(databases)) as made:
        yield made
