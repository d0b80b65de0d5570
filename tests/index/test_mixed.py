"""Columns of several kinds side by side are what a column of objects would be."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datahike_async.edn.types import Keyword
from datahike_async.index import mixed
from datahike_async.index.codec import decode_rows, encode_rows, pack, unpack
from datahike_async.index.columns import CODED, INT, OBJECT, Column, Rows
from datahike_async.index.mixed import Mixed, joined_rows
from datahike_async.values.types import typed_key

KINDS = (
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**80), 2**80),
    st.floats(),
    st.booleans(),
    st.text(max_size=3),
    st.builds(lambda n: Keyword(f"k{n}"), st.integers(0, 3)),
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)).map(lambda x: x.replace(tzinfo=UTC)),
    st.decimals(allow_nan=False, allow_infinity=False, places=2),
)
runs = st.lists(st.one_of([st.lists(kind, min_size=1, max_size=6) for kind in KINDS]), min_size=1)


def rows_of(values):
    count = len(values)
    return Rows(
        np.arange(count), np.zeros(count, np.int32), Column.of(values), np.ones(count, np.int64)
    )


def keys(values):
    return [typed_key(v) for v in values]


@given(parts=runs, data=st.data())
def test_a_mixed_column_is_read_as_one_of_objects(parts, data):
    values = [v for part in parts for v in part]
    picked = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=20))
    cut = sorted(data.draw(st.tuples(*[st.integers(0, len(values))] * 2)))
    small = mixed._SMALL
    for most in (0, small):
        mixed._SMALL = most
        try:
            # Joined once, and what was joined joined again.
            half = len(parts) // 2
            joined = [
                joined_rows([rows_of(p) for p in x]) for x in (parts[:half], parts[half:]) if x
            ]
            column = joined_rows(joined).v
            assert keys(column.value(i) for i in range(len(column))) == keys(values)
            chosen = column.take(np.array(picked, np.int64))
            assert keys(chosen.tolist()) == keys(values[i] for i in picked)
            part = column.slice(*cut)
            assert keys(part.compact().tolist()) == keys(values[slice(*cut)])
            assert keys(column.tolist()) == keys(values)
        finally:
            mixed._SMALL = small


@given(parts=runs)
def test_it_is_stored_as_one_of_objects(parts):
    values = [v for part in parts for v in part]
    rows = joined_rows([rows_of(part) for part in parts])
    read = decode_rows(unpack(pack(encode_rows(rows))))
    assert keys(read.v.tolist()) == keys(values)


def test_parts_of_a_kind_are_one_and_a_cut_holds_what_is_its_own():
    rows = joined_rows([rows_of([1, 2]), rows_of(["a"]), rows_of([3]), rows_of(["b"] * 5000)])
    assert isinstance(rows.v, Mixed)
    assert {part.kind: len(part) for part in rows.v.parts} == {INT: 3, CODED: 5001}
    own = rows.slice(1, 4).owned().v
    assert own.kind == OBJECT
    assert own.tolist() == [2, "a", 3]
    one_kind = joined_rows([rows_of([1]), rows_of([2])]).v
    assert one_kind.kind == INT


def test_slices_of_one_column_that_are_joined_have_its_values_once():
    whole = joined_rows([rows_of(list(range(10_000))), rows_of(["x"] * 10_000)])
    again = joined_rows([whole.slice(i, i + 5000) for i in range(0, 20_000, 5000)])
    assert isinstance(again.v, Mixed)
    assert [len(part) for part in again.v.parts] == [10_000, 10_000]
    assert again.v.tolist() == whole.v.tolist()
