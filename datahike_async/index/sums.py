"""Sums of datoms: a number for a set of datoms, whatever lies in which order and column.

The sum of a union of disjoint sets is the sum of their sums, and what is taken away is subtracted.
So two indexes are compared, and a log with what it led to, though neither is ever in memory as a
whole. Two different sets have the same sum by chance alone, once in 2**64. Sums hold for one
process: they are salted as text is, so that nobody can make a set that has the sum of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import numbered
from datahike_async.index.columns import (
    BOOL,
    CODED,
    FLOAT,
    I64,
    INSTANT,
    INT,
    Column,
    Rows,
    micros,
)
from datahike_async.index.protocol import Order
from datahike_async.values.types import typed_key

__all__ = ["in_order", "sum_of", "sums_by"]

_U64: TypeAlias = npt.NDArray[np.uint64]

_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)
_TAGS: Final = {kind: np.uint64(kind * 0x632BE59BD9B4E019 % 2**64) for kind in (1, 2, 3, 4, 5)}
_MASK: Final = 2**64 - 1
_SALT: Final = np.uint64(hash("the salt of sums") & _MASK)
_INT64: Final = (-(2**63), 2**63 - 1)


def _mixed(x: _U64) -> _U64:
    """Return numbers of which every bit depends on every bit of those given."""
    x = (x ^ _SALT) + _ODD
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def _tagged(data: npt.NDArray[Any], kind: int) -> _U64:
    if kind == FLOAT:
        plain = data.astype(np.float64) + 0.0
        plain[np.isnan(plain)] = np.nan
        bits = plain.view(np.uint64)
    elif kind == BOOL:
        bits = data.astype(np.uint64)
    else:
        bits = np.ascontiguousarray(data, np.int64).view(np.uint64)
    return _mixed(bits ^ _TAGS[kind])


def _hashed(values: Sequence[Any]) -> _U64:
    """Hash values that have no column of numbers."""
    found = np.fromiter((hash(typed_key(v)) & _MASK for v in values), np.uint64, len(values))
    return _mixed(found ^ _TAGS[CODED])


def _kind(value: Any) -> int:
    kind = type(value)
    if kind is int:
        return INT if _INT64[0] <= value <= _INT64[1] else CODED
    if kind is datetime:
        return INSTANT
    if kind is float:
        return FLOAT
    return BOOL if kind is bool else CODED


def _values(column: Column) -> _U64:
    """Return a number for each value: the same one in columns of every kind."""
    if column.kind in (INT, INSTANT, BOOL, FLOAT):
        return _tagged(column.data, column.kind)
    if column.kind == CODED:
        assert column.dictionary is not None
        used, codes = numbered(column.data)
        return _hashed(column.dictionary.values_of(used))[codes]
    values = column.tolist()
    kinds = np.fromiter(map(_kind, values), np.uint8, len(values))
    out = np.empty(len(values), np.uint64)
    for kind in np.unique(kinds).tolist():
        at = np.flatnonzero(kinds == kind)
        own = [values[i] for i in at.tolist()]
        if kind == CODED:
            out[at] = _hashed(own)
        elif kind == INSTANT:
            out[at] = _tagged(np.array(list(map(micros, own)), np.int64), kind)
        else:
            out[at] = _tagged(np.array(own), kind)
    return out


def _hashes(rows: Rows, until: I64 | None) -> _U64:
    parts = [rows.e, rows.a, rows.t] if until is None else [rows.e, rows.a, rows.t, until]
    # One after the other: were an entity and a value each mixed alone, who knows no salt could
    # still say which two give the same, and exchange them.
    out = _values(rows.v)
    for part in parts:
        out = _mixed(out) ^ np.ascontiguousarray(part, np.int64).view(np.uint64)
    return _mixed(out)


def sum_of(rows: Rows, until: I64 | None = None) -> int:
    """Return the sum of datoms, of their intervals where they have ``until``."""
    if not len(rows):
        return 0
    return int(np.add.reduce(_hashes(rows, rows.until if until is None else until)))


def sums_by(rows: Rows, until: I64 | None = None) -> dict[int, tuple[int, int]]:
    """Return how many datoms there are of each attribute, and their sum."""
    if not len(rows):
        return {}
    found = _hashes(rows, rows.until if until is None else until)
    out = {}
    for a in np.unique(rows.a).tolist():
        own = found[rows.a == a]
        out[a] = (len(own), int(np.add.reduce(own)))
    return out


def in_order(rows: Rows, order: Order) -> bool:
    """Say whether rows of a leaf ascend, and none comes twice."""
    if len(rows) < 2:
        return True
    e, a = rows.e, rows.a.astype(np.int64)
    columns: list[Any]
    if order is Order.AVET:
        columns = [a, rows.v, e]
    else:
        columns = [e, a, rows.v] if order is Order.EAVT else [a, e, rows.v]
    columns.append(rows.t)
    if rows.until is not None:
        columns.append(rows.until)
    equal = np.ones(len(rows) - 1, np.bool_)
    for column in columns:
        if not equal.any():
            return True
        data = column.ranks() if isinstance(column, Column) else column
        if (data[:-1] > data[1:])[equal].any():
            return False
        equal &= data[:-1] == data[1:]
    return not equal.any()
