"""Many concurrent calls, few statements: who arrives while a statement runs goes together in the next one.

Nobody waits for a batch to fill: a caller alone is served at once. See ``benchmarks/`` for what it brings.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Overloaded(Exception):
    """More calls wait than the bound allows; the caller should shed load."""


class Coalescer(Generic[Item, Result]):
    """Runs ``run(batch)`` for what has been submitted; the i-th result (or exception) is the i-th caller's.

    ``key`` keeps two items with the same key out of one batch, in their order. ``isolate(exception)`` says that one
    item may have spoilt the batch: then each is run again alone, so that only the culprit fails. ``run`` must be safe
    to repeat for a batch that raised such an exception (a statement that failed has done nothing).
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        key: Callable[[Item], Hashable] | None = None,
        isolate: Callable[[Exception], bool] = lambda _: False,
        slots: int = 2,
        most: int = 128,
        waiting: int = 10_000,
    ) -> None:
        self._run = run
        self._key = key
        self._isolate = isolate
        self._most = most
        self._bound = waiting
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._free = slots
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def depth(self) -> int:
        """Calls that wait for a statement."""
        return len(self._queue)

    async def __call__(self, item: Item) -> Result:
        """The result for ``item``. Raises :class:`Overloaded`, or what ``run`` raised."""
        if len(self._queue) >= self._bound:
            raise Overloaded(f"{self._bound} calls are waiting already")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        self._serve()
        return await future

    def _serve(self) -> None:
        if self._free and self._queue:
            self._free -= 1
            # A task of its own: a caller that is cancelled must not take its batch with it.
            task = asyncio.get_running_loop().create_task(self._serve_one())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_one(self) -> None:
        try:
            while batch := self._take():
                await self._answer(batch)
        finally:
            self._free += 1

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        keys: set[Hashable] = set()
        left: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        while self._queue and len(batch) < self._most:
            item, future = self._queue.popleft()
            if future.done():  # its caller has gone away before anything was sent
                continue
            if self._key is not None and (key := self._key(item)) in keys:
                left.append((item, future))
                continue
            if self._key is not None:
                keys.add(key)
            batch.append((item, future))
        self._queue.extendleft(reversed(left))
        return batch

    async def _answer(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is handed to every caller
            if len(batch) > 1 and self._isolate(error):
                for single in batch:
                    await self._answer([single])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
