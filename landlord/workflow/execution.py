"""What a workflow and the engine that runs it ask of each other.

The workflow is a function of its payload and of ``step``; everything an engine adds (checkpoints, fences, retries)
hides behind these two. A run ends as ``failed`` by raising :class:`landlord.workflow.provider.RunFailed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol


def meant(error: BaseException) -> bool:
    """Whether this is a cancellation that somebody asked of the current task. One that nobody did comes from what a
    provider waited for, and is an error of the provider's like any other."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class Step(Protocol):
    """Runs ``action`` as the named step of a run, at least once; a step that is recorded as done is not run again.

    The value must be JSON; what comes back is that value, whether the action has just run or ran in an earlier life
    of the run. Raises what the action raises; ``CancelledError`` when the run is to stop here.
    """

    async def __call__(self, name: str, action: Callable[[], Awaitable[Any]], /) -> Any: ...


Execute = Callable[[bytes, Step], Awaitable[Any]]
"""A workflow: payload bytes and ``step`` in, JSON output out. Must give way to cancellation promptly."""


class Worker(Protocol):
    """Executes runs of one engine in this process. Providers' workers inherit from it."""

    @property
    def fault(self) -> str | None:
        """Why an engine that is well gives this very worker no run, or null."""
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then finish or hand back what runs, and return.

        Outages of the engine are waited out, never raised. Cancelling this call is like killing the process: nothing
        is handed back.
        """
        ...
