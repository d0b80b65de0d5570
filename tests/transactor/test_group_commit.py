"""How the actor groups, orders and answers; how flushes run beside it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.env import Env
from datahike_async.errors import TransactionError, WriterError
from datahike_async.konserve import opening as stores
from datahike_async.konserve.testing.faults import FaultyBlobStore
from datahike_async.storage import opened as opened_stores
from datahike_async.storage.flush import Merge
from datahike_async.storage.nodes.store import NodeStore
from datahike_async.transactor.transactor import Limits

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    await d.create_database(store=store, schema_flexibility="read")
    return store


async def test_what_waits_together_is_committed_together(store: dict[str, Any]) -> None:
    reports: list[Any] = []

    async def client(conn: d.Connection, n: int) -> None:
        try:
            reports.append(await conn.transact([{":n": n}] if n % 10 else [{":db/id": "x", 3: 4}]))
        except TransactionError:
            refused.append(n)

    refused: list[int] = []
    async with d.connect(store=store) as conn:
        async with anyio.create_task_group() as tasks:
            for n in range(50):
                tasks.start_soon(client, conn, n)
        generation = conn._transactor.branch.committer.generation
    assert sorted(refused) == [0, 10, 20, 30, 40]
    assert len(reports) == 45
    # A few publications for 45 transactions, each of which is a commit on the one before.
    assert generation < 30
    reports.sort(key=lambda report: report.tx)
    assert [r.tx for r in reports] == list(range(reports[0].tx, reports[0].tx + 45))
    line = [reports[0].db_before.commit_id, *(r.db_after.commit_id for r in reports)]
    assert len(set(line)) == 46
    assert [r.db_after.parent_commit_ids for r in reports] == [{c} for c in line[:-1]]
    assert [r.instant for r in reports] == sorted({r.instant for r in reports})
    for i, report in enumerate(reports):
        assert len(await report.db_after.datoms("aevt", ":n")) == i + 1
        assert len(await report.db_before.datoms("aevt", ":n")) == i


async def test_one_task_sees_its_own_writes_in_order(store: dict[str, Any]) -> None:
    async def client(conn: d.Connection, attribute: str) -> None:
        for n in range(20):
            report = await conn.transact([{":db/id": 1, attribute: n}])
            for db in (report.db_after, conn.db()):
                [found] = await db.datoms("eavt", 1, attribute)
                assert found.v == n

    async with d.connect(store=store) as conn, anyio.create_task_group() as tasks:
        for k in range(8):
            tasks.start_soon(client, conn, f":a{k}")


async def test_a_small_mailbox_makes_senders_wait(store: dict[str, Any]) -> None:
    writer = {":transaction-queue-size": 2}
    async with d.connect(store=store, writer=writer) as conn:
        assert conn._transactor.mailbox.limit == 2
        async with anyio.create_task_group() as tasks:
            for n in range(30):
                tasks.start_soon(conn.transact, [{":n": n}])
        assert len(await conn.db().datoms("aevt", ":n")) == 30


async def test_waiting_for_company(store: dict[str, Any]) -> None:
    async with d.connect(store=store, writer={":commit-wait-time": 20}) as conn:
        before = conn._transactor.branch.committer.generation

        async def late(n: int) -> None:
            await anyio.sleep(0.001 * n)
            await conn.transact([{":n": n}])

        async with anyio.create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(late, n)
        assert conn._transactor.branch.committer.generation - before < 5


async def test_a_seed_repeats_a_run(store: dict[str, Any]) -> None:
    async def run() -> list[Any]:
        again = await d.create_database(
            env=Env.seeded(3), schema_flexibility="read", initial_tx=[{":n": 0}]
        )
        out: list[Any] = [again.store["id"]]
        async with d.connect(again, env=Env.seeded(4)) as conn:
            for n in range(5):
                report = await conn.transact([{":n": n}])
                out.append((report.instant, report.db_after.commit_id))
        await d.delete_database(again)
        return out

    assert await run() == await run()


class Gate(FaultyBlobStore):
    """Holds the writing of index nodes back until it is opened."""

    held = 0
    gate: anyio.Event | None = None

    async def write_many(self, writes: Any, *, ordered: bool = True) -> Any:
        if self.gate is not None:
            self.held += 1
            await self.gate.wait()
        return await self.blobs.write_many(writes, ordered=ordered)


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> list[Gate]:
    """The gates of the stores that are opened, in that order."""
    made: list[Gate] = []

    async def connect_store(config: Any, **options: Any) -> stores.Store:
        store = await stores.connect_store(config, **options)
        store.blobs = gate = Gate(store.blobs)
        made.append(gate)
        return store

    monkeypatch.setattr(opened_stores, "connect_store", connect_store)
    return made


async def test_commits_go_on_while_a_flush_writes_until_too_much_gathers(
    store: dict[str, Any], gates: list[Gate], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "datahike_async.transactor")
    limits = Limits(flush_rows=50, close_rows=10**9)
    async with d.connect(store=store, limits=limits) as conn:
        gates[0].gate = anyio.Event()
        done = 0

        async def client() -> None:
            nonlocal done
            while done < 300:
                await conn.transact([{":n": done}])
                done += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client)
            # Past the threshold, and stopped at four times as many rows.
            before, rows = -1, 0
            while before != rows or not gates[0].held:
                await anyio.sleep(0.3)
                before, rows = rows, conn.db().snapshot.n
            assert gates[0].held == 1
            assert 200 < rows < 210
            assert done < 300
            assert "commits waited" not in caplog.text
            gates[0].gate.set()
            gates[0].gate = None
        assert done == 300
        assert len(await conn.db().datoms("aevt", ":n")) == 300
        assert conn.db().snapshot.n < 210
    async with d.connect(store=store) as conn:
        assert len(await conn.db().datoms("aevt", ":n")) == 300
    (told,) = [r for r in caplog.records if getattr(r, "event", "") == "commits waited"][:1]
    assert told.fields["branch"] == "db"
    assert told.fields["seconds"] > 0.05


async def test_only_a_flush_that_merges_runs_fetches_anything(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with d.connect(store=store) as conn:
        await conn.transact([{":db/ident": ":u", ":db/index": True}])
        await conn.transact([{":u": i, ":v": -i} for i in range(30_000)])
    waves: list[int] = []
    fetch = NodeStore.fetch

    async def noted(self: NodeStore, addresses: Any, pin: Any = None) -> None:
        waves.append(len(addresses))
        await fetch(self, addresses, pin)

    async with d.connect(store=store, limits=Limits(close_rows=10**9)) as conn:
        await conn.transact([{":db/id": 1 + 50 * i, ":u": -i, ":v": i} for i in range(500)])
        transactor = conn._transactor
        transactor.branch.source.cache.clear()
        monkeypatch.setattr(NodeStore, "fetch", noted)
        await transactor.branch.prepare_flush()
        # What is new is in runs.
        assert waves == []
        await transactor.branch.prepare_flush(merging=Merge.ALL)
    # Of each order the roots, what is below them, and what the ends of parts reach into.
    assert len(waves) <= 4 * 3
    assert sum(waves) > 50


async def test_deleting_waits_for_what_is_being_written_and_nothing_is_left_of_it(
    store: dict[str, Any], gates: list[Gate]
) -> None:
    async with d.connect(store=store, limits=Limits(flush_rows=50)) as conn:
        gates[0].gate = anyio.Event()
        await conn.transact([{":n": n} for n in range(100)])
        with anyio.fail_after(20):
            while not gates[0].held:
                await anyio.sleep(0.01)
        deleted = anyio.Event()

        async def delete() -> None:
            await d.delete_database(store=store)
            deleted.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete)
            await anyio.sleep(0.1)
            early = deleted.is_set(), not await d.database_exists(store=store)
            gates[0].gate.set()
        assert early == (False, False)
        assert not await d.database_exists(store=store)
        with pytest.raises(WriterError):
            await conn.transact([{":n": 1}])
        # Nobody is waited for who has nothing to write.
        await d.create_database(store=store, schema_flexibility="read")
        with anyio.fail_after(4):
            await d.delete_database(store=store)


async def test_nobody_waits_for_a_flush_when_the_writer_is_handed_over(
    store: dict[str, Any], gates: list[Gate]
) -> None:
    limits = Limits(flush_rows=20, close_rows=10**9)
    async with (
        d.connect(store=store, limits=limits) as first,
        d.connect(store=store, limits=limits) as second,
    ):
        gates[0].gate = anyio.Event()
        for n in range(15):
            await first.transact([{":n": n}])
        with anyio.fail_after(20):
            while not gates[0].held:
                await anyio.sleep(0.001)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.release)
            await anyio.sleep(0.02)
            # The runner that leaves still has a flush to end; commits do not wait for it.
            await second.transact([{":n": 100}])
            gates[0].gate.set()
            gates[0].gate = None
        await second.transact([{":n": 101}])
        assert len(await second.db().datoms("aevt", ":n")) == 17


async def test_whoever_waits_for_room_is_served_before_the_last_one_leaves(
    store: dict[str, Any],
) -> None:
    done: list[int] = []

    async def client(conn: d.Connection, n: int) -> None:
        await conn.transact([{":n": n}])
        done.append(n)

    writer = {":transaction-queue-size": 1}
    async with d.connect(store=store, writer=writer) as conn, anyio.create_task_group() as tasks:
        impatient = anyio.CancelScope()

        async def gives_up() -> None:
            with impatient:
                await client(conn, 99)

        for n in range(20):
            tasks.start_soon(client, conn, n)
            if n == 10:
                tasks.start_soon(gives_up)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        impatient.cancel()
        await conn.release()
    assert set(done) >= set(range(20))
