"""Making executions: the next id, and the bytes that are frozen when one is sent. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from landlord import canonical
from landlord.tenants.execution_ids import execution_id
from landlord.tenants.model import Action, Door, Execution, Tenant
from landlord.workflow.payload import TenantPayload
from landlord.workflow.provider import ExecutionState, WorkflowFailure, WorkflowRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The installation's rules that decisions follow. Durations are seconds."""

    installation: str
    provider: str
    """Name of the workflow provider."""
    complete: Callable[[str, Mapping[str, Any]], dict[str, Any]]
    """Fills a compute configuration with the provider's defaults."""
    trigger_timeout: float = 30
    attempts: int = 5
    backoff: float = 1
    backoff_limit: float = 300
    deadline: float = 3600
    poll: float = 30
    """Backstop for runs whose end is pushed."""
    force_after: float = 60
    """After a cancel that is not obeyed."""

    def delay(self, attempts: int) -> float:
        """Back-off after so many failed attempts."""
        return float(min(self.backoff_limit, self.backoff * 2 ** max(0, min(attempts, 30) - 1)))


def new_run(
    *,
    tenant: Tenant,
    action: Action,
    source: Door,
    now: datetime,
    policy: Policy,
    send: bool,
    not_before: datetime | None = None,
) -> tuple[Tenant, Execution]:
    """The tenant with its next execution in charge; frozen at once if nothing has to end or pass before it is sent."""
    n = tenant.counters.get(action, 0) + 1
    execution = Execution(
        execution_id=execution_id(tenant.id, action, n),
        tenant_id=tenant.id,
        incarnation=tenant.incarnation,
        generation=tenant.generation,
        action=action,
        n=n,
        provider=policy.provider,
        source=source,
        attempt=tenant.attempts + 1,
        not_before=not_before,
        created_at=now,
    )
    if send:
        execution = freeze(execution, tenant=tenant, now=now, policy=policy)
    return (
        replace(
            tenant,
            counters={**tenant.counters, action.value: n},
            head=execution.execution_id,
            workflow_execution_id=execution.execution_id,
        ),
        execution,
    )


def freeze(execution: Execution, *, tenant: Tenant, now: datetime, policy: Policy) -> Execution:
    """The execution as it will be sent: its bytes are fixed from here on, whoever sends them again.

    Its engine, too: until now it was nobody's, and the installation may have been moved to another one.
    """
    payload = TenantPayload(
        installation=policy.installation,
        execution_id=execution.execution_id,
        tenant_id=tenant.id,
        incarnation=tenant.incarnation,
        generation=tenant.generation,
        action=execution.action,
        attempt=tenant.attempts + 1,
        compute_provider=tenant.compute_provider,
        desired_config=policy.complete(tenant.compute_provider, tenant.compute_config),
        observed_config=tenant.observed_config,
    ).dumps()
    return replace(
        execution,
        provider=policy.provider,
        generation=tenant.generation,
        attempt=tenant.attempts + 1,
        not_before=None,
        sent_at=now,
        deadline=now + timedelta(seconds=policy.deadline),
        payload=payload,
        digest=canonical.digest(payload),
    )


def request(execution: Execution) -> WorkflowRequest:
    """What is sent, always the same for one execution."""
    assert execution.payload is not None, f"{execution.execution_id} was not frozen"
    return WorkflowRequest(execution_id=execution.execution_id, payload=execution.payload)


def close_unsent(execution: Execution, *, now: datetime, why: str) -> Execution:
    """A waiting execution that will never be sent."""
    failure = WorkflowFailure(code="Superseded", message=why)
    return replace(execution, state=ExecutionState.CANCELLED, ended_at=now, error=failure.to_json())


def request_cancel(execution: Execution, *, now: datetime, why: str) -> Execution:
    """The wish to end a sent execution, committed before the engine is asked."""
    if execution.cancel_requested_at is not None:
        return execution
    return replace(execution, cancel_requested_at=now, cancel_reason=why)
