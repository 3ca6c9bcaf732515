"""Reading requests. aiohttp-apispec's validation middleware calls :class:`RequestParser` for every schema of a handler.

Everything that is wrong is reported at once, with the place of each fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web
from marshmallow import Schema, ValidationError, fields

from landlord import canonical
from landlord_api.problems import BODY_LIMIT, Problem, invalid, too_large, unreadable
from landlord_api.schemas.fields import Body, Path
from landlord_api.schemas.requests import NoQuery

_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[0-9]{16}|[0-9][eE]")
"""Without one of these (an escaped NUL or surrogate, many digits, an exponent) JSON holds nothing that is refused."""

CODINGS = ("gzip", "deflate")
"""What aiohttp decodes. It hands over a body in any other as it is."""


class RequestParser:
    """The interface of a webargs parser, as far as the middleware uses it. Raises :class:`Problem`."""

    async def parse(self, schema: Schema, request: web.Request, *, location: str, unknown: str | None = None) -> Any:
        """The validated value of one location; ``unknown`` is the schema's own affair."""
        match schema:
            case Path():
                return _path(schema, request)
            case Body():
                return _load(schema, await _body(schema, request), where=_pointer)
            case NoQuery() if not request.query_string:
                return {}
            case _:
                return _load(schema, _query(schema, request), where=_parameter)


def _path(schema: Path, request: web.Request) -> Mapping[str, str]:
    if not schema.pattern.fullmatch(request.match_info[schema.parameter]):
        raise invalid("the path is not valid", errors=[{"parameter": schema.parameter, "detail": schema.allowed}])
    return request.match_info


def _query(schema: Schema, request: web.Request) -> dict[str, Any]:
    values: dict[str, Any] = {}
    faults: list[dict[str, str]] = []
    query = request.query
    for name in dict.fromkeys(query):
        given = query.getall(name)
        if any(True for text in (name, *given) for _ in canonical.faults(text)):
            faults.append({"parameter": _printable(name), "detail": "holds a character that is not allowed"})
        elif isinstance(schema.fields.get(name), fields.List):
            values[name] = given
        elif len(given) > 1:
            faults.append({"parameter": name, "detail": "must be given once"})
        else:
            values[name] = given[0]
    if faults:
        raise invalid("the query is not valid", errors=faults)
    return values


async def _body(schema: Body, request: web.Request) -> Any:
    if request.content_length is not None and request.content_length > BODY_LIMIT:
        raise too_large()
    if schema.optional and not request.body_exists:
        return {}
    if request.body_exists and request.content_type not in schema.media_types:
        allowed = ", ".join(schema.media_types)
        raise Problem(
            415,
            f"the body's media type must be {' or '.join(schema.media_types)}",
            errors=[{"header": "Content-Type", "detail": f"must be one of {allowed}"}],
            headers={"Accept-Patch" if request.method == "PATCH" else "Accept": allowed},
        )
    if request.headers.get("Content-Encoding", "identity").lower() not in ("identity", *CODINGS):
        raise Problem(
            415,
            f"the body's content coding must be {' or '.join(CODINGS)}",
            errors=[{"header": "Content-Encoding", "detail": f"must be one of {', '.join(CODINGS)}, or left out"}],
            headers={"Accept-Encoding": ", ".join(CODINGS)},
        )
    raw = await _read(request)
    if not raw:
        if schema.optional:
            return {}
        raise invalid("a body is required", errors=[{"pointer": "", "detail": "must be a JSON object"}])
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise invalid("the body is not valid", errors=[{"pointer": "", "detail": "must be a JSON object"}])
    return value


async def _read(request: web.Request) -> bytes:
    """All of the body. Raises :class:`Problem` where it breaks: is not encoded as it says, or its client is gone."""
    try:
        return await request.read()
    except (web.RequestPayloadError, OSError):
        raise unreadable() from None


def parse_json(raw: bytes) -> Any:
    """Strict JSON: no key twice, no NaN, nothing nested too deeply, and only what both doors can store."""
    try:
        value = _DECODER.decode(raw.decode())
    except UnicodeDecodeError:
        raise invalid("the body is not UTF-8") from None
    except _Twice as error:
        raise invalid("the body is not valid", errors=[{"pointer": "", "detail": str(error)}]) from None
    except json.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise invalid("the body is not JSON: a number has too many digits, or is not one") from None
    if raw.count(b"{") + raw.count(b"[") > canonical.DEEPEST and canonical.depth(value) > canonical.DEEPEST:
        raise _too_deep()
    if _SUSPECT.search(raw) is None:
        return value
    if faults := [{"pointer": path, "detail": why} for path, why in canonical.faults(value)]:
        raise invalid("the body holds what cannot be stored", errors=faults)
    return value


class _Twice(ValueError):
    """A key is there twice; which of them is meant, nobody can say."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Twice(f"key {_printable(twice)[:64]!r} is there twice")
    return value


def _constant(name: str) -> Any:
    raise ValueError(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _too_deep() -> Problem:
    return invalid(f"the body is nested more than {canonical.DEEPEST} levels deep")


def _printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode().replace("\x00", "\\0")


def _load(schema: Schema, value: Any, *, where: Any) -> Any:
    try:
        return schema.load(value)
    except ValidationError as error:
        what = "body" if isinstance(schema, Body) else "query"
        raise invalid(f"the {what} is not valid", errors=list(where(error.messages, ()))) from None


def _pointer(messages: Any, path: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """marshmallow's nested messages as JSON pointers."""
    if isinstance(messages, dict):
        for key, inner in messages.items():
            yield from _pointer(inner, (*path, str(key)))
        return
    pointer = "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in path)
    for message in messages:
        yield {"pointer": pointer, "detail": message}


def _parameter(messages: Mapping[str, Any], _: tuple[str, ...]) -> Iterator[dict[str, str]]:
    for name, inner in messages.items():
        texts = inner if isinstance(inner, list) else [text for one in inner.values() for text in one]
        for text in texts:
            yield {"parameter": name, "detail": text}
