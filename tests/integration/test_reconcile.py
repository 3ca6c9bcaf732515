"""Accept, trigger, work, reconcile: the parts of the domain together, on a real Postgres and each real engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fixtures.engines import Engine
from fixtures.rest import working
from fixtures.restate import introduce

from landlord.installation import Installation, assemble
from landlord.settings import Settings
from landlord.tenants.commands import Create, Delete, Patch, Replace, Request, Retry
from landlord.tenants.errors import Exists
from landlord.tenants.model import Door, Status, Tenant
from landlord.tenants.service import Answer

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def settings(engine: Engine, test_database_url: str) -> Settings:
    return Settings(
        database_url=test_database_url,  # type: ignore[arg-type]
        compute_providers=("mock",),
        retry_backoff=0.05,
        **engine.settings,
    )


@pytest.fixture
async def installation(settings: Settings) -> AsyncIterator[Installation]:
    async with assemble(settings) as installation:
        await introduce(settings, installation.client)
        yield installation


async def submit(installation: Installation, tenant_id: str, command: Any) -> Answer:
    return await installation.service.submit(Request(tenant_id=tenant_id, command=command, who="tester", door=Door.API))


async def until(installation: Installation, tenant_id: str, *statuses: Status, seconds: float = 20) -> Tenant:
    async with asyncio.timeout(seconds):
        while True:
            tenant = (await installation.repository.load(tenant_id)).tenant
            if tenant is not None and tenant.status in statuses:
                return tenant
            await asyncio.sleep(0.01)


async def states(installation: Installation, tenant_id: str) -> list[tuple[str, str]]:
    """Executions, oldest first, with their ends."""
    found = await installation.repository.executions(tenant_id, before=2**62, limit=1000)
    return [(execution.execution_id.removeprefix(f"tenant-{tenant_id}-"), execution.state) for _, execution in found][
        ::-1
    ]


def unique() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


async def test_a_life(settings: Settings, installation: Installation) -> None:
    name = unique()
    async with working(settings, installation):
        began = time.perf_counter()
        answer = await submit(installation, name, Create(compute_config={"image": "x"}))
        assert answer.snapshot.tenant is not None
        assert answer.snapshot.tenant.workflow_execution_id == f"tenant-{name}-plan"
        ready = await until(installation, name, Status.READY)
        assert time.perf_counter() - began < 5
        assert ready.observed_generation == ready.generation == 1
        assert ready.workflow_execution_id is None
        await submit(installation, name, Replace(compute_config={"image": "y"}))
        ready = await until(installation, name, Status.READY)
        assert ready.observed_generation == 2
        await submit(installation, name, Delete())
        gone = await until(installation, name, Status.DELETED)
        assert gone.deleted_at is not None
        await submit(installation, name, Create(compute_config={"image": "z"}))
        again = await until(installation, name, Status.READY)
        assert again.incarnation != ready.incarnation
    assert await states(installation, name) == [
        ("plan", "succeeded"),
        ("provision", "succeeded"),
        ("update", "succeeded"),
        ("delete", "succeeded"),
        ("plan-2", "succeeded"),
        ("provision-2", "succeeded"),
    ]


async def test_failed_runs_are_tried_again_under_the_next_id(settings: Settings, installation: Installation) -> None:
    name = unique()
    async with working(settings, installation):
        await submit(installation, name, Create(compute_config={"fail_first": 2}))
        await until(installation, name, Status.READY)
    assert await states(installation, name) == [
        ("plan", "succeeded"),
        ("provision", "failed"),
        ("provision-2", "failed"),
        ("provision-3", "succeeded"),
    ]


async def test_spent_attempts_fail_the_tenant_and_a_retry_starts_afresh(
    settings: Settings, installation: Installation
) -> None:
    name = unique()
    async with working(settings, installation):
        await submit(installation, name, Create(compute_config={"fail_first": 5}))
        failed = await until(installation, name, Status.FAILED)
        assert failed.status_message.startswith("provision: ")
        assert failed.workflow_execution_id is None
        await submit(installation, name, Retry(compute_config={"fail_first": 0}))
        ready = await until(installation, name, Status.READY)
        assert ready.generation == ready.observed_generation == 2
    assert [state for _, state in await states(installation, name)].count("failed") == 5


async def test_a_permanent_error_is_not_tried_again(settings: Settings, installation: Installation) -> None:
    name = unique()
    async with working(settings, installation):
        await submit(installation, name, Create(compute_config={"permanent_error": "no such plan"}))
        failed = await until(installation, name, Status.FAILED)
    assert "no such plan" in failed.status_message
    assert await states(installation, name) == [("plan", "succeeded"), ("provision", "failed")]


async def test_a_hundred_changes_during_one_run_are_one_run_more(
    settings: Settings, installation: Installation
) -> None:
    name = unique()
    async with working(settings, installation):
        await submit(installation, name, Create(compute_config={"delay_seconds": 6}))
        await until(installation, name, Status.PROVISIONING)
        answers = await asyncio.gather(
            *(submit(installation, name, Replace(compute_config={"n": n})) for n in range(100))
        )
        assert {a.snapshot.tenant.workflow_execution_id for a in answers if a.snapshot.tenant} == {
            f"tenant-{name}-provision"
        }
        ready = await until(installation, name, Status.READY)
        assert ready.observed_generation == 101
    assert await states(installation, name) == [
        ("plan", "succeeded"),
        ("provision", "succeeded"),
        ("update", "succeeded"),
    ]


async def test_delete_while_provisioning_cancels_the_run(settings: Settings, installation: Installation) -> None:
    name = unique()
    async with working(settings, installation):
        await submit(installation, name, Create(compute_config={"delay_seconds": 60}))
        await until(installation, name, Status.PROVISIONING)
        await asyncio.sleep(0.3)
        answer = await submit(installation, name, Delete())
        assert answer.snapshot.tenant is not None
        assert answer.snapshot.tenant.workflow_execution_id == f"tenant-{name}-delete"
        await until(installation, name, Status.DELETED)
    assert await states(installation, name) == [
        ("plan", "succeeded"),
        ("provision", "cancelled"),
        ("delete", "succeeded"),
    ]


async def test_paused_runs_nothing_and_unpausing_goes_on(settings: Settings, installation: Installation) -> None:
    name = unique()
    async with working(settings, installation):
        await submit(installation, name, Create(compute_config={"image": "x"}, paused=True))
        await asyncio.sleep(0.5)
        held = await until(installation, name, Status.REQUESTED)
        assert held.workflow_execution_id is None
        answer = await submit(installation, name, Patch(merge={"paused": False}))
        assert answer.started
        await until(installation, name, Status.READY)
        await submit(installation, name, Patch(merge={"paused": True}))
        await submit(installation, name, Replace(compute_config={"image": "y"}))
        await asyncio.sleep(0.5)
        held = await until(installation, name, Status.READY)
        assert (held.generation, held.observed_generation) == (2, 1)
        await submit(installation, name, Patch(merge={"paused": False}))
        await until(installation, name, Status.UPDATING, Status.READY)
        async with asyncio.timeout(10):
            while (await until(installation, name, Status.READY)).observed_generation != 2:
                await asyncio.sleep(0.01)


async def test_two_reconcilers_are_harmless(settings: Settings, installation: Installation) -> None:
    names = [unique() for _ in range(40)]
    async with working(settings, installation, reconcilers=2):
        await asyncio.gather(*(submit(installation, name, Create(compute_config={})) for name in names))
        await asyncio.gather(*(until(installation, name, Status.READY) for name in names))
    for name in names:
        assert await states(installation, name) == [("plan", "succeeded"), ("provision", "succeeded")]


async def test_identical_creates_at_once_make_one_tenant(settings: Settings, installation: Installation) -> None:
    name = unique()
    results = await asyncio.gather(
        *(submit(installation, name, Create(compute_config={"image": "x"})) for _ in range(1000)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Answer) for result in results) == 1
    assert sum(isinstance(result, Exists) for result in results) == 999
    assert len(await states(installation, name)) == 1
