"""Columns: the typed arrays that every index leaf, relation and result is made of.

A :class:`Column` holds canonical values of one kind; :class:`Rows` is a run of datoms as columns.
Nothing here knows trees, transactions or queries. Columns are immutable: arrays are never written
to after a Column holds them, so slices share memory freely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.index.arrays import Narrow, constant, joined, numbered, repeated, taken
from datahike_async.index.dictionary import Dictionary
from datahike_async.index.objects import (
    COPIED,
    OBJECTS,
    array_of,
    filled,
    object_array,
    ordered,
    types_of,
)
from datahike_async.looks import SMALL, pieces, walked
from datahike_async.values.order import sort_key

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

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def micros(instant: datetime) -> int:
    """Return microseconds since the epoch of an aware datetime, exactly."""
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """Return the UTC datetime ``value`` microseconds after the epoch."""
    return _EPOCH + timedelta(microseconds=value)


def _chunked(
    make: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], data: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return ``make(data)``, an object array, made in parts."""
    out = np.empty(len(data), np.object_)
    for i, j in pieces(len(data), each=COPIED):
        out[i:j] = make(data[i:j])
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
        """Approximate bytes held."""
        size = self.data.nbytes
        if self.dictionary is not None:
            # A dictionary may serve all leaves of an attribute; each answers for its share.
            count = len(self.dictionary)
            size += self.dictionary.nbytes * min(count, len(self.data)) // max(count, 1)
        elif self.kind == OBJECT:
            size += 48 * len(self.data)
        return size

    @classmethod
    def of(cls, values: Sequence[Any]) -> Column:
        """Build a column from canonical values; one type gives a typed column."""
        types = types_of(values)
        if len(types) == 1:
            return cls._typed(_KIND_OF.get(types.pop(), OBJECT), values)
        if types and types <= CODABLE:
            return cls._typed(CODED, values)
        return cls(OBJECT, object_array(values))

    @classmethod
    def _typed(cls, kind: int, values: Sequence[Any]) -> Column:
        if kind == INT:
            try:
                return cls(INT, array_of(values, np.int64))
            except OverflowError:
                return cls(OBJECT, object_array(values))
        if kind == FLOAT:
            return cls(FLOAT, array_of(values, np.float64))
        if kind == BOOL:
            return cls(BOOL, array_of(values, np.bool_))
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
            return self.dictionary.listed[x]
        if self.kind == OBJECT:
            return x
        return from_micros(int(x)) if self.kind == INSTANT else x.item()

    def tolist(self) -> list[Any]:
        """Return all values as Python objects."""
        if len(self.data) > OBJECTS:
            out: list[Any] = []
            for start, stop in pieces(len(self.data), each=COPIED):
                out += self.slice(start, stop).tolist()
            return out
        if self.kind == CODED:
            assert self.dictionary is not None
            values: list[Any] = self.dictionary.at(self.data).tolist()
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
            return Column(OBJECT, self.dictionary.at(self.data))
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
        return Column(CODED, codes.astype(np.int32), self.dictionary.of_codes(used))

    @staticmethod
    def concat(columns: Sequence[Column], *, packed: bool = False) -> Column:
        """Join columns; different kinds give OBJECT, different dictionaries are unified.

        ``packed``: many different strings of several dictionaries are packed.
        """
        if len(columns) == 1:
            return columns[0]
        if not columns:
            return Column(OBJECT, np.empty(0, np.object_))
        kinds = {c.kind for c in columns}
        if len(kinds) > 1:
            whole = np.empty(sum(map(len, columns)), np.object_)
            at = 0
            for c in columns:
                filled(whole[at : at + len(c)], c.objects().data)
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
        dictionaries = {id(c.dictionary): c.dictionary for c in columns if c.dictionary is not None}
        others = list(dictionaries.values())
        found = Dictionary.unified(others, sum(map(len, columns))) if packed else None
        if found is None:
            largest = max(others, key=len)
            others = [d for d in others if d is not largest]
            found = largest.extended(others)
        unified, codes = found
        remaps = {id(d): remap for d, remap in zip(others, codes, strict=True)}
        parts = []
        for c in columns:
            remap = remaps.get(id(c.dictionary))
            parts.append(c.data if remap is None else taken(remap, c.data))
        return Column(CODED, joined(parts), unified)


class Rows:
    """A run of datoms as columns, all of one length and in the order of their index.

    ``e``, ``t`` int64; ``a`` int32 attribute ids (constant in runs of AEVT and AVET); ``v`` a
    Column. ``until`` is None for current datoms; in temporal indexes it is the transaction that
    retracted the datom, so a row says: asserted by ``t``, true until ``until``. ``added`` is set
    only in rows of a history view: False marks a retraction by ``t``.

    The rows of a whole attribute hold its id once, and their transactions, which few ask for,
    narrowed: ``t`` makes them wide, ``tx`` gives that of one row.
    """

    __slots__ = ("_t", "a", "added", "asked", "dense", "e", "groups", "until", "v")

    def __init__(
        self,
        e: I64,
        a: npt.NDArray[np.int32],
        v: Column,
        t: I64 | Narrow,
        until: I64 | None = None,
        added: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.e = e
        self.a = a
        self.v = v
        self._t = t
        self.until = until
        self.added = added
        # Position of each entity, where a reader has made such a table (query/reading/patterns).
        self.dense: npt.NDArray[np.int32] | None = None
        # Positions by value, and where each value's begin; how often a reader asked for some.
        self.groups: tuple[npt.NDArray[np.int32], npt.NDArray[Any]] | None = None
        self.asked = 0

    def __len__(self) -> int:
        return len(self.e)

    @property
    def t(self) -> I64:
        """The transaction of each row."""
        return self._t.wide() if isinstance(self._t, Narrow) else self._t

    @property
    def times(self) -> I64 | Narrow:
        """The transactions as they are held."""
        return self._t

    def tx(self, i: int) -> int:
        """Return the transaction of one row."""
        return self._t.at(i) if isinstance(self._t, Narrow) else int(self._t[i])

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        return (
            self.e.nbytes
            + (0 if self.a.strides == (0,) else self.a.nbytes)
            + self._t.nbytes
            + self.v.nbytes
            + (0 if self.until is None else self.until.nbytes)
        )

    def sizes(self) -> dict[int, int]:
        """Return the approximate bytes of each part that other rows may share, by its identity."""
        v = self.v
        arrays = [self.e, self.until, self.added, self.dense, *(self.groups or ())]
        arrays.append(self._t.above if isinstance(self._t, Narrow) else self._t)
        if self.a.strides != (0,):
            arrays.append(self.a)
        out = {id(x): x.nbytes for x in arrays if x is not None}
        out[id(v.data)] = v.data.nbytes + (48 * len(v) if v.kind == OBJECT else 0)
        if v.dictionary is not None:
            out[id(v.dictionary.listed)] = v.dictionary.nbytes
        return out

    def take(self, positions: npt.NDArray[Any]) -> Rows:
        """Return the rows at ``positions`` (an index array or a boolean mask)."""
        e, t = taken(self.e, positions), self._t
        same = self.a.strides == (0,)
        return Rows(
            e,
            repeated(self.a, len(e)) if same else taken(self.a, positions),
            self.v.take(positions),
            t.take(positions) if isinstance(t, Narrow) else taken(t, positions),
            None if self.until is None else taken(self.until, positions),
            None if self.added is None else taken(self.added, positions),
        )

    def slice(self, start: int, stop: int) -> Rows:
        """Return ``[start, stop)`` without copying."""
        t = self._t
        return Rows(
            self.e[start:stop],
            self.a[start:stop],
            self.v.slice(start, stop),
            t.slice(start, stop) if isinstance(t, Narrow) else t[start:stop],
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
            return self if v is self.v else Rows(self.e, self.a, v, self._t, self.until, self.added)
        if v is self.v:
            v = v.take(np.arange(len(self)))
        until = None if self.until is None else self.until.copy()
        added = None if self.added is None else self.added.copy()
        return Rows(self.e.copy(), self.a.copy(), v, self.t.copy(), until, added)

    @staticmethod
    def concat(runs: Sequence[Rows], *, packed: bool = False) -> Rows:
        """Join runs in the order given; ``packed`` as in :meth:`Column.concat`."""
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
        e, t = joined([r.e for r in runs]), joined([r.t for r in runs])
        a = [r.a for r in runs]
        same = all(x.strides == (0,) and len(x) and x[0] == a[0][0] for x in a)
        many = len(e) > OBJECTS
        return Rows(
            e,
            repeated(a[0], len(e)) if same else constant(joined(a)) if many else joined(a),
            Column.concat([r.v for r in runs], packed=packed),
            Narrow.of(t) if many else t,
            joined(untils) if len(untils) == len(runs) else None,
            added,
        )
