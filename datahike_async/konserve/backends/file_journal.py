"""Journals of the file backend: an append-only log beside a blob, one small sync a record.

A log belongs to one version of its blob: its name has the blob's stamp, so a blob that is replaced
leaves its old log behind, which nobody then reads. Frames are laid one after another into space
that was written with zeros before, so that a record costs one write and one ``fdatasync`` that has
no length to update::

    length of record · CRC-32 of the record, started with the CRC of the frame before · record

A frame whose checksum is wrong is the torn end of a write that was never acknowledged: reading
stops there, and the next record goes over it. Unless a whole frame follows it, chained to it: then
it was acknowledged once, and what is wrong is damage, which is never written over.

All reading happens under the lock of the store, for a log that is being written to may look
damaged.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.errors import CorruptValue, UnsupportedOperation

__all__ = ["Log", "check_record", "log_name", "named_by"]

_FRAME: Final = struct.Struct(">II")
ROOM: Final = 256 * 1024
"""Bytes of zeros that are written at a time."""
LARGEST: Final = 2**32 - 1
"""Bytes of a record, as many as a frame can say. Reading must take whatever append took."""
_SEARCH: Final = 256 * 1024
"""How far behind a bad frame a whole one is looked for."""
_SUFFIX: Final = ".log"


def log_name(name: str, stamp: bytes) -> str:
    """Return the name of the log of a blob's version."""
    return f"{name}.{stamp.hex()}{_SUFFIX}"


def named_by(entry: str) -> tuple[str, bytes] | None:
    """Return the name and stamp that ``log_name`` made a file's name of; None for other files."""
    name, _, stamp = entry.removesuffix(_SUFFIX).partition(".")
    if not entry.endswith(_SUFFIX) or not stamp:
        return None
    try:
        return name, bytes.fromhex(stamp)
    except ValueError:
        return None


def check_record(record: bytes) -> None:
    """Raise for a record that no frame can hold, or that ``scan`` would take for the end."""
    if not record:
        raise ValueError("a record of a journal has at least one byte")
    if len(record) > LARGEST:
        raise UnsupportedOperation(f"A record of a journal has at most {LARGEST} bytes.")


def _whole_frame(data: bytes, at: int, crc: int) -> bool:
    """Whether the frame at ``at`` is a whole one, chained to ``crc``."""
    if at + _FRAME.size > len(data):
        return False
    length, found = _FRAME.unpack_from(data, at)
    start = at + _FRAME.size
    if not 0 < length <= min(LARGEST, len(data) - start):
        return False
    return bool(zlib.crc32(memoryview(data)[start : start + length], crc) == found)


def _damaged(data: bytes, at: int, crc: int) -> bool:
    """Whether the bad frame at ``at``, chained to ``crc``, was whole once: one follows it."""
    length, stored = _FRAME.unpack_from(data, at)
    start = at + _FRAME.size
    stop = start + length
    # Its checksum may be what is wrong, or else its record or its length.
    if stop < len(data):
        computed = zlib.crc32(memoryview(data)[start:stop], crc)
        if _whole_frame(data, stop, computed) or _whole_frame(data, stop, stored):
            return True
    last = min(len(data.rstrip(b"\0")), start + _SEARCH)
    return any(_whole_frame(data, other, stored) for other in range(start + 1, last))


class Log:
    """One open log. ``end`` is where the next frame goes, ``crc`` that of the last one.

    ``settled`` says that its name and all that was there when it was opened are durable;
    ``foreign`` that others have written since.
    """

    __slots__ = ("crc", "end", "fd", "foreign", "last", "room", "settled", "stamp")

    def __init__(self, fd: int, stamp: bytes, *, settled: bool = False) -> None:
        self.fd = fd
        self.stamp = stamp
        self.last = 0
        self.end = 0
        self.crc = zlib.crc32(stamp)
        self.room = os.fstat(fd).st_size
        self.settled = settled
        self.foreign = False

    @classmethod
    def open(cls, name: str, stamp: bytes, folder: int) -> Log | None:
        """Open the log of a blob's version; None where it has none yet."""
        fd = io.open_for_append(log_name(name, stamp), folder)
        return None if fd is None else cls(fd, stamp)

    @classmethod
    def create(cls, name: str, stamp: bytes, folder: int) -> Log:
        """Make the log of a blob's version, which must have none; durable and full of zeros."""
        fd = io.create_file(log_name(name, stamp), folder)
        log = cls(fd, stamp, settled=True)
        try:
            log.make_room(1)
            io.sync_folder(folder)
        except BaseException:
            log.close()
            io.unlink(log_name(name, stamp), folder)
            raise
        return log

    @classmethod
    def read(cls, name: str, stamp: bytes, folder: int) -> list[bytes]:
        """Return all records of a blob's version."""
        log = cls.open(name, stamp, folder)
        if log is None:
            return []
        try:
            return log.scan()
        finally:
            log.close()

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
        """Read the frames from ``end`` on and move ``end`` behind the last whole one.

        Raises CorruptValue where a frame is damaged that others follow.
        """
        size = os.fstat(self.fd).st_size
        self.room = max(self.room, size)
        out = []
        data = io.read_at(self.fd, self.end, size - self.end)
        at, last, crc = 0, self.last, self.crc
        while at + _FRAME.size <= len(data):
            length, stored = _FRAME.unpack_from(data, at)
            if not _whole_frame(data, at, crc):
                if (length or stored) and _damaged(data, at, crc):
                    raise CorruptValue(
                        f"The log of version {self.stamp.hex()} is damaged at byte "
                        f"{self.end + at}: records follow that were acknowledged. Restore it from "
                        "a backup.",
                        at=self.end + at,
                    )
                break
            start = at + _FRAME.size
            out.append(data[start : start + length])
            last, crc = self.end + at, stored
            at = start + length
        self.last, self.crc = last, crc
        self.end += at
        return out

    def settle(self, folder: int) -> None:
        """Make durable what a process may have left that was killed, or whose sync failed.

        The last frame alone can be such, and the file's name; for whoever appends settles first,
        so that no two frames ever wait for one sync. It is written again: after a sync that
        failed, the next one says nothing about what the first one lost.
        """
        if self.end:
            io.write_all(self.fd, io.read_at(self.fd, self.last, self.end - self.last), self.last)
        io.fdatasync(self.fd)
        if not self.settled:
            io.sync_folder(folder)
        self.settled = True
        self.foreign = False

    def follow(self) -> None:
        """Move ``end`` behind what other writers have put there."""
        head = io.read_at(self.fd, self.end, _FRAME.size)
        if len(head) == _FRAME.size and head != b"\0" * _FRAME.size and self.scan():
            self.foreign = True

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
        self.last = self.end
        self.end += _FRAME.size + len(record)
