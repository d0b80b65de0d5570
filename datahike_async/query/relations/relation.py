"""Relations: named columns of one length, and keys that tell their values apart.

Rows of a relation are distinct. Values are equal only when their types are: keys for joining and
deduplication never merge ``1``, ``True`` and ``1.0``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.index.arrays import (
    all_differ,
    ascending,
    firsts,
    numbered,
    ordered_bits,
    positions_of,
    taken,
    uniques,
)
from datahike_async.index.columns import (
    BOOL,
    CODED,
    FLOAT,
    I64,
    INSTANT,
    INT,
    OBJECT,
    Column,
)
from datahike_async.index.objects import object_array
from datahike_async.looks import PIECE, SMALL, STEP, pieces, tally, walked
from datahike_async.values.types import typed_key

__all__ = [
    "Relation",
    "code_of",
    "codes",
    "column_of",
    "distinct",
    "group_codes",
    "plain_column",
    "plain_value",
    "shared_codes",
    "unit",
]


_SCALARS = frozenset({int, str, float, bool, Keyword, Symbol, datetime, UUID, bytes})

# Of so many rows on it is seen whether a column of them ascends: then no two are equal.
_ORDERED: Final = 1 << 10


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

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        return sum(c.nbytes for c in self.columns.values())

    def take(self, positions: npt.NDArray[Any]) -> Relation:
        """Return the rows at ``positions`` (an index array or a boolean mask)."""
        if positions.dtype == np.bool_ and len(positions) > PIECE and len(self.columns) > 1:
            positions = positions_of(positions)
        columns = {v: c.take(positions) for v, c in self.columns.items()}
        is_mask = positions.dtype == np.bool_
        count = int(np.count_nonzero(positions)) if is_mask else len(positions)
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
    return plain_column([plain_value(v) for v in walked(values)])


def plain_column(values: Sequence[Any]) -> Column:
    """Return a column of values as databases hold them."""
    try:
        return Column.of(values)
    except (TypeError, OverflowError):
        # Nothing that an index holds, such as a datetime without a zone: equal by type and value.
        return Column(OBJECT, object_array(values))


def plain_value(value: Any) -> Any:
    """Return a value as databases hold it: no NumPy scalar, and a tuple for a list."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is tuple:
        # Where it holds a collection several times, that is walked as often.
        tally(STEP * len(value))
        if len(value) > SMALL:
            long = tuple(map(plain_value, walked(value)))
            pairs = walked(zip(long, value, strict=True))
            return value if all(a is b for a, b in pairs) else long
        made = tuple(map(plain_value, value))
        # What holds a collection several times goes on to share it.
        return value if all(map(operator.is_, made, value)) else made
    if kind is list:
        tally(STEP * len(value))
        return tuple(map(plain_value, value if len(value) <= SMALL else walked(value)))
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
        return ordered_bits(column.data), False
    index: dict[Any, int] = {}
    add = index.setdefault
    keys = map(typed_key, walked(column.data))
    return np.fromiter((add(key, len(index)) for key in keys), np.int64, len(column)), True


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
            return ordered_bits(left.data), ordered_bits(right.data)
    elif _never(left.kind, right.kind):
        return None
    index: dict[Any, int] = {}
    add = index.setdefault
    out = []
    for column in (left, right):
        values = column.data if column.kind == 6 else column.tolist()
        keys = map(typed_key, walked(values))
        out.append(np.fromiter((add(key, len(index)) for key in keys), np.int64, len(column)))
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
    # Codes below -1 are never equal to one of the left side.
    remap = a.codes_of(b, -2)
    return left.data, taken(remap, right.data) if len(b) else right.data.astype(np.int64)


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
            if width > max(16 * len(found), 1024):
                unique, inverse = numbered(found)
                found, width = inverse, max(len(unique), 1)
            else:
                found = found - low
        found = found.astype(np.int64, copy=False)
        if total is None:
            total, size = found, width
            continue
        if size * width >= 2**62:
            unique, total = numbered(total)
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
    if relation.count >= _ORDERED:
        for column in relation.columns.values():
            if column.kind in (INT, INSTANT) and (
                ascending(column.data) or all_differ(column.data)
            ):
                return relation
    columns = list(relation.columns.values())
    plain = [column for column in columns if column.kind != OBJECT]
    if plain and len(plain) < len(columns) and _each_once(plain, relation.count) is None:
        return relation  # objects, which take longest, need not be looked at
    positions = _each_once(columns, relation.count)
    return relation if positions is None else relation.take(uniques(positions))


def _each_once(columns: Sequence[Column], count: int) -> I64 | None:
    """Return a position of each different row of columns; None where all differ."""
    found, size = group_codes(columns, count)
    if size <= 16 * count + 1024:
        # Few possible rows: the last position written to each slot represents it.
        slot = np.full(size, -1, np.int64)
        for start, stop in pieces(count):
            slot[found[start:stop]] = np.arange(start, stop)
        positions = taken(slot, slot >= 0)
    else:
        positions = firsts(found)[1]
    return None if len(positions) == count else positions


def equal_mask(left: Column, right: Column) -> npt.NDArray[np.bool_]:
    """Return where two columns of one length hold equal values."""
    keys = shared_codes(left, right)
    if keys is None:
        return np.zeros(len(left), np.bool_)
    return np.asarray(keys[0] == keys[1])


def code_of(column: Column, value: Any) -> int | None:
    """Return the code of a value in the dictionary of a coded column, type included, or None."""
    assert column.dictionary is not None
    return column.dictionary.code(value)


def constant_mask(column: Column, value: Any) -> npt.NDArray[np.bool_]:
    """Return where a column holds ``value``, type included."""
    kind, data = column.kind, column.data
    if kind == CODED:
        code = code_of(column, value)
        return np.zeros(len(data), np.bool_) if code is None else np.asarray(data == code)
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
