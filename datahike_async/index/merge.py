"""Merging sorted runs into a tree: vectorised leaf by leaf, copying only what is touched.

A batch is split at the keys of a branch and handed down; every leaf that gets a part is rebuilt
from its columns and cut anew; the slots of the branches above are put together from the results.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from datahike_async.index.columns import Rows
from datahike_async.index.node import Branch, Key, Leaf, Node, first_key, row_key
from datahike_async.index.protocol import Order
from datahike_async.index.runs import sorted_rows
from datahike_async.index.source import Address
from datahike_async.values.types import typed_key

__all__ = ["merge_into"]

_Child = Callable[[Branch, int], Node | None]


class _Slot(NamedTuple):
    key: Key
    size: int  # rows below
    node: Node | None
    address: Address | None


class _Merge:
    """One merge: the settings that every level needs."""

    def __init__(self, order: Order, temporal: bool, leaf: int, branch: int, child: _Child) -> None:
        self.order = order
        self.temporal = temporal
        self.leaf = leaf
        self.branch = branch
        self.child = child

    # -- going down ----------------------------------------------------------------------------

    def node(self, node: Node, adds: list[Rows], removes: list[Rows]) -> list[_Slot]:
        """Return the slots that replace ``node``, of its own level."""
        if isinstance(node, Leaf):
            return self.rebuilt(node.rows, adds, removes)
        add_parts = self.split(adds, node.keys)
        remove_parts = self.split(removes, node.keys)
        slots: list[_Slot] = []
        touched: list[int] = []
        for i, (key, count) in enumerate(zip(node.keys, node.counts, strict=True)):
            if i not in add_parts and i not in remove_parts:
                slots.append(_Slot(key, count, node.nodes[i], node.addresses[i]))
                continue
            below = self.child(node, i)
            if below is None:
                continue  # noted as missing: the whole merge is repeated after the fetch
            touched.append(len(slots))
            slots += self.node(below, add_parts.get(i, []), remove_parts.get(i, []))
        slots = self.coalesced(slots, node.level)
        return self.branches(slots, node.level)

    def split(self, runs: list[Rows], keys: list[Key]) -> dict[int, list[Rows]]:
        """Return child slot → the parts of ``runs`` that belong into it."""
        parts: dict[int, list[Rows]] = {}
        for run in runs:
            start, count = 0, len(run)
            while start < count:
                slot = max(bisect_right(keys, row_key(run, start, self.order)) - 1, 0)
                stop = (
                    self.first_from(run, start, keys[slot + 1]) if slot + 1 < len(keys) else count
                )
                parts.setdefault(slot, []).append(run.slice(start, stop))
                start = stop
        return parts

    def first_from(self, run: Rows, start: int, key: Key) -> int:
        """Return the first row after ``start`` whose key is not below ``key``."""
        low, high = start + 1, len(run)
        # Rows of one child are usually few and near: gallop, then bisect.
        step = 8
        while low + step < high and row_key(run, low + step, self.order) < key:
            low += step
            step *= 2
        high = min(low + step, high)
        while low < high:
            middle = (low + high) // 2
            if row_key(run, middle, self.order) < key:
                low = middle + 1
            else:
                high = middle
        return low

    # -- leaves --------------------------------------------------------------------------------

    def rebuilt(self, rows: Rows | None, adds: list[Rows], removes: list[Rows]) -> list[_Slot]:
        """Return the leaves that hold ``rows`` without ``removes`` and with ``adds``."""
        by_group: dict[int, list[Rows]] = {}
        single = self.order is Order.EAVT
        if rows is not None and len(rows):
            by_group[0 if single else int(rows.a[0])] = [rows]
        for run in adds:
            by_group.setdefault(0 if single else int(run.a[0]), []).append(run)
        slots: list[_Slot] = []
        for group in sorted(by_group):
            runs = by_group[group]
            gone = [r for r in removes if single or int(r.a[0]) == group]
            old = runs[0] if rows is not None and runs[0] is rows else None
            fresh = runs[1:] if old is not None else runs
            slots += self.cut(self.combined(old, fresh, gone))
        return slots

    def combined(self, old: Rows | None, adds: list[Rows], removes: list[Rows]) -> Rows:
        if old is not None and (adds or removes):
            old = self.without(old, [*removes, *adds])
        parts = [run for run in ([old] if old is not None else []) + adds if len(run)]
        if len(parts) > 1:
            return sorted_rows(Rows.concat(parts), self.order)
        return parts[0] if parts else Rows.concat([])

    def without(self, rows: Rows, gone: list[Rows]) -> Rows:
        """Return ``rows`` without those that a run of ``gone`` names."""
        entities = gone[0].e if len(gone) == 1 else np.concatenate([g.e for g in gone])
        candidates = np.flatnonzero(np.isin(rows.e, entities))
        if not len(candidates):
            return rows
        keys = set()
        present = set(rows.e[candidates].tolist())
        for run in gone:
            for i in np.flatnonzero(np.isin(run.e, rows.e)).tolist():
                if int(run.e[i]) in present:
                    keys.add(self.identity(run, i))
        drop = [i for i in candidates.tolist() if self.identity(rows, i) in keys]
        if not drop:
            return rows
        keep = np.ones(len(rows), np.bool_)
        keep[drop] = False
        return rows.take(keep)

    def identity(self, rows: Rows, i: int) -> tuple[Any, ...]:
        key = (int(rows.e[i]), int(rows.a[i]), typed_key(rows.v.value(i)))
        return (*key, int(rows.t[i])) if self.temporal else key

    def cut(self, rows: Rows) -> list[_Slot]:
        """Return ``rows`` as leaves of about equal size, none above the limit."""
        count = len(rows)
        if not count:
            return []
        limit = self.leaf
        if count <= limit * 3 // 2:
            return [_Slot(first_key(rows, self.order), count, Leaf(rows), None)]
        pieces = -(-count // limit)
        edges = [count * i // pieces for i in range(pieces + 1)]
        out = []
        for i, j in pairwise(edges):
            part = rows.slice(i, j)
            out.append(_Slot(first_key(part, self.order), j - i, Leaf(part), None))
        return out

    # -- branches ------------------------------------------------------------------------------

    def coalesced(self, slots: list[_Slot], level: int) -> list[_Slot]:
        """Join neighbours that have become too small, where both are at hand."""
        if level == 1:
            small = self.leaf // 4
        else:
            small = 0
        out: list[_Slot] = []
        for slot in slots:
            last = out[-1] if out else None
            if (
                last is not None
                and small
                and (last.size < small or slot.size < small)
                and last.size + slot.size <= self.leaf
                and isinstance(last.node, Leaf)
                and isinstance(slot.node, Leaf)
                and (last.address is None or slot.address is None)
                and (self.order is Order.EAVT or last.node.rows.a[0] == slot.node.rows.a[0])
            ):
                joined = Rows.concat([last.node.rows, slot.node.rows])
                out[-1] = _Slot(last.key, len(joined), Leaf(joined), None)
            else:
                out.append(slot)
        return out

    def branches(self, slots: list[_Slot], level: int) -> list[_Slot]:
        """Return branches of ``level`` over ``slots``, split evenly where there are too many."""
        if not slots:
            return []
        pieces = -(-len(slots) // self.branch)
        edges = [len(slots) * i // pieces for i in range(pieces + 1)]
        out = []
        for i, j in pairwise(edges):
            part = slots[i:j]
            made = Branch(
                level,
                [s.key for s in part],
                [s.size for s in part],
                [s.node for s in part],
                [s.address for s in part],
            )
            out.append(_Slot(part[0].key, sum(made.counts), made, None))
        return out


def merge_into(
    root: Node | None,
    adds: Sequence[Rows],
    removes: Sequence[Rows],
    order: Order,
    temporal: bool,
    leaf: int,
    branch: int,
    child: _Child,
) -> tuple[Node | None, int]:
    """Return the new root and the number of rows below it.

    ``child`` returns a child node, or None after noting its address as missing; the result is
    then of no use.
    """
    merge = _Merge(order, temporal, leaf, branch, child)
    if root is None:
        slots = merge.rebuilt(None, list(adds), list(removes))
    else:
        slots = merge.node(root, list(adds), list(removes))
    level = root.level + 1 if isinstance(root, Branch) else 1
    while len(slots) > 1:
        slots = merge.branches(slots, level)
        level += 1
    if not slots:
        return None, 0
    node: Any = slots[0].node
    count = slots[0].size
    while isinstance(node, Branch) and len(node.keys) == 1 and node.nodes[0] is not None:
        node = node.nodes[0]
    return node, count
