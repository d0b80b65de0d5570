"""Backends that break one promise each. The suite must turn red on every one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from datahike_async.konserve.backends.memory import MemoryBackend, MemoryBlobStore
from datahike_async.konserve.blob import (
    Blob,
    Capabilities,
    ConditionalDomain,
    Expected,
    Revision,
    Write,
)

__all__ = ["BROKEN", "BrokenBackend"]


class IgnoresConditions(MemoryBlobStore):
    """Its compare-and-set is a plain put."""

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write whatever is expected."""
        return await super().write(name, data, None)


class WritesUnordered(MemoryBlobStore):
    """Its write of many keys is neither ordered nor atomic: the last goes first."""

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write backward, condition after condition."""
        if len(writes) == 1:
            return await super().write_many(writes)
        done = [(await super(WritesUnordered, self).write_many([w]))[0] for w in reversed(writes)]
        return done[::-1]


class ForgetsAPage(MemoryBlobStore):
    """Its listing leaves out what lies behind the first thousand names."""

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over the first page alone."""
        async for page in super().names():
            yield page[:1000]


class LosesRanges(MemoryBlobStore):
    """Its ranged reads begin one byte too late."""

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Read from the wrong place."""
        return await super().read(name, start + 1 if start else 0, end)


class KeepsRevisions(MemoryBlobStore):
    """The revision of a name does not change when its bytes do."""

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write under one revision for ever."""
        await super().write_many([w._replace(expected=None) for w in writes])
        data: Any = self._open()
        for write in writes:
            data[write.name] = (data[write.name][0], "1")
        return ["1"] * len(writes)


class ReadsAfterClose(MemoryBlobStore):
    """It goes on answering after it was closed."""

    async def close(self) -> None:
        """Do nothing."""


class PretendsJournals(MemoryBlobStore):
    """It declares journals and has none."""

    @property
    def capabilities(self) -> Capabilities:
        """Promise too much."""
        return Capabilities(conditional=ConditionalDomain.PROCESS, journal=True)


BROKEN = {
    kind.__name__: kind
    for kind in (
        IgnoresConditions,
        WritesUnordered,
        ForgetsAPage,
        LosesRanges,
        KeepsRevisions,
        ReadsAfterClose,
        PretendsJournals,
    )
}


class BrokenBackend(MemoryBackend):
    """Memory stores of a broken kind; register it under a name of its own."""

    def __init__(self, kind: type[MemoryBlobStore]) -> None:
        self.kind = kind

    async def create(self, config: Mapping[str, Any]) -> MemoryBlobStore:
        """Make a store that breaks its promise."""
        return self.kind((await super().create(config))._open())

    async def connect(self, config: Mapping[str, Any]) -> MemoryBlobStore:
        """Open a store that breaks its promise."""
        return self.kind((await super().connect(config))._open())
