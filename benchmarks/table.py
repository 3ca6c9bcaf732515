"""What is measured, as one table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

COLUMNS = ("what", "measured", "on Restate", "limit in the same run", "share", "aim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line. ``measured`` on the ``local`` engine, ``restate`` on the other where it makes a difference; ``limit``
    and ``share`` where something of the same rounds bounds it; ``aim`` of the design."""

    what: str
    measured: str
    restate: str = ""
    limit: str = ""
    share: str = ""
    aim: str = ""


def markdown(rows: Iterable[Row]) -> str:
    """The table, aligned for reading as it is."""
    cells = [COLUMNS, *((row.what, row.measured, row.restate, row.limit, row.share, row.aim) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The median of several rounds, with the lowest and the highest."""
    middle = show(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))} to {show(max(values))})"


def rate(value: float) -> str:
    return f"{value:,.0f}/s"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def percent(value: float) -> str:
    return f"{value:.0%}"


def quantile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
