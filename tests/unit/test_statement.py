"""How parameters get their numbers."""

from __future__ import annotations

import pytest

from landlord.database.statement import Statement


def test_parameters_are_numbered_in_their_order_and_each_once() -> None:
    statement = Statement("select :b, :a, :b::text, cast(:a_list as text[])")
    assert statement.sql == b"select $1, $2, $1::text, cast($3 as text[])"
    assert statement.arguments({"a": 1, "b": 2, "a_list": [3], "more": 4}) == [2, 1, [3]]


def test_casts_are_no_parameters() -> None:
    assert Statement("select '1'::bigint, now() -- 12:30").sql == b"select '1'::bigint, now() -- 12:30"


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(KeyError, match="ids"):
        Statement("select :ids").arguments({"id": "a"})
