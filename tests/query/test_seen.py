"""What a growing relation has had, held to a set of rows, also where rows do not fit together."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahike_async.edn.types import Symbol
from datahike_async.index.columns import INT, Column
from datahike_async.query.relations import seen
from datahike_async.query.relations.relation import Relation, column_of
from datahike_async.query.relations.seen import Seen
from datahike_async.values.types import typed_key

VALUES = st.one_of(
    st.integers(-2, 9), st.sampled_from([2**20, 2**40, 2**62, -(2**62), True, 1.0, "1", "a"])
)


def relation_of(names: list[Symbol], rows: list[tuple[Any, ...]]) -> Relation:
    columns = {v: column_of([row[i] for row in rows]) for i, v in enumerate(names)}
    return Relation(columns, len(rows))


def keyed(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(map(typed_key, row))


@pytest.mark.parametrize("whole", [63, 24, 9])
@settings(max_examples=40)
@given(st.data())
def test_new_rows_are_those_that_were_not_there(whole: int, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 5))
    names = [Symbol(f"?{i}") for i in range(width)]
    rounds = data.draw(st.lists(st.lists(st.tuples(*[VALUES] * width), max_size=8), max_size=6))
    known: set[Any] = set()
    with mock.patch.multiple(seen, _WHOLE=whole, _LEAST=2):
        had = Seen(names)
        for rows in rounds:
            before = had
            had, new = had.added(relation_of(names, rows))
            again = before.added(relation_of(names, rows))[1]
            fresh = {keyed(row) for row in rows} - known
            for found in (new, again):
                there = [*zip(*(found.columns[v].tolist() for v in names), strict=True)]
                assert len(there) == found.count == len(fresh)
                assert set(map(keyed, there)) == fresh
            known |= fresh


def test_rows_of_small_numbers_are_kept_without_a_call_for_each() -> None:
    names = [Symbol("?a"), Symbol("?b"), Symbol("?c")]
    data = np.arange(10_000)
    columns = {v: Column(INT, data % n) for v, n in zip(names, (9_000, 7, 3), strict=True)}
    with mock.patch.object(seen, "walked", side_effect=AssertionError("walked")):
        had, new = Seen(names).added(Relation(columns, len(data)))
        assert new.count == len(data)
        assert had.added(new)[1].count == 0


def test_rows_that_no_longer_fit_are_still_known() -> None:
    names = [Symbol("?a"), Symbol("?b"), Symbol("?c")]
    first = [(1, 2, 3), ("a", 2, 3)]
    many = [(f"{i}", 2, 3) for i in range(9)]
    with mock.patch.object(seen, "_WHOLE", 9), mock.patch.object(seen, "_LEAST", 2):
        had, _ = Seen(names).added(relation_of(names, first))
        had, new = had.added(relation_of(names, [*first, *many]))
        assert new.count == len(many)
        assert had.added(relation_of(names, [*many, *first]))[1].count == 0
