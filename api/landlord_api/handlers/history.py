"""What happened to a tenant: its executions and its audit trail."""

from __future__ import annotations

from aiohttp import web

from landlord.tenants.errors import NotFound
from landlord.tenants.repository import Repository
from landlord_api import cursors, records
from landlord_api.decorators import docs, match_info_schema, problems, querystring_schema, response_schema
from landlord_api.schemas import requests
from landlord_api.schemas.answers import EventListSchema, ExecutionListSchema, ExecutionSchema

_TAG = "history"
_EXECUTIONS = "executions"
_EVENTS = "events"
_ID = requests.TenantPath()
_PAGE = requests.PageQuery()
_JSON = {"Content-Type": "application/json"}


class HistoryHandlers:
    def __init__(self, *, repository: Repository) -> None:
        self._repository = repository

    @docs(tag=_TAG, summary="List a tenant's executions", description="Newest first, over all its lives.")
    @match_info_schema(_ID)
    @querystring_schema(_PAGE)
    @response_schema(ExecutionListSchema(), code=200, description="A page")
    @problems(400, 404)
    async def executions(self, request: web.Request) -> web.Response:
        tenant_id, query = request.match_info["id"], request["querystring"]
        limit: int = query["limit"]
        before = cursors.below(_EXECUTIONS, query.get("cursor"))
        page = await self._repository.executions(tenant_id, before=before, limit=limit + 1)
        if not page:
            await self._exists(tenant_id)
        body = {
            "executions": [records.execution(row) for _, row in page[:limit]],
            "next_cursor": cursors.encode(_EXECUTIONS, page[limit - 1][0]) if len(page) > limit else None,
        }
        return web.Response(body=records.dumps(body), headers=_JSON)

    @docs(tag=_TAG, summary="Get an execution")
    @match_info_schema(requests.ExecutionPath())
    @response_schema(ExecutionSchema(), code=200, description="The run, as Landlord has last seen it")
    @problems(400, 404)
    async def execution(self, request: web.Request) -> web.Response:
        execution_id = request.match_info["execution_id"]
        row = await self._repository.execution(execution_id)
        if row is None:
            raise NotFound(f"execution {execution_id} does not exist")
        return web.Response(body=records.dumps(records.execution(row)), headers=_JSON)

    @docs(tag=_TAG, summary="List a tenant's events", description="The audit trail, newest first, over all its lives.")
    @match_info_schema(_ID)
    @querystring_schema(_PAGE)
    @response_schema(EventListSchema(), code=200, description="A page")
    @problems(400, 404)
    async def events(self, request: web.Request) -> web.Response:
        tenant_id, query = request.match_info["id"], request["querystring"]
        limit: int = query["limit"]
        before = cursors.below(_EVENTS, query.get("cursor"))
        page = await self._repository.audit(tenant_id, before=before, limit=limit + 1)
        if not page:
            await self._exists(tenant_id)
        body = {
            "events": [records.event(row) for _, row in page[:limit]],
            "next_cursor": cursors.encode(_EVENTS, page[limit - 1][0]) if len(page) > limit else None,
        }
        return web.Response(body=records.dumps(body), headers=_JSON)

    async def _exists(self, tenant_id: str) -> None:
        if (await self._repository.load(tenant_id)).tenant is None:
            raise NotFound(f"tenant {tenant_id} does not exist")
