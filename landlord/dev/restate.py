"""A Restate server of our own on loopback, for ``landlord dev --workflow restate`` and the tests.

The program is found (``LANDLORD_RESTATE_SERVER``, ``PATH``, the user's cache) or installed with npm, once, into the
cache: ``restate_npm/package-lock.json`` beside this module names its version and its hash, and ``python -m
landlord.dev.restate`` fills the cache ahead of time. Its settings were tried on 1.7.12: https://docs.restate.dev/references/server-config.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from landlord.dev import folders, processes
from landlord.dev.ports import free_port, keep_port, on_free_port
from landlord.dev.processes import Child, LauncherError, Unavailable

SOURCE = Path(__file__).with_name("restate_npm")
VARIABLE = "LANDLORD_RESTATE_SERVER"
HOW_TO_GET = (
    f"install npm (https://nodejs.org), or set {VARIABLE} to a restate-server (https://restate.dev/get-restate)"
)
INSTALL_TIMEOUT = 600
"""Seconds for 70 MB from the registry."""
START_TIMEOUT = 60
"""Seconds; half a second from nothing, some more with much to recover."""
STOP_TIMEOUT = 10
_CONFIGURATION = """\
node-name = "landlord"
cluster-name = "landlord"
base-dir = "data"
bind-address = "127.0.0.1:{node}"
advertised-address = "http://127.0.0.1:{node}/"
listen-mode = "tcp"
default-num-partitions = 4
disable-telemetry = true
rocksdb-total-memory-size = "256.0 MiB"
# The look for a newer release cannot be switched off, only its complaint.
log-filter = "warn,restate=info,octocrab=off"
log-disable-ansi-codes = true

[admin]
bind-address = "127.0.0.1:{admin}"
disable-web-ui = true

[admin.query-engine]
memory-size = "64.0 MiB"

[ingress]
bind-address = "127.0.0.1:{ingress}"

[worker.invoker]
memory-limit = "256.0 MiB"
tmp-dir = "tmp"

[bifrost]
record-cache-memory-size = "32.0 MiB"
"""
_IDENTITY_KEY = "request-identity-private-key-pem-file"


def cache() -> Path:
    """This version's entry in the user's cache; it is there as a whole or not at all."""
    digest = hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()
    return folders.cache("restate") / digest[:16]


def find() -> Path | None:
    """The program, if it is there already. Raises :class:`Unavailable` where the variable names none."""
    if given := os.environ.get(VARIABLE):
        if not os.access(given, os.X_OK):
            raise Unavailable(f"{VARIABLE}: {given} is no program")
        return Path(given).absolute()
    if on_path := shutil.which("restate-server"):
        found = Path(on_path)
        # npm's is a script that starts the real one and would not hand on how it ends.
        if found.read_bytes()[:2] != b"#!":
            return found
    return _native(cache())


def _native(folder: Path) -> Path | None:
    """The program inside the npm package of this machine."""
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine())
    package = f"restate-server-{sys.platform}-{machine}"
    program = folder / "node_modules" / "@restatedev" / package / "bin" / "restate-server"
    return program if program.exists() else None


async def find_or_install() -> Path:
    """The program, installed with npm if need be. Raises :class:`LauncherError`."""
    if (found := find()) is not None:
        return found
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable(f"there is no restate-server on this machine; {HOW_TO_GET}")
    target = cache()
    with folders.using(target), (folders.existing(target.parent) / "lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        if (found := find()) is None:
            await _install(npm, target)
            found = find()
    if found is None:
        raise Unavailable(f"npm has no restate-server for {sys.platform} on {platform.machine()}; {HOW_TO_GET}")
    return found


async def _install(npm: str, target: Path) -> None:
    """Without the packages' scripts: one of them phones home."""
    with tempfile.TemporaryDirectory(prefix="new-", dir=target.parent) as name:
        fresh = Path(name) / "package"
        fresh.mkdir()
        for file in ("package.json", "package-lock.json"):
            shutil.copy(SOURCE / file, fresh)
        log = fresh / "npm.log"
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
        status = await processes.run(command, name="npm ci", log=log, folder=fresh, timeout=INSTALL_TIMEOUT)
        if status != 0:
            raise LauncherError(
                f"npm ci failed with status {status}: {log.read_text(errors='replace')[-1000:].strip()}"
            )
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)


class RestateServer:
    """One server and its data. Made by :func:`running`; it can be stopped, killed and started again where it was."""

    def __init__(self, *, program: Path, folder: Path, nice: int, identity_key: Path | None = None) -> None:
        self._program = program
        self._folder = folder
        self._nice = nice
        self._identity_key = identity_key
        self._ports = {name: free_port() for name in ("ingress", "admin", "node")}
        self._child: Child | None = None

    @property
    def ingress_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['ingress']}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['admin']}"

    @property
    def children(self) -> list[Child]:
        """What runs of it, to be watched."""
        return [] if self._child is None else [self._child]

    async def start(self) -> None:
        """Start it and return when it takes runs. Raises :class:`LauncherError`."""
        configuration = self._folder / "restate.toml"
        identity = "" if self._identity_key is None else f'{_IDENTITY_KEY} = "{self._identity_key}"\n'
        configuration.write_text(identity + _CONFIGURATION.format(**self._ports))
        self._child = await processes.start(
            [self._program, "--config-file", configuration, "--no-logo"],
            name="restate-server",
            log=self._folder / "restate.log",
            nice=self._nice,
            folder=self._folder,
            environment=_environment(),
        )
        try:
            await processes.until(self.ready, child=self._child, timeout=START_TIMEOUT)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.stop(timeout=STOP_TIMEOUT)

    async def kill(self) -> None:
        """As a crash would: SIGKILL."""
        child, self._child = self._child, None
        if child is not None:
            await child.kill()

    async def ready(self) -> bool:
        """Both doors answer, and so does a query: health alone comes before the partitions have leaders."""
        timeout = aiohttp.ClientTimeout(total=2)
        try:
            async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:
                await session.get(f"{self.ingress_url}/restate/health")
                await session.get(f"{self.admin_url}/health")
                query = {"query": "select count(*) from sys_invocation"}
                await session.post(f"{self.admin_url}/query", json=query, headers={"accept": "application/json"})
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        return True


@asynccontextmanager
async def running(*, state: Path, nice: int = 0, identity_key: Path | None = None) -> AsyncIterator[RestateServer]:
    """A server with its data below the folder ``state``, kept for the next time. ``identity_key`` is a PEM file with
    the Ed25519 key that it signs its calls of workers with.

    Raises :class:`Unavailable` if the machine cannot have one, :class:`LauncherError` if another process has ``state``.
    """
    state = folders.existing(state)
    with folders.held(state / "restate.lock", what=f"the Restate data of {state}"):
        program = await find_or_install()
        folder = folders.private(state / "restate")

        async def started() -> RestateServer:
            server = RestateServer(program=program, folder=folder, nice=nice, identity_key=identity_key)
            await server.start()
            return server

        server = await on_free_port(started)
        try:
            yield server
        finally:
            await server.stop()


def worker_port(*, state: Path) -> int:
    """The port of the worker of ``state``, always the same: runs that have begun go on at the address they began at."""
    file = folders.existing(state) / "restate-worker-port"
    if not file.exists():
        file.write_text(str(free_port()))
    port = int(file.read_text())
    keep_port(port)
    return port


def discard(*, state: Path) -> None:
    """Delete the data of ``state``. No server may run on them."""
    shutil.rmtree(state / "restate", ignore_errors=True)
    (state / "restate-worker-port").unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """Ours without what the server would take from it."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RESTATE_")} | {"DO_NOT_TRACK": "1"}


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{asyncio.run(find_or_install())}\n")
    except LauncherError as error:
        sys.stderr.write(f"restate-server: {error}\n")
