"""What happened to a tenant: its executions and its audit trail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web

from landlord.tenants.errors import NotFound
from landlord.tenants.repository import Repository
from landlord_api import cursors, pages, records
from landlord_api.decorators import docs, match_info_schema, problems, querystring_schema, response_schema
from landlord_api.schemas import requests
from landlord_api.schemas.answers import EventListSchema, ExecutionListSchema, ExecutionSchema

_TAG = "history"
_ID = requests.TenantPath()
_PAGE = requests.PageQuery()
_JSON = {"Content-Type": "application/json"}

Row = TypeVar("Row")


class HistoryHandlers:
    def __init__(self, *, repository: Repository) -> None:
        self._repository = repository

    @docs(tag=_TAG, summary="List a tenant's executions", description="Newest first, over all its lives.")
    @match_info_schema(_ID)
    @querystring_schema(_PAGE)
    @response_schema(ExecutionListSchema(), code=200, description="A page")
    @problems(400, 404)
    async def executions(self, request: web.Request) -> web.Response:
        return await self._page(request, name="executions", fetch=self._repository.executions, show=records.execution)

    @docs(tag=_TAG, summary="Get an execution")
    @match_info_schema(requests.ExecutionPath())
    @querystring_schema(requests.NoQuery())
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
        return await self._page(request, name="events", fetch=self._repository.audit, show=records.event)

    async def _page(
        self,
        request: web.Request,
        *,
        name: str,
        fetch: Callable[..., Awaitable[list[tuple[int, Row]]]],
        show: Callable[[Row], dict[str, Any]],
    ) -> web.Response:
        """A page of what a tenant has had; ``fetch(tenant_id, before=, limit=)`` gives it with sequence numbers."""
        tenant_id, query = request.match_info["id"], request["querystring"]
        shown, following = await pages.fill(
            lambda before, limit: fetch(tenant_id, before=before, limit=limit),
            after=cursors.below(name, query.get("cursor")),
            limit=query["limit"],
            place=lambda line: line[0],
            show=lambda line: show(line[1]),
            cursor=lambda line: cursors.encode(name, line[0]),
        )
        if not shown:
            await self._exists(tenant_id)
        return web.Response(body=records.dumps({name: shown, "next_cursor": following}), headers=_JSON)

    async def _exists(self, tenant_id: str) -> None:
        if (await self._repository.load(tenant_id)).tenant is None:
            raise NotFound(f"tenant {tenant_id} does not exist")
