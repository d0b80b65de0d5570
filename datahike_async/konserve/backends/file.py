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
import re
import zlib
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import Any, Final
from uuid import UUID, uuid4

from datahike_async.konserve.backends import file_io as io
from datahike_async.konserve.backends.file_store import MARKER_BYTES, FileBlobStore
from datahike_async.konserve.backends.folders import (
    folder_path,
    folder_place,
    holding,
    holding_new,
    may_write,
    refuse_nested,
    refuse_occupied,
    refuse_other,
    remove_empty,
    remove_own,
)
from datahike_async.konserve.errors import (
    CorruptValue,
    KonserveError,
    StoreConfigError,
    StoreExists,
    StoreIOError,
    StoreNotFound,
    UnsupportedEncoding,
)
from datahike_async.konserve.file_lock import lock_seconds
from datahike_async.konserve.threads import acquire_in_thread, in_thread

__all__ = ["FileBackend", "FileBlobStore"]

_MARKER: Final = "store"
_DELETED: Final = "deleted"
_FORMAT: Final = 2
_OWN: Final = re.compile(
    r"store|deleted|settled|[0-9a-f]+\.ksv|[0-9a-f]+\.[0-9a-f]+\.(log|mark)|[0-9a-f]+\.new"
)
_SCRAPS: Final = re.compile(r"settled|[0-9a-f]+\.new")
"""What an interrupted creation leaves."""
_WITH_MARKER: Final = re.compile(rf"{_MARKER}|{_SCRAPS.pattern}")


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
        io.require_locks("file")
        path, seconds = folder_path(config), lock_seconds(config)
        if _salvage(config):
            raise StoreConfigError(
                '"salvage" is for reading a damaged store, not for creating one.', key="salvage"
            )
        return await acquire_in_thread(
            self._create, FileBlobStore.close_now, path, config.get("id"), seconds
        )

    def _create(self, path: str, id_: UUID | None, seconds: float) -> FileBlobStore:
        # Of two that create it one must lose, and none while it is being removed.
        with io.system_errors(f"creating {path}"), holding_new(path, _OWN, seconds) as folder:
            return self._create_in(folder, path, id_ or uuid4(), seconds)

    def _create_in(self, folder: int, path: str, id_: UUID, seconds: float) -> FileBlobStore:
        if self._is_rest(path):
            remove_own(path, _OWN, _DELETED)
        if os.path.exists(os.path.join(path, _MARKER)):
            raise StoreExists(f"File store already exists at path {path!r}.")
        refuse_occupied(path, _SCRAPS)
        refuse_nested(path)
        store = FileBlobStore(path, lock_seconds=seconds, identity=id_, marker=_MARKER)
        try:
            text = f"konserve-file {_FORMAT} {id_}"
            text = f"{text} {_checksum(text)}\n"
            temporary = io.temporary_file(folder, [text.encode()])
            io.rename(temporary, _MARKER, folder)
            store.keep_marker()
            try:
                # Again: of two stores, one within the other, one must see the other.
                refuse_occupied(path, _WITH_MARKER)
                refuse_nested(path)
            except BaseException:
                io.unlink(_MARKER, folder)
                raise
            io.sync_folder(folder)
        except BaseException:
            store.close_now()
            raise
        return store

    async def connect(self, config: Mapping[str, Any]) -> FileBlobStore:
        """Open the store in a folder."""
        io.require_locks("file")
        path = folder_path(config)
        options = {"lock_seconds": lock_seconds(config), "salvage": _salvage(config)}
        return await acquire_in_thread(
            self._connect, FileBlobStore.close_now, path, config.get("id"), options
        )

    def _connect(self, path: str, id_: UUID | None, options: dict[str, Any]) -> FileBlobStore:
        missing = StoreNotFound(f"File store does not exist at path {path!r}. Create it first.")
        if self._marker(path) is None:
            raise missing
        with io.system_errors(f"opening the store {path}"):
            try:
                store = FileBlobStore(path, marker=_MARKER, **options)
            except FileNotFoundError:
                raise missing from None
            try:
                # Of the folder that is open: another one may lie at the path by now.
                text = store.keep_marker()
                if text is None:
                    raise missing
                store.identity = found = _id(path, _MARKER, text)
                refuse_other(path, id_, found)
                store.read_only = not may_write(path)
            except BaseException:
                store.close_now()
                raise
            return store

    def _is_rest(self, path: str) -> bool:
        """Say whether a deletion that was interrupted has left a folder. Other files may be there.

        What it left has the marker, under another name.
        """
        try:
            return self._marker(path, _DELETED) is not None
        except KonserveError:
            return False

    def _marker(self, path: str, name: str = _MARKER) -> UUID | None:
        try:
            with open(os.path.join(path, name), "rb") as file:
                return _id(path, name, file.read(MARKER_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreIOError(f"The store at {path!r} cannot be opened: {error}") from error

    async def place(self, config: Mapping[str, Any]) -> Hashable:
        """Return what the folder is, whatever the path to it."""
        return await in_thread(folder_place, folder_path(config))

    async def exists(self, config: Mapping[str, Any]) -> bool:
        """Say whether there is a store in the folder."""
        path = folder_path(config)
        return await in_thread(lambda: self._marker(path) is not None)

    async def delete(self, config: Mapping[str, Any]) -> None:
        """Remove the store in the folder, and the folder where nothing else is in it."""
        path, seconds = folder_path(config), lock_seconds(config)
        await in_thread(self._delete, path, config.get("id"), seconds)

    def _delete(self, path: str, id_: UUID | None, seconds: float) -> None:
        if self._marker(path) is None and not self._is_rest(path):
            return
        with (
            io.system_errors(f"deleting the store {path}"),
            suppress(FileNotFoundError),  # somebody else has deleted it
            holding(path, seconds) as folder,
        ):
            found = self._marker(path)
            if found is not None:
                refuse_other(path, id_, found)
                # No longer a store from here on, but known as the rest of one: an interrupted
                # deletion can be repeated.
                io.rename(_MARKER, _DELETED, folder)
                io.sync_folder(folder)
            if self._is_rest(path):
                remove_own(path, _OWN, _DELETED)
                remove_empty(path)


def _id(path: str, name: str, text: bytes) -> UUID:
    """Return the id that a marker names. Raises UnsupportedEncoding, CorruptValue."""
    words = text.decode("utf-8", "replace").split()
    if words[:2] == ["konserve-file", "1"] and len(words) == 3:
        raise UnsupportedEncoding(
            f"The store at {path!r} has format 1, which was written before version 0.1.0 was "
            "released, and is not read any more. Take its data out with the version that wrote "
            "it, remove the folder, and create the store anew."
        )
    if len(words) != 4 or _checksum(" ".join(words[:3])) != words[3]:
        raise CorruptValue(
            f"The file {name!r} in {path!r} is damaged, or none of ours. Nothing was "
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
        raise CorruptValue(f"The file {name!r} in {path!r} names no id.") from error


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _salvage(config: Mapping[str, Any]) -> bool:
    value = config.get("salvage", False)
    if not isinstance(value, bool):
        raise StoreConfigError(f'"salvage" is true or false, not {value!r}.', key="salvage")
    return value
