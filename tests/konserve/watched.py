"""A store that tells what it was asked, and can be held up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from datahike_async.konserve import (
    Blob,
    Write,
)
from datahike_async.konserve.backends.memory import Blobs, MemoryBlobStore
from datahike_async.konserve.wrappers.passing import PassingBlobStore

NAME = "ab" * 16
OTHER = "cd" * 16


def memory() -> MemoryBlobStore:
    return MemoryBlobStore(Blobs())


class Watched(PassingBlobStore):
    """Counts calls, and holds reads back while ``gate`` is there."""

    def __init__(self, blobs: Any) -> None:
        super().__init__(blobs)
        self.calls: list[str] = []
        self.gate: anyio.Event | None = None
        self.held = anyio.Event()

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        self.calls.append("read")
        found = await self.blobs.read(name, start, end)
        if self.gate is not None:
            self.held.set()
            await self.gate.wait()
        return found

    async def read_latest(self, name: str, unless: str | None = None) -> Any:
        self.calls.append("read_latest" if unless is None else "read_unless")
        return await self.blobs.read_latest(name, unless)

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        self.calls.append("read_many")
        return await self.blobs.read_many(names)

    async def write(self, name: str, data: bytes, expected: Any = None) -> str:
        self.calls.append("write")
        return await self.blobs.write(name, data, expected)

    async def write_many(self, writes: Sequence[Write], *, ordered: bool = True) -> Any:
        self.calls.append("write_many")
        return await self.blobs.write_many(writes, ordered=ordered)
