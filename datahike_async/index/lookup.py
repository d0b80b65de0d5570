"""Many bounds looked up in a tree in one pass: bounds and leaves both ascend.

Each node that may hold rows of any bound is visited once, so the cost is that of the leaves which
are touched and of the rows which are found, and not a search from the root for each bound.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from datahike_async.index.columns import EMPTY_I64, I64, Column, Rows
from datahike_async.index.node import TOP, Branch, Key, Leaf, Node, locate, top
from datahike_async.index.protocol import Bound, Order
from datahike_async.index.runs import places, primary, value_ranges

__all__ = ["Lookup"]

# Fewer bounds than this are found in a leaf faster one by one.
_FEW: Final = 6


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
        self._heads: I64 = bounds[0].data
        if len(bounds) > 1 and order is not Order.AVET:
            self._heads = bounds[0].data << 32 | bounds[1].data

    def found(self) -> tuple[Rows, I64]:
        """Return the rows under all bounds, and where those of each stop."""
        return Rows.concat(self._parts), np.cumsum(self._counts)

    def walk(self, node: Node, i: int, stop: int) -> None:
        """Look the bounds from ``i`` to ``stop`` up below a node."""
        if isinstance(node, Leaf):
            self._leaf(node, i, stop)
            return
        keys = node.keys
        last = len(keys) - 1
        slot = -1
        while i < stop:
            if slot < 0:
                slot = node.start(self._key(i))
            end = stop if slot == last else self._first_not_below(keys[slot + 1], i, stop)
            below = self._child(node, slot)
            if below is not None:
                self.walk(below, i, end)
            if slot < last and keys[slot + 1] < (*self._key(end - 1), TOP):
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
            if heads[0] != rows.a[0]:
                nowhere = np.zeros(stop - i, np.int64)
                return nowhere, nowhere
            return value_ranges(rows.v, bounds[1].slice(i, stop))
        if len(bounds) == 1:
            own = rows.e if self._order is Order.EAVT else rows.a
            return own.searchsorted(heads), own.searchsorted(heads, "right")
        if len(bounds) == 2:
            own = primary(rows, self._order)
            return own.searchsorted(heads), own.searchsorted(heads, "right")
        e, a = (bounds[0], bounds[1]) if self._order is Order.EAVT else (bounds[1], bounds[0])
        wanted = Rows(
            e.data[i:stop],
            a.data[i:stop].astype(np.int32),
            bounds[2].slice(i, stop),
            EMPTY_I64,
        )
        at, there = places(rows, wanted, self._order, temporal=False)
        return at, at + there
