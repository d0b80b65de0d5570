"""Stores that write or list several keys badly, or leave what was cancelled half done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from anyio import Event
from anyio.lowlevel import checkpoint

from datahike_async.konserve.backends.memory import MemoryBlobStore
from datahike_async.konserve.blob import (
    Blob,
    Expected,
    Revision,
    Write,
)
from datahike_async.konserve.testing.negative.planting import found_by
from datahike_async.konserve.testing.sound import Journalling

__all__ = [
    "AtomicInNameOnly",
    "ForgetsAPage",
    "GoesDownWithItsReader",
    "LeavesHalfAWrite",
    "MixesUpRevisions",
    "SkipsAfterDeletes",
    "StumblesOverDeletes",
    "WritesBackward",
]


# -- several keys ------------------------------------------------------------------------------


@found_by(
    "test_nothing_is_written_after_a_condition_that_failed",
    "test_a_write_of_many_that_was_cancelled_left_a_prefix",
    "test_of_a_key_that_is_written_twice_the_last_value_stays",
)
class WritesBackward(Journalling):
    """Its write of many keys begins with the last."""

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write the last first."""
        return (await super().write_many(writes[::-1]))[::-1]


@found_by(
    "test_nothing_is_written_after_a_condition_that_failed",
    "test_a_write_of_many_that_was_cancelled_left_a_prefix",
)
class AtomicInNameOnly(MemoryBlobStore):
    """It declares its writes of many keys atomic, and makes them one by one."""

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write one after another."""
        revisions: list[Revision] = []
        for write in writes:
            revisions += await super().write_many([write])
            await checkpoint()
        return revisions


@found_by("test_revisions_come_in_the_order_of_the_writes")
class MixesUpRevisions(MemoryBlobStore):
    """The revisions of its writes of many keys come in another order than the writes."""

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Return the last first."""
        return (await super().write_many(writes))[::-1]


@found_by("test_a_listing_is_complete_though_names_go_meanwhile")
class ForgetsAPage(MemoryBlobStore):
    """Its listing leaves out what lies behind the first thousand names."""

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over the first page alone."""
        async for page in super().names():
            yield page[:1000]


@found_by("test_a_listing_is_complete_though_names_go_meanwhile")
class StumblesOverDeletes(MemoryBlobStore):
    """Its listing walks over what others change meanwhile."""

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over what is there at each moment."""
        for name in self._open():
            yield [name]


@found_by("test_a_listing_is_complete_though_names_go_meanwhile")
class SkipsAfterDeletes(MemoryBlobStore):
    """Its listing remembers a place by number, and deletes move what comes after."""

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate by the number of the next name."""
        at = 0
        while page := sorted(self._open())[at : at + 100]:
            yield page
            at += len(page)


# -- calls that are given up -------------------------------------------------------------------


@found_by(
    "test_a_write_that_was_cancelled_happened_whole_or_not_at_all",
    "test_a_creation_that_was_cancelled_happened_whole_or_not_at_all",
)
class LeavesHalfAWrite(MemoryBlobStore):
    """It writes in two steps, and a call that is cancelled between them leaves the first."""

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write half, and some time later all."""
        revision = await super().write(name, data[: len(data) // 2], expected)
        await checkpoint()
        return await super().write(name, data, revision)


@found_by("test_a_conditional_write_that_was_cancelled_moved_the_revision_or_did_not")
class MovesTheRevisionFirst(MemoryBlobStore):
    """It takes a new revision, and some time later writes the bytes that belong to it."""

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write the old bytes again, and some time later the new ones."""
        found = await self.read(name)
        if found is None:
            return await super().write(name, data, expected)
        revision = await super().write(name, found.data, expected)
        await checkpoint()
        self._open()[name] = (data, revision)
        return revision


@found_by("test_a_delete_that_was_cancelled_happened_or_did_not")
class DeletesInSteps(MemoryBlobStore):
    """It removes the bytes, and some time later the name."""

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Empty a name, and some time later remove it."""
        self._check(name, expected)
        if name in self._open():
            await self.write(name, b"")
        await checkpoint()
        return await super().delete(name)


@found_by("test_a_read_that_was_cancelled_harms_nobody")
class GoesDownWithItsReader(MemoryBlobStore):
    """Reads at once share one request, which ends when the first of them is cancelled."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self._running: dict[str, tuple[Event, list[Blob | None]]] = {}

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Read, or wait for what another reads."""
        if name in self._running:
            done, found = self._running[name]
            await done.wait()
            return found[0] if found else None
        done, found = self._running[name] = Event(), []
        try:
            await checkpoint()
            found.append(await super().read(name, start, end))
            return found[0]
        finally:
            del self._running[name]
            done.set()
