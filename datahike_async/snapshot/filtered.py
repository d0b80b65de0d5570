"""Filtered views: what a view shows of which some say that it may be seen.

Each datom is asked about when it is read, so a filter costs what reading through it reads. Filters
stack on one another and on views of the past.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.errors import ArgumentError
from datahike_async.index.columns import FLOAT, I64, INT, Rows
from datahike_async.index.protocol import Bound, Order
from datahike_async.looks import STEP, pieces, walked
from datahike_async.snapshot.datoms import Datoms
from datahike_async.snapshot.views import TimePoint, View
from datahike_async.values.datom import Datom
from datahike_async.values.order import sort_key
from datahike_async.values.schema import Schema
from datahike_async.values.types import distinct_values, typed_key

__all__ = ["DatomColumns", "FilteredView", "Keep", "by_columns", "by_datom"]

Keep = Callable[[Rows], Any]
"""Returns a mask of rows: which may be seen. Called again for rows that are read again."""


_COLUMNS: Final = STEP // 2
"""What a datom counts for that is laid out in columns."""
_ASKED: Final = 4 * STEP
"""What asking about one datom counts for."""


@dataclass(frozen=True, slots=True, eq=False)
class DatomColumns:
    """Many datoms as columns of one length: what a filter of columns gets.

    ``e`` and ``tx`` are arrays of ids, ``a`` of Keywords, ``v`` of values: numbers where all of
    them are, else objects; ``added`` is an array of bools, false for retractions. An element of
    ``a`` equals ``d.kw("person/name")``, and no string.
    """

    e: npt.NDArray[np.int64]
    a: npt.NDArray[np.object_]
    v: npt.NDArray[Any]
    tx: npt.NDArray[np.int64]
    added: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.e)


def by_columns(wanted: Callable[[DatomColumns], Any], schema: Schema) -> Keep:
    """Return a filter that asks about all rows at once.

    Raises ArgumentError for a coroutine function, and for an answer that is no mask of as many
    bools.
    """
    if iscoroutinefunction(wanted):
        raise _must_wait()
    idents = np.array([attr.ident for attr in schema.attrs], object)

    def keep(rows: Rows) -> Any:
        out = []
        for start, stop in pieces(len(rows), each=_COLUMNS):
            part = rows.slice(start, stop)
            added = np.ones(len(part), np.bool_) if part.added is None else part.added
            if part.v.kind in (INT, FLOAT):
                # It is the index's own: nobody may write to it.
                values = part.v.data.view()
                values.flags.writeable = False
            else:
                values = np.fromiter(part.v.tolist(), object, len(part))
            e, t = part.e.astype(np.int64), part.t.astype(np.int64)
            answer = wanted(DatomColumns(e, idents[part.a], values, t, added))
            _require_answer(answer)
            mask = np.asarray(answer)
            if mask.dtype != np.bool_ or mask.shape != (len(part),):
                raise ArgumentError(
                    f"A filter of columns returns an array of {len(part)} bools for as many "
                    f"datoms, not one of {mask.dtype} of shape {mask.shape}."
                )
            out.append(mask)
        return np.concatenate(out)

    return keep


def by_datom(wanted: Callable[[Datom], Any], schema: Schema) -> Keep:
    """Return a filter that asks about each datom.

    Raises ArgumentError for a coroutine function, and for an answer that has to be awaited.
    """
    if iscoroutinefunction(wanted):
        raise _must_wait()

    def kept(datom: Datom) -> bool:
        answer = wanted(datom)
        if answer is True or answer is False:
            return answer
        _require_answer(answer)
        return bool(answer)

    def keep(rows: Rows) -> Any:
        datoms = walked(Datoms(schema, [rows]), each=_ASKED, count=len(rows))
        return np.fromiter((kept(datom) for datom in datoms), np.bool_, len(rows))

    return keep


def _require_answer(answer: Any) -> None:
    """Refuse what has to be awaited: it is true, whatever it would say, and so would keep all."""
    if isawaitable(answer):
        if iscoroutine(answer):
            answer.close()
        raise _must_wait()


def _must_wait() -> ArgumentError:
    return ArgumentError(
        "A filter answers at once, and this one gives something to be awaited. Give a plain "
        "function, and read before what it needs of a database."
    )


class FilteredView(View):
    """A view through which only those datoms of ``base`` are seen that every filter keeps."""

    __slots__ = ("_columns", "base", "history", "keeps")

    past = True

    def __init__(self, base: View, keeps: Sequence[Keep]) -> None:
        self.base = base
        self.keeps = tuple(keeps)
        self.snapshot = base.snapshot
        self.history = base.history
        self._columns: dict[int, Rows] = {}
        self._bind()

    @property
    def looks_back(self) -> bool:
        """Whether what was retracted may be seen."""
        return self.base.looks_back

    @property
    def is_filtered(self) -> bool:
        """Whether somebody is asked what may be seen."""
        return True

    @property
    def settings(self) -> tuple[Any, ...]:
        """What tells this view from another of the same snapshot."""
        return (self.base.settings, self.keeps)

    def as_of(self, point: TimePoint) -> FilteredView:
        """Return this view cut off after ``point``."""
        return FilteredView(self.base.as_of(point), self.keeps)

    def since(self, point: TimePoint) -> FilteredView:
        """Return this view without what was asserted up to ``point``."""
        return FilteredView(self.base.since(point), self.keeps)

    def with_history(self) -> FilteredView:
        """Return what the filters keep of every assertion and retraction."""
        return FilteredView(self.base.with_history(), self.keeps)

    def filtered(self, keep: Keep) -> FilteredView:
        """Return this view through one filter more."""
        return FilteredView(self.base, (*self.keeps, keep))

    def _kept(self, rows: Rows) -> Rows:
        for keep in self.keeps:
            if not len(rows):
                break
            mask = keep(rows)
            if not mask.all():
                rows = rows.take(np.flatnonzero(mask))
        return rows

    def _slice(self, order: Order, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        runs = [self._kept(run) for run in self.base.slice(order, lower, upper)]
        return [run for run in runs if len(run)]

    def _attr(self, a: int) -> Rows:
        found = self._columns.get(a)
        if found is None:
            found = self._columns[a] = self._kept(self.base.attr(a))
        return found

    def cached(self, a: int) -> Rows | None:
        """Return all of an attribute if it has been put together already."""
        return self._columns.get(a)

    def _attr_range(self, a: int, lower: Any = None, upper: Any = None) -> Rows:
        return self._kept(self.base.attr_range(a, lower, upper))

    def _attr_ids(self) -> list[int]:
        return self.base.attr_ids()

    def _entity(self, e: int) -> Rows:
        return self._kept(self.base.entity(e))

    def _of_entities(self, a: int, entities: I64) -> Rows:
        return self._kept(self.base.of_entities(a, entities))

    def _values(self, e: int, a: int) -> list[Any]:
        out = self.rows_of(e, a).v.tolist()
        if len(out) < 2:
            return out
        # A value may have come and gone several times.
        return sorted(distinct_values(out), key=sort_key)

    def lookup(self, a: int, v: Any) -> list[int]:
        """Return the entities with value ``v`` of attribute ``a``, ascending."""
        found = self.base.lookup(a, v)
        key = typed_key(v)
        return [e for e in found if any(typed_key(own) == key for own in self.values(e, a))]

    def _count_attr(self, a: int) -> int:
        """Return how many datoms of an attribute are seen, or a bound that costs no asking."""
        found = self._columns.get(a)
        return self.base.count_attr(a) if found is None else len(found)

    def _count_slice(self, order: Order, lower: Bound = (), upper: Bound = ()) -> int:
        return sum(map(len, self.slice(order, lower, upper)))
