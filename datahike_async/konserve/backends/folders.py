"""Folders that stores lie in: their paths checked, the folders themselves made and removed.

For backends whose store is a folder. A store has a folder of its own: none lies within another.
What it is made of it knows by name, and removes that alone. Knows nothing of what is in the files.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final
from uuid import UUID

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.errors import StoreConfigError, StoreIOError, shown
from datahike_async.konserve.file_lock import LOCK_SECONDS, FolderLock

__all__ = [
    "MAKING",
    "folder_path",
    "folder_place",
    "holding",
    "holding_new",
    "is_path",
    "may_write",
    "refuse_nested",
    "refuse_occupied",
    "refuse_other",
    "remove_empty",
    "remove_own",
]

MAKING: Final = "making"
"""The file that is locked by whoever makes or removes a store, where the folder's lock is not."""
_ATTEMPTS: Final = 50
_LOCKS: Final = re.compile(rf"lock|turn(\.\w+)*|{MAKING}")


def is_path(value: Any) -> bool:
    """Say whether the system could take a value as a path."""
    try:
        return isinstance(os.fspath(value), str) and b"\0" not in os.fsencode(value)
    except (TypeError, UnicodeEncodeError):
        return False


def folder_path(config: Mapping[str, Any]) -> str:
    """Return the absolute ``path`` of a configuration.

    Raises StoreConfigError for what the system could not take as a path.
    """
    given: Any = config.get("path", "")
    if not is_path(given) or not os.fspath(given):
        raise StoreConfigError(
            f'The {config.get("backend", "file")} store needs a "path", a folder of its own, not '
            f"{shown(given)}.",
            key="path",
        )
    path: str = os.fspath(given)
    return os.path.abspath(path)


def folder_place(path: str) -> Hashable:
    """Return what tells a folder from every other one, by whatever path it is reached."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def _make_folder(path: str) -> None:
    """Make a folder and those above it, durable from the first new one down.

    Nobody else may look into any of them, whatever the umask is. In the folder of a store none is
    made: raises StoreConfigError.
    """
    missing = []
    at = os.path.abspath(path)
    while not _is_folder(at):
        missing.append(at)
        at = os.path.dirname(at)
    if missing:
        refuse_nested(path)
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another process makes it too
            os.mkdir(folder, io.FOLDER_MODE)
        parent = os.open(os.path.dirname(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            io.sync_folder(parent)
        finally:
            os.close(parent)


def _is_folder(path: str) -> bool:
    """Say whether there is a folder, by one look, since others make folders at the same time.

    Raises StoreConfigError where there is anything else.
    """
    try:
        folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        if not os.path.islink(path):
            return False
        folder = False
    if not folder:
        raise StoreConfigError(
            f"{path!r} is no folder, and a store is one. Give it another path.", key="path"
        )
    return True


def may_write(path: str, *files: str) -> bool:
    """Say whether this process may write in a folder, and to these files in it."""
    there = [at for at in (os.path.join(path, file) for file in files) if os.path.exists(at)]
    return all(os.access(at, os.W_OK) for at in (path, *there))


@contextmanager
def holding(path: str, seconds: float = LOCK_SECONDS, file: str | None = None) -> Iterator[int]:
    """Hold the lock of the folder that is at ``path`` (or of a file in it); yields its handle.

    Raises StoreBusy; FileNotFoundError where there is no such folder, or none any more.
    """
    while True:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            lock = FolderLock(folder, path, file)
            try:
                with _gone_is_gone(), lock.holding(seconds):
                    # Whoever had the lock before may have removed the folder.
                    if os.path.samestat(os.stat(path), os.fstat(folder)):
                        yield folder
                        return
            finally:
                lock.close()
        finally:
            io.close(folder)


@contextmanager
def _gone_is_gone() -> Iterator[None]:
    try:
        yield
    except StoreIOError as error:
        if error.data.get("errno") == errno.ENOENT:
            raise FileNotFoundError(errno.ENOENT, str(error)) from error
        raise


@contextmanager
def holding_new(
    path: str, own: re.Pattern[str], seconds: float = LOCK_SECONDS, file: str | None = None
) -> Iterator[int]:
    """Hold the lock as ``holding`` does, of a folder that is made where there is none.

    In a folder without a file that is ``own`` no lock is made where it has files of others, or lies
    within a store: raises StoreConfigError.
    """
    with ExitStack() as stack:
        for attempt in range(_ATTEMPTS):
            _make_folder(path)
            try:
                _refuse_strange(path, own)
                folder = stack.enter_context(holding(path, seconds, file))
                break
            except FileNotFoundError:
                # Whoever deletes the store that was there has removed the folder again.
                if attempt == _ATTEMPTS - 1:
                    raise
        yield folder


def _refuse_strange(path: str, own: re.Pattern[str]) -> None:
    # Without the lock, so where something is our own it is for who has the lock to judge.
    if not any(own.fullmatch(name) or _LOCKS.fullmatch(name) for name in os.listdir(path)):
        refuse_occupied(path, own)
        refuse_nested(path)


def refuse_occupied(path: str, own: re.Pattern[str]) -> None:
    """Raise StoreConfigError where something lies in a folder that is not ``own``."""
    for name in sorted(os.listdir(path)):
        if own.fullmatch(name) or _LOCKS.fullmatch(name):
            continue
        inner = os.path.join(path, name)
        if _holds_store(inner):
            raise _nested(path, inner)
        raise StoreConfigError(
            f"{path!r} is not empty and no store: it has {name!r}. Give a folder of its own."
        )


def refuse_nested(path: str) -> None:
    """Raise StoreConfigError where a folder lies within the one of a store."""
    above = os.path.realpath(path)
    while (outer := os.path.dirname(above)) != above:
        above = outer
        if _holds_store(above):
            raise _nested(path, above)


def refuse_other(path: str, wanted: UUID | None, found: UUID) -> None:
    """Raise StoreConfigError where a store has another id than the one that is wanted, if any."""
    if wanted is not None and found != wanted:
        raise StoreConfigError(
            f"The store at {path!r} has the id {found}, not {wanted}: it is another store.",
            error=":store-identity-mismatch",
        )


def _nested(path: str, other: str) -> StoreConfigError:
    where = "contains" if other.startswith(path) else "lies within"
    return StoreConfigError(
        f"{path!r} {where} {other!r}, where a store is, and stores do not lie in one another. Give "
        "it a folder of its own."
    )


def remove_own(path: str, own: re.Pattern[str], last: str | None = None) -> None:
    """Remove the ``own`` files of a folder, ``last`` in the end; whatever else is there stays."""
    for name in os.listdir(path):
        if name != last and (own.fullmatch(name) or _LOCKS.fullmatch(name)):
            with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                os.unlink(os.path.join(path, name))
    if last is not None:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(path, last))


def remove_empty(path: str) -> None:
    """Remove a folder if nothing is in it."""
    # Of a link the user keeps both ends, to make another store there.
    if not os.path.islink(path):
        with suppress(OSError):
            os.rmdir(path)


def _holds_store(path: str) -> bool:
    if os.path.exists(os.path.join(path, "data.mdb")):
        return True
    try:
        with open(os.path.join(path, "store"), "rb") as file:
            return file.read(9) == b"konserve-"
    except OSError:
        return False
