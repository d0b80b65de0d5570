"""The logs of a store: those that are open, and those that interrupted writers left behind.

A log stays open for as long as its blob has the version that it belongs to, so that reading on
costs by what is new. Any thread may use it meanwhile. Knows nothing of what blobs hold.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.backends.file_journal import Log, named_by
from datahike_async.konserve.errors import CorruptValue

__all__ = ["Journals", "LeftOver"]

_STALE_SECONDS: Final = 3600


class Journals:
    """The logs in a folder. With ``salvage`` those that are damaged are read up to there."""

    def __init__(self, folder: int, *, salvage: bool = False) -> None:
        self._folder = folder
        self._salvage = salvage
        self._open: dict[str, Log] = {}
        self._mutex = threading.Lock()

    def using(self, name: str, stamp: bytes, *, create: bool = False) -> _Using:
        """Have the log of a version of a blob open inside the block; None where it has none.

        With ``create``, which is for whoever has the lock of the store, it is made.
        Raises CorruptValue where it is missing or damaged.
        """
        return _Using(self, name, stamp, create)

    def take(self, name: str, stamp: bytes, create: bool) -> Log | None:
        """Return what ``using`` is about, to be given back."""
        with self._mutex:
            log = self._open.get(name)
            if log is None or log.stamp != stamp:
                log = Log.open(name, stamp, self._folder, salvage=self._salvage)
                if log is None and create:
                    log = Log.create(name, stamp, self._folder)
                if log is not None:
                    self._retire(name)
                    self._open[name] = log
            if log is not None:
                log.users += 1
            return log

    def give_back(self, name: str, log: Log, *, damaged: bool) -> None:
        """Use it no more; one that is ``damaged`` may be mended, and is looked at anew then."""
        with self._mutex:
            if damaged and self._open.get(name) is log:
                self._retire(name)
            log.users -= 1
            if log.retired and not log.users:
                log.close()

    def _retire(self, name: str) -> None:
        log = self._open.pop(name, None)
        if log is not None:
            log.retired = True
            if not log.users:
                log.close()

    def forget(self, name: str, stamp: bytes) -> None:
        """Close the log of a version that is gone."""
        with self._mutex:
            log = self._open.get(name)
            if log is not None and log.stamp == stamp:
                self._retire(name)

    def close(self) -> None:
        """Make durable what the marks say, and close all logs; nobody uses one any more."""
        with self._mutex:
            for name, log in list(self._open.items()):
                log.sync_mark()
                self._retire(name)


class _Using:
    """The use of a log."""

    # No generator: every commit enters one.
    __slots__ = ("_create", "_journals", "_log", "_name", "_stamp")

    def __init__(self, journals: Journals, name: str, stamp: bytes, create: bool) -> None:
        self._journals = journals
        self._name = name
        self._stamp = stamp
        self._create = create
        self._log: Log | None = None

    def __enter__(self) -> Log | None:
        self._log = self._journals.take(self._name, self._stamp, self._create)
        return self._log

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._log is not None:
            damaged = isinstance(error, CorruptValue)
            self._journals.give_back(self._name, self._log, damaged=damaged)


class LeftOver:
    """What interrupted writers left in a folder, which is looked through once, when first asked.

    Opening a store removes nothing: a log that no head names now may be named by one that somebody
    brings back. It goes when a later version of its blob is published.
    """

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._logs: dict[str, set[bytes]] | None = None

    def take(self, names: Iterable[str]) -> dict[str, set[bytes]]:
        """Return the stamps of logs of these blobs, the present one's too; each once."""
        if self._logs is None:
            self._logs = self._look_through()
        return {name: self._logs.pop(name, set()) for name in names}

    def _look_through(self) -> dict[str, set[bytes]]:
        logs: dict[str, set[bytes]] = {}
        limit = time.time() - _STALE_SECONDS
        with io.system_errors("listing the store"):
            entries = os.listdir(self._folder)
        for entry in entries:
            owner = named_by(entry)
            if owner is not None:
                logs.setdefault(owner[0], set()).add(owner[1])
            elif entry.endswith(io.TEMPORARY):
                with suppress(OSError):
                    if os.stat(entry, dir_fd=self._folder).st_mtime < limit:
                        io.unlink(entry, self._folder)
        return logs
