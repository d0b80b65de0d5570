"""A large value is sent once: the head that every small commit writes stays short."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import datahike_async as d
from datahike_async.errors import CorruptData
from datahike_async.konserve import opening as stores
from datahike_async.konserve.blob import Expected, Revision, Write
from datahike_async.konserve.errors import StoreConfigError
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from datahike_async.storage import opened as opened_stores
from datahike_async.storage.branches.head import decode_head
from datahike_async.storage.log.tail import TAIL_BYTES, Tail
from datahike_async.transactor.transactor import Limits
from tests.servers.programs import S3Server
from tests.stores import store_on
from tests.strangers import Strangers

pytestmark = pytest.mark.anyio

NEVER = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=10**9)
NOISE = random.Random(1).randbytes(300_000)
"""So that nobody compresses it away."""


class Counting(PassingBlobStore):
    """Counts the bytes that are sent."""

    sent = 0

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        Counting.sent += len(data)
        return await super().write(name, data, expected)

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        Counting.sent += sum(len(write.data) for write in writes)
        return await super().write_many(writes, ordered=ordered)

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        Counting.sent += len(record)
        return await super().append(name, record, expected)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def connect_store(config: Any, **options: Any) -> stores.Store:
        store = await stores.connect_store(config, **options)
        store.blobs = Counting(store.blobs)
        return store

    monkeypatch.setattr(opened_stores, "connect_store", connect_store)
    yield
    Counting.sent = 0


@pytest.fixture(params=["memory", "file", "lmdb", pytest.param("s3-moto", marks=pytest.mark.slow)])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], S3Server]
) -> dict[str, Any]:
    store = store_on(request.param, tmp_path, servers)
    await d.create_database(store=store, schema_flexibility="read")
    return store


async def head_of(store: dict[str, Any]) -> Any:
    opened = await stores.connect_store(store)
    data = await opened.get("head/db")
    await opened.release()
    return decode_head(data, "head/db", None)


async def values(store: dict[str, Any]) -> list[Any]:
    async with Strangers(store) as conn:
        return sorted((x.v for x in await conn.db().datoms("aevt", ":v")), key=repr)


@pytest.mark.usefixtures("counted")
async def test_small_commits_after_a_large_value_send_the_bounded_tail_alone(
    store: dict[str, Any],
) -> None:
    async with d.connect(store=store, limits=NEVER) as conn:
        await conn.transact([{":v": NOISE}])
        assert Counting.sent > len(NOISE)
        for n in range(5):
            before = Counting.sent
            await conn.transact([{":v": n}])
            assert Counting.sent - before < TAIL_BYTES
        # A value of its own is sent once, not with what came before it either.
        before = Counting.sent
        await conn.transact([{":v": NOISE[:-1]}])
        assert Counting.sent - before < len(NOISE) + 2 * TAIL_BYTES
    assert await values(store) == sorted([NOISE, NOISE[:-1], *range(5)], key=repr)


@pytest.mark.usefixtures("counted")
async def test_a_flush_sends_a_large_record_no_more(store: dict[str, Any]) -> None:
    async with d.connect(store=store, limits=NEVER) as conn:
        await conn.transact([{":v": NOISE}])
        branch = conn._transactor.branch
        prepared = await branch.prepare_flush()
        await branch.publish_flush(prepared)
        # Once as a record, and in a node of each tree; a journal's record goes to the log as well.
        assert Counting.sent < (6 if store["backend"] == "file" else 5) * len(NOISE)
        assert not branch.committer.tail.records
    assert await values(store) == [NOISE]


@pytest.mark.usefixtures("counted")
async def test_the_tail_in_a_head_is_bounded_however_many_commits_no_flush_takes(
    store: dict[str, Any],
) -> None:
    async with d.connect(store=store, limits=NEVER) as conn:
        for n in range(40):
            before = Counting.sent
            await conn.transact([{":v": str(n) * 1500}])
            assert Counting.sent - before < 2 * TAIL_BYTES
    head = await head_of(store)
    assert sum(len(x) for x in head.tail if isinstance(x, bytes)) <= TAIL_BYTES
    assert len(head.tail) < 30
    assert len(await values(store)) == 40


async def test_a_large_initial_transaction_lies_beside_its_head(
    store: dict[str, Any], tmp_path: Path
) -> None:
    await d.delete_database(store=store)
    await d.create_database(store=store, schema_flexibility="read", initial_tx=[{":v": NOISE}])
    assert not any(isinstance(x, bytes) for x in (await head_of(store)).tail)
    assert await values(store) == [NOISE]


async def test_what_others_put_into_segments_is_read_once_and_by_everyone(
    store: dict[str, Any],
) -> None:
    async with (
        Strangers(store, limits=NEVER) as writer,
        Strangers(store, limits=NEVER) as reader,
    ):
        for n in range(6):
            await writer.transact([{":v": NOISE[: 50_000 + n]}, {":v": n}])
            db = await reader.sync()
            assert len(await db.datoms("aevt", ":v")) == 2 * (n + 1)
        # And written behind by both.
        await reader.transact([{":v": "reader"}])
        await writer.transact([{":v": "writer"}])
        flushed = writer._transactor.branch
        await flushed.publish_flush(await flushed.prepare_flush())
        await reader.transact([{":v": "after"}])
        assert len(await reader.db().datoms("aevt", ":v")) == 15
    assert len(await values(store)) == 15


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
async def test_a_segment_that_is_missing_or_damaged_is_named(tmp_path: Path, damage: str) -> None:
    store = store_on("lmdb", tmp_path, lambda name: None)  # type: ignore[arg-type, return-value]
    await d.create_database(store=store, schema_flexibility="read")
    async with d.connect(store=store, limits=NEVER) as conn:
        await conn.transact([{":v": NOISE}])
    (address,) = (await head_of(store)).tail
    opened = await stores.connect_store(store)
    data = await opened.bget(address.blob)
    if damage == "missing":
        await opened.dissoc(address.blob)
    elif damage == "cut":
        await opened.bassoc(address.blob, data[:-1])
    else:
        await opened.bassoc(address.blob, data[:500] + bytes([data[500] ^ 1]) + data[501:])
    await opened.release()
    with pytest.raises(CorruptData, match=address.blob) as caught:
        async with d.connect(store=store):
            pass
    assert caught.value.data[":blob"] == address.blob
    opened = await stores.connect_store(store)
    await opened.bassoc(address.blob, data)
    await opened.release()
    assert await values(store) == [NOISE]


class Losing(PassingBlobStore):
    """Its next conditional write is refused."""

    refuse = False

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        if self.refuse and expected is not None:
            self.refuse = False
            raise StoreConfigError("planted: refused")
        return await super().write(name, data, expected)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_commit_that_was_refused_leaves_no_segment(
    servers: Callable[[str], S3Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_on("s3-moto", tmp_path, servers)
    await d.create_database(store=store, schema_flexibility="read")
    made: list[Losing] = []

    async def connect_store(config: Any, **options: Any) -> stores.Store:
        opened = await stores.connect_store(config, **options)
        made.append(Losing(opened.blobs))
        opened.blobs = made[-1]
        return opened

    monkeypatch.setattr(opened_stores, "connect_store", connect_store)
    async with d.connect(store=store, limits=NEVER) as conn:
        await conn.transact([{":v": 1}])
        made[-1].refuse = True
        with pytest.raises(d.DatahikeError, match="refused"):
            await conn.transact([{":v": NOISE}])
    opened = await stores.connect_store(store)
    keys = [x["key"] for x in await opened.keys()]
    await opened.release()
    assert [key for key in keys if key.startswith("log/")] == []
    assert await values(store) == [1]


# -- tails as values ---------------------------------------------------------------------------


async def test_a_tail_after_any_cut_has_the_rest_in_order() -> None:
    chance = random.Random(5)
    for _ in range(60):
        tail = Tail()
        records: list[bytes] = []
        for _ in range(chance.randrange(1, 12)):
            size = chance.choice([10, 9_000, TAIL_BYTES, TAIL_BYTES + 1])
            records.append(chance.randbytes(size))
            tail, writes = await tail.plus(records[-1]).bounded(uuid.uuid4)
            assert tail.inline <= TAIL_BYTES
            assert len({key for key, _ in writes}) == len(writes)
            assert tail.records == records
            assert tail.bytes == sum(map(len, records))
        cut = chance.randrange(len(records) + 1)
        rest = tail.after(cut)
        assert rest.records == records[cut:]
        assert rest.bytes == sum(map(len, rest.records))
        # What lies in a segment of its own is not sent again.
        moved = [x for x in rest.items if isinstance(x, bytes) and len(x) > TAIL_BYTES]
        assert moved == []
