"""The built wheel, installed outside the checkout: everything it needs is inside."""

from __future__ import annotations

import asyncio
import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest
from deploy.installation import SECONDS
from fixtures.components import ROOT
from fixtures.ports import free_port

from landlord.dev import processes

NEEDED = [
    "landlord/crds/tenants.yaml",
    "landlord/dev/kubernetes_go/go.mod",
    "landlord/dev/kubernetes_go/go.sum",
    "landlord/py.typed",
    "landlord/tenants/migrations/versions/0001_tenants.py",
    "landlord/workflow/providers/local/migrations/versions/0001_executions.py",
    "landlord_api/static/swagger-ui-bundle.js",
    "landlord_api/static/swagger-ui.css",
    "landlord_operator/handlers.py",
]


async def _run(*arguments: str | Path, cwd: Path, environment: Mapping[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, arguments), cwd=cwd, env=environment, stdout=PIPE, stderr=STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0, output.decode()
    return output.decode()


def _sources(folder: Path) -> Path:
    """What git would take of the checkout, without the leftovers of other runs."""
    for name in ("pyproject.toml", "README.md", "crds", "landlord", "api", "operator"):
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    sources = _sources(folder / "sources")
    subprocess.run([*command, "--wheel-dir", str(folder), str(sources)], check=True, timeout=SECONDS)
    (made,) = folder.glob("*.whl")
    return made


def test_everything_is_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        crd = archive.read("landlord/crds/tenants.yaml")
    assert set(NEEDED) <= names
    assert crd == (ROOT / "crds" / "tenants.yaml").read_bytes()
    assert {name.split("/")[0] for name in names} == {
        "landlord",
        "landlord_api",
        "landlord_operator",
        next(name.split("/")[0] for name in names if ".dist-info/" in name),
    }


def test_operator_is_no_package() -> None:
    """``operator/__init__.py`` would shadow the standard library's module under ``python -m``."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "api" / "__init__.py").exists()


async def test_it_starts_outside_the_checkout(wheel: Path, tmp_path: Path, empty_database_url: str) -> None:
    home = tmp_path / "environment"
    await asyncio.to_thread(venv.create, home)
    (packages,) = home.glob("lib/python3*/site-packages")
    # Dependencies are borrowed of the environment of the tests; its .pth files (the checkout's) are not read so.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    python = home / "bin" / "python"
    environment = {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    await _run(*pip, wheel, cwd=tmp_path, environment=environment)
    where = await _run(
        python,
        "-c",
        "import landlord as a, landlord_api as b, landlord_operator as c; print(a.__file__, b.__file__, c.__file__)",
        cwd=tmp_path,
        environment=environment,
    )
    assert all(path.startswith(str(packages)) for path in where.split())

    landlord = home / "bin" / "landlord"
    told = await _run(landlord, "--help", cwd=tmp_path, environment=environment)
    for command in ("api", "config", "controller", "dev", "migrate", "operator", "worker"):
        assert f"\n  {command} " in told
    assert "unavailable" not in told

    port = free_port()
    environment |= {"LANDLORD_DATABASE_URL": empty_database_url, "LANDLORD_API_PORT": str(port)}
    environment |= {"LANDLORD_KUBERNETES_MIRROR": "false", "LANDLORD_COMPUTE_PROVIDERS": "mock,docker"}
    await _run(landlord, "migrate", cwd=tmp_path, environment=environment)
    api = await processes.start([landlord, "api"], name="api", log=tmp_path / "api.log", environment=environment)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def ready() -> bool:
                try:
                    async with session.get("/readyz") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            await processes.until(ready, child=api, timeout=SECONDS)
            for path in ("/api/docs", "/api/openapi.json", "/api/docs/static/swagger-ui-bundle.js"):
                async with session.get(path) as response:
                    assert response.status == 200, path
                    assert len(await response.read()) > 1000 or path == "/api/docs"
    finally:
        await api.stop()
    assert api.returncode == 0
