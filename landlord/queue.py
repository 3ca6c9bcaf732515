"""A level-triggered work queue of keys, as controllers in Kubernetes use it.

A key says only "look at this": however often it is put before somebody looks, it is looked at once; put while it is
being looked at, once more. One key is never in two hands. A key that failed comes back after a back-off of its own, so
one poisoned key delays no other.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class KeyedQueue(Generic[Key]):
    """Put from anywhere in the loop; :meth:`work` in as many tasks as may work at once."""

    def __init__(self, *, backoff: float = 0.2, backoff_limit: float = 300.0) -> None:
        self._ready: OrderedDict[Key, None] = OrderedDict()
        self._busy: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._backoff = backoff
        self._backoff_limit = backoff_limit

    @property
    def depth(self) -> int:
        """Keys that wait to be looked at, without those backing off."""
        return len(self._ready)

    @property
    def failing(self) -> int:
        """Keys whose last look failed."""
        return len(self._failures)

    def put(self, key: Key) -> None:
        """Look at this soon; ends the key's back-off."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        if key in self._busy:
            self._again.add(key)
            return
        self._ready[key] = None
        self._wake()

    def put_later(self, key: Key, *, seconds: float) -> None:
        """Look at this in so many seconds, unless it is put before."""
        if key in self._timers or key in self._ready:
            return
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.put, key)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.pop()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _get(self) -> Key:
        while not self._ready:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        key, _ = self._ready.popitem(last=False)
        self._busy.add(key)
        return key

    def _done(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.put(key)

    async def work(self, look: Callable[[Key], Awaitable[bool]]) -> None:
        """Look at keys for ever. ``look`` says whether it succeeded; a key that did not comes back later.

        ``look`` must not raise: who looks knows what an error means.
        """
        while True:
            key = await self._get()
            if await look(key):
                self._failures.pop(key, None)
            else:
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                delay = min(self._backoff_limit, self._backoff * 2 ** min(failures - 1, 30))
                self.put_later(key, seconds=delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            self._done(key)
