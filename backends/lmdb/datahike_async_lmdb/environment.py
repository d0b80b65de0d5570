"""One LMDB environment a path, shared by the stores of this process, and what may happen to it.

LMDB forbids opening one environment twice in a process, and moves the map when it grows, which must
not happen while any transaction of the process is open. Both are seen to here, and LMDB's errors
become konserve's. Knows no blobs.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Final, TypeVar

import lmdb

from datahike_async.konserve import (
    CorruptValue,
    OutcomeUnknown,
    StoreClosed,
    StoreDenied,
    StoreFull,
    StoreIOError,
    StoreNotFound,
)
from datahike_async.konserve.backends.file_io import (
    FILE_MODE,
    settle_file,
    settle_folder,
    system_errors,
)
from datahike_async.konserve.backends.folders import may_write
from datahike_async.konserve.file_lock import LOCK_SECONDS, FolderLock
from datahike_async_lmdb.whole import missing_bytes

__all__ = ["BLOBS", "META", "Shared", "committing", "reading", "table"]

T = TypeVar("T")

BLOBS: Final = b"blobs"
META: Final = b"meta"
_FILE: Final = "data.mdb"
_READERS: Final = 512
_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | _CLOEXEC
_LOCK_BYTES: Final = (_READERS + 2) * 64
"""The lock file: a cache line for each reader, and two for the rest."""
_LOCK: Final = "lock.mdb"
_FIRST_PAGES: Final = 2 * 4096
_LEAST_ROOM: Final = 64 * 1024


def table(shared: Shared, name: bytes, seconds: float = LOCK_SECONDS) -> Any:
    """Return a table, which is made where it is missing and the environment can be written to.

    Raises NotFoundError; StoreBusy where another process keeps the lock for so many ``seconds``.
    """
    if name not in shared.tables:
        with shared.lock.holding(seconds) if shared.writing else nullcontext():
            _open_table(shared, name, seconds)
    return shared.tables[name]


def _open_table(shared: Shared, name: bytes, seconds: float = LOCK_SECONDS) -> None:
    """Open a table for whoever has the lock, or where it is only read."""
    environment = shared.environment
    if shared.writing:
        # In a transaction begun here: the one that the driver would begin waits for other writers
        # without letting their threads run.
        with environment.begin(write=True) as txn:
            shared.tables[name] = environment.open_db(name, txn=txn)
    else:
        with shared.unwritten(seconds):
            shared.tables[name] = environment.open_db(name, create=False)


@contextmanager
def reading(
    shared: Shared,
    environment: Any,
    db: Any,
    seconds: float = LOCK_SECONDS,
    *,
    buffers: bool = False,
) -> Iterator[Any]:
    """Run a read transaction on what is durable; see ``Shared.unwritten`` for ``seconds``.

    LMDB shows a transaction once it is written, and its writer syncs that afterwards: what another
    process committed is synced here before it is shown.
    """
    with shared.unwritten(seconds), environment.begin(db=db, buffers=buffers) as txn:
        shared.settle(txn.id())
        yield txn


@contextmanager
def committing(
    shared: Shared,
    environment: Any,
    db: Any,
    seconds: float = LOCK_SECONDS,
    first: AbstractContextManager[None] | None = None,
) -> Iterator[Any]:
    """Run a write transaction; ``first`` is entered before it begins, and left after its end.

    LMDB waits for other writers without a limit, so the folder's lock comes first: raises StoreBusy
    where another process keeps it. Raises OutcomeUnknown where the commit fails and something may
    have come of it.
    """
    with shared.lock.holding(seconds), first or nullcontext():
        with _committing(environment, db) as txn:
            yield txn
            number = txn.id()
        # One that changes nothing does not count; the next one will have its number.
        if environment.info()["last_txnid"] == number:
            shared.durable = max(shared.durable, number)


@contextmanager
def _committing(environment: Any, db: Any) -> Iterator[Any]:
    txn = environment.begin(write=True, db=db)
    try:
        yield txn
    except BaseException:
        txn.abort()
        raise
    try:
        txn.commit()
    except lmdb.Error as error:
        if _may_count(environment):
            raise OutcomeUnknown(f"LMDB could not finish a transaction: {error}") from error
        raise


def _may_count(environment: Any) -> bool:
    """Say whether a transaction whose commit failed may have happened all the same.

    LMDB refuses an environment from then on where it was writing the page that makes a transaction
    count. In all other cases it was not yet there.
    """
    try:
        environment.begin().abort()
    except lmdb.PanicError:
        return True
    except lmdb.Error:
        pass  # what is wrong here shows again to whoever comes next
    return False


class Shared:
    """An open environment and the transactions of this process on it.

    ``read_only``: it can be read and nothing else, and nothing is made for that. ``writing``: it is
    open to be written to. Before somebody wants that it is not: to open the tables of one that is
    takes the lock, for which who reads would wait.
    """

    _open: Final[dict[str, Shared]] = {}
    _opening = threading.Lock()

    def __init__(self, path: str, map_size: int, *, read_only: bool, writing: bool) -> None:
        self.path = path
        self.read_only = read_only or not may_write(path, _FILE)
        self.writing = writing and not self.read_only
        self._users = 0
        self._pid = os.getpid()
        self._broken: str | None = None
        # How many calls may have a transaction open, and whether the map is about to move.
        self._gate = threading.Condition()
        self._active = 0
        self._moving = False
        # The tables that were opened, which are others once the environment is opened again.
        self.tables: dict[bytes, Any] = {}
        # The newest transaction that is known to be synced.
        self.durable = 0
        before = _file(path)
        if before is None and not self.writing:
            raise StoreNotFound(f"The store at {path!r} was deleted.")
        if before is not None and 0 < before.st_size < _FIRST_PAGES:
            # What LMDB finds beyond the end of its file ends the process.
            raise CorruptValue(
                f"The environment {path!r} is damaged: {_FILE} ends after {before.st_size} bytes, "
                "within its first two pages, so nothing of it can be read. Restore it from a "
                f"backup; or remove {_FILE} and {_LOCK}, and create the store anew."
            )
        _refuse_cut_off(path)
        try:
            with ExitStack() as opened:
                self._open_files(opened, map_size)
                if before is not None and not os.path.samestat(before, os.fstat(self._data)):
                    raise FileNotFoundError(errno.ENOENT, "replaced meanwhile", _FILE)
                opened.pop_all()
        except (lmdb.Error, OSError, StoreIOError) as error:
            if before is not None and not _is(before, _file(path)):
                raise StoreNotFound(f"The store at {path!r} was deleted.") from error
            if isinstance(error, lmdb.Error):
                raise self._translated(error) from error
            raise
        self.lock = FolderLock(self.folder, path)

    def _open_files(self, opened: ExitStack, map_size: int) -> None:
        path = self.path
        self._open_environment(map_size)
        opened.callback(self.environment.close)
        self.folder = os.open(path, os.O_RDONLY | _CLOEXEC)
        opened.callback(os.close, self.folder)
        # LMDB syncs its file, and not that the folder has it.
        with system_errors(f"syncing the folder {path}"):
            settle_folder(self.folder)
        self._data = os.open(_FILE, os.O_RDONLY | _CLOEXEC, dir_fd=self.folder)
        opened.callback(os.close, self._data)

    def _open_environment(self, map_size: int) -> None:
        lock = os.path.join(self.path, _LOCK)
        if not self.read_only:
            _fill_lock_file(self.path)
        locked = os.access(lock, os.W_OK)
        # Whether writers see who reads, and use none of his pages again. Without the file there are
        # none: a copy, or a medium that nobody writes to.
        self._seen = not self.read_only or locked or not os.path.exists(lock)
        if not self.writing:
            # Makes nothing. What nobody sees reading is read beside no writer; see ``unwritten``.
            self.environment = lmdb.open(
                self.path,
                map_size=map_size,
                max_dbs=2,
                max_readers=_READERS,
                readonly=True,
                create=False,
                lock=locked or not self.read_only,
            )
            return
        self.environment = lmdb.open(
            self.path, map_size=map_size, max_dbs=2, max_readers=_READERS, mode=FILE_MODE
        )
        # Readers that were killed would keep old pages from being used again.
        self.environment.reader_check()

    def allow_writing(self, map_size: int, seconds: float) -> None:
        """Open the environment again to be written to, unless it is, or never can be.

        Raises StoreBusy where another process keeps the lock for so many ``seconds``.
        """
        if not self.writing and not self.read_only:
            with self.lock.holding(seconds):
                self._open_again(map_size, writing=True)

    def _open_again(self, map_size: int, *, writing: bool) -> None:
        """Open the environment anew once no call has a transaction open, no more read only."""
        with self._gate:
            self._gate.wait_for(lambda: not self._moving)
            before = self.read_only, self.writing
            if self._broken is not None or self.writing or before == (False, writing):
                return
            self._moving = True
            self._gate.wait_for(lambda: not self._active)
        try:
            map_size = max(map_size, self.environment.info()["map_size"])
            try:
                self._replace(map_size, read_only=False, writing=writing)
            except BaseException as error:
                try:
                    self._replace(map_size, read_only=before[0], writing=before[1])
                except BaseException:
                    self._broken = str(error)
                    raise
                if isinstance(error, lmdb.Error):
                    raise self._translated(error) from error
                raise
        finally:
            with self._gate:
                self._moving = False
                self._gate.notify_all()

    def _replace(self, map_size: int, *, read_only: bool, writing: bool) -> None:
        self.environment.close()
        self.read_only, self.writing = read_only, writing
        self._open_environment(map_size)
        for name in self.tables:
            _open_table(self, name)

    @classmethod
    def acquire(
        cls, path: str, map_size: int, *, read_only: bool = False, writing: bool = False
    ) -> Shared:
        """Open the environment of a real path, or join those who have it open.

        LMDB allows one a process: for who joins to write, one that is read only is opened anew.
        With ``writing`` one is made where there is none.
        """
        with cls._opening:
            shared = cls._open.get(path)
            if shared is not None and shared._pid != os.getpid():
                # LMDB forbids a forked child the environments of its parent. This closes the
                # child's copy: what is the parent's is left alone.
                shared.environment.close()
                shared = None
            if shared is None or not shared._is_there():
                shared = cls(path, map_size, read_only=read_only, writing=writing)
                cls._open[path] = shared
            elif shared._broken is not None:
                raise StoreClosed(
                    f"The environment {path!r} failed ({shared._broken}); release every store of "
                    "it, then open it again."
                )
            elif shared.read_only and not read_only and may_write(path, _FILE):
                shared._open_again(map_size, writing=False)
            shared._users += 1
            return shared

    @classmethod
    def after_fork(cls) -> None:
        """Let a forked child open environments, though a thread of its parent did just then."""
        cls._opening = threading.Lock()

    def release(self) -> None:
        """Let go of it; the last one closes it."""
        with self._opening:
            self._users -= 1
            if self._users:
                return
            self._vanish()
            self.environment.close()
            self.lock.close()
            os.close(self._data)
            os.close(self.folder)

    def _is_there(self) -> bool:
        """Whether it is what lies at the path; another process may have put another one there."""
        return _is(os.fstat(self._data), _file(self.path))

    def _vanish(self) -> None:
        if self._open.get(self.path) is self:
            del self._open[self.path]

    def abandon(self) -> None:
        """Have the next one who opens the path get the files that are then there."""
        with self._opening:
            self._vanish()

    def call(self, call: Callable[..., T], *args: Any) -> T:
        """Make a call that opens and ends transactions; again after the map has grown.

        Raises konserve's errors in place of LMDB's.
        """
        while True:
            size = self._enter()
            grow = 0
            try:
                return call(*args)
            except lmdb.MapFullError:
                grow = size * 2
            except lmdb.MapResizedError:
                pass  # another process grew it; 0 takes over its size
            except OutcomeUnknown as error:
                self._broken = str(error)
                raise
            except lmdb.Error as error:
                raise self._translated(error) from error
            finally:
                self._leave()
            self._resize(size, grow)

    @contextmanager
    def unwritten(self, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Keep writers out inside the block where they do not see who reads.

        They would use its pages again, and are waited for so many ``seconds``. Raises StoreBusy,
        StoreDenied.
        """
        if self._seen:
            yield
            return
        try:
            self.lock.acquire(seconds)
        except StoreIOError as error:
            if error.data.get("errno") == errno.EROFS:
                yield  # a medium without locks, to which nobody writes
                return
            raise StoreDenied(
                f"This process may not write to {_LOCK} in {self.path!r}, by which those who write "
                f"see who reads, and cannot take the folder's lock in its place: {error} Let it "
                "write to that file, or read a copy of the store.",
                read_only=True,
            ) from error
        try:
            yield
        finally:
            self.lock.release()

    def settle(self, seen: int) -> None:
        """Make durable what others committed, up to the transaction ``seen``."""
        if seen > self.durable:
            # Where nobody is committing, whoever did has synced it, or lost the lock as he died.
            if not self.lock.is_free():
                with system_errors(f"syncing {self.path}"):
                    settle_file(self._data)
            self.durable = max(self.durable, seen)

    def _enter(self) -> int:
        with self._gate:
            self._gate.wait_for(lambda: not self._moving)
            if self._broken is not None:
                raise StoreClosed(
                    f"This store closed itself after an error ({self._broken}); open it again."
                )
            self._active += 1
            return int(self.environment.info()["map_size"])

    def _leave(self) -> None:
        with self._gate:
            self._active -= 1
            self._gate.notify_all()

    def _resize(self, seen: int, size: int) -> None:
        with self._gate:
            self._gate.wait_for(lambda: not self._moving)
            if self.environment.info()["map_size"] != seen:
                return  # somebody else was faster
            self._moving = True
            try:
                self._gate.wait_for(lambda: not self._active)
                self.environment.set_mapsize(size)
            except (lmdb.Error, OverflowError) as error:
                if isinstance(error, lmdb.Error):
                    self._map_again(seen)
                raise StoreFull(
                    f"The map of {self.path!r} cannot grow to {size} bytes: {error}. Nothing of "
                    "what it was to grow for was stored."
                ) from error
            finally:
                self._moving = False
                self._gate.notify_all()

    def _map_again(self, size: int) -> None:
        """Open the environment as it was: LMDB lets go of a map before it makes a larger one."""
        try:
            with self.lock.holding() if self.writing else nullcontext():
                self._replace(size, read_only=self.read_only, writing=self.writing)
        except BaseException as error:
            self._broken = str(error)
            raise

    def _translated(self, error: lmdb.Error) -> Exception:
        if isinstance(error, lmdb.DiskError) or self._is_full():
            return StoreFull(
                f"No space is left in {self.path!r}: {error}. Nothing of it was stored; make room "
                "and try again."
            )
        if isinstance(error, lmdb.ReadonlyError):
            return StoreDenied(f"The store in {self.path!r} is open to be read only: {error}")
        damaged = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)
        if isinstance(error, damaged):
            return CorruptValue(f"The environment {self.path!r} is damaged: {error}")
        return StoreIOError(f"LMDB failed in {self.path!r}: {error}")

    def _is_full(self) -> bool:
        # Where the last of the room took a part of a write, LMDB speaks of an error of the disk.
        # The room may be that of a quota, or end with the largest size that a file may have.
        try:
            found = os.statvfs(self.path)
            if found.f_bavail * found.f_frsize < _LEAST_ROOM:
                return True
            size = os.path.getsize(os.path.join(self.path, _FILE))
            with tempfile.TemporaryFile(dir=self.path) as probe:
                written = os.pwrite(probe.fileno(), bytes(_LEAST_ROOM), size)
                os.fsync(probe.fileno())
            return written < _LEAST_ROOM
        except OSError as error:
            return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Shared.after_fork)


def _file(path: str) -> os.stat_result | None:
    """Return what the file of an environment is; None where there is none."""
    try:
        return os.stat(os.path.join(path, _FILE))
    except FileNotFoundError:
        return None


def _refuse_cut_off(path: str) -> None:
    """Raise CorruptValue where an environment lacks pages: to touch one ends the process."""
    try:
        fd = os.open(os.path.join(path, _FILE), os.O_RDONLY | _CLOEXEC)
    except OSError:
        return  # whoever opens it says so
    try:
        with system_errors(f"reading {path}"):
            needed, size = missing_bytes(fd), os.fstat(fd).st_size
    finally:
        os.close(fd)
    if needed is not None:
        raise CorruptValue(
            f"The environment {path!r} is damaged: {_FILE} was cut off after {size} bytes, and had "
            f"{needed}. Nothing was changed; restore it from a backup."
        )


def _is(one: os.stat_result, other: os.stat_result | None) -> bool:
    return other is not None and os.path.samestat(one, other)


def _fill_lock_file(path: str) -> None:
    """Have no holes in the lock file, which LMDB maps: filling one on a full disk kills a process.

    Nobody in this process may have the environment open. Raises StoreFull.
    """
    if not os.path.isdir(path) or not hasattr(os, "posix_fallocate"):
        return
    with system_errors(f"making the lock file of {path!r}"):
        lock = os.open(os.path.join(path, _LOCK), _LOCK_FLAGS, FILE_MODE)
        try:
            os.posix_fallocate(lock, 0, _LOCK_BYTES)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        finally:
            os.close(lock)
