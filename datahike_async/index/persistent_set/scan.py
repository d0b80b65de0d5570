"""Scans: down a tree and along its leaves, asking for more of them ahead the further they get.

A scan that misses a leaf also names those that come after it: as many as it has passed. So one
that goes through all of N leaves waits about log N times, as long as what it asks for ahead is not
large; one that ends at the first leaf has read that alone. Which leaves it passed it counts itself,
for after a miss it begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NoReturn, TypeAlias

from datahike_async.index.persistent_set.node import Branch, Key, Leaf, Node
from datahike_async.index.source import Address, NodeMiss, NodeSource

__all__ = ["AHEAD", "AHEAD_BYTES", "Scan"]

AHEAD: Final = 1024
AHEAD_BYTES: Final = 4 * 1024 * 1024
"""Leaves that are read ahead at most, and bytes of nodes as they are stored."""

_Child: TypeAlias = Callable[[Branch, int, list[Address]], Node | None]
"""Returns the child at a slot; of one that is not resident the address goes into the list."""


class Scan:
    """One scan between two bounds, ascending or with ``reverse`` descending.

    ``leaf`` is about how many rows a leaf has; ``least`` how many children of a branch are gone to,
    though they lie outside the bounds.
    """

    __slots__ = (
        "_bytes",
        "_child",
        "_high",
        "_leaf",
        "_least",
        "_low",
        "_on_the_way",
        "_passed",
        "_reverse",
        "_source",
        "_wanted",
    )

    def __init__(
        self,
        child: _Child,
        source: NodeSource | None,
        low: Key,
        high: Key,
        leaf: int,
        *,
        reverse: bool,
        least: int = 0,
    ) -> None:
        self._child = child
        self._source = source
        self._low = low
        self._high = high
        self._leaf = leaf
        self._reverse = reverse
        self._least = least
        self._passed = 0
        # The branches from the root down, with the slots that come after the present ones.
        self._on_the_way: list[tuple[Branch, Iterator[int]]] = []
        self._wanted = 0
        self._bytes = 0

    def _slots(self, branch: Branch) -> Iterator[int]:
        slots = range(branch.start(self._low), max(branch.stop(self._high), self._least))
        return iter(reversed(slots) if self._reverse else slots)

    def children(self, branch: Branch) -> Iterator[tuple[int, Node]]:
        """Iterate over the children of a branch that lie between the bounds, and their slots.

        Each is to be gone through before the next. Raises NodeMiss.
        """
        slots = self._slots(branch)
        self._on_the_way.append((branch, slots))
        for slot in slots:
            missing: list[Address] = []
            child = self._child(branch, slot, missing)
            if child is None:
                self._miss(branch, slot, missing)
            if isinstance(child, Leaf):
                self._passed += 1
            yield slot, child
        self._on_the_way.pop()

    def _miss(self, branch: Branch, slot: int, missing: list[Address]) -> NoReturn:
        self._wanted = min(self._passed, AHEAD)
        self._bytes = 0
        self._note(branch, slot, missing)
        for above, slots in reversed(self._on_the_way):
            if not self._ahead(above, slots, missing):
                break
            # Where a branch ends, the next one is needed before any of its leaves.
            self._wanted = max(self._wanted, min(self._passed, 1))
        assert self._source is not None
        raise NodeMiss(self._source, missing)

    def _note(self, branch: Branch, slot: int, missing: list[Address]) -> None:
        self._bytes += missing[-1].length
        self._wanted -= 1 if branch.level == 1 else max(branch.counts[slot] // self._leaf, 1)

    def _ahead(self, branch: Branch, slots: Iterable[int], missing: list[Address]) -> bool:
        """Name what is missing of the next leaves; say whether the branch has no more of them."""
        for slot in slots:
            if self._wanted <= 0 or self._bytes >= AHEAD_BYTES:
                return False
            child = self._child(branch, slot, missing)
            if child is None:
                self._note(branch, slot, missing)
            elif isinstance(child, Leaf):
                self._wanted -= 1
            elif not self._ahead(child, self._slots(child), missing):
                return False
        return True
