"""Value types: what each ``:db.type/…`` accepts, and the canonical Python value it stores.

Also :func:`typed_key`, which keeps apart what Python merges: ``1``, ``True`` and ``1.0`` are one
key in a set or dict, and three different values in a database.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, Self
from uuid import UUID

import numpy as np

from datahike_async.edn.types import Char, FrozenMap, Keyword, Symbol, Tagged
from datahike_async.errors import TransactionError, shown
from datahike_async.looks import STEP, pieces, tally, walked

__all__ = [
    "ANY",
    "VALUE_TYPES",
    "DoubleArray",
    "FloatArray",
    "ValueType",
    "plain",
    "typed_key",
    "typed_keys",
]

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


class _NumberArray(tuple[float, ...]):
    """A hashable array of floating-point numbers; equal by content and type, NaN to NaN."""

    __slots__ = ()
    _dtype = np.float64

    def __new__(cls, numbers: Iterable[float] = ()) -> Self:
        values = [*map(float, numbers)]
        if math.isnan(sum(values)):
            # A tuple takes an element that is the same object for equal: one NaN equals itself.
            values = [v if v == v else math.nan for v in values]
        return super().__new__(cls, values)

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the numbers as a NumPy array."""
        return np.array(tuple(self), self._dtype)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        # Of the bytes, whose hash has a salt; adding 0.0 makes -0.0 the 0.0 that it equals.
        return hash((self._dtype, (np.array(tuple(self), np.float64) + 0.0).tobytes()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class FloatArray(_NumberArray):
    """Value of ``:db.type/float-array``: 32-bit floats."""

    __slots__ = ()
    _dtype = np.float32  # type: ignore[assignment]


class DoubleArray(_NumberArray):
    """Value of ``:db.type/double-array``: 64-bit floats."""

    __slots__ = ()


# Types whose values equal nothing of another type, and many of which cannot be made to share a
# hash: they are their own key. (Of ints below 2**63 no more than nine share one.)
_KEYS: Final = frozenset(
    {str, Keyword, Symbol, bytes, datetime, FloatArray, DoubleArray, type(None)}
)
_PLAIN: Final = frozenset({int, UUID, *_KEYS})
_BASES: Final[tuple[Any, ...]] = (int, float, bytes, Decimal)
_NAN_KEY: Final = ("float", "nan")
_double_bytes: Final = struct.Struct("d").pack
_DISTINCT: Final = 2**60
_ONLY_INTS: Final = {int}
_BOOLS: Final = (("bool", False), ("bool", True))
# So many elements of a collection have one key together; those of more have several.
_LONG: Final = 1 << 13


class _Part:
    """A part of the key of a large collection, which knows its hash."""

    __slots__ = ("_hash", "_key")

    def __init__(self, key: Any) -> None:
        self._key = key
        self._hash = hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __del__(self) -> None:
        # Where all of a key is freed in a worker thread, others get a turn between its parts.
        pass

    def __eq__(self, other: object) -> bool:
        # The keys are looked at only where they are most likely equal, and only one part at once.
        if type(other) is not _Part:
            return NotImplemented
        return self._hash == other._hash and bool(self._key == other._key)


def typed_keys(values: Sequence[Any]) -> Sequence[Any]:
    """Return the typed keys of values: the same object where all are their own."""
    types = set(map(type, values))
    if types <= _KEYS or (
        types == _ONLY_INTS and -_INT64_MAX <= min(values) <= max(values) <= _INT64_MAX
    ):
        return values
    return list(map(typed_key, values))


def distinct_values(values: Iterable[Any]) -> list[Any]:
    """Return values once each, those of one type that are equal being one."""
    return list({typed_key(value): value for value in values}.values())


def typed_key(value: Any) -> Any:
    """Return a hashable key that is equal for equal values of one type, and for nothing else.

    NaN equals itself; 0.0 and -0.0 are one value, as are 1.0M and 1.00M, and a vector and a list of
    the same elements. Subclasses and NumPy's scalars count as the plain value they hold.

    Python's hashes of numbers and UUIDs are remainders of a prime, so anyone can send thousands of
    values with one hash. Keys are made of what has a salted hash instead: text and bytes.
    """
    kind = type(value)
    if kind in _KEYS:
        return value
    if kind is int:
        return value if -_INT64_MAX <= value <= _INT64_MAX else ("int", f"{value:x}")
    if kind is UUID:
        return ("uuid", value.bytes)
    if kind is bool:
        return _BOOLS[value]
    if kind is float:
        return ("float", _double_bytes(value + 0.0)) if value == value else _NAN_KEY
    if kind is tuple or kind is list:
        return _tuple_key(value)
    if kind is Decimal:
        return _decimal_key(value)
    if kind is Fraction:
        return ("ratio", _element_key(value.numerator), _element_key(value.denominator))
    if kind is Char:
        return ("char", str(value))
    if kind is dict or kind is FrozenMap:
        pairs = (("pair", _element_key(k), _element_key(v)) for k, v in walked(value.items()))
        return ("map", *_unordered(pairs, len(value)))
    if kind is Tagged:
        return ("tagged", value.tag, _element_key(value.value))
    if isinstance(value, AbstractSet):
        return (
            "set",
            *_unordered((("element", _element_key(x)) for x in walked(value)), len(value)),
        )
    made = plain(value)
    if made is not value:
        return typed_key(made)
    try:
        hash(value)
    except TypeError:
        # What has no hash, such as an array of NumPy, equals itself alone.
        return (kind.__name__, id(value))
    return (kind.__name__, value)


def _tuple_key(value: Sequence[Any]) -> Any:
    if len(value) > _LONG:
        # Each part is made, hashed and compared by itself: all in one call takes long.
        parts = [value[i:j] for i, j in pieces(len(value), each=STEP, size=_LONG * STEP)]
        return ("tuple", *(_Part(_tuple_key(part)) for part in parts))
    if set(map(type, value)) == _ONLY_INTS:
        try:
            return ("longs", struct.pack(f"{len(value)}q", *value))
        except struct.error:
            pass  # beyond 64 bits
    # A collection in itself again and again is walked as often as it is there.
    tally(STEP * len(value))
    return ("tuple", *map(_element_key, value))


def _unordered(keys: Iterable[Any], count: int) -> tuple[Any, ...]:
    """Return what is equal for equal keys in whatever order: a set of them, or several by hash."""
    if count <= _LONG:
        return (frozenset(keys),)
    many = count // _LONG + 1
    parts: list[list[Any]] = [[] for _ in range(many)]
    for key in keys:
        parts[hash(key) % many].append(key)
    return tuple(_Part(frozenset(part)) for part in walked(parts, each=_LONG))


def _element_key(value: Any) -> Any:
    """Return the key of a value inside a collection.

    Of one long few others share the hash; of a tuple of longs each of them multiplies the others.
    """
    if type(value) is int:
        return value if 0 <= value < _DISTINCT else ("int", f"{value:x}")
    return typed_key(value)


def _decimal_key(value: Decimal) -> Any:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        return ("decimal", "nan" if value.is_nan() else f"{value}")
    kept = bytes(digits).rstrip(b"\0")
    if not kept:
        return ("decimal", kept, 0, 0)
    return ("decimal", kept, exponent + len(digits) - len(kept), sign)


def plain(value: Any) -> Any:
    """Return what a NumPy scalar or an instance of a subclass holds, as the built-in type.

    Anything else is returned as it is, the same object. An instant of NumPy, which has no zone, is
    taken for UTC.
    """
    kind = type(value)
    if isinstance(value, np.generic):
        return _plain_scalar(value)
    if isinstance(value, str):
        # str() of a member of an enum is its name, not the text it holds.
        return value if kind is str or kind is Char else str.__str__(value)
    for base in _BASES:
        if isinstance(value, base):
            return value if kind is base or kind is bool else base(value)
    if isinstance(value, UUID):
        return value if kind is UUID else UUID(int=value.int)
    return value


def _plain_scalar(value: np.generic) -> Any:
    if isinstance(value, np.datetime64):
        made = value.astype("datetime64[us]").item()
        return made.replace(tzinfo=UTC) if isinstance(made, datetime) else value
    if isinstance(value, np.timedelta64):
        return value  # its item() would be a number or a timedelta, as the unit has it
    if isinstance(value, np.longdouble):
        return float(value)
    made = value.item()
    return value if isinstance(made, np.generic) else made


class ValueType:
    """One ``:db.type/…``. ``exact`` is the Python type that needs no coercion, or None."""

    __slots__ = ("_coerce", "exact", "expects", "ident", "name")

    def __init__(
        self,
        name: str,
        exact: type | None,
        expects: str,
        coerce: Callable[[Any], Any],
    ) -> None:
        self.name = name
        self.ident = Keyword("db.type/" + name)
        self.exact = exact
        self.expects = expects
        self._coerce = coerce

    def __repr__(self) -> str:
        return f"<ValueType {self.ident}>"

    def coerce(self, value: Any, attribute: object = None) -> Any:
        """Return the canonical form of ``value``.

        Raises TransactionError ``:transact/schema`` naming the attribute, the value, its type and
        what was expected; ``:transact/syntax`` for None.
        """
        if value is None:
            raise TransactionError(
                f"Cannot store nil as a value of {attribute}; retract the attribute instead.",
                error=":transact/syntax",
                attribute=attribute,
            )
        made = self._coerce(plain(value) if isinstance(value, np.generic) else value)
        if made is not _NO:
            return made
        raise TransactionError(
            f"Bad entity value {shown(value)} for attribute {attribute}: its type is "
            f"{type(value).__name__}, and {self.ident} takes {self.expects}.",
            error=":transact/schema",
            attribute=attribute,
            value=value,
            expected=self.ident,
        )


_NO: Final = object()
_MOST_LEVELS: Final = 64


def _boolean(v: Any) -> Any:
    return v if type(v) is bool else _NO


def _integer(v: Any) -> Any:
    return int(v) if isinstance(v, int) and not isinstance(v, bool) else _NO


def _long(v: Any) -> Any:
    v = _integer(v)
    return v if v is not _NO and _INT64_MIN <= v <= _INT64_MAX else _NO


def _double(v: Any) -> Any:
    return float(v) if isinstance(v, float) else _NO


def _float(v: Any) -> Any:
    if not isinstance(v, float):
        return _NO
    try:
        return struct.unpack("f", struct.pack("f", v))[0]
    except OverflowError:
        return math.copysign(math.inf, v)


def _bigdec(v: Any) -> Any:
    return plain(v) if isinstance(v, Decimal) and v.is_finite() else _NO


def _number(v: Any) -> Any:
    if isinstance(v, bool):
        return _NO
    if isinstance(v, (int, float)):
        return int(v) if isinstance(v, int) else float(v)
    return _bigdec(v)


def _string(v: Any) -> Any:
    if type(v) is str:
        # A lone surrogate cannot be stored as UTF-8.
        return v if v.isascii() or _encodable(v) else _NO
    return plain(v) if isinstance(v, str) and not isinstance(v, Char) and _encodable(v) else _NO


def _encodable(v: str) -> bool:
    try:
        v.encode()
    except UnicodeEncodeError:
        return False
    return True


def _keyword(v: Any) -> Any:
    if isinstance(v, Keyword):
        return v
    return Keyword(plain(v)) if isinstance(v, str) and len(v) > 1 and v[0] == ":" else _NO


def _symbol(v: Any) -> Any:
    if isinstance(v, Symbol):
        return v
    return Symbol(plain(v)) if isinstance(v, str) and v and not isinstance(v, Char) else _NO


def _uuid(v: Any) -> Any:
    return plain(v) if isinstance(v, UUID) else _NO


def _bytes(v: Any) -> Any:
    return bytes(v) if isinstance(v, (bytes, bytearray, memoryview)) else _NO


def _instant(v: Any) -> Any:
    if not isinstance(v, datetime) or v.utcoffset() is None:
        return _NO
    if type(v) is datetime and v.tzinfo is UTC:
        return v
    try:
        v = v.astimezone(UTC)
    except OverflowError:
        return _NO
    return datetime(v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, UTC)


def _tuple(v: Any, levels: int = _MOST_LEVELS) -> Any:
    if not isinstance(v, (tuple, list)) or isinstance(v, _NumberArray):
        return _NO
    try:
        return tuple(None if x is None else _any(x, levels - 1) for x in v)
    except _NotStorableError:
        return _NO


def _holds_numbers(v: Any) -> bool:
    if isinstance(v, np.ndarray):
        return v.ndim == 1 and v.dtype.kind in "iuf"
    if not isinstance(v, Sequence) or isinstance(v, (str, bytes, bytearray, memoryview)):
        return False
    return all(
        issubclass(t, (int, float, np.integer, np.floating)) and not issubclass(t, bool)
        for t in set(map(type, v))
    )


def _array(kind: type[_NumberArray]) -> Callable[[Any], Any]:
    def coerce(v: Any) -> Any:
        if type(v) is kind:
            return v
        if not _holds_numbers(v):
            return _NO
        try:
            # Numbers beyond the range become infinite, as they do for a single float.
            with np.errstate(over="ignore"):
                return kind(np.asarray(v, np.float64).astype(kind._dtype).tolist())
        except OverflowError:
            return _NO

    return coerce


class _NotStorableError(Exception):
    pass


def _any(v: Any, levels: int = _MOST_LEVELS) -> Any:
    """Return the canonical form of any storable value, nested at most so many levels deep."""
    kind = type(v)
    if kind in _PLAIN or kind is bool or kind is float:
        if kind is datetime:
            v = _instant(v)
        elif kind is str:
            v = _string(v)
        if v is _NO or v is None:
            raise _NotStorableError
        return v
    if kind is Char or kind is Fraction:
        return v
    made = plain(v)
    if made is not v:
        return _any(made, levels)
    if levels > 0:
        made = _tuple(v, levels)
        if made is not _NO:
            return made
    for coerce in (_bigdec, _bytes, _instant):
        made = coerce(v)
        if made is not _NO:
            return made
    raise _NotStorableError


def _coerce_any(v: Any) -> Any:
    try:
        return _any(v)
    except _NotStorableError:
        return _NO


_AWARE: Final = "a datetime with a time zone, such as datetime.now(UTC)"

VALUE_TYPES: Final[dict[str, ValueType]] = {
    vt.name: vt
    for vt in (
        ValueType("bigdec", None, "a finite decimal.Decimal", _bigdec),
        ValueType("bigint", int, "an int", _integer),
        ValueType("boolean", bool, "True or False", _boolean),
        ValueType("bytes", bytes, "bytes", _bytes),
        ValueType("double", float, "a float", _double),
        ValueType("float", None, "a float", _float),
        ValueType("number", None, "an int, float or Decimal", _number),
        ValueType("instant", None, _AWARE, _instant),
        ValueType("keyword", Keyword, 'a Keyword, or a string such as ":status/open"', _keyword),
        ValueType("long", int, "an int of 64 bits", _long),
        ValueType("ref", None, "an entity id, a tempid, a lookup ref or an ident", _long),
        ValueType("string", str, "a str", _string),
        ValueType("symbol", Symbol, "a Symbol", _symbol),
        ValueType("uuid", UUID, "a uuid.UUID", _uuid),
        ValueType("tuple", None, "a tuple or list", _tuple),
        ValueType("store-ref", UUID, "the uuid.UUID of a blob", _uuid),
        ValueType("float-array", None, "a sequence of numbers", _array(FloatArray)),
        ValueType("double-array", None, "a sequence of numbers", _array(DoubleArray)),
    )
}

ANY: Final = ValueType(
    "any",
    None,
    "a value such as a str, int, float, bool, datetime, UUID, bytes, Keyword or a tuple of those",
    _coerce_any,
)
