"""What Prometheus is told about calls of the workflow engine and about runs."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Histogram

CALLS = Counter(
    "landlord_workflow_calls",
    "Calls of the workflow engine by result: ok, not_found, invalid, timeout, unavailable, unexpected, cancelled.",
    ["provider", "call", "result"],
)

SECONDS = Histogram(
    "landlord_workflow_call_seconds",
    "Duration of calls of the workflow engine.",
    ["provider", "call"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)

RUNS = Counter(
    "landlord_worker_runs",
    "Runs of the tenant workflow that this worker executed, by action and result.",
    ["action", "result"],
)

RUN_SECONDS = Histogram(
    "landlord_worker_run_seconds",
    "Duration of runs of the tenant workflow on this worker.",
    ["action"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)

CALLBACKS = Counter(
    "landlord_worker_callbacks",
    "Ends of runs that this worker told the API, by result: ok, refused, failed, dropped (too many at once).",
    ["result"],
)


@cache
def calls(provider: str, call: str, result: str) -> Counter:
    """Looked up once: ``labels`` takes longer than ``inc``."""
    return CALLS.labels(provider, call, result)


@cache
def call_seconds(provider: str, call: str) -> Histogram:
    return SECONDS.labels(provider, call)
