"""Columns: the typed arrays that every index leaf, relation and result is made of.

A :class:`Column` holds canonical values of one kind; :class:`Rows` is a run of datoms as columns.
Nothing here knows trees, transactions or queries. Columns are immutable: arrays are never written
to after a Column holds them, so slices share memory freely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from heapq import merge
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.index.arrays import joined, numbered, taken
from datahike_async.looks import SMALL, pieces, walked
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key

__all__ = [
    "BOOL",
    "CODABLE",
    "CODED",
    "EMPTY_I64",
    "FLOAT",
    "I64",
    "INSTANT",
    "INT",
    "OBJECT",
    "Column",
    "Dictionary",
    "Rows",
    "from_micros",
    "micros",
]

I64: TypeAlias = npt.NDArray[np.int64]

INT: Final = 1  # int64: long, ref, entity and transaction ids
FLOAT: Final = 2  # float64: double and float
BOOL: Final = 3  # bool_
INSTANT: Final = 4  # int64 microseconds since 1970-01-01T00:00Z
CODED: Final = 5  # int32 codes into a Dictionary: str, Keyword, Symbol, UUID, bytes
OBJECT: Final = 6  # object array of canonical values: everything else, and mixtures

EMPTY_I64: Final[I64] = np.empty(0, np.int64)

# One call that handles more objects than this keeps the interpreter from other threads for long.
_OBJECTS: Final = 1 << 15
# What an object that is made or copied counts for, in looks at the clock.
_COPIED: Final = 4
# What an object that is sorted counts for.
_SORTED: Final = 8

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

# What NumPy never looks into.
_ATOMS: Final[frozenset[type]] = frozenset(
    {bool, bytes, Char, datetime, Decimal, float, Fraction, int, Keyword, str, Symbol, UUID}
)


def micros(instant: datetime) -> int:
    """Return microseconds since the epoch of an aware datetime, exactly."""
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """Return the UTC datetime ``value`` microseconds after the epoch."""
    return _EPOCH + timedelta(microseconds=value)


def object_array(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    """Return a one-dimensional object array; sequences stay elements."""
    out = np.empty(len(values), np.object_)
    if _ATOMS.issuperset(_types_of(values)):
        _filled(out, values)
    else:
        # Of a list of equally long tuples NumPy would take the elements.
        for i, v in enumerate(walked(values, each=_COPIED)):
            out[i] = v
    return out


def _types_of(values: Sequence[Any]) -> set[type]:
    if len(values) <= _OBJECTS:
        return set(map(type, values))
    types: set[type] = set()
    for i, j in pieces(len(values), each=_COPIED):
        types.update(map(type, values[i:j]))
    return types


def _array(values: Sequence[Any], dtype: Any) -> npt.NDArray[Any]:
    if len(values) <= _OBJECTS:
        return np.array(values, dtype)
    return _filled(np.empty(len(values), dtype), values)


def ordered(keys: Sequence[Any]) -> Sequence[int]:
    """Return the positions that sort keys of Python's, which are sorted in parts.

    Sorting a million in one call would keep the interpreter from every other thread for a second.
    """
    if len(keys) <= _OBJECTS:
        return sorted(range(len(keys)), key=keys.__getitem__)
    parts = [sorted(range(i, j), key=keys.__getitem__) for i, j in pieces(len(keys), each=_SORTED)]
    return list(walked(merge(*parts, key=keys.__getitem__)))


class Dictionary:
    """Distinct values that codes point into; shared by every column cut from one run."""

    __slots__ = ("_array", "_index", "_is_text", "_keys", "_ranks", "values")

    def __init__(self, values: list[Any], index: dict[Any, int] | None = None) -> None:
        """Take distinct values, and the code of each typed key where that is known."""
        self.values = values
        self._index = index
        self._keys: list[Any] | None = None
        self._array: npt.NDArray[np.object_] | None = None
        self._ranks: npt.NDArray[np.int32] | None = None
        self._is_text: bool | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def keys(self) -> list[Any]:
        """The typed key of each value: of all but UUIDs it is the value."""
        if self._keys is None:
            self._keys = _keys_of(self.values)
        return self._keys

    @property
    def index(self) -> dict[Any, int]:
        """Code of each typed key."""
        if self._index is None:
            self._index = {key: i for i, key in enumerate(self.keys)}
        return self._index

    def code(self, value: Any) -> int | None:
        """Return the code of a value of any type, or None where it is not there."""
        return self.index.get(typed_key(value))

    @property
    def array(self) -> npt.NDArray[np.object_]:
        """The values as an object array."""
        if self._array is None:
            self._array = object_array(self.values)
        return self._array

    @property
    def ranks(self) -> npt.NDArray[np.int32]:
        """Position of each value in the total order."""
        if self._ranks is None:
            # Strings sort as they are.
            text = self.is_text
            order = ordered(self.values if text else [sort_key(v) for v in walked(self.values)])
            ranks = np.empty(len(order), np.int32)
            ranks[order] = np.arange(len(order), dtype=np.int32)
            self._ranks = ranks
        return self._ranks

    @property
    def is_text(self) -> bool:
        """Whether all values are strings."""
        if self._is_text is None:
            self._is_text = set(map(type, self.values)) == {str}
        return self._is_text

    @classmethod
    def encode(cls, values: Sequence[Any]) -> tuple[Dictionary, npt.NDArray[np.int32]]:
        """Return the dictionary of ``values`` and the code of each."""
        index: dict[Any, int] = {}
        add = index.setdefault
        keys = _keys_of(values)
        each = walked(keys, each=_COPIED)
        codes = np.fromiter((add(key, len(index)) for key in each), np.int32, len(keys))
        if keys is values:
            return cls(list(index), index), codes
        # Of equal values the last one stays; codes ascend as they come.
        return cls(list(dict(zip(codes.tolist(), values, strict=True)).values()), index), codes


def _keys_of(values: Sequence[Any]) -> Any:
    """Return the typed keys of codable values: the same list where they are their own."""
    return list(map(typed_key, values)) if UUID in _types_of(values) else values


def _chunked(
    make: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], data: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return ``make(data)``, an object array, made in parts."""
    out = np.empty(len(data), np.object_)
    for i, j in pieces(len(data), each=_COPIED):
        out[i:j] = make(data[i:j])
    return out


def _filled(out: npt.NDArray[Any], data: Any) -> npt.NDArray[Any]:
    """Fill an array with values, in parts."""
    for i, j in pieces(len(data), each=_COPIED):
        out[i:j] = data[i:j]
    return out


# CODED may hold only values that equal nothing but themselves across types (see typed_key).
CODABLE: Final[frozenset[type]] = frozenset({str, Keyword, Symbol, UUID, bytes})
_KIND_OF: Final[dict[type, int]] = {
    int: INT,
    float: FLOAT,
    bool: BOOL,
    datetime: INSTANT,
    **dict.fromkeys(CODABLE, CODED),
}
_INT64 = (-(2**63), 2**63 - 1)


class Column:
    """Canonical values of one kind. ``dictionary`` is set for CODED alone."""

    __slots__ = ("data", "dictionary", "kind")

    def __init__(self, kind: int, data: npt.NDArray[Any], dictionary: Dictionary | None = None):
        self.kind = kind
        self.data = data
        self.dictionary = dictionary

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"Column({self.kind}, {self.tolist()!r})"

    @property
    def nbytes(self) -> int:
        """Approximate bytes held, a dictionary's values counted at 64 bytes each."""
        size = self.data.nbytes
        if self.dictionary is not None:
            # A dictionary may serve all leaves of an attribute; each answers for its share.
            size += 64 * min(len(self.dictionary), len(self.data))
        elif self.kind == OBJECT:
            size += 48 * len(self.data)
        return size

    @classmethod
    def of(cls, values: Sequence[Any]) -> Column:
        """Build a column from canonical values; one type gives a typed column."""
        types = _types_of(values)
        if len(types) == 1:
            return cls._typed(_KIND_OF.get(types.pop(), OBJECT), values)
        if types and types <= CODABLE:
            return cls._typed(CODED, values)
        return cls(OBJECT, object_array(values))

    @classmethod
    def _typed(cls, kind: int, values: Sequence[Any]) -> Column:
        if kind == INT:
            try:
                return cls(INT, _array(values, np.int64))
            except OverflowError:
                return cls(OBJECT, object_array(values))
        if kind == FLOAT:
            return cls(FLOAT, _array(values, np.float64))
        if kind == BOOL:
            return cls(BOOL, _array(values, np.bool_))
        if kind == INSTANT:
            return cls(INSTANT, np.fromiter(map(micros, walked(values)), np.int64, len(values)))
        if kind == CODED:
            dictionary, codes = Dictionary.encode(values)
            return cls(CODED, codes, dictionary)
        return cls(OBJECT, object_array(values))

    def value(self, i: int) -> Any:
        """Return the value at ``i`` as a Python object."""
        x = self.data[i]
        if self.kind == CODED:
            assert self.dictionary is not None
            return self.dictionary.values[x]
        if self.kind == OBJECT:
            return x
        return from_micros(int(x)) if self.kind == INSTANT else x.item()

    def tolist(self) -> list[Any]:
        """Return all values as Python objects."""
        if len(self.data) > _OBJECTS:
            out: list[Any] = []
            for start, stop in pieces(len(self.data), each=_COPIED):
                out += self.slice(start, stop).tolist()
            return out
        if self.kind == CODED:
            assert self.dictionary is not None
            values: list[Any] = self.dictionary.array[self.data].tolist()
            return values
        values = self.data.tolist()
        return [from_micros(x) for x in values] if self.kind == INSTANT else values

    def take(self, positions: npt.NDArray[Any]) -> Column:
        """Return the values at ``positions`` (an index array or a boolean mask)."""
        data = self.data[positions] if len(positions) <= SMALL else taken(self.data, positions)
        return Column(self.kind, data, self.dictionary)

    def slice(self, start: int, stop: int) -> Column:
        """Return ``[start, stop)`` without copying."""
        return Column(self.kind, self.data[start:stop], self.dictionary)

    def objects(self) -> Column:
        """Return the same values as an OBJECT column."""
        if self.kind == OBJECT:
            return self
        if self.kind == CODED:
            assert self.dictionary is not None
            return Column(OBJECT, _chunked(self.dictionary.array.take, self.data))
        if self.kind == INSTANT:
            return Column(OBJECT, object_array(self.tolist()))
        return Column(OBJECT, _chunked(lambda part: part.astype(np.object_), self.data))

    def ranks(self) -> npt.NDArray[Any]:
        """Return an array that sorts as the values do in the total order (NaN last)."""
        if self.kind == CODED:
            assert self.dictionary is not None
            ranks: npt.NDArray[Any] = self.dictionary.ranks[self.data]
            return ranks
        if self.kind != OBJECT:
            return self.data
        keys = [sort_key(v) for v in walked(self.data)]
        ranks = np.empty(len(keys), np.int64)
        rank, previous = -1, None
        for i in walked(ordered(keys)):
            if previous is None or keys[i] != previous:
                rank, previous = rank + 1, keys[i]
            ranks[i] = rank
        return ranks

    def compact(self, factor: int = 4) -> Column:
        """Return the same values over a dictionary that holds no others.

        Itself where the dictionary has at most ``factor`` times as many values as there are rows.
        """
        if self.dictionary is None or len(self.dictionary) <= factor * len(self.data) + 64:
            return self
        used, codes = numbered(self.data)
        values = self.dictionary.values
        small = Dictionary([values[c] for c in used.tolist()])
        return Column(CODED, codes.astype(np.int32), small)

    @staticmethod
    def concat(columns: Sequence[Column]) -> Column:
        """Join columns; different kinds give OBJECT, different dictionaries are unified."""
        if len(columns) == 1:
            return columns[0]
        if not columns:
            return Column(OBJECT, np.empty(0, np.object_))
        kinds = {c.kind for c in columns}
        if len(kinds) > 1:
            whole = np.empty(sum(map(len, columns)), np.object_)
            at = 0
            for c in columns:
                _filled(whole[at : at + len(c)], c.objects().data)
                at += len(c)
            return Column(OBJECT, whole)
        kind = columns[0].kind
        if kind != CODED:
            return Column(kind, joined([c.data for c in columns]))
        first = columns[0].dictionary
        if all(c.dictionary is first for c in columns):
            return Column(CODED, joined([c.data for c in columns]), first)
        columns = [c.compact() for c in columns]
        # The largest dictionary keeps its codes: the others are usually a few new values.
        largest = max((c.dictionary for c in columns if c.dictionary is not None), key=len)
        index = largest.index
        grown = False
        values = largest.values
        maps = {id(largest): np.arange(len(largest), dtype=np.int32)}
        parts = []
        for c in columns:
            d = c.dictionary
            assert d is not None
            remap = maps.get(id(d))
            if remap is None:
                if not grown and not all(map(index.__contains__, d.keys)):
                    index, grown = dict(index), True
                add = index.setdefault
                each = walked(d.keys, each=_COPIED)
                remap = np.fromiter((add(key, len(index)) for key in each), np.int32, len(d))
                maps[id(d)] = remap
                if grown:
                    new = np.flatnonzero(remap >= len(values)).tolist()
                    values = [*values, *(d.values[i] for i in new)]
            parts.append(taken(remap, c.data))
        unified = Dictionary(values, index) if grown else largest
        return Column(CODED, joined(parts), unified)


class Rows:
    """A run of datoms as columns, all of one length and in the order of their index.

    ``e``, ``t`` int64; ``a`` int32 attribute ids (constant in runs of AEVT and AVET); ``v`` a
    Column. ``until`` is None for current datoms; in temporal indexes it is the transaction that
    retracted the datom, so a row says: asserted by ``t``, true until ``until``. ``added`` is set
    only in rows of a history view: False marks a retraction by ``t``.
    """

    __slots__ = ("a", "added", "asked", "dense", "e", "groups", "t", "until", "v")

    def __init__(
        self,
        e: I64,
        a: npt.NDArray[np.int32],
        v: Column,
        t: I64,
        until: I64 | None = None,
        added: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.e = e
        self.a = a
        self.v = v
        self.t = t
        self.until = until
        self.added = added
        # Position of each entity, where a reader has made such a table (see query.patterns).
        self.dense: npt.NDArray[np.int32] | None = None
        # Positions by value, and where each value's begin; how often a reader asked for some.
        self.groups: tuple[npt.NDArray[np.int32], npt.NDArray[Any]] | None = None
        self.asked = 0

    def __len__(self) -> int:
        return len(self.e)

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        return (
            self.e.nbytes
            + self.t.nbytes
            + self.v.nbytes
            + (0 if self.until is None else self.until.nbytes)
        )

    def take(self, positions: npt.NDArray[Any]) -> Rows:
        """Return the rows at ``positions`` (an index array or a boolean mask)."""
        return Rows(
            taken(self.e, positions),
            taken(self.a, positions),
            self.v.take(positions),
            taken(self.t, positions),
            None if self.until is None else taken(self.until, positions),
            None if self.added is None else taken(self.added, positions),
        )

    def slice(self, start: int, stop: int) -> Rows:
        """Return ``[start, stop)`` without copying."""
        return Rows(
            self.e[start:stop],
            self.a[start:stop],
            self.v.slice(start, stop),
            self.t[start:stop],
            None if self.until is None else self.until[start:stop],
            None if self.added is None else self.added[start:stop],
        )

    def backwards(self) -> Rows:
        """Return the rows from the last to the first."""
        return self.take(np.arange(len(self) - 1, -1, -1))

    def owned(self) -> Rows:
        """Return the same rows without holding on to far larger arrays they are cut from."""
        v = self.v.compact(64)
        base = self.e.base
        if not isinstance(base, np.ndarray) or base.size <= 2 * self.e.size:
            return self if v is self.v else Rows(self.e, self.a, v, self.t, self.until, self.added)
        whole = np.arange(len(self))
        return Rows(self.e, self.a, v, self.t, self.until, self.added).take(whole)

    @staticmethod
    def concat(runs: Sequence[Rows]) -> Rows:
        """Join runs in the order given."""
        if len(runs) == 1:
            return runs[0]
        if not runs:
            return Rows(EMPTY_I64, np.empty(0, np.int32), Column.concat([]), EMPTY_I64, None)
        untils = [r.until for r in runs if r.until is not None]
        added = None
        if any(r.added is not None for r in runs):
            added = joined(
                [np.ones(len(r), np.bool_) if r.added is None else r.added for r in runs]
            )
        return Rows(
            joined([r.e for r in runs]),
            joined([r.a for r in runs]),
            Column.concat([r.v for r in runs]),
            joined([r.t for r in runs]),
            joined(untils) if len(untils) == len(runs) else None,
            added,
        )
