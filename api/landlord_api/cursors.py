"""Opaque cursors of keyset pages."""

from __future__ import annotations

import base64
import re

from landlord.tenants.model import TENANT_ID
from landlord_api.problems import Problem, invalid

NEWEST = 2**63 - 1
"""Above every sequence number."""


def encode(kind: str, last: str | int) -> str:
    """For the page after ``last``; ``kind`` keeps the cursor of one list from being used with another."""
    return base64.urlsafe_b64encode(f"{kind}:{last}".encode()).rstrip(b"=").decode()


def after_id(kind: str, cursor: str | None) -> str | None:
    """The tenant id that a cursor holds. Raises :class:`Problem`."""
    if cursor is None:
        return None
    last = _decode(kind, cursor)
    if not TENANT_ID.fullmatch(last):
        raise _malformed()
    return last


def below(kind: str, cursor: str | None) -> int:
    """The sequence number that a cursor holds. Raises :class:`Problem`."""
    if cursor is None:
        return NEWEST
    last = _decode(kind, cursor)
    if not re.fullmatch("[0-9]{1,18}", last):
        raise _malformed()
    return int(last)


def _decode(kind: str, cursor: str) -> str:
    """What follows the kind; only what :func:`encode` makes of it again was made here."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        raise _malformed() from None
    last = text.partition(":")[2]
    if encode(kind, last) != cursor:
        raise _malformed()
    return last


def _malformed() -> Problem:
    detail = "must be the next_cursor of the page before"
    return invalid("the query is not valid", errors=[{"parameter": "cursor", "detail": detail}])
