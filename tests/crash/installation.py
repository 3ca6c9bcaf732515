"""An installation of real processes as the crash and outage suites see it: its clients, its records, its history."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import yaml
from aiodocker import Docker
from fixtures.engines import Engine, Run
from fixtures.postgres import Reader
from fixtures.warm import Process
from pydantic import SecretStr

from landlord import mirror
from landlord.compute.provider import LABEL_GENERATION, LABEL_INSTALLATION, LABEL_TENANT
from landlord.database.engine import Database, DatabaseUnavailable
from landlord.dev.controlplane import ControlPlane
from landlord.kubernetes import Conflict, NotFound, TenantResources, load_configuration
from landlord.mirror import FINALIZER, Resource
from landlord.tenants.model import Snapshot
from landlord.tenants.repository import Repository

SETTLED = {"ready", "failed", "deleted"}
PATIENCE = 60.0
"""Seconds anything may take on a busy machine."""


class Records(Reader):
    """What the database of an installation and its engine say, read past all of its processes."""

    def __init__(self, database_url: str, *, engine: Engine) -> None:
        super().__init__(database_url)
        self.database_url = database_url
        self.engine = engine

    async def tenant(self, tenant: str) -> dict[str, Any] | None:
        return next(iter(await self.rows("select * from tenants where id = %s", tenant)), None)

    async def executions(self, tenant: str) -> list[dict[str, Any]]:
        return await self.rows("select * from executions where tenant_id = %s order by seq", tenant)

    async def runs(self, *tenants: str) -> dict[str, Run]:
        """What the engine knows of the executions of these."""
        found = await self.rows("select execution_id from executions where tenant_id = any(%s)", list(tenants))
        return await self.engine.runs([each["execution_id"] for each in found])

    async def audit(self, tenant: str) -> list[dict[str, Any]]:
        return await self.rows("select * from audit where tenant_id = %s order by seq", tenant)

    async def converged(self, tenant: str, *, seconds: float = PATIENCE) -> dict[str, Any]:
        """The record once nothing is left to do."""
        try:
            async with asyncio.timeout(seconds):
                while not (record := await self.has_converged(tenant)):
                    await asyncio.sleep(0.05)
                return record
        except TimeoutError:
            pytest.fail(
                f"has not converged: {await self.tenant(tenant)}\n{await self.executions(tenant)}", pytrace=False
            )

    async def has_converged(self, tenant: str) -> dict[str, Any] | None:
        record = await self.tenant(tenant)
        if record is not None and record["status"] in SETTLED and record["workflow_execution_id"] is None:
            return record
        return None

    async def all(self, tenants: Sequence[str], *, status: str, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """Wait until all of them have come to rest in one status."""
        statement = "select * from tenants where id = any(%s) order by id"
        records: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(seconds):
                while True:
                    records = await self.rows(statement, list(tenants))
                    if len(records) == len(tenants) and all(
                        each["status"] == status and each["workflow_execution_id"] is None for each in records
                    ):
                        return records
                    await asyncio.sleep(0.1)
        except TimeoutError:
            found = Counter((each["status"], each["workflow_execution_id"] is None) for each in records)
            left = [each["id"] for each in records if each["status"] != status or each["workflow_execution_id"]]
            more = await self.executions(left[0]) if left else ""
            pytest.fail(f"not all {status}: {found}, such as {left[:3]}\n{more}", pytrace=False)

    async def check(self, *tenants: str) -> None:
        """What must hold of the history of every tenant, whatever happened."""
        executions = await self.rows("select * from executions where tenant_id = any(%s)", list(tenants))
        known = await self.runs(*tenants)
        successes = Counter[tuple[Any, ...]]()
        spans: dict[str, list[tuple[datetime, datetime, str]]] = {tenant: [] for tenant in tenants}
        for each in executions:
            run = known.get(each["execution_id"])
            assert run is not None or each["sent_at"] is None, f"sent, but never made known to the engine: {each}"
            if run is None or run.digest != each["digest"]:
                continue
            assert run.ended_at is not None, f"a run is left: {run}"
            if run.started_at is not None:
                spans[each["tenant_id"]].append((run.started_at, run.ended_at, run.execution_id))
            if run.succeeded:
                successes[each["tenant_id"], each["incarnation"], each["generation"], each["action"]] += 1
        for runs in spans.values():
            for one, other in itertools.pairwise(sorted(runs)):
                assert one[1] <= other[0], f"two runs at once: {one} {other}"
        assert all(times == 1 for times in successes.values()), successes

    async def forget(self, tenants: Sequence[str]) -> None:
        """Take tenants out of the way of the next."""
        await self.rows("delete from tenants where id = any(%s)", list(tenants))


class Cluster:
    """The API server as its users see it, in one namespace."""

    def __init__(self, resources: TenantResources, *, namespace: str, repository: Repository) -> None:
        self.resources = resources
        self.namespace = namespace
        self.repository = repository

    @classmethod
    @asynccontextmanager
    async def connected(cls, *, kubeconfig: Path, namespace: str, database_url: str) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("KUBECONFIG", str(kubeconfig))
                configuration = await load_configuration(None)
            resources = await stack.enter_async_context(TenantResources(configuration))
            database = await stack.enter_async_context(Database(SecretStr(database_url), pool_size=2))
            yield cls(resources, namespace=namespace, repository=Repository(database))

    async def apply(self, tenant: str, config: Mapping[str, Any], **spec: Any) -> None:
        """What ``kubectl apply`` writes, the first time or again."""
        wanted = {"computeProvider": "mock", "computeConfig": dict(config), **spec}
        body = {"apiVersion": "landlord.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": tenant}, "spec": wanted}
        try:
            await self.resources.create(self.namespace, body)
        except Conflict:
            changes = [{"op": "add", "path": f"/spec/{name}", "value": value} for name, value in wanted.items()]
            await self.resources.patch(self.namespace, tenant, changes)

    async def delete(self, tenant: str) -> None:
        """``kubectl delete --wait=false``."""
        found = await self.resource(tenant)
        assert found is not None
        await self.resources.delete(self.namespace, tenant, uid=found.uid)

    async def resource(self, tenant: str) -> Resource | None:
        try:
            return Resource.parse(await self.resources.get(self.namespace, tenant))
        except NotFound:
            return None

    async def snapshot(self, tenant: str) -> Snapshot:
        try:
            return await self.repository.load(tenant)
        except DatabaseUnavailable:  # our own connections end with a Postgres that is killed
            return await self.repository.load(tenant)

    async def agrees(self, tenant: str) -> str | None:
        """Why record and resource do not agree (yet), or null. Fails if the resource says what is not true."""
        resource = await self.resource(tenant)
        record = (await self.snapshot(tenant)).tenant
        if resource is not None and record is not None:
            truthful(resource, record)
        if record is None:
            return "there is no record"
        if record.workflow_execution_id is not None or record.status.value not in SETTLED:
            return f"the record is {record.status}"
        if record.status.value == "deleted" or record.detached:
            return None if resource is None else f"the resource is left, with {resource.finalizers}"
        if resource is None:
            return "there is no resource"
        if resource.terminating:
            return "the resource is terminating"
        if mirror.is_edit(record, resource) or mirror.must_bind(record, resource):
            return "the record has not seen the resource"
        if mirror.mirror_patch(record, resource) is not None or not resource.held:
            return "the resource is not the record's mirror"
        if resource.status.get("observedGeneration") != resource.generation:
            return "the status is of an older resource"
        if resource.status.get("phase") != record.status.value:
            return f"the status says {resource.status.get('phase')}"
        wanted = "True" if record.status.value == "ready" else "False"
        return None if condition(resource, "Ready") == wanted else f"Ready is {condition(resource, 'Ready')}"

    async def agreed(self, tenant: str, *, seconds: float = PATIENCE) -> None:
        """Wait until record and resource agree and nothing is under way."""
        why: str | None = "never looked"
        try:
            async with asyncio.timeout(seconds):
                while (why := await self.agrees(tenant)) is not None:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            resource, snapshot = await self.resource(tenant), await self.snapshot(tenant)
            pytest.fail(f"{tenant}: {why}\n{resource}\n{snapshot}", pytrace=False)

    async def clear(self, tenants: Sequence[str]) -> None:
        """Remove resources that no operator watches now."""
        for tenant in tenants:
            found = await self.resource(tenant)
            if found is not None:
                await self._remove(found)

    async def clear_all(self) -> None:
        async for page in self.resources.pages():
            for body in page:
                await self._remove(Resource.parse(body))

    async def _remove(self, found: Resource) -> None:
        with suppress(NotFound):
            if FINALIZER in found.finalizers:
                empty = [{"op": "add", "path": "/metadata/finalizers", "value": []}]
                await self.resources.patch(found.namespace, found.name, empty)
            if not found.terminating:
                await self.resources.delete(found.namespace, found.name, uid=found.uid)


def condition(resource: Resource, kind: str) -> str:
    return next((each["status"] for each in resource.status.get("conditions") or () if each["type"] == kind), "")


def truthful(resource: Resource, record: Any) -> None:
    """``record`` was read after ``resource``: what the resource says is ready must be so in the record."""
    said = resource.status
    if condition(resource, "Ready") == "True" and said.get("observedGeneration") == resource.generation:
        assert (record.observed_generation or 0) >= said["recordGeneration"], f"untrue: {resource} {record}"
        assert record.generation >= said["recordGeneration"], f"untrue: {resource} {record}"
        if record.generation == said["recordGeneration"] and not resource.terminating:
            assert mirror.same_spec(record, resource), f"ready, but with another spec: {resource} {record}"


class Containers:
    """The containers of one installation on a Docker engine."""

    def __init__(self, client: Docker, *, installation: str) -> None:
        self._client = client
        self.installation = installation

    async def of(self, tenant: str) -> list[tuple[int, str]]:
        """Generation and state of each, in any state."""
        labels = {"label": [f"{LABEL_INSTALLATION}={self.installation}", f"{LABEL_TENANT}={tenant}"]}
        found = await self._client._query_json("containers/json", params={"all": "true", "filters": json.dumps(labels)})
        return sorted((int(each["Labels"][LABEL_GENERATION]), each["State"]) for each in found)

    async def until(self, tenant: str, wanted: list[tuple[int, str]], *, seconds: float = PATIENCE) -> None:
        found: list[tuple[int, str]] = []
        try:
            async with asyncio.timeout(seconds):
                while (found := await self.of(tenant)) != wanted:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"containers of {tenant}: {found} instead of {wanted}", pytrace=False)

    async def clear(self) -> None:
        labels = json.dumps({"label": [f"{LABEL_INSTALLATION}={self.installation}"]})
        for each in await self._client._query_json("containers/json", params={"all": "true", "filters": labels}):
            await self._client.containers.container(each["Id"]).delete(force=True, v=True)

    @classmethod
    @asynccontextmanager
    async def connected(cls, host: str, *, installation: str) -> AsyncIterator[Self]:
        """At the end nothing of the installation is left."""
        async with Docker(url=host) as client:
            containers = cls(client, installation=installation)
            try:
                yield containers
            finally:
                await containers.clear()


def docker_config(image: str, **env: str) -> dict[str, Any]:
    """A tenant that is healthy at once and ends when asked."""
    check = {"http": {"port": 8080, "path": "/healthz"}, "interval_seconds": 0.4, "retries": 10}
    return {"image": image, "env": env, "health_check": check, "stop_timeout_seconds": 1}


@asynccontextmanager
async def started(*processes: Process) -> AsyncIterator[None]:
    """Started together, and stopped whatever state they are in."""
    async with AsyncExitStack() as stack:
        for each in processes:
            stack.push_async_callback(each.stop)
        await asyncio.gather(*(each.start() for each in processes))
        yield


Call = Callable[..., Awaitable[tuple[int | None, Any]]]


@asynccontextmanager
async def client(api: Process) -> AsyncIterator[Call]:
    """``await call("POST", "/api/tenants", {...})``: status and answer; both null if there was none."""

    async def call(method: str, path: str, body: Any = None, *, key: str = "") -> tuple[int | None, Any]:
        headers = {"Idempotency-Key": key} if key else {}
        try:
            async with session.request(method, api.url + path, json=body, headers=headers) as answer:
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, OSError):
            return None, None

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
        yield call


def kubeconfig_through(plane: ControlPlane, *, port: int, file: Path) -> Path:
    """An administrator's kubeconfig that leads through a port on loopback."""
    configuration = yaml.safe_load(plane.kubeconfig.read_text())
    for each in configuration["clusters"]:
        each["cluster"]["server"] = f"https://127.0.0.1:{port}"
    file.write_text(yaml.safe_dump(configuration))
    file.chmod(0o600)
    return file
