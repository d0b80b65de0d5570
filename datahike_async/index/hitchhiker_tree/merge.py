"""Merging into buffers: what does not fit is handed down, and only that is written anew.

A batch is put into the buffer of the root. Where more waits in a branch than there is room for,
those children get their part for which much waits, and so on down to the leaves, which are then
merged as in the persistent set. So a change is written with each buffer that it passes through, and
a leaf only once many changes of it have gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from datahike_async.index.columns import Rows
from datahike_async.index.hitchhiker_tree.buffers import EMPTY, Buffer, composed
from datahike_async.index.hitchhiker_tree.node import Buffered
from datahike_async.index.persistent_set.merge import Merge, Part, Slot, slots_of
from datahike_async.index.persistent_set.node import Branch, Leaf, Node, row_key
from datahike_async.index.protocol import Order

__all__ = ["Pushing"]

_UPPER: Final = 8
"""A branch over branches has so many times the room: handing little down writes much anew."""


class Pushing(Merge):
    """One merge. ``log`` is how many rows may wait in a full branch over leaves.

    With ``gone``, all that waits on the way to those rows is handed down to the leaves.
    """

    def __init__(
        self,
        order: Order,
        temporal: bool,
        leaf: int,
        branch: int,
        log: int,
        child: Callable[[Branch, int, bool], Node | None],
        gone: Sequence[Rows] = (),
    ) -> None:
        super().__init__(order, temporal, leaf, branch, child)
        self.log = log
        self.gone = list(gone)

    def part(self, node: Node, adds: list[Rows], removes: list[Rows]) -> Part:
        """Return what waits at a node afterwards, and what the nodes below it get."""
        return self._part(node, Buffer(adds, removes), self.gone)

    def _part(self, node: Node, new: Buffer, gone: list[Rows]) -> Part:
        if isinstance(node, Leaf):
            return Part(node, list(new.adds), list(new.removes), {})
        assert isinstance(node, Buffered)
        waiting = composed(node.buffer, new, self.order, self.temporal)
        through = self.split(gone, node.keys) if gone else {}
        count = len(waiting)
        full = count > self._room(node)
        if not full and not through:
            return Part(node, list(waiting.adds), list(waiting.removes), {})
        adds = self.split(list(waiting.adds), node.keys)
        removes = self.split(list(waiting.removes), node.keys)
        below: dict[int, Part] = {}
        stays = Buffer([], [])
        for slot in sorted(adds.keys() | removes.keys() | through.keys()):
            part = Buffer(adds.get(slot, []), removes.get(slot, []))
            # At most half of what there is stays: what would be little for a child.
            if slot in through or (full and 2 * len(part) * len(node.keys) >= count):
                child = self.child(node, slot, True)
                if child is not None:
                    below[slot] = self._part(child, part, through.get(slot, []))
            else:
                stays = Buffer([*stays.adds, *part.adds], [*stays.removes, *part.removes])
        return Part(node, *_joined(stays, self.order), below)

    def _room(self, node: Buffered) -> int:
        """Return how many rows may wait: as many a child, however many children there are."""
        room = self.log * len(node.keys) // self.branch
        return room if node.level == 1 else room * _UPPER

    def rebuilt(self, part: Part, slots: list[Slot], before: list[Slot], old: Slot) -> list[Slot]:
        """Return what replaces a branch: its children, and what waits for them."""
        node = part.node
        assert isinstance(node, Buffered)
        waiting = Buffer(part.adds, part.removes)
        if part.below:
            slots = self.level_out(slots, before, node)
        if not slots and len(waiting):
            # No leaf is left that this waits for.
            slots = self.leaves([], part.adds, part.removes)
            for level in range(1, node.level):
                slots = self.branches(slots, level)
            waiting = EMPTY
        return self.branches(slots, node.level, waiting)

    def joined(self, left: Node | None, right: Node | None) -> list[Slot] | None:
        """Return what two neighbours become together, None where they have to stay apart."""
        if isinstance(left, Buffered) and isinstance(right, Buffered):
            both = Buffer(
                [*left.buffer.adds, *right.buffer.adds],
                [*left.buffer.removes, *right.buffer.removes],
            )
            waiting = Buffer(*_joined(both, self.order))
            return self.branches(slots_of(left) + slots_of(right), left.level, waiting)
        return super().joined(left, right)

    def is_spare(self, root: Branch) -> bool:
        """Whether a root may give way to its child: nothing waits in it."""
        assert isinstance(root, Buffered)
        return super().is_spare(root) and not len(root.buffer)

    def branches(self, slots: list[Slot], level: int, waiting: Buffer = EMPTY) -> list[Slot]:
        """Return branches of a level over children, each with what waits for its own."""
        out = super().branches(slots, level)
        keys = [made.key for made in out]
        adds: Mapping[int, Sequence[Rows]] = {0: waiting.adds}
        removes: Mapping[int, Sequence[Rows]] = {0: waiting.removes}
        if len(out) > 1:
            adds = self.split(list(waiting.adds), keys)
            removes = self.split(list(waiting.removes), keys)
        return [
            made
            for i, slot in enumerate(out)
            if (made := self._with(slot, Buffer(adds.get(i, ()), removes.get(i, ())))).size
        ]

    def _with(self, slot: Slot, buffer: Buffer) -> Slot:
        """Return a branch with a buffer: its size is what is left, its key before all of it."""
        made = slot.node
        assert isinstance(made, Branch)
        heads = [row_key(run, 0, self.order) for runs in buffer for run in runs[:1]]
        more = sum(map(len, buffer.adds)) - sum(map(len, buffer.removes))
        parts = (made.level, made.keys, made.counts, made.nodes, made.addresses)
        return Slot(min([slot.key, *heads]), slot.size + more, Buffered(*parts, buffer), None)


def _joined(buffer: Buffer, order: Order) -> tuple[list[Rows], list[Rows]]:
    """Return the runs of a buffer with those of one attribute, or in EAVT all, as one run."""
    out: tuple[list[Rows], list[Rows]] = ([], [])
    for made, runs in zip(out, buffer, strict=True):
        last: list[Rows] = []
        for run, following in pairwise([*runs, None]):
            assert run is not None
            last.append(run)
            if following is None or (order is not Order.EAVT and following.a[0] != run.a[0]):
                made.append(Rows.concat(last))
                last = []
    return out
