"""aiohttp-apispec's decorators with types, and the ones that say what every operation of a kind may answer."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp_apispec
from marshmallow import Schema

from landlord_api.schemas.problems import ProblemSchema

Handler = TypeVar("Handler", bound=Callable[..., Any])
Decorator = Callable[[Handler], Handler]

_PROBLEM = ProblemSchema()

WHY = {
    400: "Malformed or invalid; `errors` names every field that is wrong, those of a spec once the rest is right. "
    "Nothing was stored.",
    401: "A bearer token is required.",
    403: "The token is a worker's: it may only call back.",
    404: "No such tenant, execution or route.",
    409: "The tenant's state does not allow it.",
    410: "The tenant is deleted.",
    412: "`If-Match` names another version.",
    413: "The body is larger than 256 KiB.",
    415: "The body's media type or content coding is not taken here.",
    422: "The idempotency key was used with another body.",
    500: "`Failed to trigger workflow`: the request is recorded, the reconciler goes on with it; or an internal error.",
    503: "The database is away, has another schema, or too much is waiting. Try again after `Retry-After` seconds.",
}
_ALWAYS = (401, 403, 503)


def docs(*, tag: str, summary: str, description: str = "", headers: tuple[dict[str, Any], ...] = ()) -> Decorator[Any]:
    """What the operation is; ``headers`` are OpenAPI parameters."""
    decorator: Decorator[Any] = aiohttp_apispec.docs(
        tags=[tag], summary=summary, description=description, parameters=list(headers)
    )
    return decorator


def json_schema(schema: Schema) -> Decorator[Any]:
    """The body, validated into ``request["json"]``."""
    decorator: Decorator[Any] = aiohttp_apispec.json_schema(schema)
    return decorator


def querystring_schema(schema: Schema) -> Decorator[Any]:
    """The query, validated into ``request["querystring"]``."""
    decorator: Decorator[Any] = aiohttp_apispec.querystring_schema(schema)
    return decorator


def match_info_schema(schema: Schema) -> Decorator[Any]:
    """The parameters in the path, validated into ``request["match_info"]``."""
    decorator: Decorator[Any] = aiohttp_apispec.match_info_schema(schema)
    return decorator


def response_schema(schema: Schema, *, code: int, description: str) -> Decorator[Any]:
    decorator: Decorator[Any] = aiohttp_apispec.response_schema(schema, code=code, description=description)
    return decorator


def problems(*codes: int) -> Decorator[Any]:
    """The errors an operation may answer, beside those that every one may."""

    def decorate(handler: Any) -> Any:
        for code in (*codes, *_ALWAYS):
            description = f"{HTTPStatus(code).phrase}. {WHY[code]}"
            handler = aiohttp_apispec.response_schema(_PROBLEM, code=code, description=description)(handler)
        return handler

    return decorate
