"""Merging sorted runs into a tree: vectorised, copying only what is touched.

First a batch is split at the keys of the branches and handed down, which reads nodes and changes
nothing, so that all missing nodes are known before any work is done. Then neighbouring leaves that
got a part are put together, merged with their parts as one run and cut anew, and the slots of the
branches above are put together from the results.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from datahike_async.index.columns import I64, INT, Rows
from datahike_async.index.persistent_set.node import (
    Branch,
    Key,
    Leaf,
    Node,
    first_key,
    row_key,
    value_cuts,
)
from datahike_async.index.protocol import Order
from datahike_async.index.runs import changed, is_text, primary
from datahike_async.index.source import Address
from datahike_async.looks import tally

__all__ = ["Merge", "Part", "Slot", "merge_into", "slots_of"]

_Child: TypeAlias = Callable[[Branch, int, bool], Node | None]

# Transactions are below this, so (e, a, v, _ANY_T) is past every key of that fact.
_ANY_T: Final = 2**63


class Slot(NamedTuple):
    """A child of a branch that is being made."""

    key: Key
    size: int  # rows below
    node: Node | None
    address: Address | None


class Part(NamedTuple):
    """What a batch has for one node; ``below`` by slot, for branches."""

    node: Node
    adds: list[Rows]
    removes: list[Rows]
    below: Mapping[int, Part]


class Merge:
    """One merge: the settings that every level needs.

    ``child(branch, slot, needed)`` returns a child node, or None where it is not resident; if it is
    needed, its address is then noted.
    """

    def __init__(self, order: Order, temporal: bool, leaf: int, branch: int, child: _Child) -> None:
        self.order = order
        self.temporal = temporal
        self.leaf = leaf
        self.branch = branch
        self.child = child

    # -- splitting -----------------------------------------------------------------------------

    def part(self, node: Node, adds: list[Rows], removes: list[Rows]) -> Part:
        """Return what the batch has for ``node`` and each node below; notes missing nodes."""
        below: dict[int, Part] = {}
        if isinstance(node, Branch):
            add_parts, remove_parts = self.split(adds, node.keys), self.split(removes, node.keys)
            for slot in sorted(add_parts.keys() | remove_parts.keys()):
                child = self.child(node, slot, True)
                tally(1)
                if child is not None:
                    below[slot] = self.part(
                        child, add_parts.get(slot, []), remove_parts.get(slot, [])
                    )
        return Part(node, adds, removes, below)

    def split(self, runs: list[Rows], keys: list[Key]) -> dict[int, list[Rows]]:
        """Return child slot → the parts of ``runs`` that belong into it."""
        parts: dict[int, list[Rows]] = {}
        for run in runs:
            for slot, start, stop in self.edges(run, keys):
                parts.setdefault(slot, []).append(run.slice(start, stop))
        return parts

    def edges(self, run: Rows, keys: list[Key]) -> Iterator[tuple[int, int, int]]:
        """Yield (slot, start, stop): rows [start, stop) of ``run`` belong into that child."""
        start, count = 0, len(run)
        known = None
        if count > 16:
            known = self.cuts(run, keys)
        while start < count:
            slot = max(bisect_right(keys, self.key(run, start)) - 1, 0)
            stop = count
            if slot + 1 < len(keys):
                # Rows of one child are usually few and near.
                low = start + 1 if known is None else max(int(known[slot + 1]), start + 1)
                stop = self.first_from(run, low, keys[slot + 1])
            yield slot, start, stop
            start = stop

    def cuts(self, run: Rows, keys: list[Key]) -> I64 | None:
        """Return for each key a row of a run from which on to look for it; None for the first."""
        if self.order is not Order.AVET:
            return primary(run, self.order).searchsorted([k[0] << 32 | k[1] for k in keys])
        found = None
        if run.v.kind == INT:
            found = value_cuts(run.v.data, int(run.a[0]), keys)
        elif is_text(run.v):
            found = value_cuts(run.v.tolist(), int(run.a[0]), keys)
        return None if found is None else found[0]

    def key(self, run: Rows, i: int) -> Key:
        """Return the key by which a row finds its leaf.

        A current fact is one row whatever its transaction, and must meet the row that is there.
        """
        key = row_key(run, i, self.order)
        return key if self.temporal else (*key[:3], _ANY_T)

    def first_from(self, run: Rows, low: int, key: Key) -> int:
        """Return the first row from ``low`` whose key is not below ``key``: gallop, bisect."""
        count, step = len(run), 1
        high = low
        while high < count and self.key(run, high) < key:
            low, high, step = high + 1, high + step, step * 2
        high = min(high, count)
        return bisect_left(range(high), key, low, high, key=lambda i: self.key(run, i))

    # -- putting together ----------------------------------------------------------------------

    def merged(self, part: Part, old: Slot) -> list[Slot]:
        """Return the slots that replace ``old``, of its own level: itself if nothing changes."""
        node = part.node
        if isinstance(node, Leaf):
            return self.leaves([old], part.adds, part.removes)
        before = slots_of(node)
        slots: list[Slot] = []
        waiting: list[Slot] = []
        adds: list[Rows] = []
        removes: list[Rows] = []
        last = -1
        for i, below in part.below.items():
            if waiting and i != last + 1:
                slots += self.leaves(waiting, adds, removes)
                waiting, adds, removes = [], [], []
            slots += before[last + 1 : i]
            last = i
            if isinstance(below.node, Leaf):
                # Neighbours are merged as one run: an operation on columns costs the same for
                # one row and for a thousand.
                waiting.append(before[i]._replace(node=below.node))
                adds += below.adds
                removes += below.removes
            else:
                slots += self.merged(below, before[i]._replace(node=below.node))
        if waiting:
            slots += self.leaves(waiting, adds, removes)
        slots += before[last + 1 :]
        return self.rebuilt(part, slots, before, old)

    def rebuilt(self, part: Part, slots: list[Slot], before: list[Slot], old: Slot) -> list[Slot]:
        """Return what replaces a branch that had the children ``before``, and has ``slots``."""
        node = part.node
        assert isinstance(node, Branch)
        if len(slots) == len(before) and all(map(_same, slots, before)):
            return [old]
        return self.branches(self.level_out(slots, before, node), node.level)

    def leaves(self, old: list[Slot], adds: list[Rows], removes: list[Rows]) -> list[Slot]:
        """Return the leaves that replace neighbouring ones; what stays the same stays."""
        if self.order is Order.EAVT:
            return self.group(old, adds, removes)
        groups: dict[int, tuple[list[Slot], list[Rows], list[Rows]]] = {}
        for slot in old:
            assert isinstance(slot.node, Leaf)
            groups.setdefault(int(slot.node.rows.a[0]), ([], [], []))[0].append(slot)
        for run in adds:
            groups.setdefault(int(run.a[0]), ([], [], []))[1].append(run)
        for run in removes:
            groups.setdefault(int(run.a[0]), ([], [], []))[2].append(run)
        return [slot for a in sorted(groups) for slot in self.group(*groups[a])]

    def group(self, old: list[Slot], adds: list[Rows], removes: list[Rows]) -> list[Slot]:
        """Return the leaves of one attribute, or of EAVT, merged as one run."""
        rows = Rows.concat([slot.node.rows for slot in old if isinstance(slot.node, Leaf)])
        tally(len(rows))
        after = changed(rows, adds, removes, self.order, self.temporal)
        return old if after is rows else self.cut(after)

    def cut(self, rows: Rows) -> list[Slot]:
        """Return ``rows`` as leaves of about equal size, none far above the limit."""
        count = len(rows)
        if not count:
            return []
        pieces = 1 if count <= self.leaf * 3 // 2 else -(-count // self.leaf)
        edges = [count * i // pieces for i in range(pieces + 1)]
        if self.temporal:
            edges = self.between_keys(rows, edges)
        out = []
        for i, j in pairwise(edges):
            tally(1)
            piece = rows.slice(i, j) if pieces > 1 else rows
            out.append(Slot(first_key(piece, self.order), j - i, Leaf(piece), None))
        return out

    def between_keys(self, rows: Rows, edges: list[int]) -> list[int]:
        """Return edges that part no rows of one key.

        A key leads to one leaf, and does not tell intervals apart that began with one transaction.
        """
        out = [0]
        for edge in edges[1:]:
            while edge < len(rows) and self.key(rows, edge - 1) == self.key(rows, edge):
                edge += 1
            if edge > out[-1]:
                out.append(edge)
        return out

    # -- branches ------------------------------------------------------------------------------

    def small(self, slots: list[Slot]) -> list[int]:
        """Return the slots of nodes that are less than a fourth full."""
        out = []
        for i, (_, size, node, _) in enumerate(slots):
            if isinstance(node, Branch):
                if len(node.keys) < self.branch // 4:
                    out.append(i)
            elif size < self.leaf // 4:
                out.append(i)
        return out

    def level_out(self, slots: list[Slot], before: list[Slot], node: Branch) -> list[Slot]:
        """Join nodes that have become too small with a neighbour that is at hand."""
        small = [i for i in self.small(slots) if slots[i].address is None]
        if not small:
            return slots
        where = {id(slot.key): i for i, slot in enumerate(before)}
        for j in {j for i in small for j in (i - 1, i + 1)}:
            if 0 <= j < len(slots) and slots[j].node is None:
                found = self.child(node, where[id(slots[j].key)], False)
                slots[j] = slots[j]._replace(node=found)
        out: list[Slot] = []
        join = False
        for i, slot in enumerate(slots):
            is_small = i in small
            joined = self.joined(out[-1].node, slot.node) if out and (join or is_small) else None
            join = is_small and joined is None
            out[-1 if joined else len(out) :] = joined or [slot]
        return out

    def joined(self, left: Node | None, right: Node | None) -> list[Slot] | None:
        """Return what two neighbours become together, None where they have to stay apart."""
        if isinstance(left, Leaf) and isinstance(right, Leaf):
            if self.order is not Order.EAVT and left.rows.a[0] != right.rows.a[0]:
                return None
            return self.cut(Rows.concat([left.rows, right.rows]))
        if isinstance(left, Branch) and isinstance(right, Branch):
            return self.branches(slots_of(left) + slots_of(right), left.level)
        return None

    def is_spare(self, root: Branch) -> bool:
        """Whether a root may give way to its child."""
        return len(root.keys) == 1

    def branches(self, slots: list[Slot], level: int) -> list[Slot]:
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
                # What is stored is held by the source's cache, within its bound.
                [s.node if s.address is None else None for s in part],
                [s.address for s in part],
            )
            out.append(Slot(part[0].key, sum(made.counts), made, None))
        return out


def slots_of(branch: Branch) -> list[Slot]:
    """Return the children of a branch."""
    columns = (branch.keys, branch.counts, branch.nodes, branch.addresses)
    return [Slot(*slot) for slot in zip(*columns, strict=True)]


def _same(after: Slot, before: Slot) -> bool:
    return after.address == before.address if before.address else after.node is before.node


def merge_into(
    merge: Merge,
    root: Node | None,
    adds: Sequence[Rows],
    removes: Sequence[Rows],
    missing: Sequence[Address],
    count: int,
) -> tuple[Node | None, int] | None:
    """Return the new root and the number of rows below it, None where nodes are ``missing``.

    That is where the merge notes what it needs.
    """
    if root is None:
        slots = merge.leaves([], list(adds), list(removes))
    else:
        part = merge.part(root, list(adds), list(removes))
        if missing:
            return None
        key = root.keys[0] if isinstance(root, Branch) else first_key(root.rows, merge.order)
        slots = merge.merged(part, Slot(key, count, root, None))
    level = root.level + 1 if isinstance(root, Branch) else 1
    while len(slots) > 1:
        slots = merge.branches(slots, level)
        level += 1
    if not slots:
        return None, 0
    node, count = slots[0].node, slots[0].size
    while isinstance(node, Branch) and merge.is_spare(node):
        only = merge.child(node, 0, False)
        if only is None:
            break
        node = only
    return node, count
