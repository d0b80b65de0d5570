"""The file backend: makes, finds, opens and removes folders of blobs.

Layout of a folder: ``store`` (format, id and their checksum), ``lock`` (who has the folder's lock),
``turn`` and ``turn.next`` (the queue of writers), ``settled`` (whether its names are synced),
``<name>.ksv``, ``<name>.<stamp>.log`` and ``.mark`` (up to where that is durable), ``*.new`` (what
a crash left behind; ignored, and removed when it is old), ``deleted`` (in place of ``store``, while
the folder is being removed). What the files hold is known to
:mod:`~datahike_async.konserve.backends.file_store` and those it is made of.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import Any, Final
from uuid import UUID, uuid4

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.backends.file_store import FileBlobStore
from datahike_async.konserve.backends.folders import folder_path, folder_place, make_folder
from datahike_async.konserve.errors import (
    CorruptValue,
    StoreConfigError,
    StoreExists,
    StoreIOError,
    StoreNotFound,
    UnsupportedEncoding,
)
from datahike_async.konserve.file_lock import LOCK, lock_seconds
from datahike_async.konserve.loops import acquire_in_thread, in_thread

__all__ = ["FileBackend", "FileBlobStore"]

_MARKER: Final = "store"
_DELETED: Final = "deleted"
_FORMAT: Final = 2


class FileBackend:
    """Folders as stores. Config: ``path``; ``id`` is taken from the folder where it is left out.

    ``lock-seconds`` is how long a writer waits for another process that has the folder's lock. With
    ``salvage`` a store whose log is damaged shows what lies before the damage, and takes no writes.
    """

    keys: frozenset[str] = frozenset({"path", "lock-seconds", "salvage"})
    public = keys
    compressor = "zstd"

    async def create(self, config: Mapping[str, Any]) -> FileBlobStore:
        """Make a folder with an empty store."""
        io.require_locks()
        path, seconds = folder_path(config), lock_seconds(config)
        if _salvage(config):
            raise StoreConfigError(
                '"salvage" is for reading a damaged store, not for creating one.', key="salvage"
            )
        return await acquire_in_thread(
            self._create, FileBlobStore.close_now, path, config.get("id"), seconds
        )

    def _create(self, path: str, id_: UUID | None, seconds: float) -> FileBlobStore:
        with io.system_errors(f"creating the store {path}"):
            if os.path.exists(os.path.join(path, _DELETED)):
                self._delete(path)
            make_folder(path)
            self._refuse_occupied(path)
            store = FileBlobStore(path, lock_seconds=seconds)
            try:
                # Again, exclusively: of two that create it one must lose.
                with store.exclusive() as folder:
                    self._refuse_occupied(path)
                    text = f"konserve-file {_FORMAT} {id_ or uuid4()}"
                    text = f"{text} {_checksum(text)}\n"
                    temporary = io.temporary_file(folder, [text.encode()])
                    io.rename(temporary, _MARKER, folder)
                    io.sync_folder(folder)
            except BaseException:
                store.close_now()
                raise
            return store

    def _refuse_occupied(self, path: str) -> None:
        if os.path.exists(os.path.join(path, _MARKER)):
            raise StoreExists(f"File store already exists at path {path!r}.")
        # An interrupted creation leaves a lock and temporary files.
        if any(name != LOCK and not name.endswith(io.TEMPORARY) for name in os.listdir(path)):
            raise StoreConfigError(f"{path!r} is not empty and no store; give a folder of its own.")

    async def connect(self, config: Mapping[str, Any]) -> FileBlobStore:
        """Open the store in a folder."""
        io.require_locks()
        path = folder_path(config)
        options = {"lock_seconds": lock_seconds(config), "salvage": _salvage(config)}
        return await acquire_in_thread(
            self._connect, FileBlobStore.close_now, path, config.get("id"), options
        )

    def _connect(self, path: str, id_: UUID | None, options: dict[str, Any]) -> FileBlobStore:
        found = self._marker(path)
        if found is None:
            raise StoreNotFound(f"File store does not exist at path {path!r}. Create it first.")
        if id_ is not None and found != id_:
            raise StoreConfigError(
                f"The store at {path!r} has the id {found}, not {id_}: it is another store.",
                error=":store-identity-mismatch",
            )
        with io.system_errors(f"opening the store {path}"):
            return FileBlobStore(path, **options)

    def _marker(self, path: str) -> UUID | None:
        try:
            with open(os.path.join(path, _MARKER), encoding="utf-8") as file:
                words = file.read(200).split()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError:
            words = []
        except OSError as error:
            raise StoreIOError(f"The store at {path!r} cannot be opened: {error}") from error
        if words[:2] == ["konserve-file", "1"] and len(words) == 3:
            raise UnsupportedEncoding(
                f"The store at {path!r} has format 1, which was written before version 0.1.0 was "
                "released, and is not read any more. Create the store anew and load its data into "
                "it; or read it with the version that wrote it."
            )
        if len(words) != 4 or _checksum(" ".join(words[:3])) != words[3]:
            raise CorruptValue(
                f"The file {_MARKER!r} in {path!r} is damaged, or none of ours. Nothing was "
                "changed; restore it from a backup."
            )
        if words[1] != str(_FORMAT):
            raise UnsupportedEncoding(
                f"The store at {path!r} has format {words[1]}; this version reads {_FORMAT} alone. "
                "Upgrade datahike-async to open it."
            )
        try:
            return UUID(words[2])
        except ValueError as error:
            raise CorruptValue(f"The file {_MARKER!r} in {path!r} names no id.") from error

    async def place(self, config: Mapping[str, Any]) -> Hashable:
        """Return what the folder is, whatever the path to it."""
        return await in_thread(folder_place, folder_path(config))

    async def exists(self, config: Mapping[str, Any]) -> bool:
        """Say whether there is a store in the folder."""
        path = folder_path(config)
        return await in_thread(lambda: self._marker(path) is not None)

    async def delete(self, config: Mapping[str, Any]) -> None:
        """Remove the folder, if there is a store in it."""
        await in_thread(self._delete, folder_path(config))

    def _delete(self, path: str) -> None:
        begun = os.path.join(path, _DELETED)
        if self._marker(path) is None and not os.path.exists(begun):
            return
        with io.system_errors(f"deleting the store {path}"):
            # No longer a store from here on, but known as the rest of one: an interrupted
            # deletion can be repeated.
            with suppress(FileNotFoundError):
                os.rename(os.path.join(path, _MARKER), begun)
            for entry in os.listdir(path):
                at = os.path.join(path, entry)
                if entry == _DELETED:
                    continue
                if os.path.isdir(at) and not os.path.islink(at):
                    shutil.rmtree(at)
                else:
                    with suppress(FileNotFoundError):
                        os.unlink(at)
            with suppress(FileNotFoundError):
                os.unlink(begun)
            # Of a link the user keeps both ends, to make another store there.
            if not os.path.islink(path):
                os.rmdir(path)


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _salvage(config: Mapping[str, Any]) -> bool:
    value = config.get("salvage", False)
    if not isinstance(value, bool):
        raise StoreConfigError(f'"salvage" is true or false, not {value!r}.', key="salvage")
    return value
