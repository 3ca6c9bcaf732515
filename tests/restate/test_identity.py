"""Request identity: a worker that has a server's public key does what that server says, and nobody else."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog.testing
from fixtures.components import unavailable
from fixtures.restate import provided, registered, restate_settings
from fixtures.workers import running

from landlord.dev import restate as launcher
from landlord.dev.processes import Unavailable
from landlord.workflow.execution import Step
from landlord.workflow.provider import ExecutionState, ProviderUnavailable, WorkflowRequest

_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
"""What comes before the 32 bytes of an Ed25519 key (RFC 8410)."""
OTHER = "publickeyv1_w7YHemBctH5Ck2nQRQ47iBBqhNHy4FV7t2Usbye2A6f"


@pytest.fixture
async def signing(component_folder: Path) -> AsyncIterator[tuple[dict[str, str], str]]:
    """A server that signs what it asks of workers: its addresses, and its public key as it tells it."""
    key = component_folder / "identity.pem"
    text = base64.b64encode(_PKCS8 + os.urandom(32)).decode()
    key.write_text(f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    key.chmod(0o644)
    try:
        async with launcher.running(state=component_folder, identity_key=key) as server:
            told = re.search(r"publickeyv1_\w+", (component_folder / "restate" / "restate.log").read_text())
            assert told is not None
            yield {"ingress": server.ingress_url, "admin": server.admin_url}, told[0]
    except Unavailable as reason:
        unavailable(str(reason))


async def execute(_: bytes, step: Step) -> Any:
    async def act() -> str:
        return "done"

    return await step("act", act)


async def test_only_the_server_with_the_key_is_heard(signing: tuple[dict[str, str], str]) -> None:
    server, public = signing
    settings = restate_settings(server)
    async with (
        provided(server, **settings, restate_worker_identity_keys=(OTHER, public)) as provider,
        running(provider.worker(execute)),
    ):
        await registered(provider)
        run = WorkflowRequest(execution_id="tenant-a-plan", payload=b"{}")
        await provider.trigger(run, timeout=5)
        info = await provider.wait(run.execution_id, timeout=10)
        assert (info.state, info.output) == (ExecutionState.SUCCEEDED, "done")
        url = f"http://127.0.0.1:{settings['restate_worker_port']}/invoke/landlord-{settings['installation']}/run"
        async with aiohttp.ClientSession() as session:
            for headers in ({}, {"x-restate-signature-scheme": "v1", "x-restate-jwt-v1": "forged"}):
                async with session.post(url, data=b"", headers=headers) as answer:
                    assert answer.status == 401


async def test_a_worker_with_another_key_refuses(signing: tuple[dict[str, str], str]) -> None:
    server, _ = signing
    assert await words_of_worker(server, keys=(OTHER,)) == ["cannot register the worker"]


async def test_a_worker_with_a_key_refuses_a_server_without(restate_server: dict[str, str]) -> None:
    assert await words_of_worker(restate_server, keys=(OTHER,)) == ["cannot register the worker"]


async def words_of_worker(server: dict[str, str], *, keys: tuple[str, ...]) -> list[str]:
    """What it logs while the engine does not know it."""
    with structlog.testing.capture_logs() as logs:
        async with (
            provided(server, restate_worker_identity_keys=keys) as provider,
            running(provider.worker(execute)),
            asyncio.timeout(20),
        ):
            while not logs:
                await asyncio.sleep(0.02)
            with pytest.raises(ProviderUnavailable, match="start `landlord worker`"):
                await provider.ready()
    return [log["event"] for log in logs]
