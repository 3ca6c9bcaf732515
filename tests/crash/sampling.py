"""Which calls of a path something happens to, where not to all."""

from __future__ import annotations


def sample(calls: int, points: int) -> list[int]:
    """Numbers of calls, from 1: all, or as many as ``points`` evenly, with the first and the last."""
    if calls <= points:
        return list(range(1, calls + 1))
    return sorted({1 + round(index * (calls - 1) / (points - 1)) for index in range(points)})
