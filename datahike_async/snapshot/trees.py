"""Trees: the covering indexes of one database state, and how a memtable is merged into them.

Current datoms lie in EAVT and AEVT, those of indexed attributes also in AVET. With history, the
temporal twins hold one interval a retracted datom: asserted by ``t``, true until ``until``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

import numpy as np

from datahike_async.errors import ArgumentError
from datahike_async.index.arrays import searched, spans, uniques
from datahike_async.index.columns import I64, INT, OBJECT, Column, Rows
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.levels.levels import Levels
from datahike_async.index.levels.policy import due, into_base, loads_into_base
from datahike_async.index.memtable import Memtable
from datahike_async.index.protocol import Order
from datahike_async.index.source import Address, NodeMiss, NodeSink, NodeSource
from datahike_async.memory import Memory, memory_of
from datahike_async.snapshot.columns import FOREVER, PRESENT, Change, Columns, Window, windowed
from datahike_async.snapshot.ids import MAIN, TX0
from datahike_async.snapshot.instants import NONE
from datahike_async.snapshot.rewriting import ORDERS, filled, in_order, unseen, without
from datahike_async.values.schema import TX_INSTANT, Schema

__all__ = ["Trees"]

_NOTHING: Final = Memtable()
# Looking one entity up takes as long as putting so many datoms of an attribute together, of which
# each needs so many bytes at most where it has a value of its own.
_LOOK: Final = 256
_ROW: Final = 100


class Trees:
    """The indexes of one state. Immutable but for the columns it keeps.

    ``ids`` is the block that new entities get their ids of. ``max_eid``, the highest of these in
    use, and ``max_tx`` bound what can be found here: newer entities need no look.
    """

    __slots__ = (
        "_counts",
        "_due",
        "_instants",
        "_past_counts",
        "_sought",
        "columns",
        "config",
        "current",
        "factory",
        "ids",
        "max_eid",
        "max_tx",
        "memory",
        "temporal",
        "widths",
    )

    def __init__(
        self,
        factory: LevelsFactory,
        config: Mapping[str, Any],
        current: Mapping[Order, Levels],
        temporal: Mapping[Order, Levels] | None,
        max_eid: int,
        max_tx: int,
        memory: Memory | None = None,
        columns: Columns | None = None,
        ids: range = MAIN,
    ) -> None:
        self.factory = factory
        self.config = config
        self.current = current
        self.temporal = temporal
        self.ids = ids
        self.max_eid = max_eid
        self.max_tx = max_tx
        self.memory = memory_of(None) if memory is None else memory
        self.columns = Columns(self.memory.columns) if columns is None else columns
        # About how many bytes a value of an attribute takes, where someone had to know.
        self.widths: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._due: tuple[tuple[bool, int], ...] | None = None
        self._past_counts: dict[int, int] = {}
        self._instants = NONE
        # How many entities were looked up of attributes that are not put together.
        self._sought: dict[int, int] = {}

    @classmethod
    def empty(
        cls,
        factory: LevelsFactory,
        config: Mapping[str, Any],
        *,
        keep_history: bool,
        max_eid: int,
        max_tx: int,
        remote: bool = False,
        memory: Memory | None = None,
    ) -> Trees:
        """Return trees without datoms."""
        config = factory.check_config(config, remote=remote)
        return cls(
            factory,
            config,
            {o: factory.empty(o, False, config) for o in ORDERS},
            {o: factory.empty(o, True, config) for o in ORDERS} if keep_history else None,
            max_eid,
            max_tx,
            memory,
        )

    @property
    def keep_history(self) -> bool:
        """Whether retracted datoms are kept."""
        return self.temporal is not None

    def __len__(self) -> int:
        """Return the number of current datoms."""
        return len(self.current[Order.EAVT])

    def may_have(self, e: int) -> bool:
        """Whether entity ``e`` (a transaction counts as one) can have datoms here."""
        return e <= self.max_tx if e >= TX0 else not self.max_eid < e < self.ids.stop

    def has_entity(self, e: int) -> bool:
        """Whether entity ``e`` has a current datom here."""
        return self.may_have(e) and bool(self.current[Order.EAVT].slice((e,), (e,)))

    def attr(self, a: int) -> Rows:
        """Return all current datoms of an attribute in AEVT order; kept for the next caller."""
        return self.present(a, _NOTHING, 0, 0)

    def present(self, a: int, mem: Memtable, n: int, m: int, *, keep: bool = True) -> Rows:
        """Return the same after the first ``n`` operations (``m`` rows) of a memtable."""
        make = partial(self._whole, a)
        return self.columns.column(a, PRESENT, mem, n, m, make, keep=keep)

    def seen(self, a: int, window: Window, mem: Memtable, n: int, m: int, max_tx: int) -> Rows:
        """Return what a window shows of an attribute after operations of a memtable; kept, too.

        ``max_tx`` is the newest transaction that is whole. The past of the attribute is kept, and
        no datom was given a transaction that was over. Raises ArgumentError without history.
        """
        if window.hi > max_tx:
            window = window._replace(hi=FOREVER)
            make = partial(self._window, a, window)
            return self.columns.column(a, window, mem, n, m, make)
        of_trees = window.hi <= self.max_tx
        make = partial(self._window, a, window if of_trees else window._replace(hi=FOREVER))
        return self.columns.settled(a, window, mem, n, m, make, of_trees=of_trees)

    def seen_already(
        self, a: int, window: Window, mem: Memtable, n: int, max_tx: int
    ) -> Rows | None:
        """Return what :meth:`seen` would, if that has been put together already."""
        if window.hi > max_tx:
            window = window._replace(hi=FOREVER)
        return self.columns.at_hand(a, window, mem, n)

    def _whole(self, a: int) -> Rows:
        return Rows.concat(self.current[Order.AEVT].slice((a,), (a,)), packed=True)

    def _window(self, a: int, window: Window) -> Rows:
        # Not kept where it is not: who looks back need not ask for the present.
        present = self.cached(a) or self._whole(a)
        if window.hi == FOREVER and not window.history:
            return windowed(present, (), window)
        return windowed(present, self.past()[Order.AEVT].slice((a,), (a,)), window)

    def cached(self, a: int) -> Rows | None:
        """Return all current datoms of an attribute if they have been put together already."""
        return self.columns.at_hand(a, PRESENT)

    def nearly(self, a: int) -> Rows | None:
        """Return columns of an attribute that are at hand, though the newest datoms may lack."""
        return self.columns.nearly(a)

    def past(self) -> Mapping[Order, Levels]:
        """Return the indexes of intervals; raise ArgumentError where no history is kept."""
        if self.temporal is None:
            raise ArgumentError(
                "This database keeps no history (:keep-history? false), so only its present state "
                "can be read; create it with :keep-history? true to look back.",
                error=":temporal/history-required",
            )
        return self.temporal

    def first_later(self, a: int, point: datetime) -> int | None:
        """Return the first transaction that is later than ``point``, by the instants ``a``."""
        found = self._instants = self._instants.reaching(self.current[Order.AVET], a, point)
        return found.first_later(point)

    def past_of_entities(self, a: int, entities: I64) -> Rows:
        """Return the intervals of an attribute that entities have, ordered by entity.

        ``entities`` ascend, and none comes twice. Raises ArgumentError without history.
        """
        return self._looked_up(self.past(), a, entities)

    def _looked_up(self, indexes: Mapping[Order, Levels], a: int, entities: I64) -> Rows:
        bounds = [Column(INT, entities), Column(INT, np.full(len(entities), a, np.int64))]
        found = indexes[Order.EAVT].lookup_many(bounds)[0]
        if found.v.kind != OBJECT:
            return found
        # There they lie among values of all kinds; by themselves they are nearly always of one.
        return Rows(found.e, found.a, Column.of(found.v.tolist()), found.t, found.until)

    def at_hand(self, a: int, known: int) -> Rows | None:
        """Return all current datoms of an attribute, of which ``known`` entities are looked up.

        None where looking them up one by one, like those before them, has cost less than putting
        the attribute together does, or where nodes would have to be read for that.
        """
        if self.columns.nearly(a) is not None:
            return self.attr(a)
        count, sought = self.rough_count(a), self._sought.get(a, 0) + known
        if sought * _LOOK < count or count * _ROW > self.memory.columns:
            self._sought[a] = sought
            return None
        found: Rows | None = None
        with suppress(NodeMiss):
            found = self.attr(a)
        self._sought.pop(a, None)
        return found

    def of_entities(self, a: int, entities: I64) -> Rows:
        """Return the current datoms of an attribute that entities have, ordered by entity.

        ``entities`` ascend, and none comes twice. All are looked up in one pass.
        """
        if not len(entities):
            return Rows.concat([])
        rows = self.at_hand(a, len(entities))
        if rows is not None:
            start = searched(rows.e, entities)
            counts = searched(rows.e, entities, "right") - start
            return rows.take(spans(start, counts, int(counts.sum())))
        return self._looked_up(self.current, a, entities)

    def count_attr(self, a: int) -> int:
        """Count the current datoms of an attribute; the number is kept."""
        found = self._counts.get(a)
        if found is None:
            found = self._counts[a] = self.current[Order.AEVT].count_slice((a,), (a,))
        return found

    def count_past(self, a: int) -> int:
        """Count the retracted datoms that are kept of an attribute; the number is kept."""
        if self.temporal is None:
            return 0
        found = self._past_counts.get(a)
        if found is None:
            found = self.temporal[Order.AEVT].count_slice((a,), (a,))
            self._past_counts[a] = found
        return found

    def rough_count(self, a: int) -> int:
        """Return about how many current datoms an attribute has, reading nothing."""
        found = self._counts.get(a)
        if found is None:
            found, sure = self.current[Order.AEVT].estimate((a,), (a,))
            if sure:
                self._counts[a] = found
        return found

    def _with(
        self,
        current: Mapping[Order, Levels],
        temporal: Mapping[Order, Levels] | None,
        max_eid: int,
        max_tx: int,
        columns: Columns | None = None,
        changed: Collection[int] = (),
    ) -> Trees:
        """Return trees made of these, with their columns, unless others are given.

        And with what was looked up in them, but of attributes that have changed.
        """
        if columns is None:
            columns = self.columns.carried({}, (), None, 0, max_tx)
        out = Trees(
            self.factory,
            self.config,
            current,
            temporal,
            max_eid,
            max_tx,
            self.memory,
            columns,
            self.ids,
        )
        out.widths = self.widths
        # A copy, made in one step: a flush reads this in a thread while readers add to it.
        sought = self._sought.copy()
        out._sought.update((a, n) for a, n in sought.items() if a not in changed)
        out._instants = self._instants
        return out

    def over(self, ids: range) -> Trees:
        """Return the same trees, where new entities get their ids of another block."""
        out = self._with(self.current, self.temporal, ids.start - 1, self.max_tx)
        out.ids = ids
        return out

    # -- merging ---------------------------------------------------------------------------

    def absorb(
        self, mem: Memtable, n: int, m: int, schema: Schema, max_eid: int, max_tx: int
    ) -> Trees:
        """Return trees that hold what the first ``n`` operations (``m`` rows) of ``mem`` say.

        Raises NodeMiss where a touched leaf is not resident.
        """
        changes = self.changes(mem, n, m, schema)
        return self.merge(*changes, schema, max_eid, max_tx, mem=mem, n=n, early=mem.early)

    def changes(
        self, mem: Memtable, n: int, m: int, schema: Schema
    ) -> tuple[dict[int, Rows], dict[int, Rows], dict[int, Rows]]:
        """Return what the first ``n`` operations say, as :meth:`merge` takes it."""
        adds: dict[int, Rows] = {}
        removes: dict[int, Rows] = {}
        ended: dict[int, Rows] = {}
        for a in sorted(mem.by_a):
            rows = mem.by_a.get(a)
            if rows is None or a >= len(schema.attrs):
                # The writer goes on meanwhile: attributes beyond these ``n`` come, or are undone.
                continue
            live = mem.live(rows, n, m)
            gone = mem.removed(rows, m)
            if live:
                adds[a] = mem.rows(live)
            if gone:
                removes[a] = mem.rows(gone)
            if self.temporal is not None and not schema.attrs[a].no_history:
                past = mem.ended(rows, n, m)
                if past:
                    ended[a] = mem.rows(past, intervals=True)
        return adds, removes, ended

    def merge(
        self,
        adds: Mapping[int, Rows],
        removes: Mapping[int, Rows],
        ended: Mapping[int, Rows],
        schema: Schema,
        max_eid: int,
        max_tx: int,
        *,
        mem: Memtable | None = None,
        n: int = 0,
        early: Collection[int] = (),
    ) -> Trees:
        """Return trees with runs merged in: each maps an attribute id to rows in any order.

        They are what the first ``n`` operations of a memtable say, if one is given; ``early`` are
        attributes that may have been given datoms of transactions before the newest here. What is
        removed is there as it is said, and what is added is not (``index/levels``): it goes to a
        run, or into the base where it is much beside that. Raises NodeMiss for what all indexes
        miss, of the same source.
        """
        current = dict(self.current)
        temporal = None if self.temporal is None else dict(self.temporal)
        missing: dict[Address, NodeSource] = {}
        # What is taken out was found here, and nothing is added that is here; only of datoms that
        # name earlier transactions the same interval may come again.
        ended = {
            a: unseen(rows, self.past_of_entities(a, uniques(rows.e))) if a in early else rows
            for a, rows in ended.items()
        }

        def change(
            indexes: dict[Order, Levels] | None, new: Mapping[int, Rows], gone: Mapping[int, Rows]
        ) -> None:
            rows = sum(map(len, new.values())) + sum(map(len, gone.values()))
            if indexes is None or not rows:
                return
            below = self._goes_below(indexes[Order.EAVT], rows, large=mem is None)
            for order in ORDERS:
                index, runs = (
                    indexes[order],
                    [in_order(side, order, schema) for side in (new, gone)],
                )
                try:
                    # All orders have the same runs, those too that none of the rows belong to.
                    if below:
                        indexes[order] = index.merge_below(*runs, sure=mem is not None)
                    else:
                        indexes[order] = index.merge(*runs)
                except NodeMiss as miss:
                    missing.update(dict.fromkeys(miss.addresses, miss.source))

        # What all of them miss is fetched together: what is resident may fall out meanwhile.
        change(current, adds, removes)
        change(temporal, ended, {})
        for source in dict.fromkeys(missing.values()):
            raise NodeMiss(source, [a for a, s in missing.items() if s is source])
        changes = {
            a: self._change(adds.get(a), removes.get(a), ended.get(a))
            for a in adds.keys() | removes.keys() | ended.keys()
        }
        forgotten = {a for a in changes if a in early or schema.attrs[a].no_history}
        columns = self.columns.carried(changes, forgotten, mem, n, max_tx)
        out = self._with(current, temporal, max_eid, max_tx, columns, changes)
        instant = schema.by_key[TX_INSTANT].id
        said = instant in removes
        out._instants = NONE if said else self._instants.with_rows(adds.get(instant))
        return out

    def _goes_below(self, index: Levels, rows: int, *, large: bool) -> bool:
        """Whether a change of so many rows goes into the base of indexes at once."""
        much = loads_into_base if large else into_base
        return not self.config["runs"] or (not index.runs and much(len(index.base), rows))

    def _change(self, adds: Rows | None, removes: Rows | None, ended: Rows | None) -> Change:
        if ended is None or ended.until is None:
            return Change(adds, removes, None)
        # What was here before it ended, and what came and went since.
        old = ended.t <= self.max_tx
        return Change(
            adds,
            ended.take(old) if old.any() else None,
            None if old.all() else ended.take(~old),
        )

    def without(
        self, current: Mapping[int, Rows], temporal: Mapping[int, Rows], schema: Schema
    ) -> Trees:
        """Return trees without datoms, of the present and of the past, by attribute.

        Columns are put together anew: no past of these attributes is what it was. Raises NodeMiss.
        """
        present, past = without(self.current, self.past(), current, temporal, schema)
        columns = Columns(self.memory.columns)
        return self._with(present, past, self.max_eid, self.max_tx, columns)

    def backfill(self, a: int) -> Trees:
        """Return trees whose AVET also holds attribute ``a``, which has become indexed."""
        current = {**self.current, Order.AVET: filled(self.current[Order.AVET], a, self.attr(a))}
        temporal = self.temporal
        if temporal is not None:
            past = Rows.concat(temporal[Order.AEVT].slice((a,), (a,)))
            temporal = {**temporal, Order.AVET: filled(temporal[Order.AVET], a, past)}
        return self._with(current, temporal, self.max_eid, self.max_tx)

    # -- merging runs --------------------------------------------------------------------------

    @property
    def due(self) -> tuple[tuple[bool, int], ...]:
        """Which runs are to be merged: whether of the past, and the first of them, -1: all below.

        The same in each order.
        """
        if self._due is None:
            sides = [(False, self.current)] + ([] if not self.temporal else [(True, self.temporal)])
            found = []
            for past, indexes in sides:
                index = indexes[Order.EAVT]
                first = due(len(index.base), list(map(len, index.runs)))
                if first is not None:
                    found.append((past, first))
            self._due = tuple(found)
        return self._due

    @property
    def runs(self) -> tuple[int, int]:
        """How many runs there are, of the present and the past, and how many rows are in them."""
        indexes = [side[Order.EAVT] for side in (self.current, self.temporal) if side is not None]
        runs = [run for index in indexes for run in index.runs]
        return len(runs), sum(map(len, runs))

    def side(self, *, past: bool) -> Mapping[Order, Levels]:
        """Return the indexes of the present, or of the past."""
        return self.past() if past else self.current

    def taking_over(self, merged: Trees, before: Trees) -> Trees | None:
        """Return these trees with what merging runs has made of ``before``.

        None where these have not come of those by further runs alone, as loads make them.
        """

        def taken(
            own: Mapping[Order, Levels], new: Mapping[Order, Levels], old: Mapping[Order, Levels]
        ) -> dict[Order, Levels] | None:
            out = {order: own[order].taking_over(new[order], old[order]) for order in own}
            found = {order: index for order, index in out.items() if index is not None}
            return found if len(found) == len(out) else None

        current = taken(self.current, merged.current, before.current)
        temporal = taken(self.temporal or {}, merged.temporal or {}, before.temporal or {})
        if current is None or temporal is None:
            return None
        return self._with(current, temporal or None, self.max_eid, self.max_tx)

    def with_side(self, indexes: Mapping[Order, Levels], *, past: bool) -> Trees:
        """Return the same state, with runs merged in the indexes of the present or the past."""
        current, temporal = (self.current, indexes) if past else (indexes, self.temporal)
        return self._with(current, temporal, self.max_eid, self.max_tx)

    # -- storing ---------------------------------------------------------------------------

    def loosened(self, blobs: Collection[str]) -> Trees:
        """Return the same trees, whose nodes in some blobs are to be written anew.

        Raises NodeMiss for those that are not resident.
        """
        current = {order: index.loosened(blobs) for order, index in self.current.items()}
        temporal = None
        if self.temporal is not None:
            temporal = {order: index.loosened(blobs) for order, index in self.temporal.items()}
        return self._with(current, temporal, self.max_eid, self.max_tx)

    def flush(self, sink: NodeSink) -> tuple[Trees, dict[str, Any]]:
        """Write what is not yet stored; return clean trees and the record of their roots."""
        roots: dict[str, Any] = {}

        def clean(indexes: Mapping[Order, Levels], prefix: str) -> dict[Order, Levels]:
            out = {}
            for order, index in indexes.items():
                out[order], root = index.flush(sink)
                roots[prefix + order.value] = dict(root)
            return out

        current = clean(self.current, "")
        temporal = None if self.temporal is None else clean(self.temporal, "temporal-")
        record = {
            "roots": roots,
            "max-eid": self.max_eid,
            "max-tx": self.max_tx,
            "ids": [self.ids.start, self.ids.stop],
        }
        return self._with(current, temporal, self.max_eid, self.max_tx), record

    @classmethod
    def restore(
        cls,
        factory: LevelsFactory,
        config: Mapping[str, Any],
        record: Mapping[str, Any],
        source: NodeSource,
        memory: Memory | None = None,
    ) -> Trees:
        """Return the trees that :meth:`flush` recorded, reading nothing yet."""
        roots = record["roots"]

        def load(prefix: str, temporal: bool) -> dict[Order, Levels]:
            return {
                o: factory.restore(o, temporal, roots[prefix + o.value], source) for o in ORDERS
            }

        kept = "temporal-eavt" in roots
        return cls(
            factory,
            factory.check_config(config),
            load("", False),
            load("temporal-", True) if kept else None,
            record["max-eid"],
            record["max-tx"],
            memory,
            ids=range(*record["ids"]),
        )

    def indexes(self) -> Iterator[Levels]:
        """Iterate over all indexes, current and temporal."""
        yield from self.current.values()
        if self.temporal is not None:
            yield from self.temporal.values()
