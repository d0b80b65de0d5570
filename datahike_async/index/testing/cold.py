"""A store of nodes in memory, of which those alone are resident that were asked for."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import Any, TypeVar

from datahike_async.index.source import Address, NodeMiss

__all__ = ["Cold"]

T = TypeVar("T")


class Cold:
    """A source and a sink of nodes: what is put is not resident before it was loaded.

    ``decode`` is the factory's, ``blob`` what addresses say. Whoever reads goes through
    :meth:`call` or :meth:`waves`, which load what a call misses and hold it to how an index has to
    miss: it names nodes that are stored and not resident, none twice, and its own source.
    """

    def __init__(self, decode: Callable[[bytes | memoryview], Any], blob: str = "blob") -> None:
        self.decode = decode
        self.blob = blob
        self.stored: dict[Address, bytes] = {}
        """The bytes of every node that was put, by its address, in that order."""
        self.resident: dict[Address, Any] = {}
        self.asked: list[Address] = []
        """What was loaded, in that order."""

    capacity = 2**62
    """It holds whatever is loaded."""

    @property
    def source(self) -> Cold:
        """Itself."""
        return self

    def put(self, data: bytes, node: Any) -> Address:
        """Store a node."""
        assert isinstance(data, bytes), "an encoded node is bytes"
        address = Address(self.blob, len(self.stored), len(data), zlib.crc32(data))
        self.stored[address] = data
        return address

    def get(self, address: Address) -> Any | None:
        """Return a node if it is resident."""
        assert address in self.stored, f"nobody stored a node at {address}"
        return self.resident.get(address)

    async def fetch(self, addresses: Sequence[Address], pin: Any = None) -> None:
        """Load nodes."""
        self.load(addresses)

    def pinned(self) -> AbstractContextManager[Any]:
        """Forget nothing by itself."""
        return nullcontext()

    def load(self, addresses: Sequence[Address]) -> None:
        """Make nodes resident."""
        for address in addresses:
            assert address not in self.resident, f"{address} is resident, and was asked for"
            self.resident[address] = self._decoded(self.stored[address])
            self.asked.append(address)

    def _decoded(self, stored: bytes) -> Any:
        """Decode bytes that are lent, as stores with a map of their file do, and overwrite them."""
        lent = bytearray(stored)
        with memoryview(lent) as view, view.toreadonly() as data:
            node = self.decode(data)
        lent[:] = bytes(byte ^ 0xFF for byte in stored)
        try:
            lent.clear()
        except BufferError:
            raise AssertionError("a node still looks at the bytes it was decoded from") from None
        return node

    def forget(self, random: Random | None = None, share: float = 1.0) -> None:
        """Let go of all nodes, or of about a share of them."""
        for address in list(self.resident):
            if random is None or random.random() < share:
                del self.resident[address]

    def waves(self, call: Callable[[], T]) -> tuple[T, int]:
        """Return what a call returns once all that it misses is there, and how often it missed."""
        count = 0
        while True:
            try:
                out = call()
                # What is iterated over misses only then.
                return (list(out) if isinstance(out, Iterator) else out), count  # type: ignore[return-value]
            except NodeMiss as missed:
                miss = missed
            assert miss.source is self, "a miss names the source that the index was given"
            assert miss.addresses, "a miss names what is missing"
            assert len(set(miss.addresses)) == len(miss.addresses), "a miss names a node twice"
            self.load(miss.addresses)
            count += 1

    def call(self, call: Callable[[], T]) -> T:
        """Return what a call returns once all that it misses is there."""
        return self.waves(call)[0]
