"""The engines alone: starting runs, and asking how thousands under way are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks.parts import Installation, Machine
from benchmarks.ready import ENGINES
from benchmarks.table import Row, rate
from landlord.workflow.client import WorkflowClient
from landlord.workflow.payload import TenantPayload
from landlord.workflow.provider import WorkflowRequest

RUNS = 5000
CALLERS = 50
BATCH = 100
"""Runs that are asked for in one call, as the reconciler does."""
LONGER = 3600
"""Seconds that each run takes: more than the benchmark does."""


async def flight(machine: Machine) -> list[Row]:
    """Five thousand runs that stay under way: started, and then asked for in batches."""
    seen = {engine: await _fly(machine, engine=engine) for engine in ENGINES}
    (started, asked), (started_there, asked_there) = seen["local"], seen["restate"]
    return [
        Row(
            what=f"triggers of the engine alone, {CALLERS} callers, a worker running",
            measured=started,
            restate=started_there,
        ),
        Row(what=f"status of one of {RUNS:,} runs in flight, by {BATCH}", measured=asked, restate=asked_there),
    ]


async def _fly(machine: Machine, *, engine: str) -> tuple[str, str]:
    requests = [_request(number) for number in range(RUNS)]
    async with machine.installation(engine=engine) as installation:
        await installation.start("worker")
        async with WorkflowClient.from_settings(installation.settings) as client:
            began = time.perf_counter()
            await _trigger(client, requests)
            started = rate(RUNS / (time.perf_counter() - began))
        return started, await _ask(installation, [request.execution_id for request in requests])


async def _trigger(client: WorkflowClient, requests: Sequence[WorkflowRequest]) -> None:
    left = iter(requests)

    async def call() -> None:
        for request in left:
            await client.trigger(request)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(call())


async def _ask(installation: Installation, execution_ids: Sequence[str]) -> str:
    """By a client that has started none of them, then again by the same."""
    async with WorkflowClient.from_settings(installation.settings) as client:
        times = []
        for _ in range(2):
            began = time.perf_counter()
            for first in range(0, RUNS, BATCH):
                found = await client.get_many(execution_ids[first : first + BATCH])
                assert len(found) == BATCH
            times.append((time.perf_counter() - began) / RUNS)
    return f"{times[1] * 1e6:.0f} µs ({times[0] * 1e6:.0f} µs the first time)"


def _request(number: int) -> WorkflowRequest:
    execution_id = f"tenant-flight-{number}-provision"
    payload = TenantPayload(
        installation="landlord",
        execution_id=execution_id,
        tenant_id=f"flight-{number}",
        incarnation="00000000-0000-4000-8000-000000000000",
        generation=1,
        action="provision",
        attempt=1,
        compute_provider="mock",
        desired_config={"delay_seconds": LONGER},
        observed_config=None,
    )
    return WorkflowRequest(execution_id=execution_id, payload=payload.dumps())
