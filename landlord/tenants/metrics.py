"""What is worth an alert about tenants, for Prometheus. One registry a process, as prometheus_client has it."""

from __future__ import annotations

from functools import cache

from prometheus_client import REGISTRY, Counter, Gauge

from landlord.tenants.model import Door

ACCEPTED = Counter("landlord_requests_accepted_total", "Changes of tenants that were recorded", ["door", "command"])
TRIGGER_FAILURES = Counter(
    "landlord_trigger_failures_total", "Recorded requests whose workflow could not be triggered at once", ["door"]
)
TENANTS = Gauge("landlord_tenants", "Tenants by status", ["status"])
OLDEST = Gauge(
    "landlord_oldest_unconverged_seconds", "How long the tenant that waits longest has not moved", registry=None
)
QUEUE = Gauge("landlord_queue_depth", "Keys or changes that wait", ["queue"])
RECONCILED = Counter("landlord_reconcile_total", "Looks at tenants", ["result"])
ENGINE_UP = Gauge("landlord_workflow_engine_up", "Whether the reconciler reaches the workflow engine", registry=None)


@cache
def reconciling() -> None:
    """Show what only a process that reconciles knows. The API's 0 would say that the engine is away."""
    for each in (OLDEST, ENGINE_UP):
        REGISTRY.register(each)


@cache
def accepted(door: Door, command: type) -> Counter:
    """Looked up once: ``labels`` takes longer than ``inc``."""
    return ACCEPTED.labels(door=door.value, command=command.__name__.lower())
