"""Small stores in memory that keep what they promise, each with another set of promises.

They show what the suite asks of stores that promise little, and the ones in ``negative`` are made
of them. Between their steps they let others run, as stores that reach for a disk do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from datahike_async.konserve.backends.memory import Blobs, MemoryBackend, MemoryBlobStore
from datahike_async.konserve.blob import (
    ABSENT,
    UNCHANGED,
    Appended,
    Blob,
    Capabilities,
    ConditionalDomain,
    Expected,
    Journal,
    News,
    Revision,
    Turn,
    Unchanged,
    Write,
)
from datahike_async.konserve.errors import (
    BadArgument,
    OutOfTurn,
    RevisionMismatch,
    StoreNotFound,
    UnsupportedOperation,
)
from datahike_async.konserve.threads import in_thread

__all__ = ["Bare", "Journalling", "Lending", "Queueing", "Specimens"]

T = TypeVar("T")

_records: dict[Revision, list[tuple[Revision, bytes]]] = {}
"""The records of a name, each with the revision before it, by the revision the last one made."""


class Bare(MemoryBlobStore):
    """Promises nothing: no conditions, no journals, many keys one after another."""

    @property
    def capabilities(self) -> Capabilities:
        """Promise as little as can be."""
        return Capabilities(durable=False, ranged_reads=False)

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write, after a pause."""
        return (await self.write_many([Write(name, data, expected)]))[0]

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write one after another, with a pause before each."""
        revisions: list[Revision] = []
        for write in writes:
            await checkpoint()
            revisions += await super().write_many([write])
        return revisions


class Journalling(Bare):
    """Compares and sets, appends to journals, and takes values of 64 KiB and no more."""

    limit: int = 1 << 16

    @property
    def capabilities(self) -> Capabilities:
        """Promise conditions, journals and a limit."""
        return Capabilities(
            durable=False,
            conditional=ConditionalDomain.PROCESS,
            journal=True,
            max_value_bytes=1 << 16,
        )

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write one after another; refuse them all where one is too long."""
        if any(len(write.data) > self.limit for write in writes):
            raise UnsupportedOperation(f"A value has more than {self.limit} bytes.")
        return await super().write_many(writes)

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Give the bytes a new revision, with one record more than the old one had."""
        await checkpoint()
        found = self._open().get(name)
        if found is None:
            raise RevisionMismatch(f"{name} does not exist.", expected=expected)
        self._check(name, expected)
        (revision,) = await MemoryBlobStore.write_many(self, [Write(name, found[0])])
        _records[revision] = [*_records.pop(found[1], []), (found[1], bytes(record))]
        return revision

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Return bytes and records, or the new records, which are of one moment."""
        found = self._open().get(name)
        if found is None:
            return None
        data, revision = found
        if revision == since:
            return UNCHANGED
        before = [at for at, _ in _records.get(revision, [])]
        records = [record for _, record in _records.get(revision, [])]
        if since in before:
            return Appended(records[before.index(since) :], revision)
        return Journal(data, records, revision)


class _Line:
    """Who has the turn of each name, and who waits for it."""

    def __init__(self) -> None:
        self.holders: dict[str, Queueing] = {}
        self.waiting: dict[str, deque[anyio.Event]] = {}
        self.last: Queueing | None = None


class Queueing(MemoryBlobStore):
    """Has turns, for the tasks of one event loop."""

    @property
    def capabilities(self) -> Capabilities:
        """Promise what memory does, and turns."""
        return replace(super().capabilities, turns=True)

    def _line(self) -> _Line:
        line: _Line = vars(self._open()).setdefault("line", _Line())
        return line

    def _check(self, name: str, expected: Expected) -> None:
        if expected is not None and self._line().holders.get(name, self) is not self:
            raise OutOfTurn(f"Another one has the turn of {name}.")
        super()._check(name, expected)

    @asynccontextmanager
    async def turn(self, name: str, since: Revision | None = None) -> AsyncIterator[Turn]:
        """Wait behind those who came before."""
        waited = await self._wait(name)
        try:
            yield Turn(True, waited, news=None if since is None else self._news(name, since))
        finally:
            self._leave(name)

    def _news(self, name: str, since: Revision) -> News:
        found = self._open().get(name)
        if found is None:
            return ABSENT
        return UNCHANGED if found[1] == since else Blob(*found)

    async def _wait(self, name: str) -> bool:
        line = self._line()
        waiting = line.waiting.setdefault(name, deque())
        waited = name in line.holders
        if waited:
            mine = anyio.Event()
            waiting.append(mine)
            try:
                await mine.wait()
            except BaseException:
                if mine in waiting:
                    waiting.remove(mine)
                else:
                    self._leave(name)
                raise
        line.holders[name] = line.last = self
        return waited

    def _leave(self, name: str) -> None:
        line = self._line()
        line.holders.pop(name, None)
        if line.waiting.get(name):
            # Nobody may slip in before it runs.
            line.holders[name] = self
            line.waiting[name].popleft().set()


class Lending(MemoryBlobStore):
    """Lends its bytes while they are decoded, as a map of a file does, and then overwrites them.

    Raises BadArgument where what was made of them still looks at them.
    """

    lent: int = 0
    """How many blobs were lent so far."""

    @property
    def capabilities(self) -> Capabilities:
        """Promise reads in place."""
        return replace(super().capabilities, in_place=True)

    async def read_in_place(
        self, names: Sequence[str], decode: Callable[[str, memoryview], T]
    ) -> Mapping[str, T]:
        """Decode in a thread, and overwrite."""
        found = await self.read_many(names)
        return await in_thread(
            lambda: {name: self._lend(name, blob.data, decode) for name, blob in found.items()}
        )

    def _lend(self, name: str, data: bytes, decode: Callable[[str, memoryview], T]) -> T:
        lent = bytearray(data)
        self.lent += 1
        with memoryview(lent).toreadonly() as view:
            made = decode(name, view)
        lent[:] = bytes(byte ^ 0xFF for byte in lent)
        try:
            lent.clear()
        except BufferError:
            raise BadArgument(
                f"What was decoded of {name} still looks at the bytes that were lent for it."
            ) from None
        return made


class Specimens(MemoryBackend):
    """Memory stores of one kind, sound or broken; register it under a name of its own.

    It also attaches: a store that is not there shows when something is read from it.
    """

    def __init__(self, kind: type[MemoryBlobStore]) -> None:
        self.kind = kind

    async def create(self, config: Mapping[str, Any]) -> MemoryBlobStore:
        """Make a store of the kind."""
        return self.kind((await super().create(config))._open())

    async def connect(self, config: Mapping[str, Any]) -> MemoryBlobStore:
        """Open a store of the kind."""
        return self.kind((await super().connect(config))._open())

    async def attach(self, config: Mapping[str, Any]) -> MemoryBlobStore:
        """Open a store of the kind, or one that holds nothing."""
        try:
            return await self.connect(config)
        except StoreNotFound:
            return self.kind(Blobs())
