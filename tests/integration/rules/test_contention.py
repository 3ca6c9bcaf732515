"""Many requests for one tenant: 409 says that nothing was stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from integration.rules.harness import submit, unique

from landlord.installation import Installation
from landlord.tenants import service
from landlord.tenants.commands import Create, Replace
from landlord.tenants.errors import Conflict
from landlord.workflow.providers.mock import MockProvider, Stay

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CONTENTION", 0.2)


@asynccontextmanager
async def writing_held_up(parts: Installation, engine: MockProvider) -> AsyncIterator[str]:
    """A tenant whose row somebody has locked."""
    name = unique()
    engine.default = Stay()
    await submit(parts, name, Create(compute_config={"v": 1}))
    async with await parts.database.open() as other, other.transaction():
        await other.execute("select from tenants where id = %s for update", [name])
        yield name


@pytest.mark.usefixtures("impatient")
async def test_nobody_is_told_that_nothing_was_stored_while_it_is_being_written(
    parts: Installation, engine: MockProvider
) -> None:
    """A slow database: the request is in, and is answered so, however long it took."""
    async with writing_held_up(parts, engine) as name:
        change = asyncio.create_task(submit(parts, name, Replace(compute_config={"v": 2})))
        await asyncio.sleep(0.6)
        assert not change.done()
    assert (await change).generation == 2


@pytest.mark.usefixtures("impatient")
async def test_who_waits_for_others_only_is_told_in_time(parts: Installation, engine: MockProvider) -> None:
    async with writing_held_up(parts, engine) as name:
        first = asyncio.create_task(submit(parts, name, Replace(compute_config={"v": 2})))
        await asyncio.sleep(0.05)
        with pytest.raises(Conflict, match="too many at once"):
            await submit(parts, name, Replace(compute_config={"v": 3}))
    assert (await first).compute_config == {"v": 2}
