"""Laws of sweeping: what is listed can be told by its ends, and removed by its name."""

from __future__ import annotations

import pytest

from datahike_async.konserve.blob import Blob
from datahike_async.konserve.errors import RevisionMismatch
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import Store
from datahike_async.konserve.sweep import list_names, look, remove, remove_as_found
from datahike_async.konserve.testing.laws.common import Laws
from datahike_async.konserve.testing.promises import COMPARE_AND_SET, promised

__all__ = ["SweepLaws"]


class SweepLaws(Laws):
    """What a collector of garbage does with a store."""

    async def test_what_lives_stays_and_the_rest_is_swept(self, store: Store) -> None:
        living = [f"living/{n}" for n in range(20)]
        dead = [f"dead/{n}" for n in range(200)]
        await store.multi_assoc([(key, key) for key in (*living, *dead)], ordered=False)
        names = await list_names(store)
        assert names.listed == 220
        await store.assoc("later", 1)
        names.keep([*living, "nothing"])
        assert len(names) == len(dead)
        swept = 0
        for some in names.slices():
            assert len(some) <= 64
            swept += await remove(store, some)
        assert swept == len(dead)
        assert {meta["key"] for meta in await store.keys()} == {*living, "later"}
        assert len(await list_names(store)) == 21
        assert await remove(store, [name_of_key(dead[0])]) == 0
        assert await remove(store, []) == 0

    async def test_what_a_blob_is_is_told_by_its_ends(self, store: Store) -> None:
        """Its key, which is the only thing that says whether it may go, and how large it is."""
        for size in (0, 1, 900, 1000, 30_000):
            await store.bassoc("b", bytes(size))
            await store.assoc(("e", 1), "x" * size, meta={"long": "y" * 2000})
            wanted = [name_of_key(key) for key in ("b", ("e", 1), "missing")]
            found = {one.name: one for one in await look(store, wanted)}
            assert {one.key for one in found.values()} == {"b", ("e", 1)}
            for name, one in found.items():
                blob = await store.blobs.read_latest(name)
                assert isinstance(blob, Blob)
                assert (one.size, one.revision) == (len(blob.data), blob.revision)
                meta = await store.get_meta(one.key)
                assert meta is not None
                assert meta["last-write"] == one.written

    async def test_what_is_no_value_of_a_key_is_not_told_for_one(self, store: Store) -> None:
        """Nobody removes by mistake what cannot be read, or lies under a name that is not its."""
        await store.assoc("k", 1)
        blob = await store.blobs.read(name_of_key("k"))
        assert blob is not None
        await store.blobs.write("ab" * 16, blob.data)
        await store.blobs.write("cd" * 16, b"")
        await store.blobs.write("ef" * 16, b"KV" + bytes(100))
        await store.blobs.write("0a" * 16, blob.data[:-1])
        names = ["ab" * 16, "cd" * 16, "ef" * 16, "0a" * 16, name_of_key("k")]
        assert [one.key for one in await look(store, names)] == ["k"]

    @promised(COMPARE_AND_SET)
    async def test_what_has_changed_since_it_was_found_is_not_removed(self, store: Store) -> None:
        await store.assoc("k", 1)
        (found,) = await look(store, [name_of_key("k")])
        await store.assoc("k", 2)
        assert not await remove_as_found(store, found)
        assert (await store.get("k", with_revision=True))[0] == 2
        with pytest.raises(RevisionMismatch):
            await store.blobs.delete(found.name, found.revision)
        (found,) = await look(store, [name_of_key("k")])
        assert await remove_as_found(store, found)
        assert not await store.exists("k")
