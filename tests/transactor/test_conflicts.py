"""Several writers on one branch: nothing is lost, nothing is done twice, and contention shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.errors import (
    ConnectionClosed,
    DatahikeError,
    HeadConflict,
    TransactionError,
    WriterError,
    WriterFenced,
)
from datahike_async.konserve import opening as stores
from datahike_async.storage.branches import read as opening
from datahike_async.storage.branches.head import RECENT
from datahike_async.transactor import branch as branches
from datahike_async.transactor import committer as committers
from datahike_async.transactor.transactor import Limits
from tests.strangers import Strangers

pytestmark = pytest.mark.anyio

SMALL = Limits(flush_rows=30, flush_bytes=2_000, flush_journal_bytes=2_000, close_rows=5)
COUNTER = [
    {
        ":db/ident": ":counter",
        ":db/valueType": ":db.type/long",
        ":db/cardinality": ":db.cardinality/one",
    },
    {
        ":db/ident": ":name",
        ":db/valueType": ":db.type/string",
        ":db/cardinality": ":db.cardinality/one",
        ":db/unique": ":db.unique/value",
    },
    {":db/id": 100, ":counter": 0},
]


@pytest.fixture(params=["memory", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    await d.create_database(store=store, initial_tx=COUNTER)
    return store


async def value(conn: d.Connection) -> Any:
    [found] = await conn.db().datoms("eavt", 100, ":counter")
    return found.v


@pytest.fixture
def reloads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often a writer had to take over another's head."""
    seen: list[int] = []
    adopt = branches.Branch.adopt

    async def counted(self: Any, state: Any) -> None:
        seen.append(state.generation)
        await adopt(self, state)

    monkeypatch.setattr(branches.Branch, "adopt", counted)
    return seen


async def test_writers_take_turns_without_losing_anything(
    store: dict[str, Any], reloads: list[int]
) -> None:
    async with Strangers(store, limits=SMALL) as one, Strangers(store, limits=SMALL) as two:
        assert one._transactor is not two._transactor
        for i in range(40):
            conn = (one, two)[i % 2]
            report = await conn.transact([{":name": f"n{i}"}])
            assert report.db_after.commit_id == conn.db().commit_id
        seen = {x.v for x in await two.db().datoms("aevt", ":name")}
        assert seen == {f"n{i}" for i in range(40)}
    assert len(reloads) >= 35
    async with d.connect(store=store) as conn:
        found = await conn.db().datoms("aevt", ":name")
        assert {x.v for x in found} == seen
        assert len({x.tx for x in found}) == 40


async def test_cas_is_evaluated_again_after_a_lost_race(
    store: dict[str, Any], reloads: list[int]
) -> None:
    """Eight writers count to the same number with cas: every step happens exactly once."""
    steps = 0
    refused = 0
    keywords: set[str | None] = set()

    async def writer() -> None:
        nonlocal steps, refused
        async with Strangers(store, limits=SMALL) as conn:
            for _ in range(12):
                seen = await value(conn)
                try:
                    await conn.transact([[":db.fn/cas", 100, ":counter", seen, seen + 1]])
                    steps += 1
                except (TransactionError, HeadConflict) as error:
                    refused += 1
                    keywords.add(error.error)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(writer)
    async with d.connect(store=store) as conn:
        assert await value(conn) == steps
    assert steps + refused == 96
    assert steps > 0
    assert ":transact/cas" in keywords <= {":transact/cas", ":fatal-commit-error"}
    assert len(reloads) > 8


async def test_uniqueness_holds_between_writers(store: dict[str, Any]) -> None:
    async with Strangers(store) as one, Strangers(store) as two:
        await one.transact([{":name": "Ada"}])
        with pytest.raises(TransactionError) as caught:
            await two.transact([{":name": "Ada"}])
        assert caught.value.error == ":transact/unique"
        await two.transact([{":name": "Bob"}])
        with pytest.raises(TransactionError):
            await one.transact([{":name": "Bob"}])


async def test_a_bulk_load_in_a_lost_race_is_run_again(store: dict[str, Any]) -> None:
    async with Strangers(store) as one, Strangers(store) as two:
        await one.transact([{":name": "Ada"}])
        await two.transact([{":counter": i} for i in range(2000)])
        await one.transact([{":counter": -i} for i in range(1, 2000)])
        await two.transact([{":name": "Bob"}])
        # 2000, 1999 and the one there was.
        assert len(await two.db().datoms("aevt", ":counter")) == 4000


async def test_a_group_run_again_may_have_a_bulk_load_in_its_middle(store: dict[str, Any]) -> None:
    """What was refused before the race, a bulk load here, is right after it; others follow it."""
    late = {":db/ident": ":late", ":db/valueType": ":db.type/long"}
    late[":db/cardinality"] = ":db.cardinality/one"
    one_group = Limits(group_seconds=60)  # on a busy machine, too
    async with Strangers(store, limits=one_group) as one, Strangers(store) as two:
        await two.transact([late])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.transact, [{":name": "before"}])
            tasks.start_soon(one.transact, [{":late": i} for i in range(2000)])
            tasks.start_soon(one.transact, [{":name": "after"}])
        assert len(await one.db().datoms("aevt", ":late")) == 2000
        assert {x.v for x in await one.db().datoms("aevt", ":name")} == {"before", "after"}
    async with d.connect(store=store) as conn:
        assert len(await conn.db().datoms("aevt", ":late")) == 2000
        assert {x.v for x in await conn.db().datoms("aevt", ":name")} == {"before", "after"}


async def test_an_exclusive_writer_is_closed_by_another(store: dict[str, Any]) -> None:
    options = {"writer": {":writer-ownership": ":exclusive"}}
    async with Strangers(store, **options) as one, Strangers(store) as two:
        await one.transact([{":name": "Ada"}])
        await two.transact([{":name": "Bob"}])
        with pytest.raises(WriterFenced):
            await one.transact([{":name": "Cid"}])
        with pytest.raises(WriterError) as caught:
            await one.transact([{":name": "Dan"}])
        assert caught.value.error == ":writer-shut-down"
        await two.transact([{":name": "Cid"}])


async def test_races_are_lost_a_bounded_number_of_times(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone always commits between our reading of the head and our publication.

    Where there are turns it is one who does not wait for them.
    """
    patient = {":head-conflict-retries": 3}
    if store["backend"] in ("file", "lmdb"):
        store = {**store, "lock-seconds": 0.02}
    async with Strangers(store, writer=patient) as one, Strangers(store) as rival:
        publish = committers.Committer.publish
        rivals = 0

        async def overtaken(self: Any, entries: Any) -> Any:
            nonlocal rivals
            if self is one._transactor.branch.committer:
                rivals += 1
                await rival.transact([{":name": f"rival {rivals}"}])
            return await publish(self, entries)

        monkeypatch.setattr(committers.Committer, "publish", overtaken)
        with pytest.raises(HeadConflict) as caught:
            await one.transact([{":name": "Ada"}])
        assert caught.value.retryable
        assert rivals == 4
        monkeypatch.undo()
        await one.transact([{":name": "Ada"}])


async def test_a_head_that_vanished_ends_the_writer(store: dict[str, Any]) -> None:
    async with d.connect(store=store) as conn:
        opened = await stores.connect_store(store)
        await opened.dissoc("head/db")
        await stores.release_store(opened)
        for _ in range(2):
            with pytest.raises(WriterError, match=r"vanished.*Nothing was written") as caught:
                await conn.transact([{":name": "Ada"}])
            # The store refused it, so there is no doubt.
            assert caught.value.error == ":writer-shut-down"


async def test_a_turn_brings_what_others_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for turns starts no further thread to read what is new."""
    store = {"backend": "file", "path": str(tmp_path / "db"), "id": uuid4()}
    await d.create_database(store=store, initial_tx=COUNTER)
    async with Strangers(store) as one, Strangers(store) as two:
        order = one._transactor.order
        order.waits = True

        async def read_journal(*_: Any) -> Any:
            raise AssertionError("it was read once more")

        monkeypatch.setattr(one._transactor.branch.store.blobs, "read_journal", read_journal)
        for i in range(5):
            await two.transact([{":name": f"two {i}"}])
            await one.transact([{":name": f"one {i}"}])
        assert (order.waits, order.conflicts) == (True, 0)
        found = await one.db().datoms("aevt", ":name")
        assert len(found) == 10


async def test_a_writer_that_cannot_queue_waits_for_those_who_can(tmp_path: Path) -> None:
    behind = {"backend": "file", "path": str(tmp_path / "db"), "id": uuid4()}
    store = {
        "backend": "tiered",
        "id": behind["id"],
        "write-policy": "write-behind",
        "frontend-config": {"backend": "memory"},
        "backend-config": behind,
    }
    await d.create_database(store=store, initial_tx=COUNTER)
    async with d.connect(store=store, limits=SMALL) as conn, anyio.create_task_group() as tasks:
        assert not conn._transactor.branch.store.capabilities.turns
        other = await stores.connect_store(behind)
        taken = anyio.Event()

        async def have_turns() -> None:
            for _ in range(8):
                async with other.turn(conn._transactor.branch.committer.key) as turn:
                    assert turn.held
                    taken.set()
                    await anyio.sleep(0.05)

        tasks.start_soon(have_turns)
        await taken.wait()
        # As much as makes it flush several times.
        for i in range(40):
            await conn.transact([{":name": f"n{i}-{j}"} for j in range(10)])
        tasks.cancel_scope.cancel()
    await other.release()
    async with d.connect(store=store) as conn:
        assert len(await conn.db().datoms("aevt", ":name")) == 400


async def test_writers_in_threads(tmp_path: Path) -> None:
    """The same with real concurrency: four event loops in four threads on one file store."""
    store = {"backend": "file", "path": str(tmp_path / "threads"), "id": uuid4()}
    await d.create_database(store=store, initial_tx=COUNTER)

    def work(k: int) -> None:
        async def main() -> None:
            async with d.connect(store=store, limits=SMALL) as conn:
                for i in range(25):
                    while True:
                        try:
                            await conn.transact([{":name": f"{k}-{i}"}])
                            break
                        except HeadConflict:
                            await anyio.sleep(0.005)

        anyio.run(main, backend=("asyncio", "trio")[k % 2])

    async with anyio.create_task_group() as tasks:
        for k in range(4):
            tasks.start_soon(anyio.to_thread.run_sync, work, k)
    async with d.connect(store=store) as conn:
        found = [x.v for x in await conn.db().datoms("aevt", ":name")]
    assert sorted(found) == sorted(f"{k}-{i}" for k in range(4) for i in range(25))


async def test_sync_shows_what_others_committed(store: dict[str, Any]) -> None:
    async with Strangers(store) as one, Strangers(store) as two:
        await one.transact([{":name": "Ada"}])
        stale = two.db()
        assert not await stale.datoms("aevt", ":name")
        fresh = await two.sync()
        assert [x.v for x in await fresh.datoms("aevt", ":name")] == ["Ada"]
        assert two.db() == fresh
        assert not await stale.datoms("aevt", ":name")
        assert await two.sync() is two.db()
        async with anyio.create_task_group() as tasks:
            for i in range(5):
                tasks.start_soon(two.transact, [{":name": f"n{i}"}])
                tasks.start_soon(one.sync)
        assert len(await (await one.sync()).datoms("aevt", ":name")) == 6


async def test_sync_of_a_vanished_head_fails_and_the_writer_lives(store: dict[str, Any]) -> None:
    async with d.connect(store=store) as conn:
        opened = await stores.connect_store(store)
        value = await opened.get("head/db")
        await opened.dissoc("head/db")
        with pytest.raises(DatahikeError, match="vanished"):
            await conn.sync()
        await opened.assoc("head/db", value)
        await stores.release_store(opened)
        await conn.sync()
        await conn.transact([{":name": "Ada"}])


async def test_a_writer_far_behind_catches_up(store: dict[str, Any], reloads: list[int]) -> None:
    """What was refused was not written, also where the head no longer remembers the time before."""
    async with Strangers(store, limits=SMALL) as idle, Strangers(store, limits=SMALL) as busy:
        for i in range(RECENT + 20):
            await busy.transact([{":name": f"busy{i}"}])
        before = len(reloads)
        await idle.transact([{":name": "idle"}])
        # More than one where a flush of the busy one came between.
        assert len(reloads) > before
        assert len(await idle.db().datoms("aevt", ":name")) == RECENT + 21


async def test_a_refresh_replays_what_is_new_alone(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Strangers(store) as writer, Strangers(store) as reader:
        for i in range(10):
            await writer.transact([{":name": f"a{i}"}])
        await reader.sync()
        replayed: list[int] = []
        decoded: list[bytes] = []
        extend, decode_record = branches.extend, opening.decode_record

        def noted(data: bytes, where: str) -> Any:
            decoded.append(data)
            return decode_record(data, where)

        monkeypatch.setattr(opening, "decode_record", noted)

        async def counted(snapshot: Any, records: Any, *rest: Any) -> Any:
            replayed.append(len(records))
            return await extend(snapshot, records, *rest)

        monkeypatch.setattr(branches, "extend", counted)
        held = reader.db()
        await reader.sync()
        assert replayed == []
        await writer.transact([{":name": "b"}, {":db/id": 100, ":counter": 5}])
        await writer.transact([[":db/retract", 100, ":counter", 5]])
        decoded.clear()
        await reader.sync()
        assert (replayed, len(decoded)) == ([2], 2)
        assert len(await reader.db().datoms("aevt", ":name")) == 11
        assert await reader.db().datoms("eavt", 100, ":counter") == []
        assert len(await held.datoms("aevt", ":name")) == 10
        # Its own transactions go on from there.
        await reader.transact([{":name": "c"}])
        await writer.sync()
        assert len(await writer.db().datoms("aevt", ":name")) == 12


async def test_an_exclusive_writer_is_fenced_by_a_flush_too(store: dict[str, Any]) -> None:
    mine = Strangers(store, writer={":writer-ownership": ":exclusive"})
    async with mine as owner, Strangers(store) as other:
        await owner.transact([{":name": "a"}])
        actor = owner._transactor
        prepared = await actor.branch.prepare_flush()
        await other.transact([{":name": "b"}])
        actor.flushing.written(prepared)
        actor.mailbox.wake()
        with anyio.fail_after(10):
            while actor.fatal is None:
                await anyio.sleep(0.01)
        assert isinstance(actor.fatal, WriterFenced)
        with pytest.raises(WriterError):
            await owner.transact([{":name": "c"}])
    async with d.connect(store=store) as conn:
        assert {x.v for x in await conn.db().datoms("aevt", ":name")} == {"a", "b"}


async def test_a_refresh_that_the_release_overtakes_is_answered(store: dict[str, Any]) -> None:
    async with Strangers(store) as conn:
        actor = conn._transactor
        await conn.release()
        with anyio.fail_after(10), pytest.raises(ConnectionClosed):
            await actor.refresh()
