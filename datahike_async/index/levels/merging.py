"""Merging: runs into one, or into the base, some rows at a time.

Each step reads and merges what lies in one range of keys, and may be called again after a miss.
Between steps what was made can be written and let go, so no level is ever in memory as a whole.
"""

from __future__ import annotations

from datahike_async.index.columns import Rows
from datahike_async.index.levels.filters import Making, hashes_of
from datahike_async.index.levels.levels import Levels
from datahike_async.index.levels.nodes import BASE, RUN, SETS, Tagged
from datahike_async.index.levels.run import Run
from datahike_async.index.levels.signed import net
from datahike_async.index.levels.streams import Leaves, next_part
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.index.protocol import Index
from datahike_async.index.source import NodeSink

__all__ = ["Merging"]


class Merging:
    """One merge of ``levels``: of its runs from ``first`` on, or of all into the base at -1.

    ``waiting`` is how many rows went in since something was written.
    """

    def __init__(self, levels: Levels, first: int) -> None:
        self.waiting = 0
        self._levels = levels
        self._first = max(first, 0)
        self._below = first < 0
        runs = levels.runs[self._first :]
        self._streams = [
            Leaves(each, side) for run in runs for side, each in enumerate(run.sets, 1) if len(each)
        ]
        self._part: tuple[list[Rows], list[Rows]] | None = None
        self._base: Index = levels.base
        nothing = SETS.empty(levels.order, levels.temporal, {"branching-factor": levels.leaf})
        self._adds: PersistentSet = nothing
        self._removes: PersistentSet = nothing
        sizes = [sum(len(run.sets[i]) for run in runs) for i in range(2)]
        self._filter = Making(0 if self._below else max(sizes))

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
            self._base = self._base.merge(adds, removes, sure=True)
        else:
            self._adds, self._removes = self._adds.merge(adds, []), self._removes.merge(removes, [])
            for run in (*adds, *removes):
                self._filter.add(hashes_of(run, levels.order))
        self.waiting += sum(map(len, (*adds, *removes)))
        self._part = None
        return True

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
        return Run.joined(
            self._adds, self._removes, self._levels.runs[self._first :], self._filter.made()
        )
