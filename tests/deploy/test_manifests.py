"""The manifests in ``deploy/``: rendered, and taken by a real API server without a warning."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import yaml
from deploy.installation import BASE, DOCKER, NAMESPACE, TENANTS, Installation, overlay, rendered, workloads
from fixtures.components import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN = "authorization.k8s.io", "authentication.k8s.io"
"""API groups in which every account may ask about itself."""


async def test_applying_again_changes_nothing(installation: Installation) -> None:
    manifest = await rendered(BASE)
    answer = await installation.kubectl("diff", "--server-side", "-f", "-", stdin=manifest)
    assert answer == ""


async def test_every_pod_is_restricted(installation: Installation) -> None:
    found = workloads(installation.objects)
    assert {each["metadata"]["name"] for each in found} == {
        "landlord-api",
        "landlord-operator",
        "landlord-worker",
        "landlord-migrate",
    }
    for workload in found:
        pod = workload["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        # Else a Service named landlord-api sets LANDLORD_API_PORT in every pod of its namespace.
        assert pod["enableServiceLinks"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["resources"].keys() == {"requests", "limits"}
        # As the API server sees pods: what the namespace enforces is what its controllers would be told.
        assert "created (server dry run)" in await installation.admit(pod)
    naked = {"containers": [{"name": "any", "image": "any"}]}
    assert 'violates PodSecurity "restricted' in await installation.admit(naked)


async def test_selectors_and_ports_agree(installation: Installation) -> None:
    pods = {each["metadata"]["name"]: each["spec"]["template"] for each in workloads(installation.objects)}
    for each in installation.objects:
        if each["kind"] not in ("Service", "PodDisruptionBudget"):
            continue
        selector = each["spec"]["selector"]
        chosen = [
            name
            for name, template in pods.items()
            if selector.get("matchLabels", selector).items() <= template["metadata"]["labels"].items()
        ]
        assert chosen == [each["metadata"]["name"]]
        (container,) = pods[chosen[0]]["spec"]["containers"]
        names = {port["name"] for port in container["ports"]}
        assert {port["targetPort"] for port in each["spec"].get("ports", ())} <= names


async def test_workers_get_neither_the_tenants_database_nor_a_token(installation: Installation) -> None:
    pod = installation.pod("worker")
    assert "LANDLORD_DATABASE_URL" not in {entry["name"] for entry in pod["containers"][0]["env"]}
    assert pod["automountServiceAccountToken"] is False


async def _rules(installation: Installation, account: str, namespace: str) -> set[tuple[str, str, str]]:
    """(group, resource or resource/name, verb) of all an account may do there, but for questions about itself."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer: Any = json.loads(
        await installation.kubectl(
            "create",
            "--validate=false",
            "-f",
            "-",
            "-o",
            "json",
            stdin=json.dumps(review),
            account=account,
            namespace=namespace,
        )
    )
    assert not answer["status"]["incomplete"]
    return {
        (group, f"{resource}/{name}" if name else resource, verb)
        for rule in answer["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
        for verb in rule["verbs"]
        if group not in OWN
    }


async def test_accounts_may_do_this_and_nothing_else(installation: Installation) -> None:
    operator = {("landlord.dev", "tenants", verb) for verb in ("get", "list", "watch", "create", "patch", "delete")}
    operator |= {("landlord.dev", "tenants/status", "patch"), ("", "events", "create")}
    operator.add(("apiextensions.k8s.io", "customresourcedefinitions/tenants.landlord.dev", "get"))
    for namespace in (NAMESPACE, TENANTS, "default"):
        assert await _rules(installation, "landlord-operator", namespace) == operator
        api = {("landlord.dev", "tenants", "create")} if namespace == TENANTS else set()
        assert await _rules(installation, "landlord-api", namespace) == api
        assert await _rules(installation, "landlord-worker", namespace) == set()
        assert await _rules(installation, "landlord-migrate", namespace) == set()


@pytest.mark.parametrize(
    ("account", "verb", "resource", "namespace", "allowed"),
    [
        ("landlord-api", "create", "tenants.landlord.dev", TENANTS, True),
        ("landlord-api", "create", "tenants.landlord.dev", "default", False),
        ("landlord-api", "get", "tenants.landlord.dev", TENANTS, False),
        ("landlord-api", "list", "tenants.landlord.dev", TENANTS, False),
        ("landlord-api", "patch", "tenants.landlord.dev", TENANTS, False),
        ("landlord-api", "delete", "tenants.landlord.dev", TENANTS, False),
        ("landlord-api", "get", "secrets", NAMESPACE, False),
        ("landlord-operator", "delete", "tenants.landlord.dev", "default", True),
        ("landlord-operator", "deletecollection", "tenants.landlord.dev", "default", False),
        ("landlord-operator", "update", "tenants.landlord.dev", "default", False),
        ("landlord-operator", "get", "secrets", NAMESPACE, False),
        ("landlord-operator", "list", "pods", NAMESPACE, False),
        ("landlord-operator", "get", "customresourcedefinitions/tenants.landlord.dev", "default", True),
        ("landlord-operator", "get", "customresourcedefinitions/others.example.com", "default", False),
        ("landlord-operator", "patch", "customresourcedefinitions/tenants.landlord.dev", "default", False),
        ("landlord-operator", "list", "namespaces", "default", False),
        ("landlord-worker", "get", "tenants.landlord.dev", TENANTS, False),
        ("landlord-worker", "create", "events", NAMESPACE, False),
    ],
)
async def test_can_i(
    installation: Installation, account: str, verb: str, resource: str, namespace: str, allowed: bool
) -> None:
    answer = await installation.kubectl(
        "auth", "can-i", verb, resource, account=account, namespace=namespace, check=False
    )
    assert ("yes" if allowed else "no") in answer.splitlines()


async def test_the_docker_component(installation: Installation) -> None:
    folder = installation.folder / "overlay"
    manifest = await rendered(await asyncio.to_thread(overlay, folder, resources=[BASE], components=[DOCKER]))
    # As an upgrade does: a Job cannot be changed.
    await installation.kubectl("delete", "job", "landlord-migrate", "--ignore-not-found", namespace=NAMESPACE)
    await installation.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=manifest)
    objects = list(yaml.safe_load_all(manifest))
    settings = next(each["data"] for each in objects if each["kind"] == "ConfigMap")
    assert settings["LANDLORD_COMPUTE_PROVIDERS"] == "docker,mock"
    assert settings["LANDLORD_KUBERNETES_NAMESPACE"] == TENANTS
    worker = next(each for each in workloads(objects) if each["metadata"]["name"] == "landlord-worker")
    assert worker["spec"]["replicas"] == 1
    assert {each["name"] for each in worker["spec"]["template"]["spec"]["volumes"]} == {"tmp", "docker"}


async def test_no_secret_is_in_the_repository() -> None:
    for path in (ROOT / "deploy").rglob("*.yaml"):
        for each in yaml.safe_load_all(path.read_text()):
            assert not each or each.get("kind") != "Secret", path
