"""The parts of one process, put together from its settings.

API, operator and controller all need the same: the database, the workflow client, the accept path, the rules of the
installation. They differ in what they serve, not in this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from landlord import canonical
from landlord.compute import config as compute_config
from landlord.compute.registry import ComputeRegistry, UnknownComputeProvider
from landlord.database.engine import Database
from landlord.settings import PREFIX, ConfigurationError, Settings
from landlord.tenants.acceptance import Validation
from landlord.tenants.errors import Fault
from landlord.tenants.hints import Hints
from landlord.tenants.migrations import MIGRATIONS
from landlord.tenants.reconcile import Reconciler
from landlord.tenants.repository import Repository
from landlord.tenants.runs import Policy
from landlord.tenants.service import TenantService
from landlord.workflow.client import WorkflowClient

CONFIG_LIMIT = 131_072
"""Bytes of a canonical ``compute_config``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What a process of this installation works with."""

    settings: Settings
    database: Database
    compute: ComputeRegistry
    client: WorkflowClient
    policy: Policy
    repository: Repository
    hints: Hints
    service: TenantService

    def reconciler(self) -> Reconciler:
        return Reconciler(
            repository=self.repository,
            hints=self.hints,
            client=self.client,
            policy=self.policy,
            tombstone_retention=self.settings.tombstone_retention,
            idempotency_retention=self.settings.idempotency_retention,
        )

    async def schema_fault(self) -> str | None:
        """Why this release must not serve on the database's schema, or null. Raises ``DatabaseUnavailable``."""
        return await MIGRATIONS.fault(self.database)


@asynccontextmanager
async def assemble(settings: Settings, *, client: WorkflowClient | None = None) -> AsyncIterator[Installation]:
    """The parts, opened and closed in order. ``client`` is one that the caller keeps (several parts in one process).

    Raises :class:`~landlord.settings.ConfigurationError`. Nothing here fails because something is away.
    """
    async with AsyncExitStack() as stack:
        try:
            database = await stack.enter_async_context(
                Database(settings.database_url, pool_size=settings.database_pool_size)
            )
        except ValueError as error:
            raise ConfigurationError(f"{PREFIX}DATABASE_URL: {error}") from None
        compute = ComputeRegistry(settings=settings)
        if client is None:
            client = await stack.enter_async_context(WorkflowClient.from_settings(settings))
        policy = Policy(
            installation=settings.installation,
            provider=client.name,
            complete=_Completion(compute),
            trigger_timeout=settings.workflow_trigger_timeout,
            attempts=settings.retry_attempts,
            backoff=settings.retry_backoff,
            deadline=settings.execution_deadline,
        )
        repository = Repository(database)
        validation = Validation(
            default_provider=settings.default_compute_provider, faults=_Faults(compute), check=client.check
        )
        yield Installation(
            settings=settings,
            database=database,
            compute=compute,
            client=client,
            policy=policy,
            repository=repository,
            hints=Hints(database),
            service=TenantService(repository=repository, client=client, policy=policy, validation=validation),
        )


@dataclass(frozen=True, slots=True)
class _Completion:
    """Defaults of the tenant's provider; of one that is not configured any more there are none to add."""

    compute: ComputeRegistry

    def __call__(self, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return compute_config.with_defaults(self.compute.get(name), config)
        except UnknownComputeProvider:
            return dict(config)


@dataclass(frozen=True, slots=True)
class _Faults:
    """Everything wrong with a configuration: what no store takes, its size, the provider's schema and rules."""

    compute: ComputeRegistry

    def __call__(self, name: str, config: Mapping[str, Any]) -> list[Fault]:
        try:
            provider = self.compute.get(name)
        except UnknownComputeProvider as error:
            return [Fault(pointer="/compute_provider", message=f"must be one of {', '.join(error.allowed)}")]
        found = [Fault(pointer=f"/compute_config{path}", message=why) for path, why in canonical.faults(config)]
        if found:
            return found
        size = len(canonical.dumps(config))
        if size > CONFIG_LIMIT:
            return [Fault(pointer="/compute_config", message=f"has {size} bytes, more than {CONFIG_LIMIT}")]
        return [
            Fault(pointer=f"/compute_config{fault.path}", message=fault.message)
            for fault in compute_config.faults(provider, config)
        ]
