"""An installation on a Restate server of the test's own: the domain in this process, the worker a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fixtures.restate import registered, restate_settings
from fixtures.restate_world import World
from fixtures.turns import Turns, proxy
from fixtures.warm import Process

from landlord.dev.restate import RestateServer
from landlord.installation import assemble
from landlord.settings import Settings


@pytest.fixture
async def world(own_restate: RestateServer, test_database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    server = own_restate
    own = restate_settings({"ingress": server.ingress_url, "admin": server.admin_url})
    turns = Turns()
    async with proxy(turns, upstream=("127.0.0.1", own["restate_worker_port"])) as port:
        own["restate_worker_url"] = f"http://127.0.0.1:{port}"
        settings = Settings(
            database_url=test_database_url,  # type: ignore[arg-type]
            compute_providers=("mock",),
            retry_backoff=0.05,
            workflow_trigger_timeout=2,
            **own,
        )
        names = ("workflow_provider", "installation", *(name for name in own if name.startswith("restate_")))
        environment = {f"LANDLORD_{name.upper()}": str(getattr(settings, name)) for name in names}
        environment |= {"LANDLORD_COMPUTE_PROVIDERS": "mock"}
        worker = Process("worker", environment=environment, log=tmp_path / "worker.log")
        turns.kill = worker.kill
        await worker.start()
        async with assemble(settings) as installation:
            await registered(installation.client)
            world = World(server=server, worker=worker, turns=turns, settings=settings, installation=installation)
            async with world.reconciling():
                yield world
        await worker.stop()
