"""A provider that makes nothing: its outcomes follow from the configuration, so that any worker gives the same.

For trying Landlord out and for users' tests. Tenants' configurations written for other providers are accepted.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from landlord.compute.provider import (
    ComputeError,
    ComputeProvider,
    ComputeSpec,
    ComputeState,
    ComputeStatus,
    Outputs,
    PermanentComputeError,
)
from landlord.settings import Settings

LONGEST_DELAY = 3600
"""Seconds."""


class MockProvider(ComputeProvider):
    """Keeps nothing: delay and faults act in :meth:`apply`; any tenant is always running and healthy."""

    name: ClassVar[str] = "mock"

    def __init__(self, *, settings: Settings) -> None:
        self._installation = settings.installation

    async def ready(self) -> None:
        return

    def config_schema(self) -> dict[str, Any]:
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Mock compute",
            "type": "object",
            "properties": {
                "delay_seconds": {
                    "description": "How long making the tenant takes, in seconds.",
                    "type": "number",
                    "minimum": 0,
                    "maximum": LONGEST_DELAY,
                    "default": 0,
                },
                "fail_first": {
                    "description": "How many attempts fail before one succeeds.",
                    "type": "integer",
                    "minimum": 0,
                    "default": 0,
                },
                "unhealthy": {
                    "description": "Whether the tenant never becomes healthy: every attempt fails.",
                    "type": "boolean",
                    "default": False,
                },
                "permanent_error": {
                    "description": "Unless empty, making the tenant fails with this message and is not tried again.",
                    "type": "string",
                    "maxLength": 1000,
                    "default": "",
                },
            },
            "additionalProperties": True,
        }

    def config_defaults(self) -> dict[str, Any]:
        return {"delay_seconds": 0, "fail_first": 0, "unhealthy": False, "permanent_error": ""}

    async def apply(self, spec: ComputeSpec) -> Outputs:
        """Take the configured time, then succeed or fail as configured for this attempt."""
        config = {**self.config_defaults(), **spec.config}
        await asyncio.sleep(config["delay_seconds"])
        if config["permanent_error"]:
            raise PermanentComputeError(config["permanent_error"])
        if spec.attempt <= config["fail_first"]:
            raise ComputeError(f"attempt {spec.attempt} failed as configured: fail_first is {config['fail_first']}")
        if config["unhealthy"]:
            raise ComputeError("the tenant did not become healthy, as configured: unhealthy is true")
        return Outputs(resources=self._resources(spec.tenant_id), health="healthy", config=dict(spec.config))

    async def status(self, tenant_id: str) -> ComputeStatus:
        """Running and healthy: nothing is known of what was applied or destroyed."""
        return ComputeStatus(
            state=ComputeState.RUNNING,
            outputs=Outputs(resources=self._resources(tenant_id), health="healthy"),
        )

    async def destroy(self, tenant_id: str, *, generation: int) -> None:
        return

    def _resources(self, tenant_id: str) -> dict[str, str]:
        return {"mock": f"{self._installation}/{tenant_id}"}
