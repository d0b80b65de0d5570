"""Collection of garbage: what is retained stays readable, and the rest goes."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits

pytestmark = pytest.mark.anyio

SMALL = Limits(flush_rows=40, flush_bytes=2_000, flush_journal_bytes=4_000, close_rows=10**9)


async def numbers(db: d.Database) -> list[int]:
    return sorted(x.v for x in await db.datoms("aevt", ":n"))


async def blobs(conn: d.Connection) -> int:
    store = conn._transactor.branch.store
    return sum([len(page) async for page in store.blobs.names()])


async def settled(conn: d.Connection) -> None:
    """Wait until no flush is under way, nor one waits to be published."""
    flushing = conn._transactor.flushing
    await conn.sync()
    while not flushing.at_rest:
        await anyio.sleep(0.001)
        await conn.sync()


@pytest.mark.parametrize("keep_history", [True, False])
async def test_what_is_retained_can_be_read_and_the_rest_is_gone(
    config: dict[str, Any], keep_history: bool
) -> None:
    async with d.connect(config, keep_history=keep_history, create=True, limits=SMALL) as conn:
        states: list[tuple[Any, list[int]]] = []
        for i in range(200):
            report = await conn.transact([{":n": i, ":text": "x" * 100}])
            states.append((d.commit_id(report.db_after), list(range(i + 1))))
        await settled(conn)
        before = await blobs(conn)
        told = await d.gc_storage(conn, retain={"commits": 20}, dry_run=True)
        assert await blobs(conn) == before
        done = await d.gc_storage(conn, retain={"commits": 20})
        assert done.freed > 0
        assert done.bytes > 0
        assert await blobs(conn) < before
        assert done.kept == done.listed - done.freed
        assert told.freed > 0
        floor = done.branches[d.kw("db")].since_tx
        expired = 0
        for commit, numbers_ in states:
            try:
                db = await d.commit_as_db(conn, commit)
            except d.SnapshotExpired as error:
                assert error.error == ":snapshot/expired"
                expired += 1
                continue
            assert db is not None
            assert db.max_tx >= floor
            assert await numbers(db) == numbers_
        assert 0 < expired <= 180
        again = await d.gc_storage(conn, retain={"commits": 20})
        assert again.freed < done.freed
        for i in range(200, 300):
            await conn.transact([{":n": i}])
        assert await numbers(conn.db()) == list(range(300))
    async with d.connect(config, limits=SMALL) as conn:
        assert await numbers(conn.db()) == list(range(300))
        await d.gc_storage(conn, retain={"commits": 1})
        assert await numbers(conn.db()) == list(range(300))
        line = [db async for db in d.branch_history(conn)]
        assert line[0] == conn.db()


async def test_what_was_collected_is_verified_as_whole(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=SMALL) as conn:
        for i in range(200):
            await conn.transact([{":n": i, ":text": "x" * 100}])
        await d.branch(conn, ":db", ":side")
        async with d.connect({**config, "branch": "side"}, limits=SMALL) as side:
            for i in range(100):
                await side.transact([{":n": i, ":text": "x" * 100}])
            await settled(side)
        await settled(conn)
        async with d.pin(conn):
            for i in range(200, 300):
                await conn.transact([{":n": i, ":text": "x" * 100}])
            await settled(conn)
            await d.gc_storage(conn, retain={"commits": 20})
            report = await d.verify(conn, deep=True)
            assert report.ok, report
        await d.gc_storage(conn, retain={"commits": 20})
        report = await d.verify(conn, deep=True)
        assert report.ok, report
