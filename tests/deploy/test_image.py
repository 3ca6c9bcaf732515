"""The Dockerfile and the compose file, as far as they can be examined without a registry of base images."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
import tomllib
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import yaml
from fixtures.components import ROOT
from packaging.requirements import Requirement

DEPLOY = ROOT / "deploy"
INSTRUCTIONS = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}


def _instructions() -> list[tuple[str, str]]:
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def _versions(path: Path) -> dict[str, set[str]]:
    text = path.read_text()
    assert "://" not in text, "a lock file holds no address of an index"
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", text, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    entries = len(re.findall(r"^[a-z0-9]", text, re.MULTILINE))
    assert entries == sum(map(len, found.values()))
    assert len(re.findall(r"^ +--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)) >= entries
    return found


def test_the_dockerfile() -> None:
    found = _instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    stages = [index for index, (name, _) in enumerate(found) if name == "FROM"]
    assert len(stages) == 2
    final = dict(found[stages[1] :])
    user = final["USER"].partition(":")[0]
    assert int(user) > 0
    assert final["ENTRYPOINT"] == '["landlord"]'
    assert "RUN" not in final, "the last stage only copies"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name, arguments in found:
        if name == "COPY" and "--from" not in arguments:
            *sources, _ = shlex.split(arguments)
            for source in sources:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored
        if name == "RUN":
            for command in arguments.split("&&"):
                if " install " in command:
                    assert "--require-hashes" in command or "--no-index" in command, command


def test_the_image_runs_as_the_manifests_say() -> None:
    user = dict(_instructions())["USER"]
    for path in (DEPLOY / "base").rglob("*.yaml"):
        for each in yaml.safe_load_all(path.read_text()):
            if each and each["kind"] in ("Deployment", "Job"):
                context = each["spec"]["template"]["spec"]["securityContext"]
                assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


def test_the_locks_of_the_image_are_of_today() -> None:
    """`make lock` has been run since the dependencies changed."""
    everything = _versions(ROOT / "requirements.lock")
    runtime, build = _versions(ROOT / "requirements-runtime.lock"), _versions(ROOT / "requirements-build.lock")
    for lock in (runtime, build):
        assert {name: everything.get(name) for name in lock} == lock
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["docker"], *extras["restate"]]
    for each in map(Requirement, wanted):
        assert all(each.specifier.contains(version, prereleases=True) for version in runtime[each.name]), each
    for each in map(Requirement, project["build-system"]["requires"]):
        assert all(each.specifier.contains(version) for version in build[each.name]), each
    assert not {"pytest", "mypy", "ruff", "hatchling"} & runtime.keys()


async def test_the_compose_file() -> None:
    """Every service has settings that its process takes."""
    text = (DEPLOY / "compose.yaml").read_text()
    file = yaml.safe_load(re.sub(r"\$\{[A-Z_]+:\?\}", "given", text))
    services = file["services"]
    assert services.keys() == {"database", "migrate", "api", "worker", "controller"}
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= services.keys()
        if name == "database":
            continue
        assert service["command"] == [name]
        assert service["read_only"] is True
        assert service["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("landlord"),
            "config",
            env=service["environment"],
            stdout=PIPE,
            stderr=PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        effective = yaml.safe_load(output)
        assert effective["installation"] == "compose"
    assert services["api"]["environment"]["LANDLORD_API_TOKENS_FILE"] == f"/run/secrets/{services['api']['secrets'][0]}"
    assert "LANDLORD_DATABASE_URL" not in services["worker"]["environment"]


FAKE_DOCKER = """#!/bin/sh
. deploy/.env  # as compose reads what is beside its file
echo "${POSTGRES_PASSWORD:?}" >> passwords
"""


def test_the_commands_of_the_compose_file_work_again(tmp_path: Path) -> None:
    """The database keeps the password it was made with; neither that nor the token is ever committed."""
    head = re.match(r"(#.*\n)+", (DEPLOY / "compose.yaml").read_text())
    assert head is not None
    commands = "".join(re.findall(r"^#   (.*\n)", head[0], re.MULTILINE))
    (tmp_path / "deploy").mkdir()
    (tmp_path / "docker").write_text(FAKE_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run(["sh", "-c", commands], cwd=tmp_path, env=environment, check=True)
    passwords = (tmp_path / "passwords").read_text().split()
    assert len(passwords) == 2
    assert len(set(passwords)) == 1
    secrets = ["token", "deploy/tokens", "deploy/.env"]
    assert all((tmp_path / each).stat().st_size for each in secrets)
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    ignored = subprocess.run(["git", "check-ignore", *secrets], cwd=tmp_path, capture_output=True, check=True)
    assert ignored.stdout.decode().split() == secrets
