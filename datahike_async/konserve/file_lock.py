"""FileLock and FolderLock: locks between processes, and between the open stores of one process.

Each is the lock that the system keeps for an open file (``flock``): it ends with its process,
however that ends. Two things can be locked: a folder, which nobody can remove or replace while it
is open, or a file in it, which is compared with the one that is there. Whoever has the lock writes
its process and host into a file beside, so that those who wait in vain can say for whom.

Knows nothing of stores, and of event loops only whether somebody still waits for a thread.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from datahike_async.konserve.errors import StoreBusy, StoreConfigError, StoreIOError
from datahike_async.konserve.threads import check_cancelled

try:
    import fcntl
except ImportError:  # Windows; whoever opens a store there is told so
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "LOCK_SECONDS", "FileLock", "FolderLock", "is_record", "lock_seconds"]

LOCK: Final = "lock"
"""The file in which the holder of a folder's lock says who it is."""
LOCK_SECONDS: Final = 10.0
"""How long a lock is waited for where the configuration does not say."""

_FLAGS: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_MODE: Final = 0o600
_RECORD: Final = 192
_CHECK: Final = 10
"""Bytes of a record that are its checksum."""
"""Bytes of what a holder writes about itself, padded: shorter ones must not leave rests."""
_LOOK_EVERY: Final = 32
"""Every commit takes a lock or two: they look so seldom whether a file is still there."""
_FIRST_PAUSE: Final = 0.0001
_LONGEST_PAUSE: Final = 0.01
# A file system across a network locks files that are open for writing, and no folders.
_NO_FOLDERS: Final = frozenset({errno.EBADF, errno.EINVAL, errno.EISDIR, errno.EOPNOTSUPP})

_all: Final[weakref.WeakSet[FileLock]] = weakref.WeakSet()
_folders: Final[weakref.WeakSet[FolderLock]] = weakref.WeakSet()


class FileLock:
    """One lock; of one handle of it, one thread at a time may be the holder.

    ``folder`` is the handle of the folder, which outlives the lock, ``name`` that of the file.
    With ``whole`` the folder is locked, and the file only says by whom. Where it should have been
    and could not be, a file that was removed or replaced is found out at once; else after a while,
    for then it keeps an order and nothing else.
    """

    def __init__(self, folder: int, name: str, *, whole: bool = False) -> None:
        self.name = name
        self._folder = folder
        self._whole = self._exactly = whole
        self._about: str | None = None
        self._record = b""
        # Of what is locked, and of the file that says by whom; the same where a file is locked.
        self._fd: int | None = None
        self._file: int | None = None
        self._unlooked = _LOOK_EVERY
        _all.add(self)

    def try_acquire(self, about: str = "") -> bool:
        """Take the lock if it is free; ``about`` is a word for ``holder``. Raises OSError."""
        return self._acquire(fcntl.LOCK_EX | fcntl.LOCK_NB, about)

    def try_share(self) -> bool:
        """Keep others from taking the lock unless one has it; they can share it. Raises OSError.

        For a moment: it is not said by whom. ``release`` ends it.
        """
        return self._acquire(fcntl.LOCK_SH | fcntl.LOCK_NB, None)

    def wait(self, about: str = "") -> None:
        """Take the lock, however long that lasts: for a thread that nobody waits for."""
        self._acquire(fcntl.LOCK_EX, about)

    def release(self) -> None:
        """Let go of the lock."""
        fd = self._fd
        if fd is not None:  # a forked child has none of its parent's
            try:
                fcntl.flock(fd, fcntl.LOCK_UN)
            except OSError:
                # What was done under it is done, and its caller must learn of that, not of this.
                self.close()  # which ends it too

    def is_free(self) -> bool:
        """Say whether nobody has a folder's lock, this handle neither; False if it cannot tell."""
        if not self._whole:
            return False
        try:
            fcntl.flock(self._folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        fcntl.flock(self._folder, fcntl.LOCK_UN)
        return True

    def holder(self) -> list[str]:
        """Return what the last one who took the lock said: its process, its host, ``about``.

        Nothing where that is damaged, or was cut off.
        """
        try:
            fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
        except OSError:
            return []
        try:
            data = os.pread(fd, _RECORD, 0)
            return data.decode("utf-8", "replace").split()[:-1] if is_record(data) else []
        except OSError:
            return []
        finally:
            _close(fd)

    def close(self) -> None:
        """Close the files; a lock that is held ends. It may be taken again. Raises nothing."""
        files = {self._fd, self._file} - {None}
        # First, for another thread may be about to let go: the numbers get used again.
        self._fd = self._file = self._about = None
        for fd in files:
            assert fd is not None
            _close(fd)

    def _acquire(self, how: int, about: str | None) -> bool:
        while True:
            if self._fd is None:
                self._open()
            assert self._fd is not None
            try:
                fcntl.flock(self._fd, how)
            except BlockingIOError:
                return False
            except OSError as error:
                if not self._whole or error.errno not in _NO_FOLDERS:
                    raise
                self.close()
                self._whole = False
                continue
            try:
                trusted = self._whole or (about is None and not self._is_time_to_look())
                if trusted or self._is_there(self._fd):
                    if about is not None:
                        self._sign(about)
                    return True
            except BaseException:
                self.release()
                raise
            # The file was removed or replaced: others lock another one by now.
            self.close()

    def _is_there(self, fd: int) -> bool:
        """Whether the file that is locked is the one that others find."""
        if not self._exactly:
            return os.fstat(fd).st_nlink > 0
        try:
            there = os.stat(self.name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(fd), there)

    def _is_time_to_look(self) -> bool:
        """Whether to see after a file of which no more depends than an order or a name."""
        self._unlooked -= 1
        if self._unlooked >= 0:
            return False
        self._unlooked = _LOOK_EVERY
        return True

    def _open(self) -> None:
        self._unlooked = _LOOK_EVERY
        if self._whole:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._fd = os.open(".", flags, dir_fd=self._folder)
        else:
            self._fd = self._file = os.open(self.name, _FLAGS, _MODE, dir_fd=self._folder)

    def _sign(self, about: str) -> None:
        if about != self._about:
            self._about, self._record = about, _signed(f"{os.getpid()} {_host()} {about}")
        # What cannot be said costs a name in a message, nothing else.
        with suppress(OSError):
            if (
                self._whole
                and self._file is not None
                and self._is_time_to_look()
                and not os.fstat(self._file).st_nlink
            ):
                _close(self._file)
                self._file = None
            if self._file is None:
                self._file = os.open(self.name, _FLAGS, _MODE, dir_fd=self._folder)
            if os.pread(self._file, _RECORD, 0) != self._record:
                os.pwrite(self._file, self._record, 0)


class FolderLock:
    """The lock of a folder at ``path``, for threads and processes.

    The folder itself is locked: nobody can remove or replace it under those who work in it. It
    keeps safe what happens one by one, and in no order: for that there are turns. With ``file``
    that file in it is locked instead, for work that takes the folder's lock itself.
    """

    def __init__(self, folder: int, path: str, file: str | None = None) -> None:
        self._path = path
        self._lock = FileLock(folder, file or LOCK, whole=file is None)
        # The lock does not keep threads of one handle apart.
        self._mutex = threading.Lock()
        _folders.add(self)

    @contextmanager
    def holding(
        self, seconds: float = LOCK_SECONDS, look: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Hold it inside the block; see ``acquire``."""
        self.acquire(seconds, look)
        try:
            yield
        finally:
            self.release()

    def acquire(
        self, seconds: float = LOCK_SECONDS, look: Callable[[], None] = lambda: None
    ) -> None:
        """Take it; it is waited for at most so many seconds.

        While it is waited for, ``look`` is called, and may raise.

        Raises StoreBusy, which names who has it; StoreIOError. Waiting ends where a coroutine that
        waits for this thread was cancelled.
        """
        until = time.monotonic() + seconds
        while not self._mutex.acquire(timeout=_LONGEST_PAUSE):
            self._go_on_waiting(until, seconds, [str(os.getpid()), _host()])
            look()
        try:
            pause = _FIRST_PAUSE
            while not self._taken():
                self._go_on_waiting(until, seconds, None)
                look()
                time.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)
        except BaseException:
            self._mutex.release()
            raise

    def release(self) -> None:
        """Let go of it."""
        try:
            self._lock.release()
        finally:
            self._mutex.release()

    def _taken(self) -> bool:
        try:
            return self._lock.try_acquire()
        except OSError as error:
            raise StoreIOError(
                f"Taking the lock of the store at {self._path!r} failed: {error}", errno=error.errno
            ) from error

    def _go_on_waiting(self, until: float, seconds: float, holder: list[str] | None) -> None:
        if time.monotonic() >= until:
            raise _busy(holder or self._lock.holder(), seconds, self._path)
        _still_wanted()

    def is_free(self) -> bool:
        """Say whether no process and no thread has it just now; False where that cannot be told."""
        return self._lock.is_free()

    def close(self) -> None:
        """Close the lock."""
        self._lock.close()

    def after_fork(self) -> None:
        """Be free in a forked child: the thread that has it, if one has, is the parent's."""
        self._mutex = threading.Lock()


def lock_seconds(config: Mapping[str, Any]) -> float:
    """Return how long a store's configuration says to wait for a lock. Raises StoreConfigError."""
    value = config.get("lock-seconds", LOCK_SECONDS)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise StoreConfigError(
            f'"lock-seconds" is a number of seconds, not {value!r}.', key="lock-seconds"
        )
    return float(value)


def _still_wanted() -> None:
    """Raise in a worker thread whose coroutine was cancelled; elsewhere do nothing."""
    try:
        check_cancelled()
    except RuntimeError:
        return  # no thread of an event loop


def _busy(holder: list[str], seconds: float, where: str) -> StoreBusy:
    """Return the error for a lock that was waited for in vain."""
    known = len(holder) >= 2 and holder[0].isdigit()
    who = f"process {holder[0]} on host {holder[1]}" if known else "an unknown process"
    error = StoreBusy(
        f"The store at {where!r} is locked by {who}, for more than {seconds:g} s; nothing was "
        "written. If that process is stopped, let it go on or end it; then try again."
    )
    if known:
        error.data.update(pid=int(holder[0]), host=holder[1])
    return error


def _close(fd: int) -> None:
    with suppress(OSError):  # it is closed all the same, and holds nothing that counts
        os.close(fd)


def _signed(said: str) -> bytes:
    """Return what a lock's file says of who has the lock, with a checksum."""
    body = said.encode(errors="replace")[: _RECORD - _CHECK].ljust(_RECORD - _CHECK)
    return _checked(body)


def _checked(body: bytes) -> bytes:
    return body + b" %08x\n" % zlib.crc32(body)


def is_record(data: bytes) -> bool:
    """Say whether what a lock's file holds is as somebody wrote it."""
    return len(data) == _RECORD and data == _checked(data[:-_CHECK])


def _host() -> str:
    return socket.gethostname() or "localhost"


def _forget() -> None:
    """Close, in a forked child, what would keep the parent's locks beyond its end."""
    for lock in list(_all):
        lock.close()
    for folder in list(_folders):
        folder.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
