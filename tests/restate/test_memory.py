"""What the engine forgets or confuses: ids it does not know any more, and ids it knows from somebody else."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from fixtures.rest import reconciling
from fixtures.restate import introduce, registered, restate_settings
from fixtures.workers import running

from landlord.dev.restate import RestateServer
from landlord.installation import Installation, assemble
from landlord.settings import Settings
from landlord.tenants.commands import Create, Request
from landlord.tenants.model import Door, Execution, Status
from landlord.workflow.payload import TenantPayload
from landlord.workflow.provider import ExecutionState, WorkflowRequest
from landlord.workflow.worker import TenantWorker

FORGOT = "engine forgot the run"


def settings_for(server: Mapping[str, str], url: str) -> Settings:
    return Settings(
        database_url=url,  # type: ignore[arg-type]
        compute_providers=("mock",),
        retry_backoff=0.05,
        workflow_trigger_timeout=2,
        **restate_settings(server),
    )


@asynccontextmanager
async def working(settings: Settings, installation: Installation) -> AsyncIterator[None]:
    async with running(TenantWorker(settings=settings)):
        await registered(installation.client)
        yield


async def create(installation: Installation, **config: Any) -> str:
    name = f"t{uuid.uuid4().hex[:10]}"
    command = Create(compute_config=config)
    await installation.service.submit(Request(tenant_id=name, command=command, who="tester", door=Door.API))
    return name


async def until(installation: Installation, tenant: str, status: Status) -> None:
    async with asyncio.timeout(60):
        while True:
            found = (await installation.repository.load(tenant)).tenant
            if found is not None and found.status is status:
                return
            await asyncio.sleep(0.05)


async def executions(installation: Installation, tenant: str) -> dict[str, Execution]:
    """By action and number, oldest first."""
    found = await installation.repository.executions(tenant, before=2**62, limit=100)
    return {each.execution_id.removeprefix(f"tenant-{tenant}-"): each for _, each in reversed(found)}


async def events(installation: Installation, tenant: str) -> list[str]:
    return [each.event for _, each in await installation.repository.audit(tenant, before=2**62, limit=100)][::-1]


async def test_a_run_whose_retention_has_passed(restate_server: dict[str, str], test_database_url: str) -> None:
    """Its end was never seen: the same bytes under the same id, and a word in the trail."""
    settings = settings_for(restate_server, test_database_url)
    async with assemble(settings) as installation:
        await introduce(settings, installation.client)
        name = await create(installation)
        reconciler = installation.reconciler()
        await reconciler.reconcile(name)
        before = (await executions(installation, name))["plan"]
        assert before.seen
        await purge(settings, await native_id(installation, before))
        await reconciler.reconcile(name)
        assert (await events(installation, name))[-1] == FORGOT
        word = await installation.client.get(before.execution_id)
        assert (word.digest, word.state.ended) == (before.digest, False)
        after = (await executions(installation, name))["plan"]
        assert (after.payload, after.sent_at) == (before.payload, before.sent_at)
        async with working(settings, installation), reconciling(installation):
            await until(installation, name, Status.READY)
        found = await executions(installation, name)
        assert {key: each.state for key, each in found.items()} == {"plan": "succeeded", "provision": "succeeded"}
        tenant = (await installation.repository.load(name)).tenant
        assert tenant is not None
        assert tenant.attempts == 0


async def native_id(installation: Installation, execution: Execution) -> str:
    found = (await installation.client.get(execution.execution_id)).native_id
    assert found is not None
    return found


async def purge(settings: Settings, native: str) -> None:
    """What the server does by itself when the retention has passed; only ended runs can be purged."""
    async with aiohttp.ClientSession(settings.restate_admin_url.rstrip("/") + "/") as session:
        async with session.patch(f"invocations/{native}/kill") as answer:
            assert answer.status in (200, 202)
        async with asyncio.timeout(10):
            while True:
                async with session.patch(f"invocations/{native}/purge") as answer:
                    if answer.status in (200, 202):
                        return
                await asyncio.sleep(0.05)


async def test_a_server_that_has_lost_its_data(
    own_restate: RestateServer, component_folder: Path, test_database_url: str
) -> None:
    """The worker registers again by itself; whatever was under way is sent again."""
    server = {"ingress": own_restate.ingress_url, "admin": own_restate.admin_url}
    settings = settings_for(server, test_database_url)
    async with assemble(settings) as installation, working(settings, installation), reconciling(installation):
        names = [await create(installation, delay_seconds=4) for _ in range(10)]
        for name in names:
            await until(installation, name, Status.PROVISIONING)
            async with asyncio.timeout(30):
                while not (await executions(installation, name))["provision"].seen:
                    await asyncio.sleep(0.05)
        before = {name: (await executions(installation, name))["provision"].payload for name in names}
        await own_restate.kill()
        shutil.rmtree(component_folder / "restate" / "data")
        await own_restate.start()
        for name in names:
            await until(installation, name, Status.READY)
            found = await executions(installation, name)
            assert {key: each.state for key, each in found.items()} == {"plan": "succeeded", "provision": "succeeded"}
            assert found["provision"].payload == before[name]
            assert (await events(installation, name)).count(FORGOT) == 1


async def test_an_id_that_is_somebody_elses(restate_server: dict[str, str], test_database_url: str) -> None:
    """As after a restore of an old database: their run is left alone, and the next id is used."""
    settings = settings_for(restate_server, test_database_url)
    async with assemble(settings) as installation, working(settings, installation), reconciling(installation):
        for delay, state in ((0, ExecutionState.SUCCEEDED), (120, ExecutionState.RUNNING)):
            name = f"t{uuid.uuid4().hex[:10]}"
            theirs = WorkflowRequest(
                execution_id=f"tenant-{name}-plan",
                payload=TenantPayload(
                    installation=settings.installation,
                    execution_id=f"tenant-{name}-plan",
                    tenant_id=f"other-{name}",
                    incarnation=str(uuid.uuid4()),
                    generation=1,
                    action="provision",
                    attempt=1,
                    compute_provider="mock",
                    desired_config={"delay_seconds": delay},
                    observed_config=None,
                ).dumps(),
            )
            await installation.client.trigger(theirs)
            async with asyncio.timeout(20):
                while (await installation.client.get(theirs.execution_id)).state is not state:
                    await asyncio.sleep(0.05)
            command = Create(compute_config={})
            await installation.service.submit(Request(tenant_id=name, command=command, who="tester", door=Door.API))
            await until(installation, name, Status.READY)
            assert list(await executions(installation, name)) == ["plan", "plan-2", "provision"]
            assert "execution id taken" in await events(installation, name)
            tenant = (await installation.repository.load(name)).tenant
            assert tenant is not None
            assert tenant.attempts == 0
            word = await installation.client.get(theirs.execution_id)
            assert (word.state, word.digest) == (state, theirs.digest)
        await installation.client.cancel(theirs.execution_id, reason="the test is over")
