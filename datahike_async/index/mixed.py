"""Mixed columns: values of several kinds side by side, without an object for each.

Rows of many attributes in the order of entities have values of many kinds. As long as such a run
is merged, cut into leaves and encoded, its values stay in the typed columns they came in. Whoever
reads one as the column of objects that it stands for gets that, and then it is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import joined, positions_of, taken
from datahike_async.index.columns import I64, OBJECT, Column, Rows
from datahike_async.looks import pieces

__all__ = ["Mixed", "joined_rows"]

# A column of fewer values is made one of objects where it is read.
_SMALL: Final = 4096


class Mixed(Column):
    """A column of objects that are made when they are looked at.

    Value ``i`` is value ``where[i]`` of ``parts[which[i]]``. Without ``where`` the parts hold these
    values alone, each in the order of the rows.
    """

    __slots__ = ("_objects", "_own", "_where", "parts", "which")

    def __init__(
        self, parts: Sequence[Column], which: npt.NDArray[np.uint8], where: I64 | None = None
    ) -> None:
        self.kind = OBJECT
        self.dictionary = None
        self.parts = parts
        self.which = which
        self._where = where
        self._objects: npt.NDArray[np.object_] | None = None
        self._own = where is None

    @property
    def where(self) -> I64:
        """Where in its part each value is."""
        if self._where is None:
            out = np.empty(len(self.which), np.int64)
            for k, part in enumerate(self.parts):
                out[positions_of(self.which == k)] = np.arange(len(part))
            self._where = out
        return self._where

    @property
    def data(self) -> npt.NDArray[Any]:  # type: ignore[override]
        """The values as objects."""
        if self._objects is None:
            out = np.empty(len(self.which), np.object_)
            for k, part in enumerate(self.parts):
                own = positions_of(self.which == k)
                if not self._own:
                    part = part.take(taken(self.where, own))
                values = part.objects().data
                for start, stop in pieces(len(own)):
                    out[own[start:stop]] = values[start:stop]
            self._objects = out
        return self._objects

    def __len__(self) -> int:
        return len(self.which)

    @property
    def nbytes(self) -> int:
        """Approximate bytes held, once it is read."""
        return 56 * len(self.which)

    def value(self, i: int) -> Any:
        """Return the value at ``i`` as a Python object."""
        if self._objects is not None:
            return self._objects[i]
        return self.parts[self.which[i]].value(int(self.where[i]))

    def _is_read(self) -> bool:
        return self._objects is not None or len(self.which) <= _SMALL

    def take(self, positions: npt.NDArray[Any]) -> Column:
        """Return the values at ``positions`` (an index array or a boolean mask)."""
        if self._is_read():
            return Column(OBJECT, self.data).take(positions)
        return Mixed(self.parts, taken(self.which, positions), taken(self.where, positions))

    def slice(self, start: int, stop: int) -> Column:
        """Return ``[start, stop)`` without copying."""
        if self._is_read():
            return Column(OBJECT, self.data[start:stop])
        return Mixed(self.parts, self.which[start:stop], self.where[start:stop])

    def compact(self, factor: int = 4) -> Mixed:
        """Return the same values over parts that hold no others, in the order of the rows."""
        if self._own:
            return self
        parts: list[Column] = []
        which = np.empty(len(self.which), np.uint8)
        for k, part in enumerate(self.parts):
            own = np.flatnonzero(self.which == k)
            if len(own):
                which[own] = len(parts)
                parts.append(part.take(self.where[own]).compact(factor))
        return Mixed(parts, which)


def joined_rows(runs: Sequence[Rows]) -> Rows:
    """Join runs in the order given, values of several kinds as a mixed column."""
    columns = [run.v for run in runs]
    kinds = {column.kind for column in columns}
    if len(kinds) == 1 and not any(isinstance(column, Mixed) for column in columns):
        return Rows.concat(runs)
    found: dict[int, list[Column]] = {}
    sizes: dict[int, int] = {}
    number: dict[int, int] = {}
    # Slices of one column share its parts: each is joined once.
    known: dict[int, tuple[int, int]] = {}
    which: list[npt.NDArray[np.uint8]] = []
    where: list[I64] = []

    def add(column: Column) -> tuple[int, int]:
        """Return the part that a column becomes one of, and where in it."""
        kind, at = column.kind, sizes.get(column.kind, 0)
        found.setdefault(kind, []).append(column)
        sizes[kind] = at + len(column)
        return number.setdefault(kind, len(number)), at

    for column in columns:
        if isinstance(column, Mixed):
            for shared in column.parts:
                if id(shared) not in known:
                    known[id(shared)] = add(shared)
            places = [known[id(shared)] for shared in column.parts]
            parts, starts = np.array(places, np.int64).T
            which.append(taken(parts.astype(np.uint8), column.which))
            where.append(column.where + taken(starts, column.which))
        else:
            part, at = add(column)
            which.append(np.full(len(column), part, np.uint8))
            where.append(np.arange(at, at + len(column)))
    mixed = Mixed([Column.concat(found[kind]) for kind in number], joined(which), joined(where))
    empty = Column(OBJECT, np.empty(0, np.object_))
    # All but the values are joined as in any run.
    rest = Rows.concat([Rows(r.e, r.a, empty, r.t, r.until, r.added) for r in runs])
    return Rows(rest.e, rest.a, mixed, rest.t, rest.until, rest.added)
