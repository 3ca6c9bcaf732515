"""One installation on a real Postgres with the scripted engine, and what its tests do to it.

The reconciler is stepped by hand where the order of events is the point, and runs freely where it is not.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from landlord.database.statement import Statement
from landlord.installation import Installation, assemble
from landlord.settings import Settings
from landlord.tenants.commands import Create, Request
from landlord.tenants.errors import TriggerFailed
from landlord.tenants.model import Door, Execution, Status, Tenant
from landlord.tenants.reconcile import Reconciler
from landlord.workflow.client import WorkflowClient
from landlord.workflow.providers.mock import MockProvider, Stay


@pytest.fixture
def settings(test_database_url: str) -> Settings:
    return Settings(
        database_url=SecretStr(test_database_url),
        compute_providers=("mock",),
        retry_backoff=0.02,
        workflow_trigger_timeout=0.3,
        execution_deadline=3600,
    )


@pytest.fixture
def engine() -> MockProvider:
    return MockProvider()


@pytest.fixture
async def parts(settings: Settings, engine: MockProvider) -> AsyncIterator[Installation]:
    client = WorkflowClient(engine, trigger_timeout=settings.workflow_trigger_timeout)
    async with client, assemble(settings, client=client) as installation:
        yield installation


@pytest.fixture
def reconciler(parts: Installation) -> Reconciler:
    return parts.reconciler()


@asynccontextmanager
async def reconciling(parts: Installation) -> AsyncIterator[None]:
    task = asyncio.create_task(parts.reconciler().run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def unique() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


async def submit(parts: Installation, tenant_id: str, command: Any) -> Tenant:
    answer = await parts.service.submit(Request(tenant_id=tenant_id, command=command, who="tester", door=Door.API))
    assert answer.snapshot.tenant is not None
    return answer.snapshot.tenant


async def unanswered(parts: Installation, engine: MockProvider, *, config: dict[str, Any]) -> str:
    """A tenant whose POST was answered 500: the trigger is lost, and what is triggered later goes on for ever."""
    name = unique()
    engine.default = Stay()
    engine.lose_triggers(1)
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Create(compute_config=config))
    return name


async def tenant(parts: Installation, tenant_id: str) -> Tenant:
    found = (await parts.repository.load(tenant_id)).tenant
    assert found is not None
    return found


async def executions(parts: Installation, tenant_id: str) -> dict[str, Execution]:
    """By their ids without the tenant, oldest first."""
    found = await parts.repository.executions(tenant_id, before=2**62, limit=1000)
    return {e.execution_id.removeprefix(f"tenant-{tenant_id}-"): e for _, e in reversed(found)}


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await check():
            await asyncio.sleep(0.01)


async def in_status(parts: Installation, tenant_id: str, status: Status) -> Tenant:
    async def reached() -> bool:
        return (await tenant(parts, tenant_id)).status is status

    await until(reached)
    return await tenant(parts, tenant_id)


async def set_deadline(parts: Installation, *, seconds: int) -> None:
    """Of what is under way, from now."""
    await parts.database.execute(
        Statement("update executions set deadline = now() + make_interval(secs => :seconds) where ended_at is null"),
        seconds=seconds,
    )
