"""Caching: blobs and ranges of any store kept in memory, within a number of bytes.

What this process writes through it, it reads back; what others write shows once it fell out of the
cache, or at once to whoever reads the latest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from datahike_async.konserve.blob import (
    UNCHANGED,
    Blob,
    BlobStore,
    Expected,
    Revision,
    Unchanged,
    Write,
)
from datahike_async.konserve.errors import StoreConfigError
from datahike_async.konserve.wrappers.changes import Changes
from datahike_async.konserve.wrappers.nested import WrapperBackend
from datahike_async.konserve.wrappers.passing import PassingBlobStore

__all__ = ["CachingBackend", "CachingBlobStore"]

T = TypeVar("T")

_DEFAULT_BYTES: Final = 64 * 1024 * 1024
_OVERHEAD: Final = 256
"""What an entry counts for besides its bytes."""
_WHOLE: Final = (0, None)

_Range = tuple[int, int | None]


class _Cache:
    """Blobs and ranges by name, the least recently used first to go."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._blobs: OrderedDict[tuple[str, _Range], Blob] = OrderedDict()
        self._ranges: dict[str, set[_Range]] = {}

    def get(self, name: str, wanted: _Range) -> Blob | None:
        for key in ((name, wanted), (name, _WHOLE)):
            found = self._blobs.get(key)
            if found is not None:
                self._blobs.move_to_end(key)
                start, end = wanted
                whole = key[1] == _WHOLE and wanted != _WHOLE
                return found._replace(data=found.data[start:end]) if whole else found
        return None

    def put(self, name: str, wanted: _Range, blob: Blob) -> None:
        self._forget(name, wanted)
        size = len(blob.data) + _OVERHEAD
        if size > self.limit:
            return
        if any(self._blobs[name, other].revision != blob.revision for other in self._of(name)):
            self.drop(name)
        self._blobs[name, wanted] = blob
        self._ranges.setdefault(name, set()).add(wanted)
        self.bytes += size
        while self.bytes > self.limit:
            self._forget(*next(iter(self._blobs)))

    def drop(self, name: str) -> None:
        for wanted in list(self._of(name)):
            self._forget(name, wanted)

    def clear(self) -> None:
        self._blobs.clear()
        self._ranges.clear()
        self.bytes = 0

    def _of(self, name: str) -> set[_Range]:
        return self._ranges.get(name, set())

    def _forget(self, name: str, wanted: _Range) -> None:
        gone = self._blobs.pop((name, wanted), None)
        if gone is None:
            return
        self.bytes -= len(gone.data) + _OVERHEAD
        ranges = self._ranges[name]
        ranges.discard(wanted)
        if not ranges:
            del self._ranges[name]


class CachingBlobStore(PassingBlobStore):
    """A store with a cache of at most ``max_bytes`` before it."""

    def __init__(self, blobs: BlobStore, max_bytes: int = _DEFAULT_BYTES) -> None:
        super().__init__(blobs)
        self._cache = _Cache(max_bytes)
        self._changes = Changes()
        self._closed = False

    @property
    def cached_bytes(self) -> int:
        """How many bytes the cache counts now."""
        return self._cache.bytes

    # -- reading -------------------------------------------------------------------------------

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Return bytes and revision, from the cache where they are there."""
        wanted = (start, end)
        found = None if self._closed else self._cache.get(name, wanted)
        if found is not None:
            return found
        with self._changes.reading(name) as reading:
            blob = await self.blobs.read(name, start, end)
            if blob is not None and reading.fresh:
                self._cache.put(name, wanted, blob)
            return blob

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Ask the store; what is cached is not sent again."""
        cached = self._cache.get(name, _WHOLE)
        known = unless if unless is not None or cached is None else cached.revision
        with self._changes.reading(name) as reading:
            found = await self.blobs.read_latest(name, known)
            if found is UNCHANGED:
                return found if unless is not None else cached
            if reading.fresh:
                if found is None:
                    self._cache.drop(name)
                else:
                    self._cache.put(name, _WHOLE, found)
            return found

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Return those that exist; the store is asked for what is not cached."""
        found: dict[str, Blob] = {}
        missing = []
        for name in names:
            cached = None if self._closed else self._cache.get(name, _WHOLE)
            if cached is None:
                missing.append(name)
            else:
                found[name] = cached
        if missing or not names:
            with self._changes.readings(missing) as readings:
                fetched = await self.blobs.read_many(missing)
                for name, blob in fetched.items():
                    if readings[name].fresh:
                        self._cache.put(name, _WHOLE, blob)
            found.update(fetched)
        return found

    # -- writing -------------------------------------------------------------------------------

    async def _changing(self, names: Sequence[str], call: Callable[[], Awaitable[T]]) -> T:
        self._changes.changed(names)
        try:
            return await call()
        finally:
            # Whatever became of it: what was read before, or meanwhile, may be old.
            self._changes.changed(names)
            for name in names:
                self._cache.drop(name)

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write to the store, then to the cache."""
        return (await self._write([Write(name, data, expected)], None))[0]

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write to the store, then to the cache."""
        return await self._write(writes, ordered)

    async def _write(self, writes: Sequence[Write], ordered: bool | None) -> Sequence[Revision]:
        async def call() -> Sequence[Revision]:
            if ordered is None:
                return [await self.blobs.write(*writes[0])]
            return await self.blobs.write_many(writes, ordered=ordered)

        return await self._changing([w.name for w in writes], call)

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Delete from the store, then from the cache."""
        return await self._changing([name], lambda: self.blobs.delete(name, expected))

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Delete from the store, then from the cache."""
        return await self._changing(names, lambda: self.blobs.delete_many(names))

    # -- journals ------------------------------------------------------------------------------

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append in the store; the cached revision is old then."""
        return await self._changing([name], lambda: self.journals.append(name, record, expected))

    async def close(self) -> None:
        """Forget what was cached and close the store."""
        self._closed = True
        self._cache.clear()
        await self.blobs.close()


class CachingBackend(WrapperBackend):
    """Config: ``config``, the store behind; ``max-bytes``, 64 MiB where it is left out."""

    keys = public = frozenset({"config", "max-bytes"})

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse a bound that is none."""
        value = config.get("max-bytes", _DEFAULT_BYTES)
        if type(value) is not int or value < 0:
            raise StoreConfigError(
                f'"max-bytes" is a number of bytes, at least 0, not {value!r}.', key="max-bytes"
            )

    def wrap(self, blobs: BlobStore, config: Mapping[str, Any]) -> BlobStore:
        """Return the store with a cache before it."""
        return CachingBlobStore(blobs, config.get("max-bytes", _DEFAULT_BYTES))
