"""Tiered, caching and retrying stores: races, failures, bounds, and what is asked of whom."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.konserve import (
    ABSENT,
    Blob,
    OutcomeUnknown,
    RevisionMismatch,
    StoreConfigError,
    StoreFull,
    StoreIOError,
    StoreUnavailable,
    Write,
    connect_store,
    create_store,
    delete_store,
)
from datahike_async.konserve.backends.memory import MemoryBlobStore
from datahike_async.konserve.testing import Fault, FaultyBlobStore
from datahike_async.konserve.wrappers.caching import CachingBlobStore
from datahike_async.konserve.wrappers.front import Front
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from datahike_async.konserve.wrappers.retrying import Patience, RetryingBlobStore
from datahike_async.konserve.wrappers.tiered import TieredBlobStore

pytestmark = pytest.mark.anyio

NAME = "ab" * 16
OTHER = "cd" * 16


def memory() -> MemoryBlobStore:
    return MemoryBlobStore({})


class Watched(PassingBlobStore):
    """Counts calls, and holds reads back while ``gate`` is there."""

    def __init__(self, blobs: Any) -> None:
        super().__init__(blobs)
        self.calls: list[str] = []
        self.gate: anyio.Event | None = None
        self.held = anyio.Event()

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        self.calls.append("read")
        found = await self.blobs.read(name, start, end)
        if self.gate is not None:
            self.held.set()
            await self.gate.wait()
        return found

    async def read_latest(self, name: str, unless: str | None = None) -> Any:
        self.calls.append("read_latest" if unless is None else "read_unless")
        return await self.blobs.read_latest(name, unless)

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        self.calls.append("read_many")
        return await self.blobs.read_many(names)

    async def write(self, name: str, data: bytes, expected: Any = None) -> str:
        self.calls.append("write")
        return await self.blobs.write(name, data, expected)

    async def write_many(self, writes: Sequence[Write], *, ordered: bool = True) -> Any:
        self.calls.append("write_many")
        return await self.blobs.write_many(writes, ordered=ordered)


class Broken(MemoryBlobStore):
    """Every call fails once it is broken."""

    broken = False

    def _open(self) -> Any:
        if self.broken:
            raise StoreIOError("planted: the disk is gone")
        return super()._open()


def wrappers(back: Any) -> list[Any]:
    return [TieredBlobStore(memory(), back), CachingBlobStore(back)]


# -- both that keep copies -------------------------------------------------------------------------


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


# -- tiered ----------------------------------------------------------------------------------------


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
    front = Broken({})
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
    kept: dict[str, Any] = {}
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


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"write-policy": "write-trough"}, "write-through"),
        ({"write-policy": ":frontend-only"}, "write-through"),
        ({"read-policy": ":frontend-only"}, "frontend-first"),
        ({"frontend-config": None}, "frontend-config"),
        ({"backend-config": {"backend": "memory", "id": str(uuid.uuid4())}}, "must be the same"),
        ({"backend-config": {"backend": "file", "pth": "x"}}, "'path'"),
        ({"write-behind-bytes": "many"}, "write-behind-bytes"),
        ({"write-policy": "write-behind", "id": None}, "share what waits"),
    ],
)
async def test_a_tiered_config_that_is_wrong(change: dict[str, Any], part: str) -> None:
    config: dict[str, Any] = {
        "backend": "tiered",
        "id": str(uuid.uuid4()),
        "frontend-config": {"backend": "memory"},
        "backend-config": {"backend": "memory"},
        **change,
    }
    with pytest.raises(StoreConfigError, match=part):
        await create_store(config)


async def test_a_database_is_never_taken_for_a_frontend(tmp_path: Path) -> None:
    mine = {"backend": "file", "path": str(tmp_path / "mine")}
    other = {"backend": "file", "path": str(tmp_path / "other")}
    made = await d.create_database(store=mine, schema_flexibility="read")
    async with d.connect(store=mine) as conn:
        await conn.transact([{":n": 1}])
    for id_ in ({}, {"id": made.store["id"]}):
        tiers = {"backend": "tiered", "frontend-config": mine, "backend-config": other, **id_}
        with pytest.raises(d.ConfigError, match=r"holds data|another store"):
            await d.create_database(store=tiers)
        assert not (tmp_path / "other").exists()
    await d.create_database(store={**other, **id_})
    with pytest.raises(d.ConfigError, match="holds data"):
        async with d.connect(store=tiers):
            pass
    with pytest.raises(d.ConfigError, match="holds data"):
        await d.delete_database(store=tiers)
    async with d.connect(store=mine) as conn:
        assert len(await conn.db().datoms("aevt", ":n")) == 1


async def test_a_store_is_not_its_own_frontend(tmp_path: Path) -> None:
    path = tmp_path / "store"
    (tmp_path / "link").symlink_to(path)
    for front, back in (
        ({"backend": "memory"}, {"backend": "memory"}),
        ({"backend": "file", "path": str(path)}, {"backend": "file", "path": path}),
        ({"backend": "file", "path": str(tmp_path / "link")}, {"backend": "lmdb", "path": path}),
    ):
        config = {"backend": "tiered", "id": str(uuid.uuid4())}
        with pytest.raises(StoreConfigError, match="same store"):
            await create_store({**config, "frontend-config": front, "backend-config": back})
    assert not path.exists()


async def test_secrets_of_the_inner_stores_are_not_shown() -> None:
    inner = {":backend": ":memory", ":secret": "CANARY"}
    config = {"backend": "tiered", "frontend-config": inner, "backend-config": inner}
    made = d.Config.of(store={**config, "id": str(uuid.uuid4())})
    assert "CANARY" not in repr(made) + str(made.to_map())
    with pytest.raises(d.DatahikeError) as caught:
        await d.create_database(made)
    assert "CANARY" not in str(caught.value)


# -- caching ---------------------------------------------------------------------------------------


async def test_the_cache_keeps_to_its_bytes() -> None:
    back = Watched(memory())
    store = CachingBlobStore(back, 10_000)
    for i in range(50):
        await store.write(f"{i:032x}", bytes([i]) * 1000)
        assert (await store.read(f"{i:032x}")).data == bytes([i]) * 1000
        await store.read(f"{i:032x}", 10, 20)
        assert store.cached_bytes <= 10_000
    back.calls.clear()
    await store.read(f"{49:032x}")
    await store.read(f"{0:032x}")
    assert back.calls == ["read"]
    # What is larger than all of it is read through.
    await store.write(NAME, b"x" * 20_000)
    assert len((await store.read(NAME)).data) == 20_000
    assert store.cached_bytes <= 10_000
    await store.close()
    assert store.cached_bytes == 0


@pytest.mark.parametrize("bad", [-1, "many", 1.5, True])
async def test_a_bound_that_is_none(bad: Any) -> None:
    with pytest.raises(StoreConfigError, match="max-bytes"):
        await create_store(
            {"backend": "caching", "config": {"backend": "memory"}, "max-bytes": bad}
        )


# -- retrying --------------------------------------------------------------------------------------


class Scripted(PassingBlobStore):
    """Fails as it is told, call by call; None lets a call through."""

    def __init__(self, *errors: Callable[[], Exception] | None) -> None:
        super().__init__(memory())
        self.errors = list(errors)
        self.calls = 0

    def _next(self) -> None:
        self.calls += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error()

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        self._next()
        return await super().read(name, start, end)

    async def write(self, name: str, data: bytes, expected: Any = None) -> str:
        self._next()
        return await super().write(name, data, expected)

    async def delete(self, name: str, expected: Any = None) -> bool:
        self._next()
        return await super().delete(name, expected)

    async def names(self) -> AsyncIterator[Sequence[str]]:
        listed = [name async for page in super().names() for name in page]
        for name in listed:
            self._next()
            yield [name]


def away() -> Exception:
    return StoreUnavailable("planted: out of reach")


def unknown() -> Exception:
    return OutcomeUnknown("planted: no answer")


FAST = Patience(attempts=4, first_pause=0.001)


def patient(*errors: Callable[[], Exception] | None) -> tuple[RetryingBlobStore, Scripted]:
    inner = Scripted(*errors)
    return RetryingBlobStore(inner, FAST), inner


async def test_what_passes_is_waited_out() -> None:
    store, inner = patient(away, unknown, away, None, away, None)
    await store.write(NAME, b"1")
    assert inner.calls == 4
    assert (await store.read(NAME)).data == b"1"
    inner.errors = [unknown, None]
    assert await store.delete(NAME)


async def test_a_condition_is_sent_again_only_if_it_was_surely_not_taken() -> None:
    store, inner = patient(away, away, None)
    revision = await store.write(NAME, b"1", ABSENT)
    assert inner.calls == 3
    inner.errors, inner.calls = [unknown], 0
    with pytest.raises(OutcomeUnknown):
        await store.write(NAME, b"2", revision)
    assert inner.calls == 1
    with pytest.raises(RevisionMismatch):
        await store.write(NAME, b"2", "stale")
    inner.errors, inner.calls = [unknown], 0
    with pytest.raises(OutcomeUnknown):
        await store.delete(NAME, revision)
    assert inner.calls == 1


async def test_it_gives_up_and_says_after_how_much() -> None:
    store, inner = patient(*[away] * 10)
    with pytest.raises(StoreUnavailable, match="4 attempts"):
        await store.read(NAME)
    assert inner.calls == 4
    inner.errors, inner.calls = [lambda: StoreFull("planted")] * 3, 0
    with pytest.raises(StoreFull):
        await store.write(NAME, b"1")
    assert inner.calls == 1


async def test_the_deadline_ends_it() -> None:
    inner = Scripted(*[away] * 100)
    store = RetryingBlobStore(inner, Patience(1000, 0.05, 0.02), chance=lambda: 1.0)
    with anyio.fail_after(5), pytest.raises(StoreUnavailable, match="attempts"):
        await store.read(NAME)
    assert inner.calls < 10


async def test_cancelling_ends_it() -> None:
    inner = Scripted(*[away] * 100)
    store = RetryingBlobStore(inner, Patience(1000, 1000, 10), chance=lambda: 1.0)
    with anyio.move_on_after(0.05) as scope:
        await store.read(NAME)
    assert scope.cancelled_caught
    assert inner.calls == 1


async def test_a_listing_goes_on_where_it_broke() -> None:
    store, inner = patient()
    for i in range(6):
        await store.write(f"{i:032x}", b"x")
    inner.errors = [None, None, away, None, None, None, away]
    listed = [name async for page in store.names() for name in page]
    assert sorted(listed) == [f"{i:032x}" for i in range(6)]


@pytest.mark.parametrize("change", [{"attempts": 0}, {"deadline": "long"}, {"first-pause": -1}])
async def test_patience_that_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(StoreConfigError, match=next(iter(change))):
        await create_store({"backend": "retrying", "config": {"backend": "memory"}, **change})
