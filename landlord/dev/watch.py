"""Noticing that a component has ended which nobody had asked to.

Landlord's own processes are started again (:mod:`landlord.dev.service`). Without a database, an engine or a cluster
they would only wait, so that the end of one of those is the end of everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from landlord.dev.processes import Child

Watch = Callable[[Child], None]


@asynccontextmanager
async def watching(*, say: Callable[[str], None]) -> AsyncIterator[Watch]:
    """Gives what is called with each child that has to last as long as the context.

    When one ends, ``say`` is told, the body is cancelled, and :class:`LauncherError` is raised instead.
    """
    tasks: list[asyncio.Task[None]] = []

    async def ended(child: Child) -> None:
        await child.wait()
        say(f"{child.name} has ended: stopping everything")  # which takes seconds
        raise child.end()

    try:
        async with asyncio.TaskGroup() as group:
            yield lambda child: tasks.append(group.create_task(ended(child)))
            for task in tasks:
                task.cancel()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
