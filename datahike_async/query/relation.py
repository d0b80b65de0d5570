"""Relations: named columns of one length, their joins, and keys that tell values apart.

Rows of a relation are distinct. Values are equal only when their types are: keys for joining and
deduplication never merge ``1``, ``True`` and ``1.0``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.index.columns import (
    BOOL,
    CODED,
    EMPTY_I64,
    FLOAT,
    I64,
    INSTANT,
    INT,
    OBJECT,
    Column,
    object_array,
)
from datahike_async.values.types import typed_key

__all__ = [
    "Relation",
    "codes",
    "column_of",
    "distinct",
    "group_codes",
    "join",
    "plain_value",
    "shared_codes",
    "unit",
]


_SCALARS = frozenset({int, str, float, bool, Keyword, Symbol, datetime, UUID, bytes})


class Relation:
    """Columns by variable; ``count`` rows, also where there is no column (0 or 1 then)."""

    __slots__ = ("columns", "count")

    def __init__(self, columns: dict[Symbol, Column], count: int) -> None:
        self.columns = columns
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"<Relation {list(self.columns)} × {self.count}>"

    def take(self, positions: npt.NDArray[Any]) -> Relation:
        """Return the rows at ``positions`` (an index array or a boolean mask)."""
        columns = {v: c.take(positions) for v, c in self.columns.items()}
        count = int(positions.sum()) if positions.dtype == np.bool_ else len(positions)
        return Relation(columns, count)

    def project(self, variables: Iterable[Symbol]) -> Relation:
        """Return the distinct rows over ``variables``, those of them that it has."""
        wanted = [v for v in variables if v in self.columns]
        columns = {v: self.columns[v] for v in wanted}
        if len(wanted) == len(self.columns):
            return Relation(columns, self.count)
        return distinct(Relation(columns, self.count))

    def project_distinct(self) -> Relation:
        """Return the relation without repeated rows."""
        return distinct(self)

    def with_column(self, variable: Symbol, column: Column) -> Relation:
        """Return the relation with one more column."""
        return Relation({**self.columns, variable: column}, self.count)


def column_of(values: Sequence[Any]) -> Column:
    """Return a column of any values: NumPy scalars become Python's, lists tuples."""
    try:
        return Column.of([plain_value(v) for v in values])
    except (TypeError, OverflowError):
        # Nothing that an index holds, such as a datetime without a zone: equal by type and value.
        return Column(OBJECT, object_array([plain_value(v) for v in values]))


def plain_value(value: Any) -> Any:
    """Return a value as databases hold it: no NumPy scalar, and a tuple for a list."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list or kind is tuple:
        return tuple(map(plain_value, value))
    if kind is set:
        return frozenset(value)
    if kind is bytearray or kind is memoryview:
        return bytes(value)
    return value.item() if isinstance(value, np.generic) else value


def unit() -> Relation:
    """Return the relation of one row without columns: true."""
    return Relation({}, 1)


# -- keys --------------------------------------------------------------------------------------


def codes(column: Column) -> tuple[npt.NDArray[Any], bool]:
    """Return an array that is equal where the values are, and whether its ints are dense codes.

    Dense codes lie in [0, len(dictionary)); others are any int64.
    """
    kind = column.kind
    if kind == CODED:
        return column.data, True
    if kind in (INT, INSTANT):
        return column.data, False
    if kind == BOOL:
        return column.data.astype(np.int64), True
    if kind == FLOAT:
        return np.unique(column.data, return_inverse=True)[1], True
    index: dict[Any, int] = {}
    add = index.setdefault
    found = np.fromiter((add(typed_key(v), len(index)) for v in column.data), np.int64, len(column))
    return found, True


def shared_codes(left: Column, right: Column) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Return arrays of both columns that are equal where the values are; None: never equal."""
    if left.kind == right.kind:
        kind = left.kind
        if kind in (INT, INSTANT):
            return left.data, right.data
        if kind == BOOL:
            return left.data.astype(np.int64), right.data.astype(np.int64)
        if kind == CODED:
            return _coded(left, right)
        if kind == FLOAT:
            both = np.concatenate([left.data, right.data])
            found = np.unique(both, return_inverse=True)[1]
            return found[: len(left)], found[len(left) :]
    elif _never(left.kind, right.kind):
        return None
    index: dict[Any, int] = {}
    add = index.setdefault
    out = []
    for column in (left, right):
        values = column.data if column.kind == 6 else column.tolist()
        out.append(
            np.fromiter((add(typed_key(v), len(index)) for v in values), np.int64, len(column))
        )
    return out[0], out[1]


def _never(left: int, right: int) -> bool:
    # Typed columns of different kinds share no value; mixtures may.
    return left != 6 and right != 6


def _coded(left: Column, right: Column) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    a, b = left.dictionary, right.dictionary
    assert a is not None
    assert b is not None
    if a is b:
        return left.data, right.data
    if len(b) > 4 * len(right) + 64:
        right = right.compact()
        b = right.dictionary
        assert b is not None
    find = a.index.get
    # Codes below -1 are never equal to one of the left side.
    remap = np.fromiter((find(v, -2) for v in b.values), np.int64, len(b))
    return left.data, remap[right.data] if len(b) else right.data.astype(np.int64)


def group_codes(columns: Sequence[Column], count: int) -> tuple[I64, int]:
    """Return a group number for every row, equal where all columns are, and an upper bound."""
    if not columns:
        return np.zeros(count, np.int64), min(count, 1)
    total: I64 | None = None
    size = 1
    for column in columns:
        found, dense = codes(column)
        if dense:
            width = int(found.max()) + 1 if len(found) else 1
        else:
            low = int(found.min()) if len(found) else 0
            width = (int(found.max()) - low + 1) if len(found) else 1
            if width > max(4 * len(found), 1024):
                unique, inverse = np.unique(found, return_inverse=True)
                found, width = inverse, max(len(unique), 1)
            else:
                found = found - low
        found = found.astype(np.int64, copy=False)
        if total is None:
            total, size = found, width
            continue
        if size * width >= 2**62:
            unique, total = np.unique(total, return_inverse=True)
            size = max(len(unique), 1)
        total = total * width + found
        size *= width
    assert total is not None
    return total, size


def distinct(relation: Relation) -> Relation:
    """Return the relation without repeated rows."""
    if relation.count < 2:
        return relation
    if not relation.columns:
        return Relation({}, 1)
    found, size = group_codes(list(relation.columns.values()), relation.count)
    if size <= 4 * relation.count + 1024:
        # Few possible rows: the last position written to each slot represents it.
        slot = np.full(size, -1, np.int64)
        slot[found] = np.arange(relation.count)
        positions = slot[slot >= 0]
    else:
        positions = np.unique(found, return_index=True)[1]
    if len(positions) == relation.count:
        return relation
    positions.sort()
    return relation.take(positions)


# -- joins -------------------------------------------------------------------------------------


def match(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> tuple[I64, I64]:
    """Return the positions (in left, in right) of all pairs of equal keys."""
    if not len(left) or not len(right):
        return EMPTY_I64, EMPTY_I64
    low, high = int(right.min()), int(right.max())
    span = high - low + 1
    if span <= 4 * (len(left) + len(right)) + 1024:
        return _match_dense(left, right, low, span)
    order = np.argsort(right, kind="stable")
    ordered = right[order]
    start = ordered.searchsorted(left, "left")
    stop = ordered.searchsorted(left, "right")
    return _pairs(start, stop, order)


def _match_dense(
    left: npt.NDArray[Any], right: npt.NDArray[Any], low: int, span: int
) -> tuple[I64, I64]:
    """Match keys of a small range: where the pairs of each key begin is looked up, not searched."""
    slots = right.astype(np.int64, copy=False) - low
    # One slot before and one after stand for the keys that ``right`` does not have.
    begin = np.zeros(span + 3, np.int64)
    np.cumsum(np.bincount(slots, minlength=span), out=begin[2 : span + 2])
    begin[span + 2] = begin[span + 1]
    if span < 2**16:
        slots = slots.astype(np.uint16)  # a radix sort
    order = np.argsort(slots, kind="stable")
    at = np.clip(left.astype(np.int64, copy=False), low - 1, low + span) - (low - 1)
    return _pairs(begin[at], begin[at + 1], order)


def _pairs(start: I64, stop: I64, order: I64 | None) -> tuple[I64, I64]:
    counts = stop - start
    here = np.repeat(np.arange(len(counts)), counts)
    total = int(counts.sum())
    if total == 0:
        return here, np.empty(0, np.int64)
    offsets = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    there = np.repeat(start, counts) + offsets
    return here, there if order is None else order[there]


def _keys(left: Relation, right: Relation, shared: list[Symbol]) -> Any:
    if len(shared) == 1:
        return shared_codes(left.columns[shared[0]], right.columns[shared[0]])
    whole: tuple[Any, Any] | None = None
    for variable in shared:
        found = shared_codes(left.columns[variable], right.columns[variable])
        if found is None:
            return None
        both = np.concatenate([found[0], found[1]])
        unique, both = np.unique(both, return_inverse=True)
        a, b = both[: len(left)], both[len(left) :]
        if whole is None:
            whole = (a, b)
            continue
        merged = np.concatenate([whole[0], whole[1]]) * len(unique) + both
        merged = np.unique(merged, return_inverse=True)[1]
        whole = (merged[: len(left)], merged[len(left) :])
    return whole


def join(left: Relation, right: Relation) -> Relation:
    """Return the natural join; without a shared variable, every pair of rows."""
    if not left.columns and left.count == 1:
        return right
    if not right.columns and right.count == 1:
        return left
    shared = [v for v in right.columns if v in left.columns]
    if not left.count or not right.count:
        return _empty(left, right)
    if not shared:
        here = np.repeat(np.arange(left.count), right.count)
        there = np.tile(np.arange(right.count), left.count)
    else:
        keys = _keys(left, right, shared)
        if keys is None:
            return _empty(left, right)
        if right.count > 4 * left.count:
            there, here = match(keys[1], keys[0])
        else:
            here, there = match(keys[0], keys[1])
    columns = {v: c.take(here) for v, c in left.columns.items()}
    for v, c in right.columns.items():
        if v not in columns:
            columns[v] = c.take(there)
    return Relation(columns, len(here))


def _empty(left: Relation, right: Relation) -> Relation:
    nothing = np.empty(0, np.int64)
    columns = {v: c.take(nothing) for v, c in {**right.columns, **left.columns}.items()}
    return Relation(columns, 0)


def semi(left: Relation, right: Relation, *, keep: bool) -> Relation:
    """Return the rows of ``left`` that match a row of ``right`` (or none, without ``keep``)."""
    shared = [v for v in right.columns if v in left.columns]
    if not shared:
        return left if bool(right.count) is keep else left.take(np.zeros(left.count, np.bool_))
    if not left.count:
        return left
    keys = _keys(left, right, shared) if right.count else None
    if keys is None:
        return left.take(np.full(left.count, not keep))
    return left.take(np.isin(keys[0], keys[1], invert=not keep))


def union(relations: Sequence[Relation], variables: Sequence[Symbol]) -> Relation:
    """Return the distinct rows of relations that all have ``variables``."""
    relations = [r for r in relations if r.count]
    if not relations:
        return Relation({v: Column.of([]) for v in variables}, 0)
    if len(relations) == 1:
        only = relations[0]
        return Relation({v: only.columns[v] for v in variables}, only.count)
    columns = {v: Column.concat([r.columns[v] for r in relations]) for v in variables}
    return distinct(Relation(columns, sum(r.count for r in relations)))


def equal_mask(left: Column, right: Column) -> npt.NDArray[np.bool_]:
    """Return where two columns of one length hold equal values."""
    keys = shared_codes(left, right)
    if keys is None:
        return np.zeros(len(left), np.bool_)
    return np.asarray(keys[0] == keys[1])


def constant_mask(column: Column, value: Any) -> npt.NDArray[np.bool_]:
    """Return where a column holds ``value``, type included."""
    kind, data = column.kind, column.data
    if kind == CODED:
        assert column.dictionary is not None
        try:
            code = column.dictionary.index.get(value)
        except TypeError:
            code = None
        if code is None or typed_key(column.dictionary.values[code]) != typed_key(value):
            return np.zeros(len(data), np.bool_)
        return np.asarray(data == code)
    if kind == INT:
        if type(value) is int and -(2**63) <= value < 2**63:
            return np.asarray(data == value)
        return np.zeros(len(data), np.bool_)
    single = column_of([value])
    if kind in (FLOAT, BOOL, INSTANT) and kind == single.kind and value == value:
        return np.asarray(data == single.data[0])
    keys = shared_codes(column, single)
    if keys is None:
        return np.zeros(len(data), np.bool_)
    return np.asarray(keys[0] == keys[1][0])
