"""Values of all types have one total order, and equal keys only where value and type agree."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahike_async.edn import Char, Keyword, Symbol
from datahike_async.errors import TransactionError
from datahike_async.values.datom import Datom
from datahike_async.values.order import compare, sort_key
from datahike_async.values.types import (
    ANY,
    VALUE_TYPES,
    DoubleArray,
    FloatArray,
    typed_key,
)

small = st.integers(-3, 3)
scalars = (
    st.booleans()
    | small
    | st.sampled_from([2**53, 2**53 + 1, 2**70])
    | small.map(float)
    | st.floats()
    | small.map(Decimal)
    | st.sampled_from([Decimal("0.5"), Decimal("1.0"), Decimal("1.00")])
    | st.text(max_size=2)
    | st.sampled_from([Keyword("a"), Keyword("a/b"), Symbol("a"), Char("a"), b"a", UUID(int=1)])
    | st.datetimes(timezones=st.just(UTC))
)
values = scalars | st.lists(st.none() | scalars, max_size=3).map(tuple)


@given(values, values, values)
def test_the_order_is_total(a, b, c):
    assert compare(a, b) == -compare(b, a)
    assert (compare(a, b) == 0) == (typed_key(a) == typed_key(b))
    if compare(a, b) <= 0 and compare(b, c) <= 0:
        assert compare(a, c) <= 0


@given(values)
def test_a_value_equals_itself(a):
    assert compare(a, a) == 0
    assert typed_key(a) == typed_key(a)
    hash(typed_key(a))


def test_types_are_kept_apart():
    ones = [1, True, 1.0, Decimal(1), "1", Char("1")]
    assert len({typed_key(x) for x in ones}) == len(ones)
    assert len({Datom(1, Keyword("a"), x, 1) for x in ones}) == len(ones)
    nested = [(x,) for x in ones]
    assert len({typed_key(x) for x in nested}) == len(ones)
    assert typed_key(math.nan) == typed_key(float("nan"))
    ordered = sorted([2, 1.5, math.nan, math.inf, -1, Decimal(3)], key=sort_key)
    assert ordered[:4] == [-1, 1.5, 2, Decimal(3)]
    assert math.isnan(ordered[-1])


def test_tuples_sort_by_length_first():
    ordered = sorted([(2,), (1, 1), (None,), ()], key=sort_key)
    assert ordered == [(), (None,), (2,), (1, 1)]


GOOD = {
    "bigdec": [(Decimal("1.5"), Decimal("1.5"))],
    "bigint": [(2**80, 2**80)],
    "boolean": [(True, True), (np.bool_(False), False)],
    "bytes": [(b"x", b"x"), (bytearray(b"x"), b"x")],
    "double": [(1.5, 1.5), (np.float64(2), 2.0)],
    "float": [(0.1, float(np.float32(0.1)))],
    "number": [(1, 1), (1.5, 1.5), (Decimal(2), Decimal(2))],
    "keyword": [(Keyword("a"), Keyword("a")), (":a", Keyword("a"))],
    "long": [(1, 1), (np.int64(5), 5)],
    "ref": [(5, 5)],
    "string": [("x", "x"), ("", "")],
    "symbol": [(Symbol("a"), Symbol("a"))],
    "uuid": [(UUID(int=1), UUID(int=1))],
    "tuple": [([1, "a", None], (1, "a", None))],
    "double-array": [([1, 2.5], DoubleArray([1.0, 2.5])), (np.array([1.0]), DoubleArray([1.0]))],
    "float-array": [([1.0], FloatArray([1.0]))],
    "instant": [
        (
            datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
            datetime(2026, 1, 1, tzinfo=UTC),
        )
    ],
}
BAD = {
    "bigdec": [1, Decimal("NaN")],
    "bigint": [1.0, True],
    "boolean": [1, "true"],
    "bytes": ["x"],
    "double": [1, True],
    "float": [1],
    "number": [True, "1"],
    "keyword": ["a", Symbol("a")],
    "long": [True, 1.0, 2**63, "1"],
    "string": [1, Char("a"), "\ud800", Keyword("a")],
    "symbol": [Keyword("a")],
    "uuid": ["x"],
    "tuple": ["ab", 1],
    "double-array": ["ab", [True]],
    "instant": ["2026", datetime(2026, 1, 1)],
}


@pytest.mark.parametrize("name", GOOD)
def test_canonical_values(name):
    for given_value, canonical in GOOD[name]:
        made = VALUE_TYPES[name].coerce(given_value, Keyword("x"))
        assert made == canonical
        assert type(made) is type(canonical)


@pytest.mark.parametrize("name", BAD)
def test_wrong_types_are_named(name):
    for value in BAD[name]:
        with pytest.raises(TransactionError, match=":my/attribute") as caught:
            VALUE_TYPES[name].coerce(value, Keyword("my/attribute"))
        assert caught.value.error == ":transact/schema"


def test_untyped_attributes_take_any_storable_value():
    assert ANY.coerce([1, [2]]) == (1, (2,))
    for value in (object(), {"a": 1}, {1}):
        with pytest.raises(TransactionError):
            ANY.coerce(value, Keyword("x"))
