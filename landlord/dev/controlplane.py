"""A private Kubernetes API server with its etcd, on loopback, kept in a folder.

etcd listens on a socket in a private folder only: on a port every user of the machine could write what it likes. The
API server's own key signs the tokens of service accounts. The API server is stopped before etcd, as it would wait for
it otherwise.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import structlog
import yaml

from landlord.dev import folders
from landlord.dev.kubernetes_binaries import Binaries
from landlord.dev.ports import free_port, on_free_port, taken
from landlord.dev.processes import Child, LauncherError, Unavailable, start, until

CONTEXT = "landlord-dev"
START_TIMEOUT = 90
STOP_TIMEOUT = 5
"""Seconds; watchers may hold the API server for longer, and nothing is lost by killing it."""
COLLECTING = {"GOGC": "400", "GOMEMLIMIT": "600MiB"}
"""How the API server collects its garbage: its own way takes up to a quarter of the time of a request."""
CERTIFICATE_LIFE = 300 * 86400
"""Seconds; the API server signs its own for a year and never renews it."""

_log = structlog.get_logger(__name__)


class ControlPlane:
    """One API server with its etcd. Made by :func:`running`; the API server can go and come back by itself."""

    def __init__(
        self, *, binaries: Binaries, folder: Path, runtime: Path, kubeconfig: Path, controllers: bool, nice: int
    ) -> None:
        self.binaries = binaries
        self.kubeconfig = kubeconfig
        """An administrator's."""
        self._folder = folder
        self._runtime = runtime
        self._controllers = controllers
        self._nice = nice
        self._token = _kept(folder / "token", secrets.token_hex(24))
        self._etcd: Child | None = None
        self._api: Child | None = None
        self._manager: Child | None = None

    @property
    def port(self) -> int:
        return int((self._folder / "port").read_text())

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def children(self) -> list[Child]:
        """What runs of it, to be watched."""
        return [child for child in (self._etcd, self._api, self._manager) if child is not None]

    @property
    def api_pid(self) -> int | None:
        """The API server's, null while it is stopped."""
        return None if self._api is None else self._api.pid

    async def start(self) -> None:
        """Start etcd, the API server and, if asked for, the controllers. Raises :class:`LauncherError`."""
        await self._start_etcd()
        await self.start_api()
        if self._controllers:
            await self._start_manager()

    async def stop(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            await manager.kill()
        await self.stop_api()
        etcd, self._etcd = self._etcd, None
        if etcd is not None:
            await etcd.stop(timeout=STOP_TIMEOUT)

    async def start_api(self) -> None:
        """Start the API server where it was before, or on another port if that one has been taken meanwhile."""
        (self._folder / "tokens.csv").write_text(f'{self._token},admin,admin,"system:masters"\n')
        (self._folder / "tokens.csv").chmod(0o600)
        self._renew_certificate()
        await on_free_port(self._try_api)
        self._write_kubeconfig(self.kubeconfig, token=self._token, user="admin", namespace="default")

    async def stop_api(self) -> None:
        api, self._api = self._api, None
        if api is not None:
            await api.stop(timeout=STOP_TIMEOUT)

    async def kill_api(self) -> None:
        """As a crash would: SIGKILL."""
        api, self._api = self._api, None
        if api is not None:
            await api.kill()

    async def request(self, method: str, path: str, *, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """One request as administrator: the status and the decoded answer. Raises ``aiohttp.ClientError``."""
        context = ssl.create_default_context(cafile=str(self._certificate))
        headers = {"Authorization": f"Bearer {self._token}"}
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.request(method, f"{self.server}{path}", json=body, ssl=context) as response,
        ):
            text = response.content_type == "text/plain"
            return response.status, await (response.text() if text else response.json())

    async def service_account_kubeconfig(
        self, path: Path, *, namespace: str, service_account: str, seconds: int = 86400
    ) -> Path:
        """Write a kubeconfig to ``path`` for an existing service account, good for ``seconds``."""
        status, answer = await self.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token",
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": seconds},
            },
        )
        if status != 201:
            raise LauncherError(f"no token for {namespace}/{service_account}: {answer.get('message')}")
        self._write_kubeconfig(path, token=answer["status"]["token"], user=service_account, namespace=namespace)
        return path

    @property
    def _certificate(self) -> Path:
        return self._folder / "certificates" / "apiserver.crt"

    async def _start_etcd(self) -> None:
        # Its check of addresses wants "host:port", which it takes for a file below its working folder.
        peer, client = "unix://peer:1", "unix://client:1"
        address = self._runtime / "etcd"
        self._etcd = await start(
            [
                self.binaries.etcd,
                "--name=landlord",
                f"--data-dir={self._folder / 'etcd'}",
                f"--listen-client-urls=unix://{address}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=landlord={peer}",
                "--log-level=warn",
            ],
            name="etcd",
            log=self._folder / "etcd.log",
            nice=self._nice,
            folder=self._runtime,
        )

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_unix_connection(address)
            except OSError:
                return False
            writer.close()
            await writer.wait_closed()
            return True

        await until(listens, child=self._etcd, timeout=START_TIMEOUT)

    async def _try_api(self) -> None:
        kept = self._folder / "port"
        port = int(_kept(kept, str(free_port())))
        self._api = await start(
            [self.binaries.kube_apiserver, *self._api_options(port)],
            name="kube-apiserver",
            log=self._folder / "kube-apiserver.log",
            nice=self._nice,
            environment={**COLLECTING, **os.environ},
        )
        try:
            await until(self._ready, child=self._api, timeout=START_TIMEOUT)
        except BaseException as error:
            await self.kill_api()
            if isinstance(error, LauncherError) and taken(error):
                kept.unlink()
            raise

    def _api_options(self, port: int) -> list[str]:
        key = self._certificate.with_suffix(".key")
        return [
            f"--etcd-servers=unix://{self._runtime / 'etcd'}",
            f"--cert-dir={self._certificate.parent}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.0.0.0/24",
            # Nobody makes the default service account of a namespace here.
            "--disable-admission-plugins=ServiceAccount",
        ]

    async def _start_manager(self) -> None:
        program = self.binaries.kube_controller_manager
        if program is None:
            raise Unavailable(f"there is no kube-controller-manager beside {self.binaries.kube_apiserver}")
        self._manager = await start(
            [
                program,
                f"--kubeconfig={self.kubeconfig}",
                f"--service-account-private-key-file={self._certificate.with_suffix('.key')}",
                f"--root-ca-file={self._certificate}",
                "--leader-elect=false",
                "--secure-port=0",
            ],
            name="kube-controller-manager",
            log=self._folder / "kube-controller-manager.log",
            nice=self._nice,
        )

    async def _ready(self) -> bool:
        if not self._certificate.exists():
            return False
        try:
            status, _ = await self.request("GET", "/readyz")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        return status == 200

    def _renew_certificate(self) -> None:
        if self._certificate.exists() and time.time() - self._certificate.stat().st_mtime > CERTIFICATE_LIFE:
            shutil.rmtree(self._certificate.parent)

    def _write_kubeconfig(self, path: Path, *, token: str, user: str, namespace: str) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": CONTEXT,
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user, "namespace": namespace}}],
            "clusters": [
                {
                    "name": CONTEXT,
                    # By its name: clients in Python write what stands here itself into a file for OpenSSL, and leave
                    # it in /tmp when they are killed.
                    "cluster": {"server": self.server, "certificate-authority": str(self._certificate.absolute())},
                }
            ],
            "users": [{"name": user, "user": {"token": token}}],
        }
        fresh = path.with_name(f".{path.name}.new")
        fresh.touch(mode=0o600)
        fresh.write_text(yaml.safe_dump(config))
        fresh.replace(path)


@asynccontextmanager
async def running(
    *, binaries: Binaries, state: Path, controllers: bool = False, nice: int = 0
) -> AsyncIterator[ControlPlane]:
    """A control plane whose data are below the folder ``state``, with ``state/kubeconfig``.

    ``controllers`` adds kube-controller-manager: garbage collection, emptying deleted namespaces, Deployments. Raises
    :class:`LauncherError`, also if another process has ``state``.
    """
    state = folders.existing(state)
    with ExitStack() as stack:
        stack.enter_context(folders.held(state / "kubernetes.lock", what=f"the control plane of {state}"))
        folder = folders.private(state / "kubernetes")
        runtime = folders.private(folders.RUNTIME / f"landlord-kubernetes-{folders.digest(state)}")
        stack.callback(shutil.rmtree, runtime, ignore_errors=True)
        plane = ControlPlane(
            binaries=binaries,
            folder=folder,
            runtime=runtime,
            kubeconfig=state / "kubeconfig",
            controllers=controllers,
            nice=nice,
        )
        try:
            await plane.start()
            yield plane
        finally:
            await plane.stop()


def _kept(path: Path, value: str) -> str:
    """What ``path`` holds; ``value``, which is then kept there, if it is new."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(value)
    return path.read_text()
