"""Runs of rows: sorting them, masking rows out, merging new ones in.

Works on :class:`Rows` alone; a run of AEVT or AVET has one attribute.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from datahike_async.index.columns import CODED, I64, INT, OBJECT, Rows
from datahike_async.index.protocol import Order
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key

__all__ = ["merged", "sort_positions", "sorted_rows", "without"]


def without(rows: Rows, gone: Iterable[tuple[int, int, Any]]) -> Rows:
    """Return ``rows`` without the datoms (e, attribute id, value key) in ``gone``."""
    keys = set(gone)
    if not keys or not len(rows):
        return rows
    entities = np.fromiter({e for e, _, _ in keys}, np.int64)
    candidates = np.flatnonzero(np.isin(rows.e, entities))
    if not len(candidates):
        return rows
    keep = np.ones(len(rows), np.bool_)
    for i in candidates.tolist():
        if (int(rows.e[i]), int(rows.a[i]), typed_key(rows.v.value(i))) in keys:
            keep[i] = False
    return rows.take(keep)


def merged(base: Rows, added: Rows, order: Order) -> Rows:
    """Return both as one run in ``order``."""
    if not len(added):
        return base
    return sorted_rows(Rows.concat([base, added]) if len(base) else added, order)


def sorted_rows(rows: Rows, order: Order) -> Rows:
    """Return ``rows`` in ``order``."""
    if len(rows) < 2:
        return rows
    return rows.take(sort_positions(rows, order))


def sort_positions(rows: Rows, order: Order) -> I64:
    """Return the positions that put ``rows`` in ``order``, then by t, retractions first."""
    if order is Order.AVET:
        if rows.v.kind == OBJECT:
            return _by_python(rows, order)
        keys: tuple[Any, ...] = (rows.t, rows.e, rows.v.ranks(), rows.a)
        if rows.added is not None:
            keys = (rows.added, *keys)
        return np.lexsort(keys)
    # Most facts are single-valued: sort by the integers, and look at values only where those tie.
    primary = (
        rows.e << 32 | rows.a if order is Order.EAVT else rows.a.astype(np.int64) << 32 | rows.e
    )
    positions = np.argsort(primary, kind="stable")
    ordered = primary[positions]
    ties = ordered[1:] == ordered[:-1]
    if not ties.any():
        return positions
    if rows.v.kind == OBJECT:
        return _break_ties(rows, positions, ties)
    keys = (rows.t, rows.v.ranks(), primary)
    if rows.added is not None:
        keys = (rows.added, *keys)
    return np.lexsort(keys)


def _tail_key(rows: Rows, i: int) -> tuple[Any, ...]:
    added = True if rows.added is None else bool(rows.added[i])
    return (sort_key(rows.v.value(i)), int(rows.t[i]), added)


def _break_ties(rows: Rows, positions: I64, ties: Any) -> I64:
    out = positions.copy()
    edges = np.flatnonzero(np.diff(np.concatenate(([False], ties, [False])).astype(np.int8)))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        part = sorted(positions[start : stop + 1].tolist(), key=lambda i: _tail_key(rows, i))
        out[start : stop + 1] = part
    return out


def _by_python(rows: Rows, order: Order) -> I64:
    def key(i: int) -> tuple[Any, ...]:
        value, t, added = _tail_key(rows, i)
        e, a = int(rows.e[i]), int(rows.a[i])
        if order is Order.AVET:
            return (a, value, e, t, added)
        return (e, a, value, t, added) if order is Order.EAVT else (a, e, value, t, added)

    return np.array(sorted(range(len(rows)), key=key), np.int64)


def position_of(rows: Rows, v: Any) -> Any:
    """Return a mask of the rows whose value is ``v``, type included."""
    column = rows.v
    if column.kind == CODED:
        assert column.dictionary is not None
        code = column.dictionary.index.get(v)
        return column.data == code if code is not None else np.zeros(len(rows), np.bool_)
    if column.kind == INT and type(v) is int:
        return column.data == v
    key = typed_key(v)
    return np.fromiter((typed_key(x) == key for x in column.tolist()), np.bool_, len(rows))
