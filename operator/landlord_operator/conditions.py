"""Ready, Reconciling and Stalled, as kstatus, ``kubectl wait``, Argo CD and Flux read them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from landlord.tenants.model import Execution, Snapshot, Stalled, Status, Tenant

MESSAGE_LIMIT = 1024

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"

NAME_TAKEN = "NameTaken"
INVALID_SPEC = "InvalidSpec"
DELETING = "Deleting"
WRITE_REFUSED = "WriteRefused"
TRIGGER_FAILED = "TriggerFailed"
PAUSED = "Paused"
UPDATE_PENDING = "UpdatePending"

_SAID = {
    Status.REQUESTED: "nothing has been started yet",
    Status.PLANNING: "the spec is being checked",
    Status.PROVISIONING: "the tenant is being made",
    Status.READY: "a newer spec is about to be carried out",
    Status.UPDATING: "the tenant is being brought to its new spec",
    Status.DELETING: "the tenant is being deleted",
    Status.DELETED: "the tenant is deleted",
    Status.FAILED: "the tenant failed; change or retry it",
}
"""What a status that is not what is wanted means, where the record says no more."""
_BROKEN_OFF = {
    Stalled.DEADLINE_EXCEEDED: "a run did not end in time and is started anew: workers may be away, or hang",
    Stalled.ENGINE_PAUSED: "the workflow engine has paused a run, which is started anew: look into the engine",
}
"""Of what is no failure: the record may still hold the word of one before."""
_IN_FLIGHT = {Status.PLANNING, Status.PROVISIONING, Status.UPDATING, Status.DELETING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the resource's spec was not taken, as a pure function of row and spec."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition, before it gets its times."""

    type: str
    holds: bool
    reason: str
    message: str

    @property
    def status(self) -> str:
        return "True" if self.holds else "False"


def of_record(snapshot: Snapshot, *, refusal: Refusal | None, settled: bool) -> tuple[Condition, ...]:
    """What a tenant's row says, and of a refused edit that it was refused. ``settled``: row and spec agree."""
    tenant = snapshot.tenant
    assert tenant is not None
    ready = _ready(tenant, snapshot.head)
    moving = _reconciling(tenant)
    stuck = _stalled(tenant)
    if ready.holds and not settled:
        message = "the resource and the record are being brought together"
        ready = Condition(type=READY, holds=False, reason=UPDATE_PENDING, message=message)
    if refusal is not None:
        ready = Condition(type=READY, holds=False, reason=refusal.reason, message=refusal.message)
        if refusal.reason != DELETING:
            stuck = Condition(type=STALLED, holds=True, reason=refusal.reason, message=refusal.message)
    return ready, moving, stuck


def of_refusal(refusal: Refusal) -> tuple[Condition, ...]:
    """Where there is no record of the resource at all."""
    stuck = refusal.reason != DELETING
    return (
        Condition(type=READY, holds=False, reason=refusal.reason, message=refusal.message),
        Condition(type=RECONCILING, holds=False, reason=refusal.reason, message="nothing is done"),
        Condition(type=STALLED, holds=stuck, reason=refusal.reason, message=refusal.message),
    )


def written(
    conditions: Iterable[Condition],
    *,
    before: Iterable[Mapping[str, Any]],
    observed_generation: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """As they stand in the status: a condition keeps its time until its status changes."""
    earlier = {each.get("type"): each for each in before}
    return [
        {
            "type": each.type,
            "status": each.status,
            "observedGeneration": observed_generation,
            "lastTransitionTime": _since(each, earlier.get(each.type), now=now),
            "reason": each.reason,
            "message": each.message[:MESSAGE_LIMIT],
        }
        for each in conditions
    ]


def _since(condition: Condition, before: Mapping[str, Any] | None, *, now: datetime) -> str:
    if before is not None and before.get("status") == condition.status and before.get("lastTransitionTime"):
        return str(before["lastTransitionTime"])
    return timestamp(now)


def timestamp(time: datetime) -> str:
    """As Kubernetes writes times: UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ready(tenant: Tenant, head: Execution | None) -> Condition:
    if tenant.stalled is Stalled.RECORD_BEHIND:
        return Condition(type=READY, holds=False, reason=tenant.stalled.value, message=tenant.status_message)
    if tenant.status is Status.READY:
        if tenant.observed_generation == tenant.generation:
            return Condition(type=READY, holds=True, reason="Ready", message="the tenant runs and is healthy")
        reason = PAUSED if tenant.paused else UPDATE_PENDING
        return Condition(type=READY, holds=False, reason=reason, message="a newer spec has not been carried out yet")
    if tenant.paused and tenant.status is Status.REQUESTED:
        return Condition(type=READY, holds=False, reason=PAUSED, message="nothing is started while paused")
    if tenant.workflow_execution_id is None and head is not None and head.open and tenant.status in _IN_FLIGHT:
        message = tenant.status_message or "the workflow could not be started yet"
        return Condition(type=READY, holds=False, reason=TRIGGER_FAILED, message=message)
    message = tenant.status_message or _SAID[tenant.status]
    return Condition(type=READY, holds=False, reason=tenant.status.value.capitalize(), message=message)


def _reconciling(tenant: Tenant) -> Condition:
    idle = tenant.paused and tenant.status is not Status.DELETING and tenant.workflow_execution_id is None
    moving = (
        tenant.status in _IN_FLIGHT
        or tenant.status is Status.REQUESTED
        or (tenant.status is Status.READY and tenant.observed_generation != tenant.generation)
    )
    if tenant.stalled is Stalled.RECORD_BEHIND and tenant.status is not Status.DELETING:
        moving = False
    if idle or not moving:
        reason = PAUSED if idle and moving else "Idle"
        return Condition(type=RECONCILING, holds=False, reason=reason, message="nothing is under way")
    reason = UPDATE_PENDING if tenant.status is Status.READY else tenant.status.value.capitalize()
    return Condition(type=RECONCILING, holds=True, reason=reason, message=_SAID[tenant.status])


def _stalled(tenant: Tenant) -> Condition:
    if tenant.stalled is not None:
        message = _BROKEN_OFF.get(tenant.stalled) or tenant.status_message or "no progress is made by itself"
        return Condition(type=STALLED, holds=True, reason=tenant.stalled.value, message=message)
    if tenant.status is Status.FAILED:
        message = tenant.status_message or _SAID[tenant.status]
        return Condition(type=STALLED, holds=True, reason="Failed", message=message)
    return Condition(type=STALLED, holds=False, reason="Progressing", message="nothing stands in the way")
