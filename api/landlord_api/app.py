"""The application: routes, middlewares and what runs beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress

from aiohttp import web
from aiohttp_apispec import validation_middleware

from landlord import health
from landlord.compute.registry import ComputeRegistry
from landlord.tenants.hints import Hints
from landlord.tenants.repository import Repository
from landlord.tenants.service import TenantService
from landlord.workflow.client import WorkflowClient
from landlord.workflow.provider import WorkflowError
from landlord_api import openapi
from landlord_api.auth import Tokens
from landlord_api.background import Background
from landlord_api.envelope import CALLBACK, PREFIXES, envelope
from landlord_api.handlers.callback import CallbackHandler
from landlord_api.handlers.compute import ComputeHandlers
from landlord_api.handlers.documentation import DocumentationHandlers
from landlord_api.handlers.history import HistoryHandlers
from landlord_api.handlers.tenants import AfterCreate, TenantHandlers
from landlord_api.parsing import RequestParser
from landlord_api.problems import BODY_LIMIT
from landlord_api.schema_gate import SchemaGate

OPENAPI = web.AppKey("openapi", dict)
"""The OpenAPI document."""
FINISH = 5.0
"""Seconds that work behind answers has when the process ends."""


def create_app(
    *,
    client: WorkflowClient,
    service: TenantService,
    repository: Repository,
    hints: Hints,
    compute: ComputeRegistry,
    schema_fault: Callable[[], Awaitable[str | None]],
    tokens: Tokens | None = None,
    after_create: AfterCreate | None = None,
    checks: Mapping[str, health.Check] | None = None,
) -> web.Application:
    """The REST door over parts that the caller opens and closes.

    ``client`` is the one that ``service`` triggers with. ``schema_fault`` says why this release must not serve on the
    database's schema, or null. ``after_create`` is done behind the answer of a POST, best effort. ``checks`` are listed
    in ``/readyz`` beside our own, as degraded only.
    """
    gate = SchemaGate(schema_fault)
    background = Background()
    app = web.Application(
        middlewares=[envelope(tokens=tokens, gate=gate), validation_middleware], client_max_size=BODY_LIMIT
    )
    # What aiohttp-apispec's middleware looks for.
    app["_apispec_request_data_name"] = "data"
    app["_apispec_parser"] = RequestParser()

    async def workflow() -> str | None:
        try:
            await client.ready()
        except WorkflowError as error:
            return str(error)
        return None

    health.add_routes(
        app,
        checks={"database": gate.database, "migrations": gate.migrations, "workflow": workflow, **(checks or {})},
        essential={"database", "migrations"},
    )
    tenants = TenantHandlers(service=service, repository=repository, background=background, after_create=after_create)
    documentation = DocumentationHandlers()
    for prefix in PREFIXES:
        _add_tenants(app.router, prefix, tenants)
        _add_others(app.router, prefix, HistoryHandlers(repository=repository), ComputeHandlers(compute=compute))
        app.router.add_post(prefix + CALLBACK, CallbackHandler(hints=hints).callback)
        app.router.add_get(f"{prefix}/openapi.json", documentation.openapi)
        app.router.add_get(f"{prefix}/docs", documentation.page)
        app.router.add_get(f"{prefix}/docs/static/{{name}}", documentation.file)
    app[OPENAPI] = openapi.build(app)
    documentation.publish(app[OPENAPI])

    async def beside(_: web.Application) -> AsyncIterator[None]:
        await gate.look()
        tasks = [asyncio.create_task(gate.run(), name="schema gate")]
        if tokens is not None:
            tasks.append(asyncio.create_task(tokens.follow(), name="tokens file"))
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await background.close(timeout=FINISH)

    app.cleanup_ctx.append(beside)
    return app


def _add_tenants(router: web.UrlDispatcher, prefix: str, tenants: TenantHandlers) -> None:
    collection = router.add_resource(f"{prefix}/tenants")
    collection.add_route("POST", tenants.create)
    collection.add_route("GET", tenants.list)
    collection.add_route("HEAD", tenants.list)
    one = router.add_resource(f"{prefix}/tenants/{{id}}")
    one.add_route("GET", tenants.get)
    one.add_route("HEAD", tenants.get)
    one.add_route("PUT", tenants.replace)
    one.add_route("PATCH", tenants.patch)
    one.add_route("DELETE", tenants.delete)
    router.add_post(f"{prefix}/tenants/{{id}}/retry", tenants.retry)


def _add_others(router: web.UrlDispatcher, prefix: str, history: HistoryHandlers, compute: ComputeHandlers) -> None:
    router.add_get(f"{prefix}/tenants/{{id}}/executions", history.executions)
    router.add_get(f"{prefix}/tenants/{{id}}/events", history.events)
    router.add_get(f"{prefix}/executions/{{execution_id}}", history.execution)
    router.add_get(f"{prefix}/compute/config", compute.config)
