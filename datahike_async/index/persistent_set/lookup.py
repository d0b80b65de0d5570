"""Many bounds looked up in a tree in one pass: bounds and leaves both ascend.

Each node that may hold rows of any bound is visited once, so the cost is that of the leaves which
are touched and of the rows which are found, and not a search from the root for each bound.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from datahike_async.index.arrays import Narrow, joined
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
    Rows,
)
from datahike_async.index.persistent_set.node import (
    TOP,
    Branch,
    Key,
    Leaf,
    Node,
    locate,
    top,
    value_cuts,
)
from datahike_async.index.protocol import Bound, Order
from datahike_async.index.runs import is_text, places, primary, value_ranges

__all__ = ["Lookup"]

# Fewer bounds than this are found in a leaf faster one by one.
_FEW: Final = 6
# Of more bounds leaves are looked at together, also where each has few of them.
_LISTED: Final = 1 << 14
# Kinds of columns that are joined as arrays are.
_PLAIN: Final = {INT, FLOAT, BOOL, INSTANT, OBJECT}
# So many rows of neighbouring leaves are looked at together.
_JOINED: Final = 1 << 17


class Lookup:
    """One pass. ``child`` returns a node below a branch, or notes that it is missing."""

    def __init__(
        self,
        bounds: Sequence[Column],
        order: Order,
        child: Callable[[Branch, int], Node | None],
    ) -> None:
        self._bounds = bounds
        self._order = order
        self._child = child
        self._counts = np.zeros(len(bounds[0]), np.int64)
        self._parts: list[Rows] = []
        # Rows of leaves that follow the parts.
        self._spans: list[tuple[Rows, int, int]] = []
        # Leaves of which the bounds are not looked up yet, how many rows, and from where to where.
        self._waiting: list[Leaf] = []
        self._rows = 0
        self._from = self._to = 0
        self._heads: I64 = bounds[0].data
        if len(bounds) > 1 and order is not Order.AVET:
            self._heads = bounds[0].data << 32 | bounds[1].data
        self._texts: list[str] | None = None
        self._listed: list[Bound] | None = None

    def found(self) -> tuple[Rows, I64]:
        """Return the rows under all bounds, and where those of each stop."""
        self._settle()
        self._gather()
        return Rows.concat(self._parts), np.cumsum(self._counts)

    def walk(self, node: Node, i: int, stop: int) -> None:
        """Look the bounds from ``i`` to ``stop`` up below a node."""
        if isinstance(node, Leaf):
            self._visit(node, i, stop)
            return
        cuts = self._cuts(node, i, stop) if stop - i >= _FEW else None
        if cuts is not None:
            # A bound that is the head of a child may have rows at the end of the one before, too.
            first, last = cuts
            for slot in np.flatnonzero(first < last).tolist():
                below = self._child(node, slot)
                if below is not None:
                    self.walk(below, int(first[slot]), int(last[slot]))
            return
        keys = node.keys
        end_slot = len(keys) - 1
        slot = -1
        while i < stop:
            if slot < 0:
                slot = node.start(self._key(i))
            end = stop if slot == end_slot else self._first_not_below(keys[slot + 1], i, stop)
            below = self._child(node, slot)
            if below is not None:
                self.walk(below, i, end)
            if slot < end_slot and keys[slot + 1] < (*self._key(end - 1), TOP):
                # The rows of the last bound go on in the next child.
                i, slot = end - 1, slot + 1
            else:
                i, slot = end, -1

    def _bound(self, i: int) -> Bound:
        return tuple(column.value(i) for column in self._bounds)

    def _key(self, i: int) -> Key:
        return top(self._bound(i), self._order)

    def _first_not_below(self, key: Key, i: int, stop: int) -> int:
        """Return the first bound after ``i``, which is below ``key``, that is not."""
        step = 1
        while i + step < stop and self._key(i + step) < key:
            i, step = i + step, step * 2
        return bisect_left(range(stop), key, i + 1, min(i + step, stop), key=self._key)

    def _cuts(self, node: Branch, i: int, stop: int) -> tuple[I64, I64] | None:
        """Return for each child the first of the bounds that may have rows in it, and the stop.

        None where the bounds are of no kind whose heads compare as numbers or strings do.
        """
        bounds, keys = self._bounds, node.keys
        if self._order is not Order.AVET:
            if len(bounds) > 2:
                return None
            heads = self._heads[i:stop]
            cuts = node.heads >> 32 if len(bounds) == 1 else node.heads
            low = heads.searchsorted(cuts) + i
            high = heads.searchsorted(cuts, "right") + i
        else:
            if len(bounds) != 2 or self._heads[i] != self._heads[stop - 1]:
                return None
            values = self._values(i, stop)
            edges = None if values is None else value_cuts(values, int(self._heads[i]), keys)
            if edges is None:
                return None
            low, high = edges[0] + i, edges[1] + i
        low[0] = i
        return low, np.append(high[1:], stop)

    def _values(self, i: int, stop: int) -> I64 | list[str] | None:
        column = self._bounds[1]
        if column.kind == INT:
            return column.data[i:stop]
        if is_text(column):
            if self._texts is None:
                self._texts = column.tolist()
            return self._texts[i:stop]
        return None

    # -- leaves --------------------------------------------------------------------------------

    def _visit(self, leaf: Leaf, i: int, stop: int) -> None:
        """Look bounds up in a leaf, together with its neighbours where their columns allow it."""
        heads = self._heads
        if self._order is Order.AVET and heads[i] == heads[stop - 1] != leaf.rows.a[0]:
            return  # the last one of the attribute before
        joins = self._joins(leaf)
        # Copying numbers costs less than looking each bound up, copying objects more.
        alone = stop - i < _FEW and not (joins and leaf.rows.v.kind == INT)
        if alone and len(heads) <= _LISTED:
            self._settle()
            self._one_by_one(leaf, i, stop)
            return
        if joins:
            if self._waiting and self._rows + len(leaf.rows) > _JOINED and i >= self._to:
                self._settle()
            if not self._waiting:
                self._from = i
            self._waiting.append(leaf)
            self._rows += len(leaf.rows)
            self._to = stop
            return
        self._settle()
        self._leaf(leaf, i, stop)

    def _joins(self, leaf: Leaf) -> bool:
        """Whether a leaf's bounds are found by numbers alone."""
        bounds = self._bounds
        if self._order is not Order.AVET:
            # Elsewhere a leaf has one attribute; and dictionaries would have to be made one.
            return self._order is Order.EAVT and len(bounds) == 2 and leaf.rows.v.kind != CODED
        return (
            len(bounds) == 2
            and bounds[1].kind == leaf.rows.v.kind == INT
            and leaf.rows.a[0] == self._heads[0] == self._heads[-1]
        )

    def _settle(self) -> None:
        """Look up what waits."""
        waiting = self._waiting
        if waiting:
            one = waiting[0] if len(waiting) == 1 else Leaf(Rows.concat([x.rows for x in waiting]))
            self._waiting, self._rows = [], 0
            self._leaf(one, self._from, self._to)

    def _one_by_one(self, leaf: Leaf, i: int, stop: int) -> None:
        """Look few bounds up in a leaf: nothing of it is copied."""
        bounds = self._listed
        if bounds is None:
            bounds = list(zip(*(column.tolist() for column in self._bounds), strict=True))
            self._listed = bounds
        for j in range(i, stop):
            low, high = locate(leaf, bounds[j], self._order)
            if low < high:
                self._counts[j] += high - low
                self._spans.append((leaf.rows, low, high))

    def _gather(self) -> None:
        """Make one part of rows that were found in several leaves."""
        spans, self._spans = self._spans, []
        if len(spans) < 2:
            self._parts += [rows.slice(low, high) for rows, low, high in spans]
            return
        kinds = {rows.v.kind for rows, _, _ in spans}
        if kinds <= _PLAIN and len(kinds) == 1:
            v = Column(kinds.pop(), joined([r.v.data[low:high] for r, low, high in spans]))
        else:
            v = Column.concat([r.v.slice(low, high) for r, low, high in spans])
        self._parts.append(
            Rows(
                joined([r.e[low:high] for r, low, high in spans]),
                joined([r.a[low:high] for r, low, high in spans]),
                v,
                joined([_times(r, low, high) for r, low, high in spans]),
                None
                if spans[0][0].until is None
                else joined([r.until[low:high] for r, low, high in spans if r.until is not None]),
            )
        )

    def _leaf(self, leaf: Leaf, i: int, stop: int) -> None:
        rows = leaf.rows
        found = self._ranges(leaf, i, stop) if stop - i >= _FEW else None
        if found is None:
            spans = [locate(leaf, self._bound(j), self._order) for j in range(i, stop)]
            low, high = np.array(spans, np.int64).T
        else:
            low, high = found
        count = high - low
        self._counts[i:stop] += count
        there = count > 0
        low, count = low[there], count[there]
        if not len(low):
            return
        self._gather()
        if len(low) < count.sum():
            before = np.cumsum(count) - count
            low = np.repeat(low - before, count) + np.arange(count.sum())
        self._parts.append(rows.take(low))

    def _ranges(self, leaf: Leaf, i: int, stop: int) -> tuple[I64, I64] | None:
        """Return where in a leaf the rows of bounds begin and end; None where no column says."""
        rows, bounds = leaf.rows, self._bounds
        heads = self._heads[i:stop]
        if self._order is Order.AVET:
            if len(bounds) != 2 or heads[0] != heads[-1]:
                return None
            return value_ranges(rows.v, bounds[1].slice(i, stop))
        if len(bounds) == 1:
            own = rows.e if self._order is Order.EAVT else rows.a
            return own.searchsorted(heads), own.searchsorted(heads, "right")
        if len(bounds) == 2:
            own = primary(rows, self._order)
            return own.searchsorted(heads), own.searchsorted(heads, "right")
        if rows.until is not None:
            return None  # a fact may have several rows
        e, a = (bounds[0], bounds[1]) if self._order is Order.EAVT else (bounds[1], bounds[0])
        wanted = Rows(
            e.data[i:stop],
            a.data[i:stop].astype(np.int32),
            bounds[2].slice(i, stop),
            EMPTY_I64,
        )
        at, there = places(rows, wanted, self._order, temporal=False)
        if self._order is Order.AEVT:
            there &= wanted.a == rows.a[0]  # the last bounds may be of the attribute after
        return at, at + there


def _times(rows: Rows, low: int, high: int) -> I64:
    times = rows.times
    return times.slice(low, high).wide() if isinstance(times, Narrow) else times[low:high]
