"""The documents' commands work.

Convention: a block marked ``bash`` is run, each page's in order, in the project's root, on a ``landlord dev`` that this
module starts (the page of Restate on one with Restate); every line of it must succeed. What is marked ``text`` or
``yaml`` is not run; ``sql`` and ``python`` have tests of their own. Nothing else may be there. Four things are
replaced: the port 8080, the state folder ``.landlord``, ``examples`` and ``deploy`` (with copies), and in those the
image of the Docker example (with that of the tests, whose server listens on 8080). HTTP errors fail a ``curl``.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import prometheus_client
import pytest
import pytest_asyncio
from fixtures.components import ROOT, Need, unavailable
from fixtures.kubernetes import binaries
from fixtures.ports import free_port

from landlord.dev import processes, restate
from landlord.dev.processes import Unavailable
from landlord.tenants.metrics import reconciling

PAGES = ["README.md", "docs/concepts.md", "docs/operating.md", "deploy/README.md"]
RESTATE_PAGE = "docs/providers/restate.md"
_FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)#:]+)(#(?P<anchor>[^)]+))?\)")
START_TIMEOUT = 120
PAGE_TIMEOUT = 150

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(kw_only=True)
class Dev:
    """A running ``landlord dev``, and a folder with the examples as they can run here."""

    port: int
    state: Path
    folder: Path
    image: str

    def here(self, text: str) -> str:
        """The block as it is run."""
        text = re.sub(r"\b8080\b", str(self.port), text)
        text = text.replace(".landlord/", f"{self.state}/")
        return re.sub(r"(?<![\w./])(?=(examples|deploy)/)", f"{self.folder}/", text)


METRICS = ("landlord.tenants.metrics", "landlord.workflow.metrics", "landlord_api.metrics", "landlord_operator.passes")
"""Modules that register some."""


def _copies(folder: Path, *, image: str) -> None:
    for name in ("examples", "deploy", "crds"):
        shutil.copytree(ROOT / name, folder / name)
    for path in (folder / "examples").glob("docker.*"):
        text = re.sub(r"docker\.io/library/nginx:[a-z0-9.-]+", image, path.read_text())
        path.write_text(re.sub(r'(port"?: )80\b', r"\g<1>8080", text))


@asynccontextmanager
async def running(need: Need, *, workflow: str) -> AsyncGenerator[Dev, None]:
    try:
        found = binaries()
        if workflow == "restate":
            await restate.find_or_install()
    except Unavailable as reason:
        unavailable(str(reason))
    assert found.kubectl is not None
    host, image = need("docker")["host"], need("image")["name"]
    with tempfile.TemporaryDirectory(prefix="docs-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        started = Dev(port=free_port(), state=folder / "state", folder=folder, image=image)
        _copies(folder, image=image)
        (folder / ".curlrc").write_text("fail-with-body\n")
        environment = _environment(folder) | {"LANDLORD_DOCKER_HOST": host}
        landlord = Path(sys.executable).with_name("landlord")
        argv = [landlord, "dev", "--port", str(started.port), "--state-dir", started.state]
        argv += ["--kubernetes", "embedded", "--compute", "docker", "--workflow", workflow]
        child = await processes.start(argv, name="dev", log=folder / "dev.log", environment=environment)
        try:

            async def ready() -> bool:
                return f"ready: http://127.0.0.1:{started.port}" in await asyncio.to_thread(
                    (folder / "dev.log").read_text
                )

            await processes.until(ready, child=child, timeout=START_TIMEOUT)
            yield started
        finally:
            await child.stop(timeout=20)
            reset = await processes.start(
                [*argv, "--reset"], name="reset", log=folder / "reset.log", environment=environment
            )

            async def gone() -> bool:
                return "reset: " in await asyncio.to_thread((folder / "reset.log").read_text)

            await processes.until(gone, child=reset, timeout=START_TIMEOUT)
            await reset.stop(timeout=20)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(need: Need) -> AsyncIterator[Dev]:
    async with running(need, workflow="local") as started:
        yield started


def _environment(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LANDLORD_", "KUBE"))}
    program = binaries().kubectl
    assert program is not None
    paths = [str(Path(sys.executable).parent), str(program.parent), kept["PATH"]]
    # HOME holds no kubeconfig of the user's, and curl finds the rule about errors there.
    assets = {"KUBEBUILDER_ASSETS": os.environ["KUBEBUILDER_ASSETS"]} if "KUBEBUILDER_ASSETS" in os.environ else {}
    return {**kept, **assets, "PATH": os.pathsep.join(paths), "HOME": str(folder), "XDG_CACHE_HOME": _cache()}


def _cache() -> str:
    return os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")


def blocks(page: str) -> list[str]:
    return [each["text"] for each in _FENCE.finditer((ROOT / page).read_text()) if each["kind"] == "bash"]


async def check_commands(page: str, dev: Dev) -> None:
    for block in await asyncio.to_thread(blocks, page):
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", dev.here(block)),
            cwd=ROOT,
            env=_environment(dev.folder),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), PAGE_TIMEOUT)
        except TimeoutError:
            os.killpg(process.pid, 9)
            pytest.fail(f"{page}: this did not end:\n{block}", pytrace=False)
        assert process.returncode == 0, f"{page}:\n{block}\n{output.decode()}"


@pytest.mark.timeout(PAGE_TIMEOUT + START_TIMEOUT)
@pytest.mark.parametrize("page", PAGES)
async def test_the_commands_of(page: str, dev: Dev) -> None:
    await check_commands(page, dev)


@pytest.mark.timeout(PAGE_TIMEOUT + START_TIMEOUT)
async def test_the_commands_of_restate(need: Need) -> None:
    async with running(need, workflow="restate") as dev:
        await check_commands(RESTATE_PAGE, dev)


def _pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "deploy" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


async def test_blocks_are_marked_and_all_pages_with_commands_are_run() -> None:
    for path in await asyncio.to_thread(_pages):
        text = await asyncio.to_thread(path.read_text)
        kinds = [each["kind"] for each in _FENCE.finditer(text)]
        assert set(kinds) <= {"bash", "text", "yaml", "sql", "python"}, path
        if "bash" in kinds:
            assert str(path.relative_to(ROOT)) in (*PAGES, RESTATE_PAGE)


async def test_make_has_the_targets_that_are_shown() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"^make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"setup", "run", "test"} <= shown <= targets


async def test_links_lead_somewhere() -> None:
    for path in await asyncio.to_thread(_pages):
        text = await asyncio.to_thread(path.read_text)
        for link in _LINK.finditer(_FENCE.sub("", text)):
            target = (path.parent / link["target"]).resolve()
            assert target.exists(), f"{path}: {link['target']}"
            if link["anchor"]:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
                assert link["anchor"] in anchors, f"{path}: {link['anchor']}"


async def test_metrics_that_are_named_exist() -> None:
    for module in METRICS:
        importlib.import_module(module)
    reconciling()
    known = set()
    for family in prometheus_client.REGISTRY.collect():
        known |= {family.name, f"{family.name}_total"} if family.type == "counter" else {family.name}
    named = set(re.findall(r"\blandlord_[a-z_]+", (ROOT / "docs" / "operating.md").read_text()))
    assert len(named) > 10
    assert named <= known
