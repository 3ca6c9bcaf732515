"""Canonical JSON by properties: equal values have equal bytes, and what stores disagree on is found."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landlord import canonical

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=8)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False, width=32)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
ANY_TEXT = st.text(max_size=6) | st.sampled_from(["\x00", "\ud800", "a\x00b"])
HOSTILE: st.SearchStrategy[Any] = st.recursive(
    ANY_TEXT | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=10,
)


def shuffled(value: Any) -> Any:
    """The same value with its keys the other way round, and integers spelt as floats where that is exact."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return [shuffled(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and float(value) == value:
        return float(value)
    return value


@given(JSON)
def test_the_spelling_of_a_value_does_not_matter(value: Any) -> None:
    assert canonical.dumps(value) == canonical.dumps(shuffled(value))
    assert canonical.equal(value, orjson.loads(canonical.dumps(value)))


def test_what_the_api_server_writes_of_a_large_float_can_be_compared() -> None:
    """Up to 10^21 it writes all digits, which no 64 bits hold."""
    assert canonical.equal({"a": [10**20]}, {"a": [1e20]})
    assert not canonical.equal({"a": 10**20}, {"a": 10**19})


@given(JSON)
def test_its_input_is_left_alone(value: Any) -> None:
    before = copy.deepcopy(value)
    canonical.dumps(value)
    assert value == before


@given(HOSTILE)
def test_what_has_no_faults_can_be_written(value: Any) -> None:
    if not list(canonical.faults(value)):
        written = canonical.dumps(value)
        assert canonical.dumps(orjson.loads(written)) == written


@given(HOSTILE)
def test_what_others_say_can_always_be_stored(value: Any) -> None:
    stored = canonical.storable(value)
    assert all("beyond" in reason or "finite" in reason for _, reason in canonical.faults(stored))


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize("levels", [0, 1, 64, 100_000])
def test_depth_is_measured_whatever_it_is(levels: int) -> None:
    assert canonical.depth(nested(levels)) == levels


@pytest.mark.parametrize("levels", [canonical.DEEPEST, canonical.DEEPEST + 1, 100_000])
def test_what_is_nested_too_deeply_is_one_fault(levels: int) -> None:
    found = [("", "is nested more than 64 levels deep")] if levels > canonical.DEEPEST else []
    assert list(canonical.faults(nested(levels))) == found


@given(JSON, st.integers(0, 3))
def test_cut_to_so_many_levels(value: Any, levels: int) -> None:
    short = canonical.cut(value, levels=levels)
    assert canonical.depth(short) == min(canonical.depth(value), levels)
    if canonical.depth(value) <= levels:
        assert short is value


def test_cut_of_very_many_levels() -> None:
    assert canonical.depth(canonical.cut(nested(100_000), levels=128)) == 128


@pytest.mark.parametrize(
    ("value", "pointer", "reason"),
    [
        ({"a": {"b/c": ["\x00"]}}, "/a/b~1c/0", "NUL"),
        ({"a": "\ud800"}, "/a", "surrogate"),
        ({"a": 2**53 + 1}, "/a", "2^53"),
        ({"a": 1e300}, "/a", "2^53"),
        ({"a": float("nan")}, "/a", "finite"),
        ({"\x00": 1}, "/?", "NUL"),
    ],
)
def test_faults_are_named_with_their_place(value: Any, pointer: str, reason: str) -> None:
    [(where, why)] = list(canonical.faults(value))
    assert where == pointer
    assert reason in why
