"""What transactions did, as datoms: of operations of the log, or put together from the history.

Both ways it is the same: what a transaction retracted, then what it asserted, each in the order of
EAVT. A fact that one transaction both asserted and retracted again is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from datahike_async.index.columns import Column, Rows
from datahike_async.index.protocol import Order
from datahike_async.index.runs import distinct, sorted_rows
from datahike_async.snapshot.columns import Window, ends_within, within
from datahike_async.snapshot.datoms import Datoms
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.values.schema import TX_INSTANT, Schema
from datahike_async.values.types import typed_key

__all__ = ["Ends", "datoms_of", "ends_of", "told"]


def datoms_of(
    schema: Schema, operations: Iterable[tuple[int, int, Any, int, bool]], tx: int
) -> Datoms:
    """Return what a transaction did, of its operations: entity, attribute, value, tx, added."""
    # Of each fact whether it was there before, whether it is afterwards, and what it is.
    facts: dict[tuple[int, int, Any], tuple[bool, bool, Any, int]] = {}
    for e, a, v, t, added in operations:
        key = (e, a, typed_key(v))
        known = facts.get(key)
        facts[key] = (not added if known is None else known[0], added, v, t)
    gone = [(*key[:2], v, tx) for key, (before, _, v, _) in facts.items() if before]
    new = [(*key[:2], v, t) for key, (_, after, v, t) in facts.items() if after]
    return Datoms(schema, [_rows(gone, added=False), _rows(new, added=True)])


def _rows(facts: list[tuple[int, int, Any, int]], *, added: bool) -> Rows:
    count = len(facts)
    rows = Rows(
        np.fromiter((fact[0] for fact in facts), np.int64, count),
        np.fromiter((fact[1] for fact in facts), np.int32, count),
        Column.of([fact[2] for fact in facts]),
        np.fromiter((fact[3] for fact in facts), np.int64, count),
        added=np.full(count, added, np.bool_),
    )
    return sorted_rows(rows, Order.EAVT)


class Ends(NamedTuple):
    """The beginnings and the ends of what was true, each with the transaction that made it."""

    asserted: list[Rows]
    retracted: list[Rows]


def ends_of(snapshot: Snapshot, a: int, lo: int, hi: int) -> Ends:
    """Return what transactions after ``lo``, up to ``hi``, did to an attribute. Raises NodeMiss."""
    ends, window = Ends([], []), Window(lo, hi)
    for run in snapshot.slice(Order.AEVT, (a,), (a,)):
        ends.asserted.extend(_there(within(run, window)))
    for run in snapshot.intervals(Order.AEVT, (a,), (a,)):
        assert run.until is not None
        lasting = run.take(run.until > run.t)
        asserted = Rows(lasting.e, lasting.a, lasting.v, lasting.t)
        ends.asserted.extend(_there(within(asserted, window)))
        ends.retracted.extend(_there(ends_within(lasting, window)))
    return ends


def _there(rows: Rows | None) -> list[Rows]:
    return [] if rows is None else [rows]


def told(schema: Schema, ends: Iterable[Ends]) -> Iterator[tuple[int, Any, Datoms]]:
    """Go through transactions, oldest first: their ids, instants (None: not known) and datoms."""
    found = list(ends)
    sides = [
        _by_tx([run for one in found for run in one.retracted], added=False),
        _by_tx([run for one in found for run in one.asserted], added=True),
    ]
    instant = schema.by_key[TX_INSTANT].id
    for tx in sorted({*sides[0], *sides[1]}):
        new = sides[1].get(tx)
        when = None
        if new is not None:
            at = np.flatnonzero((new.e == tx) & (new.a == instant))
            when = new.v.take(at[:1]).tolist()[0] if len(at) else None
        yield tx, when, Datoms(schema, [side[tx] for side in sides if tx in side])


def _by_tx(runs: list[Rows], *, added: bool) -> dict[int, Rows]:
    runs = [run for run in runs if len(run)]
    if not runs:
        return {}
    rows = distinct(sorted_rows(Rows.concat(runs), Order.EAVT))
    rows = rows.take(np.argsort(rows.t, kind="stable"))
    rows = Rows(rows.e, rows.a, rows.v, rows.t, added=np.full(len(rows), added, np.bool_))
    txs, starts = np.unique(rows.t, return_index=True)
    stops = [*starts[1:].tolist(), len(rows)]
    parts = zip(txs.tolist(), starts.tolist(), stops, strict=True)
    return {tx: rows.slice(start, stop) for tx, start, stop in parts}
