"""A store that fails on purpose: the n-th call, once or for good, before, after or long after.

A harness counts the calls of a run without faults, and then repeats the run once for each of
:func:`every_fault` of that many calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import NamedTuple, TypeVar

from datahike_async.konserve.blob import (
    Appended,
    Blob,
    BlobStore,
    Expected,
    Journal,
    Revision,
    Unchanged,
    Write,
)
from datahike_async.konserve.errors import KonserveError, OutcomeUnknown, StoreIOError
from datahike_async.konserve.wrappers.passing import PassingBlobStore

__all__ = ["Fault", "FaultPlan", "FaultyBlobStore", "every_fault"]

T = TypeVar("T")


class Fault(Enum):
    """What happens at the chosen call."""

    BEFORE = "before"
    """It fails and nothing is done: the one definite error."""
    LOST_RESPONSE = "lost response"
    """It is done, and the answer is lost."""
    LOST_REQUEST = "lost request"
    """Nothing is done, and the caller cannot know."""
    LATE = "late"
    """The caller gives up on it, and it is done afterwards."""


class FaultPlan(NamedTuple):
    """Which fault happens where: at the ``at``-th call from 0, or at that and all that follow."""

    fault: Fault
    at: int
    persistent: bool


def every_fault(calls: int) -> Iterator[FaultPlan]:
    """Iterate over every fault at every one of ``calls`` calls, once and for good."""
    for fault in Fault:
        for at in range(calls):
            yield FaultPlan(fault, at, False)
            yield FaultPlan(fault, at, True)


class FaultyBlobStore(PassingBlobStore):
    """Wraps a blob store; the ``at``-th write from now (from 0) fails, or all from it on.

    A BEFORE fault raises ``error``, any other OutcomeUnknown. A LATE write reaches the wrapped
    store once ``late_by`` further calls have been made, or when :meth:`land` says so; what then
    becomes of it nobody hears.

    With ``reads`` the reads count and fail too, always with ``error``; a listing never fails. With
    ``each_item`` a ``write_many`` that is not atomic is one call an item, so that a fault can part
    them. ``calls`` and ``writes`` count what could fail so far, and the writes among it.
    """

    def __init__(
        self,
        blobs: BlobStore,
        *,
        fault: Fault = Fault.BEFORE,
        at: int | None = None,
        persistent: bool = False,
        error: Callable[[], Exception] = lambda: StoreIOError("injected fault"),
        reads: bool = False,
        each_item: bool = False,
        late_by: int | None = None,
    ) -> None:
        super().__init__(blobs)
        self.fault = fault
        self.at = at
        self.persistent = persistent
        self.error = error
        self.reads = reads
        self.each_item = each_item
        self.late_by = late_by
        self.calls = 0
        self.writes = 0
        self._late: list[tuple[int | None, Callable[[], Awaitable[object]]]] = []

    async def land(self) -> None:
        """Let every write that is late reach the store now, in the order they were made."""
        while self._late:
            await self._land_first()

    async def _land_first(self) -> None:
        _, call = self._late.pop(0)
        with suppress(KonserveError):
            await call()

    def _hit(self) -> bool:
        number = self.calls
        self.calls += 1
        return self.at is not None and (number == self.at or (self.persistent and number > self.at))

    async def _read(self, call: Callable[[], Awaitable[T]]) -> T:
        await self._pass_time()
        if self.reads and self._hit():
            raise self.error()
        return await call()

    async def _write(self, call: Callable[[], Awaitable[T]]) -> T:
        await self._pass_time()
        self.writes += 1
        if not self._hit():
            return await call()
        if self.fault is Fault.BEFORE:
            raise self.error()
        if self.fault is Fault.LOST_RESPONSE:
            await call()
        if self.fault is Fault.LATE:
            self._late.append((self.late_by, call))
        raise OutcomeUnknown(f"injected: {self.fault.value}")

    async def _pass_time(self) -> None:
        """Count down what is late, and let land what is due before the present call."""
        self._late = [(None if n is None else n - 1, call) for n, call in self._late]
        while self._late and self._late[0][0] is not None and self._late[0][0] < 0:
            await self._land_first()

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Read, unless this is the call that fails."""
        return await self._read(lambda: self.blobs.read(name, start, end))

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Read, unless this is the call that fails."""
        return await self._read(lambda: self.blobs.read_latest(name, unless))

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Read, unless this is the call that fails."""
        return await self._read(lambda: self.blobs.read_many(names))

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write, unless this is the call that fails."""
        return await self._write(lambda: self.blobs.write(name, data, expected))

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Delete, unless this is the call that fails."""
        return await self._write(lambda: self.blobs.delete(name, expected))

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write, unless this is the call that fails, or one of them is."""
        if self.each_item and not self.capabilities.atomic_multi:
            return [revision for write in writes for revision in await self._write_one(write)]
        return await self._write(lambda: self.blobs.write_many(writes, ordered=ordered))

    async def _write_one(self, write: Write) -> Sequence[Revision]:
        return await self._write(lambda: self.blobs.write_many([write]))

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Delete, unless this is the call that fails."""
        return await self._write(lambda: self.blobs.delete_many(names))

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append, unless this is the call that fails."""
        return await self._write(lambda: self.journals.append(name, record, expected))

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Read, unless this is the call that fails."""
        return await self._read(lambda: self.journals.read_journal(name, since))
