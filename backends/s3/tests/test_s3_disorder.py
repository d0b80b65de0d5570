"""What goes wrong beside the requests: deletions that are overtaken, refusals, broken streams."""

from __future__ import annotations

from typing import Any

import pytest
from datahike_async_s3 import backend as backends
from datahike_async_s3.store import S3BlobStore

from datahike_async.konserve import (
    ABSENT,
    connect_store,
    create_store,
    delete_store,
    store_exists,
)

pytestmark = pytest.mark.anyio


# -- deletion and creation at once -----------------------------------------------------------------


@pytest.mark.parametrize("at", ["listing", "the end"])
async def test_a_deletion_spares_the_store_that_took_its_place(
    store_config: dict[str, Any], at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await create_store(store_config)
    await old.assoc("old", 1)
    await old.release()
    place, overtaken = ("page", False) if at == "listing" else ("remove", False)
    genuine = getattr(S3BlobStore, place)

    async def slow(self: S3BlobStore, *arguments: Any) -> Any:
        nonlocal overtaken
        if at == "the end":
            found = await genuine(self, *arguments)
        if not overtaken:
            # Another process finds the store deleted and makes its own.
            overtaken = True
            fresh = await create_store(store_config)
            await fresh.assoc("new", 2, expected_revision=ABSENT)
            await fresh.release()
        return found if at == "the end" else await genuine(self, *arguments)

    monkeypatch.setattr(S3BlobStore, place, slow)
    await delete_store(store_config)
    assert overtaken
    store = await connect_store(store_config)
    assert await store.get("new") == 2
    assert await store.get("old") is None
    await store.release()


async def test_two_deletions_at_once(
    store_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await create_store(store_config)
    await store.assoc("k", 1)
    await store.release()
    genuine, overtaken = S3BlobStore.page, False

    async def slow(self: S3BlobStore, *arguments: Any) -> Any:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            await delete_store(store_config)
        return await genuine(self, *arguments)

    monkeypatch.setattr(S3BlobStore, "page", slow)
    await delete_store(store_config)
    assert not await store_exists(store_config)
    store = await create_store(store_config)
    assert await store.keys() == []
    await store.release()


async def test_a_deletion_that_was_cut_off_is_finished_by_whoever_creates(
    store_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await create_store(store_config)
    await store.assoc("k", 1)
    await store.release()

    class Killed(BaseException):
        pass

    async def killed(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(backends, "_remove_all", killed)
        with pytest.raises(Killed):
            await delete_store(store_config)
    assert not await store_exists(store_config)
    store = await create_store(store_config)
    assert await store.keys() == []
    assert await store_exists(store_config)
    await store.release()
