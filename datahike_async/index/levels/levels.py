"""Levels: an index of any kind as the base, and a few runs of what came later over it.

A state is the base, with what all runs added and without what they removed. What was removed was
there, and what was added was not: so counts add up, and runs may be put together in any order. A
look at one entity or value asks the filters of all runs first, which nearly always say no.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from datahike_async.index.columns import I64, Column, Rows
from datahike_async.index.levels.filters import hash_of, hashes_of_bounds
from datahike_async.index.levels.nodes import BASE, Tagged
from datahike_async.index.levels.run import Run, gathered
from datahike_async.index.levels.signed import net, summed
from datahike_async.index.levels.streams import Stream, merged
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.index.protocol import Bound, Child, Index, Order
from datahike_async.index.source import Address, NodeMiss, NodeSink, NodeSource

__all__ = ["Levels"]


class Levels:
    """A base and its runs, the oldest first. ``leaf`` is how many rows a leaf of a run has."""

    __slots__ = ("_count", "_filters", "base", "leaf", "order", "runs", "temporal")

    def __init__(self, base: Index, runs: Sequence[Run], leaf: int) -> None:
        self.base = base
        self.runs = tuple(runs)
        self.leaf = leaf
        self.order = base.order
        self.temporal = base.temporal
        self._filters: tuple[tuple[Run, bytes, int], ...] | None = None
        self._count = len(base) + sum(len(run.adds) - len(run.removes) for run in self.runs)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Levels {self.order.value} of {len(self)}, {len(self.runs)} runs>"

    def _with(self, base: Index, runs: Sequence[Run]) -> Levels:
        return Levels(base, runs, self.leaf)

    # -- runs ----------------------------------------------------------------------------------

    def _touched(
        self, lower: Bound, upper: Bound, base: Callable[[Bound, Bound], Any] | None = None
    ) -> Sequence[Run]:
        """Return the runs that may have rows between two bounds.

        Raises NodeMiss for filters, and for what a call of the base misses, too: one wave.
        """
        if not self.runs:
            return ()
        hashed = hash_of(lower, self.order)
        if hashed is None or _other(lower, upper, self.order):
            return self.runs
        filters = self._filters
        if filters is None:
            call = (lambda: None) if base is None else partial(base, lower, upper)
            filters = self._known_filters(call)
        # Looked at on the spot: a call for each takes longer than the look.
        return [
            run for run, bits, mask in filters if bits[(at := hashed & mask) >> 3] >> (at & 7) & 1
        ]

    def _known_filters(self, base: Callable[[], Any]) -> tuple[tuple[Run, bytes, int], ...]:
        """Return the runs with the bits of their filters, and what is taken of a hash for them."""
        *filters, _ = gathered([*(run.filter for run in self.runs), base])
        found = [(run, f.bits, f.mask) for run, f in zip(self.runs, filters, strict=True)]
        self._filters = tuple(found)
        return self._filters

    def _parts(
        self, runs: Sequence[Run], call: Callable[[Any], Any], base: Callable[[], Any]
    ) -> tuple[Any, list[Any], list[Any]]:
        """Return what a call gives of the base, of what is added and of what is removed."""
        sets = [each for run in runs for each in run.sets]
        first, *rest = gathered([base, *(partial(call, each) for each in sets)])
        return first, rest[::2], rest[1::2]

    # -- reading -------------------------------------------------------------------------------

    def slice(self, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        """Return the rows between two bounds as runs; see :class:`Index`."""
        runs = self._touched(lower, upper, self.base.slice)
        if not runs:
            return self.base.slice(lower, upper)
        try:
            base = self.base.slice(lower, upper)
            adds = [rows for run in runs for rows in run.adds.slice(lower, upper)]
            removes = [
                rows for run in runs if run.takes for rows in run.removes.slice(lower, upper)
            ]
        except NodeMiss:
            # What all of them miss is named together.
            below = partial(self.base.slice, lower, upper)
            found = self._parts(runs, lambda each: each.slice(lower, upper), below)
            base, adds, removes = found[0], _flat(found[1]), _flat(found[2])
        return summed(base, adds, removes, self.order, self.temporal)

    def single(self, bound: Bound) -> list[Rows]:
        """Return what :meth:`slice` does of a bound under which there is one row at most.

        The newest run that speaks of it knows it: what that has added nothing newer took away.
        """
        runs = self._touched(bound, bound, self.base.slice)
        try:
            for run in reversed(runs):
                found = run.adds.slice(bound, bound)
                if len(found) == 1 and len(found[0]) == 1:
                    return found
                if found or (run.takes and run.removes.slice(bound, bound)):
                    return self.slice(bound, bound)
            return self.base.slice(bound, bound)
        except NodeMiss:
            # What all of them miss is named together.
            return self.slice(bound, bound)

    def chunks(
        self, lower: Bound = (), upper: Bound = (), *, reverse: bool = False
    ) -> Iterator[Rows]:
        """Iterate over the rows between two bounds some at a time; see :class:`Index`."""
        runs = self._touched(lower, upper)
        if not runs:
            yield from self.base.chunks(lower, upper, reverse=reverse)
            return
        streams = [
            Stream(index.chunks(lower, upper, reverse=reverse), side)
            for side, index in [
                (0, self.base),
                *((side, each) for run in runs for side, each in enumerate(run.sets, 1)),
            ]
        ]
        for sides in merged(streams, self.order, self.temporal, reverse=reverse):
            rows = summed(*sides, self.order, self.temporal)
            for run in reversed(rows) if reverse else rows:
                yield run.backwards() if reverse else run

    def count_slice(self, lower: Bound = (), upper: Bound = ()) -> int:
        """Count the rows between two bounds; see :class:`Index`."""
        if not lower and not upper:
            return len(self)
        runs = self._touched(lower, upper, self.base.count_slice)
        below = partial(self.base.count_slice, lower, upper)
        if not runs:
            return below()
        base, adds, removes = self._parts(runs, lambda each: each.count_slice(lower, upper), below)
        return int(base + sum(adds) - sum(removes))

    def estimate(self, lower: Bound = (), upper: Bound = ()) -> tuple[int, bool]:
        """Return about how many rows lie between two bounds; see :class:`Index`."""
        count, sure = self.base.estimate(lower, upper)
        # Filters only if they are at hand: nothing is read here.
        runs = self.runs if self._filters is None else self._touched(lower, upper)
        for run in runs:
            (new, new_sure), (gone, gone_sure) = (s.estimate(lower, upper) for s in run.sets)
            count += new - gone
            sure = sure and new_sure and gone_sure
        return max(count, 0), sure

    def cuts(self, lower: Bound, upper: Bound, rows: int) -> list[int]:
        """Return entities that part one attribute into runs of rows; see :class:`Index`."""
        parts: list[Index] = [self.base, *(each for run in self.runs for each in run.sets)]
        sizes = [part.estimate(lower, upper)[0] for part in parts]
        largest = max(range(len(parts)), key=sizes.__getitem__)
        whole = sum(sizes[i] for i in range(len(parts)) if i == 0 or i % 2)
        # The others' rows come on top, wherever they lie.
        share = rows * sizes[largest] // max(whole, 1)
        return parts[largest].cuts(lower, upper, max(share, 1))

    def lookup_many(self, bounds: Sequence[Column]) -> tuple[Rows, I64]:
        """Return the rows under each of many bounds; see :class:`Index`."""
        if not self.runs or not len(bounds[0]):
            return self.base.lookup_many(bounds)
        hashes = hashes_of_bounds(bounds, self.order)
        asked: list[tuple[PersistentSet, I64 | None]] = []
        if hashes is None:
            asked = [(each, None) for run in self.runs for each in run.sets]
        else:
            if self._filters is None:
                self._known_filters(partial(self.base.lookup_many, bounds))
            for run in self.runs:
                mine = np.flatnonzero(run.filter().may_have_many(hashes))
                if len(mine):
                    asked += [(each, mine) for each in run.sets]
        if not asked:
            return self.base.lookup_many(bounds)

        def look(each: PersistentSet, at: I64 | None) -> tuple[Rows, I64]:
            return each.lookup_many(bounds if at is None else [b.take(at) for b in bounds])

        calls = [partial(look, *one) for one in asked]
        (rows, stops), *found = gathered([lambda: self.base.lookup_many(bounds), *calls])
        if not any(len(part[0]) for part in found):
            return rows, stops
        counts = np.diff(stops, prepend=0)
        for i, ((_, where), (_, own)) in enumerate(zip(asked, found, strict=True)):
            each = np.diff(own, prepend=0)
            counts[slice(None) if where is None else where] += -each if i % 2 else each
        adds = [part for one, _ in found[::2] for part in _parted(one, self.order)]
        removes = [part for one, _ in found[1::2] for part in _parted(one, self.order)]
        made = summed(_parted(rows, self.order), adds, removes, self.order, self.temporal)
        return Rows.concat(made), np.cumsum(counts)

    def apart(self, other: Index) -> tuple[list[Rows], list[Rows]]:
        """Return the rows that only one of two states has; see :class:`Index`."""
        if not isinstance(other, Levels):
            return self.slice(), other.slice()
        if not self.runs and not other.runs:
            return self.base.apart(other.base)
        theirs = {run.identity for run in other.runs}
        mine = {run.identity for run in self.runs}
        left = [run for run in self.runs if run.identity not in theirs]
        right = [run for run in other.runs if run.identity not in mine]
        sets = [each for run in (*left, *right) for each in run.sets]
        (first, second), *rest = gathered(
            [lambda: self.base.apart(other.base), *(each.slice for each in sets)]
        )
        edge = 2 * len(left)
        plus = [first, *rest[0:edge:2], *rest[edge + 1 :: 2]]
        minus = [second, *rest[1:edge:2], *rest[edge::2]]
        return net(_flat(plus), _flat(minus), self.order)

    # -- changing ------------------------------------------------------------------------------

    def merge(self, adds: Sequence[Rows], removes: Sequence[Rows], *, sure: bool = True) -> Levels:
        """Return levels with the change in a fresh run.

        The change has to be ``sure``, as :class:`Index` says: what is removed is there, to its
        transaction, and what is added is not. A fresh run takes in what comes before it is stored.
        """
        assert sure, "a run holds what is known to be so"
        adds = [run for run in adds if len(run)]
        removes = [run for run in removes if len(run)]
        runs = self.runs
        if runs and runs[-1].is_fresh:
            return self._with(self.base, [*runs[:-1], runs[-1].changed(adds, removes)])
        made = Run.empty(self.order, self.temporal, self.leaf).changed(adds, removes)
        return self._with(self.base, [*runs, made])

    def taking_over(self, merged: Levels, before: Levels) -> Levels | None:
        """Return these levels with what merging has made of ``before``, of which all are stored.

        None where these have not come of those by further runs alone.
        """
        count, tops = len(before.runs), _tops(self.base)
        if len(self.runs) < count:
            return None
        # A base that was changed since has no top that is stored.
        if (not tops or tops != _tops(before.base)) and (len(self.base) or len(before.base)):
            return None
        for own, other in zip(self.runs[:count], before.runs, strict=True):
            if own.identity != other.identity and (len(own) or len(other)):
                return None
        return self._with(merged.base, [*merged.runs, *self.runs[count:]])

    def merge_below(
        self, adds: Sequence[Rows], removes: Sequence[Rows], *, sure: bool = False
    ) -> Levels:
        """Return levels with the change in the base. No run may speak of its rows."""
        return self._with(self.base.merge(adds, removes, sure=sure), self.runs)

    def erased(self, rows: Sequence[Rows], past: Sequence[Rows] = ()) -> Levels:
        """Return levels of which nothing says ``rows`` any more; see :meth:`without`."""
        return self.without(rows, past=past)

    def without(
        self, rows: Sequence[Rows], back: Sequence[Rows] = (), past: Sequence[Rows] = ()
    ) -> Levels:
        """Return levels that hold rows nowhere, not even as removed; and ``back`` in the base.

        ``rows`` are sorted runs of all rows that anything says of their (e, a, v), in indexes of
        the past those that are meant; ``past`` are what :meth:`Index.erased` has it for.
        """
        sides: list[Callable[[], Any]] = [lambda: self.base.erased(rows, past).merge(back, [])]
        base, *runs = gathered([*sides, *(partial(run.without, rows) for run in self.runs)])
        return self._with(base, runs)

    def everything(self, bounds: Sequence[Column]) -> list[Rows]:
        """Return all rows that anything says under bounds, as :meth:`lookup_many` takes them.

        Those that were removed among them: rows come several times, and are not sorted.
        """
        sets: list[Index] = [self.base, *(each for run in self.runs for each in run.sets)]
        found = gathered([partial(each.lookup_many, bounds) for each in sets])
        return [rows for rows, _ in found if len(rows)]

    # -- storing -------------------------------------------------------------------------------

    def flush(self, sink: NodeSink) -> tuple[Levels, Mapping[str, Any]]:
        """Write what is unwritten; return the clean levels and their root record."""
        base, record = self.base.flush(Tagged(sink, BASE))
        runs = [run.flush(sink) for run in self.runs]
        clean = self._with(base, runs)
        return clean, {
            "base": dict(record),
            "runs": [run.record() for run in runs],
            "leaf": self.leaf,
        }

    def loosened(self, blobs: Collection[str]) -> Levels:
        """Return the same levels, with nodes that count as not written; see :class:`Index`."""
        base, *runs = gathered(
            [
                partial(self.base.loosened, blobs),
                *(partial(run.loosened, blobs) for run in self.runs),
            ]
        )
        return self._with(base, runs)

    def named(self) -> Iterator[Address]:
        """Iterate over what the root record of stored levels names, in its order."""
        for index in (self.base, *(each for run in self.runs for each in run.sets)):
            yield from _tops(index)

    @property
    def source(self) -> NodeSource | None:
        """Where stored nodes come from."""
        parts = (self.base, *(run.adds for run in self.runs))
        return next((part.source for part in parts if part.source is not None), None)

    def at_depth(self, depth: int, lower: Bound = (), upper: Bound = ()) -> list[Child] | None:
        """Return the stored nodes of a level, of the base and of runs; see :class:`Index`.

        Filters, of which a scan of many entities or values needs none, lie at the top.
        """
        known = hash_of(lower, self.order) is not None
        filtered = known and not _other(lower, upper, self.order)
        runs: Sequence[Run] = self.runs
        if filtered and depth:
            runs = self._touched(lower, upper)
        sets = [self.base, *(each for run in runs for each in run.sets)]
        parts = gathered([partial(each.at_depth, depth, lower, upper) for each in sets])
        if all(part is None for part in parts):
            return None
        out = [child for part in parts if part is not None for child in part]
        if not depth and (filtered or not lower):
            at = (run.filter_at for run in runs)
            out += [Child(address, 0, None, False) for address in at if address is not None]
        return out

    def addresses(self) -> Iterator[Address]:
        """Iterate over the addresses of all that is stored."""
        yield from self.base.addresses()
        for run in self.runs:
            yield from run.addresses()


def _other(lower: Bound, upper: Bound, order: Order) -> bool:
    """Whether two bounds name more than one entity, or one value."""
    if lower is upper:
        return False
    if order is Order.EAVT:
        return not upper or lower[0] != upper[0]
    if len(upper) < 2 or lower[0] != upper[0]:
        return True
    # 1, 1.0 and True are equal, and are values of their own.
    return type(lower[1]) is not type(upper[1]) or lower[1] != upper[1]


def _tops(index: Index) -> list[Address]:
    return [child.address for child in index.at_depth(0) or ()]


def _flat(parts: Sequence[Sequence[Rows]]) -> list[Rows]:
    return [run for part in parts for run in part]


def _parted(rows: Rows, order: Order) -> list[Rows]:
    """Return rows as runs of one attribute each, but in EAVT."""
    if order is Order.EAVT or not len(rows):
        return [rows] if len(rows) else []
    edges = [0, *(np.flatnonzero(np.diff(rows.a)) + 1).tolist(), len(rows)]
    return [rows.slice(i, j) for i, j in pairwise(edges)]
