"""Docker engines: the one that answers on this machine, or a private one.

The private engine runs in process and mount namespaces of its own, so that ending it ends its containerd, its shims
and every container, also when it is killed. Its bridge and address range are its own, and the host's firewall and
forwarding are left alone: containers reach each other and are reached through published ports, but not the internet.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Container, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from landlord.dev import folders
from landlord.dev.processes import Child, LauncherError, Unavailable, run, start, until

HOW_TO_GET = "start Docker and let DOCKER_HOST name it if it is not where it usually is"
HOW_TO_GET_PRIVATE = "as root on Linux, with dockerd, containerd and ip (apt-get install docker.io iptables iproute2)"
ANSWER_TIMEOUT = 3
START_TIMEOUT = 60
STOP_TIMEOUT = 15
"""Seconds; containers have the first ten of them, unless they say otherwise."""
_ENGINES = 32
_FIRST_NETWORK = 192
"""Of the private engines on one machine at a time the n-th has 10.(192+n).0.0/16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine that has answered."""

    host: str
    """As DOCKER_HOST takes it."""
    version: str


def usual_hosts() -> Iterator[str]:
    """Where an engine may be: DOCKER_HOST only, if it is set."""
    if host := os.environ.get("DOCKER_HOST"):
        yield host
        return
    home = Path.home()
    sockets = [Path("/var/run/docker.sock"), home / ".docker/run/docker.sock", home / ".colima/default/docker.sock"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        sockets.append(Path(runtime) / "docker.sock")
    for path in sockets:
        if path.exists():
            yield f"unix://{path}"


async def find(*, host: str | None = None) -> Engine | None:
    """The first engine that answers, or null. ``host`` is the only place to look at, if given."""
    for place in [host] if host else usual_hosts():
        if (engine := await ask(place)) is not None:
            return engine
    return None


async def ask(host: str) -> Engine | None:
    """The engine at ``host`` (unix:// or tcp://), if it answers."""
    scheme, _, address = host.partition("://")
    connector: aiohttp.BaseConnector
    if scheme == "unix":
        connector, base = aiohttp.UnixConnector(path=address), "http://docker"
    elif scheme in ("tcp", "http", "https"):
        secure = scheme == "https" or bool(os.environ.get("DOCKER_TLS_VERIFY"))
        connector = aiohttp.TCPConnector(ssl=_tls() if secure else False)
        base = f"{'https' if secure else 'http'}://{address}"
    else:
        return None
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT)) as session,
            session.get(f"{base}/version") as response,
        ):
            answer = await response.json()
            return Engine(host=host, version=answer["Version"])
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError):
        return None


def _tls() -> ssl.SSLContext:
    folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


class DockerEngine:
    """A private dockerd and its data. Made by :func:`running`; it can be stopped, killed and started again."""

    def __init__(self, *, folder: Path, runtime: Path, number: int) -> None:
        self._folder = folder
        self._runtime = runtime
        self._number = number
        self._bridge = f"landlord{number}"
        self._network = f"10.{_FIRST_NETWORK + number}"
        self._child: Child | None = None

    @property
    def host(self) -> str:
        """As DOCKER_HOST takes it."""
        return f"unix://{self._runtime / 'docker.sock'}"

    @property
    def pid(self) -> int | None:
        """Of the process whose end is the end of everything in the engine; null while it is stopped."""
        return None if self._child is None else self._child.pid

    async def start(self) -> None:
        """Start it on its data. Raises :class:`LauncherError`."""
        await _remove_interfaces([self._number])
        for command in (
            f"link add {self._bridge} type bridge",
            f"addr add {self._network}.0.1/24 dev {self._bridge}",
            f"link set {self._bridge} up",
        ):
            if await run(["ip", *command.split()], name="ip", log=self._folder / "ip.log") != 0:
                raise LauncherError(f"ip {command} failed: {(self._folder / 'ip.log').read_text()[-500:].strip()}")
        # After a kill it holds process numbers that mean others now: numbers start anew in every namespace.
        shutil.rmtree(self._runtime / "exec", ignore_errors=True)
        (self._runtime / "docker.pid").unlink(missing_ok=True)
        self._child = await start(
            [
                "dockerd",
                f"--data-root={self._folder / 'data'}",
                f"--exec-root={self._runtime / 'exec'}",
                f"--host={self.host}",
                f"--pidfile={self._runtime / 'docker.pid'}",
                f"--config-file={self._configuration()}",
                f"--bridge={self._bridge}",
                f"--default-address-pool=base={self._network}.0.0/16,size=24",
                f"--cgroup-parent=/{self._bridge}",
                "--iptables=false",
                "--ip-forward=false",
            ],
            name="dockerd",
            log=self._folder / "dockerd.log",
            # What runc and containerd leave when they are broken off goes with the sockets.
            environment={**os.environ, "TMPDIR": str(self._runtime)},
            contained=True,
        )
        try:
            await until(self._answers, child=self._child, timeout=START_TIMEOUT)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """Stop the containers, then the engine. Those with a restart policy come back with it."""
        child, self._child = self._child, None
        if child is not None:
            await child.stop(timeout=STOP_TIMEOUT)
        await self._clean()

    async def kill(self) -> None:
        """As a crash of the machine would: everything in the engine ends at once. Its data stay whole."""
        child, self._child = self._child, None
        if child is not None:
            await child.kill()
        await self._clean()

    async def _answers(self) -> bool:
        return await ask(self.host) is not None

    def _configuration(self) -> Path:
        """An empty one: the machine's own is for the machine's own engine."""
        path = self._folder / "daemon.json"
        path.write_text("{}")
        return path

    async def _clean(self) -> None:
        await _remove_interfaces([self._number])
        _remove_groups(self._bridge)


async def _remove_interfaces(numbers: Container[int]) -> None:
    """Bridges in the ranges of these engines: they outlive what is killed. Their own may have no address yet."""
    output = await asyncio.to_thread(subprocess.run, ["ip", "-json", "addr"], capture_output=True, check=True)
    for interface in json.loads(output.stdout):
        name = interface["ifname"]
        addresses = [each["local"] for each in interface.get("addr_info", []) if each["family"] == "inet"]
        own = [int(number) for number in re.findall(r"^landlord(\d+)$", name)]
        own += [int(local.split(".")[1]) - _FIRST_NETWORK for local in addresses if local.startswith("10.")]
        if any(number in numbers for number in own):
            await run(["ip", "link", "delete", name], name="ip")


def _remove_groups(name: str) -> None:
    """The empty control groups that killed containers leave."""
    for hierarchy in [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]:
        if (hierarchy / name).is_dir():
            for folder, _, _ in os.walk(hierarchy / name, topdown=False):
                try:
                    Path(folder).rmdir()
                except OSError:
                    return


@asynccontextmanager
async def running(*, state: Path) -> AsyncIterator[DockerEngine]:
    """A private engine with its data below the folder ``state``. At the end its containers are killed.

    Raises :class:`Unavailable` where there can be none, :class:`LauncherError` if another process has ``state``.
    """
    missing = [program for program in ("dockerd", "containerd", "ip") if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        lack = f"{', '.join(missing)} missing" if missing else "we are not root"
        raise Unavailable(f"no private Docker engine ({lack}): it runs {HOW_TO_GET_PRIVATE}")
    state = folders.existing(state)
    with ExitStack() as stack:
        stack.enter_context(folders.held(state / "docker.lock", what=f"the Docker data of {state}"))
        await _sweep()
        number = stack.enter_context(_number())
        runtime = folders.private(folders.RUNTIME / f"landlord-docker-{folders.digest(state)}")
        stack.callback(shutil.rmtree, runtime, ignore_errors=True)
        engine = DockerEngine(folder=folders.private(state / "docker"), runtime=runtime, number=number)
        try:
            await engine.start()
            yield engine
        finally:
            await engine.kill()  # containers that do not heed SIGTERM would take ten seconds


@contextmanager
def _number() -> Iterator[int]:
    """A number of our own among the private engines of this machine, for as long as we live."""
    for number in range(_ENGINES):
        with _claim(number) as free:
            if free:
                yield number
                return
    raise Unavailable(f"{_ENGINES} private Docker engines run already")


@contextmanager
def _claim(number: int) -> Iterator[bool]:
    """Whether it was free, and so is ours meanwhile."""
    with socket.socket(socket.AF_UNIX) as claim:
        try:
            claim.bind(f"\0landlord-docker-engine-{number}")  # goes with us, unlike a file
        except OSError:
            yield False
        else:
            yield True


async def _sweep() -> None:
    """Remove the bridges of engines that were killed with the process that started them."""
    with ExitStack() as stack:
        await _remove_interfaces([number for number in range(_ENGINES) if stack.enter_context(_claim(number))])
