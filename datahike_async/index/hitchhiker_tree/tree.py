"""hitchhiker-tree: a persistent set whose branches keep changes until there are many for a child.

A flush writes the root and what was handed down, not a leaf for each row that changed somewhere. To
read, what waits on the way to a leaf is laid over its rows, column by column. Numbers of rows stay
exact: what is taken away is known to be there, so they add up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from datahike_async.index.columns import I64, Column, Rows
from datahike_async.index.hitchhiker_tree.buffers import (
    EMPTY,
    Buffer,
    composed,
    groups_of,
    keys_of,
    laid_over,
    parted,
    unique,
)
from datahike_async.index.hitchhiker_tree.merge import Pushing
from datahike_async.index.hitchhiker_tree.node import Buffered
from datahike_async.index.mixed import joined_rows
from datahike_async.index.persistent_set.lookup import Lookup
from datahike_async.index.persistent_set.node import (
    TOP,
    Branch,
    Leaf,
    Node,
    locate,
    take_rows,
    top,
)
from datahike_async.index.persistent_set.scan import Scan
from datahike_async.index.persistent_set.tree import PersistentSet, are_one, by_attribute
from datahike_async.index.protocol import Bound, Index, Order
from datahike_async.index.runs import places, sorted_rows
from datahike_async.index.source import Address, NodeMiss, NodeSource

__all__ = ["HitchhikerTree"]


class HitchhikerTree(PersistentSet):
    """One sorted index. ``sized`` says how wide its branches are, and how much waits in them."""

    __slots__ = ("_branch", "_log")

    _branch: int
    _log: int

    def sized(self, branch: int, log: int) -> Self:
        """Set how many children a branch has, and how many changes wait in one over leaves."""
        self._branch, self._log = branch, log
        return self

    def _with(
        self,
        root: Node | None,
        count: int,
        address: Address | None = None,
        source: NodeSource | None = None,
    ) -> Self:
        return super()._with(root, count, address, source).sized(self._branch, self._log)

    def _settings(self) -> dict[str, Any]:
        return {"leaf": self._leaf, "branch": self._branch, "log": self._log}

    def _missed(self, missing: list[Address]) -> None:
        if missing:
            assert self._source is not None
            raise NodeMiss(self._source, list(dict.fromkeys(missing)))

    # -- reading -------------------------------------------------------------------------------

    def _point(self, bound: Bound) -> tuple[Leaf, int, int] | None:
        """Return where all rows under a bound lie, None if that is not in one leaf alone."""
        node = self._top_node()
        low = top(bound, self.order)
        high = (*low, TOP)
        while isinstance(node, Buffered):
            adds, removes = node.sides(self.order)
            if adds.has(bound) or removes.has(bound):
                return None
            keys = node.keys
            slot = bisect_left(keys, low)
            if slot == 0 or (slot < len(keys) and keys[slot] < high):
                return None
            missing: list[Address] = []
            node = self._child(node, slot - 1, missing)
            self._missed(missing)
        return (node, *locate(node, bound, self.order)) if isinstance(node, Leaf) else None

    def slice(self, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        """Return the rows between two bounds as runs; see :class:`Index`."""
        if lower and are_one(lower, upper, self.order):
            found = self._point(lower)
            if found is not None:
                leaf, lo, hi = found
                return [take_rows(leaf.rows, lo, hi)] if lo < hi else []
        levels = self._levels(lower, upper)
        out = self._between(levels[-1], lower, upper) if levels else []
        for level in reversed(levels):
            adds: list[Rows] = []
            removes: list[Rows] = []
            for branch in level:
                if isinstance(branch, Buffered):
                    more, less = branch.sides(self.order)
                    adds += more.between(lower, upper)
                    removes += less.between(lower, upper)
            out = laid_over(out, adds, removes, self.order, self.temporal)
        if self.order is Order.EAVT or len(out) < 2:
            return out
        return by_attribute(out)

    def chunks(
        self, lower: Bound = (), upper: Bound = (), *, reverse: bool = False
    ) -> Iterator[Rows]:
        """Iterate over the rows between two bounds leaf by leaf; see :class:`Index`."""
        low, high = top(lower, self.order), top(upper, self.order)
        splitting = self._pushing(lambda branch, slot, needed: None)
        # What is before all children waits for the first one.
        scan = Scan(self._child, self._source, low, high, self._leaf, reverse=reverse, least=1)
        root = self._top_node()
        if root is not None:
            bounds = lower, upper
            yield from self._laid(root, EMPTY, scan, splitting, bounds, reverse)

    def _laid(
        self,
        node: Node,
        waiting: Buffer,
        scan: Scan,
        splitting: Pushing,
        bounds: tuple[Bound, Bound],
        reverse: bool,
    ) -> Iterator[Rows]:
        order, temporal = self.order, self.temporal
        lower, upper = bounds
        if isinstance(node, Leaf):
            start = locate(node, lower, order)[0] if lower else 0
            stop = locate(node, upper, order)[1] if upper else len(node.rows)
            runs = [take_rows(node.rows, start, stop)] if start < stop else []
            runs = laid_over(runs, waiting.adds, waiting.removes, order, temporal)
            yield from (run.backwards() for run in reversed(runs)) if reverse else runs
            return
        assert isinstance(node, Buffered)
        own = Buffer(*(side.between(lower, upper) for side in node.sides(order)))
        waiting = composed(own, waiting, order, temporal)
        adds = splitting.split(list(waiting.adds), node.keys)
        removes = splitting.split(list(waiting.removes), node.keys)
        for slot, child in scan.children(node):
            part = Buffer(adds.get(slot, ()), removes.get(slot, ()))
            yield from self._laid(child, part, scan, splitting, bounds, reverse)

    def lookup_many(self, bounds: Sequence[Column]) -> tuple[Rows, I64]:
        """Return the rows under each of many bounds; see :class:`Index`."""
        missing: list[Address] = []
        levels: dict[int, dict[int, Buffered]] = {}

        def child(branch: Branch, slot: int) -> Node | None:
            assert isinstance(branch, Buffered)
            levels.setdefault(branch.level, {})[id(branch)] = branch
            return self._child(branch, slot, missing)

        lookup = Lookup(bounds, self.order, child)
        root = self._top_node()
        if root is not None:
            lookup.walk(root, 0, len(bounds[0]))
        self._missed(missing)
        rows, stops = lookup.found()
        runs: list[Rows] | None = None
        counts = np.diff(stops, prepend=0)
        for level in sorted(levels):
            branches = sorted(levels[level].values(), key=lambda branch: branch.keys[0])
            adds, more = self._under([x for b in branches for x in b.buffer.adds], bounds)
            removes, less = self._under([x for b in branches for x in b.buffer.removes], bounds)
            if adds or removes:
                counts = counts + more - less
                runs = self._parted(rows) if runs is None else runs
                runs = laid_over(runs, adds, removes, self.order, self.temporal)
        if runs is None:
            return rows, stops
        return Rows.concat(runs), np.cumsum(counts)

    def _parted(self, rows: Rows) -> list[Rows]:
        if self.order is Order.EAVT:
            return [rows] if len(rows) else []
        return parted(rows)

    def _under(self, runs: list[Rows], bounds: Sequence[Column]) -> tuple[list[Rows], I64]:
        """Return the rows of ascending runs under bounds, and how many there are under each."""
        heads = bounds[0].data
        out: list[Rows] = []
        counts = np.zeros(len(heads), np.int64)
        for group in groups_of(runs, self.order).values():
            run = Rows.concat(group)
            first = run.e if self.order is Order.EAVT else run.a
            start = int(heads.searchsorted(first[0]))
            stop = int(heads.searchsorted(first[-1], "right"))
            if start == stop:
                continue
            lookup = Lookup(bounds, self.order, lambda branch, slot: None)
            lookup.walk(Leaf(run), start, stop)
            found, stops = lookup.found()
            if len(found):
                out += self._parted(found)
                counts += np.diff(stops, prepend=0)
        return out, counts

    # -- changing ------------------------------------------------------------------------------

    def _pushing(
        self, child: Callable[[Branch, int, bool], Node | None], gone: Sequence[Rows] = ()
    ) -> Pushing:
        sizes = (self._leaf, self._branch, self._log)
        return Pushing(self.order, self.temporal, *sizes, child, gone)

    def merge(self, adds: Sequence[Rows], removes: Sequence[Rows], *, sure: bool = False) -> Self:
        """Return a tree without ``removes`` and with ``adds``; see :class:`Index`.

        Reads what is handed down to, and no more where the caller is ``sure``; else it looks first.
        """
        return self._changed(adds, removes, (), sure)

    def erased(self, rows: Sequence[Rows], past: Sequence[Rows] = ()) -> Self:
        """Return a tree without ``rows``, and no buffer that names them; see :class:`Index`."""
        return self._changed((), rows, [*rows, *past], False)

    def _changed(
        self, adds: Sequence[Rows], removes: Sequence[Rows], gone: Sequence[Rows], sure: bool
    ) -> Self:
        # Buffers have one run of an attribute; nobody who changes an index need give it so.
        adds, removes, gone = (_single(runs, self.order) for runs in (adds, removes, gone))
        if not sure and isinstance(self._top_node(), Branch):
            adds, removes = self._surely(adds, removes)
        if not adds and not removes and not gone:
            return self
        missing: list[Address] = []

        def child(branch: Branch, slot: int, needed: bool) -> Node | None:
            return self._child(branch, slot, missing if needed else [])

        return self._merged(self._pushing(child, gone), adds, removes, missing)

    def _surely(
        self, adds: Sequence[Rows], removes: Sequence[Rows]
    ) -> tuple[list[Rows], list[Rows]]:
        """Return what there is to add and to take away, as the buffers ask for."""
        order, temporal = self.order, self.temporal
        more, less = groups_of(adds, order), groups_of(removes, order)
        there = self._there({a: [*more.get(a, []), *less.get(a, [])] for a in more | less})
        new: list[Rows] = []
        gone: list[Rows] = []
        for a in sorted(there):
            found = there[a]
            drop = np.zeros(len(found), np.bool_)
            for run in less.get(a, []):
                at, known = places(found, run, order, temporal)
                drop[at[known]] = True
            for run in more.get(a, []):
                at, known = places(found, run, order, temporal)
                if temporal:
                    # The same interval: it stays, unless it was to be removed.
                    kept = (
                        run.take(~known | drop[np.minimum(at, len(found) - 1)])
                        if len(found)
                        else run
                    )
                    new += [kept] if len(kept) else []
                else:
                    drop[at[known]] = True
                    new.append(run)
            if drop.any():
                gone.append(found.take(drop))
        return new, gone

    def _there(self, groups: dict[int, list[Rows]]) -> dict[int, Rows]:
        """Return what there is of the facts of runs, by attribute: one wave of reads a level."""
        missing: list[Address] = []
        out = {}
        for a, runs in groups.items():
            try:
                out[a] = self.lookup_many(keys_of(unique(runs, self.order), self.order))[0]
            except NodeMiss as miss:
                missing += miss.addresses
        self._missed(missing)
        return out

    def apart(self, other: Index) -> tuple[list[Rows], list[Rows]]:
        """Return what the two have of all facts that only one of them says; see :class:`Index`.

        Those are the rows of leaves, and of buffers, that only one has.
        """
        if not isinstance(other, HitchhikerTree) or other._source is not self._source:
            return self.slice(), other.slice()
        own = self._own_nodes(other)
        said: list[Rows] = []
        for node in (*own[0], *own[1]):
            if isinstance(node, Buffered):
                said += [*node.buffer.adds, *node.buffer.removes]
            elif isinstance(node, Leaf):
                said.append(node.rows)
        groups = groups_of(said, self.order)
        left = self._there(groups)
        right = other._there(groups)
        return tuple([side[a] for a in sorted(side) if len(side[a])] for side in (left, right))  # type: ignore[return-value]


def _single(runs: Sequence[Rows], order: Order) -> list[Rows]:
    """Return sorted runs as one for each attribute, ascending; in EAVT as one."""
    groups = groups_of(runs, order)
    return [
        group[0] if len(group) == 1 else sorted_rows(joined_rows(group), order)
        for _, group in sorted(groups.items())
    ]
