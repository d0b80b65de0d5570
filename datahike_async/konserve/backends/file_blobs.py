"""The file of a blob: a header that names the blob's version, and the bytes.

The header has a stamp, fresh for every write, under a checksum that is bound to the name. It says
which log belongs to the blob, so nothing is decided by one that is damaged. The bytes have no
checksum here: those that read them know theirs.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.errors import CorruptValue

__all__ = ["STAMP", "SUFFIX", "header", "load", "present"]

SUFFIX: Final = ".ksv"
STAMP: Final = 12
"""Bytes of a stamp."""
_MAGIC: Final = b"KVF\x02"
_CRC: Final = struct.Struct(">I")
_HEADER: Final = len(_MAGIC) + STAMP + _CRC.size


def header(name: str, stamp: bytes) -> bytes:
    """Return what the file of a blob begins with."""
    head = _MAGIC + stamp
    return head + _CRC.pack(zlib.crc32(head, zlib.crc32(name.encode())))


def load(
    name: str, folder: int, start: int = 0, end: int | None = None
) -> tuple[bytes, bytes] | None:
    """Return the bytes ``[start, end)`` of a blob and its stamp, or None where there is none.

    Raises CorruptValue where its header is damaged.
    """
    fd = io.open_file(name + SUFFIX, folder)
    if fd is None:
        return None
    try:
        stamp = _stamp(fd, name)
        size = os.fstat(fd).st_size - _HEADER
        stop = size if end is None else min(end, size)
        return io.read_at(fd, _HEADER + start, max(stop - start, 0)), stamp
    finally:
        io.close(fd)


def present(name: str, folder: int) -> bytes | None:
    """Return the stamp of a blob, or None where there is none. Raises CorruptValue."""
    fd = io.open_file(name + SUFFIX, folder)
    if fd is None:
        return None
    try:
        return _stamp(fd, name)
    finally:
        io.close(fd)


def _stamp(fd: int, name: str) -> bytes:
    head = io.read_at(fd, 0, _HEADER)
    stamp = head[len(_MAGIC) : _HEADER - _CRC.size]
    if head != header(name, stamp):
        raise CorruptValue(
            f"The first bytes of the file {name + SUFFIX} are damaged, or were cut off. Nothing "
            "was changed; restore the file from a backup.",
            place=name + SUFFIX,
        )
    return stamp
