"""Value types: what each ``:db.type/…`` accepts, and the canonical Python value it stores.

Also :func:`typed_key`, which keeps apart what Python merges: ``1``, ``True`` and ``1.0`` are one
key in a set or dict, and three different values in a database.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

import numpy as np

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.errors import TransactionError

__all__ = ["ANY", "VALUE_TYPES", "DoubleArray", "FloatArray", "ValueType", "typed_key"]

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


class _NumberArray(tuple[float, ...]):
    """A hashable array of floating-point numbers; equal by content and type."""

    __slots__ = ()
    _dtype = np.float64

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the numbers as a NumPy array."""
        return np.array(tuple(self), self._dtype)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((type(self), tuple(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class FloatArray(_NumberArray):
    """Value of ``:db.type/float-array``: 32-bit floats."""

    __slots__ = ()
    _dtype = np.float32  # type: ignore[assignment]


class DoubleArray(_NumberArray):
    """Value of ``:db.type/double-array``: 64-bit floats."""

    __slots__ = ()


# Types whose values equal nothing of another type: they are their own key.
_PLAIN: Final = frozenset(
    {int, str, Keyword, Symbol, UUID, bytes, datetime, FloatArray, DoubleArray, type(None)}
)
_NAN_KEY: Final = ("float", "nan")


def typed_key(value: Any) -> Any:
    """Return a hashable key that is equal for equal values of one type, and for nothing else.

    NaN equals itself; 0.0 and -0.0 are one value.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is bool:
        return ("bool", value)
    if kind is float:
        return ("float", value) if value == value else _NAN_KEY
    if kind is tuple or kind is list:
        return ("tuple", *map(typed_key, value))
    if kind is Decimal:
        return ("decimal", value)
    if kind is Fraction:
        return ("ratio", value)
    if kind is Char:
        return ("char", str(value))
    if kind is dict:
        return ("map", frozenset((typed_key(k), typed_key(v)) for k, v in value.items()))
    if kind is set or kind is frozenset:
        return ("set", frozenset(map(typed_key, value)))
    return (kind.__name__, value)


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
        if isinstance(value, np.generic):
            value = value.item()
        made = self._coerce(value)
        if made is not _NO:
            return made
        raise TransactionError(
            f"Bad entity value {value!r} for attribute {attribute}: it is a "
            f"{type(value).__name__}, and {self.ident} takes {self.expects}.",
            error=":transact/schema",
            attribute=attribute,
            value=value,
            expected=self.ident,
        )


_NO: Final = object()


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
    return v if isinstance(v, Decimal) and v.is_finite() else _NO


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
    return str(v) if isinstance(v, str) and not isinstance(v, Char) and _encodable(v) else _NO


def _encodable(v: str) -> bool:
    try:
        v.encode()
    except UnicodeEncodeError:
        return False
    return True


def _keyword(v: Any) -> Any:
    if isinstance(v, Keyword):
        return v
    return Keyword(v) if isinstance(v, str) and len(v) > 1 and v[0] == ":" else _NO


def _symbol(v: Any) -> Any:
    if isinstance(v, Symbol):
        return v
    return Symbol(v) if isinstance(v, str) and v and not isinstance(v, Char) else _NO


def _uuid(v: Any) -> Any:
    return v if isinstance(v, UUID) else _NO


def _bytes(v: Any) -> Any:
    return bytes(v) if isinstance(v, (bytes, bytearray, memoryview)) else _NO


def _instant(v: Any) -> Any:
    if not isinstance(v, datetime) or v.tzinfo is None:
        return _NO
    return datetime.fromtimestamp(0, UTC) + (v - datetime.fromtimestamp(0, UTC))


def _tuple(v: Any) -> Any:
    if not isinstance(v, (tuple, list)) or isinstance(v, _NumberArray):
        return _NO
    try:
        return tuple(None if x is None else _any(x) for x in v)
    except _NotStorableError:
        return _NO


def _array(kind: type[_NumberArray], rounder: Callable[[float], Any]) -> Callable[[Any], Any]:
    def coerce(v: Any) -> Any:
        if isinstance(v, np.ndarray):
            v = v.tolist() if v.ndim == 1 else None
        if not isinstance(v, Sequence) or isinstance(v, (str, bytes)):
            return _NO
        if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in v):
            return _NO
        return kind(rounder(float(x)) for x in v)

    return coerce


class _NotStorableError(Exception):
    pass


def _any(v: Any) -> Any:
    """Return the canonical form of any storable value."""
    kind = type(v)
    if kind in _PLAIN or kind is bool or kind is float:
        if kind is datetime:
            v = _instant(v)
        elif kind is str:
            v = _string(v)
        if v is _NO or v is None:
            raise _NotStorableError
        return v
    if isinstance(v, np.generic):
        return _any(v.item())
    for coerce in (_tuple, _bigdec, _bytes):
        made = coerce(v)
        if made is not _NO:
            return made
    if kind is Char or kind is Fraction:
        return v
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
        ValueType("float-array", None, "a sequence of numbers", _array(FloatArray, _float)),
        ValueType("double-array", None, "a sequence of numbers", _array(DoubleArray, float)),
    )
}

ANY: Final = ValueType(
    "any",
    None,
    "a value such as a str, int, float, bool, datetime, UUID, bytes, Keyword or a tuple of those",
    _coerce_any,
)
