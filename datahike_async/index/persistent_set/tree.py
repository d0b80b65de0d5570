"""persistent-set: the default index, a copy-on-write B+-tree with columnar leaves.

All leaves lie at one depth. A change copies the nodes from the touched leaves to the root and
shares all others, so every older tree stays what it was. Children are held by node (not yet
stored), by address (stored, resident only while the source's cache has them), or both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from datahike_async.index.columns import I64, Column, Rows
from datahike_async.index.persistent_set.apart import apart
from datahike_async.index.persistent_set.lookup import Lookup
from datahike_async.index.persistent_set.merge import Merge, merge_into
from datahike_async.index.persistent_set.node import (
    TOP,
    Branch,
    Key,
    Leaf,
    Node,
    encode,
    locate,
    take_rows,
    top,
)
from datahike_async.index.persistent_set.scan import Scan
from datahike_async.index.protocol import Bound, Child, Index, Order
from datahike_async.index.source import Address, NodeMiss, NodeSink, NodeSource

__all__ = ["PersistentSet"]

_BRANCH: Final = 256


class PersistentSet:
    """One sorted index. ``root`` is None when it is empty."""

    __slots__ = ("_address", "_count", "_leaf", "_root", "_source", "order", "temporal")

    def __init__(
        self,
        order: Order,
        temporal: bool,
        leaf: int,
        root: Node | None,
        count: int,
        address: Address | None = None,
        source: NodeSource | None = None,
    ) -> None:
        self.order = order
        self.temporal = temporal
        self._leaf = leaf
        self._root = root
        self._count = count
        self._address = address
        self._source = source

    def _with(
        self,
        root: Node | None,
        count: int,
        address: Address | None = None,
        source: NodeSource | None = None,
    ) -> Self:
        """Return a set of the same settings over other nodes."""
        return type(self)(self.order, self.temporal, self._leaf, root, count, address, source)

    def _settings(self) -> dict[str, Any]:
        """Return what its root record says beside where the root lies and how much there is."""
        return {"leaf": self._leaf}

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.order.value} of {self._count}>"

    # -- nodes ---------------------------------------------------------------------------------

    def _top_node(self) -> Node | None:
        if self._root is not None or self._address is None:
            return self._root
        assert self._source is not None
        node: Node | None = self._source.get(self._address)
        if node is None:
            raise NodeMiss(self._source, [self._address])
        self._root = node
        return node

    def _child(self, branch: Branch, slot: int, missing: list[Address]) -> Node | None:
        node = branch.nodes[slot]
        if node is None:
            address = branch.addresses[slot]
            assert address is not None
            assert self._source is not None
            node = self._source.get(address)
            if node is None:
                missing.append(address)
        return node

    def _levels(self, lower: Bound, upper: Bound, most: int = 0) -> list[list[Node]]:
        """Return the nodes that may hold keys between the bounds, from the root to the leaves.

        Or ``most`` levels of them. Misses level by level; ends above where no child is between the
        bounds.
        """
        node = self._top_node()
        if node is None:
            return []
        low, high = top(lower, self.order), top(upper, self.order)
        levels: list[list[Node]] = [[node]]
        while isinstance(levels[-1][0], Branch) and len(levels) != most:
            level = levels[-1]
            below: list[Node] = []
            missing: list[Address] = []
            last = len(level) - 1
            for i, branch in enumerate(level):
                assert isinstance(branch, Branch)
                start = branch.start(low) if i == 0 else 0
                stop = branch.stop(high) if i == last else len(branch.keys)
                for slot in range(start, stop):
                    child = self._child(branch, slot, missing)
                    if child is not None:
                        below.append(child)
            if missing:
                assert self._source is not None
                raise NodeMiss(self._source, missing)
            if not below:
                break
            levels.append(below)
        return levels

    def _point(self, bound: Bound) -> tuple[Leaf, int, int] | None:
        """Return where all rows under ``bound`` lie, None if that is not in one leaf.

        What a transaction and a lookup ask again and again: two bisections and no more.
        """
        node = self._root if self._root is not None else self._top_node()
        low = top(bound, self.order)
        high = (*low, TOP)
        while isinstance(node, Branch):
            keys = node.keys
            slot = bisect_left(keys, low)
            if slot == 0 or (slot < len(keys) and keys[slot] < high):
                return None
            child = node.nodes[slot - 1]
            if child is None:
                missing: list[Address] = []
                child = self._child(node, slot - 1, missing)
                if child is None:
                    assert self._source is not None
                    raise NodeMiss(self._source, missing)
            node = child
        return None if node is None else (node, *locate(node, bound, self.order))

    # -- reading -------------------------------------------------------------------------------

    def slice(self, lower: Bound = (), upper: Bound = ()) -> list[Rows]:
        """Return the rows between two bounds as runs; see :class:`Index`."""
        if lower and are_one(lower, upper, self.order):
            found = self._point(lower)
            if found is not None:
                leaf, lo, hi = found
                return [take_rows(leaf.rows, lo, hi)] if lo < hi else []
        levels = self._levels(lower, upper)
        out = self._between(levels[-1], lower, upper) if levels else []
        if self.order is Order.EAVT or len(out) < 2:
            return out
        return by_attribute(out)

    def _between(self, nodes: list[Node], lower: Bound, upper: Bound) -> list[Rows]:
        """Return the rows between two bounds of all leaves that may have some."""
        leaves = [node for node in nodes if isinstance(node, Leaf)]
        out = []
        last = len(leaves) - 1
        for i, leaf in enumerate(leaves):
            rows = leaf.rows
            lo = locate(leaf, lower, self.order)[0] if i == 0 and lower else 0
            hi = locate(leaf, upper, self.order)[1] if i == last and upper else len(rows)
            if i == 0 and lo >= len(rows) and last > 0:
                continue
            # The bounds may both lie in a later leaf than the first one looked at.
            if lo < hi:
                out.append(take_rows(rows, lo, hi))
        return out

    def chunks(
        self, lower: Bound = (), upper: Bound = (), *, reverse: bool = False
    ) -> Iterator[Rows]:
        """Iterate over the rows between two bounds leaf by leaf; see :class:`Index`."""
        low, high = top(lower, self.order), top(upper, self.order)
        scan = Scan(self._child, self._source, low, high, self._leaf, reverse=reverse)
        root = self._top_node()
        if root is not None:
            yield from self._walked(root, scan, lower, upper, reverse)

    # Nothing here defines a function that calls itself: that is a circle, which holds on to all
    # nodes that were looked at until the garbage collector comes.

    def _walked(
        self, node: Node, scan: Scan, lower: Bound, upper: Bound, reverse: bool
    ) -> Iterator[Rows]:
        if isinstance(node, Leaf):
            rows = node.rows
            lo = locate(node, lower, self.order)[0] if lower else 0
            hi = locate(node, upper, self.order)[1] if upper else len(rows)
            if lo < hi:
                part = take_rows(rows, lo, hi)
                yield part.backwards() if reverse else part
            return
        for _, child in scan.children(node):
            yield from self._walked(child, scan, lower, upper, reverse)

    def leaves(self, start: int, rows: int) -> list[Rows]:
        """Return the leaves from position ``start`` on, which one begins at, of about ``rows``.

        Raises NodeMiss for all that are missing of a level.
        """
        node = self._top_node()
        if node is None:
            return []
        stop = start + rows
        level: list[tuple[int, Node]] = [(0, node)]
        while isinstance(level[0][1], Branch):
            below: list[tuple[int, Node]] = []
            missing: list[Address] = []
            for at, branch in level:
                assert isinstance(branch, Branch)
                for slot, count in enumerate(branch.counts):
                    if at < stop and start < at + count:
                        child = self._child(branch, slot, missing)
                        if child is not None:
                            below.append((at, child))
                    at += count
            if missing:
                assert self._source is not None
                raise NodeMiss(self._source, missing)
            if not below:
                return []
            level = below
        return [leaf.rows for at, leaf in level if at >= start and isinstance(leaf, Leaf)]

    def count_slice(self, lower: Bound = (), upper: Bound = ()) -> int:
        """Count the rows between two bounds, reading only nodes at its edges."""
        if not lower and not upper:
            return self._count
        if lower and are_one(lower, upper, self.order):
            found = self._point(lower)
            if found is not None:
                return found[2] - found[1]
        root = self._top_node()
        if root is None:
            return 0
        missing: list[Address] = []
        total = self._counted(root, lower, upper, missing)
        if missing:
            assert self._source is not None
            raise NodeMiss(self._source, missing)
        return total

    def estimate(self, lower: Bound = (), upper: Bound = ()) -> tuple[int, bool]:
        """Return about how many rows lie between two bounds; see :class:`Index`."""
        try:
            root = self._top_node()
        except NodeMiss:
            return self._count if not lower and not upper else self._count // 2, False
        if root is None:
            return 0, True
        missing: list[Address] = []
        return self._counted(root, lower, upper, missing), not missing

    def _counted(self, root: Node, lower: Bound, upper: Bound, missing: list[Address]) -> int:
        """Count the rows between two bounds; of a node that is missing one half is thought to be.

        Only nodes in which a bound lies are looked at: of all others their parent knows the rows.
        """
        if isinstance(root, Leaf):
            lo = locate(root, lower, self.order)[0] if lower else 0
            hi = locate(root, upper, self.order)[1] if upper else len(root.rows)
            return max(hi - lo, 0)
        start = root.start(top(lower, self.order)) if lower else 0
        stop = root.stop(top(upper, self.order)) if upper else len(root.keys)
        total = root.surplus(lower, upper, self.order)
        if start >= stop:
            return total
        total += sum(root.counts[start + 1 : stop - 1])
        for slot in {start, stop - 1}:
            left, right = lower if slot == start else (), upper if slot == stop - 1 else ()
            if not left and not right:
                total += root.counts[slot]
                continue
            child = self._child(root, slot, missing)
            if child is None:
                total += (root.counts[slot] + 1) // 2
            else:
                total += self._counted(child, left, right, missing)
        return total

    def cuts(self, lower: Bound, upper: Bound, rows: int) -> list[int]:
        """Return entities that part one attribute into runs of rows; see :class:`Index`."""
        low, high = top(lower, self.order), top(upper, self.order)
        missing: list[Address] = []
        out: list[int] = []
        root = self._top_node()
        if isinstance(root, Branch):
            self._cut(root, low, high, rows, out, 0, missing)
        if missing:
            assert self._source is not None
            raise NodeMiss(self._source, missing)
        return out

    def _cut(
        self,
        branch: Branch,
        low: Key,
        high: Key,
        rows: int,
        out: list[int],
        since: int,
        missing: list[Address],
    ) -> int:
        """Add the cuts of a branch; ``since`` rows lie before it, return how many at its end."""
        start = branch.start(low)
        stop = branch.stop(high)
        for slot in range(start, stop):
            count = branch.counts[slot]
            if branch.level > 1 and since + count > rows:
                child = self._child(branch, slot, missing)
                if isinstance(child, Branch):
                    left, right = low if slot == start else (), high if slot == stop - 1 else ()
                    since = self._cut(child, left, right, rows, out, since, missing)
                    continue
            if since and since + count > rows:
                entity = branch.keys[slot][1]
                # One with rows in many leaves is cut off once.
                if not out or out[-1] < entity:
                    out.append(entity)
                    since = 0
            since += count
        return since

    def lookup_many(self, bounds: Sequence[Column]) -> tuple[Rows, I64]:
        """Return the rows under each of many bounds; see :class:`Index`."""
        missing: list[Address] = []
        lookup = Lookup(bounds, self.order, lambda branch, slot: self._child(branch, slot, missing))
        root = self._top_node()
        if root is not None:
            lookup.walk(root, 0, len(bounds[0]))
        if missing:
            assert self._source is not None
            raise NodeMiss(self._source, missing)
        return lookup.found()

    # -- changing ------------------------------------------------------------------------------

    def apart(self, other: Index) -> tuple[list[Rows], list[Rows]]:
        """Return the rows of the leaves that only one of two sets has; see :class:`Index`."""
        if not isinstance(other, PersistentSet) or other._source is not self._source:
            return self.slice(), other.slice()
        found = self._own_nodes(other)
        left, right = ([node.rows for node in own if isinstance(node, Leaf)] for own in found)
        return left, right

    def _own_nodes(self, other: PersistentSet) -> tuple[list[Node], list[Node]]:
        """Return the nodes that only one of two sets has, which have one source."""
        missing: list[Address] = []
        roots = []
        for each in (self, other):
            node = each._top_node()
            roots.append(None if node is None else (each._address or id(node), node))
        found = apart(
            roots[0],
            roots[1],
            lambda branch, slot: self._child(branch, slot, missing),
            lambda branch, slot: other._child(branch, slot, missing),
        )
        if missing:
            assert self._source is not None
            raise NodeMiss(self._source, missing)
        return found

    def erased(self, rows: Sequence[Rows], past: Sequence[Rows] = ()) -> Self:
        """Return a set without ``rows``; see :class:`Index`."""
        return self.merge([], rows)

    def merge(self, adds: Sequence[Rows], removes: Sequence[Rows], *, sure: bool = False) -> Self:
        """Return a set without ``removes`` and with ``adds``; see :class:`Index`."""
        adds = [run for run in adds if len(run)]
        removes = [run for run in removes if len(run)]
        if not adds and not removes:
            return self
        missing: list[Address] = []

        def child(branch: Branch, slot: int, needed: bool) -> Node | None:
            return self._child(branch, slot, missing if needed else [])

        made = Merge(self.order, self.temporal, self._leaf, _BRANCH, child)
        return self._merged(made, adds, removes, missing)

    def _merged(
        self, merge: Merge, adds: list[Rows], removes: list[Rows], missing: list[Address]
    ) -> Self:
        before = self._top_node()
        merged = merge_into(merge, before, adds, removes, missing, self._count)
        if merged is None:
            assert self._source is not None
            raise NodeMiss(self._source, missing)
        root, count = merged
        return self if root is before else self._with(root, count, None, self._source)

    # -- storing -------------------------------------------------------------------------------

    def flush(self, sink: NodeSink) -> tuple[Self, Mapping[str, Any]]:
        """Write unwritten nodes, children first; return the clean set and its root record."""
        address = self._address
        if address is None and self._root is not None:
            address = self._store(self._root, sink)
        root = None if address is None else sink.source.get(address)
        clean = self._with(root, self._count, address, sink.source)
        return clean, clean.record()

    def record(self) -> dict[str, Any]:
        """Return the root record of a set that is stored."""
        return {
            "address": None if self._address is None else self._address.to_data(),
            "count": self._count,
            **self._settings(),
        }

    def _store(self, node: Node, sink: NodeSink) -> Address:
        if isinstance(node, Leaf):
            # The cache counts what a leaf holds, not what it is a part of.
            rows = node.rows.owned()
            leaf = node if rows is node.rows else Leaf(rows)
            return sink.put(encode(leaf), leaf)
        addresses = list(node.addresses)
        for slot, address in enumerate(addresses):
            if address is None:
                below = node.nodes[slot]
                assert below is not None
                addresses[slot] = self._store(below, sink)
        # A new branch: older trees keep their nodes, this one lets go of its children.
        clean = node.over([None] * len(addresses), addresses)
        return sink.put(encode(clean), clean)

    def loosened(self, blobs: Collection[str]) -> Self:
        """Return the same set, with nodes that count as not written; see :class:`Index`."""
        top = self._top_node()
        if top is None:
            return self
        missing: list[Address] = []
        loose = self._loosened(top, self._address, blobs, missing)
        if missing:
            assert self._source is not None
            raise NodeMiss(self._source, missing)
        if loose is None:
            return self
        return self._with(loose, self._count, None, self._source)

    def _loosened(
        self, node: Node, address: Address | None, blobs: Collection[str], missing: list[Address]
    ) -> Node | None:
        """Return a node to be written anew; None where it and all below may stay."""
        moved = address is not None and address.blob in blobs
        if isinstance(node, Leaf):
            return node if moved else None
        nodes, addresses = list(node.nodes), list(node.addresses)
        for slot, at in enumerate(addresses):
            if node.level == 1 and (at is None or at.blob not in blobs):
                continue
            child = self._child(node, slot, missing)
            loose = None if child is None else self._loosened(child, at, blobs, missing)
            if loose is not None:
                nodes[slot], addresses[slot], moved = loose, None, True
        return node.over(nodes, addresses) if moved else None

    @property
    def is_stored(self) -> bool:
        """Whether nothing of it is unwritten."""
        return self._address is not None or not self._count

    @property
    def source(self) -> NodeSource | None:
        """Where its stored nodes come from."""
        return self._source

    def at_depth(self, depth: int, lower: Bound = (), upper: Bound = ()) -> list[Child] | None:
        """Return the stored nodes of a level between two bounds; see :class:`Index`."""
        at = self._address
        if not depth:
            if at is not None:
                return [Child(at, self._count, None, False)]
            return None if self._root is None else []
        root = self._top_node()
        if not isinstance(root, Branch) or depth > root.level:
            return None
        levels = self._levels(lower, upper, depth)
        if len(levels) < depth:
            return None
        low, high = top(lower, self.order), top(upper, self.order)
        out: list[Child] = []
        last = len(levels[-1]) - 1
        for i, branch in enumerate(levels[-1]):
            if isinstance(branch, Leaf):
                break
            start = branch.start(low) if i == 0 else 0
            stop = branch.stop(high) if i == last else len(branch.keys)
            addresses, counts, keys = branch.addresses, branch.counts, branch.keys
            for slot in range(start, stop):
                address = addresses[slot]
                if address is not None:
                    out.append(Child(address, counts[slot], keys[slot], branch.level == 1))
        return out

    def addresses(self) -> Iterator[Address]:
        """Iterate over the addresses of all stored nodes."""
        if self._address is not None:
            yield self._address
        root = self._top_node()
        level = [root] if isinstance(root, Branch) else []
        while level:
            below: list[Branch] = []
            missing: list[Address] = []
            for branch in level:
                yield from (address for address in branch.addresses if address is not None)
                if branch.level > 1:
                    children = (self._child(branch, i, missing) for i in range(len(branch.keys)))
                    below += (child for child in children if isinstance(child, Branch))
            if missing:
                assert self._source is not None
                raise NodeMiss(self._source, missing)
            level = below


def are_one(lower: Bound, upper: Bound, order: Order) -> bool:
    """Whether two bounds are the same, where True, 1 and 1.0 are not."""
    if lower is upper:
        return True
    at = 1 if order is Order.AVET else 2
    if lower != upper or len(lower) <= at:
        return lower == upper
    kind = type(lower[at])
    return kind is type(upper[at]) and kind is not tuple


def by_attribute(runs: list[Rows]) -> list[Rows]:
    """Return ascending runs with those of one attribute joined."""
    groups: list[list[Rows]] = []
    for run in runs:
        if groups and groups[-1][0].a[0] == run.a[0]:
            groups[-1].append(run)
        else:
            groups.append([run])
    return [Rows.concat(group, packed=True) for group in groups]
