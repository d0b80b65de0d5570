"""A store that fails on purpose: before or after the effect, once or for good."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from datahike_async.konserve.blob import (
    Blob,
    BlobStore,
    Capabilities,
    Expected,
    Journal,
    JournalBlobStore,
    Revision,
    Unchanged,
    Write,
)
from datahike_async.konserve.errors import OutcomeUnknown, StoreIOError

__all__ = ["Fault", "FaultyBlobStore"]

T = TypeVar("T")


class Fault(Enum):
    """What happens at the chosen call."""

    BEFORE = "before"
    """It fails and nothing is done."""
    LOST_RESPONSE = "lost response"
    """It is done, and the answer is lost."""
    LOST_REQUEST = "lost request"
    """Nothing is done, and the caller cannot know."""


class FaultyBlobStore:
    """Wraps a blob store; the ``at``-th write from now (from 0) fails, or all from it on.

    ``writes`` counts the write calls so far. Reads never fail. A BEFORE fault raises ``error``.
    """

    def __init__(
        self,
        blobs: BlobStore,
        *,
        fault: Fault = Fault.BEFORE,
        at: int | None = None,
        persistent: bool = False,
        error: Callable[[], Exception] = lambda: StoreIOError("injected fault"),
    ) -> None:
        self.blobs = blobs
        self.fault = fault
        self.at = at
        self.persistent = persistent
        self.error = error
        self.writes = 0

    @property
    def capabilities(self) -> Capabilities:
        """What the wrapped store promises."""
        return self.blobs.capabilities

    @property
    def server(self) -> str:
        """What is at the other end of the wrapped store."""
        return self.blobs.server

    async def _write(self, call: Callable[[], Awaitable[T]]) -> T:
        number = self.writes
        self.writes += 1
        hit = self.at is not None and (number == self.at or (self.persistent and number > self.at))
        if not hit:
            return await call()
        if self.fault is Fault.BEFORE:
            raise self.error()
        if self.fault is Fault.LOST_RESPONSE:
            await call()
        raise OutcomeUnknown(f"injected: {self.fault.value}")

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Read through."""
        return await self.blobs.read(name, start, end)

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Read through."""
        return await self.blobs.read_latest(name, unless)

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Read through."""
        return await self.blobs.read_many(names)

    def names(self) -> AsyncIterator[Sequence[str]]:
        """List through."""
        return self.blobs.names()

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write, unless this is the call that fails."""
        return await self._write(lambda: self.blobs.write(name, data, expected))

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Delete, unless this is the call that fails."""
        return await self._write(lambda: self.blobs.delete(name, expected))

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write, unless this is the call that fails."""
        return await self._write(lambda: self.blobs.write_many(writes, ordered=ordered))

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Delete, unless this is the call that fails."""
        return await self._write(lambda: self.blobs.delete_many(names))

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append, unless this is the call that fails."""
        return await self._write(lambda: self._journals.append(name, record, expected))

    async def read_journal(
        self, name: str, unless: Revision | None = None
    ) -> Journal | Unchanged | None:
        """Read through."""
        return await self._journals.read_journal(name, unless)

    @property
    def _journals(self) -> JournalBlobStore:
        found: Any = self.blobs
        return found  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close the wrapped store."""
        await self.blobs.close()
