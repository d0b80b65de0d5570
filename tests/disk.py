"""Stored nodes in memory, for trees that are read as if from a store."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from datahike_async.index.source import Address


class Disk:
    """A source and sink in memory that forgets nodes at random, but for those that are pinned."""

    def __init__(self, seed: int, decode: Callable[[bytes], object]) -> None:
        self.random = random.Random(seed)
        self.decode = decode
        self.bytes: dict[Address, bytes] = {}
        self.nodes: dict[Address, object] = {}
        self.pins = 0
        self.waves = 0
        self.source = self

    def put(self, data: bytes, node: object) -> Address:
        address = Address("pack", len(self.bytes), len(data), zlib.crc32(data))
        self.bytes[address] = data
        return address

    def get(self, address: Address) -> object | None:
        if not self.pins and self.nodes and self.random.random() < 0.3:
            self.nodes.pop(self.random.choice(list(self.nodes)))
        return self.nodes.get(address)

    async def fetch(self, addresses: Sequence[Address], pin: object = None) -> None:
        self.waves += 1
        for address in addresses:
            self.nodes[address] = self.decode(self.bytes[address])

    @contextmanager
    def pinned(self) -> Iterator[None]:
        self.pins += 1
        try:
            yield
        finally:
            self.pins -= 1
