"""SQL as it is sent: the names of parameters become Postgres's ``$1``, ``$2`` … once, when a module is imported."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from psycopg.rows import namedtuple_row, tuple_row

_PARAMETER = re.compile(r"(?<!:):([a-z_]+)")
"""``:name``, but no cast (``::text``)."""


class Statement:
    """``text`` with parameters ``:name``. Its rows are named tuples; where columns share a name, plain ones."""

    __slots__ = ("_names", "rows", "sql")

    def __init__(self, text: str, *, positional: bool = False) -> None:
        names = tuple(dict.fromkeys(_PARAMETER.findall(text)))
        numbers = {name: f"${number}" for number, name in enumerate(names, start=1)}
        self.sql = _PARAMETER.sub(lambda found: numbers[found[1]], text).encode()
        self.rows: Callable[..., Any] = tuple_row if positional else namedtuple_row
        self._names = names

    def arguments(self, parameters: dict[str, Any]) -> list[Any]:
        """In the order of their numbers. Raises ``KeyError`` for one that is missing."""
        return [parameters[name] for name in self._names]
