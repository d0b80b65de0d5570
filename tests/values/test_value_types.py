"""What each value type makes of subclasses, NumPy, extremes and hostile values."""

from __future__ import annotations

import enum
import math
import pickle
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahike_async.edn import Char, Keyword, Symbol
from datahike_async.errors import TransactionError
from datahike_async.values.types import (
    ANY,
    VALUE_TYPES,
    DoubleArray,
    FloatArray,
    plain,
    typed_key,
)

SCALARS = ["bigdec", "bigint", "boolean", "bytes", "double", "float", "number", "instant"]
NAMES = [*SCALARS, "keyword", "long", "ref", "string", "symbol", "uuid", "tuple", "store-ref"]
NAMES += ["float-array", "double-array"]
EAST = timezone(timedelta(hours=5))
SECOND_ONE = datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
WEST = timezone(timedelta(hours=-5))


class Color(str, enum.Enum):  # noqa: UP042 - the older form is the one whose str() misleads
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Id(UUID):
    pass


class Money(Decimal):
    pass


class Moment(datetime):
    pass


class NoOffset(tzinfo):
    def utcoffset(self, when):
        return None


def kind_of(value: object) -> str:
    # An int of 5,000 digits cannot be part of a test's name.
    return value if type(value) is str and value.isascii() else type(value).__name__


def test_every_type_of_datahike_is_there():
    assert list(VALUE_TYPES) == NAMES
    for name, value_type in VALUE_TYPES.items():
        assert value_type.ident is Keyword("db.type/" + name)


@pytest.mark.parametrize(
    ("name", "value", "canonical"),
    [
        ("string", Color.RED, "red"),
        ("string", np.str_("x"), "x"),
        ("keyword", ":a/b", Keyword("a/b")),
        ("symbol", "f", Symbol("f")),
        ("long", Level.HIGH, 3),
        ("long", 2**63 - 1, 2**63 - 1),
        ("long", -(2**63), -(2**63)),
        ("long", np.uint8(200), 200),
        ("bigint", 10**5000, 10**5000),
        ("number", np.float32(0.5), 0.5),
        ("number", Level.HIGH, 3),
        ("double", np.longdouble(0.5), 0.5),
        ("double", -math.inf, -math.inf),
        ("float", 1e300, math.inf),
        ("float", -1e300, -math.inf),
        ("float", 16777217.0, 16777216.0),
        ("boolean", np.bool_(True), True),
        ("bigdec", Money("1.50"), Decimal("1.50")),
        ("uuid", Id(int=5), UUID(int=5)),
        ("store-ref", UUID(int=5), UUID(int=5)),
        ("bytes", memoryview(b"ab"), b"ab"),
        ("instant", Moment(2026, 1, 1, 5, tzinfo=EAST), datetime(2026, 1, 1, tzinfo=UTC)),
        ("instant", np.datetime64("2026-01-01T00:00:01", "ns"), SECOND_ONE),
        ("tuple", [1, [np.int64(2), None], Color.RED], (1, (2, None), "red")),
        ("tuple", (), ()),
        ("float-array", [0.1, 1], FloatArray([np.float32(0.1), 1])),
        ("float-array", (1e300,), FloatArray([math.inf])),
        ("double-array", [np.float32(0.5), True + 1], DoubleArray([0.5, 2])),
        ("double-array", np.arange(3), DoubleArray([0, 1, 2])),
        ("double-array", FloatArray([1]), DoubleArray([1])),
        ("double-array", [], DoubleArray()),
    ],
    ids=kind_of,
)  # fmt: skip
def test_values_become_canonical(name, value, canonical):
    made = VALUE_TYPES[name].coerce(value, Keyword("x"))
    assert made == canonical
    assert typed_key(made) == typed_key(canonical)
    assert type(made) is type(canonical)
    again = VALUE_TYPES[name].coerce(made, Keyword("x"))
    assert typed_key(again) == typed_key(made)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("string", "\ud800"),
        ("string", np.str_("\ud800")),
        ("string", b"x"),
        ("string", 10**5000),
        ("keyword", ":"),
        ("long", -(2**63) - 1),
        ("long", np.uint64(2**63)),
        ("long", np.datetime64("2026-01-01", "ns")),
        ("long", np.timedelta64(5, "ns")),
        ("long", np.bool_(True)),
        ("ref", "a"),
        ("double", Decimal(1)),
        ("double", np.complex128(1)),
        ("bigdec", Decimal("Infinity")),
        ("bigdec", Decimal("sNaN")),
        ("number", Decimal("NaN")),
        ("number", 1j),
        ("instant", datetime(2026, 1, 1)),
        ("instant", datetime(2026, 1, 1, tzinfo=NoOffset())),
        ("instant", datetime.max.replace(tzinfo=WEST)),
        ("instant", datetime.min.replace(tzinfo=EAST)),
        ("instant", np.datetime64("NaT")),
        ("tuple", FloatArray([1])),
        ("tuple", [object()]),
        ("tuple", [Decimal("NaN")]),
        ("tuple", {1, 2}),
        ("uuid", str(UUID(int=1))),
        ("float-array", np.ones((2, 2))),
        ("float-array", np.array([True])),
        ("float-array", [1, "2"]),
        ("float-array", b"ab"),
        ("double-array", [10**400]),
        ("double-array", {1.0}),
        ("double-array", [None]),
    ],
    ids=kind_of,
)
def test_wrong_values_are_refused_and_named(name, value):
    with pytest.raises(TransactionError) as caught:
        VALUE_TYPES[name].coerce(value, Keyword("my/attribute"))
    text = str(caught.value)
    assert caught.value.error == ":transact/schema"
    for part in (":my/attribute", type(value).__name__, f":db.type/{name}"):
        assert part in text
    assert len(text) < 500


@pytest.mark.parametrize("name", NAMES)
def test_nil_is_never_a_value(name):
    with pytest.raises(TransactionError, match="retract the attribute") as caught:
        VALUE_TYPES[name].coerce(None, Keyword("a"))
    assert caught.value.error == ":transact/syntax"


def test_tuples_that_contain_themselves_or_nest_too_deep_are_refused():
    loop: list[object] = []
    loop.append(loop)
    deep: object = 1
    for _ in range(80):
        deep = [deep]
    for value in (loop, deep):
        for value_type in (ANY, VALUE_TYPES["tuple"]):
            with pytest.raises(TransactionError):
                value_type.coerce(value, Keyword("a"))
    assert VALUE_TYPES["tuple"].coerce([[[[1]]]]) == ((((1,),),),)


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Money(1), Decimal(1)),
        (Id(int=5), UUID(int=5)),
        (np.longdouble(1), 1.0),
        (np.datetime64("2026-01-01"), datetime(2026, 1, 1, tzinfo=UTC)),
        (Moment(2026, 1, 1, 5, tzinfo=EAST), datetime(2026, 1, 1, tzinfo=UTC)),
        (datetime(2026, 1, 1, 5, tzinfo=EAST), datetime(2026, 1, 1, tzinfo=UTC)),
        (bytearray(b"x"), b"x"),
        (Char("x"), Char("x")),
        (Fraction(1, 3), Fraction(1, 3)),
        ([Level.HIGH], (3,)),
    ],
)
def test_untyped_attributes_store_canonical_values_too(value, canonical):
    made = ANY.coerce(value, Keyword("a"))
    assert typed_key(made) == typed_key(canonical)
    assert type(made) is type(canonical)
    if isinstance(made, datetime):
        assert made.tzinfo is UTC


floats32 = st.floats(width=32)


@given(st.lists(floats32, max_size=5))
def test_float_arrays_hold_what_float32_holds(numbers):
    made = VALUE_TYPES["float-array"].coerce(numbers)
    assert made == VALUE_TYPES["float-array"].coerce(np.array(numbers, np.float32))
    assert made.numpy().dtype == np.float32
    np.testing.assert_array_equal(made.numpy(), np.array(numbers, np.float32))
    single = [VALUE_TYPES["float"].coerce(n) for n in numbers]
    assert FloatArray(single) == made


@given(st.lists(st.floats(), max_size=4), st.lists(st.floats(), max_size=4))
def test_arrays_are_equal_by_content_and_type(a, b):
    x, y = DoubleArray(a), DoubleArray(b)
    assert x == DoubleArray(np.array(a, np.float64))
    assert hash(x) == hash(DoubleArray(np.array(a, np.float64)))
    assert pickle.loads(pickle.dumps(x)) == x
    pairs = zip(a, b, strict=False)
    same = len(a) == len(b) and all(p == q or (p != p and q != q) for p, q in pairs)
    assert (x == y) == same
    assert x != FloatArray(a)
    assert x != tuple(a)


def test_plain_values_stay_the_same_object():
    for value in (1, True, 1.5, "x", b"x", Decimal(1), UUID(int=1), Char("x"), (1,), object()):
        assert plain(value) is value
