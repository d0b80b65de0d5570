"""Stores that several share, and listings that are left: what ends when, and what stays behind."""

from __future__ import annotations

import gc
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from datahike_async.konserve import (
    Blob,
    Store,
    StoreClosed,
    StoreIOError,
    connect_store,
    create_store,
)
from datahike_async.konserve.blob import Write
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from datahike_async.konserve.wrappers.retrying import RetryingBlobStore
from datahike_async.konserve.wrappers.sharing import Handle, share
from datahike_async.konserve.wrappers.tiered import TieredBlobStore
from tests.konserve.watched import NAME, OTHER, memory

pytestmark = pytest.mark.anyio


class Gate(PassingBlobStore):
    """Holds back writes of many while it is shut."""

    def __init__(self, blobs: Any) -> None:
        super().__init__(blobs)
        self.held = anyio.Event()
        self.open = anyio.Event()

    async def write_many(self, writes: Sequence[Write], *, ordered: bool = True) -> Sequence[str]:
        self.held.set()
        await self.open.wait()
        return await self.blobs.write_many(writes, ordered=ordered)


@pytest.fixture
def config(tmp_path: Any) -> dict[str, Any]:
    return {
        "backend": "tiered",
        "id": uuid.uuid4(),
        "write-policy": "write-behind",
        "frontend-config": {"backend": "file", "path": str(tmp_path / "front")},
        "backend-config": {"backend": "file", "path": str(tmp_path / "back")},
    }


def shut(store: Store) -> Gate:
    tiered: Any = store.blobs.blobs  # type: ignore[attr-defined]  # the handle's store
    tiered._behind._blobs = gate = Gate(tiered._back)
    return gate


class SlowToClose(PassingBlobStore):
    def __init__(self, blobs: Any) -> None:
        super().__init__(blobs)
        self.held = anyio.Event()
        self.open = anyio.Event()

    async def close(self) -> None:
        self.held.set()
        await self.open.wait()
        await self.blobs.close()


async def test_a_handle_that_is_opened_while_the_last_one_closes_is_open() -> None:
    id_ = uuid.uuid4()
    closing = SlowToClose(memory())
    first = await share(id_, closing)
    opened: list[Handle] = []

    async def second() -> None:
        opened.append(await share(id_, memory()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.close)
        await closing.held.wait()
        tasks.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        closing.open.set()
    await opened[0].write(NAME, b"1")
    third = await share(id_, memory())
    # And it is one that the next one shares.
    assert (await third.read(NAME)) == await opened[0].read(NAME)
    await opened[0].close()
    await third.close()


async def test_an_opening_that_is_cancelled_counts_for_nothing() -> None:
    id_ = uuid.uuid4()
    closing, left = SlowToClose(memory()), SlowToClose(memory())
    left.open.set()
    first = await share(id_, closing)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.close)
        await closing.held.wait()
        with anyio.CancelScope() as scope:
            tasks.start_soon(_cancel_when_blocked, scope)
            await share(id_, left)
        assert left.held.is_set()
        closing.open.set()
    # It was the last one all the same.
    assert await share(id_, memory()) is not None
    with pytest.raises(StoreClosed):
        await closing.read(NAME)


async def _cancel_when_blocked(scope: anyio.CancelScope) -> None:
    await anyio.wait_all_tasks_blocked()
    scope.cancel()


async def test_a_close_that_is_cancelled_leaves_the_store_open() -> None:
    id_ = uuid.uuid4()
    closing = SlowToClose(memory())
    first = await share(id_, closing)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.close)
        await closing.held.wait()
        tasks.cancel_scope.cancel()
    second = await share(id_, memory())
    await first.write(NAME, b"1")
    assert await second.read(NAME) is not None
    closing.open.set()
    await first.close()
    await second.close()


async def test_one_handle_that_is_closed_twice_at_once_closes_no_other(
    config: dict[str, Any],
) -> None:
    first = await create_store(config)
    await first.assoc("k", 1)
    gate = shut(first)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.release)
        tasks.start_soon(first.release)
        await gate.held.wait()
        gate.open.set()
    second, third = await connect_store(config), await connect_store(config)
    await second.release()
    assert await third.get("k") == 1
    await third.release()


async def test_what_is_being_sent_arrives_before_the_deletion() -> None:
    back = memory()
    store = TieredBlobStore(memory(), back, "write-behind")
    assert store._behind is not None
    store._behind._blobs = gate = Gate(back)
    await store.write(NAME, b"1")
    left: list[bool] = []

    async def send() -> None:
        await store.delete(OTHER)

    async def abandon() -> None:
        await store.abandon()
        left.append(await back.delete(NAME))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await gate.held.wait()
        tasks.start_soon(abandon)
        await anyio.wait_all_tasks_blocked()
        assert left == []
        gate.open.set()
    assert left == [True]
    assert await back.read(NAME) is None


async def test_what_is_taken_while_the_store_closes_is_written() -> None:
    back = memory()
    store = TieredBlobStore(memory(), back, "write-behind")
    assert store._behind is not None
    store._behind._blobs = gate = Gate(back)
    await store.write(NAME, b"1")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.close)
        await gate.held.wait()
        await store.write(OTHER, b"2")
        gate.open.set()
        # The backend is closed after that; what it got is seen before.
        back.close = anyio.lowlevel.checkpoint  # type: ignore[method-assign]
    assert set(await back.read_many([NAME, OTHER])) == {NAME, OTHER}


async def test_nothing_is_taken_once_the_store_is_closed() -> None:
    store = TieredBlobStore(memory(), memory(), "write-behind")
    refused: list[StoreClosed] = []

    async def write() -> None:
        try:
            await store.write(NAME, b"1")
        except StoreClosed as error:
            refused.append(error)

    # A writer that was let in waits for its turn at the name, and meanwhile the store closes.
    async with anyio.create_task_group() as tasks, store._locks.holding(NAME):
        tasks.start_soon(write)
        await anyio.wait_all_tasks_blocked()
        await store.close()
    assert len(refused) == 1


class Pages(PassingBlobStore):
    """Lists one name a page, and says when its listing was left."""

    left = False
    broken = False

    async def names(self) -> AsyncIterator[Sequence[str]]:
        try:
            for name in (NAME, OTHER):
                yield [name]
        finally:
            self.left = True

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        if self.broken:
            raise StoreIOError("planted")
        return await self.blobs.read_many(names)


@pytest.mark.parametrize("which", ["tiered", "retrying"])
async def test_leaving_a_listing_ends_the_one_behind(which: str) -> None:
    back = Pages(memory())
    store = TieredBlobStore(memory(), back) if which == "tiered" else RetryingBlobStore(back)
    listing: Any = store.names()
    async with aclosing(listing):
        async for _ in listing:
            break
    assert back.left
    gc.collect()


async def test_keys_that_fail_half_way_leave_no_listing() -> None:
    back = Pages(memory())
    store = Store(back)
    back.broken = True
    with pytest.raises(StoreIOError):
        await store.keys()
    assert back.left
    gc.collect()
