"""An API server per module (the operator watches the whole cluster), and a tenant seen from both doors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fixtures.kubernetes import run_kubectl

from landlord.database.statement import Statement
from landlord.dev.controlplane import ControlPlane
from landlord.installation import Installation, assemble
from landlord.kubernetes import NotFound, TenantResources, load_configuration
from landlord.mirror import FINALIZER, Resource
from landlord.settings import Settings
from landlord.tenants.commands import Command, Request
from landlord.tenants.model import Audit, Door, Snapshot, Tenant
from landlord.tenants.service import Answer
from landlord.workflow.client import WorkflowClient
from landlord.workflow.providers.mock import MockProvider
from landlord_operator.events import Recorder
from landlord_operator.operator import Operator
from landlord_operator.sides import Sides
from landlord_operator.sync import TenantSync

SECONDS = 20
"""What anything may take on a busy machine."""


class CountingResources(TenantResources):
    """Counts the writes it makes, by resource, and how often it reads."""

    def __init__(self, configuration: Any) -> None:
        super().__init__(configuration)
        self.writes: Counter[str] = Counter()
        self.reads = 0

    async def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        if method == "GET":
            self.reads += 1
        answer = await super()._call(method, path, **arguments)
        if method != "GET":
            kind = "events" if path.endswith("/events") else "tenants"
            self.writes[kind] += 1
        return answer


@dataclass(kw_only=True)
class Landlord:
    """One installation with its mock engine, seen from both doors."""

    installation: Installation
    engine: MockProvider
    resources: CountingResources
    plane: ControlPlane
    namespace: str
    other: str
    name: str = field(default_factory=lambda: f"t-{uuid.uuid4().hex[:8]}")

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[None]:
        """A real operator, in this process, while the context lasts."""
        running = asyncio.create_task(Operator(installation=self.installation, resources=self.resources).run())
        try:
            yield
        finally:
            assert not running.done(), running.exception()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    def sides(self) -> Sides:
        """What an operator does, by hand."""
        return Sides(
            repository=self.installation.repository,
            service=self.installation.service,
            resources=self.resources,
            recorder=Recorder(self.resources),
        )

    def sync(self) -> TenantSync:
        """One operator's passes, by hand."""
        return TenantSync(sides=self.sides(), namespace=self.namespace)

    async def look(self, *namespaces: str, sync: TenantSync | None = None) -> None:
        sync = sync or self.sync()
        await sync.run(await self.snapshot(), namespaces=namespaces or [self.namespace], shown={}, patient=False)

    async def reconcile(self) -> None:
        """What the reconciler would do until nothing is left."""
        reconciler = self.installation.reconciler()
        for _ in range(10):
            await reconciler.reconcile(self.name)

    async def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True, where: str = "") -> str:
        assert self.plane.binaries.kubectl is not None
        return await run_kubectl(
            self.plane.binaries.kubectl,
            *arguments,
            kubeconfig=self.plane.kubeconfig,
            namespace=where or self.namespace,
            stdin=stdin,
            check=check,
        )

    def manifest(self, config: Mapping[str, Any] | None = None, **spec: Any) -> str:
        return json.dumps(
            {
                "apiVersion": "landlord.dev/v1alpha1",
                "kind": "Tenant",
                "metadata": {"name": self.name},
                "spec": {"computeConfig": config or {}, **spec},
            }
        )

    async def apply(
        self, config: Mapping[str, Any] | None = None, *, where: str = "", check: bool = True, **spec: Any
    ) -> str:
        """``kubectl apply``."""
        return await self.kubectl("apply", "-f", "-", stdin=self.manifest(config, **spec), where=where, check=check)

    async def merge(self, body: Mapping[str, Any], *, where: str = "") -> None:
        """``kubectl patch --type=merge``."""
        await self.kubectl("patch", "tenant", self.name, "--type=merge", "-p", json.dumps(body), where=where)

    async def resource(self, *, where: str = "") -> Resource | None:
        try:
            return Resource.parse(await self.resources.get(where or self.namespace, self.name))
        except NotFound:
            return None

    async def there(self, *, where: str = "") -> Resource:
        found = await self.resource(where=where)
        assert found is not None
        return found

    async def condition(self, kind: str = "Ready", *, where: str = "") -> tuple[str, str]:
        found = await self.resource(where=where)
        conditions = found.status.get("conditions") or () if found else ()
        return next(((each["status"], each["reason"]) for each in conditions if each["type"] == kind), ("", ""))

    async def snapshot(self) -> Snapshot:
        return await self.installation.repository.load(self.name)

    async def row(self) -> Tenant | None:
        return (await self.snapshot()).tenant

    async def record(self) -> Tenant:
        tenant = await self.row()
        assert tenant is not None
        return tenant

    async def audit(self) -> list[Audit]:
        """Oldest first."""
        return [each for _, each in await self.installation.repository.audit(self.name, before=2**62, limit=1000)][::-1]

    async def rest(self, command: Command) -> Answer:
        """Through the other door."""
        return await self.installation.service.submit(
            Request(tenant_id=self.name, command=command, who="tester", door=Door.API)
        )

    async def until(self, holds: Callable[[], Awaitable[bool]], *, seconds: float = SECONDS) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not await holds():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            resource = await self.resource()
            pytest.fail(f"still not so: {await self.row()} {resource}", pytrace=False)

    async def until_ready(self, *, where: str = "") -> None:
        async def ready() -> bool:
            found = await self.resource(where=where)
            return (
                found is not None
                and found.status.get("observedGeneration") == found.generation
                and await self.condition(where=where) == ("True", "Ready")
            )

        await self.until(ready)

    async def until_reason(self, reason: str, *, where: str = "") -> None:
        async def shown() -> bool:
            return (await self.condition(where=where))[1] == reason

        await self.until(shown)

    async def until_gone(self, *, where: str = "") -> None:
        async def gone() -> bool:
            return await self.resource(where=where) is None

        await self.until(gone)

    async def sql(self, statement: str, **values: Any) -> None:
        """What somebody with a backup might do to the database."""
        await self.installation.database.execute(Statement(statement), id=self.name, **values)

    async def vanish(self) -> None:
        """The resource goes without anybody's asking: the finalizer removed by hand.

        By two calls in a row: between two kubectls an operator would find the time to put it back.
        """
        there = await self.there()
        await self.resources.patch(self.namespace, self.name, [{"op": "remove", "path": "/metadata/finalizers"}])
        await self.resources.delete(self.namespace, self.name, uid=there.uid)


@pytest.fixture
async def landlord(cluster: ControlPlane, test_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    settings = Settings(
        database_url=test_database_url,  # type: ignore[arg-type]
        compute_providers=("mock",),
        workflow_provider="mock",
        retry_backoff=0.05,
        kubernetes_namespace=f"home-{uuid.uuid4().hex[:8]}",
        kubernetes_resync=300,
    )
    engine = MockProvider()
    async with (
        CountingResources(await load_configuration(None)) as resources,
        WorkflowClient(engine, trigger_timeout=5) as client,
        assemble(settings, client=client) as installation,
    ):
        other = f"other-{uuid.uuid4().hex[:8]}"
        one = Landlord(
            installation=installation,
            engine=engine,
            resources=resources,
            plane=cluster,
            namespace=settings.kubernetes_namespace,
            other=other,
        )
        for namespace in (one.namespace, other):
            await one.kubectl("create", "namespace", namespace)
        yield one
        await _sweep(resources)


async def _sweep(resources: TenantResources) -> None:
    """Nothing is left for the next test's operator to find."""
    async for page in resources.pages():
        for body in page:
            resource = Resource.parse(body)
            with contextlib.suppress(NotFound):
                if FINALIZER in resource.finalizers:
                    empty = [{"op": "add", "path": "/metadata/finalizers", "value": []}]
                    await resources.patch(resource.namespace, resource.name, empty)
                await resources.delete(resource.namespace, resource.name, uid=resource.uid)
