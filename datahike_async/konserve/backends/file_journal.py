"""Journals of the file backend: an append-only log beside a blob, one small sync a record.

A log belongs to one version of its blob: its name has the blob's stamp, so a blob that is replaced
leaves its old log behind, which nobody then reads. Frames are laid one after another into space
that was written with zeros before, so that a record costs one write and one ``fdatasync`` that has
no length to update::

    length of record · CRC-32 of the record, started with the CRC of the frame before · record

A frame whose checksum is wrong is the torn end of a write that was never acknowledged: reading
stops there, and the next record goes over it.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from datahike_async.konserve.backends import file_io as io

__all__ = ["Log", "log_name"]

_FRAME: Final = struct.Struct(">II")
ROOM: Final = 256 * 1024
"""Bytes of zeros that are written at a time."""
LARGEST: Final = 2**32 - 1
"""Bytes of a record, as many as a frame can say. Reading must take whatever append took."""


def log_name(name: str, stamp: bytes) -> str:
    """Return the name of the log of a blob's version."""
    return f"{name}.{stamp.hex()}.log"


class Log:
    """One open log. ``end`` is where the next frame goes, ``crc`` that of the last one."""

    __slots__ = ("crc", "end", "fd", "room", "stamp")

    def __init__(self, fd: int, stamp: bytes) -> None:
        self.fd = fd
        self.stamp = stamp
        self.end = 0
        self.crc = zlib.crc32(stamp)
        self.room = os.fstat(fd).st_size

    @classmethod
    def open(cls, name: str, stamp: bytes, folder: int) -> Log | None:
        """Open the log of a blob's version; None where it has none yet."""
        fd = io.open_for_append(log_name(name, stamp), folder)
        return None if fd is None else cls(fd, stamp)

    @classmethod
    def create(cls, name: str, stamp: bytes, folder: int) -> Log:
        """Make the log of a blob's version, durable and full of zeros.

        One that is there already was left by a crash before its first record; it is used.
        """
        found = cls.open(name, stamp, folder)
        if found is not None:
            found.scan()
            return found
        fd = io.create_file(log_name(name, stamp), folder)
        log = cls(fd, stamp)
        try:
            log.make_room(1)
            io.sync_folder(folder)
        except BaseException:
            log.close()
            io.unlink(log_name(name, stamp), folder)
            raise
        return log

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)

    def make_room(self, count: int) -> None:
        """Have at least ``count`` bytes of durable zeros at the end."""
        # The end of the last frame needs zeros behind it too: they say that nothing follows.
        needed = self.end + count + _FRAME.size
        if needed <= self.room:
            return
        target = -(-needed // ROOM) * ROOM
        io.write_all(self.fd, bytes(target - self.room), self.room)
        io.fsync(self.fd)
        self.room = target

    def scan(self) -> list[bytes]:
        """Read the frames from ``end`` on and move ``end`` behind the last whole one."""
        size = os.fstat(self.fd).st_size
        self.room = max(self.room, size)
        out = []
        data = io.read_at(self.fd, self.end, size - self.end)
        at = 0
        while at + _FRAME.size <= len(data):
            length, crc = _FRAME.unpack_from(data, at)
            stop = at + _FRAME.size + length
            if not length or length > LARGEST or stop > len(data):
                break
            record = data[at + _FRAME.size : stop]
            if zlib.crc32(record, self.crc) != crc:
                break
            out.append(record)
            self.crc = crc
            at = stop
        self.end += at
        return out

    def followed(self) -> bool:
        """Whether another writer has put a whole frame at ``end``. Moves ``end`` behind it."""
        head = io.read_at(self.fd, self.end, _FRAME.size)
        if len(head) < _FRAME.size or head == b"\0" * _FRAME.size:
            return False
        return bool(self.scan())

    def append(self, record: bytes) -> None:
        """Write one frame at ``end``; it counts once ``sync`` has returned.

        What an interrupted write left there is overwritten, and zeros after it say that nothing
        follows.
        """
        crc = zlib.crc32(record, self.crc)
        frame = _FRAME.pack(len(record), crc) + record
        self.make_room(len(frame))
        io.write_all(self.fd, frame + b"\0" * _FRAME.size, self.end)

    def sync(self, record: bytes) -> None:
        """Make the frame durable and move ``end`` behind it."""
        io.fdatasync(self.fd)
        self.crc = zlib.crc32(record, self.crc)
        self.end += _FRAME.size + len(record)
