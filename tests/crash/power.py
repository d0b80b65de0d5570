"""A disk that loses power: remembers what was not yet synced, so that it can be taken back.

``Recorder`` goes between the file backend and the system in a process that will be killed. It notes
every change before it is made, and every sync. ``cut_power`` then does to the folder what a power
failure may do: changes that no sync covered are undone, all of them or some, or sector by sector.
Several processes may be recorded into one log.
"""

from __future__ import annotations

import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

from datahike_async.konserve.backends import file_io

__all__ = ["Recorder", "cut_power"]

_LENGTH = struct.Struct(">I")
_SECTOR = 512


class Recorder:
    """Notes changes of one store's folder in ``log``; keeps what they replace in ``undo``."""

    def __init__(self, log: Path, undo: Path) -> None:
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.undo = str(undo)
        self.count = 0
        for name in (
            "create_file",
            "write_all",
            "fsync",
            "fdatasync",
            "sync_folder",
            "rename",
            "unlink",
        ):
            setattr(self, "_" + name, getattr(file_io, name))
            setattr(file_io, name, getattr(self, name))

    def note(self, *event: Any) -> None:
        data = pickle.dumps(event)
        # One write: a kill leaves the whole note or none of it.
        os.write(self.log, _LENGTH.pack(len(data)) + data)

    def keep(self, name: str, folder: int) -> str | None:
        """Hold on to a file that is about to lose its name."""
        self.count += 1
        kept = os.path.join(self.undo, str(self.count))
        try:
            os.link(name, kept, src_dir_fd=folder)
        except FileNotFoundError:
            return None
        return kept

    def create_file(self, name: str, folder: int) -> int:
        self.note("create", name)
        return self._create_file(name, folder)

    def write_all(self, fd: int, data: Any, at: int) -> None:
        status = os.fstat(fd)
        old = os.pread(fd, len(data), at)
        self.note("write", status.st_ino, at, old, status.st_size, len(data))
        self._write_all(fd, data, at)

    def fsync(self, fd: int) -> None:
        self._fsync(fd)
        self.note("sync", os.fstat(fd).st_ino)

    def fdatasync(self, fd: int) -> None:
        self._fdatasync(fd)
        self.note("sync", os.fstat(fd).st_ino)

    def sync_folder(self, folder: int) -> None:
        self._sync_folder(folder)
        self.note("sync-folder")

    def rename(self, old: str, new: str, folder: int) -> None:
        self.note("rename", old, new, self.keep(new, folder))
        self._rename(old, new, folder)

    def unlink(self, name: str, folder: int) -> bool:
        kept = self.keep(name, folder)
        if kept is not None:
            self.note("unlink", name, kept)
        return self._unlink(name, folder)


def _events(log: Path) -> list[Any]:
    data = log.read_bytes()
    out, at = [], 0
    while at + 4 <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        if at + 4 + length > len(data):
            break  # killed while noting what it then did not do
        out.append(pickle.loads(data[at + 4 : at + 4 + length]))
        at += 4 + length
    return out


def cut_power(store: Path, log: Path, rng: random.Random) -> int:
    """Undo changes that no sync covered; return how many were undone.

    One time in five nothing is lost (a mere kill), in two all, in one each change by the toss of a
    coin, in one each sector.
    """
    mode = rng.choice(("nothing", "all", "all", "some", "torn"))
    if mode == "nothing":
        return 0
    synced: set[int] = set()
    folder_synced = False
    undone = 0
    for event in reversed(_events(log)):
        kind = event[0]
        if kind == "sync":
            synced.add(event[1])
        elif kind == "sync-folder":
            folder_synced = True
        elif kind == "write":
            if event[1] in synced:
                continue
            if mode == "torn":
                undone += _tear(store, rng, *event[1:])
            elif mode == "all" or rng.random() < 0.5:
                undone += _unwrite(store, *event[1:5])
        elif not folder_synced and (mode == "all" or rng.random() < 0.5):
            undone += _undo_name(store, event)
    return undone


def _unwrite(store: Path, inode: int, at: int, old: bytes, size: int) -> int:
    for entry in os.scandir(store):
        if entry.inode() == inode:
            with open(entry.path, "r+b") as file:
                if old:
                    file.seek(at)
                    file.write(old)
                file.truncate(max(size, 0))
            return 1
    return 0


def _tear(
    store: Path, rng: random.Random, inode: int, at: int, old: bytes, size: int, length: int
) -> int:
    """Undo a write sector by sector; where there was nothing before, zeros are left."""
    for entry in os.scandir(store):
        if entry.inode() == inode:
            old = old.ljust(length, b"\0")
            with open(entry.path, "r+b") as file:
                place = at
                while place < at + length:
                    end = min(place - place % _SECTOR + _SECTOR, at + length)
                    if rng.random() < 0.5:
                        file.seek(place)
                        file.write(old[place - at : end - at])
                    place = end
            return 1
    return 0


def _undo_name(store: Path, event: Any) -> int:
    kind = event[0]
    if kind == "create":
        (store / event[1]).unlink(missing_ok=True)
    elif kind == "rename":
        _, old, new, kept = event
        if (store / new).exists() and not (store / old).exists():
            os.rename(store / new, store / old)
            if kept is not None:
                os.link(kept, store / new)
    elif not (store / event[1]).exists():
        os.link(event[2], store / event[1])
    return 1
