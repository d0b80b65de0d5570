"""Decoded nodes in memory, bounded by bytes, read by any thread without a lock.

Two generations: a node that is looked at is or becomes young; when the young fill half of the
bound, they become the old ones and the old ones that nobody looked at are let go. So a hit costs
one dict lookup, which an exact least-recently-used order would not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from datahike_async.index.source import Address
from datahike_async.memory import Slack

__all__ = ["NodeCache", "Pin"]


class Pin(dict[Address, Any]):
    """Nodes that someone is about to need again, with their ``sizes``; others put nothing there."""

    __slots__ = ("sizes",)

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []


class NodeCache:
    """Nodes by address. ``limit`` is in bytes; ``slack`` is told of those that are let go."""

    __slots__ = ("_bytes", "_old", "_pins", "_slack", "_young", "limit")

    def __init__(self, limit: int, slack: Slack | None = None) -> None:
        self.limit = limit
        self._slack = slack
        self._young: dict[Address, Any] = {}
        self._old: dict[Address, Any] = {}
        self._bytes = 0
        # Nodes that someone is about to need again, beyond the bound; nearly always empty.
        self._pins: dict[int, Pin] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    @property
    def capacity(self) -> int:
        """Bytes of nodes that push each other out in no order of reading: one generation."""
        return self.limit // 2

    def get(self, address: Address) -> Any | None:
        """Return the node, or None."""
        node = self._young.get(address)
        if node is not None:
            return node
        node = self._old.get(address)
        if node is not None:
            self._keep(address, node)
            return node
        for pin in tuple(self._pins.values()):
            node = pin.get(address)
            if node is not None:
                return node
        return None

    def put(self, address: Address, node: Any, pin: Pin | None = None) -> None:
        """Take a node in; with a pin it pushes no other out until the block of that is left."""
        if pin is None:
            self._keep(address, node)
        elif address not in pin:
            pin[address] = node
            pin.sizes.append(node.nbytes)

    def _keep(self, address: Address, node: Any) -> None:
        if address in self._young:
            return
        size = node.nbytes
        # Nodes may come from several threads: what the race of two can do is to count a few
        # bytes wrongly until the next turn of the generations.
        if self._bytes + size > self.capacity and self._young:
            self._turn()
        self._young[address] = node
        self._bytes += size

    def _turn(self) -> None:
        self._old = self._young
        self._young = {}
        if self._slack is not None:
            # About as many bytes were old.
            self._slack.add(self._bytes)
        self._bytes = 0

    @contextmanager
    def pinned(self) -> Iterator[Pin]:
        """Give the block a pin: everything that is put with it is kept until the block is left.

        Then what there is room for comes among the others, the newest first. Earlier it would push
        out what the block found in memory, and needs again where its call is repeated.
        """
        pin = Pin()
        self._pins[id(pin)] = pin
        try:
            yield pin
        finally:
            self._take_over(pin)
            del self._pins[id(pin)]

    def _take_over(self, pin: Pin) -> None:
        size, room, some = 0, self.capacity, 0
        for each in reversed(pin.sizes):
            # One alone may be above the bound.
            if size + each > room and some:
                break
            size += each
            some += 1
        if some < len(pin) and self._slack is not None:
            self._slack.add(sum(pin.sizes) - size)
        if self._bytes + size > room and self._young:
            self._turn()
        # In one step: there may be very many.
        self._young.update(islice(pin.items(), len(pin) - some, None))
        self._bytes += size

    def clear(self) -> None:
        """Forget every node that is not pinned."""
        self._young = {}
        self._old = {}
        self._bytes = 0
