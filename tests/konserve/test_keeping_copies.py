"""What tiered and caching stores share: no copy outlives its truth."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from datahike_async.konserve import (
    OutcomeUnknown,
    StoreIOError,
)
from datahike_async.konserve.testing import Fault, FaultyBlobStore
from datahike_async.konserve.wrappers.caching import CachingBlobStore
from datahike_async.konserve.wrappers.tiered import TieredBlobStore
from tests.konserve.watched import NAME, Watched, memory

pytestmark = pytest.mark.anyio


def wrappers(back: Any) -> list[Any]:
    return [TieredBlobStore(memory(), back), CachingBlobStore(back)]


@pytest.mark.parametrize("which", [0, 1], ids=["tiered", "caching"])
async def test_what_was_read_before_a_write_is_not_kept_after_it(which: int) -> None:
    back = Watched(memory())
    store = wrappers(back)[which]
    await back.write(NAME, b"old")
    back.gate = anyio.Event()
    seen: list[Any] = []

    async def read() -> None:
        seen.append(await store.read(NAME))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        # The reader has the old bytes in hand; now they are overwritten.
        await back.held.wait()
        await store.write(NAME, b"new")
        back.gate.set()
    assert seen[0].data in (b"old", b"new")
    back.gate = None
    assert (await store.read(NAME)).data == b"new"


@pytest.mark.parametrize("which", [0, 1], ids=["tiered", "caching"])
async def test_reading_again_asks_nobody(which: int) -> None:
    back = Watched(memory())
    store = wrappers(back)[which]
    await back.write(NAME, bytes(range(256)) * 1000)
    assert (await store.read(NAME)).data == bytes(range(256)) * 1000
    assert (await store.read(NAME, 70_000, 70_010)).data == (bytes(range(256)) * 1000)[70000:70010]
    assert (await store.read_many([NAME]))[NAME].revision == (await back.read_latest(NAME)).revision
    assert back.calls.count("read") == 1


@pytest.mark.parametrize("which", [0, 1], ids=["tiered", "caching"])
async def test_the_latest_is_asked_for_and_not_sent_again(which: int) -> None:
    back = Watched(memory())
    store = wrappers(back)[which]
    await back.write(NAME, b"1")
    await store.read(NAME)
    assert (await store.read_latest(NAME)).data == b"1"
    assert back.calls[-1] == "read_unless"
    # Another process overwrites it.
    await back.write(NAME, b"2")
    assert (await store.read_latest(NAME)).data == b"2"
    assert (await store.read(NAME)).data == b"2"
    await back.delete(NAME)
    assert await store.read_latest(NAME) is None
    assert await store.read(NAME) is None


@pytest.mark.parametrize("which", [0, 1], ids=["tiered", "caching"])
@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.LOST_REQUEST, Fault.LOST_RESPONSE])
async def test_after_a_write_that_failed_the_store_behind_is_asked(
    which: int, fault: Fault
) -> None:
    inner = memory()
    back = FaultyBlobStore(inner, fault=fault)
    store = wrappers(back)[which]
    await store.write(NAME, b"1")
    await store.read(NAME)
    back.at = back.calls
    with pytest.raises((OutcomeUnknown, StoreIOError)):
        await store.write(NAME, b"2")
    there = await inner.read(NAME)
    assert there is not None
    assert (await store.read(NAME)).data == there.data


@pytest.mark.parametrize("which", [0, 1], ids=["tiered", "caching"])
async def test_a_write_that_is_cancelled_leaves_no_old_copy(which: int) -> None:
    class Slow(Watched):
        async def write(self, name: str, data: bytes, expected: Any = None) -> str:
            revision = await super().write(name, data, expected)
            await anyio.sleep(60 if data == b"2" else 0)
            return revision

    back = Slow(memory())
    store = wrappers(back)[which]
    await store.write(NAME, b"1")
    await store.read(NAME)
    with anyio.move_on_after(0.05):
        await store.write(NAME, b"2")
    assert (await store.read(NAME)).data == b"2"
