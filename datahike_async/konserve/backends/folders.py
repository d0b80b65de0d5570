"""Folders that stores lie in: their paths checked, and the folders themselves made.

For backends whose store is a folder. Knows nothing of what they keep there.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import Any

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.errors import StoreConfigError, shown

__all__ = ["folder_path", "folder_place", "is_path", "make_folder"]


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
            f'A {config.get("backend", "file")} store needs a "path", a folder of its own, not '
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


def make_folder(path: str) -> None:
    """Make a folder and those above it, durable from the first new one down.

    Nobody else may look into any of them, whatever the umask is.
    """
    missing = []
    at = os.path.abspath(path)
    while not os.path.isdir(at):
        missing.append(at)
        at = os.path.dirname(at)
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another process makes it too
            os.mkdir(folder, io.FOLDER_MODE)
        parent = os.open(os.path.dirname(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            io.sync_folder(parent)
        finally:
            os.close(parent)
