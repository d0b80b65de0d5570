"""Whether the file of an LMDB environment has all the pages that are used in it.

LMDB maps its file into memory, and a page that lies beyond its end ends the process that touches
it. So the file is looked at before it is mapped. It may be shorter than the number of its pages
says: LMDB leaves out what was freed by the transaction that had added it. Such pages are listed as
free; one that is not is missing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["missing_bytes"]

# LMDB 0.9, on the 64-bit machines that it has one format on. A page begins with its number, a pad,
# flags, and the bounds of its free space, or how many pages it goes on for.
_PAGE: Final = struct.Struct("=QHHHH")
_PAGES: Final = struct.Struct("=I")
_PAGES_AT: Final = 12
_BRANCH: Final = 1
_LEAF: Final = 2
_META: Final = 8
# Magic, version, address and size of the map; twice a table; the last page, the transaction.
_META_FIELDS: Final = struct.Struct("=IIQQ" + 2 * "IHHQQQQQ" + "QQ")
_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
# A node is the low and high half of its size, or of a page's number, flags, the length of its key.
_NODE: Final = struct.Struct("=HHHH")
_BIG: Final = 1
_NONE: Final = (1 << 64) - 1
_LOOKS: Final = 3


class _Meta(NamedTuple):
    """The newest transaction: the size of its pages, the last one, who lists the free."""

    transaction: int
    size: int
    last: int
    free: int


class _Unreadable(Exception):
    """A page that is none, or lies beyond the end."""


def missing_bytes(fd: int) -> int | None:
    """Return how many bytes the file would have to have, where it lacks pages that are used.

    None where it has them, and where it is no environment that this understands: LMDB says so.
    """
    if struct.calcsize("P") != 8:
        return None
    for _ in range(_LOOKS):
        meta = _newest(fd)
        if meta is None:
            return None
        # After the meta page: what it speaks of was written before it.
        there = os.fstat(fd).st_size // meta.size
        if there > meta.last:
            return None
        try:
            free = {page for page in _free(fd, meta, meta.free) if there <= page <= meta.last}
        except (_Unreadable, struct.error, RecursionError):
            free = set()  # who lists them is cut off too
        if len(free) == meta.last + 1 - there:
            return None
        if _newest(fd) == meta:
            return (meta.last + 1) * meta.size
        # Somebody writes to it meanwhile, and may have used again what was looked at.
    return None


def _newest(fd: int) -> _Meta | None:
    first = _meta(fd, 0)
    second = None if first is None else _meta(fd, first.size)
    if first is None or second is None:
        return None
    return max(first, second)


def _meta(fd: int, at: int) -> _Meta | None:
    data = os.pread(fd, _PAGE.size + _META_FIELDS.size, at)
    if len(data) < _PAGE.size + _META_FIELDS.size or not _PAGE.unpack_from(data)[2] & _META:
        return None
    fields = _META_FIELDS.unpack_from(data, _PAGE.size)
    size, last, transaction = fields[4], fields[-2], fields[-1]
    if fields[:2] != (_MAGIC, _VERSION) or not 512 <= size <= 65536 or size & (size - 1):
        return None
    return _Meta(transaction, size, last, fields[11])


def _free(fd: int, meta: _Meta, page: int) -> Iterator[int]:
    """Iterate over the numbers in the lists of free pages below a page."""
    if page == _NONE:
        return
    data = _read(fd, meta, page)
    _, _, flags, lower, _ = _PAGE.unpack_from(data)
    if not flags & (_BRANCH | _LEAF) or not _PAGE.size <= lower <= meta.size:
        raise _Unreadable
    for at in struct.unpack_from(f"={(lower - _PAGE.size) // 2}H", data, _PAGE.size):
        if at + _NODE.size > meta.size:
            raise _Unreadable
        low, high, node, key = _NODE.unpack_from(data, at)
        start, size = at + _NODE.size + key, low | high << 16
        if flags & _BRANCH:
            yield from _free(fd, meta, size | node << 32)
        elif node & _BIG:
            (first,) = struct.unpack_from("=Q", data, start)
            yield from _listed(_long(fd, meta, first)[_PAGE.size :][:size])
        else:
            yield from _listed(data[start : start + size])


def _listed(data: bytes) -> Iterator[int]:
    """Iterate over one list: how many there are, and they."""
    if len(data) < 8 or len(data) % 8:
        raise _Unreadable
    count, *pages = struct.unpack(f"={len(data) // 8}Q", data)
    if count > len(pages):
        raise _Unreadable
    yield from pages[:count]


def _read(fd: int, meta: _Meta, page: int, count: int = 1) -> bytes:
    if page > meta.last:
        raise _Unreadable
    data = os.pread(fd, count * meta.size, page * meta.size)
    if len(data) < count * meta.size or _PAGE.unpack_from(data)[0] != page:
        raise _Unreadable
    return data


def _long(fd: int, meta: _Meta, page: int) -> bytes:
    """Return the bytes of a page that goes on over others."""
    (count,) = _PAGES.unpack_from(_read(fd, meta, page), _PAGES_AT)
    if page + count > meta.last + 1:
        raise _Unreadable
    return _read(fd, meta, page, count)
