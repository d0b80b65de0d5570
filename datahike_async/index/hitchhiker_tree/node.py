"""Branches with buffers, and their bytes. Leaves are those of the persistent set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datahike_async.index import codec
from datahike_async.index.columns import Rows
from datahike_async.index.hitchhiker_tree.buffers import Buffer, Side
from datahike_async.index.persistent_set import node as plain
from datahike_async.index.persistent_set.node import Branch, Key, Node
from datahike_async.index.protocol import Bound, Order
from datahike_async.index.source import Address

__all__ = ["Buffered", "decode"]


class Buffered(Branch):
    """A branch with changes that wait to be handed down to its children.

    ``counts`` says what is below each child, its own buffers included, and not what waits here.
    """

    __slots__ = ("_sides", "buffer")

    def __init__(
        self,
        level: int,
        keys: list[Key],
        counts: list[int],
        nodes: list[Node | None],
        addresses: list[Address | None],
        buffer: Buffer,
    ) -> None:
        super().__init__(level, keys, counts, nodes, addresses)
        self.buffer = buffer
        self._sides: tuple[Side, Side] | None = None

    @property
    def nbytes(self) -> int:
        """Approximate bytes held, children not counted."""
        return super().nbytes + sum(run.nbytes for runs in self.buffer for run in runs)

    def sides(self, order: Order) -> tuple[Side, Side]:
        """Return what is added and what is taken away, to be looked into."""
        if self._sides is None:
            self._sides = Side(self.buffer.adds, order), Side(self.buffer.removes, order)
        return self._sides

    def over(self, nodes: list[Node | None], addresses: list[Address | None]) -> Buffered:
        """Return the same branch over the same children, held otherwise."""
        # The cache counts what a buffer holds, not what it is a part of.
        own = Buffer(*([run.owned() for run in runs] for runs in self.buffer))
        return Buffered(self.level, self.keys, self.counts, nodes, addresses, own)

    def also(self) -> list[Any]:
        """Return the buffer as plain data."""
        return [[codec.encode_rows(run) for run in runs] for runs in self.buffer]

    def surplus(self, lower: Bound, upper: Bound, order: Order) -> int:
        """Return how many rows are added between two bounds, less those that are taken away."""
        adds, removes = self.sides(order)
        return adds.count(lower, upper) - removes.count(lower, upper)


def _branch(
    level: Any, keys: Any, counts: Any, blobs: Any, slots: Any, adds: Any, removes: Any
) -> Buffered:
    read = plain.read_branch(level, keys, counts, blobs, slots)
    buffer = Buffer(_runs(adds), _runs(removes))
    return Buffered(read.level, read.keys, read.counts, read.nodes, read.addresses, buffer)


def _runs(data: Sequence[Any]) -> list[Rows]:
    return [codec.decode_rows(run) for run in data]


def decode(data: bytes | memoryview) -> Node:
    """Decode a stored node. Raises CorruptData or UnsupportedFormat."""
    return plain.decode(data, _branch)
