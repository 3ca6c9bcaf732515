"""What workers tell."""

from __future__ import annotations

from aiohttp import web

from landlord.tenants.errors import NotFound
from landlord.tenants.hints import Hints
from landlord_api import records
from landlord_api.decorators import docs, match_info_schema, problems, response_schema
from landlord_api.schemas.answers import CallbackSchema
from landlord_api.schemas.requests import ExecutionPath


class CallbackHandler:
    def __init__(self, *, hints: Hints) -> None:
        self._hints = hints

    @docs(
        tag="executions",
        summary="Say that an execution has ended",
        description="For workers. Only a hint to look now: what has become of the execution is asked of the workflow "
        "engine, and a callback that is untrue, late or repeated changes nothing. A body is not looked at.",
    )
    @match_info_schema(ExecutionPath())
    @response_schema(CallbackSchema(), code=202, description="Somebody will look")
    @problems(400, 404)
    async def callback(self, request: web.Request) -> web.Response:
        execution_id = request.match_info["execution_id"]
        if not await self._hints.tell(execution_id):
            raise NotFound(f"execution {execution_id} does not exist")
        body = records.dumps({"execution_id": execution_id})
        return web.Response(body=body, status=202, headers={"Content-Type": "application/json"})
