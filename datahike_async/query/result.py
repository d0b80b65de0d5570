"""QueryResult: what a relation find returns, a read-only set of tuples over columns.

Length, emptiness and columns cost nothing; tuples are made when they are read, in chunks. Rows are
distinct with their types: ``(1,)`` and ``(True,)`` are two rows here, and one in a Python ``set``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.index.columns import Column
from datahike_async.query.relation import constant_mask

__all__ = ["QueryResult"]

_CHUNK: Final = 4096


class QueryResult(AbstractSet[tuple[Any, ...]]):
    """The rows of a query: a set of tuples, equal to any set of the same tuples."""

    __slots__ = ("_columns", "_count", "names")

    def __init__(self, names: Sequence[str], columns: Sequence[Column], count: int) -> None:
        self.names = tuple(names)
        self._columns = tuple(columns)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for start in range(0, self._count, _CHUNK):
            stop = min(start + _CHUNK, self._count)
            yield from zip(*(c.slice(start, stop).tolist() for c in self._columns), strict=True)

    def __contains__(self, row: object) -> bool:
        if not isinstance(row, tuple) or len(row) != len(self._columns):
            return False
        mask: Any = np.ones(self._count, np.bool_)
        for column, value in zip(self._columns, row, strict=True):
            mask = mask & constant_mask(column, value)
        return bool(mask.any())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AbstractSet):
            return NotImplemented
        return len(self) == len(other) and all(row in other for row in self)

    def __hash__(self) -> int:
        return hash(frozenset(self))

    @classmethod
    def _from_iterable(cls, rows: Any) -> Any:
        return frozenset(rows)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, islice(self, 10)))
        more = f", … {self._count - 10} more" if self._count > 10 else ""
        return "{" + shown + more + "}" if self._count else "set()"

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the columns as NumPy arrays by name; instants as ``datetime64[us]`` in UTC."""
        out: dict[str, np.ndarray[Any, Any]] = {}
        for name, column in zip(self.names, self._columns, strict=True):
            if column.dictionary is not None:
                out[name] = column.dictionary.array[column.data]
            elif column.kind == 4:
                out[name] = column.data.astype("datetime64[us]")
            else:
                out[name] = column.data
        return out


def name_of(element: Any) -> str:
    """Return the column name of a find element."""
    if isinstance(element, Symbol):
        return element.text.removeprefix("?")
    return str(getattr(element, "function", "pull"))
