"""Every example is taken by its door, and the two of a name ask for the same tenant."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.components import ROOT
from fixtures.kubernetes import Kubectl
from fixtures.rest import serving
from pydantic import SecretStr

from landlord.settings import Settings

EXAMPLES = ROOT / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def _both(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()), json.loads((EXAMPLES / f"{name}.json").read_text())


def test_each_is_there_for_both_doors() -> None:
    assert NAMES == ["docker", "mock", "paused", "retain"]
    assert sorted(path.stem for path in EXAMPLES.glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_both_ask_for_the_same(name: str) -> None:
    resource, body = _both(name)
    spec = resource["spec"]
    assert resource["metadata"]["name"] == body["id"]
    assert spec["computeProvider"] == body["compute_provider"]
    assert spec["computeConfig"] == body["compute_config"]
    assert spec.get("paused", False) == body.get("paused", False)
    assert spec.get("deletionPolicy", "Delete") == body.get("deletion_policy", "Delete")


async def test_rest_takes_them(test_database_url: str) -> None:
    settings = Settings(database_url=SecretStr(test_database_url), compute_providers=("docker", "mock"))
    async with serving(settings) as rest:
        for name in NAMES:
            _, body = await asyncio.to_thread(_both, name)
            reply = await rest.post("/api/tenants", body)
            assert reply.status == 202, reply.json
            assert reply["status"] == ("requested" if body.get("paused") else "planning")


@pytest.mark.parametrize("name", NAMES)
async def test_the_api_server_takes_them(kubectl: Kubectl, name: str) -> None:
    path: Path = EXAMPLES / f"{name}.yaml"
    answer = await kubectl("apply", "--dry-run=server", "--warnings-as-errors", "-f", path)
    assert "created (server dry run)" in answer
