"""Verify: what is wrong with a store is found, and of what is right nothing is said."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.index.columns import Rows
from datahike_async.index.protocol import Order
from datahike_async.konserve import opening as stores
from datahike_async.snapshot import trees
from datahike_async.storage import survey
from datahike_async.storage.branches import branching
from datahike_async.storage.keys import head_key
from datahike_async.transactor import group
from datahike_async.transactor.limits import Limits
from datahike_async.tx.done import Done
from tests import forging
from tests.storage import flips
from tests.stores import LOCAL, Servers, on_loops, store_on

pytestmark = pytest.mark.anyio

SMALL = Limits(flush_rows=60, flush_bytes=8_000, flush_journal_bytes=8_000, close_rows=1)
EACH = Limits(flush_rows=1, flush_bytes=1, flush_journal_bytes=1, close_rows=1)
SCHEMA = """
[{:db/ident :n :db/valueType :db.type/string :db/cardinality :db.cardinality/one :db/index true}
 {:db/ident :id :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :many :db/valueType :db.type/double :db/cardinality :db.cardinality/many}
 {:db/ident :ref :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}
 {:db/ident :short :db/valueType :db.type/instant :db/cardinality :db.cardinality/one
  :db/noHistory true}]
"""


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return {"store": {"backend": "file", "path": str(tmp_path / "db"), "id": uuid4()}}


async def written(conn: d.Connection, rng: random.Random, count: int) -> None:
    """Make transactions that assert, replace, repeat and retract, by rows and in bulk."""
    for _ in range(count):
        rows = rng.choice((3, 3, 3, 40, 700))
        data: list[Any] = [
            {
                ":id": rng.randrange(200),
                ":n": rng.choice(("a", "b", "ü")) + str(rng.randrange(9)),
                ":many": [rng.choice((0.0, -0.0, 1.5, float(i))) for i in range(rng.randrange(3))],
            }
            for _ in range(rows if rows < 700 else 0)
        ]
        data += [{":n": f"x{i}", ":many": float(i)} for i in range(rows if rows == 700 else 0)]
        known = [x.e for x in await conn.db().datoms("avet", ":id")][:40]
        data += [[":db/retractEntity", e] for e in rng.sample(known, min(len(known), 2))]
        if len(known) > 4:
            data.append([":db/add", known[-1], ":ref", known[-2]])
            data.append([":db/add", known[-3], ":short", datetime.now(UTC)])
        await conn.transact(data)


@pytest.mark.parametrize(("anyio_backend", "name"), on_loops(LOCAL))
@pytest.mark.parametrize("keep_history", [True, False])
async def test_nothing_is_wrong_with_what_was_written(
    name: str, keep_history: bool, tmp_path: Path, servers: Servers
) -> None:
    rng = random.Random(f"{name} {keep_history}")
    config = {"store": store_on(name, tmp_path, servers), "keep_history": keep_history}
    async with d.connect(config, create=True, limits=SMALL) as conn:
        await conn.transact(SCHEMA)
        await written(conn, rng, 8)
        await d.branch(conn, ":db", ":other")
        async with d.connect(config, branch=":other", limits=SMALL) as other:
            await written(other, rng, 4)
            other_tx = other.db().max_tx
        await written(conn, rng, 3)
        # An attribute is entered in AVET later, and another one forgets its past.
        await conn.transact([{":db/ident": ":many", ":db/index": True}])
        await written(conn, rng, 3)
    seen: list[tuple[int, int]] = []
    report = await d.verify(config, deep=True, progress=lambda *now: seen.append(now))
    assert report.ok, str(report)
    assert report.branches == 2
    assert report.checkpoints > 3
    assert report.datoms > 100
    assert seen[-1] == (report.blobs, report.blobs)
    assert pickle.loads(pickle.dumps(report)) == report
    assert d.jsonable(report)["ok"] is True
    found = await d.info(config)
    assert {one.name: one.tx for one in found.branches}[d.kw("other")] == other_tx
    assert (found.checkpoints, found.nodes) == (report.checkpoints, report.nodes)
    assert found.orphans == report.orphans
    assert "branch :other" in str(found)


async def test_writers_go_on_meanwhile_and_nothing_is_written(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=SMALL) as conn:
        await conn.transact(SCHEMA)
        done = anyio.Event()

        async def write() -> None:
            rng = random.Random(5)
            while not done.is_set():
                await written(conn, rng, 1)

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            for i in range(4):
                report = await d.verify(conn if i % 2 else config, deep=True)
                assert report.ok, str(report)
            done.set()
    before = await contents(config)
    async with d.connect(config, read_only=True) as conn:
        assert (await d.verify(conn, deep=True)).ok
        assert (await d.info(conn)).branches[0].tx == conn.db().max_tx
    assert await contents(config) == before


@pytest.mark.parametrize("missing", [False, True])
async def test_collections_that_overtake_it_take_nothing_that_is_missed(
    missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often they do; what heads name all the time, and is not there, is told."""
    config = {"store": {"backend": "memory", "id": uuid4()}}
    rng, rounds = random.Random(3), 0
    nodes = survey.Survey.nodes

    async def overtaken(self: survey.Survey) -> None:
        nonlocal rounds
        rounds += 1
        if rounds <= 20:
            await written(conn, rng, 1)
            await conn.transact([{":id": 1000, ":n": f"round {rounds}"}])
            await conn.sync()
            collected = await d.gc_storage(conn, retain={"commits": 1})
            assert collected.freed
        await nodes(self)

    async with d.connect(config, create=True, limits=EACH) as conn:
        await conn.transact(SCHEMA)
        await conn.transact([{":n": f"x{i}", ":many": float(i)} for i in range(3000)])
        await d.tag(conn, ":kept")
        wanted = set[tuple[str, str]]()
        if missing:
            trees = conn.db().snapshot.trees
            gone = list(trees.current[Order.EAVT].addresses())[-1].blob
            await conn._transactor.branch.store.dissoc(gone)
            wanted.add(("missing", gone))
        monkeypatch.setattr(survey.Survey, "nodes", overtaken)
        report = await d.verify(conn, deep=True)
        assert rounds > 20 or missing
        assert {(x.kind, x.place) for x in report.findings} == wanted


async def test_a_pin_that_is_over_leaves_nothing_that_a_collection_does_not_free(
    config: dict[str, Any],
) -> None:
    async with d.connect(config, create=True) as conn:
        async with d.pin(conn):
            pass
        await d.gc_storage(conn, retain={"commits": 1})
        assert (await d.verify(conn)).orphans == 0
        assert (await d.info(conn)).orphans == 0
        assert (await d.gc_storage(conn, dry_run=True)).freed == 0


async def contents(config: dict[str, Any]) -> dict[str, bytes]:
    folder = anyio.Path(config["store"]["path"])
    return {path.name: await path.read_bytes() async for path in folder.iterdir()}


async def test_whatever_is_missing_is_found(config: dict[str, Any]) -> None:
    await flips.made({**config, "schema-flexibility": "write"})
    store = await stores.connect_store(config["store"])
    orphans = (await d.verify(config)).orphans
    assert orphans == (await d.info(config)).orphans > 0
    found = missing = 0
    for name in [name async for page in store.blobs.names() for name in page]:
        whole = await store.blobs.read(name)
        assert whole is not None
        key = store.encoding.meta(store.encoding.open(name, whole.data))["key"]
        if key.startswith("head/") or not await store.blobs.delete(name):
            continue
        report = await d.verify(config)
        found += not report.ok
        missing += any(x.kind == "missing" and x.place == key for x in report.findings)
        await store.blobs.write(name, whole.data)
    assert found == missing > 8
    assert (await d.verify(config, deep=True)).ok
    await store.release()


async def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    with pytest.raises(d.DatabaseNotFound):
        await d.verify({"store": {"backend": "file", "path": str(tmp_path / "none")}})
    config = {"backend": "memory", "id": uuid4()}
    await (await stores.create_store(config)).release()
    for verb in (d.verify, d.info):
        with pytest.raises(d.DatabaseNotFound):
            await verb({"store": config})
    with pytest.raises(d.ArgumentError):
        await d.verify({"store": config}, progress=3)  # type: ignore[arg-type]


async def test_a_branch_without_a_head_is_found_and_info_refuses_it(config: dict[str, Any]) -> None:
    await flips.made({**config, "schema-flexibility": "write"})
    store = await stores.connect_store(config["store"])
    await store.dissoc(head_key("trial"))
    await store.release()
    report = await d.verify(config)
    assert [x.place for x in report.findings] == ["head/trial"]
    with pytest.raises(d.CorruptData, match="head/trial"):
        await d.info(config)


# -- software that goes wrong: indexes that do not agree, though every checksum is right ----------


@contextmanager
def _without_avet() -> Any:
    runs = trees.in_order

    def fewer(by_attr: Any, order: Order, schema: Any) -> list[Rows]:
        found = runs(by_attr, order, schema)
        return [run.slice(1, len(run)) for run in found] if order is Order.AVET else found

    with mock.patch.object(trees, "in_order", fewer):
        yield


@contextmanager
def _other_values() -> Any:
    runs = trees.in_order

    def other(by_attr: Any, order: Order, schema: Any) -> list[Rows]:
        found = runs(by_attr, order, schema)
        if order is not Order.AEVT:
            return found
        return [Rows(run.e, run.a, run.v, run.t + 1, run.until) for run in found]

    with mock.patch.object(trees, "in_order", other):
        yield


@contextmanager
def _backwards() -> Any:
    runs = trees.in_order

    def turned(by_attr: Any, order: Order, schema: Any) -> list[Rows]:
        found = runs(by_attr, order, schema)
        return [run.backwards() for run in found] if order is Order.AVET else found

    with mock.patch.object(trees, "in_order", turned):
        yield


@contextmanager
def _log_leaves_out() -> Any:
    encode = group.encode_entry

    def less(applied: Any) -> bytes:
        done = applied.done
        fewer = Done(done._mem, done._start, done._stop - 1, None, done._attrs, done._tx)
        return encode(mock.Mock(wraps=applied, **_fields(applied), done=fewer))

    with mock.patch.object(group, "encode_entry", less):
        yield


def _fields(applied: Any) -> dict[str, Any]:
    return {
        name: getattr(applied, name) for name in ("tx", "instant", "after", "new_attrs", "bulk")
    }


WRONG = {
    "rows left out of AVET": (_without_avet, False, "aevt and avet hold different datoms"),
    "other transactions in AEVT": (_other_values, False, "eavt and aevt hold different datoms"),
    "rows in another order": (_backwards, False, "is not in order"),
    "operations left out of the log": (_log_leaves_out, True, "the log leads to"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_disagrees_is_found(wrong: str, config: dict[str, Any]) -> None:
    plant, deep, message = WRONG[wrong]
    async with d.connect(config, create=True, limits=Limits(close_rows=1)) as conn:
        await conn.transact(SCHEMA)
    assert (await d.verify(config, deep=True)).ok
    with plant():
        async with d.connect(config, limits=Limits(close_rows=1)) as conn:
            await conn.transact([{":n": f"n{i}", ":id": i} for i in range(20)])
    report = await d.verify(config, deep=deep)
    assert any(message in x.message for x in report.findings), str(report)
    assert message in str(report)
    if deep:
        assert (await d.verify(config)).ok


async def test_a_filter_that_hides_rows_is_found(config: dict[str, Any]) -> None:
    """Every checksum and every sum is right, and nobody finds the rows any more."""
    async with d.connect(config, create=True, limits=Limits(close_rows=1)) as conn:
        await conn.transact(SCHEMA)
        await conn.transact([{":n": f"n{i}", ":id": i} for i in range(400)])
        await d.compact(conn)
        e = await d.q("[:find ?e . :where [?e :id 7]]", conn.db())
        await conn.transact([[":db/add", e, ":n", "new"]])
    async with forging.store_of(config) as store:
        await forging.blind_filter(store)
    async with d.connect(config, read_only=True) as conn:
        assert (await conn.db().pull("[:n]", e))[":n"] == "n7"
    assert (await d.verify(config)).ok
    report = await d.verify(config, deep=True)
    assert [x.kind for x in report.findings] == ["mismatch"] * 2, str(report)
    assert all("the filter of its run says are not there" in x.message for x in report.findings)


# -- bytes that are not what was written ---------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_flipped_byte_of_any_file_is_found(tmp_path: Path) -> None:
    """A choice of bytes; all of them by the command in tests/storage/flips.py."""
    rng = random.Random(11)
    count, missed = await flips.flip_files(tmp_path / "db", flips.some(rng, 3), rng)
    assert missed == []
    assert count.keys() >= {".ksv", ".log", ".mark", "lock", "settled", "store"}


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_flipped_byte_of_any_blob_is_found() -> None:
    rng = random.Random(12)
    store = {"backend": "memory", "id": uuid4()}
    count, missed = await flips.flip_blobs(store, flips.some(rng, 1), rng)
    assert missed == []
    assert count["blobs"] > 30


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("fault", sorted(flips.FAULTS))
async def test_where_verify_is_blind_flipping_shows_it(fault: str, tmp_path: Path) -> None:
    rng = random.Random(13)
    places: Callable[[int], list[int]] = flips.some(rng, 4)
    if fault == "no-marker":
        # Another kind of white space: opening takes it for the same text.
        with mock.patch.object(flips, "flipped", lambda data, *_: data[:-1] + b"\x0b"):
            assert await _missed(tmp_path, lambda size: [size - 1], rng, fault)
        return
    assert await _missed(tmp_path, places, rng, fault)


ONLY = {"no-room": ".log", "no-locks": "lock", "no-marks": ".mark", "no-marker": "store"}


async def _missed(folder: Path, places: Any, rng: random.Random, fault: str) -> Any:
    with flips.FAULTS[fault]():
        return (await flips.flip_files(folder / "db", places, rng, ONLY.get(fault, "")))[1]


@pytest.mark.parametrize("ended", [False, True], ids=["all of it", "half way"])
async def test_a_branch_that_is_deleted_meanwhile_is_no_fault(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    read_branch = survey.read_branch

    async def late(store: Any, name: str, id_: Any) -> Any:
        if name == going:
            with mock.patch.object(branching, "list_branch", stopped) if ended else nullcontext():
                await d.delete_branch(conn, name)
        return await read_branch(store, name, id_)

    async def stopped(*_: Any) -> bool:
        return True

    async with d.connect(config, create=True, limits=SMALL) as conn:
        monkeypatch.setattr(survey, "read_branch", late)
        going = "one"
        await d.branch(conn, ":db", ":one")
        assert (await d.verify(conn)).ok
        going = "two"
        await d.branch(conn, ":db", ":two")
        copy = {"store": {"backend": "memory", "id": uuid4()}}
        await d.backup(conn, copy)
        going = ""
        assert (await d.verify(copy)).ok
        async with d.connect(copy) as copied:
            assert set(await d.branches(copied)) == {d.kw("db")}
