"""The OpenAPI document and Swagger UI."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from fixtures.rest import Rest
from openapi_spec_validator import OpenAPIV31SpecValidator

OPERATIONS = {
    ("/api/tenants", "get"),
    ("/api/tenants", "post"),
    ("/api/tenants/{id}", "get"),
    ("/api/tenants/{id}", "put"),
    ("/api/tenants/{id}", "patch"),
    ("/api/tenants/{id}", "delete"),
    ("/api/tenants/{id}/retry", "post"),
    ("/api/tenants/{id}/executions", "get"),
    ("/api/tenants/{id}/events", "get"),
    ("/api/executions/{execution_id}", "get"),
    ("/api/executions/{execution_id}/callback", "post"),
    ("/api/compute/config", "get"),
    ("/api/docs", "get"),
    ("/api/openapi.json", "get"),
    ("/healthz", "get"),
    ("/readyz", "get"),
    ("/metrics", "get"),
}


async def test_the_document_is_valid_and_whole(rest: Rest) -> None:
    document = (await rest.get("/api/openapi.json")).json
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1")
    found = {(path, method) for path, operations in document["paths"].items() for method in operations}
    assert found == OPERATIONS
    ids = [operation["operationId"] for each in document["paths"].values() for operation in each.values()]
    assert len(ids) == len(set(ids))
    assert (await rest.get("/v1/openapi.json")).json == document


async def test_every_route_is_below_both_prefixes(rest: Rest) -> None:
    app = rest.runner.app
    templates = {route.resource.canonical for route in app.router.routes() if route.resource is not None}
    below = {template.removeprefix("/api") for template in templates if template.startswith("/api")}
    assert below == {template.removeprefix("/v1") for template in templates if template.startswith("/v1")}


async def test_every_body_answer_and_error_has_a_schema(rest: Rest) -> None:
    for path, operations in rest.document["paths"].items():
        for method, operation in operations.items():
            if not path.startswith(("/api/tenants", "/api/executions", "/api/compute")):
                continue
            has_body = method in ("post", "put", "patch") and not path.endswith("/callback")
            assert ("requestBody" in operation) == has_body, (method, path)
            for code, response in operation["responses"].items():
                if code == "304":
                    continue
                [(media_type, content)] = response["content"].items()
                assert media_type == ("application/problem+json" if int(code) >= 400 else "application/json")
                assert "$ref" in content["schema"]
            assert {"401", "403", "503"} <= operation["responses"].keys()
    patch = rest.document["paths"]["/api/tenants/{id}"]["patch"]["requestBody"]["content"]
    assert set(patch) == {"application/merge-patch+json", "application/json"}
    assert rest.document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


async def test_unknown_fields_are_refused_by_the_document_too(rest: Rest) -> None:
    for name in ("CreateTenant", "ReplaceTenant", "PatchTenant", "RetryTenant"):
        assert rest.document["components"]["schemas"][name]["additionalProperties"] is False


async def test_swagger_ui_asks_nobody_else(rest: Rest) -> None:
    page = await rest.get("/api/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    text = page.raw.decode()
    assert "://" not in text
    assert "'self'" in page.headers["Content-Security-Policy"]
    sources = list(_sources(text))
    assert len(sources) == 4
    for source in sources:
        reply = await rest.get(source)
        assert reply.status == 200
        assert len(reply.raw) > 100
        if source.endswith(".css"):
            assert not re.search(rb"url\(['\"]?https?:", reply.raw)
            assert b"@import" not in reply.raw
    initializer = (await rest.get("/api/docs/static/initializer.js")).raw.decode()
    assert "/api/openapi.json" in initializer
    assert "validatorUrl: null" in initializer
    assert "://" not in initializer


def test_the_license_of_swagger_ui_goes_with_it() -> None:
    static = files("landlord_api").joinpath("static")
    for name in ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"):
        assert static.joinpath(name).is_file()


def _sources(page: str) -> Iterator[Any]:
    for found in re.finditer(r'(?:src|href)="([^"]+)"', page):
        yield found[1]
