"""Marks: small files that say how much of what lies beside them is known to be durable.

A mark is written after the sync that it tells of, and not synced itself: after a power cut it may
say less than is true, never more. Whoever finds none that is whole knows nothing, and syncs.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from typing import Final

from datahike_async.konserve.backends import file_io as io

__all__ = ["Mark"]

_NUMBER: Final = struct.Struct(">Q")
_WHOLE: Final = struct.Struct(">QI")


class Mark:
    """A number in a file of its own. ``about`` is what it is a number of: part of its checksum.

    The file stays open. Where it matters that it is the one that is there, call ``refresh``.
    """

    def __init__(self, name: str, folder: int, about: bytes) -> None:
        self._name = name
        self._folder = folder
        self._about = about
        self._fd: int | None = None
        self._writable = False
        self._unsynced = False
        self._mutex = threading.Lock()

    def read(self) -> int | None:
        """Return the number, or None where there is none that is whole."""
        with self._mutex:
            if not self._open(writes=False):
                return None
            assert self._fd is not None
            for _ in range(2):  # once more, for somebody may be writing it just now
                data = io.read_at(self._fd, 0, _WHOLE.size)
                if len(data) == _WHOLE.size:
                    number, crc = _WHOLE.unpack(data)
                    if crc == self._crc(number):
                        return int(number)
            return None

    def write(self, number: int) -> None:
        """Set the number, and do not sync it."""
        with self._mutex:
            self._open(writes=True)
            assert self._fd is not None
            io.write_all(self._fd, _WHOLE.pack(number, self._crc(number)), 0)
            self._unsynced = True

    def sync(self) -> None:
        """Make durable what was written here."""
        with self._mutex:
            if self._unsynced and self._fd is not None:
                io.fdatasync(self._fd)
                self._unsynced = False

    def refresh(self) -> None:
        """Let go of a file that was removed: what others write is elsewhere."""
        with self._mutex:
            if self._fd is not None and not os.fstat(self._fd).st_nlink:
                self._close()

    def close(self) -> None:
        """Close the file, if it is open."""
        with self._mutex:
            self._close()

    def _close(self) -> None:
        if self._fd is not None:
            io.close(self._fd)
            self._fd = None

    def _open(self, *, writes: bool) -> bool:
        if self._fd is not None:
            if self._writable or not writes:
                return True
            self._close()
        if writes:
            self._fd = io.open_for_append(self._name, self._folder)
            if self._fd is None:
                self._fd = io.create_file(self._name, self._folder)
        else:
            self._fd = io.open_file(self._name, self._folder)
        self._writable = writes
        return self._fd is not None

    def _crc(self, number: int) -> int:
        return zlib.crc32(_NUMBER.pack(number), zlib.crc32(self._about))
