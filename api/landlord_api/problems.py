"""Errors as RFC 9457 problem details, and what each refusal of the domain is in HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson
from aiohttp import web

from landlord.database.coalescer import Overloaded
from landlord.database.engine import DatabaseUnavailable
from landlord.tenants import errors

MEDIA_TYPE = "application/problem+json"
_RETRY = {"Retry-After": "1"}


class Problem(Exception):
    """An answer that is an error. ``errors`` has one entry for each thing wrong: where, and what is allowed."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str | None = None,
        title: str | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        phrase = HTTPStatus(status).phrase
        self.status = status
        self.detail = detail
        self.kind = kind or phrase.lower().replace(" ", "-")
        self.title = title or phrase
        self.errors = errors
        self.headers = headers or {}


def invalid(detail: str, *, errors: Sequence[Mapping[str, str]] = ()) -> Problem:
    return Problem(400, detail, kind="invalid", title="Invalid request", errors=errors)


def unreadable() -> Problem:
    return invalid("the body cannot be read")


def unavailable(detail: str) -> Problem:
    return Problem(503, detail, kind="unavailable", headers=_RETRY)


def response(problem: Problem, *, request_id: str) -> web.Response:
    body = {
        "type": f"urn:landlord:problem:{problem.kind}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "errors": problem.errors,
        "request_id": request_id,
    }
    return web.Response(
        body=orjson.dumps(body), status=problem.status, headers={"Content-Type": MEDIA_TYPE, **problem.headers}
    )


def of(error: Exception) -> Problem | None:
    """The problem that an exception of the domain or of aiohttp is; null for one nobody foresaw."""
    match error:
        case Problem():
            return error
        case errors.Refusal():
            return _refusal(error)
        case errors.TriggerFailed():
            detail = f"timed out: {error.detail}" if error.timeout else error.detail
            return Problem(500, f"{detail}. {_KEPT}", kind="trigger-failed", title="Failed to trigger workflow")
        case DatabaseUnavailable() | Overloaded():
            return unavailable(str(error))
        case web.HTTPException():
            return _http(error)
        case _:
            return None


_KEPT = "The request is recorded, and the workflow will be triggered as soon as the engine takes it"


def _refusal(error: errors.Refusal) -> Problem:
    detail = str(error)
    match error:
        case errors.Invalid():
            faults = [{"pointer": fault.pointer, "detail": fault.message} for fault in error.faults]
            return invalid(detail, errors=faults)
        case errors.NotFound():
            return Problem(404, detail)
        case errors.Exists():
            return Problem(409, detail, kind="exists")
        case errors.Gone():
            return Problem(410, detail)
        case errors.PreconditionFailed():
            return Problem(412, detail)
        case errors.KeyReused():
            where = [{"header": "Idempotency-Key", "detail": "must be a new one for another body"}]
            return Problem(422, detail, kind="key-reused", title="Idempotency key reused", errors=where)
        case _:
            return Problem(409, detail)


def _http(error: web.HTTPException) -> Problem:
    """aiohttp's own: routes, methods, sizes. Their texts are not shown, they may quote the request."""
    match error:
        case web.HTTPNotFound():
            return Problem(404, "there is nothing at this path; /api/docs shows what there is")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return Problem(405, f"allowed here: {allowed}", headers={"Allow": allowed})
        case web.HTTPRequestEntityTooLarge():
            return too_large()
        case _:
            return Problem(error.status, HTTPStatus(error.status).phrase)


BODY_LIMIT = 262_144
"""Bytes."""


def too_large() -> Problem:
    return Problem(413, f"the body must have at most {BODY_LIMIT} bytes", kind="too-large", title="Body too large")
