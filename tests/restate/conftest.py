"""An installation on Restate: the domain in this process, the worker a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fixtures.engines import Restate
from fixtures.restate import registered
from fixtures.restate_world import World
from fixtures.warm import Process

from landlord.installation import assemble
from landlord.settings import Settings


@pytest.fixture
async def world(restate_server: dict[str, str], test_database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    engine = Restate(restate_server)
    settings = Settings(
        database_url=test_database_url,  # type: ignore[arg-type]
        compute_providers=("mock",),
        retry_backoff=0.05,
        workflow_trigger_timeout=2,
        **engine.settings,
    )
    worker = Process(
        "worker", environment={**engine.environment, "LANDLORD_COMPUTE_PROVIDERS": "mock"}, log=tmp_path / "worker.log"
    )
    await worker.start()
    async with assemble(settings) as installation:
        await registered(installation.client)
        world = World(worker=worker, settings=settings, installation=installation)
        async with world.reconciling():
            yield world
    await worker.stop()
    await engine.clear()
