"""Others in the cluster, with rules, webhooks and finalizers of their own: what they do to us, what we say of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from kubernetes_door.harness import Landlord
from kubernetes_door.test_ownership import ready

from landlord.kubernetes import Conflict, Forbidden, KubernetesError, Unavailable
from landlord.mirror import FINALIZER
from landlord.tenants.commands import Create, Replace
from landlord.tenants.model import Status

pytestmark = pytest.mark.timeout(120)

REGISTRATION = "admissionregistration.k8s.io/v1"
BELOW = "object.spec.computeConfig.size < 3"
TENANTS = {"apiGroups": ["landlord.dev"], "apiVersions": ["*"], "resources": ["tenants"]}


@asynccontextmanager
async def policy(landlord: Landlord, *, expression: str, reason: str, refused: dict[str, Any]) -> AsyncIterator[None]:
    """What administrators demand of every ``Tenant`` that is written; ``refused`` is a configuration that is not so."""

    async def refuses() -> bool:
        tried = ("apply", "--dry-run=server", "-f", "-")
        return "denied request" in await landlord.kubectl(*tried, stdin=landlord.manifest(refused), check=False)

    rules = [{**TENANTS, "operations": ["CREATE", "UPDATE"]}]
    name = landlord.name
    demanded = {"expression": expression, "reason": reason}
    spec = {"matchConstraints": {"resourceRules": rules}, "validations": [demanded]}
    bound = {"policyName": name, "validationActions": ["Deny"]}
    parts = {"ValidatingAdmissionPolicy": spec, "ValidatingAdmissionPolicyBinding": bound}
    for kind, each in parts.items():
        body = {"apiVersion": REGISTRATION, "kind": kind, "metadata": {"name": name}, "spec": each}
        await landlord.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    await landlord.until(refuses)
    try:
        yield
    finally:
        for kind in parts:
            await landlord.kubectl("delete", kind, name)


@pytest.mark.parametrize(("reason", "error"), [("Invalid", Conflict), ("Forbidden", Forbidden)])
async def test_policy_against_the_records_spec_does_not_leave_the_resource_ready(
    landlord: Landlord, reason: str, error: type[KubernetesError]
) -> None:
    """REST knows nothing of the cluster's policies: the record goes on, and the resource cannot."""
    await ready(landlord)
    async with policy(landlord, expression=BELOW, reason=reason, refused={"size": 3}):
        await landlord.rest(Replace(compute_config={"size": 4}))
        await landlord.reconcile()
        for _ in range(2):
            with pytest.raises(error):
                await landlord.look()
        resource = await landlord.there()
        assert resource.spec["computeConfig"] == {"size": 1}
        assert await landlord.condition() == ("False", "WriteRefused")
        assert await landlord.condition("Stalled") == ("True", "WriteRefused")
        assert (resource.status["phase"], resource.status["recordGeneration"]) == ("ready", 2)
        writes = landlord.resources.writes.total()
        with pytest.raises(error):
            await landlord.look()
        assert landlord.resources.writes.total() == writes, "it is told once"
    async with landlord.operator():
        await landlord.until_ready()
    assert (await landlord.there()).spec["computeConfig"] == {"size": 4}


async def test_resource_that_others_hold_does_not_stay_ready(landlord: Landlord) -> None:
    """A finalizer of somebody else's keeps it after its tenant is gone."""
    await ready(landlord)
    await landlord.merge({"metadata": {"finalizers": [FINALIZER, "example.com/other"]}})
    await landlord.kubectl("delete", "tenant", landlord.name, "--wait=false")
    sync = landlord.sync()
    done = await sync.run(await landlord.snapshot(), namespaces=[landlord.namespace], shown={}, patient=True)
    assert done.held_back, "what moves is given a moment"
    await landlord.reconcile()
    assert (await landlord.record()).status is Status.DELETED
    await landlord.look()
    resource = await landlord.there()
    assert resource.finalizers == ("example.com/other",)
    assert resource.status["phase"] == "deleted"
    assert await landlord.condition() == ("False", "Deleted")
    writes = landlord.resources.writes.total()
    await landlord.look()
    assert landlord.resources.writes.total() == writes
    await landlord.merge({"metadata": {"finalizers": None}})
    assert await landlord.resource() is None


LARGEST = 1_572_000
"""Bytes of a configuration with which nothing else fits into etcd any more, no status either."""


async def test_resource_that_cannot_be_told_anything_keeps_no_mirror_from_being_made(landlord: Landlord) -> None:
    """Somebody uses the name, in a namespace of theirs."""
    huge = landlord.manifest({"filler": "x" * LARGEST})
    await landlord.kubectl("create", "-f", "-", stdin=huge, where=landlord.other)
    await landlord.rest(Create(compute_config={"size": 1}))
    await landlord.reconcile()
    with pytest.raises(Unavailable):
        await landlord.look(landlord.other)
    assert await landlord.condition() == ("True", "Ready")


async def test_webhook_that_is_away_is_told_by_the_log(landlord: Landlord) -> None:
    """The API server itself is well, so nothing else tells why nothing is written."""
    hook = {
        "name": "away.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"url": "https://127.0.0.1:9/"},
        "rules": [{**TENANTS, "resources": ["tenants/status"], "operations": ["UPDATE"]}],
    }
    kind = "ValidatingWebhookConfiguration"
    body = {"apiVersion": REGISTRATION, "kind": kind, "metadata": {"name": landlord.name}, "webhooks": [hook]}

    async def refuses() -> bool:
        tried = ("patch", "tenant", landlord.name, "--subresource=status", "--dry-run=server", "--type=merge")
        return "failed calling webhook" in await landlord.kubectl(*tried, "-p", '{"status": {}}', check=False)

    await landlord.apply({"size": 1})
    await landlord.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    try:
        await landlord.until(refuses)
        with structlog.testing.capture_logs() as logs:
            async with landlord.operator():

                async def told() -> bool:
                    return any(each.get("tenant") == landlord.name and "500" in each.get("error", "") for each in logs)

                await landlord.until(told)
                await landlord.kubectl("delete", kind, landlord.name)
                await landlord.until_ready()
        assert await landlord.condition() == ("True", "Ready")
    finally:
        await landlord.kubectl("delete", kind, landlord.name, "--ignore-not-found")
