"""TenantWorker: what it counts of the runs it executes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import REGISTRY

from landlord.settings import Settings
from landlord.workflow.payload import TenantPayload
from landlord.workflow.provider import RunFailed
from landlord.workflow.worker import TenantWorker


async def _step(_: str, action: Callable[[], Awaitable[Any]], /) -> Any:
    return await action()


@pytest.mark.parametrize(
    ("config", "result"),
    [({}, "succeeded"), ({"permanent_error": "no"}, "failed"), ({"delay_seconds": 60}, "interrupted")],
)
async def test_runs_are_counted_by_how_they_ended(config: dict[str, Any], result: str) -> None:
    labels = {"action": "provision", "result": result}

    def counted() -> tuple[float, float]:
        runs = REGISTRY.get_sample_value("landlord_worker_runs_total", labels) or 0
        took = REGISTRY.get_sample_value("landlord_worker_run_seconds_count", {"action": "provision"}) or 0
        return runs, took

    payload = TenantPayload(
        installation="default",
        execution_id="tenant-acme-provision",
        tenant_id="acme",
        incarnation="6f1c",
        generation=1,
        action="provision",
        attempt=1,
        compute_provider="mock",
        desired_config=config,
        observed_config=None,
    )
    worker = TenantWorker(settings=Settings(workflow_provider="mock", compute_providers=["mock"]))
    runs, took = counted()
    run = asyncio.ensure_future(worker.execute(payload.dumps(), _step))
    await asyncio.wait({run}, timeout=0.2 if result == "interrupted" else 10)
    run.cancel()
    with suppress(RunFailed, asyncio.CancelledError):
        await run
    assert counted() == (runs + 1, took + 1)
