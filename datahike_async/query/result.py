"""QueryResult: what a relation find returns, a read-only set of tuples over columns.

Length, emptiness and columns cost nothing; tuples are made when they are read, in chunks. Rows are
distinct with their types: ``(1,)`` and ``(True,)`` are two rows here, and one in a Python ``set``.
Knows columns and nothing of databases, clauses or plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Symbol
from datahike_async.index.columns import CODED, INSTANT, Column
from datahike_async.query.relation import column_of, constant_mask
from datahike_async.values.types import typed_key

__all__ = ["QueryResult", "name_of"]

# One C call that makes more tuples than this holds the interpreter for milliseconds.
_CHUNK: Final = 4096
_SCANS: Final = 4


class QueryResult(AbstractSet[tuple[Any, ...]]):
    """The rows of a query: a read-only set of tuples, equal to any set of the same tuples.

    ``names`` are the names of its columns. ``len`` and iteration never build the whole set. Rows
    that differ only in type are kept and counted apart; a Python ``set`` of them merges them.
    """

    __slots__ = ("_columns", "_count", "_keys", "_rows", "_scans", "names")

    def __init__(self, names: Sequence[str], columns: Sequence[Column], count: int) -> None:
        self.names = tuple(names)
        self._columns: tuple[Column, ...] | None = tuple(columns)
        self._rows: Sequence[tuple[Any, ...]] | None = None
        self._count = count
        self._keys: frozenset[Any] | None = None
        self._scans = 0

    @classmethod
    def of_rows(cls, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> QueryResult:
        """Return the result that holds ``rows``, which are distinct; columns when asked for."""
        out = cls.__new__(cls)
        out.names = names
        out._columns = None
        out._rows = rows
        out._count = len(rows)
        out._keys = None
        out._scans = 0
        return out

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        # What the set operators return is an ordinary set.
        return frozenset(it)

    def _made(self) -> tuple[Column, ...]:
        if self._columns is None:
            rows = self._rows or ()
            self._columns = tuple(column_of([r[i] for r in rows]) for i in range(len(self.names)))
        return self._columns

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        if self._rows is not None:
            yield from self._rows
            return
        columns = self._made()
        for start in range(0, self._count, _CHUNK):
            stop = min(start + _CHUNK, self._count)
            yield from zip(*[c.slice(start, stop).tolist() for c in columns], strict=True)

    def chunks(self, size: int = _CHUNK) -> Iterator[list[tuple[Any, ...]]]:
        """Iterate over lists of at most ``size`` tuples, for a caller that pauses between them."""
        if size < 1:
            raise ValueError(f"size should be at least 1, not {size}")
        columns = self._made()
        for start in range(0, self._count, size):
            stop = min(start + size, self._count)
            cut = [c.slice(start, stop).tolist() for c in columns]
            yield list(zip(*cut, strict=True))

    def __contains__(self, row: object) -> bool:
        if not isinstance(row, tuple) or len(row) != len(self.names):
            return False
        if self._keys is None and self._scans < _SCANS:
            # A few questions are answered by scanning; many are worth an index.
            self._scans += 1
            mask: Any = np.ones(self._count, np.bool_)
            for column, value in zip(self._made(), row, strict=True):
                mask = mask & constant_mask(column, value)
            return bool(mask.any())
        if self._keys is None:
            self._keys = frozenset(map(typed_key, self))
        try:
            return typed_key(tuple(row)) in self._keys
        except TypeError:
            return False

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        if not isinstance(other, AbstractSet):
            return NotImplemented
        if len(self) != len(other):
            return False
        if isinstance(other, QueryResult):
            return frozenset(map(typed_key, self)) == frozenset(map(typed_key, other))
        return all(row in other for row in self)

    def __hash__(self) -> int:
        return hash(frozenset(self))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, islice(self, 10)))
        more = f", … {self._count - 10} more" if self._count > 10 else ""
        return "{" + shown + more + "}" if self._count else "set()"

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns as read-only NumPy arrays by name, without making tuples.

        int64, float64 and bool as they are, instants as ``datetime64[us]`` in UTC, all else as
        objects. Of two columns of one name the first is given.
        """
        out: dict[str, npt.NDArray[Any]] = {}
        for name, column in zip(self.names, self._made(), strict=True):
            if name not in out:
                out[name] = _array(column)
        return out


def _array(column: Column) -> npt.NDArray[Any]:
    if column.kind == CODED:
        assert column.dictionary is not None
        out: npt.NDArray[Any] = column.dictionary.array[column.data]
    elif column.kind == INSTANT:
        out = column.data.view("datetime64[us]")
    else:
        out = column.data.view()
    # The arrays are the database's own.
    out.flags.writeable = False
    return out


def name_of(element: Any) -> str:
    """Return the column name of a find element."""
    if isinstance(element, Symbol):
        return element.text.removeprefix("?")
    return str(getattr(element, "function", "pull"))
