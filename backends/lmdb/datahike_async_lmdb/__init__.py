"""The LMDB backend of datahike-async: every operation is one LMDB transaction in a worker thread.

LMDB allows one write transaction at a time among all processes, so a compare-and-set is a read and
a write inside one. Revisions are numbers from a counter in the same environment, so they never
repeat, not even for a name that was removed in between.
"""

from __future__ import annotations

import os
import shutil
import struct
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import lmdb
from anyio.to_thread import run_sync

from datahike_async.konserve import (
    ABSENT,
    Blob,
    Capabilities,
    ConditionalDomain,
    CorruptValue,
    RevisionMismatch,
    StoreClosed,
    StoreConfigError,
    StoreExists,
    StoreFull,
    StoreIOError,
    StoreNotFound,
    UnsupportedEncoding,
    Write,
)
from datahike_async.konserve.blob import Expected, Revision

__all__ = ["LmdbBackend", "LmdbBlobStore"]

T = TypeVar("T")

_FORMAT: Final = 1
_BLOBS: Final = b"blobs"
_META: Final = b"meta"
_MARKER: Final = b"konserve-lmdb"
_COUNTER: Final = b"revision"
_REVISION: Final = struct.Struct(">Q")
_MAP_SIZE: Final = 64 * 1024 * 1024
_PAGE: Final = 1000

_CAPABILITIES: Final = Capabilities(
    conditional=ConditionalDomain.MACHINE,
    atomic_multi=True,
    cheap_small_keys=True,
)

# LMDB forbids opening one environment twice in a process: stores of one path share it.
_open_environments: dict[str, tuple[lmdb.Environment, int]] = {}
_environments_lock = threading.Lock()


def _acquire(path: str, map_size: int) -> lmdb.Environment:
    with _environments_lock:
        environment, users = _open_environments.get(path, (None, 0))
        if environment is None:
            environment = lmdb.open(path, map_size=map_size, max_dbs=2, mode=0o600)
        _open_environments[path] = (environment, users + 1)
        return environment


def _release(path: str) -> None:
    with _environments_lock:
        environment, users = _open_environments[path]
        if users == 1:
            del _open_environments[path]
            environment.close()
        else:
            _open_environments[path] = (environment, users - 1)


class LmdbBlobStore:
    """Blobs in one LMDB environment."""

    def __init__(self, path: str, map_size: int) -> None:
        self._path = path
        self._environment = _acquire(path, map_size)
        self._blobs = self._environment.open_db(_BLOBS)
        self._meta = self._environment.open_db(_META)
        # Growing the map must not happen while this process has a transaction open.
        self._mutex = threading.Lock()
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        """What this store promises."""
        return _CAPABILITIES

    async def _hop(self, call: Callable[..., T], *args: Any) -> T:
        if self._closed:
            raise StoreClosed("This store was released; connect to it again.")
        return await run_sync(self._guarded, call, args)

    def _guarded(self, call: Callable[..., T], args: tuple[Any, ...]) -> T:
        with self._mutex:
            if self._closed:
                raise StoreClosed("This store was released; connect to it again.")
            while True:
                try:
                    return call(*args)
                except lmdb.MapFullError:
                    self._grow()
                except lmdb.MapResizedError:
                    # Another process grew it; 0 takes over its size.
                    self._environment.set_mapsize(0)
                except lmdb.DiskError as error:
                    raise StoreFull(f"No space is left in {self._path!r}: {error}") from error
                except lmdb.CorruptedError as error:
                    raise CorruptValue(f"The environment {self._path!r}: {error}") from error
                except lmdb.Error as error:
                    raise StoreIOError(f"LMDB failed in {self._path!r}: {error}") from error

    def _grow(self) -> None:
        size = self._environment.info()["map_size"] * 2
        try:
            self._environment.set_mapsize(size)
        except lmdb.Error as error:
            raise StoreFull(
                f"The map of {self._path!r} cannot grow to {size} bytes: {error}"
            ) from error

    # -- reading -------------------------------------------------------------------------------

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Return bytes and revision, or None."""
        return await self._hop(self._read, name, start, end)

    def _read(self, name: str, start: int, end: int | None) -> Blob | None:
        with self._environment.begin(db=self._blobs, buffers=True) as txn:
            found = txn.get(name.encode())
            if found is None:
                return None
            stop = None if end is None else end + _REVISION.size
            data = bytes(found[start + _REVISION.size : stop])
            return Blob(data, str(_REVISION.unpack_from(found)[0]))

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Return those that exist."""
        return await self._hop(self._read_many, names)

    def _read_many(self, names: Sequence[str]) -> dict[str, Blob]:
        out = {}
        for name in names:
            blob = self._read(name, 0, None)
            if blob is not None:
                out[name] = blob
        return out

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over pages of names."""
        after = b""
        while True:
            page = await self._hop(self._names, after)
            if page:
                yield page
            if len(page) < _PAGE:
                return
            after = page[-1].encode() + b"\0"

    def _names(self, start: bytes) -> list[str]:
        with self._environment.begin(db=self._blobs) as txn, txn.cursor() as cursor:
            out: list[str] = []
            if cursor.set_range(start):
                for key in cursor.iternext(keys=True, values=False):
                    out.append(bytes(key).decode())
                    if len(out) == _PAGE:
                        break
            return out

    # -- writing -------------------------------------------------------------------------------

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Replace the bytes of a name."""
        return (await self._hop(self._write_many, [Write(name, data, expected)]))[0]

    async def write_many(self, writes: Sequence[Write]) -> Sequence[Revision]:
        """Write all or nothing."""
        return await self._hop(self._write_many, writes)

    def _write_many(self, writes: Sequence[Write]) -> list[Revision]:
        with self._environment.begin(write=True, db=self._blobs) as txn:
            revision = _REVISION.unpack(txn.get(_COUNTER, bytes(8), db=self._meta))[0]
            for write in writes:
                self._check(txn, write.name, write.expected)
            revisions = []
            for write in writes:
                revision += 1
                txn.put(write.name.encode(), _REVISION.pack(revision) + write.data)
                revisions.append(str(revision))
            txn.put(_COUNTER, _REVISION.pack(revision), db=self._meta)
        return revisions

    def _check(self, txn: lmdb.Transaction, name: str, expected: Expected) -> None:
        if expected is None:
            return
        found = txn.get(name.encode())
        revision = None if found is None else str(_REVISION.unpack_from(found)[0])
        if revision != (None if expected is ABSENT else expected):
            raise RevisionMismatch(
                f"{name} has revision {revision}, not {expected}.",
                expected=expected,
                found=revision,
            )

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove a name."""
        return await self._hop(self._delete, name, expected)

    def _delete(self, name: str, expected: Expected) -> bool:
        with self._environment.begin(write=True, db=self._blobs) as txn:
            self._check(txn, name, expected)
            return bool(txn.delete(name.encode()))

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Remove names, all or none."""
        return await self._hop(self._delete_many, names)

    def _delete_many(self, names: Sequence[str]) -> list[bool]:
        with self._environment.begin(write=True, db=self._blobs) as txn:
            return [bool(txn.delete(name.encode())) for name in names]

    async def close(self) -> None:
        """Let go of the environment."""
        if not self._closed:
            self._closed = True
            await run_sync(self._close)

    def _close(self) -> None:
        with self._mutex:
            _release(self._path)


class LmdbBackend:
    """Folders with an LMDB environment each. Config: ``path``, ``map-size``, perhaps ``id``."""

    keys: frozenset[str] = frozenset({"path", "map-size"})
    compressor = "zstd"

    def _settings(self, config: Mapping[str, Any]) -> tuple[str, int]:
        path = config.get("path")
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise StoreConfigError(f'An LMDB store needs a "path", a folder, not {path!r}.')
        size = config.get("map-size", _MAP_SIZE)
        if type(size) is not int or size < 1024 * 1024:
            raise StoreConfigError(
                f'"map-size" is a number of bytes, at least 1 MiB, not {size!r}.'
            )
        return os.path.realpath(os.fspath(path)), size

    async def create(self, config: Mapping[str, Any]) -> LmdbBlobStore:
        """Make an environment."""
        return await run_sync(self._create, *self._settings(config), config.get("id"))

    def _create(self, path: str, size: int, id_: UUID | None) -> LmdbBlobStore:
        if self._marker(path, size) is not None:
            raise StoreExists(f"An LMDB store exists at {path!r} already.")
        os.makedirs(path, mode=0o700, exist_ok=True)
        if os.listdir(path):
            raise StoreConfigError(f"{path!r} is not empty and no store; give a folder of its own.")
        store = LmdbBlobStore(path, size)
        with store._environment.begin(write=True, db=store._meta) as txn:
            txn.put(_MARKER, f"{_FORMAT} {id_ or uuid4()}".encode())
        return store

    async def connect(self, config: Mapping[str, Any]) -> LmdbBlobStore:
        """Open an environment."""
        return await run_sync(self._connect, *self._settings(config), config.get("id"))

    def _connect(self, path: str, size: int, id_: UUID | None) -> LmdbBlobStore:
        found = self._marker(path, size)
        if found is None:
            raise StoreNotFound(f"There is no LMDB store at {path!r}. Create it first.")
        if id_ is not None and found != id_:
            raise StoreConfigError(
                f"The store at {path!r} has the id {found}, not {id_}: it is another store.",
                error=":store-identity-mismatch",
            )
        return LmdbBlobStore(path, size)

    def _marker(self, path: str, size: int) -> UUID | None:
        if not os.path.exists(os.path.join(path, "data.mdb")):
            return None
        environment = _acquire(path, size)
        try:
            meta = environment.open_db(_META)
            with environment.begin(db=meta) as txn:
                found = txn.get(_MARKER)
        except lmdb.Error as error:
            raise CorruptValue(f"{path!r} is no LMDB store of ours: {error}") from error
        finally:
            _release(path)
        if found is None:
            return None
        number, _, id_ = bytes(found).decode().partition(" ")
        if int(number) > _FORMAT:
            raise UnsupportedEncoding(
                f"The store at {path!r} has format {number}; this version reads up to {_FORMAT}."
            )
        return UUID(id_)

    async def exists(self, config: Mapping[str, Any]) -> bool:
        """Say whether there is a store."""
        return await run_sync(self._marker, *self._settings(config)) is not None

    async def delete(self, config: Mapping[str, Any]) -> None:
        """Remove the folder, if there is a store in it."""
        path, size = self._settings(config)

        def delete() -> None:
            if self._marker(path, size) is not None:
                shutil.rmtree(path)

        await run_sync(delete)
