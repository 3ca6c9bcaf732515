"""Many concurrent calls, few statements: who arrives while a statement runs goes together in the next one.

Nobody waits for a batch to fill: a caller alone is served at once, and nobody waits long for a statement that is slow.
See ``benchmarks/`` for what it brings.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

SLOTS = 2
"""Statements that run at a time."""
PATIENCE = 0.01
"""Seconds after which a statement is slow and the next one goes beside it. Sooner, there would be twice as many, each
for half as many callers: a GET cost a tenth more."""

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
        most: int = 128,
        waiting: int = 10_000,
    ) -> None:
        self._run = run
        self._key = key
        self._isolate = isolate
        self._most = most
        self._bound = waiting
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._tasks: set[asyncio.Task[None] | None] = set()
        self._taken_at = 0.0
        """When the last statement began, by the loop's clock."""
        self._overtaking: asyncio.TimerHandle | None = None

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
        if not self._queue or len(self._tasks) == SLOTS:
            return
        loop = asyncio.get_running_loop()
        if self._tasks:  # it goes on with the next batch, unless it is slow
            if self._overtaking is not None:
                return
            due = self._taken_at + PATIENCE
            if loop.time() < due:
                self._overtaking = loop.call_at(due, self._overtake)
                return
        # A task of its own: a caller that is cancelled must not take its batch with it.
        self._tasks.add(loop.create_task(self._serve_some()))
        self._taken_at = loop.time()

    def _overtake(self) -> None:
        self._overtaking = None
        self._serve()

    async def _serve_some(self) -> None:
        """Until nobody waits, or another task is there to go on."""
        # One turn of the loop more: who is just being read from a socket goes with them.
        await asyncio.sleep(0)
        try:
            while batch := self._take():
                self._taken_at = asyncio.get_running_loop().time()
                await self._answer(batch)
                if len(self._tasks) > 1:
                    break
        finally:
            # Here and not in a callback, which would run after those who have just been answered: they may call again.
            self._tasks.discard(asyncio.current_task())
        self._serve()

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
