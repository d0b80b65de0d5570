"""Columns of a table as values of an attribute: typed arrays where its type permits, else objects.

A cell that holds nothing (None, a null of Arrow, NaT) is left out. Text in a column of another type
is read: numbers, ``true`` and ``false``, ISO 8601 instants, UUIDs. A value is taken exactly, or not
at all: what an attribute would cut or round is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib import import_module
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datahike_async.errors import TransactionError, shown
from datahike_async.index.arrays import numbered
from datahike_async.index.columns import (
    BOOL,
    CODED,
    FLOAT,
    I64,
    INSTANT,
    INT,
    Column,
    micros,
)
from datahike_async.index.dictionary import Dictionary
from datahike_async.values.types import ValueType, plain

__all__ = ["BadCell", "cells"]

_INTS: Final = frozenset({"long", "bigint", "number", "any", "ref"})
_WHOLE: Final = frozenset({"long", "bigint", "ref"})
_DOUBLES: Final = frozenset({"double", "number", "any"})
_FLOATS: Final = frozenset({"double", "float"})
# Types whose values are lists themselves.
_LISTED: Final = frozenset({"tuple", "float-array", "double-array"})
_LISTS: Final = (list, tuple, set, frozenset, np.ndarray)
_LONG: Final = 2**63
# Up to where every integer is a float of so many bits.
_EXACT: Final = {"double": 2**53, "float": 2**24}
_FIRST: Final = micros(datetime(1, 1, 1, tzinfo=UTC))
_LAST: Final = micros(datetime(9999, 12, 31, 23, 59, 59, 999999, UTC))
_ARRAYS: Final[dict[frozenset[type], Any]] = {
    frozenset({int}): np.int64,
    frozenset({float}): np.float64,
    frozenset({bool}): np.bool_,
}
# What pandas and NumPy say where there is nothing.
_NOTHING: Final = frozenset({"NoneType", "NAType", "NaTType"})
_NAMES_OF_NOTHING: Final = frozenset(
    {"", "?", "n/a", "na", "nan", "nil", "none", "null", "unknown", "<na>", "nat"}
)
_NANOSECONDS: Final = re.compile(r"[.,]\d{6}0*[1-9]")


class BadCell(Exception):
    """Row ``row`` of a column has a value that its attribute does not take: ``error``."""

    def __init__(self, row: int, error: TransactionError) -> None:
        super().__init__(row, error)
        self.row = row
        self.error = error


def cells(column: Any, kind: ValueType, attribute: Any, *, many: bool) -> tuple[I64, Column]:
    """Return the row of each value that a column says, and the canonical values.

    With ``many`` a cell may be a list of values. Raises BadCell.
    """
    rows, values = _spread(column, many=many, listed=kind.name in _LISTED)
    types = frozenset(map(type, values)) if isinstance(values, list) else frozenset()
    if types in _ARRAYS:
        with suppress(OverflowError):  # beyond 64 bits
            values = np.array(values, _ARRAYS[types])
    if isinstance(values, np.ndarray):
        made = _array(values, kind.name)
        if made is not None:
            return rows, made
        # As a list, instants of NumPy would lose what is below a microsecond.
        values = [*values] if values.dtype.kind in "mM" else values.tolist()
    if isinstance(values, tuple):
        codes, distinct = values
    elif types == {str} or (not types and set(map(type, values)) == {str}):
        dictionary, codes = Dictionary.encode(values)
        distinct = dictionary.values
    else:
        return rows, Column.of(_coerced(values, rows, kind, attribute))
    return rows, _text(rows, codes, distinct, kind, attribute)


# -- what there is ---------------------------------------------------------------------------------


def _spread(column: Any, *, many: bool, listed: bool) -> tuple[I64, Any]:
    """Return rows and values: an array, a list, or codes and distinct strings.

    ``listed`` says that a value is a list itself.
    """
    if hasattr(column, "type") and hasattr(column, "null_count"):
        return _arrow(column, many=many, listed=listed)
    if isinstance(column, np.ndarray) and column.dtype != np.object_:
        if isinstance(column, np.ma.MaskedArray):
            rows = np.flatnonzero(~np.ma.getmaskarray(column))
            return rows, column.data[rows]
        if column.dtype.kind == "M":
            rows = np.flatnonzero(~np.isnat(column))
            return rows, column if len(rows) == len(column) else column[rows]
        return np.arange(len(column)), column
    rows, values = _there(np.arange(len(column)), [*column])
    if many and any(isinstance(value, _LISTS) for value in values):
        lists = [_parts(value, listed=listed) for value in values]
        rows = np.repeat(rows, [len(one) for one in lists])
        rows, values = _there(rows, [value for one in lists for value in one])
    return rows, values


def _there(rows: I64, values: list[Any]) -> tuple[I64, list[Any]]:
    """Return those of values that are something."""
    types = set(map(type, values))
    if not any(x.__name__ in _NOTHING or x is np.datetime64 for x in types):
        return rows, values
    known = [not _is_nothing(value) for value in values]
    return rows[known], [value for value, there in zip(values, known, strict=True) if there]


def _is_nothing(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ in _NOTHING or (kind is np.datetime64 and bool(np.isnat(value)))


def _parts(value: Any, *, listed: bool) -> list[Any]:
    """Return the values of a cell of an attribute with many."""
    if not isinstance(value, _LISTS):
        return [value]
    parts = [*value]
    if listed and not (parts and isinstance(parts[0], _LISTS)):
        return [value]
    return parts


def _arrow(array: Any, *, many: bool, listed: bool) -> tuple[I64, Any]:
    pa = import_module("pyarrow")
    compute = import_module("pyarrow.compute")
    types = pa.types
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if types.is_run_end_encoded(array.type):
        array = compute.run_end_decode(array)
    if types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    elif types.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    if types.is_dictionary(array.type):
        # Of a dictionary that other rows share, what these say.
        rows, indices = _known(array.indices)
        used, codes = numbered(_codes(indices))
        distinct = array.dictionary.take(pa.array(used))
        texts = distinct.to_pylist()
        if set(map(type, texts)) == {str} and len(set(texts)) == len(texts):
            return rows, (codes.astype(np.int32), texts)
        within, values = _arrow(distinct.take(pa.array(codes)), many=False, listed=listed)
        return rows[within], values
    rows, array = _known(array)
    kind = array.type
    if many and _is_list(types, kind) and not (listed and not _is_list(types, kind.value_type)):
        counts = compute.list_value_length(array).to_numpy(zero_copy_only=False)
        within, values = _arrow(array.flatten(), many=False, listed=listed)
        return np.repeat(rows, counts)[within], values
    if types.is_string(kind) or types.is_large_string(kind):
        array = array.dictionary_encode()
        return rows, (_codes(array.indices), array.dictionary.to_pylist())
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return rows, array.to_numpy(zero_copy_only=False)
    if types.is_timestamp(kind):
        at = array.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return rows, at.view(f"datetime64[{kind.unit}]")
    if types.is_date(kind):
        days = array.cast(pa.date32()).cast(pa.int32()).to_numpy(zero_copy_only=False)
        return rows, days.astype("datetime64[D]")
    return rows, array.to_pylist()


def _known(array: Any) -> tuple[I64, Any]:
    """Return the rows of an array of Arrow that are not null, and their values."""
    if not array.null_count:
        return np.arange(len(array)), array
    return np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False)), array.drop_null()


def _is_list(types: Any, kind: Any) -> bool:
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _codes(indices: Any) -> npt.NDArray[np.int32]:
    codes: npt.NDArray[np.int32] = indices.to_numpy(zero_copy_only=False).astype(np.int32)
    return codes


# -- what it is ------------------------------------------------------------------------------------


def _array(values: npt.NDArray[Any], name: str) -> Column | None:
    """Return a typed column; None where each value has to be looked at."""
    kind = values.dtype.kind
    if kind in "iu":
        if kind == "u" and len(values) and int(values.max()) >= _LONG:
            return None
        if name in _INTS:
            return Column(INT, values.astype(np.int64))
        if name in _FLOATS and _is_within(values, _EXACT[name]):
            return Column(FLOAT, values.astype(np.float64))
    elif kind == "f":
        if name in _DOUBLES:
            return Column(FLOAT, values.astype(np.float64))
        if name == "float":
            with np.errstate(over="ignore"):  # infinite, as single ones become
                return Column(FLOAT, values.astype(np.float32).astype(np.float64))
        if (
            name in _WHOLE
            and (np.abs(values) <= _EXACT["double"]).all()
            and (values % 1 == 0).all()
        ):
            # Integers with missing ones among them come as floats from many libraries.
            return Column(INT, values.astype(np.int64))
    elif kind == "b" and name in ("boolean", "any"):
        return Column(BOOL, values.astype(np.bool_))
    elif kind == "M" and name in ("instant", "any"):
        at = values.astype("datetime64[us]")
        if not (at.astype(values.dtype) == values).all():
            return None
        at = at.view(np.int64)
        if not len(at) or (at.min() >= _FIRST and at.max() <= _LAST):
            return Column(INSTANT, at)
    return None


def _is_within(values: npt.NDArray[Any], most: int) -> bool:
    return not len(values) or (int(values.min()) >= -most and int(values.max()) <= most)


def _coerced(values: list[Any], rows: I64, kind: ValueType, attribute: Any) -> list[Any]:
    """Return values that are looked at one by one."""
    out = []
    for i, value in enumerate(values):
        try:
            if type(value) is str and kind.name in _READ:
                out.append(_read(value, kind, attribute))
            else:
                out.append(kind.coerce(_fitted(value, kind, attribute), attribute))
        except TransactionError as error:
            raise BadCell(int(rows[i]), error) from None
    return out


def _fitted(value: Any, kind: ValueType, attribute: Any) -> Any:
    """Return a value in the type that an attribute takes, where it is the same there."""
    name = kind.name
    if isinstance(value, datetime):
        if getattr(value, "nanosecond", 0):  # of pandas
            raise _cut(value, kind, attribute)
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    if isinstance(value, np.datetime64):
        at = value.astype("datetime64[us]")
        if at.astype(value.dtype) != value or not _FIRST <= int(at.view(np.int64)) <= _LAST:
            raise _cut(value, kind, attribute)
        return plain(value)
    if type(value) is date and name == "instant":
        return datetime.combine(value, time(), UTC)
    value = plain(value)
    if type(value) is int and name in _FLOATS:
        return _float(value, kind, attribute)
    if type(value) is int and name == "bigdec":
        return Decimal(value)
    if (
        type(value) is float
        and name in _WHOLE
        and value % 1 == 0
        and abs(value) <= _EXACT["double"]
    ):
        return int(value)
    return value


def _float(value: int, kind: ValueType, attribute: Any) -> float:
    """Return an integer as a float that is the same."""
    try:
        made: float = kind.coerce(float(value), attribute)
    except OverflowError:
        raise _cut(value, kind, attribute) from None
    if made != value:
        raise _cut(value, kind, attribute)
    return made


def _cut(value: Any, kind: ValueType, attribute: Any) -> TransactionError:
    hint = "round it first"
    if kind.name == "instant":
        hint = "an instant has microseconds, of the years 1 to 9999"
    return TransactionError(
        f"Bad entity value {shown(value)} for attribute {attribute}: {kind.ident} cannot hold it "
        f"exactly; {hint}.",
        error=":transact/schema",
        attribute=attribute,
        value=value,
        expected=kind.ident,
    )


def _unread(text: str, kind: ValueType, attribute: Any) -> TransactionError:
    hint = ""
    if text.strip(" -").lower() in _NAMES_OF_NOTHING:
        hint = " Leave the cell empty where there is no value."
    return TransactionError(
        f"Bad entity value {shown(text)} for attribute {attribute}: it is no text of "
        f"{kind.ident}, such as {_LIKE[kind.name]!r}.{hint}",
        error=":transact/schema",
        attribute=attribute,
        value=text,
        expected=kind.ident,
    )


def _text(
    rows: I64,
    codes: npt.NDArray[np.int32],
    distinct: list[str],
    kind: ValueType,
    attribute: Any,
) -> Column:
    """Return a column of text; each distinct one is looked at once."""
    made = []
    for code, text in enumerate(distinct):
        try:
            made.append(_read(text, kind, attribute))
        except TransactionError as error:
            row = int(rows[np.flatnonzero(codes == code)[0]])
            raise BadCell(row, error) from None
    if kind.exact is str or kind.name == "any":
        return Column(CODED, codes, Dictionary(made))
    return Column.of([made[code] for code in codes.tolist()])


def _integer(text: str) -> int:
    return int(_digits(text))


def _double(text: str) -> float:
    text = _digits(text)
    made = float(text)
    # What is too large for a double would be infinite, unless the text says so.
    if math.isnan(made) or (math.isinf(made) and "inf" not in text.lower()):
        raise ValueError
    return made


def _digits(text: str) -> str:
    """Return a text that numbers are read of; Python would take more for one than others do."""
    if "_" in text or not text.isascii():
        raise ValueError
    return text.strip()


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.strip().lower()]


def _instant(text: str) -> datetime:
    made = datetime.fromisoformat(text.strip())
    return made.replace(tzinfo=UTC) if made.tzinfo is None else made


_READ: Final[dict[str, Callable[[str], Any]]] = {
    "long": _integer,
    "bigint": _integer,
    "ref": _integer,
    "double": _double,
    "float": _double,
    "bigdec": lambda text: Decimal(_digits(text)),
    "boolean": _boolean,
    "instant": _instant,
    "uuid": UUID,
    "store-ref": UUID,
}


_LIKE: Final = {
    **dict.fromkeys(("long", "bigint", "ref"), "36"),
    **dict.fromkeys(("double", "float", "bigdec"), "1.5"),
    "boolean": "true",
    "instant": "2026-01-31T12:00:00Z",
    **dict.fromkeys(("uuid", "store-ref"), "123e4567-e89b-12d3-a456-426614174000"),
}
"""A text that is read, of each type that some text is read of."""


def _read(text: str, kind: ValueType, attribute: Any) -> Any:
    """Return the canonical value that a text stands for."""
    read = _READ.get(kind.name)
    if read is None:
        return kind.coerce(text, attribute)
    try:
        value = read(text)
    except (ValueError, ArithmeticError, KeyError):
        raise _unread(text, kind, attribute) from None
    if kind.name == "instant" and _NANOSECONDS.search(text):
        # Python cuts them.
        raise _cut(text, kind, attribute)
    return kind.coerce(value, attribute)
