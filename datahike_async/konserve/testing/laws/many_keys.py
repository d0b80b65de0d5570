"""Laws of calls on several keys: order, all or nothing, and listings that are complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from datahike_async.konserve.blob import ABSENT, Blob, Write
from datahike_async.konserve.errors import RevisionMismatch
from datahike_async.konserve.store import Assoc, Store
from datahike_async.konserve.testing.laws.common import Laws
from datahike_async.konserve.testing.promises import ATOMIC_MULTI, COMPARE_AND_SET, promised

__all__ = ["ManyKeysLaws"]

MANY: Final = 1100
"""More than a page of any backend known so far."""


async def _listed(store: Store) -> list[str]:
    return [name async for page in store.blobs.names() for name in page]


class ManyKeysLaws(Laws):
    """Several keys in one call."""

    many: int = MANY
    """How many keys are listed. A suite whose pages hold fewer may do with fewer."""

    async def test_several_keys_are_written_read_and_removed_in_one_call(
        self, store: Store
    ) -> None:
        await store.multi_assoc({"a": 1, "b": 2})
        await store.multi_assoc([("c", 3), Assoc("d", b"4", binary=True), ("a", 5)])
        assert await store.multi_get(["a", "b", "c", "x"]) == {"a": 5, "b": 2, "c": 3}
        assert await store.bget("d") == b"4"
        assert await store.multi_dissoc(["a", "x"]) == {"a": True, "x": False}
        assert len(await store.keys()) == 3

    async def test_no_keys_at_all_are_fine(self, store: Store) -> None:
        assert list(await store.multi_assoc({})) == []
        assert await store.multi_get([]) == {}
        assert await store.multi_dissoc([]) == {}

    async def test_revisions_come_in_the_order_of_the_writes(self, store: Store) -> None:
        for ordered in (True, False):
            writes = [Write(f"{n:032x}", b"%d %d" % (n, ordered)) for n in range(40)]
            revisions = await store.blobs.write_many(writes, ordered=ordered)
            assert len(revisions) == len(writes)
            found = await store.blobs.read_many([write.name for write in writes])
            assert found == {
                write.name: Blob(write.data, revision)
                for write, revision in zip(writes, revisions, strict=True)
            }

    async def test_of_a_key_that_is_written_twice_the_last_value_stays(self, store: Store) -> None:
        await store.multi_assoc([("k", 1), ("l", 1), ("k", 2)])
        assert await store.multi_get(["k", "l"]) == {"k": 2, "l": 1}

    @promised(COMPARE_AND_SET, ATOMIC_MULTI)
    async def test_nothing_is_written_after_a_condition_that_failed(self, store: Store) -> None:
        """Before it a prefix may have been; where all is promised at once, nothing."""
        keys = ["a", "b", "c", "d"]
        taken = await store.assoc("taken", 0)
        current = await store.assoc("taken", 1)
        for place in range(len(keys) + 1):
            for stale in (ABSENT, taken):
                items = [Assoc(key, 1) for key in keys]
                items.insert(place, Assoc("taken", 2, expected_revision=stale))
                with pytest.raises(RevisionMismatch):
                    await store.multi_assoc(items)
                there = [key for key in keys if await store.exists(key)]
                assert there == keys[: len(there)]
                assert len(there) <= place
                if store.capabilities.atomic_multi:
                    assert there == []
                assert await store.get("taken", with_revision=True) == (1, current)
                await store.multi_dissoc(keys)

    @promised(COMPARE_AND_SET, ATOMIC_MULTI)
    async def test_several_conditions_are_each_looked_at(self, store: Store) -> None:
        first = await store.assoc("a", 1)
        a, b = await store.multi_assoc(
            [
                Assoc("a", 2, expected_revision=first),
                Assoc("b", 2, expected_revision=ABSENT),
            ]
        )
        assert await store.get("a", with_revision=True) == (2, a)
        assert await store.get("b", with_revision=True) == (2, b)
        for n in range(2):
            fine = Assoc("b", 3, expected_revision=b)
            items = [fine, Assoc("a", 3, expected_revision=first)]
            with pytest.raises(RevisionMismatch):
                await store.multi_assoc(items if n else items[::-1])
            assert await store.get("a", with_revision=True) == (2, a)
            found, b = await store.get("b", with_revision=True)
            assert found == 2 or (n and not store.capabilities.atomic_multi)

    # -- listings ------------------------------------------------------------------------------

    async def test_a_listing_is_complete_though_names_go_meanwhile(self, store: Store) -> None:
        await store.multi_assoc([(n, n) for n in range(self.many)], ordered=False)
        assert sorted(meta["key"] for meta in await store.keys()) == list(range(self.many))
        names = sorted(await _listed(store))
        staying, going = names[::2], names[1::2]
        seen: list[str] = []
        async for page in store.blobs.names():
            seen += page
            await store.blobs.delete_many(_some(going))
        assert set(staying) <= set(seen) <= set(names)
        await store.blobs.delete_many(going)
        assert sorted(await _listed(store)) == staying


def _some(going: Sequence[str], count: int = 16) -> Sequence[str]:
    """Return names of the beginning, the middle and the end."""
    return going[:: len(going) // count]
