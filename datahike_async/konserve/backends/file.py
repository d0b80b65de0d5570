"""The file backend: a folder of blobs, one file each, crash safe, shared by processes of a machine.

A blob is written under a temporary name, synced, renamed, and the folder synced: a crash leaves the
old or the new bytes. Conditional writes compare and rename under a lock file. A blob file begins
with a stamp, fresh for every write, which with the end of its log is the revision. All blocking
calls of one operation run in one hop to a worker thread, which cancellation waits for.

Layout: ``store`` (format and id), ``lock``, ``<name>.ksv``, ``<name>.<stamp>.log``, ``*.new`` (what
a crash left behind; ignored, and removed when it is old).
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from anyio.to_thread import run_sync

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.backends.file_journal import LARGEST, Log, log_name
from datahike_async.konserve.blob import (
    ABSENT,
    Blob,
    Capabilities,
    ConditionalDomain,
    Expected,
    Journal,
    Revision,
    Write,
)
from datahike_async.konserve.errors import (
    CorruptValue,
    KonserveError,
    OutcomeUnknown,
    RevisionMismatch,
    StoreClosed,
    StoreConfigError,
    StoreExists,
    StoreIOError,
    StoreNotFound,
    UnsupportedEncoding,
    UnsupportedOperation,
)

__all__ = ["FileBackend", "FileBlobStore"]

T = TypeVar("T")

_MARKER: Final = "store"
_LOCK: Final = "lock"
_SUFFIX: Final = ".ksv"
_FORMAT: Final = 1
_MAGIC: Final = b"KVF\x01"
_STAMP: Final = 12
_HEAD: Final = len(_MAGIC) + _STAMP
_PAGE: Final = 1000
_STALE_SECONDS: Final = 3600

_CAPABILITIES: Final = Capabilities(conditional=ConditionalDomain.MACHINE, journal=True)


def _revision(stamp: bytes, end: int) -> Revision:
    return f"{stamp.hex()}.{end}"


class FileBlobStore:
    """An open folder of blobs. ``steps`` is called with the name of each step, for crash tests."""

    def __init__(self, path: str, *, steps: Callable[[str], None] | None = None) -> None:
        self.path = path
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock_file = os.open(_LOCK, flags, io.FILE_MODE, dir_fd=self._folder)
        # flock does not keep threads of one descriptor apart.
        self._mutex = threading.Lock()
        self._logs: dict[str, Log] = {}
        self._broken: str | None = None
        self._closed = False
        self._steps = steps

    @property
    def capabilities(self) -> Capabilities:
        """What this store promises."""
        return _CAPABILITIES

    def _step(self, name: str) -> None:
        if self._steps is not None:
            self._steps(name)

    async def _hop(self, call: Callable[..., T], *args: Any) -> T:
        if self._closed:
            raise StoreClosed("This store was released; connect to it again.")
        return await run_sync(self._guarded, call, args)

    def _guarded(self, call: Callable[..., T], args: tuple[Any, ...]) -> T:
        with self._mutex:
            if self._closed:
                raise StoreClosed("This store was released; connect to it again.")
            if self._broken is not None:
                raise StoreClosed(
                    f"This store closed itself after an error of the disk ({self._broken}); open "
                    "it again."
                )
            try:
                return call(*args)
            except (StoreIOError, OutcomeUnknown) as error:
                self._broken = str(error)
                raise

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
            fd = io.open_file(name + _SUFFIX, self._folder)
            if fd is None:
                return None
            try:
                stamp = self._stamp(fd, name)
                if end is None:
                    end = os.fstat(fd).st_size - _HEAD
                data = io.read_at(fd, _HEAD + start, max(end - start, 0))
            finally:
                os.close(fd)
            return Blob(data, _revision(stamp, self._log_end(name, stamp)))

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

    def _log(self, name: str, stamp: bytes) -> Log | None:
        """Return the open log of a blob's version, if there is one, read up to its end."""
        log = self._logs.get(name)
        if log is not None and log.stamp != stamp:
            self._logs.pop(name).close()
            log = None
        if log is None:
            log = Log.open(name, stamp, self._folder)
            if log is None:
                return None
            self._logs[name] = log
            log.scan()
        else:
            log.followed()
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

    async def write_many(self, writes: Sequence[Write]) -> Sequence[Revision]:
        """Write in order, in one hop: what has no condition is synced together."""
        return await self._hop(self._write_many, writes)

    def _write_many(self, writes: Sequence[Write]) -> list[Revision]:
        revisions: list[Revision] = []
        waiting: list[tuple[str, str, bytes]] = []
        try:
            for write in writes:
                stamp = secrets.token_bytes(_STAMP)
                with io.system_errors(f"writing {write.name}"):
                    temporary = io.temporary_file(self._folder, [_MAGIC + stamp, write.data])
                self._step("file-synced")
                if write.expected is None:
                    waiting.append((temporary, write.name, stamp))
                else:
                    # What comes before a condition must be durable when it is published.
                    self._publish_all(waiting)
                    waiting = []
                    self._publish(temporary, write, stamp)
                revisions.append(_revision(stamp, 0))
            self._publish_all(waiting)
            waiting = []
        finally:
            for temporary, _, _ in waiting:
                with suppress(OSError):
                    io.unlink(temporary, self._folder)
        return revisions

    def _publish_all(self, files: list[tuple[str, str, bytes]]) -> None:
        if not files:
            return
        old: list[tuple[str, bytes]] = []
        with io.locked(self._lock_file):
            for temporary, name, _ in files:
                with io.system_errors(f"publishing {name}"):
                    stamp = self._present(name)
                    io.rename(temporary, name + _SUFFIX, self._folder)
                    if stamp is not None:
                        old.append((name, stamp))
            self._step("renamed")
            self._settle_folder()
        self._forget_logs(old)

    def _publish(self, temporary: str, write: Write, stamp: bytes) -> None:
        name = write.name
        try:
            with io.locked(self._lock_file):
                with io.system_errors(f"publishing {name}"):
                    before = self._check(name, write.expected)
                    self._step("locked")
                    io.rename(temporary, name + _SUFFIX, self._folder)
                self._step("renamed")
                self._settle_folder()
        except (KonserveError, OSError):
            with suppress(OSError):
                io.unlink(temporary, self._folder)
            raise
        if before is not None:
            self._forget_logs([(name, before)])

    def _settle_folder(self) -> None:
        try:
            io.sync_folder(self._folder)
        except OSError as error:
            # The new name may or may not outlive a crash: only a later open can tell.
            raise OutcomeUnknown(
                f"The folder could not be synced after a rename: {error}"
            ) from error
        self._step("folder-synced")

    def _check(self, name: str, expected: Expected) -> bytes | None:
        """Compare under the lock; return the stamp of what is there."""
        stamp = self._present(name)
        if expected is None:
            return stamp
        found = None if stamp is None else _revision(stamp, self._log_end(name, stamp))
        if found != (None if expected is ABSENT else expected):
            raise RevisionMismatch(
                f"{name} has revision {found}, not {expected}.", expected=expected, found=found
            )
        return stamp

    def _forget_logs(self, old: Sequence[tuple[str, bytes]]) -> None:
        """Remove the logs of versions that were replaced, now that this is durable."""
        for name, stamp in old:
            log = self._logs.get(name)
            if log is not None and log.stamp == stamp:
                self._logs.pop(name).close()
            with suppress(OSError):
                io.unlink(log_name(name, stamp), self._folder)

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove a blob and its log."""
        return await self._hop(self._delete, name, expected)

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Remove blobs in one hop."""
        return await self._hop(lambda: [self._delete(name, None) for name in names])

    def _delete(self, name: str, expected: Expected) -> bool:
        with io.locked(self._lock_file), io.system_errors(f"deleting {name}"):
            stamp = self._check(name, expected)
            if stamp is None:
                return False
            io.unlink(name + _SUFFIX, self._folder)
            io.sync_folder(self._folder)
        self._forget_logs([(name, stamp)])
        return True

    # -- journals ------------------------------------------------------------------------------

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append a record to a blob's log: one write and one sync."""
        return await self._hop(self._append, name, record, expected)

    def _append(self, name: str, record: bytes, expected: Revision) -> Revision:
        if not record:
            raise ValueError("a record of a journal has at least one byte")
        if len(record) > LARGEST:
            raise UnsupportedOperation(f"A record of a journal has at most {LARGEST} bytes.")
        with io.locked(self._lock_file):
            with io.system_errors(f"appending to {name}"):
                stamp = self._check(name, expected)
                if stamp is None:
                    raise RevisionMismatch(f"{name} does not exist.", expected=expected)
                log = self._logs.get(name)
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

    async def read_journal(self, name: str) -> Journal | None:
        """Return bytes, records and revision, or None."""
        return await self._hop(self._read_journal, name)

    def _read_journal(self, name: str) -> Journal | None:
        # Under the lock: the blob and its log must be of one moment.
        with io.locked(self._lock_file), io.system_errors(f"reading {name}"):
            blob = self._read(name, 0, None)
            if blob is None:
                return None
            stamp = bytes.fromhex(blob.revision.partition(".")[0])
            log = Log.open(name, stamp, self._folder)
            records: list[bytes] = []
            if log is not None:
                try:
                    records = log.scan()
                finally:
                    log.close()
            return Journal(blob.data, records, blob.revision)

    # -- the end -------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close all files; further calls raise StoreClosed."""
        if not self._closed:
            self._closed = True
            await run_sync(self._close)

    def _close(self) -> None:
        with self._mutex:
            for log in self._logs.values():
                log.close()
            self._logs.clear()
            os.close(self._lock_file)
            os.close(self._folder)


class FileBackend:
    """Folders as stores. Config: ``path``; ``id`` is taken from the folder where it is left out."""

    keys: frozenset[str] = frozenset({"path"})
    compressor = "zstd"

    def _path(self, config: Mapping[str, Any]) -> str:
        path = config.get("path")
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise StoreConfigError(f'A file store needs a "path", a folder, not {path!r}.')
        return os.path.abspath(os.fspath(path))

    async def create(self, config: Mapping[str, Any]) -> FileBlobStore:
        """Make a folder with an empty store."""
        return await run_sync(self._create, self._path(config), config.get("id"))

    def _create(self, path: str, id_: UUID | None) -> FileBlobStore:
        with io.system_errors(f"creating the store {path}"):
            io.make_folder(path)
            if os.path.exists(os.path.join(path, _MARKER)):
                raise StoreExists(f"File store already exists at path {path!r}.")
            if any(not name.endswith(io.TEMPORARY) for name in os.listdir(path)):
                raise StoreConfigError(
                    f"{path!r} is not empty and no store; give a folder of its own."
                )
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                text = f"konserve-file {_FORMAT} {id_ or uuid4()}\n"
                temporary = io.temporary_file(folder, [text.encode()])
                io.rename(temporary, _MARKER, folder)
                io.sync_folder(folder)
            finally:
                os.close(folder)
            return FileBlobStore(path)

    async def connect(self, config: Mapping[str, Any]) -> FileBlobStore:
        """Open the store in a folder."""
        return await run_sync(self._connect, self._path(config), config.get("id"))

    def _connect(self, path: str, id_: UUID | None) -> FileBlobStore:
        found = self._marker(path)
        if found is None:
            raise StoreNotFound(f"File store does not exist at path {path!r}. Create it first.")
        if id_ is not None and found != id_:
            raise StoreConfigError(
                f"The store at {path!r} has the id {found}, not {id_}: it is another store.",
                error=":store-identity-mismatch",
            )
        with io.system_errors(f"opening the store {path}"):
            self._clean(path)
            return FileBlobStore(path)

    def _marker(self, path: str) -> UUID | None:
        try:
            with open(os.path.join(path, _MARKER), encoding="utf-8") as file:
                words = file.read(200).split()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreIOError(f"The store at {path!r} cannot be opened: {error}") from error
        if len(words) != 3 or words[0] != "konserve-file" or not words[1].isdigit():
            raise CorruptValue(f"The file {_MARKER!r} in {path!r} is none of ours.")
        if int(words[1]) > _FORMAT:
            raise UnsupportedEncoding(
                f"The store at {path!r} has format {words[1]}; this version reads up to {_FORMAT}."
            )
        return UUID(words[2])

    def _clean(self, path: str) -> None:
        """Remove what writes that were interrupted long ago left behind."""
        limit = time.time() - _STALE_SECONDS
        for entry in os.scandir(path):
            with suppress(OSError):
                stale = entry.name.endswith(io.TEMPORARY) and entry.stat().st_mtime < limit
                if stale:
                    os.unlink(entry.path)

    async def exists(self, config: Mapping[str, Any]) -> bool:
        """Say whether there is a store in the folder."""
        path = self._path(config)
        return await run_sync(lambda: self._marker(path) is not None)

    async def delete(self, config: Mapping[str, Any]) -> None:
        """Remove the folder, if there is a store in it."""
        await run_sync(self._delete, self._path(config))

    def _delete(self, path: str) -> None:
        if self._marker(path) is None:
            return
        with io.system_errors(f"deleting the store {path}"):
            # The marker first: an interrupted delete leaves no store that looks whole.
            os.unlink(os.path.join(path, _MARKER))
            shutil.rmtree(path)
