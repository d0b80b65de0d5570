"""Sets of integers in arrays, held to NumPy's own and to Python's sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahike_async.index.arrays import (
    Narrow,
    all_differ,
    constant,
    firsts,
    member,
    numbered,
    order_of,
    ordered_bits,
    positions_of,
    repeated,
    taken,
    uniques,
)
from datahike_async.index.packing import packed, sorting
from datahike_async.looks import PIECE, looking

SMALL = st.integers(-5, 5)
LARGE = st.integers(-(2**63), 2**63 - 1)
EDGES = st.sampled_from([-(2**63), 2**63 - 1])
INTS = st.one_of(
    st.lists(EDGES, max_size=3),
    st.lists(st.one_of(SMALL, LARGE), max_size=40),
    st.lists(SMALL, max_size=40),
)


def array(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


@given(INTS)
def test_uniques(values: list[int]) -> None:
    assert uniques(array(values)).tolist() == sorted(set(values))


@given(INTS)
def test_numbered(values: list[int]) -> None:
    distinct, numbers = numbered(array(values))
    assert distinct.tolist() == sorted(set(values))
    assert distinct[numbers].tolist() == values


@given(INTS)
def test_firsts(values: list[int]) -> None:
    distinct, positions = firsts(array(values))
    assert distinct.tolist() == sorted(set(values))
    assert array(values)[positions].tolist() == distinct.tolist()


@given(INTS, INTS)
def test_member(values: list[int], among: list[int]) -> None:
    assert member(array(values), array(among)).tolist() == [v in set(among) for v in values]


@given(st.one_of(EDGES, SMALL), st.integers(1, 30), INTS)
def test_member_of_integers_in_a_row(first: int, count: int, among: list[int]) -> None:
    run = [v for v in range(first, first + count) if v < 2**63]
    assert member(array(run), array(among)).tolist() == [v in set(among) for v in run]


@given(INTS)
def test_narrow_integers_keep_their_type(values: list[int]) -> None:
    narrow = np.array([v % 100 for v in values], np.int32)
    assert numbered(narrow)[0].dtype == firsts(narrow)[0].dtype == np.int32


# -- many values, in pieces --------------------------------------------------------------------


MANY = 3 * PIECE + 17
MANY_VALUES = {
    "random": lambda r: r.integers(-(2**62), 2**62, MANY),
    "mostly one": lambda r: np.where(r.random(MANY) < 0.8, 7, r.integers(0, 2**60, MANY)),
    "close together": lambda r: r.integers(0, MANY, MANY),
    "two": lambda r: np.where(r.random(MANY) < 0.5, 2**60, -(2**60)),
    "sorted": lambda r: np.sort(r.integers(0, 2**60, MANY)),
    "backwards": lambda r: np.arange(MANY)[::-1] * 2**40,
}


@pytest.mark.parametrize("name", MANY_VALUES)
def test_many_values_are_handled_in_pieces_with_the_same_result(name: str) -> None:
    values = MANY_VALUES[name](np.random.default_rng(7))
    seen: list[int] = []
    token = looking.set(seen.append)
    try:
        order = order_of(values)
        distinct, numbers = numbered(values)
        first = firsts(values)
        mask = member(values, values[:1000])
        mine = taken(values, positions_of(values > 0))
        apart = taken(values[::-1], positions_of(values > 0))
    finally:
        looking.reset(token)
    assert (order == np.argsort(values, kind="stable")).all()
    expected, back = np.unique(values, return_inverse=True)
    assert (distinct == expected).all()
    assert (numbers == back).all()
    assert (first[0] == expected).all()
    assert (values[first[1]] == expected).all()
    assert (mask == np.isin(values, values[:1000])).all()
    assert (mine == values[values > 0]).all()
    assert (apart == values[::-1][values > 0]).all()
    # No stretch between two looks is longer than what sorting one piece takes.
    assert max(seen) <= 4 * PIECE
    assert sum(seen) > 5 * MANY


def test_doubles_as_integers_are_in_the_same_order() -> None:
    values = np.array([np.nan, 1.5, -0.0, 0.0, -np.inf, np.inf, -1.5, 5e-324, -np.nan])
    bits = ordered_bits(values)
    assert bits[2] == bits[3]
    assert bits[0] == bits[8] == bits.max()
    rest = [4, 6, 2, 7, 1, 5]
    assert (np.diff(bits[rest]) > 0).all()


@pytest.mark.parametrize(
    ("values", "width"),
    [([7] * 9, 1), ([2**40, 2**40 + 255], 1), ([-5, 300], 2), ([0, 2**32 - 1], 4), ([0, 2**32], 8)],
)
def test_narrowed_numbers_are_what_they_were_in_few_bytes(values: list[int], width: int) -> None:
    whole = np.array(values, np.int64)
    narrow = Narrow.of(whole)
    assert narrow.nbytes == width * len(values)
    if width == 8:
        assert narrow is whole
        return
    assert isinstance(narrow, Narrow)
    assert narrow.wide().tolist() == values
    assert narrow.wide().dtype == np.int64
    assert [narrow.at(i) for i in range(len(narrow))] == values
    assert narrow.slice(1, len(values)).wide().tolist() == values[1:]
    assert narrow.take(np.array([1, 0])).wide().tolist() == [values[1], values[0]]
    assert narrow.take(whole == values[0]).wide().tolist() == [v for v in values if v == values[0]]


def test_the_same_number_many_times_is_held_once() -> None:
    same = constant(np.full(1000, 7, np.int32))
    assert same.strides == (0,)
    assert same.tolist() == [7] * 1000
    assert memoryview(same)[999] == 7
    assert repeated(same, 3).tolist() == [7] * 3
    assert not len(repeated(same, 0))
    mixed = np.array([1, 2, 1], np.int32)
    assert constant(mixed) is mixed


@given(st.lists(st.integers(-50, 50), max_size=40), st.integers(0, 2**40))
def test_marks_tell_whether_all_differ(values: list[int], offset: int) -> None:
    array = np.array(values, np.int64) + offset
    if all_differ(array):
        assert len(set(values)) == len(values)
    order = np.random.default_rng(offset).permutation(len(values)) + offset
    assert all_differ(order)


@pytest.mark.parametrize("true", [0, 1, PIECE, PIECE + 1, MANY])
def test_what_a_long_mask_takes_however_many_that_are(true: int) -> None:
    values, mask = np.arange(MANY), np.zeros(MANY, np.bool_)
    mask[:true] = True
    assert (taken(values, mask) == values[mask]).all()
    assert (positions_of(mask) == np.arange(true)).all()
    assert len(taken(values, positions_of(mask))) == true


@pytest.mark.parametrize("seed", range(20))
def test_packed_keys_sort_as_they_do_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 200))
    kinds = [
        rng.integers(-3, 3, count),
        rng.integers(2**40, 2**40 + 5, count).astype(np.int64),
        rng.integers(-(2**62), 2**62, count) * 2,
        rng.integers(0, 4, count).astype(np.int32),
        rng.integers(0, 2, count).astype(np.bool_),
        np.array([-0.0, 0.0, 1.5, -2.0])[rng.integers(0, 4, count)],
        np.full(count, 7),
    ]
    keys = [kinds[i] for i in rng.integers(0, len(kinds), int(rng.integers(1, 6)))]
    assert sorting(keys).tolist() == np.lexsort(keys[::-1]).tolist()
    assert len(packed([kinds[0], kinds[3], kinds[4]])) <= 1
