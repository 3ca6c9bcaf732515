"""The worker process: the configured engine's worker, executing the tenant workflow with the compute providers.

It holds no database of tenants: everything arrives in the payload.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from landlord.compute.provider import ComputeUnavailable
from landlord.compute.registry import ComputeRegistry
from landlord.settings import Settings
from landlord.workflow import definition, metrics, registry
from landlord.workflow.execution import Step
from landlord.workflow.payload import TenantPayload
from landlord.workflow.provider import ProviderUnavailable, RunFailed

Check = Callable[[], Awaitable[str | None]]


class TenantWorker:
    """Runs until told to stop. Raises ``ConfigurationError`` when made, and nothing for an engine that is away."""

    def __init__(self, *, settings: Settings) -> None:
        self._provider = registry.create(settings=settings)
        self._worker = self._provider.worker(self.execute)
        self._compute = ComputeRegistry(settings=settings)
        self._health_timeout = settings.compute_health_timeout

    @property
    def checks(self) -> Mapping[str, Check]:
        """Readiness by name: ``workflow``, and ``compute:NAME`` of each provider. Each says why not, or null."""
        return {
            "workflow": self._engine_fault,
            **{f"compute:{name}": self._fault(name) for name in self._compute.names},
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Execute runs until ``stop`` is set; what then still runs is finished or handed back."""
        await self._provider.start()
        try:
            await self._compute.start()
            try:
                await self._worker.run(stop)
            finally:
                await self._compute.close()
        finally:
            await self._provider.close()

    async def execute(self, payload: bytes, step: Step) -> dict[str, Any]:
        """The tenant workflow as engines see it (:data:`landlord.workflow.execution.Execute`)."""
        tenant = TenantPayload.loads(payload)
        began = time.perf_counter()
        result = "interrupted"
        try:
            output = await definition.run(tenant, compute=self._compute, step=step, health_timeout=self._health_timeout)
            result = "succeeded"
            return output
        except RunFailed:
            result = "failed"
            raise
        finally:
            metrics.RUNS.labels(tenant.action, result).inc()
            metrics.RUN_SECONDS.labels(tenant.action).observe(time.perf_counter() - began)

    async def _engine_fault(self) -> str | None:
        try:
            await self._provider.ready()
        except ProviderUnavailable as error:
            return str(error)
        return self._worker.fault

    def _fault(self, name: str) -> Check:
        async def check() -> str | None:
            try:
                await self._compute.get(name).ready()
            except ComputeUnavailable as error:
                return str(error)
            return None

        return check
