"""Buffers of changes: rows added and rows taken away, as sorted runs, one attribute a run.

In EAVT each is one run. What is taken away is there below the buffer, in a leaf or among what a
lower buffer adds, and what is added is not, unless it is also taken away: so numbers of rows add
up. Knows rows and orders, and no trees.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from datahike_async.index.columns import Column, Rows
from datahike_async.index.mixed import joined_rows
from datahike_async.index.persistent_set.node import Leaf, locate
from datahike_async.index.protocol import Bound, Order
from datahike_async.index.runs import changed, places, sorted_rows

__all__ = ["EMPTY", "Buffer", "Side", "composed", "groups_of", "keys_of", "laid_over", "unique"]

_NONE: Final = Rows.concat([])


class Side:
    """Runs that are looked into: what a buffer adds, or what it takes away."""

    __slots__ = ("_attributes", "leaves", "order", "rows")

    def __init__(self, runs: Iterable[Rows], order: Order) -> None:
        self.leaves = [Leaf(run) for run in runs]
        self.order = order
        self.rows = sum(len(leaf.rows) for leaf in self.leaves)
        self._attributes = [] if order is Order.EAVT else [int(x.rows.a[0]) for x in self.leaves]

    @property
    def runs(self) -> list[Rows]:
        """The runs."""
        return [leaf.rows for leaf in self.leaves]

    def spans(self, lower: Bound, upper: Bound) -> list[tuple[Rows, int, int]]:
        """Return which rows of which runs lie between two bounds."""
        leaves = self.leaves
        if self._attributes:
            start = bisect_left(self._attributes, lower[0]) if lower else 0
            stop = bisect_right(self._attributes, upper[0]) if upper else len(leaves)
            leaves = leaves[start:stop]
        out = []
        for leaf in leaves:
            low = locate(leaf, lower, self.order)[0] if lower else 0
            high = locate(leaf, upper, self.order)[1] if upper else len(leaf.rows)
            if low < high:
                out.append((leaf.rows, low, high))
        return out

    def has(self, bound: Bound) -> bool:
        """Whether there are rows under a bound, which is not empty."""
        leaves = self.leaves
        if self._attributes:
            at = bisect_left(self._attributes, bound[0])
            leaves = leaves[at : at + 1]
        for leaf in leaves:
            low, high = locate(leaf, bound, self.order)
            if low < high:
                return True
        return False

    def between(self, lower: Bound, upper: Bound) -> list[Rows]:
        """Return the rows between two bounds."""
        return [rows.slice(low, high) for rows, low, high in self.spans(lower, upper)]

    def count(self, lower: Bound, upper: Bound) -> int:
        """Count the rows between two bounds."""
        if not lower and not upper:
            return self.rows
        return sum(high - low for _, low, high in self.spans(lower, upper))


class Buffer(NamedTuple):
    """Changes that wait: runs that are added, and runs that are taken away."""

    adds: Sequence[Rows]
    removes: Sequence[Rows]

    def __len__(self) -> int:
        return sum(map(len, self.adds)) + sum(map(len, self.removes))


EMPTY: Final = Buffer((), ())


def groups_of(runs: Iterable[Rows], order: Order) -> dict[int, list[Rows]]:
    """Return runs by attribute; all under 0 in EAVT."""
    out: dict[int, list[Rows]] = {}
    for run in runs:
        if len(run):
            out.setdefault(0 if order is Order.EAVT else int(run.a[0]), []).append(run)
    return out


def composed(old: Buffer, new: Buffer, order: Order, temporal: bool) -> Buffer:
    """Return the changes of one buffer and then of another one as one.

    What is added and then taken away is neither; what is taken away and then added is both, for it
    may have another transaction.
    """
    if not len(old):
        return new
    if not len(new):
        return old
    parts = [groups_of(runs, order) for runs in (*old, *new)]
    adds, removes = dict(parts[0]), dict(parts[1])
    for a in parts[3].keys() | parts[2].keys():
        before = adds.pop(a, [_NONE])[0]
        gone, come = parts[3].get(a, []), parts[2].get(a, [])
        after = changed(before, come, gone, order, temporal)
        if len(after):
            adds[a] = [after]
        for run in gone:
            rest = run.take(~places(before, run, order, temporal)[1]) if len(before) else run
            if len(rest):
                removes[a] = [changed(removes.pop(a, [_NONE])[0], [rest], [], order, temporal)]
    return Buffer(
        [adds[a][0] for a in sorted(adds)],
        [removes[a][0] for a in sorted(removes)],
    )


def laid_over(
    runs: Sequence[Rows],
    adds: Sequence[Rows],
    removes: Sequence[Rows],
    order: Order,
    temporal: bool,
) -> list[Rows]:
    """Return ascending runs with changes made to them."""
    if not adds and not removes:
        return list(runs)
    mine, more, less = (groups_of(x, order) for x in (runs, adds, removes))
    out = []
    for a in sorted(mine.keys() | more.keys()):
        own = mine.get(a, [])
        if a in more or a in less:
            base = joined_rows(own) if own else _NONE
            own = [changed(base, more.get(a, []), less.get(a, []), order, temporal)]
        out += [run for run in own if len(run)]
    return out


def unique(runs: Sequence[Rows], order: Order) -> Rows:
    """Return sorted rows of one group, the first of each (e, a, v)."""
    rows = sorted_rows(joined_rows(runs), order) if len(runs) > 1 else runs[0]
    if len(rows) < 2:
        return rows
    ranks = rows.v.ranks()
    same = (rows.e[1:] == rows.e[:-1]) & (rows.a[1:] == rows.a[:-1]) & (ranks[1:] == ranks[:-1])
    return rows.take(np.concatenate(([True], ~same))) if same.any() else rows


def keys_of(rows: Rows, order: Order) -> list[Column]:
    """Return rows that are sorted, none of which comes twice, as bounds of three components."""
    e, a = Column(1, rows.e), Column(1, rows.a.astype(np.int64))
    return {Order.EAVT: [e, a, rows.v], Order.AEVT: [a, e, rows.v], Order.AVET: [a, rows.v, e]}[
        order
    ]


def parted(rows: Rows) -> list[Rows]:
    """Return rows that ascend by attribute as one run each."""
    if not len(rows):
        return []
    edges = [0, *(np.flatnonzero(np.diff(rows.a)) + 1).tolist(), len(rows)]
    return [rows.slice(i, j) for i, j in pairwise(edges)]
