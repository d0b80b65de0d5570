"""What changes indexes otherwise than by a memtable: purges, and attributes that become indexed.

Knows indexes and their runs, and neither trees nor columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

import numpy as np

from datahike_async.index.arrays import uniques
from datahike_async.index.columns import INT, Column, Rows
from datahike_async.index.levels.levels import Levels
from datahike_async.index.levels.run import gathered
from datahike_async.index.mixed import joined_rows
from datahike_async.index.protocol import Order
from datahike_async.index.runs import changed, sorted_rows
from datahike_async.values.schema import Schema
from datahike_async.values.types import typed_keys

__all__ = ["ORDERS", "filled", "in_order", "unseen", "without"]

ORDERS: Final = (Order.EAVT, Order.AEVT, Order.AVET)

Indexes = Mapping[Order, Levels]


def in_order(by_attr: Mapping[int, Rows], order: Order, schema: Schema) -> list[Rows]:
    """Return rows of attributes as an index takes them: sorted runs, of what it holds."""
    if not by_attr:
        return []
    if order is Order.EAVT:
        return [sorted_rows(joined_rows([by_attr[a] for a in sorted(by_attr)]), order)]
    return [
        sorted_rows(by_attr[a], order)
        for a in sorted(by_attr)
        if order is Order.AEVT or schema.attrs[a].indexed
    ]


def without(
    current: Indexes,
    temporal: Indexes,
    present: Mapping[int, Rows],
    past: Mapping[int, Rows],
    schema: Schema,
) -> tuple[dict[Order, Levels], dict[Order, Levels]]:
    """Return indexes without datoms, of the present and of the past, by attribute.

    What runs say of their entities goes with them: also what was removed, and no state tells of.
    Raises NodeMiss.
    """
    entities = np.concatenate([rows.e for side in (present, past) for rows in side.values()])
    named = [Column(INT, uniques(entities))]
    eavt = current[Order.EAVT]
    said, (there, _) = gathered([partial(eavt.everything, named), partial(eavt.lookup_many, named)])
    gone = _by_attribute(said)
    leaving = in_order(present, Order.EAVT, schema)
    kept = _by_attribute([changed(there, [], leaving, Order.EAVT, False)])
    # A base may note what is removed, too.
    were = {a: Rows(rows.e, rows.a, rows.v, rows.t) for a, rows in past.items()}
    calls = [
        partial(current[o].without, *(in_order(side, o, schema) for side in (gone, kept, were)))
        for o in ORDERS
    ]
    calls += [partial(temporal[o].without, in_order(past, o, schema)) for o in ORDERS]
    made = gathered(calls)
    return dict(zip(ORDERS, made[:3], strict=True)), dict(zip(ORDERS, made[3:], strict=True))


def filled(index: Levels, a: int, rows: Rows) -> Levels:
    """Return an AVET that also holds the rows of an attribute, which has become indexed.

    Raises NodeMiss.
    """
    # What is there from when it was indexed before is not how it is now.
    old = index.everything([Column(INT, np.array([a], np.int64))])
    new = [sorted_rows(rows, Order.AVET)] if len(rows) else []
    if not old:
        return index.merge_below(new, [])
    return index.without([sorted_rows(Rows.concat(old), Order.AVET)], new)


def unseen(ended: Rows, known: Rows) -> Rows:
    """Return those intervals of an attribute that are not among known ones, each once."""
    seen = set(_identities(known))
    keep = []
    for said in _identities(ended):
        keep.append(said not in seen)
        seen.add(said)
    return ended.take(np.array(keep, np.bool_))


def _identities(intervals: Rows) -> Iterator[tuple[int, Any, int, int]]:
    assert intervals.until is not None or not len(intervals)
    until = [] if intervals.until is None else intervals.until.tolist()
    keys = typed_keys(intervals.v.tolist())
    return zip(intervals.e.tolist(), keys, intervals.t.tolist(), until, strict=True)


def _by_attribute(runs: Sequence[Rows]) -> dict[int, Rows]:
    """Return rows by attribute, with values in columns of their own kind."""
    out: dict[int, Rows] = {}
    whole = Rows.concat(runs)
    for a in uniques(whole.a.astype(np.int64)).tolist() if len(whole) else ():
        own = whole.take(whole.a == a)
        # A base has rows that a run says are removed: once is enough.
        once = dict(zip(zip(own.e.tolist(), typed_keys(own.v.tolist()), strict=True), count()))
        own = own.take(np.fromiter(once.values(), np.int64, len(once)))
        out[a] = Rows(own.e, own.a, Column.of(own.v.tolist()), own.t, own.until)
    return out
