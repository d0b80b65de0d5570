"""An open folder of blobs, one file each, crash safe, shared by the processes of a machine.

A blob is written under a temporary name, synced, renamed, and the folder synced: a crash leaves the
old or the new bytes. Conditional writes compare and rename under the folder's lock. A blob file
begins with a stamp, fresh for every write, which with the end of its log is the revision. All
blocking calls of one operation run in one hop to a worker thread, which cancellation waits for.
Reading blobs and syncing new ones holds no lock, so commits do not wait for either.

Knows nothing of how stores are made, found and removed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from typing import Any, Final, TypeVar
from uuid import UUID

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.backends.file_blobs import STAMP, SUFFIX, header, load, present
from datahike_async.konserve.backends.file_check import folder_faults
from datahike_async.konserve.backends.file_guard import Guard
from datahike_async.konserve.backends.file_journal import (
    START,
    Place,
    check_record,
    log_name,
    remove,
)
from datahike_async.konserve.backends.file_journals import Journals, LeftOver
from datahike_async.konserve.backends.file_names import Names
from datahike_async.konserve.base import BlobStoreBase
from datahike_async.konserve.blob import (
    ABSENT,
    UNCHANGED,
    Appended,
    Blob,
    Capabilities,
    ConditionalDomain,
    Expected,
    Fault,
    Journal,
    Revision,
    Turn,
    Unchanged,
    Write,
)
from datahike_async.konserve.errors import (
    CorruptValue,
    OutcomeUnknown,
    RevisionMismatch,
    StoreDenied,
    StoreNotFound,
)
from datahike_async.konserve.file_lock import LOCK_SECONDS, FolderLock
from datahike_async.konserve.threads import check_cancelled, in_thread
from datahike_async.konserve.turns import Turns

__all__ = ["MARKER_BYTES", "FileBlobStore"]

T = TypeVar("T")

MARKER_BYTES: Final = 200
"""How much of a marker is read."""
_PAGE: Final = 1000

_CAPABILITIES: Final = Capabilities(conditional=ConditionalDomain.MACHINE, journal=True, turns=True)


def _revision(stamp: bytes, place: Place = START) -> Revision:
    return f"{stamp.hex()}.{place.end}.{place.crc:x}" if place.end else stamp.hex()


def _parsed(revision: Revision | None) -> tuple[bytes | None, Place]:
    stamp, *place = (revision or "").split(".")
    try:
        end, crc = place or ("0", "0")
        return bytes.fromhex(stamp) or None, Place(int(end), int(crc, 16))
    except ValueError:
        return None, START  # none of ours: nothing is known


class FileBlobStore(BlobStoreBase):
    """An open folder of blobs; another process's lock on it is waited for ``lock_seconds``.

    With ``salvage`` a damaged log ends where the damage begins, and nothing is written. ``marker``
    is the file by which the folder is known as a store: without it no blob gets a name any more.
    ``steps`` is called with the name of each step, for crash tests.
    """

    def __init__(
        self,
        path: str,
        *,
        lock_seconds: float = LOCK_SECONDS,
        salvage: bool = False,
        identity: UUID | None = None,
        marker: str | None = None,
        steps: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self.identity = identity
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._guard = Guard(FolderLock(self._folder, path), lock_seconds)
        self._turns = Turns(self._folder, path, lock_seconds)
        self._naming = Names(self._folder)
        self._journals = Journals(self._folder, salvage=salvage)
        self._salvage = salvage
        self._marker = marker
        self._kept: int | None = None
        self._left_over = LeftOver(self._folder)
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

    async def _writing_hop(self, call: Callable[..., T], *args: Any) -> T:
        self._refuse_salvage()
        return await self._hop(call, *args)

    def _refuse_salvage(self) -> None:
        if self._salvage:
            raise StoreDenied(
                'This store was opened with "salvage": it reads what is whole and writes nothing.'
            )

    @contextmanager
    def exclusive(self) -> Iterator[int]:
        """Keep out other threads and other processes; yields the handle of the folder."""
        with self._guard:
            yield self._folder

    def _passing(self, name: str, expected: Expected) -> AbstractContextManager[None]:
        return nullcontext() if expected is None else self._turns.passing(name)

    def turn(self, name: str, since: Revision | None = None) -> AbstractAsyncContextManager[Turn]:
        """Wait until it is the caller's turn to write a name, among all processes."""
        self._guard.refuse_closed()
        if since is None:
            return self._turns.turn(name)
        return self._turns.turn(
            name, lambda: self._guard.run(self._read_journal, (name, since)) or ABSENT
        )

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
            while True:
                found = load(name, self._folder, start, end)
                self._naming.settle()
                if found is None:
                    return None
                data, stamp = found
                if not io.exists(log_name(name, stamp), self._folder):
                    return Blob(data, _revision(stamp))
                grown = self._grown(name, stamp, None)
                if grown is not None:
                    return Blob(data, _revision(stamp, grown[1]))

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over pages of names."""
        found = await self._hop(self._names)
        for start in range(0, len(found), _PAGE):
            yield found[start : start + _PAGE]

    def _names(self) -> list[str]:
        with io.system_errors("listing the store"):
            entries = os.listdir(self._folder)
        return sorted(e.removesuffix(SUFFIX) for e in entries if e.endswith(SUFFIX))

    async def faults(self) -> Sequence[Fault]:
        """Look over logs to the end of their files, marks, and the marker."""
        return await self._hop(self._faults)

    def _faults(self) -> list[Fault]:
        with io.system_errors("looking over the store"):
            return folder_faults(self._folder, self._marker, check_cancelled)

    # -- journals ------------------------------------------------------------------------------

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Return bytes, records and revision, or what is new, or None."""
        return await self._hop(self._read_journal, name, since)

    def _read_journal(
        self, name: str, since: Revision | None
    ) -> Journal | Appended | Unchanged | None:
        known, at = _parsed(since)
        with io.system_errors(f"reading {name}"):
            while True:
                data, stamp = b"", present(name, self._folder) if known else None
                if stamp is None or stamp != known:
                    found = load(name, self._folder)
                    if found is None:
                        self._naming.settle()
                        return None
                    data, stamp = found
                grown = self._grown(name, stamp, at if stamp == known else START)
                if grown is None:
                    known = None
                    continue
                self._naming.settle()
                records, end = grown
                if stamp != known:
                    return Journal(data, records, _revision(stamp, end))
                return Appended(records, _revision(stamp, end)) if records else UNCHANGED

    def _grown(self, name: str, stamp: bytes, at: Place | None) -> tuple[list[bytes], Place] | None:
        """Return the records from ``at`` on, or none of them, and the end of the log.

        Only what is durable, which it is made where its writer has not. None where the blob has
        another version by now, and this one's log is gone, or what is before ``at`` was taken back.
        """
        try:
            with self._journals.using(name, stamp) as log:
                if log is not None:
                    return log.read_on(at)
        except CorruptValue:
            if present(name, self._folder) == stamp:
                raise
            return None
        return ([], START) if present(name, self._folder) == stamp else None

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append a record to a blob's log: one write and one sync.

        Raises ValueError for an empty record, UnsupportedOperation for one beyond 4 GiB.
        """
        self._refuse_salvage()
        self._guard.refuse_closed()
        # Every commit comes by: without the coroutines between.
        return await in_thread(self._guard.run, self._append, (name, record, expected))

    def _append(self, name: str, record: bytes, expected: Revision) -> Revision:
        check_record(record)
        with (
            self._guard,
            self._passing(name, expected),
            io.system_errors(f"appending to {name}"),
        ):
            stamp = present(name, self._folder)
            if stamp is None:
                raise RevisionMismatch(f"{name} does not exist.", expected=expected)
            first = expected == _revision(stamp)
            with self._journals.using(name, stamp, create=first) as log:
                found = _revision(stamp, START if log is None else log.prepare())
                if log is None or found != expected:
                    raise _mismatch(name, expected, found)
                self._step("log-open")
                log.append(record)
                self._step("log-written")
                try:
                    end = log.sync()
                except OSError as error:
                    raise OutcomeUnknown(
                        f"A record of {name} could not be synced: {error}"
                    ) from error
                self._step("log-synced")
                return _revision(stamp, end)

    # -- writing -------------------------------------------------------------------------------

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Replace a blob; durable on return."""
        return (await self._writing_hop(self._write_many, [Write(name, data, expected)]))[0]

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write in order, in one hop: what has no condition is synced together."""
        return await self._writing_hop(self._write_many, writes)

    def _write_many(self, writes: Sequence[Write]) -> list[Revision]:
        revisions: list[Revision] = []
        temporaries: list[str] = []
        waiting: list[tuple[str, str]] = []
        try:
            for write in writes:
                stamp = secrets.token_bytes(STAMP)
                with io.system_errors(f"writing {write.name}"):
                    parts = [header(write.name, stamp), write.data]
                    temporary = io.temporary_file(self._folder, parts)
                temporaries.append(temporary)
                self._step("file-synced")
                if write.expected is None:
                    waiting.append((temporary, write.name))
                else:
                    # What comes before a condition must be durable when it is published.
                    self._publish(waiting)
                    waiting = []
                    self._publish([(temporary, write.name)], write.expected)
                revisions.append(_revision(stamp))
            self._publish(waiting)
        except BaseException:
            for temporary in temporaries:  # those that were published have this name no more
                with suppress(OSError):
                    io.unlink(temporary, self._folder)
            raise
        return revisions

    def _publish(self, files: list[tuple[str, str]], expected: Expected = None) -> None:
        """Give files the names of their blobs, durably; with ``expected`` there is one."""
        if not files:
            return
        with self._guard, self._passing(files[0][1], expected):
            self._refuse_deleted()
            old = self._left_over.take(name for _, name in files)
            before = [(name, self._check(name, expected)[1]) for _, name in files]
            self._step("locked")
            with self._naming.changing():
                for temporary, name in files:
                    with io.system_errors(f"publishing {name}"):
                        io.rename(temporary, name + SUFFIX, self._folder)
                self._step("renamed")
            self._step("folder-synced")
            self._forget(before, old)

    def keep_marker(self) -> bytes | None:
        """Return the text of the marker, or None where there is none, and keep its file open.

        So that it is known from one of another store that is made in the folder later.
        """
        assert self._marker is not None
        self._kept = io.open_file(self._marker, self._folder)
        return None if self._kept is None else io.read_at(self._kept, 0, MARKER_BYTES)

    def _refuse_deleted(self) -> None:
        # What is left behind by whoever comes too late would be in the way of the next store.
        if self._marker is None:
            return
        with io.system_errors(f"looking for the store {self.path}"):
            try:
                there = os.stat(self._marker, dir_fd=self._folder, follow_symlinks=False)
            except FileNotFoundError:
                there = None
            kept = None if self._kept is None else os.fstat(self._kept)
        if there is None or (kept is not None and not os.path.samestat(there, kept)):
            raise StoreNotFound(f"The store at {self.path!r} was deleted.")

    def _check(self, name: str, expected: Expected) -> tuple[bool, bytes | None]:
        """Compare, exclusively; return whether there is a blob, and its stamp."""
        with io.system_errors(f"looking at {name}"):
            try:
                stamp = present(name, self._folder)
            except CorruptValue:
                if expected is None:
                    return True, None  # damage must not stand in the way of repair
                raise
            if expected is not None:
                found = None if stamp is None else _revision(stamp, self._end(name, stamp))
                if found != (None if expected is ABSENT else expected):
                    raise _mismatch(name, expected, found)
            return stamp is not None, stamp

    def _end(self, name: str, stamp: bytes) -> Place:
        with self._journals.using(name, stamp) as log:
            return START if log is None else log.follow().end

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove a blob and its log."""
        return (await self._writing_hop(self._delete_many, [name], expected))[0]

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Remove blobs in one hop, with one sync."""
        return await self._writing_hop(self._delete_many, names, None)

    def _delete_many(self, names: Sequence[str], expected: Expected) -> list[bool]:
        with self._guard, self._passing(names[0] if names else "", expected):
            self._refuse_deleted()
            found = [self._check(name, expected) for name in names]
            if any(there for there, _ in found):
                with self._naming.changing(), io.system_errors("deleting"):
                    there = [io.unlink(name + SUFFIX, self._folder) for name in names]
                stamps = [stamp for _, stamp in found]
                self._forget(list(zip(names, stamps, strict=True)), {})
                return there
            return [False] * len(names)

    def _forget(
        self,
        before: Sequence[tuple[str, bytes | None]],
        old: Mapping[str, set[bytes]],
    ) -> None:
        """Remove the logs of versions that are gone, now that this is durable.

        Where the version before could not be read, or there was none, its log may still be wanted.
        """
        for name, stamp in before:
            if stamp is not None:
                self._journals.forget(name, stamp)
                for one in {stamp, *old.get(name, ())}:
                    remove(name, one, self._folder)

    async def close(self) -> None:
        """Close all files once no call is under way; further calls raise StoreClosed."""
        if not self._guard.closed:
            self._guard.closed = True
            await in_thread(self.close_now, surely=True)

    def close_now(self) -> None:
        """Close all files, in the present thread."""
        if self._guard.forked:
            return
        self._guard.end()
        self._turns.close()
        self._journals.close()
        self._naming.close()
        folder, self._folder = self._folder, -1
        kept, self._kept = self._kept, None
        if folder >= 0:
            io.close(folder)
        if kept is not None:
            io.close(kept)


def _mismatch(name: str, expected: Expected, found: Revision | None) -> RevisionMismatch:
    return RevisionMismatch(
        f"{name} has revision {found}, not {expected}.", expected=expected, found=found
    )
