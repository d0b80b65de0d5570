"""Stores whose reads and listings are stale, torn, short, or wrong about what is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from anyio.lowlevel import checkpoint

from datahike_async.konserve.backends.memory import MemoryBlobStore
from datahike_async.konserve.blob import (
    UNCHANGED,
    Blob,
    Expected,
    Revision,
    Unchanged,
    Write,
)
from datahike_async.konserve.envelope import BINARY, Envelope, seal
from datahike_async.konserve.testing.negative.planting import found_by
from datahike_async.konserve.testing.sound import Bare, Journalling, Lending

__all__ = [
    "AlwaysChanged",
    "AlwaysUnchanged",
    "AnswersFromACache",
    "DecodesOnTheLoop",
    "DecodesWhatIsMissing",
    "ExceedsItsLimit",
    "FindsNothingInNothing",
    "FindsNothingPastTheEnd",
    "FindsWhatIsMissing",
    "ForgetsAtClose",
    "LosesRangeEnds",
    "LosesRangeStarts",
    "ReadsAfterClose",
    "TearsReads",
]

T = TypeVar("T")


# -- reading what is new -----------------------------------------------------------------------


@found_by("test_what_has_changed_is_read", "test_a_key_that_is_not_there_is_never_unchanged")
class AlwaysUnchanged(MemoryBlobStore):
    """Whoever asks whether a name has changed is told that it has not."""

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Compare nothing."""
        return UNCHANGED if unless is not None else await super().read_latest(name)


@found_by("test_what_has_not_changed_is_said_to_be_unchanged")
class AlwaysChanged(MemoryBlobStore):
    """Whoever asks whether a name has changed gets it again."""

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Compare nothing."""
        return await super().read_latest(name)


@found_by("test_the_latest_is_what_anyone_wrote")
class AnswersFromACache(MemoryBlobStore):
    """What it read once is the latest for it, until it writes itself."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self._cache: dict[str, Blob | None] = {}

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Read at most once."""
        if name not in self._cache:
            self._cache[name] = await self.read(name)
        found = self._cache[name]
        return UNCHANGED if found is not None and found.revision == unless else found

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write, and forget."""
        for write in writes:
            self._cache.pop(write.name, None)
        return await super().write_many(writes)

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove, and forget."""
        self._cache.pop(name, None)
        return await super().delete(name, expected)


@found_by(
    "test_the_last_write_is_what_is_there",
    "test_several_keys_are_written_read_and_removed_in_one_call",
    "test_a_key_that_is_not_there_is_never_unchanged",
)
class FindsWhatWasDeleted(MemoryBlobStore):
    """It says that it has deleted a name, and goes on finding it."""

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Say whether there is something to delete."""
        self._check(name, expected)
        return name in self._open()

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Say whether there is something to delete."""
        return [name in self._open() for name in names]


@found_by(
    "test_a_missing_key_is_said_to_be_missing",
    "test_the_last_write_is_what_is_there",
)
class DeletesWhatIsNotThere(MemoryBlobStore):
    """It says of every name it deletes that it was there."""

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Say yes."""
        await super().delete(name, expected)
        return True


# -- bytes -------------------------------------------------------------------------------------


@found_by("test_a_range_ends_where_the_bytes_end")
class LosesRangeStarts(MemoryBlobStore):
    """Its ranged reads begin one byte too late."""

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Read from the wrong place."""
        return await super().read(name, start + 1 if start else 0, end)


@found_by("test_a_range_ends_where_the_bytes_end", "test_bytes_come_back_whole_and_in_part")
class LosesRangeEnds(MemoryBlobStore):
    """Its ranged reads go on to the end."""

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Read too much."""
        return await super().read(name, start)


@found_by("test_a_range_ends_where_the_bytes_end")
class FindsNothingPastTheEnd(MemoryBlobStore):
    """A range past the end is to it a name that is not there."""

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Read bytes, or say that there are none."""
        found = await super().read(name, start, end)
        return None if start and found is not None and not found.data else found


@found_by("test_no_bytes_are_not_nothing")
class FindsNothingInNothing(MemoryBlobStore):
    """A name without bytes is to it a name that is not there."""

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Read bytes, or say that there are none."""
        found = await super().read_latest(name, unless)
        return found if found is UNCHANGED or (found and found.data) else None


@found_by("test_a_reader_beside_a_writer_never_sees_a_torn_value")
class TearsReads(MemoryBlobStore):
    """It reads in two steps, of which the second may meet newer bytes."""

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Read half, and some time later the other half."""
        first = await super().read(name, start, end)
        await checkpoint()
        second = await super().read(name, start, end)
        if first is None or second is None:
            return None
        half = len(first.data) // 2
        return Blob(first.data[:half] + second.data[half:], first.revision)


@found_by("test_what_is_longer_than_declared_is_refused_and_what_is_not_is_taken")
class ExceedsItsLimit(Journalling):
    """It declares a limit, and takes more."""

    limit = 1 << 30


# -- closing -----------------------------------------------------------------------------------


@found_by("test_a_released_store_is_closed")
class ReadsAfterClose(MemoryBlobStore):
    """It goes on answering after it was closed."""

    async def close(self) -> None:
        """Do nothing."""


@found_by(
    "test_what_was_written_is_there_after_opening_again",
    "test_releasing_one_handle_leaves_the_others_open",
)
class ForgetsAtClose(MemoryBlobStore):
    """What it holds goes when it is closed."""

    async def close(self) -> None:
        """Let go of everything."""
        if self._data is not None:
            self._data.clear()
        await super().close()


@found_by("test_attaching_to_a_missing_store_shows_at_the_first_read_at_the_latest")
class FindsWhatIsMissing(Bare):
    """Attached to a store that is not there, it fails as if it were broken."""

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Read what must be there."""
        data = self._open()
        return Blob(*data[name]) if not data else await super().read(name, start, end)


# -- decoding in place -------------------------------------------------------------------------


@found_by("test_bytes_are_decoded_where_they_lie")
class DecodesOnTheLoop(Lending):
    """The event loop waits for what is decoded."""

    async def read_in_place(
        self, names: Sequence[str], decode: Callable[[str, memoryview], T]
    ) -> Mapping[str, T]:
        """Decode here."""
        found = await self.read_many(names)
        return {name: self._lend(name, blob.data, decode) for name, blob in found.items()}


@found_by("test_bytes_are_decoded_where_they_lie")
class DecodesWhatIsMissing(Lending):
    """What is not there is decoded as if it were empty."""

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Find everything."""
        found = await super().read_many(names)
        return {
            name: found.get(name, Blob(seal(Envelope(BINARY, 1, 0, b"", b"")), "0"))
            for name in names
        }
