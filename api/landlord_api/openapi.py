"""The OpenAPI 3.1 document, from what aiohttp-apispec's decorators leave on the handlers.

aiohttp-apispec itself writes Swagger 2.0 only, which cannot say that a field may be null.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import orjson
from aiohttp import web
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from landlord_api.problems import MEDIA_TYPE
from landlord_api.schemas.answers import LivenessSchema, ReadinessSchema, TenantSchema
from landlord_api.schemas.fields import JSON, Body
from landlord_api.schemas.problems import ProblemSchema

PREFIX = "/api"
_PARAMETERS = {"match_info": "path", "querystring": "query"}
_REQUEST_ID = {
    "X-Request-ID": {"description": "The client's own if it sent one, else a new one.", "schema": {"type": "string"}}
}
_ETAG = {"ETag": {"description": '`"version-revision"`', "schema": {"type": "string"}}}
_DESCRIPTION = """\
Landlord provisions and keeps alive the tenants of a SaaS product. A change is recorded, then its workflow is triggered,
and the answer is 202 with the record; what becomes of it is in `GET /api/tenants/{id}`. Everything below `/api` is
below `/v1` too. Errors are problem details (RFC 9457).
"""


def build(app: web.Application) -> dict[str, Any]:
    """Describe every route below :data:`PREFIX` that has decorators, and those of operations."""
    spec = APISpec(
        title="Landlord",
        version=version("landlord"),
        openapi_version="3.1.0",
        plugins=[MarshmallowPlugin()],
        info={"description": _DESCRIPTION, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        servers=[{"url": "/"}],
        # Without a tokens file, on loopback, none is needed.
        security=[{"bearer": []}, {}],
    )
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    for path, method, operation in (*_decorated(app), *_plain()):
        spec.path(path=path, operations={method: operation})
    document: dict[str, Any] = orjson.loads(orjson.dumps(spec.to_dict()))
    return document


def _decorated(app: web.Application) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for route in app.router.routes():
        meta: Mapping[str, Any] | None = getattr(route.handler, "__apispec__", None)
        if meta is None or route.method == "HEAD" or route.resource is None:
            continue
        path = route.resource.canonical
        if path.startswith(PREFIX):
            yield path, route.method.lower(), _operation(meta, name=f"{route.handler.__name__}_{meta['tags'][0]}")


def _operation(meta: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    headers = copy.deepcopy(meta["parameters"])
    schemas: list[dict[str, Any]] = meta["schemas"]
    parameters = [
        {"in": _PARAMETERS[each["location"]], "schema": each["schema"]}
        for each in schemas
        if each["location"] in _PARAMETERS
    ]
    responses = {code: _response(code, each) for code, each in sorted(meta["responses"].items())}
    if any(header["name"] == "If-None-Match" for header in headers):
        responses["304"] = {"description": "Not modified", "headers": {**_REQUEST_ID, **_ETAG}}
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": meta["tags"],
        "summary": meta["summary"],
        "description": meta["description"],
        "parameters": [*parameters, *headers],
        "responses": responses,
    }
    for each in schemas:
        if isinstance(body := each["schema"], Body):
            content = {media_type: {"schema": body} for media_type in body.media_types}
            operation["requestBody"] = {"required": not body.optional, "content": content}
    return operation


def _response(code: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    schema: Schema = meta["schema"]
    headers: dict[str, Any] = dict(_REQUEST_ID)
    if isinstance(schema, ProblemSchema):
        if code == "503":
            headers["Retry-After"] = {"schema": {"type": "string"}}
        return {"description": meta["description"], "headers": headers, "content": {MEDIA_TYPE: {"schema": schema}}}
    if isinstance(schema, TenantSchema):
        headers |= _ETAG
        if code == "202":
            headers["Location"] = {
                "description": "Of the record; after POST only.",
                "schema": {"type": "string", "format": "uri-reference"},
            }
    return {"description": meta["description"], "headers": headers, "content": {JSON: {"schema": schema}}}


def _plain() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What has no decorators: documentation, and what operators of the installation ask."""
    liveness = {"description": "The process answers", "content": {JSON: {"schema": LivenessSchema()}}}
    readiness = {JSON: {"schema": ReadinessSchema()}}
    yield "/api/openapi.json", "get", _open("openapi", "This document", _content("This document", JSON, "object"))
    yield "/api/docs", "get", _open("docs", "Swagger UI", _content("A page", "text/html", "string"))
    yield "/healthz", "get", _open("healthz", "Liveness", {"200": liveness})
    yield (
        "/readyz",
        "get",
        _open(
            "readyz",
            "Readiness",
            {
                "200": {"description": "Serving, though perhaps degraded", "content": readiness},
                "503": {"description": "Not serving", "content": readiness},
            },
        ),
    )
    metrics = _content("Metrics in Prometheus' text format", "text/plain", "string")
    yield "/metrics", "get", _open("metrics", "Metrics", metrics)


def _open(name: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "tags": ["operations"], "summary": summary, "security": [], "responses": responses}


def _content(description: str, media_type: str, kind: str) -> dict[str, Any]:
    return {"200": {"description": description, "content": {media_type: {"schema": {"type": kind}}}}}
