"""What was committed is there after reopening: from the tail, from trees, and from both."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async.database import Database, empty_db
from datahike_async.errors import (
    CorruptData,
    DatahikeError,
    StorageError,
    TransactionError,
    UnsupportedFormat,
)
from datahike_async.index.codec import pack, unpack
from datahike_async.index.source import Address
from datahike_async.konserve import opening as stores
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.keys import checkpoint_key
from datahike_async.storage.log.checkpoint import decode_checkpoint
from datahike_async.storage.log.reader import fetch_segments
from datahike_async.storage.log.records import decode_record, decode_segment
from datahike_async.transactor.transactor import Limits
from tests.indexes import INDEXES

pytestmark = pytest.mark.anyio

SMALL = Limits(flush_rows=40, flush_bytes=2_000, flush_journal_bytes=4_000, close_rows=10**9)
NEVER = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=10**9)
CLOSING = Limits(close_rows=1)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return store


async def everything(db: Database) -> Any:
    def plain(datoms: Any) -> list[Any]:
        return [(x.e, x.a, x.v, x.tx, x.added) for x in datoms]

    now = plain(await db.datoms("eavt"))
    assert sorted(map(repr, now)) == sorted(map(repr, plain(await db.datoms("aevt"))))
    past = []
    if db.snapshot.keep_history:
        past = sorted(plain(await db.history().datoms("eavt")), key=repr)
    return (
        now,
        plain(await db.datoms("avet")),
        past,
        db.schema,
        db.max_tx,
        db.max_eid,
        [(a.ident, a.id) for a in db.snapshot.schema.attrs],
    )


def some_transaction(rng: random.Random) -> list[Any]:
    e = rng.randrange(1, 40)
    kind = rng.randrange(9)
    if kind < 4:
        return [{":n": rng.randrange(30), ":tag": rng.choice(["a", "b", 1, 1.5, True])}]
    if kind == 4:
        return [[":db/add", e, ":n", rng.randrange(30)]]
    if kind == 5:
        return [[":db/retractEntity", e]]
    if kind == 6:
        return [{":db/id": -1, f":late/{rng.randrange(12)}": e}, {":friend": -1}]
    if kind == 7:
        return [{":n": i, ":tag": "load"} for i in range(rng.choice((5, 60, 60, 1200)))]
    return []


@pytest.mark.parametrize("limits", [SMALL, NEVER], ids=["flushing", "tail"])
@pytest.mark.parametrize("keep_history", [True, False])
@pytest.mark.parametrize("index", INDEXES)
async def test_reopening_finds_what_was_there(
    store: dict[str, Any], limits: Limits, keep_history: bool, index: str
) -> None:
    rng = random.Random(index)
    await d.create_database(
        store=store, keep_history=keep_history, schema_flexibility="read", **INDEXES[index]
    )
    seen: Any = None
    for _ in range(3):
        async with d.connect(store=store, limits=limits) as conn:
            if seen is not None:
                assert await everything(conn.db()) == seen
            for _ in range(rng.randrange(5, 20)):
                await conn.transact(some_transaction(rng))
            seen = await everything(conn.db())
    async with d.connect(store=store, limits=CLOSING) as conn:
        assert await everything(conn.db()) == seen
        await conn.transact([{":n": 7}])
        seen = await everything(conn.db())
    async with d.connect(store=store) as conn:
        assert conn.db().snapshot.n == 0
        assert await everything(conn.db()) == seen


async def test_a_stored_database_equals_a_value_with_the_same_transactions(
    store: dict[str, Any],
) -> None:
    rng = random.Random(11)
    transactions = [some_transaction(rng) for _ in range(60)]
    await d.create_database(store=store, keep_history=False, schema_flexibility="read")
    value = empty_db()
    async with d.connect(store=store, limits=SMALL) as conn:
        for transaction in transactions:
            await conn.transact(transaction)
            value = await value.db_with(transaction)
    async with d.connect(store=store) as conn:
        stored = [(x.e, x.a, x.v) for x in await conn.db().datoms("eavt")]
    assert stored == [(x.e, x.a, x.v) for x in await value.datoms("eavt")]


async def test_a_transaction_that_changes_nothing_still_uses_its_id(store: dict[str, Any]) -> None:
    await d.create_database(store=store, keep_history=False, schema_flexibility="read")
    async with d.connect(store=store, limits=CLOSING) as conn:
        await conn.transact([{":n": 1}])
        last = await conn.transact([[":db/add", 1, ":n", 1]])
    async with d.connect(store=store, limits=CLOSING) as conn:
        assert conn.db().max_tx == last.tx
        last = await conn.transact([[":db/add", 1, ":n", 1]])
        assert conn.db().max_tx == last.tx
    async with d.connect(store=store) as conn:
        assert conn.db().max_tx == last.tx
        assert (await conn.transact([{":n": 2}])).instant > last.instant


async def test_snapshots_stay_as_they_were_while_flushes_go_by(store: dict[str, Any]) -> None:
    await d.create_database(store=store, schema_flexibility="read")
    kept: list[tuple[Database, Any]] = []
    async with d.connect(store=store, limits=SMALL) as conn:
        for i in range(60):
            await conn.transact([{":db/id": 1 + i % 7, ":n": i}])
            if i % 6 == 0:
                kept.append((conn.db(), await everything(conn.db())))
            await anyio.lowlevel.checkpoint()
        assert conn._transactor.branch.committer.base.log is not None
        for db, was in kept:
            assert await everything(db) == was


async def test_an_attribute_indexed_during_a_flush(store: dict[str, Any]) -> None:
    name = {
        ":db/id": "x",
        ":db/ident": ":name",
        ":db/valueType": ":db.type/string",
        ":db/cardinality": ":db.cardinality/one",
    }
    await d.create_database(store=store, initial_tx=[name])
    async with d.connect(store=store, limits=SMALL) as conn:
        ident = await conn.db().entid(":name")
        for i in range(100):
            await conn.transact([{":name": f"n{i:03}"}])
            if i == 60:
                await conn.transact([[":db/add", ident, ":db/index", True]])
        found = [x.v for x in await conn.db().index_range(":name", "n050", "n070")]
        assert found == [f"n{i:03}" for i in range(50, 71)]
        seen = await everything(conn.db())
    async with d.connect(store=store) as conn:
        assert await everything(conn.db()) == seen


async def test_the_log_holds_every_commit(store: dict[str, Any]) -> None:
    await d.create_database(store=store, schema_flexibility="read")
    commits = []
    async with d.connect(store=store, limits=SMALL) as conn:
        for i in range(80):
            transaction: list[Any] = [{":n": j} for j in range(1500)] if i == 40 else [{":n": i}]
            if i % 9 == 0:
                transaction.append({":text": "long" * 10_000})
            commits.append((await conn.transact(transaction)).db_after.commit_id)
            while i % 20 == 10 and not conn._transactor.flushing.at_rest:
                await anyio.sleep(0.001)
    opened = await stores.connect_store(store)
    state = await read_branch(opened, "db", store["id"])
    assert state is not None
    records = list(state.records)
    at = state.head.base.log
    while at is not None:
        address = Address(*at)
        assert address.blob.startswith("log/")
        found = decode_segment(await opened.bget(address.blob), address.blob)
        at, (older) = found.previous, await fetch_segments(opened, found.items, None, address.blob)
        earlier = [decode_record(r, address.blob) for r in older.records]
        assert found.last == earlier[-1].entries[-1].tx
        records = [*earlier, *records]
    checkpoints = []
    pointer: Any = state.head.base.pointer
    while pointer is not None:
        key = checkpoint_key(pointer.id)
        checkpoint = decode_checkpoint(await opened.bget(key), key)
        assert checkpoint.pointer == pointer
        checkpoints.append(checkpoint.commit.id)
        pointer = checkpoint.back[0] if checkpoint.back else None
    await stores.release_store(opened)
    assert [r.commit for r in records] == commits
    assert len(checkpoints) > 3
    # After a large transaction runs may be merged, which makes another one of its commit.
    assert [c for c in commits if c in checkpoints] == list(dict.fromkeys(checkpoints[-2::-1]))
    assert [e.tx for r in records for e in r.entries] == sorted(
        {e.tx for r in records for e in r.entries}
    )


async def test_a_commit_names_the_one_before_after_reopening_too(store: dict[str, Any]) -> None:
    await d.create_database(store=store, schema_flexibility="read")
    last: Any = None
    for limits in (NEVER, SMALL, CLOSING, NEVER):
        async with d.connect(store=store, limits=limits) as conn:
            if last is not None:
                assert (conn.db().commit_id, conn.db().parent_commit_ids) == last
            for i in range(6):
                before = conn.db().commit_id
                report = await conn.transact([{":n": i, ":text": "x" * 1000}])
                assert report.db_before.commit_id == before
                assert report.db_after.parent_commit_ids == {before}
            reports: list[Any] = [None] * 8

            async def send(i: int, conn: Any = conn, reports: list[Any] = reports) -> None:
                reports[i] = await conn.transact([{":n": i}])

            async with anyio.create_task_group() as group:
                for i in range(8):
                    group.start_soon(send, i)
            reports.sort(key=lambda report: report.db_after.max_tx)
            line = [report.db_after.commit_id for report in reports]
            assert len(set(line)) == 8
            assert [{c} for c in line[:-1]] == [r.db_after.parent_commit_ids for r in reports[1:]]
            assert [r.db_before.commit_id for r in reports[1:]] == line[:-1]
            last = (conn.db().commit_id, conn.db().parent_commit_ids)


async def test_a_small_cache_reads_all_the_same(store: dict[str, Any]) -> None:
    await d.create_database(
        store=store, schema_flexibility="read", index_config={"branching-factor": 16}
    )
    async with d.connect(store=store, limits=CLOSING) as conn:
        await conn.transact([{":n": i, ":m": -i} for i in range(5000)])
        seen = await everything(conn.db())
    async with d.connect(store=store, store_cache_size=1) as conn:
        assert await everything(conn.db()) == seen
        for i in range(0, 5000, 500):
            await conn.transact([[":db/add", i + 1, ":n", -1]])
        assert len(conn._transactor.branch.source.cache) < 100
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(everything, conn.db())


async def test_large_transactions_run_off_the_loop_and_refuse_alike(store: dict[str, Any]) -> None:
    await d.create_database(store=store, schema_flexibility="read")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await anyio.lowlevel.checkpoint()

    async with d.connect(store=store) as conn:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await conn.transact([{":n": i} for i in range(20_000)])
            tasks.cancel_scope.cancel()
        assert ticks > 50
        before = conn.db().max_tx
        with pytest.raises(TransactionError):
            await conn.transact([*({":n": i} for i in range(2000)), {":db/id": "x", 3: 4}])
        assert conn.db().max_tx == before
        assert len(await conn.db().datoms("aevt", ":n")) == 20_000
        # Existing entities are looked up in trees that are not resident: the thread fetches.
        conn._transactor.branch.source.cache.clear()
        await conn.transact([[":db/add", 1 + i, ":n", -i] for i in range(2000)])
        assert {x.v for x in await conn.db().datoms("eavt", 1500)} == {-1499}


# -- what is damaged is refused ------------------------------------------------------------------


async def test_a_damaged_node_names_its_blob(store: dict[str, Any]) -> None:
    await d.create_database(store=store, schema_flexibility="read")
    async with d.connect(store=store, limits=CLOSING) as conn:
        await conn.transact([{":n": i} for i in range(3000)])
        address = conn.db().snapshot.trees.current
    async with d.connect(store=store) as conn:
        index = next(iter(conn.db().snapshot.trees.current.values()))
        address = next(iter(await _addresses(index)))
        data = await conn._transactor.branch.store.bget(address.blob)
        damaged = bytearray(data)
        damaged[address.offset + address.length // 2] ^= 0xFF
        await conn._transactor.branch.store.bassoc(address.blob, bytes(damaged))
    async with d.connect(store=store) as conn:
        with pytest.raises(CorruptData, match=address.blob) as caught:
            await conn.db().datoms("eavt")
        assert caught.value.data[":offset"] == address.offset
    opened = await stores.connect_store(store)
    await opened.dissoc(address.blob)
    await stores.release_store(opened)
    async with d.connect(store=store) as conn:
        with pytest.raises(CorruptData, match=address.blob) as caught:
            await conn.db().datoms("eavt")
        assert caught.value.error == ":node-not-found"


async def _addresses(index: Any) -> list[Any]:
    from datahike_async.index.source import NodeMiss, resolve

    try:
        return list(index.addresses())
    except NodeMiss as miss:
        return await resolve(miss, lambda: list(index.addresses()))


async def test_a_head_of_a_newer_version_is_refused(store: dict[str, Any]) -> None:
    await d.create_database(store=store)
    opened = await stores.connect_store(store)
    fields = unpack(await opened.get("head/db"))
    fields[1] = 99
    await opened.assoc("head/db", pack(fields))
    await stores.release_store(opened)
    with pytest.raises(UnsupportedFormat, match="99"):
        async with d.connect(store=store):
            pass


@pytest.mark.parametrize("value", [{"a": 1}, b"noise", "text"])
async def test_a_head_that_is_none_is_refused(store: dict[str, Any], value: Any) -> None:
    await d.create_database(store=store)
    opened = await stores.connect_store(store)
    await opened.assoc("head/db", value)
    await stores.release_store(opened)
    with pytest.raises(CorruptData, match="head/db"):
        async with d.connect(store=store):
            pass


async def test_a_damaged_log_is_named_with_what_can_be_read_of_it_and_can_be_salvaged(
    tmp_path: Path,
) -> None:
    store = {"backend": "file", "path": str(tmp_path / "db")}
    await d.create_database(store=store, schema_flexibility="read")
    async with d.connect(store=store, limits=NEVER) as conn:
        for i in range(20):
            await conn.transact([{":n": i}])
    (log,) = (tmp_path / "db").glob("*.log")
    whole = log.read_bytes()
    at = len(whole.rstrip(b"\0")) // 2
    log.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CorruptData, match=r"records before it are whole and \d+ behind") as caught:
        async with d.connect(store=store):
            pass
    assert caught.value.data[":place"] == log.name
    readable = caught.value.data[":records"]
    async with d.connect(store={**store, "salvage": True}) as conn:
        numbers = [x.v for x in await conn.db().datoms("aevt", ":n")]
        assert numbers == list(range(readable))
        for _ in range(2):
            with pytest.raises(StorageError, match="salvage"):
                await conn.transact([{":n": 99}])
    log.write_bytes(whole)
    async with d.connect(store=store) as conn:
        assert len(await conn.db().datoms("aevt", ":n")) == 20


async def test_a_journal_with_a_gap_is_refused(tmp_path: Path) -> None:
    store = {"backend": "file", "path": str(tmp_path / "db"), "id": uuid4()}
    await d.create_database(store=store, schema_flexibility="read")
    async with d.connect(store=store) as conn:
        for i in range(3):
            await conn.transact([{":n": i}])
    opened = await stores.connect_store(store)
    found = await opened.journal("head/db")
    assert found is not None
    value, records, _ = found
    revision = await opened.assoc("head/db", value)
    for record in (records[0], records[2]):
        revision = await opened.journal_append("head/db", record, expected_revision=revision)
    await stores.release_store(opened)
    with pytest.raises(DatahikeError, match="journal of head/db"):
        async with d.connect(store=store):
            pass
