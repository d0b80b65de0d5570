"""Tiered stores: broken frontends, write policies, what is asked of whom."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.konserve import (
    ABSENT,
    OutcomeUnknown,
    StoreIOError,
    Write,
    connect_store,
    delete_store,
)
from datahike_async.konserve.backends.memory import Blobs, MemoryBlobStore
from datahike_async.konserve.testing import Fault, FaultyBlobStore
from datahike_async.konserve.wrappers.front import Front
from datahike_async.konserve.wrappers.tiered import TieredBlobStore
from tests.konserve.watched import NAME, OTHER, Watched, memory

pytestmark = pytest.mark.anyio


class Broken(MemoryBlobStore):
    """Every call fails once it is broken."""

    broken = False

    def _open(self) -> Any:
        if self.broken:
            raise StoreIOError("planted: the disk is gone")
        return super()._open()


async def test_many_ranges_of_one_blob_fetch_it_once() -> None:
    back = Watched(memory())
    store = TieredBlobStore(memory(), back)
    data = bytes(range(256)) * 4000
    await back.write(NAME, data)
    found: dict[int, bytes] = {}

    async def read(at: int) -> None:
        blob = await store.read(NAME, at, at + 100)
        assert blob is not None
        found[at] = blob.data

    async with anyio.create_task_group() as group:
        for at in range(0, 1_000_000, 50_000):
            group.start_soon(read, at)
    assert found == {at: data[at : at + 100] for at in found}
    assert back.calls.count("read") == 1


async def test_a_broken_frontend_breaks_nothing() -> None:
    front = Broken(Blobs())
    store = TieredBlobStore(front, memory())
    await store.write(NAME, b"1")
    front.broken = True
    assert (await store.read(NAME)).data == b"1"
    await store.write(NAME, b"2")
    assert (await store.read(NAME)).data == b"2"
    await store.write_many([Write(NAME, b"3"), Write(OTHER, b"x")])
    assert {n: b.data for n, b in (await store.read_many([NAME, OTHER])).items()} == {
        NAME: b"3",
        OTHER: b"x",
    }
    front.broken = False
    # What it still has from before is not believed.
    assert (await store.read(NAME)).data == b"3"
    assert await store.delete(NAME)
    assert await store.read(NAME) is None
    await store.close()


async def test_a_damaged_copy_is_a_miss() -> None:
    front, back = memory(), Watched(memory())
    data = bytes(range(256)) * 2000
    await TieredBlobStore(front, back).write(NAME, data)
    stored = front._open()[NAME][0]
    for at in (0, 5, 13, 25, 40, 70, len(stored) - 1, len(stored) // 2):
        bad = bytearray(stored)
        bad[at] ^= 0x41
        front._open()[NAME] = (bytes(bad), "x")
        fresh = TieredBlobStore(front, back)
        for start, end in ((0, None), (0, 10), (255_000, 256_100), (511_990, None)):
            blob = await fresh.read(NAME, start, end)
            assert blob is not None
            assert blob.data == data[start:end]
    for length in (0, 3, 19, 30, 60, 1000, len(stored) - 1):
        front._open()[NAME] = (stored[:length], "x")
        blob = await TieredBlobStore(front, back).read(NAME, 511_000, 511_010)
        assert blob is not None
        assert blob.data == data[511_000:511_010]
    # Empty ones are copied too.
    await TieredBlobStore(front, back).write(OTHER, b"")
    blob = await Front(front).get(OTHER)
    assert blob is not None
    assert blob.data == b""


async def test_write_around_leaves_the_frontend_to_readers() -> None:
    front, back = Watched(memory()), Watched(memory())
    store = TieredBlobStore(front, back, "write-around")
    await store.write(NAME, b"1")
    assert await front.blobs.read(NAME) is None
    assert (await store.read(NAME)).data == b"1"
    assert await front.blobs.read(NAME) is not None
    await store.write(NAME, b"2")
    assert (await store.read(NAME)).data == b"2"


async def test_write_behind_waits_for_a_write_with_a_condition() -> None:
    back = Watched(memory())
    store = TieredBlobStore(memory(), back, "write-behind")
    for i in range(5):
        await store.write(f"{i:032x}", b"node")
    assert back.calls == []
    assert (await store.read(f"{3:032x}")).data == b"node"
    await store.write(NAME, b"head", ABSENT)
    assert back.calls == ["write_many", "write"]
    assert len(await back.read_many([f"{i:032x}" for i in range(5)])) == 5


async def test_write_behind_is_bounded() -> None:
    back = Watched(memory())
    store = TieredBlobStore(memory(), back, "write-behind", behind_bytes=1000)
    for i in range(10):
        await store.write(f"{i:032x}", b"x" * 300)
    assert back.calls.count("write_many") == 2


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.LOST_REQUEST, Fault.LOST_RESPONSE])
async def test_what_waits_is_not_lost_by_a_failure(fault: Fault) -> None:
    kept = Blobs()
    inner = MemoryBlobStore(kept)
    back = FaultyBlobStore(inner, fault=fault)
    store = TieredBlobStore(memory(), back, "write-behind")
    await store.write(NAME, b"1")
    await store.write(OTHER, b"2")
    back.at = back.calls
    with pytest.raises((StoreIOError, OutcomeUnknown)):
        await store.write("ef" * 16, b"head", ABSENT)
    # The condition was not sent before what it comes after.
    assert await inner.read("ef" * 16) is None
    assert (await store.read(NAME)).data == b"1"
    back.at = back.calls
    with pytest.raises((StoreIOError, OutcomeUnknown)):
        await store.close()
    await store.close()
    assert {name: data for name, (data, _) in kept.items()} == {NAME: b"1", OTHER: b"2"}


async def test_a_file_in_front_spares_the_backend_after_a_restart(tmp_path: Path) -> None:
    config = {
        "backend": "tiered",
        "id": uuid.uuid4(),
        "frontend-config": {"backend": "file", "path": str(tmp_path / "front")},
        "backend-config": {"backend": "file", "path": str(tmp_path / "back")},
    }
    await d.create_database(store=config, schema_flexibility="read")
    async with d.connect(store=config) as conn:
        await conn.transact([{":n": i} for i in range(3_000)])
    store = await connect_store(config)
    back = store.blobs._back = Watched(store.blobs._back)  # type: ignore[attr-defined]
    packs = [m["key"] for m in await store.keys() if str(m["key"]).startswith("pack/")]
    assert packs
    back.calls.clear()
    for pack in packs:
        assert await store.bget(pack, 0, 100)
    assert back.calls == []
    await store.release()
    # The frontend is a cache: without it everything is still there.
    await delete_store(config["frontend-config"])
    async with d.connect(store=config) as conn:
        assert await conn.db().q("[:find (count ?e) . :where [?e :n _]]") == 3_000
    await d.delete_database(store=config)
    assert not (tmp_path / "back").exists()
