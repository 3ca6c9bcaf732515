"""Over its rotations a sample takes every call."""

from __future__ import annotations

import pytest
from crash import sampling


@pytest.mark.parametrize("calls", [1, 3, 4, 5, 17, 55])
def test_every_call_has_its_turn(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for number in range(-(-calls // 4)):
        monkeypatch.setattr(sampling, "rotation", lambda number=number: number)
        taken += sampling.sample(calls, points=4, shift=3)
    assert sorted(taken) == list(range(1, calls + 1))


@pytest.mark.parametrize("of", [1, 3, 33])
def test_a_call_that_a_run_did_not_come_to_is_replaced_by_one_it_made(of: int) -> None:
    assert {sampling.earlier(at, of=of) for at in range(of + 1, 3 * of + 1)} == set(range(1, of + 1))


def test_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sampling.VARIABLE, "all")
    sampling.rotation.cache_clear()
    try:
        assert sampling.sample(55, points=4, shift=1) == list(range(1, 56))
    finally:
        sampling.rotation.cache_clear()
