"""What the rows of a whole attribute hold in memory, counted in bytes."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest

from datahike_async.edn.types import Keyword
from datahike_async.index.codec import decode_rows, encode_rows
from datahike_async.index.columns import Column, Rows

LEAVES, ROWS = 50, 1000
TX = 2**29


def leaf(i: int, value: Any) -> Rows:
    first = i * ROWS
    e = np.arange(first, first + ROWS, dtype=np.int64)
    v = Column.of([value(k) for k in range(first, first + ROWS)])
    t = np.full(ROWS, TX + i, np.int64)
    rows = Rows(e, np.full(ROWS, 40, np.int32), v, t)
    return decode_rows(encode_rows(rows))


@pytest.mark.parametrize(
    ("value", "most"),
    [
        (lambda k: k * 7919 % 100_003, 18),
        (lambda k: k + 2**40, 18),
        (lambda k: k / 3, 18),
        (lambda k: Keyword(f"k{k % 10}"), 14),
        (lambda k: f"city {k % 100}", 14),
        (lambda k: f"note of 22 bytes {k:05d}", 40),
    ],
    ids=["long", "ref", "double", "keyword", "string of few", "string of its own"],
)
@pytest.mark.usefixtures("little_to_collect")
def test_rows_of_an_attribute_take_few_bytes_each(value: Any, most: int) -> None:
    leaves = [leaf(i, value) for i in range(LEAVES)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        rows = Rows.concat(leaves, packed=True)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(rows) == LEAVES * ROWS
    assert taken <= most * len(rows)
    assert rows.nbytes <= most * len(rows)
    assert rows.t.tolist() == [TX + k // ROWS for k in range(len(rows))]
    assert rows.a.tolist() == [40] * len(rows)
    some = rows.take(np.arange(0, len(rows), 2))
    assert some.nbytes <= most * len(some)
    assert some.tx(len(some) - 1) == TX + LEAVES - 1
    assert some.slice(0, 3).t.tolist() == [TX] * 3


def test_runs_of_several_attributes_and_times_are_joined_as_they_are() -> None:
    one = leaf(0, lambda k: k)
    other = Rows(one.e, np.full(ROWS, 41, np.int32), one.v, one.t + 2**33)
    both = Rows.concat([one, other] * 20)
    assert both.a.tolist() == ([40] * ROWS + [41] * ROWS) * 20
    assert both.t.tolist() == ([TX] * ROWS + [TX + 2**33] * ROWS) * 20
    assert both.slice(0, ROWS).owned().nbytes <= 28 * ROWS
