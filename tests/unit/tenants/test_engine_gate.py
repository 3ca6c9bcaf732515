"""An engine that is away is asked ever more rarely, but never so rarely that its return goes unnoticed for long."""

from __future__ import annotations

import asyncio

import pytest

from landlord.tenants import gate
from landlord.tenants.gate import EngineGate
from landlord.workflow.client import WorkflowClient
from landlord.workflow.providers.mock import MockProvider

NOTICED = 20
"""Seconds, as docs/operating.md promises."""


async def test_the_return_of_an_engine_is_noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    turn = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await turn(0)

    monkeypatch.setattr(gate.asyncio, "sleep", sleep)
    back = asyncio.Event()

    async def returned() -> None:
        back.set()

    provider = MockProvider()
    engine = EngineGate(client=WorkflowClient(provider, trigger_timeout=1), returned=returned)
    provider.unavailable(times=100)
    assert await engine.doubt()
    asking = asyncio.create_task(engine.run())
    try:
        await asyncio.wait_for(back.wait(), timeout=10)
    finally:
        asking.cancel()
    assert engine.open
    assert pauses[0] < 2 < pauses[10]
    assert max(pauses) < NOTICED
