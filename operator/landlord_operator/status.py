"""The status of a ``Tenant`` resource, from the record, its run and the resource as it was read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from landlord.mirror import Resource, same_spec
from landlord.tenants.model import Execution, Snapshot, Tenant
from landlord_operator import conditions
from landlord_operator.conditions import Refusal

_FIELDS = ("phase", "observedGeneration", "recordGeneration", "workflow", "endpoints", "conditions")
_WORKFLOW = ("executionId", "action", "state", "retries", "lastError", "nextCheckAt")
_ENDPOINT = ("name", "protocol", "address", "port", "url")

Status = dict[str, Any]


def of_record(snapshot: Snapshot, resource: Resource, *, refusal: Refusal | None) -> Status:
    """What the resource that is the row's should say.

    ``observedGeneration`` is raised to the version read only if its spec is the record's or was refused.
    """
    tenant = snapshot.tenant
    assert tenant is not None
    settled = refusal is not None or same_spec(tenant, resource)
    observed = resource.generation if settled else int(resource.status.get("observedGeneration") or 0)
    return _complete(
        {
            "phase": tenant.status.value,
            "observedGeneration": observed,
            "recordGeneration": tenant.generation,
            "workflow": _workflow(snapshot),
            "endpoints": _endpoints(tenant.observed_config),
            "conditions": conditions.written(
                conditions.of_record(snapshot, refusal=refusal, settled=settled),
                before=resource.status.get("conditions") or (),
                observed_generation=observed,
                now=snapshot.now,
            ),
        }
    )


def of_refusal(resource: Resource, *, refusal: Refusal, now: datetime) -> Status:
    """What a resource says that has no part in any record: that it was refused, and nothing else."""
    return _complete(
        {
            "observedGeneration": resource.generation,
            "conditions": conditions.written(
                conditions.of_refusal(refusal),
                before=resource.status.get("conditions") or (),
                observed_generation=resource.generation,
                now=now,
            ),
        }
    )


def patch(resource: Resource, status: Status) -> dict[str, Any] | None:
    """The one merge patch that writes it, refused if the resource has changed; null if nothing would change."""
    if all(resource.status.get(name) == status.get(name) for name in {*_FIELDS, *resource.status}):
        return None
    body: dict[str, Any] = {name: status.get(name) for name in {*_FIELDS, *resource.status}}
    if status.get("workflow") is not None:
        body["workflow"] = {name: status["workflow"].get(name) for name in _WORKFLOW}
    return {"metadata": {"resourceVersion": resource.resource_version, "uid": resource.uid}, "status": body}


def _complete(status: Status) -> Status:
    return {name: value for name, value in status.items() if value not in (None, [], {})}


def _workflow(snapshot: Snapshot) -> dict[str, Any] | None:
    tenant, head = snapshot.tenant, snapshot.head
    assert tenant is not None
    if head is None or head.incarnation != tenant.incarnation:
        return None
    backs_off = head.waiting and head.not_before is not None
    values: dict[str, Any] = {
        "executionId": tenant.workflow_execution_id,
        "action": head.action.value,
        "state": head.state.value,
        "retries": head.retries,
        "lastError": _last_error(tenant, head)[: conditions.MESSAGE_LIMIT] or None,
        "nextCheckAt": conditions.timestamp(head.not_before) if backs_off and head.not_before else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _last_error(tenant: Tenant, head: Execution) -> str:
    """Why the last try did not succeed: of a run that is to try again, the record knows."""
    if head.failure is not None:
        return head.failure.message
    return tenant.status_message if head.open and head.retries else ""


def _endpoints(observed: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    found = (observed or {}).get("endpoints")
    if not isinstance(found, list):
        return []
    return [
        {name: each[name] for name in _ENDPOINT if each.get(name) is not None}
        for each in found
        if isinstance(each, Mapping)
    ]
