"""Laws of journals: a key's value is its bytes and the records appended since."""

from __future__ import annotations

import pytest

from datahike_async.konserve.blob import UNCHANGED
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
        assert await store.journal("h", unless=first) is UNCHANGED
        second = await other.journal_append("h", b"1", expected_revision=first)
        assert await store.journal("h", unless=first) == (0, [b"1"], second)
        assert await store.journal("h", unless=second) is UNCHANGED
        assert await store.get("h", with_revision=True, unless=first) == (0, second)
        third = await other.assoc("h", 1)
        assert await store.journal("h", unless=second) == (1, [], third)
        await other.dissoc("h")
        assert await store.journal("h", unless=third) is None
        assert await store.journal("no", unless=third) is None

    @promised(JOURNAL)
    async def test_two_handles_share_a_journal(self, store: Store, other: Store) -> None:
        revision = await store.assoc("h", 0)
        revision = await other.journal_append("h", b"1", expected_revision=revision)
        revision = await store.journal_append("h", b"2", expected_revision=revision)
        assert await other.journal("h") == (0, [b"1", b"2"], revision)
        await other.assoc("h", 1, expected_revision=revision)
        with pytest.raises(RevisionMismatch):
            await store.journal_append("h", b"3", expected_revision=revision)
