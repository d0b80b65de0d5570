"""Stores that keep or read the journals of their names badly."""

from __future__ import annotations

from typing import Any

from datahike_async.konserve.backends.memory import MemoryBlobStore
from datahike_async.konserve.blob import (
    UNCHANGED,
    Appended,
    Capabilities,
    ConditionalDomain,
    Journal,
    Revision,
    Unchanged,
)
from datahike_async.konserve.errors import RevisionMismatch
from datahike_async.konserve.testing.negative.planting import found_by
from datahike_async.konserve.testing.sound import Journalling

__all__ = [
    "AppendsToWhatever",
    "CarriesRecordsOn",
    "JournalAlwaysUnchanged",
    "KeepsRecordsToItself",
    "LeavesHalfARecord",
    "OverlooksThatTheBytesChanged",
    "PretendsJournals",
    "ReadsItAllAgain",
    "ShowsTheLastRecordAlone",
]


@found_by("test_records_are_kept_in_order_each_with_a_revision_of_its_own")
class PretendsJournals(MemoryBlobStore):
    """It declares journals and has none."""

    @property
    def capabilities(self) -> Capabilities:
        """Promise too much."""
        return Capabilities(conditional=ConditionalDomain.PROCESS, journal=True)


@found_by(
    "test_records_are_kept_in_order_each_with_a_revision_of_its_own",
    "test_of_sixteen_who_append_at_one_revision_one_wins",
)
class AppendsToWhatever(Journalling):
    """Its appends have no condition."""

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append to what is there."""
        while True:
            found = await self.read(name)
            try:
                return await super().append(name, record, found.revision if found else expected)
            except RevisionMismatch:
                if found is None:
                    raise


@found_by("test_writing_starts_an_empty_journal")
class CarriesRecordsOn(Journalling):
    """Writing a name leaves the records of its journal there."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self._kept: dict[str, list[bytes]] = {}

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append, and remember for ever."""
        revision = await super().append(name, record, expected)
        self._kept.setdefault(name, []).append(record)
        return revision

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Return what was ever appended."""
        found = await super().read_journal(name)
        if isinstance(found, Journal):
            return found._replace(records=self._kept.get(name, []))
        return found


@found_by("test_a_journal_that_has_not_changed_is_said_to_be_unchanged")
class JournalAlwaysUnchanged(Journalling):
    """Whoever asks whether a journal has grown is told that it has not."""

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Compare nothing."""
        return UNCHANGED if since is not None else await super().read_journal(name)


@found_by("test_a_record_whose_append_was_cancelled_is_there_whole_or_not_at_all")
class LeavesHalfARecord(Journalling):
    """It appends in two steps, and a call that is cancelled between them leaves the first."""

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append half, and some time later the rest."""
        half = len(record) // 2
        revision = await super().append(name, record[:half], expected)
        return await super().append(name, record[half:], revision)


@found_by("test_two_handles_share_a_journal")
class KeepsRecordsToItself(Journalling):
    """A record is known to the handle that appended it."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self._mine: list[bytes] = []

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append, and remember here alone."""
        self._mine.append(record)
        return await super().append(name, record, expected)

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Return the records of this handle."""
        found = await super().read_journal(name, since)
        if isinstance(found, Journal):
            return found._replace(records=[r for r in found.records if r in self._mine])
        return found


@found_by("test_only_what_was_appended_since_a_revision_is_read")
class ReadsItAllAgain(Journalling):
    """Whoever asks what is new gets everything."""

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Compare, and read from the beginning."""
        found = await super().read_journal(name, since)
        return await super().read_journal(name) if isinstance(found, Appended) else found


@found_by("test_only_what_was_appended_since_a_revision_is_read")
class ShowsTheLastRecordAlone(Journalling):
    """Of several new records it shows the newest."""

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Leave out what came before it."""
        found = await super().read_journal(name, since)
        return found._replace(records=found.records[-1:]) if isinstance(found, Appended) else found


@found_by("test_what_was_written_anew_is_read_whole")
class OverlooksThatTheBytesChanged(Journalling):
    """What was written anew and appended to looks like something appended."""

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Look at the records alone."""
        found = await super().read_journal(name, since)
        if since is not None and isinstance(found, Journal):
            return Appended(found.records, found.revision)
        return found
