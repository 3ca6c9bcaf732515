"""What compute providers take."""

from __future__ import annotations

from aiohttp import web

from landlord.compute.registry import ComputeRegistry, UnknownComputeProvider
from landlord_api import records
from landlord_api.decorators import docs, problems, querystring_schema, response_schema
from landlord_api.problems import invalid
from landlord_api.schemas.answers import ComputeConfigSchema
from landlord_api.schemas.requests import ComputeConfigQuery


class ComputeHandlers:
    def __init__(self, *, compute: ComputeRegistry) -> None:
        self._compute = compute

    @docs(
        tag="compute",
        summary="Discover a compute provider's configuration",
        description="The JSON Schema of `compute_config` and its defaults, of the default provider or the one named.",
    )
    @querystring_schema(ComputeConfigQuery())
    @response_schema(ComputeConfigSchema(), code=200, description="Provider identifier, schema and defaults")
    @problems(400)
    async def config(self, request: web.Request) -> web.Response:
        name = request["querystring"].get("provider", self._compute.default)
        try:
            provider = self._compute.get(name)
        except UnknownComputeProvider as error:
            allowed = f"must be one of {', '.join(error.allowed)}"
            raise invalid("no such provider", errors=[{"parameter": "provider", "detail": allowed}]) from None
        body = {"provider": name, "schema": provider.config_schema(), "defaults": provider.config_defaults()}
        return web.Response(body=records.dumps(body), headers={"Content-Type": "application/json"})
