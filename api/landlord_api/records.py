"""Rows as they are shown: plain values that orjson writes."""

from __future__ import annotations

from typing import Any

import orjson

from landlord.tenants.model import Audit, Execution, Snapshot, Tenant
from landlord.workflow.payload import TenantPayload

_OPTIONS = orjson.OPT_UTC_Z


def dumps(value: Any) -> bytes:
    return orjson.dumps(value, option=_OPTIONS)


def tenant(row: Tenant, head: Execution | None) -> dict[str, Any]:
    """The record. ``head`` is the execution in charge, or the last that was."""
    return {
        "id": row.id,
        "status": row.status,
        "status_message": row.status_message,
        "stalled": row.stalled,
        "compute_provider": row.compute_provider,
        "compute_config": row.compute_config,
        "observed_config": row.observed_config,
        "workflow_execution_id": row.workflow_execution_id,
        "workflow": _workflow(head) if head is not None and head.open else None,
        "labels": row.labels,
        "annotations": row.annotations,
        "paused": row.paused,
        "deletion_policy": row.deletion_policy,
        "generation": row.generation,
        "observed_generation": row.observed_generation,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "deleted_at": row.deleted_at,
    }


def of_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    assert snapshot.tenant is not None
    return tenant(snapshot.tenant, snapshot.head)


def _workflow(head: Execution) -> dict[str, Any]:
    return {
        "action": head.action,
        "state": head.state,
        "generation": head.generation,
        "attempt": head.attempt,
        "retry_count": head.retries,
        "last_error": _failure(head),
        "started_at": head.sent_at,
    }


def _failure(row: Execution) -> dict[str, Any] | None:
    failure = row.failure
    if failure is None:
        return None
    return {"code": failure.code, "message": failure.message, "permanent": failure.permanent, "step": failure.step}


def execution(row: Execution) -> dict[str, Any]:
    failure = row.failure
    return {
        "execution_id": row.execution_id,
        "tenant_id": row.tenant_id,
        "action": row.action,
        "n": row.n,
        "generation": row.generation,
        "spec": _spec(row),
        "trigger_source": row.source,
        "provider": row.provider,
        "state": row.state,
        "attempt": row.attempt,
        "engine_attempt": row.engine_attempt,
        "error": failure.to_json() if failure else None,
        "output": row.output,
        "created_at": row.created_at,
        "sent_at": row.sent_at,
        "deadline": row.deadline,
        "cancel_requested_at": row.cancel_requested_at,
        "ended_at": row.ended_at,
    }


def _spec(row: Execution) -> dict[str, Any] | None:
    """What the run was sent with: its own bytes, not what the record says by now."""
    if row.payload is None:
        return None
    payload = TenantPayload.loads(row.payload)
    return {"compute_provider": payload.compute_provider, "compute_config": payload.desired_config}


def event(row: Audit) -> dict[str, Any]:
    return {
        "id": row.change_id,
        "at": row.at,
        "who": row.who,
        "door": row.door,
        "event": row.event,
        "from_status": row.from_status,
        "to_status": row.to_status,
        "why": row.why,
        "generation": row.generation,
        "execution_id": row.execution_id,
    }
