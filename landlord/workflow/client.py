"""How API and reconciler talk to the workflow engine, whichever it is.

A provider says what its engine says. The client adds what must hold for all of them: every call ends in time, what a
provider was not meant to raise arrives as :class:`ProviderUnavailable` without its text, reads of many callers become
one, and each call is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from landlord.database.coalescer import Coalescer, Overloaded
from landlord.settings import Settings
from landlord.workflow import metrics, registry
from landlord.workflow.execution import meant
from landlord.workflow.provider import (
    ExecutionInfo,
    ExecutionNotFound,
    InvalidRequest,
    ProviderUnavailable,
    TriggerResult,
    TriggerTimeout,
    WorkflowError,
    WorkflowProvider,
    WorkflowRequest,
)

CALL_TIMEOUT = 10.0
"""Seconds that reads, cancels and readiness may take."""
LISTEN_AGAIN = 1.0
"""Seconds before completions are listened for again, should a provider's stream break or end."""

Result = TypeVar("Result")
_log = structlog.get_logger(__name__)


class WorkflowClient:
    """``async with`` starts and closes the provider. ``trigger_timeout`` in seconds."""

    def __init__(self, provider: WorkflowProvider, *, trigger_timeout: float) -> None:
        self._provider = provider
        self._trigger_timeout = trigger_timeout
        self._reads: Coalescer[str, ExecutionInfo | None] = Coalescer(self._read, most=100)

    @classmethod
    def from_settings(cls, settings: Settings) -> WorkflowClient:
        """For the configured provider. Raises ``ConfigurationError``."""
        return cls(registry.create(settings=settings), trigger_timeout=settings.workflow_trigger_timeout)

    async def __aenter__(self) -> WorkflowClient:
        await self._provider.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._provider.close()

    @property
    def name(self) -> str:
        """The provider's, as recorded with each execution."""
        return self._provider.name

    def check(self, request: WorkflowRequest) -> None:
        """Raise :class:`InvalidRequest` for what the engine would refuse. Pure."""
        self._provider.check(request)

    async def trigger(self, request: WorkflowRequest) -> TriggerResult:
        """Start the run unless its id is taken.

        Raises :class:`InvalidRequest`, :class:`ProviderUnavailable`, :class:`TriggerTimeout` (outcome unknown).
        """
        seconds = self._trigger_timeout
        try:
            return await self._call("trigger", lambda: self._provider.trigger(request, timeout=seconds), limit=seconds)
        except TimeoutError as error:
            raise TriggerTimeout(f"{self.name}: no answer within {seconds:g} s") from error

    async def get(self, execution_id: str) -> ExecutionInfo:
        """The engine's word on one run; calls made at the same time share a request.

        Raises :class:`ExecutionNotFound`, :class:`ProviderUnavailable`.
        """
        try:
            info = await self._reads(execution_id)
        except Overloaded as error:
            raise ProviderUnavailable(f"{self.name}: {error}") from error
        if info is None:
            raise ExecutionNotFound(f"{self.name} does not know execution {execution_id}")
        return info

    async def get_many(self, execution_ids: Sequence[str]) -> dict[str, ExecutionInfo]:
        """The runs the engine knows among these, in one request. Raises :class:`ProviderUnavailable`."""
        return await self._bounded("get", lambda: self._provider.get_many(execution_ids))

    async def cancel(self, execution_id: str, *, reason: str, force: bool = False) -> None:
        """Ask the run to end; ``force`` ends it though no worker answers. Returns when the engine took the wish.

        Raises :class:`ExecutionNotFound`, :class:`ProviderUnavailable`.
        """
        await self._bounded("cancel", lambda: self._provider.cancel(execution_id, reason=reason, force=force))

    async def ready(self) -> None:
        """Raise :class:`ProviderUnavailable` unless a trigger would be taken now."""
        await self._bounded("ready", self._provider.ready)

    async def completions(self) -> AsyncGenerator[str, None]:
        """Ids of runs that have just ended, for ever, as :meth:`WorkflowProvider.completions`. Raises nothing."""
        while True:
            try:
                stream = self._provider.completions()
                try:
                    async for execution_id in stream:
                        yield execution_id
                finally:
                    if isinstance(stream, AsyncGenerator):
                        await stream.aclose()
            except (Exception, asyncio.CancelledError) as error:
                if meant(error):
                    raise
                # A hint is not worth a crash; polling is the backstop.
                _log.warning("completions broke off", provider=self.name, error=type(error).__name__)
            await asyncio.sleep(LISTEN_AGAIN)

    async def _read(self, execution_ids: Sequence[str]) -> list[ExecutionInfo | None]:
        found = await self.get_many(list(dict.fromkeys(execution_ids)))
        return [found.get(execution_id) for execution_id in execution_ids]

    async def _bounded(self, call: str, action: Callable[[], Awaitable[Result]]) -> Result:
        try:
            return await self._call(call, action, limit=CALL_TIMEOUT)
        except TimeoutError as error:
            raise ProviderUnavailable(f"{self.name}: no answer within {CALL_TIMEOUT:g} s") from error

    async def _call(self, call: str, action: Callable[[], Awaitable[Result]], *, limit: float) -> Result:
        result = "cancelled"
        began = time.perf_counter()
        try:
            async with asyncio.timeout(limit):
                value = await action()
            result = "ok"
            return value
        except (WorkflowError, TimeoutError) as error:
            result = _result(error)
            raise
        except (Exception, asyncio.CancelledError) as error:
            if meant(error):
                raise
            result = "unexpected"
            _log.exception("the workflow provider failed unexpectedly", provider=self.name, call=call)
            raise ProviderUnavailable(f"{self.name} failed unexpectedly ({type(error).__name__})") from error
        finally:
            metrics.calls(self.name, call, result).inc()
            metrics.call_seconds(self.name, call).observe(time.perf_counter() - began)


def _result(error: Exception) -> str:
    match error:
        case TriggerTimeout() | TimeoutError():
            return "timeout"
        case ProviderUnavailable():
            return "unavailable"
        case InvalidRequest():
            return "invalid"
        case ExecutionNotFound():
            return "not_found"
        case _:
            return "unexpected"
