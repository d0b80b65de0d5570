"""Sinks: where a flush puts its nodes before they are written.

``PackSink`` lays them one after another into packs, ``NodeSink`` gives each a key. Neither
writes: ``writes`` is what has to be durable before a head may name it. A pack ends with a footer
(offset, length and CRC-32 of each part, CRC-32 of the whole), so that it can be checked and
salvaged on its own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from datahike_async.errors import CorruptData
from datahike_async.index.codec import pack, unpack
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.source import Address
from datahike_async.looks import tally
from datahike_async.storage.hashes import node_hash
from datahike_async.storage.keys import node_key, pack_key
from datahike_async.storage.nodes.cache import Pin
from datahike_async.storage.nodes.layout import Layout, pack_bytes
from datahike_async.storage.nodes.store import NodeStore

__all__ = ["Sink", "make_sink", "packed", "parts_of"]

_FOOTER: Final = struct.Struct(">III8s")
_MAGIC: Final = b"DHAPACK1"


class Sink:
    """Takes nodes and other parts of one flush; ``finish`` once all are in.

    ``hashing`` makes the nodes, of which addresses are to have hashes.
    """

    def __init__(self, source: NodeStore, id: UUID, hashing: LevelsFactory | None = None) -> None:
        self._source = source
        self._id = id
        self._hashing = hashing
        self._pin: Pin | None = None
        self.writes: list[tuple[str, bytes]] = []
        self.bytes = 0
        # How many blobs were taken to be written already.
        self._taken = 0

    @property
    def source(self) -> NodeStore:
        """The source that will find the nodes again; it has them already."""
        return self._source

    def put(self, data: bytes, node: Any) -> Address:
        """Take an encoded node and return its address."""
        tally(len(data))
        address = self.put_part(data)
        if self._hashing is not None:
            address = address._replace(hash=node_hash(self._hashing, data, node))
        self._source.cache.put(address, node, self._pin)
        return address

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep the nodes that are put resident until the block is left: until they are durable."""
        with self._source.pinned() as self._pin:
            try:
                yield
            finally:
                self._pin = None

    def put_part(self, data: bytes) -> Address:
        """Take bytes that are no node and return their address."""
        raise NotImplementedError

    def finish(self) -> list[tuple[str, bytes]]:
        """Return all (key, bytes) that must be written, and were not taken."""
        return self.writes

    def take(self) -> list[tuple[str, bytes]]:
        """Return what must be written so far; the caller writes it."""
        taken, self.writes = self.finish(), []
        self._taken += len(taken)
        return taken

    @property
    def _number(self) -> int:
        return self._taken + len(self.writes)


class PackSink(Sink):
    """One blob for many nodes."""

    def __init__(self, source: NodeStore, id: UUID, hashing: LevelsFactory | None = None) -> None:
        super().__init__(source, id, hashing)
        self._most = pack_bytes(source.store.capabilities)
        self._parts: list[bytes] = []
        self._index: list[tuple[int, int, int]] = []
        self._size = 0

    def put_part(self, data: bytes) -> Address:
        """Take bytes and return their address."""
        if self._size and self._size + len(data) > self._most:
            self._close()
        crc = zlib.crc32(data)
        address = Address(self._name(), self._size, len(data), crc)
        self._index.append((self._size, len(data), crc))
        self._parts.append(data)
        self._size += len(data)
        self.bytes += len(data)
        return address

    def _name(self) -> str:
        return pack_key(self._id, self._number)

    def _close(self) -> None:
        self.writes.append((self._name(), packed(self._parts, self._index)))
        self._parts, self._index, self._size = [], [], 0

    def finish(self) -> list[tuple[str, bytes]]:
        """Close the last pack, and return all that were not taken."""
        if self._size:
            self._close()
        return self.writes


def packed(parts: Sequence[bytes], index: Sequence[tuple[int, int, int]]) -> bytes:
    """Return the bytes of a pack; ``index`` has offset, length and CRC-32 of each part."""
    body = b"".join(parts)
    listed = pack([list(part) for part in index])
    # The checksum of the whole covers the index too.
    whole = zlib.crc32(listed, zlib.crc32(body))
    return body + listed + _FOOTER.pack(len(body), len(listed), whole, _MAGIC)


class KeySink(Sink):
    """One key a node."""

    def put_part(self, data: bytes) -> Address:
        """Take bytes and return their address."""
        key = node_key(self._id, self._number)
        self.writes.append((key, data))
        self.bytes += len(data)
        return Address(key, 0, len(data), zlib.crc32(data))


def make_sink(
    layout: Layout, source: NodeStore, id: UUID, hashing: LevelsFactory | None = None
) -> Sink:
    """Return a sink for a layout; ``id`` must never have been used before.

    With the factory that makes the nodes, ``hashing``, their addresses have hashes.
    """
    return (PackSink if layout is Layout.PACKS else KeySink)(source, id, hashing)


def parts_of(data: bytes, name: str) -> list[Address]:
    """Return the addresses of all parts of a pack, checking the whole.

    Raises CorruptData where it is not as it was written.
    """
    if len(data) < _FOOTER.size:
        raise CorruptData(f"{name} is too short for a pack.", blob=name)
    body, index, whole, magic = _FOOTER.unpack(data[-_FOOTER.size :])
    if magic != _MAGIC or body + index + _FOOTER.size != len(data):
        raise CorruptData(f"{name} does not end as a pack does.", blob=name)
    if zlib.crc32(data[: body + index]) != whole:
        raise CorruptData(f"{name} is damaged: the checksum of the pack is wrong.", blob=name)
    parts = unpack(data[body : body + index])
    return [Address(name, *part) for part in parts]
