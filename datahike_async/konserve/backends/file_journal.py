"""One log: the records appended to one version of a blob, a small sync each.

A log belongs to one version of its blob: its name has the blob's stamp, so a blob that is replaced
leaves its old log behind, which nobody then reads. Frames are laid into space that was filled with
zeros before, so that a record costs one write and one ``fdatasync`` that has no length to update.
A mark beside the log says up to where it is durable: less is damage, and more is synced before it
is shown or appended to.

Reading takes no lock: what a writer is just writing looks damaged for a moment, and is looked at
again. Damage is never written over.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Final, NamedTuple

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.backends.file_frames import HEADER, LARGEST, Found, Frames
from datahike_async.konserve.backends.file_mark import Mark
from datahike_async.konserve.errors import CorruptValue, UnsupportedOperation

__all__ = [
    "START",
    "Log",
    "News",
    "Place",
    "check_record",
    "log_name",
    "mark_name",
    "named_by",
    "remove",
]

ROOM: Final = 64 * 1024
"""Bytes of zeros that are written at a time."""
_LOG: Final = ".log"
_MARK: Final = ".mark"
_SALVAGE: Final = (
    'Nothing was changed. To read what is whole, open the store with "salvage" true: that shows '
    "the records before the damage and writes nothing."
)
_LOOKS: Final = 5
_PAUSE: Final = 0.002
"""What looks damaged counts as such when it has looked the same so many times, so far apart."""


def log_name(name: str, stamp: bytes) -> str:
    """Return the name of the log of a blob's version."""
    return f"{name}.{stamp.hex()}{_LOG}"


def mark_name(name: str, stamp: bytes) -> str:
    """Return the name of the mark of this log."""
    return f"{name}.{stamp.hex()}{_MARK}"


def named_by(entry: str) -> tuple[str, bytes] | None:
    """Return the name and stamp of a log's or a mark's file name; None for other files."""
    base = entry.removesuffix(_LOG).removesuffix(_MARK)
    name, _, stamp = base.partition(".")
    if base == entry or not stamp:
        return None
    try:
        return name, bytes.fromhex(stamp)
    except ValueError:
        return None


def check_record(record: bytes) -> None:
    """Raise for a record that no frame can hold."""
    if not record:
        raise ValueError("a record of a journal has at least one byte")
    if len(record) > LARGEST:
        raise UnsupportedOperation(f"A record of a journal has at most {LARGEST} bytes.")


class Place(NamedTuple):
    """The end of a record, and the CRC of its frame.

    The CRC tells it from another one of this length, in the place of one that was taken back.
    """

    end: int
    crc: int


START: Final = Place(0, 0)
"""Before the first record."""


class News(NamedTuple):
    """Records that were not known before, between two places."""

    start: Place
    records: list[bytes]
    end: Place


class Log:
    """One open log, read up to ``end``; ``crc`` and ``last`` are those of the last frame there.

    Any thread may call ``follow``, ``show`` and ``read_on``. The rest is for whoever has the lock
    of the store: ``prepare``, ``append`` and ``sync``, in this order.
    """

    def __init__(
        self, name: str, stamp: bytes, folder: int, fd: int, mark: Mark, *, salvage: bool = False
    ) -> None:
        self.stamp = stamp
        self._salvage = salvage
        self.end = 0
        self._name = name
        self._folder = folder
        self._frames = Frames(stamp)
        self._crc = self._frames.crc
        self._last = 0
        self._torn = 0
        self._count = 0
        # Up to where it is known to be durable; whether its name is.
        self._durable = 0
        # Up to where its writer takes nothing back; and the end of what was taken back.
        self._kept = 0
        self._gone: int | None = None
        self._named = False
        self._scanned = False
        self._fd = fd
        try:
            self._inode = os.fstat(fd).st_ino
        except BaseException:
            mark.close()
            io.close(fd)
            raise
        self._writing: int | None = None
        self._room = 0
        self._appended = (0, 0, 0)
        self._mark = mark
        self._marked = False
        self._mutex = threading.Lock()
        # How many use it; closed by the last one after it was retired.
        self.users = 0
        self.retired = False

    @classmethod
    def open(cls, name: str, stamp: bytes, folder: int, *, salvage: bool = False) -> Log | None:
        """Open the log of a blob's version; None where it has none yet.

        With ``salvage`` what is damaged ends it, and one that is missing is none.

        Raises CorruptValue where there was one; the caller makes sure that the blob still has this
        version.
        """
        mark = Mark(mark_name(name, stamp), folder, stamp)
        # The mark first: where it is, the log was.
        durable = mark.read()
        fd = io.open_file(log_name(name, stamp), folder)
        if fd is not None:
            return cls(name, stamp, folder, fd, mark, salvage=salvage)
        mark.close()
        if durable and not salvage:
            raise CorruptValue(
                f"The log {log_name(name, stamp)} is missing; {durable} bytes of it were durable "
                f"once. Bring it back. {_SALVAGE}",
                place=log_name(name, stamp),
                records=0,
            )
        return None

    @classmethod
    def create(cls, name: str, stamp: bytes, folder: int) -> Log:
        """Make the log of a blob's version, which must have none; durable and full of zeros."""
        fd = io.create_file(log_name(name, stamp), folder)
        try:
            log = cls(name, stamp, folder, fd, Mark(mark_name(name, stamp), folder, stamp))
        except BaseException:
            remove(name, stamp, folder)
            raise
        try:
            log._writing = os.dup(fd)
            log._make_room(1)
            log._mark.write(0)
            io.sync_folder(folder)
        except BaseException:
            log.close()
            remove(name, stamp, folder)
            raise
        log._named = log._scanned = True
        return log

    def sync_mark(self) -> None:
        """Make durable what the mark says."""
        with suppress(OSError):
            self._mark.sync()

    def close(self) -> None:
        """Close the files."""
        self._mark.close()
        io.close(self._fd)
        if self._writing is not None:
            io.close(self._writing)

    # -- reading -------------------------------------------------------------------------------

    def follow(self) -> News:
        """Read on, and return what was found.

        Raises CorruptValue where the log is damaged.
        """
        with self._mutex:
            return self._follow()

    def _follow(self) -> News:
        if self.end > self._kept and not self._last_frame():
            # Its writer could not sync it and took it back, whatever a sync here seemed to do.
            self._gone, self._durable = self.end, min(self._durable, self._kept)
            self._rewind()
        if not self._may_have_grown():
            place = self.place
            return News(place, [], place)
        found = self._look()
        for _ in range(_LOOKS):
            if not found.damage:
                break
            # Somebody may be writing it just now; or took back what could not be synced.
            time.sleep(_PAUSE)
            self._rewind()
            found = self._look()
        if found.damage and not self._salvage:
            raise self._damaged(found)
        start = self.place
        self._scanned, self._torn = True, found.torn
        if found.records:
            self.end, self._crc, self._last = found.end, found.crc, found.last
            self._count += len(found.records)
        return News(start, found.records, self.place)

    @property
    def place(self) -> Place:
        """Where the log was read up to."""
        return Place(self.end, self._crc) if self.end else START

    def _may_have_grown(self) -> bool:
        """Whether there may be anything behind ``end``."""
        # Before what it speaks of is read: then it cannot be ahead of that.
        marked = self._mark.read()
        if marked:
            self._durable = max(self._durable, marked)
            self._kept = max(self._kept, marked)
            self._named = True
        if not self._scanned or self._durable > self.end:
            return True
        return io.read_at(self._fd, self.end, HEADER) != bytes(HEADER)

    def _look(self) -> Found:
        size = os.fstat(self._fd).st_size
        if self._scanned and self.end < self._durable < size:
            # Most often there is nothing behind what is marked as durable but zeros, many of them.
            data = io.read_at(self._fd, self.end, self._durable - self.end + HEADER)
            found = self._frames.walk(data, self.end, self._crc)
            if found.end == self._durable and data.endswith(bytes(HEADER)):
                return found
        data = io.read_at(self._fd, self.end, max(size - self.end, 0))
        return self._frames.read(data, self.end, self._crc, self._durable)

    def _rewind(self) -> None:
        self.end = self._last = self._count = 0
        self._crc = self._frames.crc
        self._scanned = False

    def _last_frame(self) -> bytes:
        """Return the bytes of the last frame that was read, or none where it is there no more."""
        frame = io.read_at(self._fd, self._last, self.end - self._last)
        found = self._frames.walk(frame, self._last)
        return frame if (found.end, found.crc) == (self.end, self._crc) else b""

    def _damaged(self, found: Found) -> CorruptValue:
        whole = self._count + len(found.records)
        further = f" and {found.behind} behind the damage" if found.behind else ""
        place = log_name(self._name, self.stamp)
        return CorruptValue(
            f"The log {place} is damaged at byte {found.end}: {found.damage}. {whole} records "
            f"before it are whole{further}. Restore the file from a backup. {_SALVAGE}",
            place=place,
            at=found.end,
            records=whole,
        )

    def read_on(self, at: Place | None) -> tuple[list[bytes], Place] | None:
        """Return the records from ``at`` on, if it is given, and up to where the log is shown.

        None where the record before ``at`` was taken back. Raises CorruptValue where the log is
        damaged, or shorter than ``at``.
        """
        news = self.follow()
        end = self.show()
        if at is None or at == end:
            return [], end
        if at.end > news.end.end:
            if at.end == self._gone:
                return None
            damage = f"it went up to byte {at.end} before"
            raise self._damaged(Found([], self.end, self._last, self._crc, damage=damage))
        if at.end >= end.end:
            # Is it what could not be synced here, which the caller has?
            return ([], at) if at == news.end else None
        if (news.start, news.end) == (at, end):
            return news.records, end
        found = self._walk(at, end)
        if found.end == end.end:
            return found.records, end
        whole = self._walk(START, end)
        if whole.end == end.end:
            return None
        # It was damaged since it was read first.
        raise self._damaged(whole._replace(damage="no record begins or ends there any more"))

    def _walk(self, start: Place, end: Place) -> Found:
        data = io.read_at(self._fd, start.end, end.end - start.end)
        return self._frames.walk(data, start.end, start.crc if start.end else None)

    def show(self) -> Place:
        """Make durable what others wrote, and return up to where the log may be shown.

        Where that fails, it may be up to its last record: whoever appended that had synced the ones
        before.
        """
        with self._mutex:
            if self.end > self._durable:
                try:
                    io.settle_file(self._fd)
                    self._settle_name()
                except OSError:
                    before = self._frames.walk(io.read_at(self._fd, 0, self._last), 0)
                    return Place(before.end, before.crc) if before.end else START
                self._durable = self.end
            return self.place

    def _settle_name(self) -> None:
        if not self._named:
            io.settle_folder(self._folder)
            self._named = True

    # -- writing -------------------------------------------------------------------------------

    def prepare(self) -> Place:
        """Make sure that a frame at ``end`` counts, and return that place: all before is durable.

        Only the last frame may have waited for a sync, for whoever appends does this first. It is
        written again: after a sync that failed, the next one says nothing about what that one lost.
        """
        with self._mutex:
            fd = self._open_for_writing()
            self._follow()
            if self.end > self._kept:
                io.write_all(fd, self._last_frame(), self._last)
                io.fdatasync(fd)
                self._durable = self._kept = self.end
            if self._torn:
                # What is left of an interrupted write must not look like a part of the next one.
                io.write_all(fd, bytes(self._torn), self.end)
                io.fdatasync(fd)
                self._torn = 0
            if not self._named:
                io.sync_folder(self._folder)
                self._named = True
            return self.place

    def _open_for_writing(self) -> int:
        if self._writing is None:
            self._writing = io.open_for_append(log_name(self._name, self.stamp), self._folder)
        there = None if self._writing is None else os.fstat(self._writing)
        if there is None or not there.st_nlink or there.st_ino != self._inode:
            place = log_name(self._name, self.stamp)
            raise CorruptValue(
                f"The log {place} was removed or replaced while it was in use. Bring it back.",
                place=place,
                records=self._count,
            )
        assert self._writing is not None
        if there.st_size > self._room:
            # Whoever made this room may have died before it was synced: after a power cut, what is
            # laid into it would go beyond the end of the file, and look cut off.
            io.fsync(self._writing)
        self._room = there.st_size
        return self._writing

    def _make_room(self, count: int) -> None:
        # The end of the last frame needs zeros behind it too: they say that nothing follows.
        needed = self.end + count + HEADER
        if needed <= self._room:
            return
        assert self._writing is not None
        target = -(-needed // ROOM) * ROOM
        io.write_all(self._writing, bytes(target - self._room), self._room)
        io.fsync(self._writing)
        self._room = target

    def append(self, record: bytes) -> None:
        """Write one frame at ``end``; it counts once ``sync`` has returned."""
        assert self._writing is not None
        frame, crc = self._frames.frame(record, self.end, self._crc)
        self._make_room(len(frame))
        self._appended = (self.end, len(frame), crc)
        io.write_all(self._writing, frame, self.end)

    def sync(self) -> Place:
        """Make the frame durable and return its place. Raises OSError."""
        assert self._writing is not None
        start, length, crc = self._appended
        try:
            io.fdatasync(self._writing)
        except OSError:
            # The system may now take it for synced, and so would those who read it.
            with suppress(OSError):
                io.write_all(self._writing, bytes(length), start)
            raise
        end = start + length
        with self._mutex:
            # A reader of this process may have got as far meanwhile.
            if self.end == start:
                self.end, self._crc, self._last = end, crc, start
                self._count += 1
            self._durable = self._kept = end
        try:
            self._mark.write(end)
            if not self._marked:
                # From the first record on it is known that there is a log.
                self._mark.sync()
                self._marked = True
        except OSError:
            pass  # what it fails to say, readers find out by a sync of their own
        return Place(end, crc)


def remove(name: str, stamp: bytes, folder: int) -> None:
    """Remove a log that no blob names any more."""
    for entry in (log_name(name, stamp), mark_name(name, stamp)):
        with suppress(OSError):
            io.unlink(entry, folder)
