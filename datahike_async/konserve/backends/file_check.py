"""Looking over the files of a folder beyond what reading its blobs looks at. Nothing is written.

Reading a blob checks its header, and its log as far as the log's end. Here every log is read to the
end of its file, whatever names it: behind the end there are zeros. Marks, and what the files of
locks say, are looked at too: who meets a damaged one knows nothing and goes without, so it does no
harm, but a byte of it is not what was written. What interrupted writes left under temporary names
is read by nobody and not looked at.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Final

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.backends.file_frames import Frames
from datahike_async.konserve.backends.file_journal import log_name, mark_name, named_by
from datahike_async.konserve.backends.file_mark import Mark
from datahike_async.konserve.backends.file_names import SETTLED
from datahike_async.konserve.blob import Fault
from datahike_async.konserve.file_lock import LOCK, is_record
from datahike_async.konserve.turns import TURN_FILES

__all__ = ["folder_faults"]

_LOOKS: Final = 8
_PAUSE: Final = 0.005
_MARK_BYTES: Final = 12


def folder_faults(folder: int, marker: str | None, look: Callable[[], object]) -> list[Fault]:
    """Return what is wrong with the files of a folder, whose handle is given.

    ``marker`` is the file that says what the folder is. ``look`` is called before each file. What
    looks wrong counts once it has looked so for a while: somebody may be writing it.
    """
    found = [] if marker is None else _marker(folder, marker)
    found += _lasting(partial(_mark, folder, SETTLED, b"names"))
    for entry in (LOCK, *TURN_FILES):
        found += _lasting(partial(_lock, folder, entry))
    for entry in sorted(os.listdir(folder)):
        owner = named_by(entry)
        if owner is None:
            continue
        look()
        name, stamp = owner
        if entry == log_name(name, stamp):
            found += _lasting(partial(_log, folder, name, stamp))
        else:
            found += _lasting(partial(_mark, folder, entry, stamp))
    return found


def _lasting(look: Callable[[], list[Fault]]) -> list[Fault]:
    found = look()
    for _ in range(_LOOKS):
        if not found:
            return []
        time.sleep(_PAUSE)
        found = look()
    return found


def _bytes(folder: int, entry: str) -> bytes | None:
    fd = io.open_file(entry, folder)
    if fd is None:
        return None
    try:
        return io.read_at(fd, 0, os.fstat(fd).st_size)
    finally:
        io.close(fd)


def _marker(folder: int, entry: str) -> list[Fault]:
    """Compare the marker with the only text that says what it says."""
    text = _bytes(folder, entry)
    words = [] if text is None else text.decode("utf-8", "replace").split()
    said = " ".join(words[:-1])
    if text == f"{said} {zlib.crc32(said.encode()):08x}\n".encode():
        return []
    return [Fault(entry, "the file is not as it was written: its checksum, or its form, is wrong")]


def _mark(folder: int, entry: str, about: bytes) -> list[Fault]:
    data = _bytes(folder, entry)
    if data is None:
        return []
    mark = Mark(entry, folder, about)
    try:
        if len(data) == _MARK_BYTES and mark.read() is not None:
            return []
    finally:
        mark.close()
    return [Fault(entry, "the mark is damaged; it does no harm, and the next write sets it anew")]


def _lock(folder: int, entry: str) -> list[Fault]:
    data = _bytes(folder, entry)
    if not data or is_record(data):
        return []
    return [Fault(entry, "what it says of who has the lock is damaged; it does no harm")]


def _log(folder: int, name: str, stamp: bytes) -> list[Fault]:
    entry = log_name(name, stamp)
    mark = Mark(mark_name(name, stamp), folder, stamp)
    try:
        # The mark first: where it is, the log was.
        durable = mark.read() or 0
    finally:
        mark.close()
    data = _bytes(folder, entry)
    if data is None:
        return []  # replaced meanwhile; one that is missing shows where the blob is read
    frames = Frames(stamp)
    found = frames.read(data, 0, frames.crc, durable)
    if found.damage:
        further = f" ({found.behind} whole records behind it)" if found.behind else ""
        return [Fault(entry, f"damaged at byte {found.end}: {found.damage}{further}")]
    if found.torn:
        at = next(i for i in range(found.end, len(data)) if data[i])
        return [
            Fault(
                entry,
                f"the free room behind its records is not zeros, from byte {at} on: damage, or "
                "what a write left that was interrupted; the next commit clears it",
            )
        ]
    return []
