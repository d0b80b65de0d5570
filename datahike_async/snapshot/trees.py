"""Trees: the covering indexes of one database state, and how a memtable is merged into them.

Current datoms lie in EAVT and AEVT, those of indexed attributes also in AVET. With history, the
temporal twins hold one interval a retracted datom: asserted by ``t``, true until ``until``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from datahike_async.index.columns import INT, Column, Rows
from datahike_async.index.memtable import Memtable
from datahike_async.index.protocol import Index, IndexFactory, Order
from datahike_async.index.runs import sorted_rows
from datahike_async.index.source import NodeSink, NodeSource
from datahike_async.values.schema import Schema

__all__ = ["Trees"]

COLUMN_CACHE_BYTES: Final = 256 * 1024 * 1024
_ORDERS: Final = (Order.EAVT, Order.AEVT, Order.AVET)


class Trees:
    """The indexes of one state. Immutable but for its cache of whole-attribute columns.

    ``max_eid`` and ``max_tx`` bound what can be found here: newer entities need no look.
    """

    __slots__ = (
        "_columns",
        "_columns_bytes",
        "_counts",
        "config",
        "current",
        "factory",
        "max_eid",
        "max_tx",
        "temporal",
    )

    def __init__(
        self,
        factory: IndexFactory,
        config: Mapping[str, Any],
        current: Mapping[Order, Index],
        temporal: Mapping[Order, Index] | None,
        max_eid: int,
        max_tx: int,
    ) -> None:
        self.factory = factory
        self.config = config
        self.current = current
        self.temporal = temporal
        self.max_eid = max_eid
        self.max_tx = max_tx
        self._columns: dict[int, Rows] = {}
        self._columns_bytes = 0
        self._counts: dict[int, int] = {}

    @classmethod
    def empty(
        cls,
        factory: IndexFactory,
        config: Mapping[str, Any],
        *,
        keep_history: bool,
        max_eid: int,
        max_tx: int,
        remote: bool = False,
    ) -> Trees:
        """Return trees without datoms."""
        config = factory.check_config(config, remote=remote)
        return cls(
            factory,
            config,
            {o: factory.empty(o, False, config) for o in _ORDERS},
            {o: factory.empty(o, True, config) for o in _ORDERS} if keep_history else None,
            max_eid,
            max_tx,
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
        return e <= self.max_eid or self.max_tx >= e > 0x1FFFFFFF

    def has_entity(self, e: int) -> bool:
        """Whether entity ``e`` has a current datom here."""
        return self.may_have(e) and bool(self.current[Order.EAVT].slice((e,), (e,)))

    def attr(self, a: int) -> Rows:
        """Return all current datoms of an attribute in AEVT order; kept for the next caller."""
        found = self._columns.get(a)
        if found is None:
            found = Rows.concat(self.current[Order.AEVT].slice((a,), (a,)))
            self._keep(a, found)
        return found

    def cached(self, a: int) -> Rows | None:
        """Return all current datoms of an attribute if they have been put together already."""
        return self._columns.get(a)

    def count_attr(self, a: int) -> int:
        """Count the current datoms of an attribute; the number is kept."""
        found = self._counts.get(a)
        if found is None:
            found = self._counts[a] = self.current[Order.AEVT].count_slice((a,), (a,))
        return found

    def _keep(self, a: int, rows: Rows) -> None:
        self._columns[a] = rows
        self._columns_bytes += rows.nbytes
        while self._columns_bytes > COLUMN_CACHE_BYTES and len(self._columns) > 1:
            oldest, _ = self._cached()[0]
            gone = self._columns.pop(oldest, None)
            self._columns_bytes -= 0 if gone is None else gone.nbytes

    def _cached(self) -> list[tuple[int, Rows]]:
        # A copy, made in one step: a flush reads this in a thread while readers add to it.
        return list(self._columns.items())

    # -- merging ---------------------------------------------------------------------------

    def absorb(
        self, mem: Memtable, n: int, m: int, schema: Schema, max_eid: int, max_tx: int
    ) -> Trees:
        """Return trees that hold what the first ``n`` operations (``m`` rows) of ``mem`` say.

        Raises NodeMiss where a touched leaf is not resident.
        """
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
        return self.merge(adds, removes, ended, schema, max_eid, max_tx)

    def merge(
        self,
        adds: Mapping[int, Rows],
        removes: Mapping[int, Rows],
        ended: Mapping[int, Rows],
        schema: Schema,
        max_eid: int,
        max_tx: int,
    ) -> Trees:
        """Return trees with runs merged in: each maps an attribute id to rows in any order."""
        current = dict(self.current)
        for order in _ORDERS:
            added = _runs(adds, order, schema)
            removed = _runs(removes, order, schema)
            if added or removed:
                current[order] = current[order].merge(added, removed)
        temporal = None if self.temporal is None else dict(self.temporal)
        if temporal is not None and ended:
            for order in _ORDERS:
                runs = _runs(ended, order, schema)
                if runs:
                    temporal[order] = temporal[order].merge(runs, [])
        out = Trees(self.factory, self.config, current, temporal, max_eid, max_tx)
        touched = adds.keys() | removes.keys()
        for a, rows in self._cached():
            if a not in touched:
                out._keep(a, rows)
        return out

    def backfill(self, a: int) -> Trees:
        """Return trees whose AVET also holds attribute ``a``, which has become indexed."""
        current = dict(self.current)
        rows = self.attr(a)
        if len(rows):
            current[Order.AVET] = current[Order.AVET].merge([sorted_rows(rows, Order.AVET)], [])
        temporal = None if self.temporal is None else dict(self.temporal)
        if temporal is not None:
            past = Rows.concat(temporal[Order.AEVT].slice((a,), (a,)))
            if len(past):
                run = sorted_rows(past, Order.AVET)
                temporal[Order.AVET] = temporal[Order.AVET].merge([run], [])
        out = Trees(self.factory, self.config, current, temporal, self.max_eid, self.max_tx)
        for b, rows in self._cached():
            out._keep(b, rows)
        return out

    # -- storing ---------------------------------------------------------------------------

    def flush(self, sink: NodeSink) -> tuple[Trees, dict[str, Any]]:
        """Write what is not yet stored; return clean trees and the record of their roots."""
        roots: dict[str, Any] = {}

        def clean(indexes: Mapping[Order, Index], prefix: str) -> dict[Order, Index]:
            out = {}
            for order, index in indexes.items():
                out[order], root = index.flush(sink)
                roots[prefix + order.value] = dict(root)
            return out

        current = clean(self.current, "")
        temporal = None if self.temporal is None else clean(self.temporal, "temporal-")
        out = Trees(self.factory, self.config, current, temporal, self.max_eid, self.max_tx)
        for a, rows in self._cached():
            out._keep(a, rows)
        return out, {"roots": roots, "max-eid": self.max_eid, "max-tx": self.max_tx}

    @classmethod
    def restore(
        cls,
        factory: IndexFactory,
        config: Mapping[str, Any],
        record: Mapping[str, Any],
        source: NodeSource,
    ) -> Trees:
        """Return the trees that :meth:`flush` recorded, reading nothing yet."""
        roots = record["roots"]

        def load(prefix: str, temporal: bool) -> dict[Order, Index]:
            return {
                o: factory.restore(o, temporal, roots[prefix + o.value], source) for o in _ORDERS
            }

        kept = "temporal-eavt" in roots
        return cls(
            factory,
            factory.check_config(config),
            load("", False),
            load("temporal-", True) if kept else None,
            record["max-eid"],
            record["max-tx"],
        )

    def indexes(self) -> Iterator[Index]:
        """Iterate over all indexes, current and temporal."""
        yield from self.current.values()
        if self.temporal is not None:
            yield from self.temporal.values()


def _runs(by_attr: Mapping[int, Rows], order: Order, schema: Schema) -> list[Rows]:
    if not by_attr:
        return []
    if order is Order.EAVT:
        return [sorted_rows(Rows.concat([by_attr[a] for a in sorted(by_attr)]), order)]
    return [
        sorted_rows(by_attr[a], order)
        for a in sorted(by_attr)
        if order is Order.AEVT or schema.attrs[a].indexed
    ]


def rows_by_attr(e: Sequence[int], a: Sequence[int], v: Sequence[Any], tx: int) -> dict[int, Rows]:
    """Group parallel lists of new facts by attribute id into runs, vectorised."""
    ee, aa = Column.of(e).data, Column.of(a).data.astype(np.int32)
    out: dict[int, Rows] = {}
    order = np.argsort(aa, kind="stable")
    sorted_a = aa[order]
    cuts = np.flatnonzero(np.diff(sorted_a)) + 1
    for part in np.split(order, cuts):
        if not len(part):
            continue
        column = Column.of([v[i] for i in Column(INT, part).tolist()])
        out[int(aa[part[0]])] = Rows(ee[part], aa[part], column, np.full(len(part), tx, np.int64))
    return out
