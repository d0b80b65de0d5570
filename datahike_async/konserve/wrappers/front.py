"""Front: the copies that a frontend keeps of a backend's blobs, and whether they can be trusted.

A copy is the blob with a header: the backend's revision, and a checksum of each block, so that a
range can be read and checked without the rest::

    0  magic "KFC1"   4  length of revision   8  blocks   12  length of the blob
    20 revision · CRC-32 of each block · CRC-32 of all before · the blob

A frontend may be lost, broken or full at any time. Nothing here raises for that: what cannot be
read is a miss, and what cannot be removed is not looked at any more.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from datahike_async.konserve.base import close_now
from datahike_async.konserve.blob import Blob, BlobStore, Revision, Write
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.threads import in_thread

__all__ = ["Front"]

_log = logging.getLogger("datahike_async.konserve.tiered")

_HEAD: Final = struct.Struct(">4sIIQ")
_MAGIC: Final = b"KFC1"
_BLOCK: Final = 64 * 1024
_GUESS: Final = 1024
"""Bytes that hold nearly every header."""
_KNOWN: Final = 16_384
_IN_THREAD: Final = 1024 * 1024
"""Bytes whose checksums would hold up the event loop."""


class _Header(NamedTuple):
    revision: Revision
    crcs: tuple[int, ...]
    length: int
    size: int


def _packed(blob: Blob) -> bytes:
    data, revision = blob.data, blob.revision.encode()
    crcs = [zlib.crc32(data[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK)]
    head = _HEAD.pack(_MAGIC, len(revision), len(crcs), len(data)) + revision
    head += struct.pack(f">{len(crcs)}I", *crcs)
    return b"".join((head, struct.pack(">I", zlib.crc32(head)), data))


def _all(blobs: Mapping[str, Blob]) -> dict[str, bytes]:
    return {name: _packed(blob) for name, blob in blobs.items()}


def _size(data: bytes) -> int | None:
    """Return how many bytes the header has; None where it is none."""
    if len(data) < _HEAD.size:
        return None
    magic, revision, blocks, length = _HEAD.unpack_from(data)
    if magic != _MAGIC or revision > 4096 or blocks != -(-length // _BLOCK):
        return None
    return int(_HEAD.size + revision + 4 * blocks + 4)


def _header(data: bytes) -> _Header | None:
    size = _size(data)
    if size is None or len(data) < size:
        return None
    (crc,) = struct.unpack_from(">I", data, size - 4)
    if zlib.crc32(data[: size - 4]) != crc:
        return None
    _, named, blocks, length = _HEAD.unpack_from(data)
    crcs = struct.unpack_from(f">{blocks}I", data, _HEAD.size + named)
    revision = data[_HEAD.size : _HEAD.size + named].decode()
    return _Header(revision, crcs, length, size)


def _checked(header: _Header, data: bytes, first: int) -> bytes | None:
    """Return the blocks from ``first`` on, if they are what they were."""
    for i in range(-(-len(data) // _BLOCK)):
        if zlib.crc32(data[i * _BLOCK : (i + 1) * _BLOCK]) != header.crcs[first + i]:
            return None
    return data


class Front:
    """The copies in a frontend. Every call is about what it holds; none raises KonserveError."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        # What is known of copies: a header, or None where there is none.
        self._known: OrderedDict[str, _Header | None] = OrderedDict()
        self._distrusted: set[str] = set()

    def _know(self, name: str, header: _Header | None) -> None:
        self._known[name] = header
        self._known.move_to_end(name)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def _unreadable(self, name: str) -> None:
        self._distrusted.add(name)
        self._known.pop(name, None)

    async def _find(self, name: str) -> _Header | None:
        if name in self._distrusted:
            return None
        if name in self._known:
            return self._known[name]
        try:
            found = await self._blobs.read(name, 0, _GUESS)
            size = None if found is None else _size(found.data)
            if size is not None and size > _GUESS:
                found = await self._blobs.read(name, 0, size)
        except KonserveError as error:
            _log.debug("reading a frontend: %s", error)
            return None
        header = None if found is None else _header(found.data)
        self._know(name, header)
        return header

    async def revision(self, name: str) -> Revision | None:
        """Return the backend's revision of the copy of ``name``, or None without a copy."""
        header = await self._find(name)
        return None if header is None else header.revision

    async def get(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Return a range of the copy of ``name``, checked; None for a miss."""
        header = await self._find(name)
        if header is None:
            return None
        stop = header.length if end is None else min(end, header.length)
        if start >= stop:
            return Blob(b"", header.revision)
        first, last = start // _BLOCK, -(-stop // _BLOCK)
        low, high = first * _BLOCK, min(last * _BLOCK, header.length)
        try:
            found = await self._blobs.read(name, header.size + low, header.size + high)
        except KonserveError as error:
            _log.debug("reading a frontend: %s", error)
            return None
        whole = found is not None and len(found.data) == high - low
        data = None
        if found is not None and whole:
            if len(found.data) > _IN_THREAD:
                data = await in_thread(_checked, header, found.data, first)
            else:
                data = _checked(header, found.data, first)
        if data is None:
            # Damaged, or replaced since its header was read.
            self._known.pop(name, None)
            return None
        return Blob(data[start - low : stop - low], header.revision)

    async def put(self, blobs: Mapping[str, Blob]) -> None:
        """Keep copies, as far as the frontend takes them."""
        if not blobs:
            return
        size = sum(len(blob.data) for blob in blobs.values())
        packed = await in_thread(_all, blobs) if size > _IN_THREAD else _all(blobs)
        for name in blobs:
            # While it is being replaced it may be either.
            self._unreadable(name)
        try:
            await self._blobs.write_many(
                [Write(name, data) for name, data in packed.items()], ordered=False
            )
        except KonserveError as error:
            _log.debug("writing to a frontend: %s", error)
            return
        for name, data in packed.items():
            self._distrusted.discard(name)
            self._know(name, _header(data))

    async def drop(self, names: Sequence[str]) -> None:
        """Forget copies."""
        present = [name for name in names if self._known.get(name, name) is not None]
        for name in present:
            self._unreadable(name)
        if not present:
            return
        try:
            await self._blobs.delete_many(present)
        except KonserveError as error:
            _log.debug("deleting from a frontend: %s", error)
            return
        for name in present:
            self._distrusted.discard(name)
            self._know(name, None)

    def close_now(self) -> None:
        """Close the store of the copies without an event loop."""
        close_now(self._blobs)

    async def close(self) -> None:
        """Close the frontend."""
        try:
            await self._blobs.close()
        except KonserveError as error:
            _log.debug("closing a frontend: %s", error)
