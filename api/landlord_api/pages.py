"""Pages of lists: so many items at most, and no more of large ones than this process can carry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import orjson

from landlord_api import records

LARGEST = 8 * 2**20
"""Bytes after which a page ends, however few its items are: a thousand of the largest would have 200 MB."""
STEP = 100
"""Rows that are read at a time."""

Row = TypeVar("Row")
Place = TypeVar("Place")


async def fill(
    fetch: Callable[[Place, int], Awaitable[Sequence[Row]]],
    *,
    after: Place,
    limit: int,
    place: Callable[[Row], Place],
    show: Callable[[Row], dict[str, Any]],
    cursor: Callable[[Row], str],
) -> tuple[list[orjson.Fragment], str | None]:
    """At most ``limit`` of the rows after a place, as they are shown, and the cursor of the last if more follow.

    ``fetch(after, n)`` gives the next n rows, fewer only where there are no more.
    """
    shown: list[orjson.Fragment] = []
    size = 0
    while True:
        wanted = min(STEP, limit - len(shown))
        rows = await fetch(after, wanted + 1)
        for number, row in enumerate(rows[:wanted], start=1):
            text = records.dumps(show(row))
            shown.append(orjson.Fragment(text))
            size += len(text)
            after = place(row)
            if number < len(rows) and (size >= LARGEST or len(shown) == limit):
                return shown, cursor(row)
        if len(rows) <= wanted:
            return shown, None
