"""What two states differ in, at a cost that follows the difference.

Trees that were made of one another share nodes: only leaves that they do not share are looked at,
and what either memtable holds. That gives attributes of entities that may differ; these are then
read on both sides and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import is_
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Keyword
from datahike_async.index.arrays import uniques
from datahike_async.index.columns import BOOL, I64, INSTANT, INT, Column, Rows
from datahike_async.index.protocol import Order
from datahike_async.index.runs import primary
from datahike_async.looks import walked
from datahike_async.snapshot.ids import TX0
from datahike_async.snapshot.views import View
from datahike_async.values.schema import MERGE_ALSO
from datahike_async.values.types import typed_key

__all__ = ["difference"]

_ATTRIBUTE: Final = (1 << 32) - 1
_PLAIN: Final = frozenset({INT, BOOL, INSTANT})


def difference(
    left: View, right: View, *, transactions: bool = False, names: bool = False
) -> tuple[list[Rows], list[Rows]]:
    """Return the facts that only the one state has, and only the other: by entity and attribute.

    Facts are compared by entity, attribute and value, whenever they were asserted; entities of
    transactions only with ``transactions``, the ``names`` that entities have on other branches only
    with these. Each run is of one attribute. Raises NodeMiss.
    """
    gone: list[Rows] = []
    new: list[Rows] = []
    for ident, entities in _candidates(left, right, transactions=transactions).items():
        if ident is MERGE_ALSO and not names:
            continue
        rows = [_of(view, ident, entities) for view in (left, right)]
        keys = [_keys(side) for side in rows]
        for out, mine, i, j in ((gone, rows[0], 0, 1), (new, rows[1], 1, 0)):
            other = set(keys[j])
            keep = np.fromiter((key not in other for key in keys[i]), np.bool_, len(mine))
            if keep.any():
                out.append(mine.take(keep))
    return gone, new


def _of(view: View, ident: Keyword, entities: I64) -> Rows:
    attr = view.schema.by_key.get(ident)
    return Rows.concat([]) if attr is None else view.of_entities(attr.id, entities)


def _keys(rows: Rows) -> list[Any]:
    return [
        (e, typed_key(v)) for e, v in walked(zip(rows.e.tolist(), rows.v.tolist(), strict=True))
    ]


def _candidates(left: View, right: View, *, transactions: bool) -> dict[Keyword, I64]:
    """Return for each attribute the entities of which the two may say different things of it."""
    parts: dict[Keyword, list[npt.NDArray[Any]]] = {}
    unequal = _unshared(left, right)
    for view in (left, right):
        attrs = view.schema.attrs
        found = unequal if view.past else np.concatenate([unequal, _fresh(view)])
        if not transactions:
            found = found[found < TX0 << 32]
        order = np.argsort(found & _ATTRIBUTE, kind="stable")
        ids = (found & _ATTRIBUTE)[order]
        entities = (found >> 32)[order]
        edges = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        for low, high in pairwise(edges):
            if high > low and ids[low] < len(attrs):
                parts.setdefault(attrs[int(ids[low])].ident, []).append(entities[low:high])
    return {ident: uniques(np.concatenate(found)) for ident, found in parts.items()}


def _unshared(left: View, right: View) -> I64:
    """Return (entity, attribute) as one number each, where trees or views of the past differ."""
    if left.past or right.past:
        ours, theirs = (view.slice(Order.EAVT) for view in (left, right))
    else:
        trees = left.snapshot.trees, right.snapshot.trees
        ours, theirs = trees[0].current[Order.EAVT].apart(trees[1].current[Order.EAVT])
    renamed = _renamed(left, right)
    found, ours, theirs = _side_by_side(ours, theirs, renamed)
    return np.concatenate([found, _unequal(Rows.concat(ours), Rows.concat(theirs), renamed)])


def _fresh(view: View) -> I64:
    """Return what the memtable speaks of."""
    mem, m = view.snapshot.mem, view.snapshot.m
    entities = np.array(mem.e[:m], np.int64)
    return entities << 32 | np.array(mem.a[:m], np.int64)


def _renamed(left: View, right: View) -> I64:
    """Return the attributes that have one number on both sides and are two."""
    pairs = zip(left.schema.attrs, right.schema.attrs, strict=False)
    return np.array([i for i, (a, b) in enumerate(pairs) if a.ident != b.ident], np.int64)


def _side_by_side(
    left: Sequence[Rows], right: Sequence[Rows], renamed: I64
) -> tuple[I64, list[Rows], list[Rows]]:
    """Compare runs that speak of the same entities and attributes, row by row.

    Return what differs in them, and the runs of either side that have no counterpart.
    """
    starts = {_start(run): i for i, run in enumerate(right)}
    out, alone, met = [np.empty(0, np.int64)], [], set()
    for run in left:
        at = starts.get(_start(run))
        other = None if at is None else right[at]
        if (
            other is None
            or len(run) != len(other)
            or not (run.e == other.e).all()
            or not (run.a == other.a).all()
        ):
            alone.append(run)
            continue
        met.add(at)
        differs = (run.t != other.t) | ~_equal(run.v, other.v)
        if len(renamed):
            differs |= np.isin(run.a, renamed)
        if differs.any():
            out.append(primary(run, Order.EAVT)[differs])
    return np.concatenate(out), alone, [run for i, run in enumerate(right) if i not in met]


def _start(run: Rows) -> tuple[int, int]:
    return int(run.e[0]), int(run.a[0])


def _unequal(left: Rows, right: Rows, renamed: I64) -> I64:
    """Return (entity, attribute) of sorted rows of which the two sides have different ones."""
    keys = [primary(rows, Order.EAVT) for rows in (left, right)]
    out: list[I64] = []
    counted = [np.unique(found, return_counts=True) for found in keys]
    both, at, there = np.intersect1d(
        counted[0][0], counted[1][0], assume_unique=True, return_indices=True
    )
    same = counted[0][1][at] == counted[1][1][there]
    if len(renamed):
        same &= ~np.isin(both & _ATTRIBUTE, renamed)
    same_keys = both[same]
    for found, _ in counted:
        out.append(found[~np.isin(found, same_keys, assume_unique=True)])
    # What is left has as many rows of each on both sides, in the same order.
    a, b = (
        rows.take(np.isin(found, same_keys))
        for rows, found in zip((left, right), keys, strict=True)
    )
    differs = a.t != b.t
    differs |= ~_equal(a.v, b.v)
    out.append(primary(a, Order.EAVT)[differs])
    return uniques(np.concatenate(out))


def _equal(left: Column, right: Column) -> npt.NDArray[np.bool_]:
    """Return which values are surely equal: what these are not is looked at again."""
    if left.kind == right.kind and left.kind in _PLAIN:
        return np.asarray(left.data == right.data)
    ours, theirs = left.tolist(), right.tolist()
    same = np.ones(len(ours), np.bool_)
    same[_unequal_at(ours, theirs)] = False
    kinds, others = list(map(type, ours)), list(map(type, theirs))
    if kinds != others:
        same &= np.fromiter(map(is_, kinds, others), np.bool_, len(kinds))
    if tuple in kinds:
        # Equal ones may hold 1 and True.
        for i in np.flatnonzero(same).tolist():
            same[i] = kinds[i] is not tuple or typed_key(ours[i]) == typed_key(theirs[i])
    return same


def _unequal_at(left: list[Any], right: list[Any]) -> list[int]:
    """Return where two lists differ, which they do in few places: halves that are equal are not."""
    out: list[int] = []
    waiting = [(0, len(left))]
    while waiting:
        low, high = waiting.pop()
        if left[low:high] == right[low:high]:
            continue
        if high - low == 1:
            out.append(low)
            continue
        middle = (low + high) // 2
        waiting += [(low, middle), (middle, high)]
    return out
