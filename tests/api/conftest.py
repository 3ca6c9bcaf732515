"""Served applications for the tests of the REST door."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fixtures.engines import shared
from fixtures.rest import Rest, serving, serving_on
from pydantic import SecretStr

from landlord.settings import Settings


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Quick retries; mock compute."""
    return Settings(
        database_url=SecretStr(database_url),
        compute_providers=("mock", "docker"),
        retry_backoff=0.05,
        workflow_trigger_timeout=2,
        workflow_local_lease=2,
    )


@pytest.fixture
async def rest(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Rest]:
    """On a mock engine in which every run stays as it is until the test ends it, or on those of ``on_each_engine``."""
    name = getattr(request, "param", "mock")
    if name == "mock":
        async with serving(settings) as served:
            yield served
        return
    own = settings.model_copy(update={"database_url": SecretStr(request.getfixturevalue("test_database_url"))})
    async with shared(name, request) as engine, serving_on(engine, own) as served:
        yield served
