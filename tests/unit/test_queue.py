"""The keyed queue by its promises: once per put at least, never twice at a time, failures come back later."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from landlord.queue import KeyedQueue


async def drive(puts: list[str], *, workers: int, fail: frozenset[str]) -> tuple[Counter[str], int]:
    """Put, working slowly; how often each key was looked at, and how often one was in two hands."""
    queue: KeyedQueue[str] = KeyedQueue(backoff=0.001, backoff_limit=0.002)
    looked: Counter[str] = Counter()
    failed: set[str] = set()
    busy: set[str] = set()
    twice = 0

    async def look(key: str) -> bool:
        nonlocal twice
        twice += key in busy
        busy.add(key)
        await asyncio.sleep(0)
        busy.discard(key)
        looked[key] += 1
        if key in fail and key not in failed:
            failed.add(key)
            return False
        return True

    tasks = [asyncio.create_task(queue.work(look)) for _ in range(workers)]
    for number, key in enumerate(puts):
        queue.put(key)
        if number % 3 == 0:
            await asyncio.sleep(0)
    for _ in range(500):
        if not queue.depth and not busy and not queue.failing:
            break
        await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert queue.depth == 0
    assert queue.failing == 0
    return looked, twice


@settings(max_examples=40, deadline=None)
@given(
    puts=st.lists(st.sampled_from("abc"), max_size=20),
    workers=st.integers(1, 4),
    fail=st.frozensets(st.sampled_from("abc")),
)
def test_every_key_is_looked_at_and_never_by_two(puts: list[str], workers: int, fail: frozenset[str]) -> None:
    looked, twice = asyncio.run(drive(puts, workers=workers, fail=fail))
    assert set(looked) == set(puts)
    assert twice == 0
    for key, times in looked.items():
        assert 1 + (key in fail) <= times <= puts.count(key) + (key in fail)


async def test_a_key_put_while_it_is_looked_at_is_looked_at_again() -> None:
    queue: KeyedQueue[str] = KeyedQueue()
    entered, leave, looks = asyncio.Event(), asyncio.Event(), 0

    async def look(_: str) -> bool:
        nonlocal looks
        looks += 1
        entered.set()
        await leave.wait()
        return True

    task = asyncio.create_task(queue.work(look))
    queue.put("a")
    await entered.wait()
    for _ in range(10):
        queue.put("a")
    leave.set()
    await asyncio.sleep(0.01)
    assert looks == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_failing_key_delays_no_other() -> None:
    queue: KeyedQueue[str] = KeyedQueue(backoff=30)
    seen: list[str] = []

    async def look(key: str) -> bool:
        seen.append(key)
        return key != "poisoned"

    task = asyncio.create_task(queue.work(look))
    queue.put("poisoned")
    queue.put("a")
    await asyncio.sleep(0.01)
    queue.put("b")
    await asyncio.sleep(0.01)
    assert seen == ["poisoned", "a", "b"]
    queue.put("poisoned")  # somebody has a reason to look now
    await asyncio.sleep(0.01)
    assert seen[-1] == "poisoned"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
