"""Who waits for whom when many calls become few statements."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from landlord.database.coalescer import SLOTS, Coalescer, Overloaded


class Statements:
    """Each waits until it is let go; records what each was run for."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self._gates: list[asyncio.Event] = []

    async def run(self, items: Sequence[str]) -> list[str]:
        gate = asyncio.Event()
        self.batches.append(list(items))
        self._gates.append(gate)
        await gate.wait()
        if "spoilt" in items:
            raise ValueError
        return [item.upper() for item in items]

    def answer(self, number: int) -> None:
        self._gates[number].set()

    async def begun(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.batches) < count:
                await asyncio.sleep(0.001)


@pytest.fixture
def statements() -> Statements:
    return Statements()


async def _at_once(items: Sequence[str]) -> list[str]:
    return [item.upper() for item in items]


def call(coalescer: Coalescer[str, str], *items: str) -> list[asyncio.Task[str]]:
    async def one(item: str) -> str:
        return await coalescer(item)

    return [asyncio.get_running_loop().create_task(one(item)) for item in items]


async def test_who_comes_a_turn_of_the_loop_later_goes_with_the_first(statements: Statements) -> None:
    coalescer = Coalescer(statements.run)
    first = call(coalescer, "a")
    await asyncio.sleep(0)
    second = call(coalescer, "b")
    await statements.begun(1)
    statements.answer(0)
    assert await asyncio.gather(*first, *second) == ["A", "B"]
    assert statements.batches == [["a", "b"]]


async def test_who_arrives_while_one_runs_goes_together_in_the_next(statements: Statements) -> None:
    coalescer = Coalescer(statements.run)
    first = call(coalescer, "a")
    await statements.begun(1)
    others = call(coalescer, "b", "c")
    await asyncio.sleep(0)
    statements.answer(0)
    await statements.begun(2)
    statements.answer(1)
    assert await asyncio.gather(*first, *others) == ["A", "B", "C"]
    assert statements.batches == [["a"], ["b", "c"]]


async def test_who_calls_again_with_its_answer_in_the_hand_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landlord.database.coalescer.PATIENCE", 3600)
    coalescer = Coalescer(_at_once)
    async with asyncio.timeout(5):
        assert [await coalescer("a"), await coalescer("b")] == ["A", "B"]


async def test_who_comes_when_all_that_waited_is_done_does_not_wait(
    statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landlord.database.coalescer.PATIENCE", 3600)
    coalescer = Coalescer(statements.run)
    first = call(coalescer, "a")
    await statements.begun(1)
    second = call(coalescer, "b")
    await asyncio.sleep(0)
    statements.answer(0)
    await statements.begun(2)
    statements.answer(1)
    assert await asyncio.gather(*first, *second) == ["A", "B"]
    third = call(coalescer, "c")
    await statements.begun(3)
    statements.answer(2)
    assert await asyncio.gather(*third) == ["C"]


async def test_a_slow_statement_is_overtaken_and_by_no_more_than_there_are_slots(statements: Statements) -> None:
    coalescer = Coalescer(statements.run)
    slow = call(coalescer, "slow")
    await statements.begun(1)
    waiting = call(coalescer, "b", "c")
    await statements.begun(2)
    statements.answer(1)
    assert await asyncio.gather(*waiting) == ["B", "C"], "the slow one has not answered yet"
    another, late = call(coalescer, "d"), []
    await statements.begun(3)
    late = call(coalescer, "e")
    await asyncio.sleep(0.05)
    assert len(statements.batches) == 1 + SLOTS, "all slots are taken"
    statements.answer(0)
    await statements.begun(4)
    statements.answer(2)
    statements.answer(3)
    assert await asyncio.gather(*slow, *another, *late) == ["SLOW", "D", "E"]


async def test_items_of_one_key_go_one_after_the_other(statements: Statements) -> None:
    coalescer = Coalescer(statements.run, key=lambda item: item[0])
    calls = call(coalescer, "a1", "a2", "b1", "a3")
    for number in range(3):
        await statements.begun(number + 1)
        statements.answer(number)
    await asyncio.gather(*calls)
    assert statements.batches == [["a1", "b1"], ["a2"], ["a3"]]


async def test_only_the_culprit_fails(statements: Statements) -> None:
    coalescer = Coalescer(statements.run, isolate=lambda error: isinstance(error, ValueError))
    calls = call(coalescer, "a", "spoilt", "b")
    for number in range(4):
        await statements.begun(number + 1)
        statements.answer(number)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[0] == "A"
    assert isinstance(results[1], ValueError)
    assert results[2] == "B"


async def test_a_caller_that_goes_away_takes_nobody_with_it(statements: Statements) -> None:
    coalescer = Coalescer(statements.run)
    first = call(coalescer, "a", "b")
    await statements.begun(1)
    unsent = call(coalescer, "c", "d")
    await asyncio.sleep(0)
    first[0].cancel()
    unsent[0].cancel()
    await asyncio.sleep(0)
    statements.answer(0)
    await statements.begun(2)
    statements.answer(1)
    assert await first[1] == "B"
    assert await unsent[1] == "D"
    assert statements.batches == [["a", "b"], ["d"]]


async def test_too_many_are_turned_away(statements: Statements) -> None:
    coalescer = Coalescer(statements.run, waiting=2)
    first = call(coalescer, "a")
    await statements.begun(1)
    waiting = call(coalescer, "b", "c")
    await asyncio.sleep(0)
    assert coalescer.depth == 2
    with pytest.raises(Overloaded, match="2 calls are waiting"):
        await coalescer("d")
    for number in range(2):
        await statements.begun(number + 1)
        statements.answer(number)
    await asyncio.gather(*first, *waiting)
