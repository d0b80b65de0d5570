"""Read only: a store that answers whatever reads, and refuses by name whatever writes.

Stores are opened behind it that the configuration says are only read, and those that lie where
nobody can write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn, TypeVar

from datahike_async.konserve.blob import BlobStore, Expected, Revision, Turn, Write
from datahike_async.konserve.errors import StoreDenied
from datahike_async.konserve.wrappers.passing import PassingBlobStore

__all__ = ["ReadOnlyBlobStore"]

T = TypeVar("T")


class ReadOnlyBlobStore(PassingBlobStore):
    """A store that is only read; ``why`` says so in its errors."""

    def __init__(self, blobs: BlobStore, why: str) -> None:
        super().__init__(blobs)
        self.read_only = True
        self._why = why

    async def read_in_place(
        self, names: Sequence[str], decode: Callable[[str, memoryview], T]
    ) -> Mapping[str, T]:
        """Hand on."""
        return await self.lying.read_in_place(names, decode)

    def _refuse(self) -> NoReturn:
        raise StoreDenied(f"{self._why}; nothing was written.", read_only=True)

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Refuse."""
        self._refuse()

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Refuse."""
        self._refuse()

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Refuse."""
        self._refuse()

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Refuse."""
        self._refuse()

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Refuse."""
        self._refuse()

    def turn(self, name: str, since: Revision | None = None) -> AbstractAsyncContextManager[Turn]:
        """Refuse."""
        self._refuse()
