"""Who may work on a folder of blobs, and when: one by one, until an error of the disk, or the end.

Knows locks and counts of threads; of files it knows the lock alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.base import refuse_forked
from datahike_async.konserve.errors import (
    KonserveError,
    OutcomeUnknown,
    StoreClosed,
    StoreIOError,
)
from datahike_async.konserve.file_lock import FolderLock

__all__ = ["Guard"]

T = TypeVar("T")


class Guard:
    """Guards one open store, whose folder has the lock ``lock``, waited for ``seconds``.

    As a context manager it keeps out other threads and other processes. Entering it raises
    StoreBusy, which names who has the lock, where it does not come free in time; waiting ends at
    once where the store is closed meanwhile, or its caller is cancelled.
    """

    def __init__(self, lock: FolderLock, seconds: float) -> None:
        self._lock = lock
        self._seconds = seconds
        self._pid = os.getpid()
        self._broken: str | None = None
        # Guards ``closed`` and the count of calls under way, which the end waits for.
        self._mutex = threading.Lock()
        self._state = threading.Condition(self._mutex)
        self._active = 0
        self.closed = False

    def refuse_closed(self) -> None:
        """Raise StoreClosed after the end, in a fork, or where bytes may be lost."""
        refuse_forked(self._pid)
        if self.closed:
            raise StoreClosed("This store was released; connect to it again.")
        if self._broken is not None:
            raise StoreClosed(
                f"This store closed itself after an error of the disk ({self._broken}); open it "
                "again."
            )

    def run(self, call: Callable[..., T], args: tuple[Any, ...]) -> T:
        """Make a call that the end waits for, in a thread."""
        with self._mutex:
            self.refuse_closed()
            self._active += 1
        try:
            return call(*args)
        except KonserveError as error:
            self._judge(error)
            raise
        finally:
            with self._mutex:
                self._active -= 1
                if self.closed:
                    self._state.notify_all()

    def __enter__(self) -> None:
        self._lock.acquire(self._seconds, self._look)
        if self._broken is not None:
            # Who waited for a sync that failed must not write behind what it lost.
            self._lock.release()
            self.refuse_closed()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KonserveError):
            # While others are still out: the next one must know.
            self._judge(error)
        self._lock.release()

    def _look(self) -> None:
        if self.closed:
            self.refuse_closed()

    def _judge(self, error: KonserveError) -> None:
        of_the_disk = isinstance(error, StoreIOError) and not io.harmless(error)
        if of_the_disk or isinstance(error, OutcomeUnknown):
            self._broken = str(error)

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that opened the store; it closes nothing."""
        return os.getpid() != self._pid

    def end(self) -> None:
        """Refuse further calls, wait for those under way, and close the lock."""
        with self._state:
            self.closed = True
            self._state.wait_for(lambda: not self._active)
        self._lock.close()
