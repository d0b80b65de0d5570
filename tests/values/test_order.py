"""One total order over every kind of value, and it agrees with typed_key about what is equal."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cmp_to_key
from uuid import UUID

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datahike_async.edn import Char, FrozenMap, Keyword, Symbol, Tagged
from datahike_async.values.order import compare, sort_key
from datahike_async.values.types import DoubleArray, FloatArray, typed_key

NAN = float("nan")
numbers = st.one_of(
    st.integers(-2, 2),
    st.integers(),
    st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 2**63, -(2**63), 10**400]),
    st.integers(-2, 2).map(float),
    st.floats(),
    st.sampled_from([float(2**53), float(2**53 + 2), 0.1, -0.0, 5e-324]),
    st.decimals(),
    st.sampled_from(
        [Decimal(t) for t in ("0.1", "1.0", "1.00", "-0", "Infinity", "NaN", "1E+400", "1E-400")]
    ),
    st.fractions(),
    st.sampled_from([Fraction(1, 10), Fraction(1, 3), Fraction(10**400, 3)]),
)
short = st.text("ab\uffff😀", max_size=2)
others = st.one_of(
    st.booleans(),
    short,
    st.sampled_from("ab").map(Char),
    st.sampled_from(["a", "b", "a/b", "b/a"]).map(Keyword),
    st.sampled_from(["a", "b", "a/b", "b/a"]).map(Symbol),
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
    st.binary(max_size=2),
    st.lists(st.sampled_from([0.0, -0.0, 1.0, NAN, math.inf]), max_size=2).map(FloatArray),
    st.lists(st.sampled_from([0.0, -0.0, 1.0, math.nan, 2.0]), max_size=2).map(DoubleArray),
    st.sampled_from([np.int64(1), np.float64(1), np.bool_(True), np.str_("a"), np.longdouble(1)]),
)
leaves = numbers | others | st.none()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3)
        | st.dictionaries(short, inner, max_size=2)
        | st.frozensets(short | st.integers(0, 2), max_size=2)
        | st.builds(Tagged, st.just("t"), inner)
    ),
    max_leaves=5,
)


@given(values, values)
@example(Fraction(1, 2), Decimal("0.5"))
@example(Decimal("NaN"), NAN)
@example((NAN,), (float("nan"),))
@example(FloatArray([NAN]), FloatArray([float("nan")]))
@example(FloatArray([1.0]), DoubleArray([1.0]))
@example(FloatArray([1.0]), (1.0,))
@example([1, 2], (1, 2))
@example({"a": 1, "b": 2}, {"b": 2, "a": 1})
@example({"a": 1}, FrozenMap(a=1))
@example({"a": 1}, {"a": True})
@example(np.int64(1), 1)
def test_equal_in_the_order_is_equal_by_typed_key(a, b):
    assert compare(a, b) == -compare(b, a)
    assert (compare(a, b) == 0) == (typed_key(a) == typed_key(b))
    if typed_key(a) == typed_key(b):
        assert hash(typed_key(a)) == hash(typed_key(b))


@given(st.lists(values, max_size=6))
def test_sorting_orders_every_pair(items):
    ordered = sorted(items, key=sort_key)
    for i, a in enumerate(ordered):
        assert all(compare(a, b) <= 0 for b in ordered[i:])
    backwards = items[::-1]
    again = sorted(backwards, key=cmp_to_key(compare))
    assert [*map(typed_key, again)] == [*map(typed_key, ordered)]


@given(numbers, numbers)
def test_numbers_compare_exactly_across_types(a, b):
    def exact(x: int | float | Decimal | Fraction) -> tuple[int, Fraction]:
        # Every finite number of any of the types is a ratio of two ints.
        if isinstance(x, Decimal):
            nan, infinite = x.is_nan(), x.is_infinite()
        else:
            nan, infinite = x != x, x in (math.inf, -math.inf)
        if nan:
            return 2, Fraction(0)
        if infinite:
            return (1 if x > 0 else -1), Fraction(0)
        return 0, Fraction(x)

    if exact(a) == exact(b):
        assert (compare(a, b) == 0) == (type(a) is type(b))
    else:
        assert compare(a, b) == (1 if exact(a) > exact(b) else -1)


def test_types_have_their_ranks():
    ladder = [
        None,
        False,
        True,
        -math.inf,
        Decimal("-1E+400"),
        -1,
        0,
        -0.0,
        Decimal(0),
        Fraction(1, 3),
        2**53,
        float(2**53),
        2**53 + 1,
        math.inf,
        Decimal("Infinity"),
        NAN,
        Decimal("NaN"),
        Char("z"),
        "",
        "a",
        "\uffff",
        "😀",
        Keyword("b"),
        Keyword("a/b"),
        Symbol("a"),
        datetime(1969, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=UTC),
        UUID(int=2**127),  # by two signed halves
        UUID(int=2**63),
        UUID(int=1),
        b"",
        b"\x7f",
        b"\x80",
        (),
        (None,),
        (True,),
        (1,),
        ("a",),
        (None, None),
        (1, 1),
        FloatArray([1]),
        FloatArray([NAN]),
        DoubleArray([]),
        DoubleArray([1]),
    ]
    for i, a in enumerate(ladder):
        assert compare(a, a) == 0
        for b in ladder[i + 1 :]:
            assert compare(a, b) == -1, (a, b)


def test_zeros_are_one_value_of_their_type():
    assert compare(0.0, -0.0) == 0
    assert typed_key((0.0,)) == typed_key((-0.0,))
    assert typed_key(0) != typed_key(0.0)


@pytest.mark.parametrize("depth", [1, 3])
def test_ones_stay_apart_inside_tuples(depth):
    ones = [1, True, 1.0, Decimal(1), "1", Char("1"), Keyword("1"), Symbol("1"), b"1"]
    for _ in range(depth):
        ones = [(one,) for one in ones]
    assert len({typed_key(one) for one in ones}) == len(ones)
    assert len({sort_key(one) for one in ones}) == len(ones)
