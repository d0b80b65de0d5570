"""Following a branch, and waiting for a basis: every transaction once, in order, whose ever."""

from __future__ import annotations

import json
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from tests.stores import on
from tests.test_log import SMALL, Told, of, told, transaction

pytestmark = pytest.mark.anyio

WRITER = """
import sys, anyio
import datahike_async as d

async def main():
    async with d.connect({"store": {"backend": "file", "path": sys.argv[1]}}) as conn:
        for n in range(int(sys.argv[2])):
            await conn.transact([{":there": n}])

anyio.run(main)
"""


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    store = {"backend": "file", "id": uuid4(), "path": str(tmp_path / "db")}
    return {"store": store, "schema_flexibility": "read"}


async def first(changes: Any, count: int) -> list[Any]:
    with anyio.fail_after(30):
        return [await anext(changes) for _ in range(count)]


@pytest.mark.parametrize("seed", range(2))
async def test_followers_that_crash_and_resume_get_each_transaction_once(
    config: dict[str, Any], seed: int
) -> None:
    rng = random.Random(seed)
    known: list[Told] = []
    over = anyio.Event()
    await d.create_database(config)

    async def write(conn: d.Connection) -> None:
        for n in range(60):
            known.append(told(await conn.transact(transaction(rng))))
            if n % 20 == 19:
                await d.gc_storage(conn, remove_before=known[-5][0])
            if rng.random() < 0.2:
                await anyio.sleep(0.005)
        over.set()

    async def follow(conn: d.Connection, seed: int, out: list[Told]) -> None:
        chance, last = random.Random(seed), None
        while not (over.is_set() and len(out) == len(known)):
            # As after a crash: nothing is left but what was seen last.
            changes = conn.changes(0 if last is None else last)
            with anyio.move_on_after(chance.choice([0.001, 0.02, 0.2])):
                async for last in changes:
                    assert isinstance(last, d.LogEntry)
                    out.append(of(last))
                    if chance.random() < 0.1:
                        break

    async with d.connect(config, limits=SMALL) as conn, d.connect(config) as other:
        found: list[list[Told]] = [[], [], []]
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write, conn)
                for i, out in enumerate(found):
                    tasks.start_soon(follow, (conn, other)[i % 2], i, out)
    for out in found:
        assert out == known


async def test_what_another_process_commits_comes_too(config: dict[str, Any]) -> None:
    count = 25
    async with d.connect(config, create=True, limits=SMALL) as conn:
        changes, path = conn.changes(every=0.01), config["store"]["path"]
        seen: list[Told] = []

        async def follow() -> None:
            seen.extend(of(entry) for entry in await first(changes, 2 * count))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            tasks.start_soon(anyio.run_process, [sys.executable, "-c", WRITER, path, str(count)])
            for n in range(count):
                await conn.transact([{":here": n}])
        assert seen == [of(entry) async for entry in conn.tx_range()]
        for name in (":here", ":there"):
            told_of = [v for _, datoms in seen for _, a, _, v, _ in datoms if a == name]
            assert told_of == list(range(count))


@pytest.mark.slow
async def test_many_followers_of_many_processes(config: dict[str, Any]) -> None:
    """They crash and resume at random points; each gets every transaction once, in order."""
    processes, count, followers = 4, 200, 20
    over = anyio.Event()

    async def write(path: str) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(processes):
                run = [sys.executable, "-c", WRITER, path, str(count)]
                tasks.start_soon(anyio.run_process, run)
        over.set()

    async def follow(conn: d.Connection, seed: int, out: list[tuple[int, int]]) -> None:
        chance, last = random.Random(seed), None
        while not (over.is_set() and len(out) >= processes * count):
            changes = conn.changes(0 if last is None else last)
            with anyio.move_on_after(chance.choice([0.05, 0.5, 2])):
                async for last in changes:
                    assert isinstance(last, d.LogEntry)
                    out += [(x.tx, x.v) for x in last.datoms if x.a == d.kw("there")]

    async with d.connect(config, create=True) as conn:
        found: list[list[tuple[int, int]]] = [[] for _ in range(followers)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, config["store"]["path"])
            for seed, out in enumerate(found):
                tasks.start_soon(follow, conn, seed, out)
        names = await conn.db().datoms("aevt", ":there")
        assert sorted((x.tx, x.v) for x in names) == found[0]
        assert len(found[0]) == processes * count
        assert all(out == found[0] for out in found)


async def test_they_begin_where_one_says(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=SMALL) as conn:
        reports = [await conn.transact([{":n": n}]) for n in range(40)]
        known = [told(report) for report in reports]
        for since in (reports[20].tx, reports[20].db_after, reports[20].instant):
            assert [of(x) for x in await first(conn.changes(since), 19)] == known[21:]
        (entry,) = await first(d.changes(conn, reports[19].db_after), 1)
        assert [of(x) for x in await first(conn.changes(entry), 19)] == known[21:]
        live = conn.changes()
        with anyio.move_on_after(0.05):
            pytest.fail(f"{await anext(live)} was not there yet")
        report = await conn.transact([{":n": 40}])
        assert [of(x) for x in await first(live, 1)] == [told(report)]


async def test_those_of_some_attributes_alone(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        changes = conn.changes(attributes=[":b", d.kw("c")])
        for n in range(4):
            await conn.transact([{":db/id": 1, ":a": n}])
            await conn.transact([{":db/id": 1, ":a": -n, ":b": n, ":c": n}])
        found = await first(changes, 4)
        assert [[(str(x.a), x.v, x.added) for x in one.datoms] for one in found] == [
            [(":b", 0, True), (":c", 0, True)],
            *(
                [(":b", n - 1, False), (":c", n - 1, False), (":b", n, True), (":c", n, True)]
                for n in (1, 2, 3)
            ),
        ]


async def test_a_beginning_that_was_collected_is_a_reset(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=SMALL, keep_history=False) as conn:
        reports = [await conn.transact([{":db/id": 1, ":n": n}]) for n in range(60)]
        await d.compact(conn)
        assert (await d.gc_storage(conn, remove_before=reports[-1].tx)).freed
    async with d.connect(config, limits=SMALL) as conn:
        for since in (0, reports[3].tx):
            changes = conn.changes(since)
            (reset,) = await first(changes, 1)
            assert isinstance(reset, d.Reset)
            assert (reset.db, reset.ancestor) == (conn.db(), None)
            report = await conn.transact([{":n": 1}])
            assert [of(x) for x in await first(changes, 1)] == [told(report)]


async def test_a_branch_that_was_replaced_is_a_reset(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await d.branch(conn, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial:
            shared = await trial.transact([{":n": 1}])
            await d.branch(trial, ":trial", ":kept")
            changes = trial.changes(0)
            await first(changes, 1)
            await trial.transact([{":n": 2}])
            (last,) = await first(changes, 1)
            await d.force_branch(conn, shared.db_after, ":trial", [":kept"])
            with pytest.raises((d.WriterError, d.DatabaseNotFound)):
                await first(changes, 1)
        async with d.connect(on(config, "trial")) as trial:
            changes = trial.changes(last)
            (reset,) = await first(changes, 1)
            assert isinstance(reset, d.Reset)
            assert reset.db == trial.db()
            said = json.loads(json.dumps(d.jsonable(reset)))
            assert said["commit_id"] == str(reset.db.commit_id)
            report = await trial.transact([{":n": 3}])
            assert [of(x) for x in await first(changes, 1)] == [told(report)]
        # A line that is still there says where the two part.
        async with d.connect(on(config, "kept")) as kept:
            mine = await kept.transact([{":n": 4}])
        async with d.connect(on(config, "trial")) as trial:
            (reset,) = await first(trial.changes(mine.db_after), 1)
            assert reset.ancestor == d.commit_id(shared.db_after)


async def test_what_can_not_be_followed_is_refused(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        for wrong in (3, True, "now", d.empty_db()):
            with pytest.raises(d.ArgumentError) as caught:
                conn.changes(wrong)
            assert caught.value.error == ":temporal/invalid-time-point"
        for attributes in (":a", 5, ["a"], [3]):
            with pytest.raises(d.ArgumentError, match="attribute"):
                conn.changes(attributes=attributes)
        for every in (0, -1, "1", True, float("nan")):
            with pytest.raises(d.ArgumentError, match="every"):
                conn.changes(every=every)
        for basis in (7, "x", conn.db().history(), conn.db().max_tx + 0.5):
            with pytest.raises(d.ArgumentError) as caught:
                await conn.sync(basis)
            assert caught.value.error == ":temporal/invalid-time-point"
        changes = conn.changes()
    with pytest.raises(d.ConnectionClosed):
        await anext(changes)


async def test_a_connection_waits_for_a_basis(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        tx = conn.db().max_tx
        got: list[d.Database] = []

        async def wait() -> None:
            got.append(await conn.sync(tx + 2))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await conn.transact([{":n": 1}])
                await anyio.sleep(0.02)
                assert not got
                await conn.transact([{":n": 2}])
            assert [db.max_tx for db in got] == [tx + 2]
            assert await d.sync(conn, conn.db()) == conn.db()
            path = config["store"]["path"]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.run_process, [sys.executable, "-c", WRITER, path, "3"])
                assert (await conn.sync(tx + 5)).max_tx == tx + 5
        with suppress(TimeoutError), anyio.fail_after(0.05):
            await conn.sync(tx + 9)
            pytest.fail("nobody has committed that")
        assert not conn._writer.subscribers
    with pytest.raises(d.ConnectionClosed):
        await conn.sync(tx)
