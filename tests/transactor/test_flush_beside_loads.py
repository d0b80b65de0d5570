"""Runs that are merged while loads go on: what has been merged is taken over, not made again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async import collector
from datahike_async.index.levels import policy
from datahike_async.index.protocol import Order
from datahike_async.storage import flush
from datahike_async.transactor import flushing as module
from datahike_async.transactor.flushing import State

pytestmark = pytest.mark.anyio

NUMBER = {
    ":db/ident": ":n",
    ":db/valueType": ":db.type/long",
    ":db/cardinality": ":db.cardinality/one",
}


@pytest.fixture(autouse=True)
def loads_make_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_LOAD", 0)


class Gate:
    """Holds the first merge of runs when it is done, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held, self.opened = anyio.Event(), anyio.Event()
        self.merges = 0
        merged = flush._merged

        async def gated(*args: Any, **options: Any) -> Any:
            self.merges += 1
            first = self.merges == 1
            out = await merged(*args, **options)
            if first:
                self.held.set()
                await self.opened.wait()
            return out

        monkeypatch.setattr(flush, "_merged", gated)


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [{":n": n} for n in range(first, first + count)]


@asynccontextmanager
async def merging(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Any, Any, Gate, Any]]:
    """Give a database whose runs are being merged: its config, connection, gate, and states."""
    states: list[State] = []
    become = module.Flushing._become

    def noted(self: Any, state: State, prepared: Any = None) -> None:
        states.append(state)
        become(self, state, prepared)

    monkeypatch.setattr(module.Flushing, "_become", noted)
    gate = Gate(monkeypatch)
    config = {"store": {"backend": "memory", "id": uuid4()}}
    async with d.connect(config, create=True, initial_tx=[NUMBER]) as conn:
        await conn.transact(rows(0, 3000))
        await conn.transact(rows(3000, 2000))
        with anyio.fail_after(30):
            await gate.held.wait()
        yield config, conn, gate, states


async def at_rest(conn: Any) -> None:
    with anyio.fail_after(30):
        while not conn._transactor.flushing.at_rest:
            await anyio.sleep(0.001)


async def numbers(db: Any) -> list[int]:
    return sorted(x.v for x in await db.datoms("aevt", ":n"))


async def test_what_was_merged_is_put_under_runs_that_came_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with merging(monkeypatch) as (config, conn, gate, states):
        before = conn.db()
        await conn.transact(rows(5000, 1500))
        # It fits a memtable, which is laid over.
        report = await conn.transact(rows(6500, 10))
        gate.opened.set()
        await at_rest(conn)
        assert states[-2:] == [State.WRITTEN, State.PUBLISHED]
        trees = conn.db().snapshot.trees
        index = trees.current[Order.AEVT]
        assert len(index.base) > 5000
        assert len(index.runs[0]) >= 1500
        assert gate.merges == 1
        assert await numbers(conn.db()) == list(range(6510))
        assert await numbers(before) == list(range(5000))
        then = report.db_after
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == await numbers(then) == list(range(6510))
        assert (await d.verify(config)).ok


async def test_what_has_changed_otherwise_is_not_taken_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with merging(monkeypatch) as (config, conn, gate, states):
        # Another index: the base is another one.
        await conn.transact([{":db/id": ":n", ":db/index": True}])
        gate.opened.set()
        await at_rest(conn)
        assert State.STALE in states
        assert await numbers(conn.db()) == list(range(5000))
        assert len(await conn.db().index_range(":n", 10, 19)) == 10
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == list(range(5000))
        assert (await d.verify(config)).ok


async def test_a_load_waits_for_a_merge_once_there_are_many_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    async with merging(monkeypatch) as (_, conn, gate, states):
        await conn.transact(rows(5000, 1500))
        done = anyio.Event()

        async def load() -> None:
            await conn.transact(rows(6500, 1500))
            done.set()

        async with anyio.create_task_group() as group:
            group.start_soon(load)
            await anyio.wait_all_tasks_blocked()
            waits = not done.is_set()
            gate.opened.set()
            with anyio.fail_after(30):
                await done.wait()
        assert waits
        await at_rest(conn)
        assert State.STALE not in states
        assert await numbers(conn.db()) == list(range(8000))


@pytest.mark.parametrize(("rows_of_runs", "spared"), [(300, False), (3000, True)])
async def test_no_full_collection_comes_while_many_rows_are_merged(
    rows_of_runs: int, spared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush, "_MUCH_ROWS", 2000)
    depths: list[int] = []
    some = flush.Merging.some

    def noted(self: Any, count: int) -> bool:
        depths.append(collector._depth)
        return some(self, count)

    monkeypatch.setattr(flush.Merging, "some", noted)
    config = {"store": {"backend": "memory", "id": uuid4()}}
    async with d.connect(config, create=True, initial_tx=[NUMBER]) as conn:
        await conn.transact(rows(0, 20_000))
        await conn.transact(rows(20_000, rows_of_runs))
        await d.compact(conn)
    assert depths
    assert all(depth > 0 for depth in depths) is spared
