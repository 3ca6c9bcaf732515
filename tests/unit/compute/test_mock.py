"""The mock provider's outcomes follow from configuration and attempt alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from landlord.compute.provider import ComputeError, ComputeSpec, PermanentComputeError
from landlord.compute.providers.mock import MockProvider
from landlord.settings import Settings


def spec(attempt: int = 1, **config: Any) -> ComputeSpec:
    return ComputeSpec(tenant_id="acme", generation=1, attempt=attempt, config=config)


@pytest.fixture
def provider() -> MockProvider:
    return MockProvider(settings=Settings(installation="here"))


async def test_an_arbitrary_configuration_succeeds(provider: MockProvider) -> None:
    outputs = await provider.apply(spec(image="x"))
    assert outputs.to_json() == {
        "resources": {"mock": "here/acme"},
        "endpoints": [],
        "health": "healthy",
        "config": {"image": "x"},
    }
    await provider.retire("acme", generation=1)
    assert (await provider.status("acme")).serving
    await provider.destroy("acme", generation=1)


async def test_attempts_up_to_fail_first_fail_in_any_worker(provider: MockProvider) -> None:
    another = MockProvider(settings=Settings())
    for attempt in (1, 2):
        with pytest.raises(ComputeError, match=f"attempt {attempt} failed"):
            await (provider, another)[attempt - 1].apply(spec(attempt, fail_first=2))
    assert (await another.apply(spec(3, fail_first=2))).health == "healthy"


async def test_a_permanent_error_is_permanent(provider: MockProvider) -> None:
    with pytest.raises(PermanentComputeError, match=r"^quota$"):
        await provider.apply(spec(permanent_error="quota"))


async def test_unhealthy_fails_every_attempt(provider: MockProvider) -> None:
    with pytest.raises(ComputeError, match="did not become healthy") as caught:
        await provider.apply(spec(99, unhealthy=True))
    assert not isinstance(caught.value, PermanentComputeError)


async def test_the_delay_comes_first(provider: MockProvider) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await provider.apply(spec(delay_seconds=30, permanent_error="late"))
