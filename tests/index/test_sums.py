"""Sums of datoms: equal for equal sets of them, however they lie."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datahike_async.index import sums
from datahike_async.index.columns import INT, Column, Rows
from datahike_async.index.protocol import Order
from datahike_async.index.sums import in_order, sum_of, sums_by


def _values() -> Any:
    return st.one_of(
        st.integers(),
        st.booleans(),
        st.floats(),
        st.text(max_size=3),
        st.datetimes(timezones=st.just(UTC)),
        st.uuids(),
        st.binary(max_size=3),
        st.tuples(st.integers(0, 3), st.text(max_size=1)),
    )


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 2, _values(), st.integers(1, 9))))
def test_sums_are_those_of_sets_of_datoms(found: list[tuple[int, int, Any, int]]) -> None:
    """Whatever the order, and whichever column the values lie in; and of each other set another."""
    rows = found
    shuffled = rows[::-1]
    assert sum_of(as_rows(rows)) == sum_of(as_rows(shuffled))
    assert sum_of(as_rows(rows)) == sum(sum_of(as_rows([row])) for row in rows) % 2**64
    parts = sums_by(as_rows(rows))
    assert sum(part[1] for part in parts.values()) % 2**64 == sum_of(as_rows(rows))
    assert sum(part[0] for part in parts.values()) == len(rows)
    for i, (e, a, v, t) in enumerate(rows[:5]):
        for other in ((e + 1, a, v, t), (e, a + 1, v, t), (e, a, "other", t), (e, a, v, t + 1)):
            assert sum_of(as_rows([*rows[:i], other, *rows[i + 1 :]])) != sum_of(as_rows(rows))


def as_rows(rows: list[tuple[int, int, Any, int]]) -> Rows:
    e, a, v, t = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 4
    return Rows(np.array(e, np.int64), np.array(a, np.int32), Column.of(v), np.array(t, np.int64))


def test_one_value_has_one_sum_and_values_that_are_equal_in_python_have_several() -> None:
    assert sum_of(as_rows([(1, 1, 0.0, 1)])) == sum_of(as_rows([(1, 1, -0.0, 1)]))
    alike = [sum_of(as_rows([(1, 1, v, 1)])) for v in (1, 1.0, True, "1")]
    assert len(set(alike)) == 4


def test_rows_in_order_ascend_and_differ() -> None:
    rows = as_rows([(1, 1, "a", 1), (1, 1, "b", 1), (2, 1, "a", 1)])
    assert in_order(rows, Order.EAVT)
    assert in_order(rows, Order.AEVT)
    assert not in_order(rows, Order.AVET)
    assert in_order(rows.take(np.array([0, 2, 1])), Order.AVET)
    assert not in_order(rows.take(np.array([0, 0])), Order.EAVT)


def test_an_entity_and_a_value_cannot_be_chosen_so_that_others_have_their_sum() -> None:
    tag = int(sums._TAGS[INT])
    swapped, same = ((1001, 1002), (1002, 1001)), ((1001, 1001), (1002, 1002))
    for pairs in (swapped, same):
        one, other = (sum_of(as_rows([(e, 1, v ^ tag, 1)])) for e, v in pairs)
        assert one != other
