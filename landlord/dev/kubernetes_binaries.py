"""The programs of a Kubernetes control plane: found, or built once with Go into a cache of the user's.

``kubernetes_go/go.mod`` beside this module names their exact versions, ``go.sum`` their hashes; both together name the
cache entry. ``python -m landlord.dev.kubernetes_binaries`` fills the cache ahead of time.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from landlord.dev import folders
from landlord.dev.processes import Child, LauncherError, Unavailable, start

SOURCE = Path(__file__).with_name("kubernetes_go")
HOW_TO_GET = "install Go (https://go.dev/dl), or set KUBEBUILDER_ASSETS to a folder with etcd and kube-apiserver"
BUILD_TIMEOUT = 3600
"""Seconds. Everything cold takes six to seven minutes on two cores, an API server alone five."""
BUILD_NICE = 10
REPORT_EVERY = 10
"""Seconds between two words on a build that goes on."""

PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
"""What each program is built from."""
SERVERS = ("etcd", "kube-apiserver")
"""All that an API server needs. The others take minutes more."""

_COMPILER = "-dwarf=false"
"""What a debugger would read is not even made: a tenth of the time."""
_FAR = ("k8s.io/api/...", "k8s.io/client-go/...", "k8s.io/kubernetes/...")
"""Half of the code, and little of what a request of ours runs: without inlining it is compiled in two thirds of the
time, and a write to the API server costs what it did."""

_STANDARD = "net/http/pprof"
"""Imports most of what is needed of Go's own library, which can be compiled while modules are still fetched."""

Progress = Callable[[str], None]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Where the programs are. Only the first two are needed for an API server."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path | None
    kubectl: Path | None


def cache() -> Path:
    """This version's entry in the user's cache."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((SOURCE / name).read_bytes())
    return folders.cache("controlplane") / digest.hexdigest()[:16]


def find() -> Binaries | None:
    """What is there already: ``KUBEBUILDER_ASSETS``, then the cache."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for place in ([Path(assets)] if assets else []) + [cache()]:
        if all(os.access(place / name, os.F_OK) for name in SERVERS):
            return _in(place)
    return None


async def find_or_build(*programs: str, progress: Progress) -> Binaries:
    """An API server's programs and those of :data:`PACKAGES`: found, else built, which takes minutes.

    ``progress`` is told in words. ``KUBEBUILDER_ASSETS`` is taken as it is. Two processes that build at once build
    once. Raises :class:`Unavailable` if there is no Go, :class:`LauncherError` if the build fails.
    """
    found = find()
    if found is None or found.etcd.parent == cache():
        with folders.using(cache()):
            await _have({*SERVERS, *programs}, progress=progress)
            return _in(cache())
    return found


async def _have(programs: Collection[str], *, progress: Progress) -> None:
    """See that they are in the cache."""
    target = cache()
    if all((target / name).exists() for name in programs):
        return
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise Unavailable(f"there is no Kubernetes control plane on this machine; {HOW_TO_GET}")
    target.mkdir(parents=True, exist_ok=True)
    async with _locked(target.with_suffix(".lock"), progress=progress):
        missing = {name: PACKAGES[name] for name in sorted(programs) if not (target / name).exists()}
        if not missing:
            return
        for left_over in target.parent.glob(f"{target.name}.building-*"):  # by one that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix=f"{target.name}.building-", dir=target.parent))
        try:
            await _build(Path(go), missing, fresh=fresh, progress=progress)
            for name, package in missing.items():
                (fresh / _program(package)).rename(target / name)
        finally:
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
    progress(f"built: {', '.join(missing)}")


def _program(package: str) -> str:
    """How Go names what it builds: the last part of the path that is no version."""
    return re.sub(r"/v\d+$", "", package).rsplit("/", 1)[-1]


def _in(folder: Path) -> Binaries:
    manager, kubectl = folder / "kube-controller-manager", folder / "kubectl"
    on_path = shutil.which("kubectl")
    return Binaries(
        etcd=folder / "etcd",
        kube_apiserver=folder / "kube-apiserver",
        kube_controller_manager=manager if manager.exists() else None,
        kubectl=kubectl if kubectl.exists() else (Path(on_path) if on_path else None),
    )


async def _build(go: Path, packages: Mapping[str, str], *, fresh: Path, progress: Progress) -> None:
    module = shutil.copytree(SOURCE, fresh / "module")
    version = re.search(r"^require k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)", (module / "go.mod").read_text(), re.M)
    assert version is not None, "go.mod names the version of k8s.io/kubernetes"
    stamp = "k8s.io/component-base/version.git"
    flags = f"-s -w -X {stamp}Version={version[1]} -X {stamp}Major={version[2]} -X {stamp}Minor={version[3]}"
    log = fresh / "build.log"
    names = " and ".join(packages)
    progress(f"building {names} of Kubernetes {version[1]} with Go; this happens once and takes a few minutes")
    command = [str(go), "build", "-v", "-trimpath", f"-gcflags=all={_COMPILER}"]
    far = [f"-gcflags={pattern}={_COMPILER} -l" for pattern in _FAR]
    environment = {
        **os.environ,
        "GOFLAGS": "-mod=readonly",
        "GOWORK": "off",
        "CGO_ENABLED": "0",  # no C compiler is needed
        # Two thousand short compilations: collecting garbage in each only takes time, unless there is too much.
        "GOGC": "off",
        "GOMEMLIMIT": "2GiB",
        "GOTMPDIR": str(fresh),  # where a build that is broken off leaves its files
    }
    run = partial(start, name="go build", nice=BUILD_NICE, environment=environment, folder=module)
    async with AsyncExitStack() as stack:
        ahead = await run([*command, _STANDARD])
        stack.push_async_callback(ahead.kill)
        build = await run([*command, *far, "-ldflags", flags, "-o", f"{fresh}/", *packages.values()], log=log)
        stack.push_async_callback(build.kill)
        await _watched(build, log=log, progress=progress)


async def _watched(build: Child, *, log: Path, progress: Progress) -> None:
    try:
        async with asyncio.timeout(BUILD_TIMEOUT):
            ended = asyncio.create_task(build.wait())
            while not ended.done():
                await asyncio.wait([ended], timeout=REPORT_EVERY)
                lines = (await asyncio.to_thread(log.read_text, errors="replace")).splitlines()
                fetched = sum(line.startswith("go: downloading") for line in lines)
                progress(f"{fetched} modules fetched, {len(lines) - fetched} packages compiled")
    except TimeoutError:
        raise LauncherError(f"go build did not end within {BUILD_TIMEOUT} s") from None
    if build.returncode != 0:
        raise LauncherError(f"go build failed with status {build.returncode}: {build.tail()}")


@asynccontextmanager
async def _locked(path: Path, *, progress: Progress) -> AsyncIterator[None]:
    """Wait for our turn."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    progress("another process builds the control plane; waiting for it")
                    told = True
                await asyncio.sleep(0.3)
        yield
    finally:
        os.close(descriptor)


def main() -> None:
    """Fill the cache, if it is not full and can be filled."""
    try:
        found = asyncio.run(find_or_build(*PACKAGES, progress=_log.info))
    except Unavailable as reason:
        _log.warning(str(reason))
    else:
        _log.info("the control plane is there", folder=str(found.etcd.parent))


if __name__ == "__main__":
    main()
