"""Runs: what a few flushes have added and removed, as two sorted sets that are never merged into.

A run that is *fresh* lies in memory alone: what comes before the next flush is put into it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from datahike_async.index.columns import INT, Column, Rows
from datahike_async.index.levels.filters import Filter, Making, hashes_of, room
from datahike_async.index.levels.nodes import FILTER, RUN, SETS, Tagged
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.index.protocol import Order
from datahike_async.index.source import Address, NodeMiss, NodeSink, NodeSource

__all__ = ["Run", "gathered"]


NOTHING: Final = Making(0).made()


def gathered(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return what calls return. What several miss of one source is named together: one wave."""
    out: list[Any] = []
    missing: dict[Address, NodeSource] = {}
    for call in calls:
        try:
            out.append(call())
        except NodeMiss as miss:
            missing.update(dict.fromkeys(miss.addresses, miss.source))
    for source in missing.values():
        raise NodeMiss(source, [at for at, of in missing.items() if of is source])
    return out


class Run:
    """One run.

    ``filter_at`` is where its filter lies, if that is stored; else it is made when asked for.
    ``is_fresh`` says that it has never been stored; ``sets`` are what is added and what is removed,
    and ``takes`` says that something is.
    """

    __slots__ = (
        "_filter",
        "_source",
        "adds",
        "filter_at",
        "is_fresh",
        "removes",
        "sets",
        "takes",
    )

    def __init__(
        self,
        adds: PersistentSet,
        removes: PersistentSet,
        filter_at: Address | None = None,
        source: NodeSource | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        self.adds = adds
        self.removes = removes
        self.sets = adds, removes
        self.takes = len(removes) > 0
        self.filter_at = filter_at
        self.is_fresh = fresh
        self._source = source
        self._filter: Filter | None = None

    @classmethod
    def empty(cls, order: Order, temporal: bool, leaf: int) -> Run:
        """Return a fresh run without rows."""
        nothing = SETS.empty(order, temporal, {"branching-factor": leaf})
        return cls(nothing, nothing, fresh=True)

    @classmethod
    def joined(cls, adds: PersistentSet, removes: PersistentSet, filter_: Filter) -> Run:
        """Return the run that says what several did."""
        out = cls(adds, removes)
        out._filter = filter_
        return out

    def __len__(self) -> int:
        return len(self.adds) + len(self.removes)

    @property
    def identity(self) -> Any:
        """What it has in common with the same run of another index, and with no other run."""
        return id(self) if self.filter_at is None else self.filter_at

    def filter(self) -> Filter:
        """Return what tells which rows it cannot have. Raises NodeMiss."""
        if self._filter is None:
            if not len(self):
                self._filter = NOTHING
            elif self.filter_at is None:
                self._filter = self._made_filter()
            else:
                assert self._source is not None
                found = self._source.get(self.filter_at)
                if found is None:
                    raise NodeMiss(self._source, [self.filter_at])
                self._filter = found
        return self._filter

    def _made_filter(self) -> Filter:
        order = self.adds.order
        making = Making(room(len(self.adds), len(self.removes), order))
        for rows in gathered([each.slice for each in self.sets]):
            for run in rows:
                making.add(hashes_of(run, order))
        return making.made()

    def changed(self, adds: Sequence[Rows], removes: Sequence[Rows]) -> Run:
        """Return a fresh run that also says what came after it; see ``Levels.merge``."""
        gone, back = [], []
        for run in removes:
            mine = _found(self.adds, run)
            if mine.any():
                back.append(run.take(mine))
                run = run.take(~mine)
            if len(run):
                gone.append(run)
        return Run(
            self.adds.merge(adds, back),
            self.removes.merge(gone, []),
            fresh=True,
        )

    def without(self, rows: Sequence[Rows]) -> Run:
        """Return the run without rows, whether they are added or removed."""
        calls: list[Callable[[], Any]] = [partial(each.merge, [], rows) for each in self.sets]
        adds, removes, filter_ = gathered([*calls, self.filter])
        if adds is self.adds and removes is self.removes:
            return self
        out = Run(adds, removes, fresh=self.is_fresh)
        # It may say too much, which costs a look and no more.
        out._filter = filter_
        return out

    # -- storing -------------------------------------------------------------------------------

    def flush(self, sink: NodeSink) -> Run:
        """Write what is unwritten, and return the run as it is then."""
        at = self.filter_at
        if at is not None and self.adds.is_stored and self.removes.is_stored:
            return self
        filter_ = self.filter()
        adds, removes = (each.flush(Tagged(sink, RUN))[0] for each in self.sets)
        if at is None and len(self):
            at = Tagged(sink, FILTER).put(filter_.encode(), filter_)
        out = Run(adds, removes, at, sink.source)
        out._filter = filter_
        return out

    def record(self) -> dict[str, Any]:
        """Return what a root record says of a stored run."""
        at = self.filter_at
        return {
            "adds": self.adds.record(),
            "removes": self.removes.record(),
            "filter": None if at is None else at.to_data(),
        }

    @classmethod
    def restore(
        cls, order: Order, temporal: bool, record: Mapping[str, Any], source: NodeSource
    ) -> Run:
        """Return the run of a record, reading nothing yet."""
        adds, removes = (
            SETS.restore(order, temporal, record[name], source) for name in ("adds", "removes")
        )
        at = record["filter"]
        return cls(adds, removes, None if at is None else Address(*at), source)

    def loosened(self, blobs: Collection[str]) -> Run:
        """Return the same run, whose nodes in some blobs count as not written."""
        adds, removes, filter_ = gathered(
            [
                lambda: self.adds.loosened(blobs),
                lambda: self.removes.loosened(blobs),
                self.filter,
            ]
        )
        assert isinstance(adds, PersistentSet)
        assert isinstance(removes, PersistentSet)
        at = self.filter_at
        if at is not None and at.blob in blobs:
            at = None
        elif adds is self.adds and removes is self.removes:
            return self
        out = Run(adds, removes, at, self._source)
        out._filter = filter_
        return out

    def addresses(self) -> Iterator[Address]:
        """Iterate over the addresses of all that is stored of it."""
        for each in self.sets:
            yield from each.addresses()
        if self.filter_at is not None:
            yield self.filter_at


def _found(held: PersistentSet, rows: Rows) -> Any:
    """Return which of sorted rows a set has, by what they say."""
    if not len(held):
        return np.zeros(len(rows), np.bool_)
    _, stops = held.lookup_many(key_columns(rows, held.order))
    return np.diff(stops, prepend=0) > 0


def key_columns(rows: Rows, order: Order) -> list[Column]:
    """Return sorted rows as bounds that name each of them; for rows of the present."""
    e, a = (Column(INT, part.astype(np.int64, copy=False)) for part in (rows.e, rows.a))
    if order is Order.EAVT:
        return [e, a, rows.v]
    return [a, e, rows.v] if order is Order.AEVT else [a, rows.v, e]
