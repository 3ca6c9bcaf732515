"""The headers that make a request conditional or repeatable: If-Match, If-None-Match, Idempotency-Key."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from landlord import canonical
from landlord.tenants.model import IdempotencyKey
from landlord_api.problems import invalid

_ELEMENT = re.compile(r'[ \t]*(?:((?:W/)?"[^\x00-\x20"\x7f]*")[ \t]*)?(?:,|$)')
"""Of a list of entity tags; one that is empty is passed over (RFC 9110, 5.6.1.2)."""
_OURS = re.compile(r'"([0-9]{1,18})-[0-9]{1,18}"')
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

IF_MATCH: dict[str, Any] = {
    "in": "header",
    "name": "If-Match",
    "schema": {"type": "string"},
    "description": "ETags the request is meant for; only their version counts, a status that moved on refuses nothing.",
}
IF_NONE_MATCH: dict[str, Any] = {
    "in": "header",
    "name": "If-None-Match",
    "schema": {"type": "string"},
    "description": "ETags the client has: 304 if one of them is still right.",
}
IDEMPOTENCY_KEY: dict[str, Any] = {
    "in": "header",
    "name": "Idempotency-Key",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "description": "A second request with the same key joins the first. Kept for a day at least.",
}


def _tags(request: web.Request, header: str) -> list[str] | None:
    """The entity tags of a header (``["*"]`` for any), or null without one. Raises :class:`Problem`."""
    values = request.headers.getall(header, None)
    if values is None:
        return None
    text = ",".join(values).strip(" \t")
    if text == "*":
        return ["*"]
    tags: list[str] = []
    position = 0
    while position < len(text):
        if (found := _ELEMENT.match(text, position)) is None:
            tags.clear()
            break
        if found[1] is not None:
            tags.append(found[1])
        position = found.end()
    if not tags:
        detail = 'must be "*" or a list of entity tags in double quotes'
        raise invalid(f"{header} is not valid", errors=[{"header": header, "detail": detail}])
    return tags


def not_modified(request: web.Request, etag: str) -> bool:
    """Whether If-None-Match has this tag (weak comparison)."""
    if "If-None-Match" not in request.headers:
        return False
    tags = _tags(request, "If-None-Match") or []
    return "*" in tags or any(tag.removeprefix("W/") == etag for tag in tags)


_INSTEAD = {
    "If-None-Match": "what makes a change conditional is If-Match",
    "If-Match": "what is yet to be made has no version",
}


def refuse(request: web.Request, *headers: str) -> None:
    """A change would be made whatever they say. Raises :class:`Problem`."""
    for header in headers:
        if header in request.headers:
            detail = f"must not be given; {_INSTEAD[header]}"
            raise invalid(f"{header} is not understood here", errors=[{"header": header, "detail": detail}])


def expected_versions(request: web.Request) -> frozenset[int] | None:
    """The versions If-Match allows; null for all of them. Weak tags and foreign ones match none."""
    tags = _tags(request, "If-Match")
    if tags is None or tags == ["*"]:
        return None
    return frozenset(int(found[1]) for tag in tags if (found := _OURS.fullmatch(tag)))


def idempotency_key(request: web.Request, *, caller: str, path: str, body: Any) -> IdempotencyKey | None:
    """``path`` without the prefix that the client happened to use. Raises :class:`Problem`."""
    given = request.headers.getall("Idempotency-Key", None)
    if given is None:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        detail = "must be given once, with 1 to 255 printable ASCII characters and no blanks"
        raise invalid("Idempotency-Key is not valid", errors=[{"header": "Idempotency-Key", "detail": detail}])
    return IdempotencyKey(
        caller=caller,
        method=request.method,
        path=path,
        key=given[0],
        body_digest=canonical.digest(canonical.dumps(body)),
    )
