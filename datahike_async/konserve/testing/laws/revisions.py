"""Laws of revisions: whoever has seen a key can ask whether it changed, and write only if not."""

from __future__ import annotations

import pytest

from datahike_async.konserve.blob import ABSENT, UNCHANGED
from datahike_async.konserve.errors import RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing.laws.common import Laws
from datahike_async.konserve.testing.promises import COMPARE_AND_SET, promised

__all__ = ["RevisionLaws"]


class RevisionLaws(Laws):
    """A revision names one state of one key."""

    async def test_what_has_not_changed_is_said_to_be_unchanged(self, store: Store) -> None:
        revision = await store.assoc("k", 1)
        assert await store.get("k", with_revision=True) == (1, revision)
        assert await store.get("k", unless=revision) is UNCHANGED
        assert await store.get("k", with_revision=True, unless=revision) == (UNCHANGED, revision)

    async def test_what_has_changed_is_read(self, store: Store) -> None:
        first = await store.assoc("k", 1)
        second = await store.assoc("k", 2)
        assert await store.get("k", unless=first) == 2
        assert await store.get("k", with_revision=True, unless=first) == (2, second)
        assert await store.get("k", unless=second) is UNCHANGED

    async def test_a_key_that_is_not_there_is_never_unchanged(self, store: Store) -> None:
        revision = await store.assoc("k", 1)
        assert await store.get("no", 7, unless=revision) == 7
        assert await store.get("no", with_revision=True, unless=revision) == (None, ABSENT)
        await store.dissoc("k")
        assert await store.get("k", 7, unless=revision) == 7
        assert await store.get("k", with_revision=True, unless=revision) == (None, ABSENT)
        again = await store.assoc("k", 1)
        assert await store.get("k", with_revision=True, unless=revision) == (1, again)
        assert await store.get("k", unless=again) is UNCHANGED

    async def test_the_latest_is_what_anyone_wrote(self, store: Store, other: Store) -> None:
        revision = await store.assoc("k", 0)
        for n in range(1, 4):
            for reader, writer in ((store, other), (other, store)):
                assert await reader.get("k", unless=revision) is UNCHANGED
                fresh = await writer.assoc("k", n)
                assert await reader.get("k", with_revision=True, unless=revision) == (n, fresh)
                revision = fresh
        await other.dissoc("k")
        assert await store.get("k", with_revision=True, unless=revision) == (None, ABSENT)

    @promised(COMPARE_AND_SET)
    async def test_a_conditional_write_happens_only_over_what_was_expected(
        self, store: Store
    ) -> None:
        with pytest.raises(RevisionMismatch):
            await store.assoc("k", 9, expected_revision=await store.assoc("other", 1))
        first = await store.assoc("k", 1, expected_revision=ABSENT)
        with pytest.raises(RevisionMismatch):
            await store.assoc("k", 9, expected_revision=ABSENT)
        assert await store.get("k", with_revision=True) == (1, first)
        second = await store.assoc("k", 2, expected_revision=first)
        assert second != first
        with pytest.raises(RevisionMismatch):
            await store.assoc("k", 9, expected_revision=first)
        with pytest.raises(RevisionMismatch):
            await store.bassoc("k", b"9", expected_revision=first)
        assert await store.get("k", with_revision=True) == (2, second)

    @promised(COMPARE_AND_SET)
    async def test_a_conditional_delete_happens_only_over_what_was_expected(
        self, store: Store
    ) -> None:
        first = await store.assoc("k", 1)
        second = await store.assoc("k", 2)
        with pytest.raises(RevisionMismatch):
            await store.dissoc("k", expected_revision=first)
        with pytest.raises(RevisionMismatch):
            await store.dissoc("k", expected_revision=ABSENT)
        assert await store.get("k", with_revision=True) == (2, second)
        assert await store.dissoc("k", expected_revision=second)
        with pytest.raises(RevisionMismatch):
            await store.dissoc("k", expected_revision=second)
        with pytest.raises(RevisionMismatch):
            await store.assoc("k", 9, expected_revision=second)
        assert not await store.dissoc("k", expected_revision=ABSENT)
        assert not await store.exists("k")

    @promised(COMPARE_AND_SET)
    async def test_a_revision_never_comes_back(self, store: Store, other: Store) -> None:
        seen: list[str] = []
        for n in range(12):
            writer = (store, other)[n % 2]
            revision = await writer.assoc("k", "the same")
            assert revision not in seen
            for stale in seen:
                with pytest.raises(RevisionMismatch):
                    await writer.assoc("k", "late", expected_revision=stale)
            seen.append(revision)
            if n % 3 != 2:
                await writer.dissoc("k")
        assert await store.get("k", with_revision=True) == ("the same", seen[-1])
