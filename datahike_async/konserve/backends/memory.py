"""The memory backend: blobs in a dict, kept by store id for the life of the process.

Event loops in several threads may have one store open, so whatever compares before it changes does
both under the lock of that store.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from itertools import count
from typing import Any
from uuid import UUID

from datahike_async.konserve.base import BlobStoreBase, require_revision
from datahike_async.konserve.blob import (
    Blob,
    Capabilities,
    ConditionalDomain,
    Expected,
    Revision,
    Write,
)
from datahike_async.konserve.errors import (
    StoreClosed,
    StoreConfigError,
    StoreExists,
    StoreNotFound,
)

__all__ = ["Blobs", "MemoryBackend", "MemoryBlobStore"]


class Blobs(dict[str, tuple[bytes, Revision]]):
    """What one store holds, by name. ``lock`` is held for no longer than a few dict accesses."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


_stores: dict[UUID, Blobs] = {}
_revisions = count(1)

_CAPABILITIES = Capabilities(
    durable=False,
    conditional=ConditionalDomain.PROCESS,
    atomic_multi=True,
    cheap_small_keys=True,
)


class MemoryBlobStore(BlobStoreBase):
    """Blobs of one memory store. Every change is one step for all threads."""

    def __init__(self, data: Blobs) -> None:
        self._data: Blobs | None = data

    @property
    def capabilities(self) -> Capabilities:
        """What this store promises."""
        return _CAPABILITIES

    def _open(self) -> Blobs:
        data = self._data
        if data is None:
            raise StoreClosed("This store was released; connect to it again.")
        return data

    def _check(self, name: str, expected: Expected) -> None:
        """Compare, with the lock held."""
        found = self._open().get(name)
        require_revision(name, expected, None if found is None else found[1])

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Return bytes and revision, or None."""
        found = self._open().get(name)
        return None if found is None else Blob(found[0][start:end], found[1])

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Replace the bytes of a name."""
        return (await self.write_many([Write(name, data, expected)]))[0]

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove a name."""
        data = self._open()
        with data.lock:
            self._check(name, expected)
            return data.pop(name, None) is not None

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Return those that exist, as they were at one moment."""
        data = self._open()
        with data.lock:
            return {n: Blob(*data[n]) for n in names if n in data}

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write all or nothing."""
        data = self._open()
        fresh = [(w.name, (bytes(w.data), str(next(_revisions)))) for w in writes]
        with data.lock:
            for write in writes:
                self._check(write.name, write.expected)
            data.update(fresh)
        return [revision for _, (_, revision) in fresh]

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Remove names, all at one moment."""
        data = self._open()
        with data.lock:
            return [data.pop(name, None) is not None for name in names]

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over pages of names."""
        data = self._open()
        with data.lock:
            found = list(data)
        yield found

    async def close(self) -> None:
        """Let go of the data; it stays in the process under its id."""
        self._data = None


class MemoryBackend:
    """Memory stores by id."""

    keys: frozenset[str] = frozenset()
    compressor = "none"

    def _id(self, config: Mapping[str, Any]) -> UUID:
        found = config.get("id")
        if found is None:
            raise StoreConfigError(
                'A memory store needs an "id", a UUID, by which the process finds it again.',
                error=":missing-id",
            )
        return found  # type: ignore[no-any-return]

    async def create(self, config: Mapping[str, Any]) -> MemoryBlobStore:
        """Make a store."""
        id_ = self._id(config)
        data = Blobs()
        # One step: of two threads that create it one must lose.
        if _stores.setdefault(id_, data) is not data:
            raise StoreExists(f"Memory store with ID {str(id_)!r} already exists.")
        return MemoryBlobStore(data)

    async def connect(self, config: Mapping[str, Any]) -> MemoryBlobStore:
        """Open a store."""
        id_ = self._id(config)
        data = _stores.get(id_)
        if data is None:
            raise StoreNotFound(
                f"Memory store with ID {str(id_)!r} does not exist here. Create it first."
            )
        return MemoryBlobStore(data)

    async def place(self, config: Mapping[str, Any]) -> Hashable:
        """Return the id: it is all there is of a place."""
        return self._id(config)

    async def exists(self, config: Mapping[str, Any]) -> bool:
        """Say whether there is a store."""
        return self._id(config) in _stores

    async def delete(self, config: Mapping[str, Any]) -> None:
        """Forget a store."""
        _stores.pop(self._id(config), None)
