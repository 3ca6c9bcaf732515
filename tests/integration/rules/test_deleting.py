"""A delete is tried until it is done, and nothing else is done meanwhile."""

from __future__ import annotations

import pytest
from integration.rules.harness import in_status, reconciling, submit, tenant, unanswered, unique, until

from landlord.installation import Installation
from landlord.tenants.commands import Create, Delete, Patch, Remove, Replace, ResourceIdentity, Retry
from landlord.tenants.errors import Conflict, Exists, Gone, TriggerFailed
from landlord.tenants.model import Stalled, Status
from landlord.workflow.providers.mock import Fail, MockProvider, Stay, Succeed

pytestmark = pytest.mark.timeout(60)


async def test_a_delete_never_ends_failed(parts: Installation, engine: MockProvider) -> None:
    name = unique()
    async with reconciling(parts):
        engine.default = Succeed(output={})
        await submit(parts, name, Create(compute_config={}))
        await in_status(parts, name, Status.READY)
        engine.default = Fail(message="cannot remove", permanent=True)
        await submit(parts, name, Delete())

        async def stalled() -> bool:
            return (await tenant(parts, name)).stalled is Stalled.DELETE_FAILING

        await until(stalled)
        found = await tenant(parts, name)
        assert found.status is Status.DELETING
        assert "cannot remove" in found.status_message
        with pytest.raises(Conflict):
            await submit(parts, name, Replace(compute_config={}))
        engine.default = Succeed(output={})
        await submit(parts, name, Retry())
        await in_status(parts, name, Status.DELETED)
    with pytest.raises(Gone):
        await submit(parts, name, Delete())


async def test_a_delete_goes_on_until_what_is_newer_than_the_record_is_gone_too(
    parts: Installation, engine: MockProvider
) -> None:
    """A restored record does not know what its successor made."""
    name = unique()
    engine.default = Succeed(output={})
    async with reconciling(parts):
        await submit(parts, name, Create(compute_config={}))
        await in_status(parts, name, Status.READY)
        refusal = Fail(code="NewerGeneration", permanent=True, details={"existing_generation": 5})
        engine.script(f"tenant-{name}-delete", refusal)
        await submit(parts, name, Delete())
        await in_status(parts, name, Status.DELETED)
    assert b'"generation":5' in engine.requests[-1].payload
    assert engine.requests[-1].execution_id == f"tenant-{name}-delete-2"


async def test_a_resource_that_goes_tells_the_generation_it_has_seen(parts: Installation, engine: MockProvider) -> None:
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={}))
    engine.finish(f"tenant-{name}-plan", Succeed(output={}))
    identity = ResourceIdentity(namespace="default", uid="uid", generation=3)
    gone = await submit(parts, name, Remove(identity=identity, retain=False, recorded_generation=7))
    assert (gone.status, gone.generation) == (Status.DELETING, 7)


async def test_a_tenant_that_is_being_deleted_is_neither_created_nor_replaced(
    parts: Installation, engine: MockProvider
) -> None:
    name = await unanswered(parts, engine, config={"v": 1})
    engine.unavailable()
    with pytest.raises(TriggerFailed):
        await submit(parts, name, Delete())
    engine.restore()
    with pytest.raises(Exists):
        await submit(parts, name, Create(compute_config={"v": 1}))
    with pytest.raises(Conflict):
        await submit(parts, name, Replace(compute_config={"v": 1}))
    with pytest.raises(Conflict):
        await submit(parts, name, Patch(merge={"compute_config": {"v": 1}}))
    assert (await tenant(parts, name)).status is Status.DELETING
