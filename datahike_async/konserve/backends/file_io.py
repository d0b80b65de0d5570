"""The blocking calls of the file backend: files relative to a folder handle, written to last.

Every function either did all of it or raised. Errors of the system become konserve's here: no
space left is ``StoreFull``, a read-only file system ``StoreDenied`` (the store stays usable), any
other one ``StoreIOError``.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final

from datahike_async.konserve.errors import (
    StoreDenied,
    StoreFull,
    StoreIOError,
    UnsupportedOperation,
)

try:
    import fcntl
except ImportError:  # Windows; whoever opens a store there is told so
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "exists",
    "fdatasync",
    "fsync",
    "harmless",
    "read_at",
    "require_locks",
    "settle_file",
    "settle_folder",
    "sync_folder",
    "system_errors",
    "temporary_file",
    "unlink",
    "write_all",
]

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
TEMPORARY: Final = ".new"

# O_NOFOLLOW: a link that was slipped in must not lead out of the folder.
_ALWAYS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_READ: Final = os.O_RDONLY | _ALWAYS
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | _ALWAYS

# There is no sync of this kind here.
_NO_SUCH_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOTTY, errno.EROFS})
# They speak of this process, of a name or of rights, and not of bytes that may be lost.
_HARMLESS: Final = frozenset(
    {
        errno.EACCES,
        errno.EAGAIN,
        errno.ELOOP,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ENFILE,
        errno.ENOENT,
        errno.ENOLCK,
        errno.ENOMEM,
        errno.ENOTDIR,
        errno.EPERM,
    }
)


class system_errors:  # noqa: N801  # it reads as a statement
    """Translate an OSError that leaves the block, in which ``what`` is done."""

    # No generator: every commit and every read enters one or two.
    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, OSError):
            return
        what = self._what
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(
                f"No space is left for {what}: {error.strerror}. Nothing of it was stored; make "
                "room and try again.",
                errno=error.errno,
            ) from error
        if error.errno == errno.EROFS:
            raise StoreDenied(
                f"{what} is not possible on a read-only file system; nothing was written.",
                errno=error.errno,
            ) from error
        raise StoreIOError(f"{what} failed: {error}", errno=error.errno) from error


def require_locks(kind: str) -> None:
    """Raise UnsupportedOperation where the system has no locks that end with their process."""
    if fcntl is None:
        raise UnsupportedOperation(
            f"A store :{kind} needs POSIX file locks (the module fcntl), which this system, "
            "probably Windows, does not have. Use another backend here, s3 for instance, or run "
            "under WSL."
        )


def harmless(error: StoreIOError) -> bool:
    """Say whether an error tells nothing about the disk, so that a store can go on after it."""
    return error.data.get("errno") in _HARMLESS


def exists(name: str, folder: int) -> bool:
    """Say whether there is a file of this name."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def open_file(name: str, folder: int) -> int | None:
    """Open a file for reading; None where there is none."""
    try:
        return os.open(name, _READ, dir_fd=folder)
    except FileNotFoundError:
        return None


def open_for_append(name: str, folder: int) -> int | None:
    """Open an existing file for reading and writing; None where there is none."""
    try:
        return os.open(name, os.O_RDWR | _ALWAYS, dir_fd=folder)
    except FileNotFoundError:
        return None


def create_file(name: str, folder: int) -> int:
    """Create a file that must not exist and open it."""
    return os.open(name, _CREATE, FILE_MODE, dir_fd=folder)


def read_at(fd: int, start: int, count: int) -> bytes:
    """Read up to ``count`` bytes from ``start``; fewer only at the end of the file."""
    data = os.pread(fd, count, start)
    if len(data) == count or not data:
        return data
    parts = [data]
    got = len(data)
    while got < count:
        more = os.pread(fd, count - got, start + got)
        if not more:
            break
        parts.append(more)
        got += len(more)
    return b"".join(parts)


def write_all(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write until every byte is out; a short write is not an error, nor the end."""
    while (written := os.pwrite(fd, data, at)) < len(data):
        if written <= 0:
            raise OSError(errno.EIO, "a write made no progress")
        at += written
        data = memoryview(data)[written:]


def fsync(fd: int) -> None:
    """Make a file's bytes and length durable."""
    if not _synced_through(fd):
        os.fsync(fd)


def fdatasync(fd: int) -> None:
    """Make a file's bytes durable, and its length where that changed."""
    if not _synced_through(fd):
        getattr(os, "fdatasync", os.fsync)(fd)


def sync_folder(folder: int) -> None:
    """Make the names of a folder durable."""
    if not _synced_through(folder):
        os.fsync(folder)


def _synced_through(fd: int) -> bool:
    """Sync where fsync leaves data in the memory of the drive (macOS); False elsewhere."""
    command = getattr(fcntl, "F_FULLFSYNC", None)
    if command is None:
        return False
    try:
        fcntl.fcntl(fd, command)
    except OSError as error:
        if error.errno not in _NO_SUCH_SYNC:
            raise
        return False
    return True


def settle_file(fd: int) -> None:
    """Make durable what others wrote to a file that is open for reading."""
    _settle(fdatasync, fd)


def settle_folder(folder: int) -> None:
    """Make durable how others named the files of a folder."""
    _settle(sync_folder, folder)


def _settle(sync: Callable[[int], None], fd: int) -> None:
    try:
        sync(fd)
    except OSError as error:
        # What nothing can be written to has nothing to be synced; some systems call that an error.
        if error.errno not in _NO_SUCH_SYNC or not os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            raise


def temporary_file(folder: int, parts: list[bytes]) -> str:
    """Write a new durable file under a name of its own and return the name.

    A file whose sync failed is removed: it must never get a name that counts.
    """
    name = secrets.token_hex(12) + TEMPORARY
    fd = create_file(name, folder)
    try:
        try:
            at = 0
            for part in parts:
                write_all(fd, part, at)
                at += len(part)
            fsync(fd)
        finally:
            close(fd)
    except BaseException:
        unlink(name, folder)
        raise
    return name


def close(fd: int) -> None:
    """Close a file. Raises nothing: it is closed in any case, and what counts was synced before."""
    with suppress(OSError):
        os.close(fd)


def rename(old: str, new: str, folder: int) -> None:
    """Give a file another name, atomically, in place of what had it."""
    os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)


def unlink(name: str, folder: int) -> bool:
    """Remove a name and say whether it was there."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True
