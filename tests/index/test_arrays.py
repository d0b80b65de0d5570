"""Sets of integers in arrays, held to NumPy's own and to Python's sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datahike_async.index.arrays import firsts, member, numbered, uniques

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


@given(INTS)
def test_narrow_integers_keep_their_type(values: list[int]) -> None:
    narrow = np.array([v % 100 for v in values], np.int32)
    assert numbered(narrow)[0].dtype == firsts(narrow)[0].dtype == np.int32
