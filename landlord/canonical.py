"""Canonical JSON: one value, one sequence of bytes.

Payload digests, idempotency digests and the mirror's spec hash all rest on this: equal values must give equal bytes in
every process, release and after a trip through Postgres or the Kubernetes API server. So keys are sorted and an
integral float is written as an integer (both stores do so at times), and what the stores disagree on is refused by
:func:`faults` before it is accepted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import orjson

LARGEST_INTEGER = 2**53
"""Integers beyond this are not represented alike by Postgres, JavaScript and the Kubernetes API server."""
DEEPEST = 64
"""Levels of nesting. The stores take thousands; what walks through a value in one of our processes does not."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def dumps(value: Any) -> bytes:
    """The canonical bytes of a JSON value (sorted keys, no blanks, integral floats as integers)."""
    try:
        written = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # of an integer beyond 64 bits, as the API server may show one: it is to be refused, not to break
        return orjson.dumps(_normal(value), option=orjson.OPT_SORT_KEYS)
    # Rarely there is an integral float, which is the one thing that orjson writes otherwise.
    return orjson.dumps(_normal(value), option=orjson.OPT_SORT_KEYS) if b".0" in written else written


def digest(data: bytes) -> str:
    """SHA-256 of the bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def equal(left: Any, right: Any) -> bool:
    """Whether two JSON values are the same, whatever the order of keys and the spelling of numbers."""
    return dumps(left) == dumps(right)


def depth(value: Any) -> int:
    """Levels of nesting of a JSON value, however many: 0 for a scalar, 1 for ``{}``."""
    levels, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        levels += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return levels


def cut(value: Any, *, levels: int) -> Any:
    """The value down to so many levels, with null for all objects and arrays below; itself if it has no more."""
    return value if depth(value) <= levels else _cut(value, levels)


def faults(value: Any) -> Iterator[tuple[str, str]]:
    """What in a JSON value cannot be stored by both doors alike, as (JSON pointer, reason)."""
    if depth(value) > DEEPEST:
        yield "", f"is nested more than {DEEPEST} levels deep"
    else:
        yield from _faults(value, "")


def storable(value: Any) -> Any:
    """The value with what no store takes replaced by U+FFFD: for words of others, which cannot be refused."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd") if _text_fault(value) else value
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def _cut(value: Any, levels: int) -> Any:
    if isinstance(value, dict):
        return {key: _cut(item, levels - 1) for key, item in value.items()} if levels else None
    if isinstance(value, list):
        return [_cut(item, levels - 1) for item in value] if levels else None
    return value


def _faults(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if reason := _text_fault(value):
            yield path, reason
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if abs(value) > LARGEST_INTEGER:
            yield path, "is an integer beyond ±2^53"
    elif isinstance(value, float):
        if value != value or abs(value) == float("inf"):
            yield path, "is not a finite number"
        elif value.is_integer() and abs(value) > LARGEST_INTEGER:
            yield path, "is an integer beyond ±2^53"
    elif isinstance(value, dict):
        for key, item in value.items():
            where = f"{path}/{_escape(key)}"
            if reason := _text_fault(key):
                yield where, f"key {reason}"
            yield from _faults(item, where)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _faults(item, f"{path}/{index}")


def _text_fault(text: str) -> str | None:
    found = _UNSTORABLE.search(text)
    if found is None:
        return None
    return "contains a NUL character" if found[0] == "\x00" else "contains a lone surrogate"


def _escape(key: str) -> str:
    """RFC 6901, with what cannot be printed replaced."""
    return key.replace("~", "~0").replace("/", "~1").encode("utf-8", "replace").decode().replace("\x00", "?")


def _normal(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_INTEGER:
        return int(value)
    if isinstance(value, int) and value.bit_length() > 63:
        return float(value)
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    return value
