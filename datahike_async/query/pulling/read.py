"""How pull reads: values of attributes, by row for a few entities and in columns for many."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

from datahike_async.index.arrays import order_of, taken, uniques
from datahike_async.index.columns import INT, Column, Rows
from datahike_async.index.source import NodeMiss
from datahike_async.looks import STEP, look, walked
from datahike_async.query.reading.fetch import merged
from datahike_async.query.reading.known import possible
from datahike_async.query.reading.parts import fits_surely
from datahike_async.query.reading.patterns import aligned
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr
from datahike_async.values.types import distinct_values

__all__ = ["ALL", "COLUMNS_FROM", "SMALL", "Reader"]

# So many entities are read in columns.
COLUMNS_FROM: Final = 32
# An entity of more datoms is read by attribute.
SMALL: Final = 256
ALL: Final = 2**62
# What finding the rows of an entity among columns counts for, and making its value an object.
_ALIGNED: Final = 16


class Reader:
    """Reads the attributes of entities from one view. Raises NodeMiss."""

    __slots__ = ("view",)

    def __init__(self, view: View) -> None:
        self.view = view

    def whole(self, ids: list[int], most: int) -> dict[int, dict[int, list[Any]]] | None:
        """Return attribute → entity → values of whole entities, or None where that costs more."""
        view = self.view
        found: dict[int, dict[int, list[Any]]] = {}
        # What the memtable holds is found faster by attribute; the rest comes in one slice.
        fresh = () if view.past or most == ALL else view.snapshot.mem.by_e
        for i in ids if len(ids) == 1 else walked(ids, each=8 * STEP):
            if i in fresh:
                return None
            try:
                rows = view.entity(i)
            except NodeMiss as miss:
                raise _all_missing(miss, view.entity, ((x,) for x in ids)) from None
            if len(rows) > most:
                return None
            for a, v in zip(rows.a.tolist(), rows.v.tolist(), strict=True):
                of_attr = found.get(a)
                if of_attr is None:
                    found[a] = {i: [v]}
                elif i in of_attr:
                    of_attr[i].append(v)
                else:
                    of_attr[i] = [v]
        if view.history:
            return {
                a: {i: distinct_values(vs) for i, vs in by_e.items()} for a, by_e in found.items()
            }
        return found

    def at_hand(self, attr: Attr) -> bool:
        """Whether all of an attribute has been put together already."""
        return self.view.cached(attr.id) is not None

    def ones(self, attr: Attr, ids: list[int]) -> tuple[list[int], list[Any]] | None:
        """Return the entities that have a single-valued attribute, in order, and their values.

        None where columns are not the way to find out.
        """
        if attr.many or self.view.history:
            return None
        rows = self._rows(attr, False, ids)
        if rows is None:
            return None
        if not len(rows):
            return [], []
        look(_ALIGNED * len(ids))
        wanted = np.array(ids, np.int64)
        positions = aligned(rows, wanted)
        has = positions >= 0
        if has.all():
            return ids, rows.v.take(positions).tolist()
        return wanted[has].tolist(), rows.v.take(positions[has]).tolist()

    def _rows(self, attr: Attr, reverse: bool, ids: list[int]) -> Rows | None:
        """Return the rows among which the values of entities are, or None where they are few.

        These are all of the attribute, or what is looked up of the entities in one pass.
        """
        view, a = self.view, attr.id
        if len(ids) < COLUMNS_FROM:
            return view.attr(a) if len(ids) > 1 and not reverse and self.at_hand(attr) else None
        if self._dense(attr, len(ids)):
            return view.attr(a)
        if reverse and view.past:
            return None
        look(4 * STEP * len(ids))
        wanted = uniques(np.array(ids, np.int64))
        if reverse:
            return view.snapshot.of_values(a, Column(INT, wanted))
        return view.of_entities(a, possible(wanted))

    def touch(self, attr: Attr, count: int) -> None:
        """Read what is read of an attribute for ``count`` entities, where that is its columns."""
        if count >= COLUMNS_FROM and self._dense(attr, count):
            self.view.attr(attr.id)

    def _dense(self, attr: Attr, count: int) -> bool:
        """Whether so many entities are a good part of those that have an attribute.

        Where memory has no room for its columns, they are looked up all the same.
        """
        dense = self.view.count_attr(attr.id) < 64 * count
        return bool(dense) and fits_surely(self.view, attr)

    def values(self, attr: Attr, reverse: bool, ids: list[int]) -> dict[int, list[Any]]:
        """Return entity → values of one attribute, or the entities that refer to it."""
        view, a = self.view, attr.id
        if reverse and not attr.is_ref:
            return {}
        rows = self._rows(attr, reverse, ids)
        if rows is not None:
            return self.in_columns(rows, attr, reverse, ids)
        read, each = view.values, ids if len(ids) == 1 else walked(ids, each=4 * STEP)
        try:
            if reverse:
                lookup = view.lookup
                return {i: found for i in each if (found := lookup(a, i))}
            return {i: found for i in each if (found := read(i, a))}
        except NodeMiss as miss:
            if reverse:
                raise _all_missing(miss, view.lookup, ((a, i) for i in ids)) from None
            raise _all_missing(miss, read, ((i, a) for i in ids)) from None

    def in_columns(
        self, rows: Rows, attr: Attr, reverse: bool, ids: list[int]
    ) -> dict[int, list[Any]]:
        """Return entity → values, from rows of the attribute that have all of theirs."""
        if not len(rows):
            return {}
        look(_ALIGNED * len(ids))
        wanted = np.array(ids, np.int64)
        history = self.view.history
        if not reverse and not attr.many and not history:
            positions = aligned(rows, wanted)
            has = positions >= 0
            values = rows.v.take(positions[has]).tolist()
            pairs = zip(wanted[has].tolist(), values, strict=True)
            return {i: [v] for i, v in walked(pairs, each=4, count=len(values))}
        keys, shown = rows.e, rows.v
        if reverse:
            if rows.v.kind != INT:
                return {i: found for i in ids if (found := self.view.lookup(attr.id, i))}
            order = order_of(rows.v.data)
            keys = taken(rows.v.data, order)
            shown = Column(INT, taken(rows.e, order))
        start = keys.searchsorted(wanted, "left")
        counts = keys.searchsorted(wanted, "right") - start
        some = np.flatnonzero(counts)
        start, counts = start[some], counts[some]
        ends = np.cumsum(counts)
        if not len(ends):
            return {}
        within = np.arange(int(ends[-1])) - np.repeat(ends - counts, counts)
        flat = shown.take(np.repeat(start, counts) + within).tolist()
        cuts = ends.tolist()
        parts = zip(wanted[some].tolist(), [0, *cuts], cuts, strict=False)
        out = {i: flat[lo:hi] for i, lo, hi in walked(parts, each=8, count=len(cuts))}
        return {i: distinct_values(v) for i, v in out.items()} if history else out


def _all_missing(
    first: NodeMiss, call: Callable[..., Any], calls: Iterable[tuple[Any, ...]]
) -> NodeMiss:
    """Return one miss that names what all of ``calls`` lack, to fetch it in one wave."""
    misses = [first]
    for args in calls:
        try:
            call(*args)
        except NodeMiss as miss:
            misses.append(miss)
    return merged(misses)
