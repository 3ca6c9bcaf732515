"""What happened to a tenant: its executions and its audit trail."""

from __future__ import annotations

from aiohttp import web

from landlord.tenants.errors import NotFound
from landlord.tenants.repository import Repository
from landlord_api import cursors, pages, records
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
        shown, following = await pages.fill(
            lambda before, limit: self._repository.executions(tenant_id, before=before, limit=limit),
            after=cursors.below(_EXECUTIONS, query.get("cursor")),
            limit=query["limit"],
            place=lambda line: line[0],
            show=lambda line: records.execution(line[1]),
            cursor=lambda line: cursors.encode(_EXECUTIONS, line[0]),
        )
        if not shown:
            await self._exists(tenant_id)
        body = {"executions": shown, "next_cursor": following}
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
        shown, following = await pages.fill(
            lambda before, limit: self._repository.audit(tenant_id, before=before, limit=limit),
            after=cursors.below(_EVENTS, query.get("cursor")),
            limit=query["limit"],
            place=lambda line: line[0],
            show=lambda line: records.event(line[1]),
            cursor=lambda line: cursors.encode(_EVENTS, line[0]),
        )
        if not shown:
            await self._exists(tenant_id)
        body = {"events": shown, "next_cursor": following}
        return web.Response(body=records.dumps(body), headers=_JSON)

    async def _exists(self, tenant_id: str) -> None:
        if (await self._repository.load(tenant_id)).tenant is None:
            raise NotFound(f"tenant {tenant_id} does not exist")
