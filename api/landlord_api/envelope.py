"""What surrounds every request: its id, who sends it, whether we serve at all, errors as problems, metrics and logs."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from functools import lru_cache

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from landlord_api import metrics, problems
from landlord_api.auth import CALLBACKS, Tokens
from landlord_api.problems import Problem
from landlord_api.schema_gate import SchemaGate

REQUEST_ID = "X-Request-ID"
SERVER = "landlord"
"""And not the versions of what it is made of."""
CALLER = web.RequestKey("caller", str)
"""Name of the token; goes into the audit trail."""
ANONYMOUS = "anonymous"
PREFIXES = ("/api", "/v1")
"""The same routes are below both."""
OPEN = ("/docs", "/openapi.json")
"""What of them needs neither token nor database."""
CALLBACK = "/executions/{execution_id}/callback"
"""All that a worker's token may call."""

_CHALLENGE = 'Bearer realm="landlord"'
_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
_access = logging.getLogger("landlord_api.access")
_log = structlog.get_logger("landlord_api.access")


def envelope(*, tokens: Tokens | None, gate: SchemaGate) -> Middleware:
    """The outer middleware. Without ``tokens`` everybody is :data:`ANONYMOUS`."""

    # Unique without asking the system for each: what this process drew, and a number.
    ours, numbers = os.urandom(12).hex(), itertools.count(1)

    @web.middleware
    async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        request_id = _given_id(request) or f"{ours}-{next(numbers):x}"
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            if _guarded(request):
                request[CALLER] = _caller(request, tokens)
                gate.pass_through()
            answer = await handler(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a problem and the log the rest
            answer = _failed(error, request_id=request_id)
        if request.content.exception() is not None:
            answer.force_close()  # where a body broke off, nobody knows what comes next
        answer.headers[REQUEST_ID] = request_id
        answer.headers["Server"] = SERVER
        seconds = time.perf_counter() - began
        metrics.observe(request, status=answer.status, seconds=seconds)
        if answer.status >= 500 or _access.isEnabledFor(logging.DEBUG):
            _tell(request, status=answer.status, seconds=seconds)
        return answer

    return surround


def _given_id(request: web.Request) -> str | None:
    given = request.headers.get(REQUEST_ID)
    return given if given is not None and _SAFE_ID.fullmatch(given) else None


def _guarded(request: web.Request) -> bool:
    """Whether a token and the database are needed. A path that leads nowhere is treated as what it looks like."""
    resource = request.match_info.route.resource
    return _needs_both(resource.canonical if resource is not None else request.path)


@lru_cache(maxsize=1024)
def _needs_both(path: str) -> bool:
    for prefix in PREFIXES:
        if path.startswith(prefix) and path[len(prefix) :][:1] in ("", "/"):
            return not path[len(prefix) :].startswith(OPEN)
    return False


def _caller(request: web.Request, tokens: Tokens | None) -> str:
    if tokens is None:
        return ANONYMOUS
    caller = tokens.caller(request.headers.get("Authorization"))
    if caller is None:
        raise Problem(
            401,
            "a bearer token of this installation is required",
            errors=[{"header": "Authorization", "detail": "must be 'Bearer' and a token of this installation"}],
            headers={"WWW-Authenticate": _CHALLENGE},
        )
    if caller.scope == CALLBACKS and not _is_callback(request):
        raise Problem(
            403,
            "this token may only say that executions have ended",
            errors=[{"header": "Authorization", "detail": "must be a token without a scope"}],
            headers={"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope"'},  # RFC 6750, 3
        )
    return caller.name


def _is_callback(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in {prefix + CALLBACK for prefix in PREFIXES}


def _failed(error: Exception, *, request_id: str) -> web.StreamResponse:
    problem = problems.of(error)
    if problem is None:
        _log.error("request failed unexpectedly", exc_info=error)
        problem = Problem(500, f"an internal error; it was logged with request id {request_id}", kind="internal")
    return problems.response(problem, request_id=request_id)


def _tell(request: web.Request, *, status: int, seconds: float) -> None:
    """Neither bodies nor queries: they may hold secrets."""
    (_log.warning if status >= 500 else _log.debug)(
        "request", method=request.method, path=request.path, status=status, seconds=round(seconds, 6)
    )
