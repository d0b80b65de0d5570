"""PassingBlobStore: a store that hands everything on, for wrappers that change a few calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar, cast

from datahike_async.konserve.base import BlobStoreBase, close_now, faults_of
from datahike_async.konserve.blob import (
    Appended,
    Blob,
    BlobStore,
    Capabilities,
    Expected,
    Fault,
    InPlaceBlobStore,
    Journal,
    JournalBlobStore,
    Revision,
    Turn,
    TurnBlobStore,
    Unchanged,
    Write,
)
from datahike_async.konserve.threads import in_thread

__all__ = ["PassingBlobStore"]

T = TypeVar("T")


class PassingBlobStore(BlobStoreBase):
    """Whatever it is asked, ``blobs`` answers."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.identity = getattr(blobs, "identity", None)
        self.read_only = getattr(blobs, "read_only", False)

    @property
    def blobs(self) -> BlobStore:
        """The store behind."""
        return self._blobs

    @property
    def journals(self) -> JournalBlobStore:
        """The store behind, where its capabilities promise journals."""
        return cast(JournalBlobStore, self.blobs)

    @property
    def lying(self) -> InPlaceBlobStore:
        """The store behind, where its capabilities promise reads in place."""
        return cast(InPlaceBlobStore, self.blobs)

    @property
    def capabilities(self) -> Capabilities:
        """What the store behind promises."""
        return self._blobs.capabilities

    @property
    def server(self) -> str:
        """What is at the other end of the store behind."""
        return self._blobs.server

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Hand on."""
        return await self.blobs.read(name, start, end)

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Hand on."""
        return await self.blobs.read_latest(name, unless)

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Hand on."""
        return await self.blobs.read_many(names)

    async def read_in_place(
        self, names: Sequence[str], decode: Callable[[str, memoryview], T]
    ) -> Mapping[str, T]:
        """Decode what ``read_many`` returns, so that a wrapper that changes that changes both.

        One that does not may hand on to the store behind.
        """
        found = await self.read_many(names)

        def decoded() -> dict[str, T]:
            return {name: decode(name, memoryview(blob.data)) for name, blob in found.items()}

        return await in_thread(decoded)

    def names(self) -> AsyncIterator[Sequence[str]]:
        """Hand on."""
        return self.blobs.names()

    async def faults(self) -> Sequence[Fault]:
        """Hand on."""
        return await faults_of(self.blobs)

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Hand on."""
        return await self.blobs.write(name, data, expected)

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Hand on."""
        return await self.blobs.write_many(writes, ordered=ordered)

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Hand on."""
        return await self.blobs.delete(name, expected)

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Hand on."""
        return await self.blobs.delete_many(names)

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Hand on."""
        return await self.journals.append(name, record, expected)

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Hand on."""
        return await self.journals.read_journal(name, since)

    def turn(self, name: str, since: Revision | None = None) -> AbstractAsyncContextManager[Turn]:
        """Hand on."""
        return cast(TurnBlobStore, self.blobs).turn(name, since)

    async def close(self) -> None:
        """Hand on."""
        await self.blobs.close()

    def close_now(self) -> None:
        """Hand on."""
        close_now(self._blobs)
