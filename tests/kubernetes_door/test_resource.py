"""The Tenant resource as the API server and kubectl see it: schema, CEL, columns, descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.components import ROOT
from fixtures.kubernetes import CRD, Kubectl

pytestmark = pytest.mark.timeout(120)


def tenant(name: str, **spec: Any) -> str:
    body = {
        "apiVersion": "landlord.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {"computeConfig": {}, **spec},
    }
    return json.dumps(body)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (tenant("a" * 51), "at most 50 characters"),
        (tenant("a.b"), "no dots"),
        (tenant("a", deletionPolicy="Orphan"), "Unsupported value"),
        (tenant("a", computeConfig=None), "computeConfig"),
        (tenant("a", computeConfig=[1]), "computeConfig"),
        (tenant("a", computeProvider=""), "computeProvider"),
        (tenant("a", size=1), "unknown field"),
    ],
)
async def test_what_is_malformed_is_refused_by_the_api_server(kubectl: Kubectl, manifest: str, message: str) -> None:
    assert message in await kubectl("apply", "--validate=strict", "-f", "-", stdin=manifest, check=False)
    assert "No resources found" in await kubectl("get", "lt", check=False) or not await kubectl(
        "get", "lt", "-o", "name"
    )


async def test_fifty_characters_and_defaults(kubectl: Kubectl) -> None:
    name = "a" * 50
    await kubectl("apply", "-f", "-", stdin=tenant(name, computeConfig={"any": {"thing": [1, None]}}))
    spec = json.loads(await kubectl("get", "lt", name, "-o", "json"))["spec"]
    assert spec == {"computeConfig": {"any": {"thing": [1, None]}}, "paused": False, "deletionPolicy": "Delete"}


async def test_provider_is_immutable_once_set(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=tenant("a"))
    await kubectl("apply", "-f", "-", stdin=tenant("a", computeProvider="mock"))
    said = await kubectl("apply", "-f", "-", stdin=tenant("a", computeProvider="docker"), check=False)
    assert "computeProvider cannot be changed" in said
    await kubectl("apply", "-f", "-", stdin=tenant("a", computeProvider="mock", paused=True))


async def test_columns(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=tenant("a", computeProvider="mock"))
    status = {
        "status": {
            "phase": "provisioning",
            "workflow": {"executionId": "tenant-a-provision", "retries": 2},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "False",
                    "reason": "Provisioning",
                    "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
        }
    }
    await kubectl("patch", "lt", "a", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    header, line = (await kubectl("get", "lt")).splitlines()
    assert header.split() == ["NAME", "STATUS", "READY", "PROVIDER", "EXECUTION", "RETRIES", "AGE"]
    assert line.split()[:6] == ["a", "provisioning", "False", "mock", "tenant-a-provision", "2"]


async def test_explain_describes_every_field(kubectl: Kubectl) -> None:
    output = await kubectl("explain", "tenant.spec", "--recursive")
    assert "computeConfig" in output
    assert "Not a place for secrets" in await kubectl("explain", "tenant.spec.computeConfig")

    def undescribed(schema: dict[str, Any], path: str) -> list[str]:
        missing = [] if "description" in schema or path == ".metadata" else [path]
        for name, each in schema.get("properties", {}).items():
            missing += undescribed(each, f"{path}.{name}")
        return missing + (undescribed(schema["items"], f"{path}[]") if "items" in schema else [])

    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    assert undescribed(version["schema"]["openAPIV3Schema"], "") == []


def test_one_source() -> None:
    link = ROOT / "landlord" / "crds" / "tenants.yaml"
    assert link.is_symlink()
    assert link.readlink() == Path("../../crds/tenants.yaml")
    assert link.resolve() == CRD


def test_operator_folder_is_no_package() -> None:
    """It would shadow the standard library's ``operator`` under ``python -m``."""
    assert not (ROOT / "operator" / "__init__.py").exists()
