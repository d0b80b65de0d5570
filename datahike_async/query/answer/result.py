"""What a relation find returns: QueryResult, a set of tuples, and QueryList, a list of them.

Both are lazy views of columns. Length, emptiness and columns cost nothing; tuples are made when
they are read, in chunks. Rows keep their types: ``(1,)`` and ``(True,)`` are two rows here, and one
in a Python ``set``. Knows columns and nothing of databases, clauses or plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, overload

import numpy as np
import numpy.typing as npt

from datahike_async.errors import shown
from datahike_async.index.columns import CODED, INSTANT, Column
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.query.answer import frames
from datahike_async.query.answer.json_rows import json_chunks, json_rows
from datahike_async.query.relations.relation import column_of, constant_mask
from datahike_async.tables import html_table, table
from datahike_async.values.json_form import jsonable
from datahike_async.values.types import typed_key

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = ["QueryList", "QueryResult"]

# One C call that makes more tuples than this holds the interpreter for milliseconds.
_CHUNK: Final = 4096
_JSON_CHUNK: Final = 1000
_SCANS: Final = 4
_IN_REPR: Final = 10
_IN_TEXT: Final = 20
_IN_HTML: Final = 50


class _Rows(Json):
    """Tuples over columns, or over rows that are there already: what both results share."""

    __slots__ = ("_columns", "_count", "_rows", "names")
    json_schema: ClassVar[JsonSchema] = {"type": "array", "items": {"type": "array", "items": {}}}

    def __init__(self, names: Sequence[str], columns: Sequence[Column], count: int) -> None:
        self.names = tuple(names)
        self._columns: tuple[Column, ...] | None = tuple(columns)
        self._rows: Sequence[tuple[Any, ...]] | None = None
        self._count = count

    @classmethod
    def of_rows(cls, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> Self:
        """Return the result that holds ``rows`` (of a set, distinct); columns when asked for."""
        out = cls(names, (), len(rows))
        out._columns = None
        out._rows = rows
        return out

    def _made(self) -> tuple[Column, ...]:
        if self._columns is None:
            rows = self._rows or ()
            self._columns = tuple(column_of([r[i] for r in rows]) for i in range(len(self.names)))
        return self._columns

    def _zipped(self, start: int) -> Iterator[tuple[Any, ...]]:
        stop = min(start + _CHUNK, self._count)
        return zip(*[c.slice(start, stop).tolist() for c in self._made()], strict=True)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        # No generator: set(result) and list(result) then run in C from end to end.
        if self._rows is not None:
            return iter(self._rows)
        if self._count <= _CHUNK:
            return self._zipped(0)
        return chain.from_iterable(map(self._zipped, range(0, self._count, _CHUNK)))

    def chunks(self, size: int = _CHUNK) -> Iterator[list[tuple[Any, ...]]]:
        """Iterate over lists of at most ``size`` tuples, for a caller that pauses between them.

        Raises ValueError where ``size`` is less than 1.
        """
        if size < 1:
            raise ValueError(f"size should be at least 1, not {size}")
        for start in range(0, self._count, size):
            stop = min(start + size, self._count)
            if self._rows is not None:
                yield list(self._rows[start:stop])
                continue
            cut = [c.slice(start, stop).tolist() for c in self._made()]
            yield list(zip(*cut, strict=True))

    # -- other shapes --------------------------------------------------------------------------

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns as read-only NumPy arrays by name, without making tuples.

        int64, float64 and bool as they are, instants as ``datetime64[us]`` in UTC, all else as
        objects. Of columns of one name the second becomes ``NAME_2``.
        """
        named = zip(frames.distinct_names(self.names), self._made(), strict=True)
        return {name: _array(column) for name, column in named}

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as dicts by column name; names as ``columns`` gives them. ::

        rows = await d.q("[:find ?email ?name :where [?e :person/email ?email] "
                         "[?e :person/name ?name] :order-by [?name :asc]]", db)
        assert rows.to_dicts()[0] == {"email": "ada@example.org", "name": "Ada"}
        """
        names = frames.distinct_names(self.names)
        return [dict(zip(names, row, strict=True)) for row in self]

    # -- JSON ----------------------------------------------------------------------------------

    def to_json(self, *, dicts: bool = False) -> str:
        """Return the rows as JSON text: an array of arrays, or of objects by column name.

        The form of each value is that of :func:`datahike_async.jsonable`. Of a hundred thousand
        rows this takes a good part of a second, during which an event loop stands still: send
        those as :meth:`json_chunks`. ::

            rows = await d.q("[:find ?n :where [_ :person/name ?n] :order-by [?n :asc]]", db)
            assert rows.to_json() == '[["Ada"],["Bob"]]'
            assert rows.to_json(dicts=True) == '[{"n":"Ada"},{"n":"Bob"}]'

        Raises ArgumentError for a value that has no form in JSON.
        """
        return "".join(self.json_chunks(dicts=dicts))

    def json_chunks(self, size: int = _JSON_CHUNK, *, dicts: bool = False) -> Iterator[str]:
        """Iterate over the pieces of ``to_json``, each of at most ``size`` rows.

        For a caller that pauses between them, sends them one by one, or makes them in a thread, as
        Starlette's and FastAPI's ``StreamingResponse`` does. Raises ValueError where ``size`` is
        less than 1; ArgumentError while iterating.
        """
        return json_chunks(self._json_parts(size, dicts))

    def _json_parts(self, size: int, dicts: bool) -> Iterator[list[Any]]:
        if size < 1:
            raise ValueError(f"size should be at least 1, not {size}")
        names = frames.distinct_names(self.names)
        for start in range(0, self._count, size):
            stop = min(start + size, self._count)
            if self._rows is not None:
                rows = jsonable(self._rows[start:stop])
            else:
                rows = json_rows(self._made(), start, stop)
            yield [dict(zip(names, row, strict=True)) for row in rows] if dicts else rows

    def as_json(self) -> list[Any]:
        """Return the rows as lists of what JSON has."""
        return [row for part in self._json_parts(_CHUNK, dicts=False) for row in part]

    def to_arrow(self) -> pa.Table:
        """Return a ``pyarrow.Table``; names as ``columns`` gives them, no tuples are made.

        Longs are int64, doubles float64, instants ``timestamp[us, UTC]``; strings, keywords and
        symbols are dictionaries of text, the latter two as EDN writes them (``:person/name``). A
        uuid is text, bytes are binary, a bigdec or an int beyond 64 bits is a decimal of its
        digits. Tuples, arrays and sets of one type are lists, None is null. Any other column, above
        all one of **mixed types**, is the EDN text of each value, which loses nothing: ``1``,
        ``1.0`` and ``"1"`` stay three, and an EDN reader gives them back.

        Raises MissingLibrary without pyarrow, and QueryError naming the column for a value that
        even EDN cannot write.
        """
        return frames.arrow_table(self.names, self._made(), "to_arrow()")

    def to_polars(self) -> pl.DataFrame:
        """Return a ``polars.DataFrame``: the types of ``to_arrow``, dictionaries as Categorical.

        Raises MissingLibrary without polars and pyarrow, else what ``to_arrow`` raises.
        """
        return frames.polars_frame(self.names, self._made())

    def to_pandas(self) -> pd.DataFrame:
        """Return a ``pandas.DataFrame``: the types of ``to_arrow``, dictionaries as categories.

        Raises MissingLibrary without pandas and pyarrow, else what ``to_arrow`` raises.
        """
        return frames.pandas_frame(self.names, self._made())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the rows to any library that speaks Arrow's PyCapsule interface."""
        made = frames.arrow_table(self.names, self._made(), "The Arrow interface")
        return made.__arrow_c_stream__(requested_schema)

    # -- to be looked at -----------------------------------------------------------------------

    def _first(self) -> str:
        rows = ", ".join(map(shown, islice(self, _IN_REPR)))
        return f"{rows}, … {self._count - _IN_REPR} more" if self._count > _IN_REPR else rows

    def __str__(self) -> str:
        rows = islice(self, _IN_TEXT)
        return table(self.names, rows, more=max(self._count - _IN_TEXT, 0)).rstrip("\n")

    def _repr_html_(self) -> str:
        return html_table(self.names, islice(self, _IN_HTML), count=self._count)


class QueryResult(_Rows, AbstractSet[tuple[Any, ...]]):
    """The rows of a query: a read-only set of tuples, equal to any set of the same tuples.

    ``names`` are the names of its columns. ``len`` and iteration never build the whole set. Rows
    that differ only in type are kept and counted apart; a Python ``set`` of them merges them.
    ``print`` shows a table, a notebook the first 50 rows.
    """

    __slots__ = ("_keys", "_scans")

    def __init__(self, names: Sequence[str], columns: Sequence[Column], count: int) -> None:
        super().__init__(names, columns, count)
        self._keys: frozenset[Any] | None = None
        self._scans = 0

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        # What the set operators return is an ordinary set.
        return frozenset(it)

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
        return "{" + self._first() + "}" if self._count else "set()"


# Not a collections.abc.Sequence: those polars takes apart row by row and asks for no columns.
class QueryList(_Rows):
    """The rows of a query that has an order or may repeat a row: a read-only list of tuples.

    It comes of ``:order-by``, ``:with``, aggregates and pulls, and is equal to any list of the same
    tuples. ``names`` are the names of its columns; a slice is a QueryList of the same columns.
    ``print`` shows a table, a notebook the first 50 rows.
    """

    __slots__ = ()

    @overload
    def __getitem__(self, at: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, at: slice) -> QueryList: ...
    def __getitem__(self, at: int | slice) -> tuple[Any, ...] | QueryList:
        if isinstance(at, slice):
            if self._rows is not None:
                return QueryList.of_rows(self.names, self._rows[at])
            start, stop, step = at.indices(self._count)
            count = len(range(start, stop, step))
            if step == 1:
                return QueryList(
                    self.names, [c.slice(start, start + count) for c in self._made()], count
                )
            positions = np.arange(start, stop, step)
            return QueryList(self.names, [c.take(positions) for c in self._made()], count)
        i = index(at)
        if not -self._count <= i < self._count:
            raise IndexError(f"there is no row {i}; the result has {self._count}")
        if self._rows is not None:
            return self._rows[i]
        return tuple([c.value(i) for c in self._made()])

    def index(self, row: object, start: int = 0, stop: int | None = None) -> int:
        """Return the position of the first row that equals ``row``; ValueError where none does."""
        start, stop, _ = slice(start, stop).indices(self._count)
        for i, one in enumerate(self[start:stop], start):
            if one == row:
                return i
        raise ValueError(f"{shown(row)} is not among the rows")

    def count(self, row: object) -> int:
        """Return how many rows equal ``row``."""
        return sum(one == row for one in self)

    def __reversed__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self[::-1])

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        if isinstance(other, QueryList):
            return len(self) == len(other) and all(
                typed_key(a) == typed_key(b) for a, b in zip(self, other, strict=True)
            )
        if not isinstance(other, list):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # like a list, to which it is equal

    def __repr__(self) -> str:
        return "[" + self._first() + "]"


def _array(column: Column) -> npt.NDArray[Any]:
    if column.kind == CODED:
        assert column.dictionary is not None
        out: npt.NDArray[Any] = column.dictionary.at(column.data)
    elif column.kind == INSTANT:
        out = column.data.view("datetime64[us]")
    else:
        out = column.data.view()
    # The arrays are the database's own.
    out.flags.writeable = False
    return out
