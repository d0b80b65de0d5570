"""Decoded nodes in memory, bounded by bytes, read by any thread without a lock.

Two generations: a node that is looked at is or becomes young; when the young fill half of the
bound, they become the old ones and the old ones that nobody looked at are let go. So a hit costs
one dict lookup, which an exact least-recently-used order would not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from datahike_async.index.source import Address
from datahike_async.memory import Slack

__all__ = ["NodeCache", "Pin"]

Pin: TypeAlias = dict[Address, Any]
"""Nodes that someone is about to need again; others put nothing there."""


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
        """Take a node in, and keep it until the block of ``pin`` is left."""
        if pin is not None:
            pin[address] = node
        self._keep(address, node)

    def _keep(self, address: Address, node: Any) -> None:
        if address in self._young:
            return
        size = node.nbytes
        # Nodes may come from several threads: what the race of two can do is to count a few
        # bytes wrongly until the next turn of the generations.
        if self._bytes + size > self.capacity and self._young:
            self._old = self._young
            self._young = {}
            if self._slack is not None:
                # About as many bytes were old.
                self._slack.add(self._bytes)
            self._bytes = 0
        self._young[address] = node
        self._bytes += size

    @contextmanager
    def pinned(self) -> Iterator[Pin]:
        """Give the block a pin: everything that is put with it is kept until the block is left."""
        pin: Pin = {}
        self._pins[id(pin)] = pin
        try:
            yield pin
        finally:
            del self._pins[id(pin)]

    def clear(self) -> None:
        """Forget every node that is not pinned."""
        self._young = {}
        self._old = {}
        self._bytes = 0
