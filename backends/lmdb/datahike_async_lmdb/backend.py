"""Makes, finds, opens and removes LMDB stores: a folder with an environment each.

An environment is ours where its ``meta`` table has a marker: the format and the store's id, or the
word that says the store is being deleted. Looking at one that is not ours changes nothing in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final
from uuid import UUID, uuid4

import lmdb

from datahike_async.konserve import (
    CorruptValue,
    StoreConfigError,
    StoreExists,
    StoreIOError,
    StoreNotFound,
    UnsupportedEncoding,
    acquire_in_thread,
    in_thread,
)
from datahike_async.konserve.backends.file_io import require_locks
from datahike_async.konserve.backends.folders import (
    MAKING,
    folder_path,
    folder_place,
    holding,
    holding_new,
    refuse_nested,
    refuse_occupied,
    refuse_other,
    remove_empty,
    remove_own,
)
from datahike_async.konserve.file_lock import lock_seconds
from datahike_async_lmdb.environment import BLOBS, META, Shared, committing, table
from datahike_async_lmdb.store import DELETED, MARKER, LmdbBlobStore

__all__ = ["LmdbBackend"]

_FORMAT: Final = 1
_OWN: Final = re.compile(r"data\.mdb|lock\.mdb")
_MAP_SIZE: Final = 64 * 1024 * 1024


@contextmanager
def _system_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreIOError(f"The folder {path!r}: {error}") from error


class LmdbBackend:
    """Folders with an LMDB environment each. Config: ``path``, ``map-size``, perhaps ``id``.

    ``lock-seconds`` is how long a writer waits for another process that is writing.
    """

    keys: frozenset[str] = frozenset({"path", "map-size", "lock-seconds"})
    public = keys
    compressor = "zstd"
    store = LmdbBlobStore

    def _settings(self, config: Mapping[str, Any]) -> tuple[str, int]:
        path = folder_path(config)
        size = config.get("map-size", _MAP_SIZE)
        if type(size) is not int or size < 1024 * 1024:
            raise StoreConfigError(
                f'"map-size" is a number of bytes, at least 1 MiB, not {size!r}.'
            )
        return path, size

    async def create(self, config: Mapping[str, Any]) -> LmdbBlobStore:
        """Make an environment."""
        require_locks("lmdb")
        seconds = lock_seconds(config)
        return await acquire_in_thread(
            self._create,
            LmdbBlobStore.close_now,
            *self._settings(config),
            config.get("id"),
            seconds,
        )

    def _create(self, path: str, size: int, id_: UUID | None, seconds: float) -> LmdbBlobStore:
        path = os.path.realpath(path)
        # Of two that create it one must lose, and none while it is being removed.
        with _system_errors(path), holding_new(path, _OWN, seconds, MAKING):
            found = self._marker(path, size)
            if found == DELETED:
                self._remove_files(path, size, seconds)
            elif found is not None:
                raise StoreExists(f"An LMDB store exists at {path!r} already.")
            refuse_occupied(path, _OWN)
            refuse_nested(path)
            shared = Shared.acquire(path, size, writing=True)
            try:
                shared.allow_writing(size, seconds)
                if not shared.call(_is_bare, shared):
                    raise StoreConfigError(
                        f"{path!r} is not empty and no store; give a folder of its own."
                    )
                id_ = id_ or uuid4()
                store = self.store(shared, seconds, size, identity=id_)
                shared.call(self._mark, shared, f"{_FORMAT} {id_}".encode(), seconds)
                try:
                    # Again: of two stores, one within the other, one must see the other.
                    refuse_occupied(path, _OWN)
                    refuse_nested(path)
                except BaseException:
                    shared.call(self._mark, shared, DELETED, seconds)
                    raise
            except BaseException:
                shared.release()
                raise
            return store

    def _mark(self, shared: Shared, text: bytes, seconds: float) -> None:
        meta = table(shared, META, seconds)
        with committing(shared, shared.environment, meta, seconds) as txn:
            txn.put(MARKER, text)

    async def connect(self, config: Mapping[str, Any]) -> LmdbBlobStore:
        """Open an environment."""
        require_locks("lmdb")
        seconds = lock_seconds(config)
        return await acquire_in_thread(
            self._connect,
            LmdbBlobStore.close_now,
            *self._settings(config),
            config.get("id"),
            seconds,
            config.get("read-only", False),
        )

    def _connect(
        self, path: str, size: int, id_: UUID | None, seconds: float, read_only: bool
    ) -> LmdbBlobStore:
        path = os.path.realpath(path)
        missing = StoreNotFound(f"There is no LMDB store at {path!r}. Create it first.")
        shared = self._opened(path, size, read_only)
        if shared is None:
            raise missing
        try:
            # Of the environment that is open: another one may lie at the path by now.
            found = self._id(path, shared.call(self._read_marker, shared))
            if found is None:
                raise missing
            refuse_other(path, id_, found)
            return self.store(shared, seconds, size, identity=found)
        except BaseException:
            shared.release()
            raise

    def _opened(self, path: str, size: int, read_only: bool) -> Shared | None:
        """Return the environment at a path, if there is one; nothing is made."""
        try:
            if not os.path.getsize(os.path.join(path, "data.mdb")):
                return None
        except OSError:
            return None
        try:
            with _system_errors(path):
                return Shared.acquire(path, size, read_only=read_only)
        except StoreNotFound:
            return None

    def _marker(self, path: str, size: int, read_only: bool = False) -> bytes | None:
        shared = self._opened(path, size, read_only)
        if shared is None:
            return None
        try:
            return shared.call(self._read_marker, shared)
        finally:
            shared.release()

    def _read_marker(self, shared: Shared) -> bytes | None:
        try:
            meta = table(shared, META)
        except lmdb.NotFoundError:
            return None
        with shared.unwritten(), shared.environment.begin(db=meta) as txn:
            found = txn.get(MARKER)
            return None if found is None else bytes(found)

    def _id(self, path: str, marker: bytes | None) -> UUID | None:
        if marker is None or marker == DELETED:
            return None
        number, _, id_ = marker.decode("latin-1").partition(" ")
        if number.isdigit() and int(number) > _FORMAT:
            raise UnsupportedEncoding(
                f"The store at {path!r} has format {number}; this version reads up to {_FORMAT}."
            )
        try:
            return UUID(id_)
        except ValueError as error:
            raise CorruptValue(f"The marker of the store at {path!r} names no id.") from error

    async def place(self, config: Mapping[str, Any]) -> Hashable:
        """Return what the folder is, whatever the path to it."""
        return await in_thread(folder_place, self._settings(config)[0])

    async def exists(self, config: Mapping[str, Any]) -> bool:
        """Say whether there is a store."""
        read_only = config.get("read-only", False)
        return await in_thread(self._exists, *self._settings(config), read_only)

    def _exists(self, path: str, size: int, read_only: bool) -> bool:
        path = os.path.realpath(path)
        return self._id(path, self._marker(path, size, read_only)) is not None

    async def delete(self, config: Mapping[str, Any]) -> None:
        """Remove the store in the folder, and the folder where nothing else is in it."""
        path, size = self._settings(config)
        await in_thread(self._delete, path, size, config.get("id"), lock_seconds(config))

    def _delete(self, path: str, size: int, id_: UUID | None, seconds: float) -> None:
        path = os.path.realpath(path)
        if self._marker(path, size) is None:
            return
        with (
            _system_errors(path),
            suppress(FileNotFoundError),  # somebody else has deleted it
            holding(path, seconds, MAKING),
        ):
            marker = self._marker(path, size)
            if marker is None:
                return
            found = self._id(path, marker)
            if found is not None:
                refuse_other(path, id_, found)
            self._remove_files(path, size, seconds)
            remove_own(path, _OWN)
            remove_empty(path)

    def _remove_files(self, path: str, size: int, seconds: float) -> None:
        shared = Shared.acquire(path, size, writing=True)
        try:
            shared.allow_writing(size, seconds)
            # Stores that are still open, here or in other processes, find it before they write.
            shared.call(self._mark, shared, DELETED, seconds)
            for name in ("data.mdb", "lock.mdb"):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(path, name))
            # Not before the files are gone: LMDB must not have one of them open twice.
            shared.abandon()
        finally:
            shared.release()


def _is_bare(shared: Shared) -> bool:
    """Say whether there is nothing in an environment, or what an interrupted creation leaves."""
    with shared.environment.begin() as txn, txn.cursor() as cursor:
        names = {bytes(key) for key in cursor.iternext(keys=True, values=False)}
    if not names <= {META, BLOBS}:
        return False
    tables = [table(shared, name) for name in names]
    with shared.environment.begin() as txn:
        return not any(txn.stat(db)["entries"] for db in tables)
