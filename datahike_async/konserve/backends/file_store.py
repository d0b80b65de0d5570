"""An open folder of blobs, one file each, crash safe, shared by the processes of a machine.

A blob is written under a temporary name, synced, renamed, and the folder synced: a crash leaves the
old or the new bytes. Conditional writes compare and rename under the folder's lock. A blob file
begins with a stamp, fresh for every write, which with the end of its log is the revision. All
blocking calls of one operation run in one hop to a worker thread, which cancellation waits for.
Reading blobs and syncing new ones holds no lock, so commits do not wait for either.

Knows nothing of how stores are made, found and removed.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from typing import Any, Final, TypeVar

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.backends.file_guard import Guard
from datahike_async.konserve.backends.file_journal import Log, check_record, log_name, named_by
from datahike_async.konserve.base import BlobStoreBase
from datahike_async.konserve.blob import (
    ABSENT,
    UNCHANGED,
    Appended,
    Blob,
    Capabilities,
    ConditionalDomain,
    Expected,
    Journal,
    Revision,
    Turn,
    Unchanged,
    Write,
)
from datahike_async.konserve.errors import (
    CorruptValue,
    KonserveError,
    OutcomeUnknown,
    RevisionMismatch,
    UnsupportedEncoding,
)
from datahike_async.konserve.file_lock import LOCK_SECONDS, FolderLock
from datahike_async.konserve.loops import in_thread
from datahike_async.konserve.turns import Turns

__all__ = ["FileBlobStore"]

T = TypeVar("T")

_SUFFIX: Final = ".ksv"
_MAGIC: Final = b"KVF\x01"
_STAMP: Final = 12
_HEAD: Final = len(_MAGIC) + _STAMP
_PAGE: Final = 1000
_STALE_SECONDS: Final = 3600

_CAPABILITIES: Final = Capabilities(conditional=ConditionalDomain.MACHINE, journal=True, turns=True)


def _revision(stamp: bytes, end: int) -> Revision:
    return f"{stamp.hex()}.{end}"


class FileBlobStore(BlobStoreBase):
    """An open folder of blobs; another process's lock on it is waited for ``lock_seconds``.

    ``steps`` is called with the name of each step, for crash tests.
    """

    def __init__(
        self,
        path: str,
        *,
        lock_seconds: float = LOCK_SECONDS,
        steps: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._guard = Guard(FolderLock(self._folder, path), lock_seconds)
        self._turns = Turns(self._folder, path, lock_seconds)
        # Open logs by name; touched exclusively.
        self._logs: dict[str, Log] = {}
        self._steps = steps

    @property
    def capabilities(self) -> Capabilities:
        """What this store promises."""
        return _CAPABILITIES

    def _step(self, name: str) -> None:
        if self._steps is not None:
            self._steps(name)

    async def _hop(self, call: Callable[..., T], *args: Any) -> T:
        self._guard.refuse_closed()
        return await in_thread(self._guard.run, call, args)

    @contextmanager
    def exclusive(self) -> Iterator[int]:
        """Keep out other threads and other processes; yields the handle of the folder."""
        with self._guard.exclusive():
            yield self._folder

    def _passing(self, name: str, expected: Expected) -> AbstractContextManager[None]:
        return nullcontext() if expected is None else self._turns.passing(name)

    def turn(self, name: str) -> AbstractAsyncContextManager[Turn]:
        """Wait until it is the caller's turn to write a name, among all processes."""
        self._guard.refuse_closed()
        return self._turns.turn(name)

    # -- reading -------------------------------------------------------------------------------

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Return bytes and revision, or None."""
        return await self._hop(self._read, name, start, end)

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Return those that exist, in one hop."""
        return await self._hop(self._read_many, names)

    def _read_many(self, names: Sequence[str]) -> dict[str, Blob]:
        found = {name: self._read(name, 0, None) for name in names}
        return {name: blob for name, blob in found.items() if blob is not None}

    def _read(self, name: str, start: int, end: int | None) -> Blob | None:
        with io.system_errors(f"reading {name}"):
            found = self._load(name, start, end)
            if found is None:
                return None
            data, stamp = found
            if name in self._logs or io.exists(log_name(name, stamp), self._folder):
                with self._guard.exclusive():
                    return Blob(data, _revision(stamp, self._log_end(name, stamp)))
            return Blob(data, _revision(stamp, 0))

    def _load(self, name: str, start: int, end: int | None) -> tuple[bytes, bytes] | None:
        fd = io.open_file(name + _SUFFIX, self._folder)
        if fd is None:
            return None
        try:
            stamp = self._stamp(fd, name)
            size = os.fstat(fd).st_size - _HEAD
            stop = size if end is None else min(end, size)
            return io.read_at(fd, _HEAD + start, max(stop - start, 0)), stamp
        finally:
            os.close(fd)

    def _stamp(self, fd: int, name: str) -> bytes:
        head = io.read_at(fd, 0, _HEAD)
        if len(head) < _HEAD or not head.startswith(_MAGIC[:3]):
            raise CorruptValue(f"The file of {name} is none of ours, or was cut short.")
        if head[3] != _MAGIC[3]:
            raise UnsupportedEncoding(f"The file of {name} has a newer format ({head[3]}).")
        return head[len(_MAGIC) :]

    def _present(self, name: str) -> bytes | None:
        """Return the stamp of a blob, or None where there is none."""
        fd = io.open_file(name + _SUFFIX, self._folder)
        if fd is None:
            return None
        try:
            return self._stamp(fd, name)
        finally:
            os.close(fd)

    def _log(self, name: str, stamp: bytes, *, writes: bool = False) -> Log | None:
        """Return the open log of a blob's version, if there is one, read up to its end.

        Must be called exclusively: what is read is then what its writers have done with.
        """
        log = self._logs.get(name)
        if log is not None and log.stamp != stamp:
            self._logs.pop(name).close()
            log = None
        if log is None:
            log = Log.open(name, stamp, self._folder)
            if log is None:
                return None
            try:
                log.scan()
            except BaseException:
                log.close()
                raise
            self._logs[name] = log
        else:
            log.follow()
        if not log.settled or (writes and log.foreign):
            try:
                log.settle(self._folder)
            except OSError as error:
                # Reading must do on a full disk. The next append tries again.
                if writes or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
        return log

    def _log_end(self, name: str, stamp: bytes) -> int:
        log = self._log(name, stamp)
        return 0 if log is None else log.end

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over pages of names."""
        found = await self._hop(self._names)
        for start in range(0, len(found), _PAGE):
            yield found[start : start + _PAGE]

    def _names(self) -> list[str]:
        with io.system_errors("listing the store"):
            entries = os.listdir(self._folder)
        return sorted(e.removesuffix(_SUFFIX) for e in entries if e.endswith(_SUFFIX))

    # -- writing -------------------------------------------------------------------------------

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Replace a blob; durable on return."""
        return (await self._hop(self._write_many, [Write(name, data, expected)]))[0]

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write in order, in one hop: what has no condition is synced together."""
        return await self._hop(self._write_many, writes)

    def _write_many(self, writes: Sequence[Write]) -> list[Revision]:
        revisions: list[Revision] = []
        temporaries: list[str] = []
        waiting: list[tuple[str, str]] = []
        try:
            for write in writes:
                stamp = secrets.token_bytes(_STAMP)
                with io.system_errors(f"writing {write.name}"):
                    temporary = io.temporary_file(self._folder, [_MAGIC + stamp, write.data])
                temporaries.append(temporary)
                self._step("file-synced")
                if write.expected is None:
                    waiting.append((temporary, write.name))
                else:
                    # What comes before a condition must be durable when it is published.
                    self._publish_all(waiting)
                    waiting = []
                    self._publish(temporary, write)
                revisions.append(_revision(stamp, 0))
            self._publish_all(waiting)
        except BaseException:
            for temporary in temporaries:  # those that were published have this name no more
                with suppress(OSError):
                    io.unlink(temporary, self._folder)
            raise
        return revisions

    def _publish_all(self, files: list[tuple[str, str]]) -> None:
        if not files:
            return
        old: list[tuple[str, bytes]] = []
        with self._guard.exclusive():
            for temporary, name in files:
                with io.system_errors(f"publishing {name}"):
                    _, stamp = self._check(name, None)
                    io.rename(temporary, name + _SUFFIX, self._folder)
                    if stamp is not None:
                        old.append((name, stamp))
            self._step("renamed")
            self._settle_folder()
            self._forget_logs(old)

    def _publish(self, temporary: str, write: Write) -> None:
        name = write.name
        with self._guard.exclusive(), self._passing(name, write.expected):
            with io.system_errors(f"publishing {name}"):
                _, before = self._check(name, write.expected)
                self._step("locked")
                io.rename(temporary, name + _SUFFIX, self._folder)
            self._step("renamed")
            self._settle_folder()
            if before is not None:
                self._forget_logs([(name, before)])

    def _settle_folder(self) -> None:
        try:
            io.sync_folder(self._folder)
        except OSError as error:
            # What the folder now says may or may not outlive a crash: only a later open can tell.
            raise OutcomeUnknown(
                f"The folder could not be synced after a change: {error}"
            ) from error
        self._step("folder-synced")

    def _check(self, name: str, expected: Expected) -> tuple[bool, bytes | None]:
        """Compare, exclusively; return whether there is a blob, and its stamp."""
        try:
            stamp = self._present(name)
        except CorruptValue:
            if expected is None:
                return True, None  # damage must not stand in the way of repair
            raise
        if expected is not None:
            found = None if stamp is None else _revision(stamp, self._log_end(name, stamp))
            if found != (None if expected is ABSENT else expected):
                raise RevisionMismatch(
                    f"{name} has revision {found}, not {expected}.", expected=expected, found=found
                )
        return stamp is not None, stamp

    def _forget_logs(self, old: Sequence[tuple[str, bytes]]) -> None:
        """Remove the logs of versions that are gone, now that this is durable."""
        for name, stamp in old:
            log = self._logs.get(name)
            if log is not None and log.stamp == stamp:
                self._logs.pop(name).close()
            with suppress(OSError):
                io.unlink(log_name(name, stamp), self._folder)

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove a blob and its log."""
        return (await self._hop(self._delete_many, [name], expected))[0]

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Remove blobs in one hop, with one sync."""
        return await self._hop(self._delete_many, names, None)

    def _delete_many(self, names: Sequence[str], expected: Expected) -> list[bool]:
        there: list[bool] = []
        old: list[tuple[str, bytes]] = []
        with self._guard.exclusive():
            for name in names:
                with self._passing(name, expected), io.system_errors(f"deleting {name}"):
                    found, stamp = self._check(name, expected)
                    there.append(found and io.unlink(name + _SUFFIX, self._folder))
                if stamp is not None:
                    old.append((name, stamp))
            if any(there):
                self._settle_folder()
            self._forget_logs(old)
        return there

    # -- journals ------------------------------------------------------------------------------

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append a record to a blob's log: one write and one sync.

        Raises ValueError for an empty record, UnsupportedOperation for one beyond 4 GiB.
        """
        return await self._hop(self._append, name, record, expected)

    def _append(self, name: str, record: bytes, expected: Revision) -> Revision:
        check_record(record)
        with self._guard.exclusive(), self._passing(name, expected):
            with io.system_errors(f"appending to {name}"):
                _, stamp = self._check(name, expected)
                if stamp is None:
                    raise RevisionMismatch(f"{name} does not exist.", expected=expected)
                log = self._log(name, stamp, writes=True)
                if log is None:
                    log = self._logs[name] = Log.create(name, stamp, self._folder)
                self._step("log-open")
                log.append(record)
            self._step("log-written")
            try:
                log.sync(record)
            except OSError as error:
                raise OutcomeUnknown(f"A record of {name} could not be synced: {error}") from error
            self._step("log-synced")
            return _revision(stamp, log.end)

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Return bytes, records and revision, or what is new, or None."""
        return await self._hop(self._read_journal, name, since)

    def _read_journal(
        self, name: str, since: Revision | None
    ) -> Journal | Appended | Unchanged | None:
        # Exclusively: the blob and its log must be of one moment.
        with self._guard.exclusive(), io.system_errors(f"reading {name}"):
            stamp = None if since is None else self._present(name)
            if stamp is not None:
                revision = _revision(stamp, self._log_end(name, stamp))
                if revision == since:
                    return UNCHANGED
                at, records = 0, Log.read(name, stamp, self._folder)
                for i, record in enumerate(records):
                    if _revision(stamp, at) == since:
                        return Appended(records[i:], revision)
                    at += 8 + len(record)
            found = self._load(name, 0, None)
            if found is None:
                return None
            data, stamp = found
            end = self._log_end(name, stamp)
            records = Log.read(name, stamp, self._folder) if end else []
            return Journal(data, records, _revision(stamp, end))

    # -- keeping house -------------------------------------------------------------------------

    def tidy(self) -> None:
        """Make durable what is there, and remove what interrupted writes left behind."""
        limit = time.time() - _STALE_SECONDS
        with self._guard.exclusive(), io.system_errors(f"opening the store {self.path}"):
            # A rename whose writer was killed counts from here on, and first of all must stay.
            io.sync_folder(self._folder)
            for entry in os.listdir(self._folder):
                with suppress(OSError, KonserveError):
                    if self._is_left_over(entry, limit):
                        io.unlink(entry, self._folder)

    def _is_left_over(self, entry: str, limit: float) -> bool:
        if entry.endswith(io.TEMPORARY):
            return os.stat(entry, dir_fd=self._folder, follow_symlinks=False).st_mtime < limit
        owner = named_by(entry)
        return owner is not None and self._present(owner[0]) != owner[1]

    async def close(self) -> None:
        """Close all files once no call is under way; further calls raise StoreClosed."""
        if not self._guard.closed:
            self._guard.closed = True
            await in_thread(self.close_now, surely=True)

    def close_now(self) -> None:
        """Close all files, in the present thread."""
        self._guard.end()
        self._turns.close()
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)
