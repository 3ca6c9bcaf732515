"""Served applications for the tests of the REST door."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fixtures.rest import Rest, serving
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
async def rest(settings: Settings) -> AsyncIterator[Rest]:
    """On a mock engine in which every run stays running until the test ends it."""
    async with serving(settings) as served:
        yield served
