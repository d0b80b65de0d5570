"""Laws of journals: a key's value is its bytes and the records appended since."""

from __future__ import annotations

import pytest

from datahike_async.konserve.blob import UNCHANGED, Appended
from datahike_async.konserve.errors import RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing.laws.common import Laws
from datahike_async.konserve.testing.promises import JOURNAL, promised

__all__ = ["JournalLaws"]


class JournalLaws(Laws):
    """Appending is a small compare-and-set."""

    @promised(JOURNAL)
    async def test_records_are_kept_in_order_each_with_a_revision_of_its_own(
        self, store: Store
    ) -> None:
        assert await store.journal("no") is None
        revision = await store.assoc("h", {"n": 0})
        assert await store.journal("h") == ({"n": 0}, [], revision)
        records = [bytes([i]) * (i * 37 + 1) for i in range(20)]
        seen = {revision}
        for record in records:
            stale = revision
            revision = await store.journal_append("h", record, expected_revision=revision)
            assert revision not in seen
            seen.add(revision)
            with pytest.raises(RevisionMismatch):
                await store.journal_append("h", b"late", expected_revision=stale)
            with pytest.raises(RevisionMismatch):
                await store.assoc("h", 0, expected_revision=stale)
        assert await store.journal("h") == ({"n": 0}, records, revision)
        assert await store.get("h", with_revision=True) == ({"n": 0}, revision)

    @promised(JOURNAL)
    async def test_writing_starts_an_empty_journal(self, store: Store) -> None:
        old = await store.assoc("h", 0)
        last = await store.journal_append("h", b"1", expected_revision=old)
        fresh = await store.assoc("h", 1, expected_revision=last)
        assert await store.journal("h") == (1, [], fresh)
        for stale in (old, last):
            with pytest.raises(RevisionMismatch):
                await store.journal_append("h", b"late", expected_revision=stale)
        await store.dissoc("h")
        with pytest.raises(RevisionMismatch):
            await store.journal_append("h", b"late", expected_revision=fresh)
        assert await store.journal("h") is None
        again = await store.assoc("h", 1)
        assert await store.journal("h") == (1, [], again)

    @promised(JOURNAL)
    async def test_a_journal_that_has_not_changed_is_said_to_be_unchanged(
        self, store: Store, other: Store
    ) -> None:
        first = await store.assoc("h", 0)
        assert await store.journal("h", since=first) is UNCHANGED
        second = await other.journal_append("h", b"1", expected_revision=first)
        assert await store.journal("h", since=first) == Appended([b"1"], second)
        assert await store.journal("h", since=second) is UNCHANGED
        assert await store.get("h", with_revision=True, unless=first) == (0, second)
        third = await other.assoc("h", 1)
        assert await store.journal("h", since=second) == (1, [], third)
        await other.dissoc("h")
        assert await store.journal("h", since=third) is None
        assert await store.journal("no", since=third) is None

    @promised(JOURNAL)
    async def test_only_what_was_appended_since_a_revision_is_read(
        self, store: Store, other: Store
    ) -> None:
        revisions = [await store.assoc("h", 0)]
        records = [b"%d" % i * (i + 1) for i in range(9)]
        for i, record in enumerate(records):
            writer = (store, other)[i % 2]
            revisions.append(
                await writer.journal_append("h", record, expected_revision=revisions[-1])
            )
        last = revisions[-1]
        # From near the end and from far, with either handle, in whatever order.
        for i in (8, 3, 0, 7, 1):
            for reader in (store, other):
                assert await reader.journal("h", since=revisions[i]) == Appended(records[i:], last)
        assert await store.journal("h", since=last) is UNCHANGED
        assert await store.journal("h") == (0, records, last)

    @promised(JOURNAL)
    async def test_what_was_written_anew_is_read_whole(self, store: Store, other: Store) -> None:
        first = await store.assoc("h", 0)
        second = await store.journal_append("h", b"1", expected_revision=first)
        third = await other.assoc("h", 1, expected_revision=second)
        fourth = await other.journal_append("h", b"2", expected_revision=third)
        for old in (first, second):
            assert await store.journal("h", since=old) == (1, [b"2"], fourth)
        assert await store.journal("h", since=third) == Appended([b"2"], fourth)

    @promised(JOURNAL)
    async def test_two_handles_share_a_journal(self, store: Store, other: Store) -> None:
        revision = await store.assoc("h", 0)
        revision = await other.journal_append("h", b"1", expected_revision=revision)
        revision = await store.journal_append("h", b"2", expected_revision=revision)
        assert await other.journal("h") == (0, [b"1", b"2"], revision)
        await other.assoc("h", 1, expected_revision=revision)
        with pytest.raises(RevisionMismatch):
            await store.journal_append("h", b"3", expected_revision=revision)
