"""The ``local`` engine as a workflow provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from landlord.database.engine import Database, DatabaseUnavailable
from landlord.database.migrate import DatabaseUnfit
from landlord.settings import ConfigurationError, Settings
from landlord.workflow.execution import Execute
from landlord.workflow.provider import (
    ExecutionInfo,
    ExecutionNotFound,
    ProviderUnavailable,
    TriggerResult,
    TriggerTimeout,
    WorkflowProvider,
    WorkflowRequest,
)
from landlord.workflow.providers.local.migrations import MIGRATIONS
from landlord.workflow.providers.local.store import Store
from landlord.workflow.providers.local.worker import LocalWorker


class LocalProvider(WorkflowProvider):
    """Runs live in Postgres (``LANDLORD_WORKFLOW_LOCAL_URL``, else the tenants' database), keyed by installation.

    A run is executed by at most one worker at a time, under a lease; its steps are recorded, so that another worker
    goes on where one died. The engine retries a run only for a worker that died, never for a run that failed.
    """

    name = "local"

    def __init__(self, *, settings: Settings) -> None:
        try:
            self._database = Database(settings.local_engine_url, pool_size=settings.database_pool_size)
        except ValueError as error:
            raise ConfigurationError(f"LANDLORD_WORKFLOW_LOCAL_URL: {error}") from None
        self._settings = settings
        self._store = Store(self._database, installation=settings.installation, lease=settings.workflow_local_lease)

    async def close(self) -> None:
        await self._store.close()

    async def ready(self) -> None:
        try:
            fault = await MIGRATIONS.fault(self._database)
        except DatabaseUnavailable as error:
            raise ProviderUnavailable(f"local: {error}") from error
        if fault is not None:
            raise ProviderUnavailable(f"local: {fault}")

    async def register(self) -> None:
        try:
            await MIGRATIONS.upgrade(self._database)
        except (DatabaseUnavailable, DatabaseUnfit) as error:
            raise ProviderUnavailable(f"local: {error}") from error

    async def trigger(self, request: WorkflowRequest, *, timeout: float) -> TriggerResult:
        self.check(request)
        try:
            async with asyncio.timeout(timeout):
                return await self._store.insert(request)
        except TimeoutError as error:
            raise TriggerTimeout(f"local: no answer from Postgres within {timeout:g} s") from error

    async def get_many(self, execution_ids: Sequence[str]) -> dict[str, ExecutionInfo]:
        return await self._store.read(execution_ids)

    async def cancel(self, execution_id: str, *, reason: str, force: bool = False) -> None:
        if not await self._store.cancel(execution_id, reason=reason, force=force):
            raise ExecutionNotFound(f"local does not know execution {execution_id}")

    def completions(self) -> AsyncIterator[str]:
        return self._store.endings()

    def worker(self, execute: Execute) -> LocalWorker:
        return LocalWorker(
            self._store,
            execute,
            concurrency=self._settings.worker_concurrency,
            lease=self._settings.workflow_local_lease,
            retention=self._settings.workflow_local_retention,
        )
