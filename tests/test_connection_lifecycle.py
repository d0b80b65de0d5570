"""What ends a connection, and what must come through whole: errors, cancellation, hand-over."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
import sniffio

import datahike_async as d
from datahike_async.errors import ConnectionClosed, DatahikeError, WrongEventLoop
from datahike_async.konserve import Store, StoreClosed
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from datahike_async.storage import opened as opened_stores
from datahike_async.transactor import sharing
from datahike_async.transactor.transactor import Limits

pytestmark = pytest.mark.anyio

SMALL = Limits(flush_rows=40, flush_bytes=2_000, flush_journal_bytes=4_000, close_rows=10)


@pytest.fixture(params=["memory", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    await d.create_database(store=store, schema_flexibility="read")
    return store


async def numbers(conn: d.Connection) -> list[int]:
    return sorted(datom.v for datom in await conn.db().datoms("aevt", ":n"))


def assert_nothing_leaked() -> None:
    assert not sharing._registry().live
    if sniffio.current_async_library() == "asyncio":
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


class Mine(Exception):
    pass


async def test_an_exception_of_the_block_comes_out_bare(store: dict[str, Any]) -> None:
    async def block() -> None:
        async with d.connect(store=store) as conn:
            await conn.transact([{":n": 1}])
            raise Mine

    with pytest.raises(Mine) as caught:
        await block()
    assert type(caught.value) is Mine
    await anyio.sleep(0.001)
    assert_nothing_leaked()
    async with d.connect(store=store) as conn:
        assert await numbers(conn) == [1]


async def test_cancelling_the_block_ends_the_connection(store: dict[str, Any]) -> None:
    with anyio.CancelScope() as scope:
        async with d.connect(store=store) as conn:
            await conn.transact([{":n": 1}])
            scope.cancel()
            await anyio.sleep(10)
    assert scope.cancelled_caught
    await anyio.sleep(0.001)
    assert_nothing_leaked()
    async with d.connect(store=store) as conn:
        assert await numbers(conn) == [1]


async def test_a_timeout_outside_wins_over_nothing_else(store: dict[str, Any]) -> None:
    async def block() -> None:
        with anyio.fail_after(0.02):
            async with d.connect(store=store):
                await anyio.sleep(10)

    with pytest.raises(TimeoutError):
        await block()
    await anyio.sleep(0.001)
    assert_nothing_leaked()


async def test_an_error_raised_while_the_block_is_cancelled_is_kept(store: dict[str, Any]) -> None:
    async def block() -> None:
        with anyio.CancelScope() as scope:
            async with d.connect(store=store):
                try:
                    scope.cancel()
                    await anyio.sleep(10)
                finally:
                    raise Mine

    with pytest.raises(Mine):
        await block()
    await anyio.sleep(0.001)
    assert_nothing_leaked()


async def test_connections_of_one_loop_share_a_writer(store: dict[str, Any]) -> None:
    async with d.connect(store=store) as one, d.connect(store=store) as two:
        assert one._transactor is two._transactor
        await one.transact([{":n": 1}])
        assert await numbers(two) == [1]
        await two.release()
        await one.transact([{":n": 2}])
    assert_nothing_leaked()


async def test_the_writer_is_handed_over_under_load(store: dict[str, Any]) -> None:
    """Connections come and go in every order while all of them transact."""
    acknowledged: list[int] = []
    counter = iter(range(10**6))
    rng = random.Random(5)

    async def user(pauses: list[float]) -> None:
        async with d.connect(store=store, limits=SMALL) as conn:
            for pause in pauses:
                n = next(counter)
                await conn.transact([{":n": n}])
                acknowledged.append(n)
                await anyio.sleep(pause)

    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            pauses = [rng.choice((0, 0, 0.001)) for _ in range(rng.randrange(3, 25))]
            tasks.start_soon(user, pauses)
            await anyio.sleep(rng.choice((0, 0.001)))
    assert_nothing_leaked()
    async with d.connect(store=store) as conn:
        assert await numbers(conn) == sorted(acknowledged)


async def test_the_first_connection_may_leave_with_work_in_flight(store: dict[str, Any]) -> None:
    async with d.connect(store=store, limits=SMALL) as staying:
        async with anyio.create_task_group() as tasks:

            async def work(i: int) -> None:
                await staying.transact([{":n": i}])

            async with d.connect(store=store, limits=SMALL):
                for i in range(50):
                    tasks.start_soon(work, i)
                await anyio.lowlevel.checkpoint()
        assert await numbers(staying) == list(range(50))


async def test_what_was_sent_before_the_release_is_committed(store: dict[str, Any]) -> None:
    async with d.connect(store=store) as conn, anyio.create_task_group() as tasks:
        for i in range(30):
            tasks.start_soon(conn.transact, [{":n": i}])
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        await conn.release()
    async with d.connect(store=store) as conn:
        found = await numbers(conn)
        assert found == list(range(30))


@pytest.mark.parametrize("seed", range(4))
async def test_a_storm_of_cancellations(store: dict[str, Any], seed: int) -> None:
    """Acknowledged is a subset of recovered, recovered of attempted; each one is whole."""
    rng = random.Random(seed)
    attempted: set[int] = set()
    acknowledged: set[int] = set()

    async def user(conn: d.Connection, n: int, patience: float) -> None:
        with anyio.move_on_after(patience):
            attempted.add(n)
            await conn.transact([{":n": n, ":twin": n}])
            acknowledged.add(n)

    with anyio.move_on_after(rng.choice((0.05, 10))):
        async with (
            d.connect(store=store, limits=SMALL) as conn,
            anyio.create_task_group() as tasks,
        ):
            for n in range(120):
                tasks.start_soon(user, conn, n, rng.choice((0, 0.0005, 0.002, 1)))
                if rng.random() < 0.3:
                    await anyio.lowlevel.checkpoint()
    assert_nothing_leaked()
    async with d.connect(store=store) as conn:
        found = await numbers(conn)
        assert acknowledged <= set(found) <= attempted
        assert len(found) == len(set(found))
        assert sorted(x.v for x in await conn.db().datoms("aevt", ":twin")) == found


async def test_a_cancelled_sender_does_not_undo(store: dict[str, Any]) -> None:
    async with d.connect(store=store) as conn:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await conn.transact([{":n": 1}])
        await conn.transact([{":n": 2}])
        assert await numbers(conn) == [1, 2]


async def test_two_event_loops_do_not_share(store: dict[str, Any]) -> None:
    """A connection of another thread's loop is another writer; compare-and-set keeps both right."""

    def elsewhere() -> None:
        async def main() -> None:
            async with d.connect(store=store) as conn:
                await conn.transact([{":n": 2}])

        anyio.run(main)

    async with d.connect(store=store) as conn:
        await conn.transact([{":n": 1}])
        await anyio.to_thread.run_sync(elsewhere)
        await conn.transact([{":n": 3}])
        assert await numbers(conn) == [1, 2, 3]


async def test_deleting_an_open_database_fails_its_writers(store: dict[str, Any]) -> None:
    async with d.connect(store=store) as conn:
        await conn.transact([{":n": 1}])
        await d.delete_database(store=store)
        with pytest.raises(DatahikeError) as caught:
            await conn.transact([{":n": 2}])
        assert caught.value.error == ":writer-shut-down"
    assert not await d.database_exists(store=store)


async def test_a_connection_belongs_to_its_event_loop(store: dict[str, Any]) -> None:
    async with d.connect(store=store) as conn:
        await conn.transact([{":n": 1}])

        async def elsewhere() -> int:
            with pytest.raises(WrongEventLoop, match="another thread"):
                await conn.transact([{":n": 2}])
            # Values have no loop.
            return conn.db().max_tx

        there = await anyio.to_thread.run_sync(anyio.run, elsewhere)
        assert there == conn.db().max_tx


async def test_a_value_that_outlives_its_connection_says_so_on_a_miss(
    store: dict[str, Any],
) -> None:
    async with d.connect(store=store, limits=Limits(close_rows=1)) as conn:
        await conn.transact([{":n": n} for n in range(3000)])
    async with d.connect(store=store) as conn:
        cold = conn.db()
    with pytest.raises(ConnectionClosed):
        await cold.datoms("aevt", ":n")


class Leisurely(PassingBlobStore):
    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        await super().close()


async def test_opening_that_is_cancelled_closes_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = {"backend": "file", "path": str(tmp_path / "db")}
    await d.create_database(store=store, schema_flexibility="read")
    opened: list[Store] = []
    connect_store, read_branch = opened_stores.connect_store, sharing.read_branch

    async def connecting(*arguments: Any, **options: Any) -> Store:
        opened.append(await connect_store(*arguments, **options))
        opened[-1].blobs = Leisurely(opened[-1].blobs)
        return opened[-1]

    async def reading(*arguments: Any) -> Any:
        state = await read_branch(*arguments)
        scope.cancel()
        return state

    monkeypatch.setattr(opened_stores, "connect_store", connecting)
    monkeypatch.setattr(sharing, "read_branch", reading)
    with anyio.CancelScope() as scope:
        await d.connect(store=store)
    assert scope.cancelled_caught
    assert len(opened) == 1
    with pytest.raises(StoreClosed):
        await opened[0].get("anything")
    assert_nothing_leaked()


async def test_a_folder_is_one_place_however_it_is_written(tmp_path: Path) -> None:
    store = {"backend": "file", "path": str(tmp_path / "db")}
    await d.create_database(store=store, schema_flexibility="read")
    (tmp_path / "link").symlink_to(tmp_path / "db")
    async with d.connect(store=store) as one:
        for path in (tmp_path / "." / "x" / ".." / "db", tmp_path / "link"):
            async with d.connect(store={**store, "path": str(path)}) as two:
                assert one._transactor is two._transactor


async def test_a_release_that_is_cancelled_while_commits_are_under_way_still_gives_back(
    store: dict[str, Any], anyio_backend: str
) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("Task.cancel() is asyncio's")
    cancelled = 0
    for turns in range(20):
        other = await d.connect(store=store)
        conn = await d.connect(store=store)
        commit = asyncio.create_task(other.transact([{":n": turns}]))
        for _ in range(turns):
            await asyncio.sleep(0)
        releasing = asyncio.create_task(conn.release())
        await asyncio.sleep(0)
        releasing.cancel()
        try:
            await releasing
        except asyncio.CancelledError:
            cancelled += 1
        await commit
        await other.release()
        assert_nothing_leaked()
    assert cancelled


async def test_a_release_that_is_cancelled_still_waits_for_its_listeners(
    store: dict[str, Any], anyio_backend: str
) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("Task.cancel() is asyncio's")
    heard: list[int] = []

    async def listener(report: d.TxReport) -> None:
        await asyncio.sleep(0.05)
        heard.append(report.tx)

    conn = await d.connect(store=store)
    conn.listen(listener)
    await conn.transact([{":n": 1}])
    releasing = asyncio.create_task(conn.release())
    for _ in range(2):
        await asyncio.sleep(0.01)
        releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing
    assert heard


async def test_a_transaction_whose_text_is_being_read_while_its_connection_is_released_fails(
    store: dict[str, Any],
) -> None:
    conn = await d.connect(store=store)
    text = "[" + '{:n 1 :text "' + "x" * 200_000 + '"}' + "]"

    async def send() -> None:
        with pytest.raises(ConnectionClosed, match="released"):
            await conn.transact(text)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.lowlevel.checkpoint()
            await conn.release()
