"""The tenants: create, list, get, replace, patch, delete, retry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from landlord.tenants.commands import Command, Create, Delete, Patch, Replace, Request, Retry
from landlord.tenants.errors import NotFound, PreconditionFailed
from landlord.tenants.model import DeletionPolicy, Door, Status, Tenant
from landlord.tenants.repository import Filter, Repository
from landlord.tenants.service import Answer, TenantService
from landlord_api import conditions, cursors, pages, records
from landlord_api.background import Background
from landlord_api.decorators import (
    docs,
    json_schema,
    match_info_schema,
    problems,
    querystring_schema,
    response_schema,
)
from landlord_api.envelope import CALLER
from landlord_api.schemas import requests
from landlord_api.schemas.answers import TenantListSchema, TenantSchema

AfterCreate = Callable[[Tenant], Awaitable[None]]
"""What is done behind the answer of a POST: the mirror."""

_TAG = "tenants"
_CURSOR = "tenants"
_ID = requests.TenantPath()
_NO_QUERY = requests.NoQuery()
_RECORD = TenantSchema()
_CONDITIONS = (conditions.IF_MATCH, conditions.IDEMPOTENCY_KEY)
_JSON = {"Content-Type": "application/json"}


class TenantHandlers:
    def __init__(
        self,
        *,
        service: TenantService,
        repository: Repository,
        background: Background,
        after_create: AfterCreate | None,
    ) -> None:
        self._service = service
        self._repository = repository
        self._background = background
        self._after_create = after_create

    @docs(
        tag=_TAG,
        summary="Create a tenant",
        description="Records the tenant and starts its workflow at once. A POST that was answered 500 may be repeated.",
        headers=(conditions.IDEMPOTENCY_KEY,),
    )
    @querystring_schema(_NO_QUERY)
    @json_schema(requests.CreateTenantSchema())
    @response_schema(_RECORD, code=202, description="Recorded, and its workflow is triggered (null id: created paused)")
    @problems(400, 409, 410, 413, 415, 422, 500)
    async def create(self, request: web.Request) -> web.Response:
        conditions.refuse(request, "If-None-Match", "If-Match")
        body = request["json"]
        tenant_id: str = body["id"]
        command = Create(
            compute_provider=body.get("compute_provider"),
            compute_config=body["compute_config"],
            labels=body.get("labels", {}),
            annotations=body.get("annotations", {}),
            paused=body.get("paused", False),
            deletion_policy=DeletionPolicy(body.get("deletion_policy", DeletionPolicy.DELETE)),
        )
        key = conditions.idempotency_key(request, caller=request[CALLER], path="/api/tenants", body=body)
        answer = await self._service.submit(
            Request(tenant_id=tenant_id, command=command, who=request[CALLER], door=Door.API, key=key)
        )
        if self._after_create is not None and (tenant := answer.snapshot.tenant) is not None:
            after_create = self._after_create
            self._background.spawn("mirror", lambda: after_create(tenant))
        response = _shown(answer, status=202)
        response.headers["Location"] = f"{request.path}/{tenant_id}"
        return response

    @docs(tag=_TAG, summary="List tenants", description="In the order of their ids.")
    @querystring_schema(requests.TenantsQuery())
    @response_schema(TenantListSchema(), code=200, description="A page")
    @problems(400)
    async def list(self, request: web.Request) -> web.Response:
        query = request["querystring"]
        after = cursors.after_id(_CURSOR, query.get("cursor"))
        wanted = _filter(query)
        shown: list[Any] = []
        following: str | None = None
        if wanted is not None:
            shown, following = await pages.fill(
                lambda after, limit: self._repository.page(filter=wanted, after=after, limit=limit),
                after=after,
                limit=query["limit"],
                place=lambda snapshot: snapshot.id,
                show=records.of_snapshot,
                cursor=lambda snapshot: cursors.encode(_CURSOR, snapshot.id),
            )
        body: dict[str, Any] = {"tenants": shown, "next_cursor": following}
        if query["count"]:
            body["total"] = await self._repository.count(filter=wanted) if wanted else 0
        return web.Response(body=records.dumps(body), headers=_JSON)

    @docs(
        tag=_TAG,
        summary="Get a tenant",
        description="A deleted one too, while its tombstone is kept.",
        headers=(conditions.IF_MATCH, conditions.IF_NONE_MATCH),
    )
    @match_info_schema(_ID)
    @querystring_schema(_NO_QUERY)
    @response_schema(_RECORD, code=200, description="The record, with its ETag")
    @problems(400, 404, 412)
    async def get(self, request: web.Request) -> web.Response:
        tenant_id = request.match_info["id"]
        snapshot = await self._repository.load(tenant_id)
        tenant = snapshot.tenant
        if tenant is None:
            raise NotFound(f"tenant {tenant_id} does not exist")
        versions = conditions.expected_versions(request)
        if versions is not None and tenant.version not in versions:
            raise PreconditionFailed(f"If-Match does not name the tenant's version, {tenant.version}")
        etag = tenant.etag
        if conditions.not_modified(request, etag):
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(
            body=records.dumps(records.tenant(tenant, snapshot.head)),
            headers={"Content-Type": "application/json", "ETag": etag},
        )

    @docs(
        tag=_TAG,
        summary="Replace a tenant's spec",
        description="Runs an update, also for the same spec again. While a run is active, the update follows it.",
        headers=_CONDITIONS,
    )
    @match_info_schema(_ID)
    @querystring_schema(_NO_QUERY)
    @json_schema(requests.ReplaceTenantSchema())
    @response_schema(_RECORD, code=202, description="Recorded; the id is that of the run in charge")
    @problems(400, 404, 409, 410, 412, 413, 415, 422, 500)
    async def replace(self, request: web.Request) -> web.Response:
        body = request["json"]
        policy = body.get("deletion_policy")
        command = Replace(
            compute_provider=body.get("compute_provider"),
            compute_config=body["compute_config"],
            labels=body.get("labels"),
            annotations=body.get("annotations"),
            paused=body.get("paused"),
            deletion_policy=DeletionPolicy(policy) if policy is not None else None,
        )
        return _shown(await self._submit(request, command, body=body), status=202)

    @docs(
        tag=_TAG,
        summary="Change a tenant by a JSON merge patch",
        description="With `compute_config` it runs an update. What starts no run (labels, pausing) answers 200.",
        headers=_CONDITIONS,
    )
    @match_info_schema(_ID)
    @querystring_schema(_NO_QUERY)
    @json_schema(requests.PatchTenantSchema())
    @response_schema(_RECORD, code=200, description="Recorded; nothing had to run")
    @response_schema(_RECORD, code=202, description="Recorded; the id is that of the run in charge")
    @problems(400, 404, 409, 410, 412, 413, 415, 422, 500)
    async def patch(self, request: web.Request) -> web.Response:
        body = request["json"]
        answer = await self._submit(request, Patch(merge=body), body=body)
        return _shown(answer, status=202 if answer.started else 200)

    @docs(
        tag=_TAG,
        summary="Delete a tenant",
        description="Cancels what runs, then removes everything; the record stays as a tombstone.",
        headers=_CONDITIONS,
    )
    @match_info_schema(_ID)
    @querystring_schema(_NO_QUERY)
    @response_schema(_RECORD, code=202, description="Recorded, and its workflow is triggered")
    @problems(400, 404, 409, 410, 412, 422, 500)
    async def delete(self, request: web.Request) -> web.Response:
        return _shown(await self._submit(request, Delete(), body=None), status=202)

    @docs(
        tag=_TAG,
        summary="Retry what failed",
        description="From `failed`, when stalled, or after a failed trigger: the unfinished action, fresh attempts.",
        headers=_CONDITIONS,
    )
    @match_info_schema(_ID)
    @querystring_schema(_NO_QUERY)
    @json_schema(requests.RetryTenantSchema())
    @response_schema(_RECORD, code=202, description="Recorded, and its workflow is triggered")
    @problems(400, 404, 409, 410, 412, 413, 415, 422, 500)
    async def retry(self, request: web.Request) -> web.Response:
        body = request["json"]
        command = Retry(compute_config=body.get("compute_config"))
        return _shown(await self._submit(request, command, body=body, suffix="/retry"), status=202)

    async def _submit(self, request: web.Request, command: Command, *, body: Any, suffix: str = "") -> Answer:
        conditions.refuse(request, "If-None-Match")
        tenant_id = request.match_info["id"]
        caller = request[CALLER]
        path = f"/api/tenants/{tenant_id}{suffix}"
        return await self._service.submit(
            Request(
                tenant_id=tenant_id,
                command=command,
                who=caller,
                door=Door.API,
                key=conditions.idempotency_key(request, caller=caller, path=path, body=body),
                if_match=conditions.expected_versions(request),
            )
        )


def _filter(query: Mapping[str, Any]) -> Filter | None:
    """Null where nothing can match: one label asked for with two values."""
    asked: list[tuple[str, str]] = query.get("label", [])
    labels = dict(asked)
    if len(labels) < len(set(asked)):
        return None
    return Filter(
        status=Status(query["status"]) if "status" in query else None,
        compute_provider=query.get("compute_provider"),
        labels=labels or None,
        include_deleted=query["include_deleted"],
    )


def _shown(answer: Answer, *, status: int) -> web.Response:
    tenant = answer.snapshot.tenant
    assert tenant is not None, "every accepted request has a record"
    return web.Response(
        body=records.dumps(records.of_snapshot(answer.snapshot)),
        status=status,
        headers={"Content-Type": "application/json", "ETag": tenant.etag},
    )
