"""Merging: runs into one, or into the base, some rows at a time.

Each step reads and merges what lies in one range of keys, and may be called again after a miss.
Between steps what was made can be written and let go, so no level is ever in memory as a whole.
Rows that lie far apart in the base touch a leaf each. So a step has as many of them as lie among so
many rows of the base, and these count as well.
"""

from __future__ import annotations

from typing import Final

from datahike_async.index.columns import Rows
from datahike_async.index.levels.filters import Making, hashes_of, room
from datahike_async.index.levels.levels import Levels
from datahike_async.index.levels.nodes import BASE, RUN, SETS, Tagged
from datahike_async.index.levels.run import Run
from datahike_async.index.levels.signed import net
from datahike_async.index.levels.streams import Leaves, next_part, parted
from datahike_async.index.persistent_set.node import row_key
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.index.protocol import Bound, Index, Order
from datahike_async.index.source import NodeSink

__all__ = ["Merging"]

_AMONG: Final = 1 << 16
"""Rows of the base among which the rows of a step lie..."""
_LEAST: Final = 128
"""...unless the step has no more than so many, each of which touches one leaf."""
_READ: Final = 1 << 16
"""Rows of all streams that are read at a time."""


class Merging:
    """One merge of ``levels``: of its runs from ``first`` on, or of all into the base at -1.

    ``waiting`` is how many rows were merged since something was written, those of the base too.
    """

    def __init__(self, levels: Levels, first: int) -> None:
        self.waiting = 0
        self._levels = levels
        self._first = max(first, 0)
        self._below = first < 0
        runs = levels.runs[self._first :]
        sets = [(each, side) for run in runs for side, each in enumerate(run.sets, 1) if len(each)]
        self._streams = [Leaves(each, side, max(_READ // len(sets), 1)) for each, side in sets]
        self._part: tuple[list[Rows], list[Rows]] | None = None
        self._base: Index = levels.base
        nothing = SETS.empty(levels.order, levels.temporal, {"branching-factor": levels.leaf})
        self._adds: PersistentSet = nothing
        self._removes: PersistentSet = nothing
        sizes = (sum(len(run.adds) for run in runs), sum(len(run.removes) for run in runs))
        self._filter = Making(0 if self._below else room(*sizes, levels.order))

    def step(self) -> bool:
        """Put some rows in; return whether there were any. Raises NodeMiss."""
        levels = self._levels
        if self._part is None:
            sides = next_part(self._streams, levels.order, levels.temporal)
            if sides is None:
                return False
            self._part = net(sides[1], sides[2], levels.order)
        adds, removes = self._part
        if self._below:
            self._merge_below(adds, removes)
        else:
            self._adds, self._removes = self._adds.merge(adds, []), self._removes.merge(removes, [])
            for run in (*adds, *removes):
                self._filter.add(hashes_of(run, levels.order))
            self.waiting += _count(adds, removes)
            self._part = None
        return True

    def _merge_below(self, adds: list[Rows], removes: list[Rows]) -> None:
        """Put into the base what of a part lies among few enough of its rows."""
        order, temporal = self._levels.order, self._levels.temporal
        rest: tuple[list[Rows], list[Rows]] = ([], [])
        while True:
            touched, size = self._among(adds, removes), max(_count(adds), _count(removes))
            if touched <= _AMONG or size <= _LEAST:
                break
            wanted = max(size * _AMONG // touched, size // 8, _LEAST)
            adds, removes, *more = parted(adds, removes, wanted, order, temporal)
            if not more[0] and not more[1]:
                break
            rest = more[0] + rest[0], more[1] + rest[1]
        self._base = self._base.merge(adds, removes, sure=True)
        self.waiting += max(touched, _count(adds, removes))
        self._part = rest if rest[0] or rest[1] else None

    def _among(self, adds: list[Rows], removes: list[Rows]) -> int:
        """Return among how many rows of the base others lie. Raises NodeMiss."""
        order = self._levels.order
        there = [side for side in (adds, removes) if side]
        if not there:
            return 0
        first = min((side[0] for side in there), key=lambda rows: row_key(rows, 0, order))
        last = max((side[-1] for side in there), key=lambda rows: row_key(rows, -1, order))
        return self._base.count_slice(_bound(first, 0, order), _bound(last, -1, order))

    def some(self, rows: int) -> bool:
        """Put about so many rows in; return whether there may be more. Raises NodeMiss."""
        while self.waiting < rows:
            if not self.step():
                return False
        return True

    def write(self, sink: NodeSink) -> None:
        """Write what was made so far."""
        if self._below:
            self._base = self._base.flush(Tagged(sink, BASE))[0]
        else:
            runs = Tagged(sink, RUN)
            self._adds, self._removes = self._adds.flush(runs)[0], self._removes.flush(runs)[0]
        self.waiting = 0

    def done(self) -> Levels:
        """Return the levels after it, once there is nothing more to put in."""
        levels = self._levels
        if self._below:
            return Levels(self._base, (), levels.leaf)
        return Levels(levels.base, [*levels.runs[: self._first], self._run()], levels.leaf)

    def _run(self) -> Run:
        return Run.joined(self._adds, self._removes, self._filter.made())


def _count(*sides: list[Rows]) -> int:
    return sum(len(rows) for side in sides for rows in side)


def _bound(rows: Rows, i: int, order: Order) -> Bound:
    e, a, v = int(rows.e[i]), int(rows.a[i]), rows.v.value(i)
    if order is Order.EAVT:
        return (e, a, v)
    return (a, e, v) if order is Order.AEVT else (a, v, e)
