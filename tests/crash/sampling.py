"""Which calls of a path something happens to, where all of them at every run would take too long.

Every so many of them, and another time the ones beside those: which ones follows from the number of commits and the
day, so that CI goes round. ``CRASH_ROTATION=all`` takes all of them, ``CRASH_ROTATION=3`` the third
lot, to see it again.
"""

from __future__ import annotations

import functools
import os
import subprocess
import time
from pathlib import Path

VARIABLE = "CRASH_ROTATION"
"""Without the prefix of settings: every process refuses one that it does not know."""


@functools.cache
def rotation() -> int | None:
    """Where this run begins; null for all points."""
    given = os.environ.get(VARIABLE, "")
    if given == "all":
        return None
    if given:
        return int(given)
    command = ["git", "rev-list", "--count", "HEAD"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    commits = int(found.stdout) if found.returncode == 0 else 0
    return commits + int(time.time() // 86400)


def limit() -> int:
    """Seconds for one test."""
    return 600 if rotation() is not None else 7200


def sample(calls: int, *, points: int, shift: int = 0) -> list[int]:
    """Numbers of calls, from 1: at most ``points`` (or so) this time, over some rotations all.

    ``shift`` sets those of one kind of fault apart from those of another.
    """
    begin = rotation()
    step = 1 if begin is None else -(-calls // points)
    return list(range(1 + ((begin or 0) + shift) % step, calls + 1, step))


def earlier(at: int, *, of: int) -> int:
    """A call in place of ``at``, which a run that made ``of`` of them did not come to: how many it makes varies."""
    return 1 + at % of
