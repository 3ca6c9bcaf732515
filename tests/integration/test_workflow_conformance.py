"""Every workflow provider passes the same suite."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from fixtures.proxy import Proxy, target, through
from fixtures.restate import RestateProxies, registered, restate_settings

from landlord.settings import Settings
from landlord.workflow.providers.local import LocalProvider
from landlord.workflow.providers.mock import MockProvider, Work
from landlord.workflow.providers.restate import RestateProvider

pytest.register_assert_rewrite("landlord.workflow.testing")

from landlord.workflow.testing import Harness, WorkflowConformance, working  # noqa: E402


class LocalHarness(Harness):
    """The engine's Postgres behind a proxy that can be cut."""

    def __init__(self, provider: LocalProvider, proxy: Proxy) -> None:
        self.provider = provider
        self._proxy = proxy

    def unreachable(self) -> AbstractAsyncContextManager[None]:
        return self._proxy.cut()

    def deaf(self) -> AbstractAsyncContextManager[None]:
        return self._proxy.deaf()


class TestLocal(WorkflowConformance):
    @pytest.fixture
    async def harness(self, database_url: str) -> AsyncIterator[LocalHarness]:
        async with Proxy(target(database_url)).running() as proxy:
            url = through(database_url, port=proxy.port)
            settings = Settings(database_url=url, installation=f"i{uuid.uuid4().hex[:12]}", database_pool_size=4)
            provider = LocalProvider(settings=settings)
            await provider.start()
            await provider.register()
            yield LocalHarness(provider, proxy)
            await provider.close()


class MockHarness(Harness):
    """The engine's own scripted faults."""

    def __init__(self, provider: MockProvider) -> None:
        self.provider = self._mock = provider

    @asynccontextmanager
    async def unreachable(self) -> AsyncGenerator[None, None]:
        self._mock.unavailable()
        yield
        self._mock.restore()

    @asynccontextmanager
    async def deaf(self) -> AsyncGenerator[None, None]:
        self._mock.leave_triggers_unanswered(1000)
        yield
        self._mock.restore()


class TestMock(WorkflowConformance):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[MockHarness]:
        provider = MockProvider()
        provider.default = Work()
        await provider.start()
        await provider.register()
        yield MockHarness(provider)
        await provider.close()


class RestateHarness(Harness):
    """A real server, both doors behind proxies that can be cut."""

    def __init__(self, provider: RestateProvider, proxies: RestateProxies) -> None:
        self.provider = provider
        self._proxies = proxies

    def unreachable(self) -> AbstractAsyncContextManager[None]:
        return self._proxies.cut()

    def deaf(self) -> AbstractAsyncContextManager[None]:
        return self._proxies.deaf()


class TestRestate(WorkflowConformance):
    @pytest.fixture
    async def harness(self, restate_server: dict[str, str]) -> AsyncIterator[RestateHarness]:
        async with RestateProxies(restate_server).running() as proxies:
            settings = Settings(**{**restate_settings(restate_server), **proxies.settings})
            provider = RestateProvider(settings=settings)
            await provider.start()
            async with working(provider):
                await registered(provider)
            yield RestateHarness(provider, proxies)
            await provider.close()
