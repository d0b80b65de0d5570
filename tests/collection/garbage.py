"""A database with garbage in it, collections over broken stores, and what must hold after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import anyio

import datahike_async as d
from datahike_async.config.collecting import Retention
from datahike_async.env import SYSTEM
from datahike_async.index.registry import index_factory
from datahike_async.konserve import opening as stores
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.pins import Watch
from datahike_async.storage.collecting import Collected, Collection
from datahike_async.storage.nodes.store import NodeStore
from datahike_async.transactor.limits import Limits
from tests.indexes import SET

SMALL = Limits(flush_rows=40, flush_bytes=2_000, flush_journal_bytes=4_000, close_rows=10**9)
KEPT = Retention(commits=5)

States = dict[UUID, list[int]]


async def numbers(db: d.Database) -> list[int]:
    return sorted(x.v for x in await db.datoms("aevt", ":n"))


async def settled(conn: d.Connection) -> None:
    """Wait until no flush is under way, nor one waits to be published."""
    flushing = conn._transactor.flushing
    await conn.sync()
    while not flushing.at_rest:
        await anyio.sleep(0.001)
        await conn.sync()


async def grown(config: Mapping[str, Any], count: int = 40) -> States:
    """Make a database with branches, one of which is deleted; return every commit's state."""
    states: States = {}

    async def write(conn: d.Connection, numbers_: range) -> None:
        for n in numbers_:
            report = await conn.transact([{":n": n, ":text": "x" * 200}])
            commit = d.commit_id(report.db_after)
            assert commit is not None
            states[commit] = await numbers(report.db_after)
        await settled(conn)

    async with d.connect(config, create=True, limits=SMALL) as main:
        await write(main, range(count))
        await d.branch(main, ":db", ":side")
        await d.branch(main, ":db", ":dead")
        for name in ("side", "dead"):
            async with d.connect({**config, "branch": name}, limits=SMALL) as conn:
                await write(conn, range(1000, 1000 + count // 2))
        await d.delete_branch(main, ":dead")
        await write(main, range(count, count + 10))
    return states


async def collected(
    config: Mapping[str, Any],
    wrap: Callable[[Any], Any] = lambda blobs: blobs,
    keep: Retention = KEPT,
) -> Collected:
    """Collect as a process of its own does, over a store that may be wrapped."""
    store = await stores.connect_store(dict(config["store"]))
    opened = store.blobs
    try:
        store.blobs = wrap(opened)
        return await collection(store, keep, index=index_of(config)).run()
    finally:
        store.blobs = opened
        with anyio.CancelScope(shield=True):
            await stores.release_store(store)


def index_of(config: Mapping[str, Any]) -> str:
    return str(config.get("index", SET["index"])).removeprefix(":")


def collection(
    store: Store,
    keep: Retention = KEPT,
    *,
    index: str = index_of(SET),
    dry_run: bool = False,
) -> Collection:
    factory = index_factory(index)
    source = NodeStore(store, factory.decode, 2**20)
    return Collection(store, source, factory, keep, SYSTEM, Watch(), dry_run=dry_run)


async def verify(config: Mapping[str, Any], states: States) -> int:
    """Check that each commit is what it was or has expired, and the newest is there; count them."""
    there = 0
    for name in ("db", "side"):
        async with d.connect({**config, "branch": name}) as conn:
            newest = conn.db()
            assert newest.commit_id is not None
            assert await numbers(newest) == states[newest.commit_id]
    async with d.connect(config) as conn:
        for commit, expected in states.items():
            try:
                db = await d.commit_as_db(conn, commit)
                if db is not None:
                    assert await numbers(db) == expected
                    there += 1
            except d.SnapshotExpired:
                continue
    return there


def fresh(store: Mapping[str, Any] | None = None, **index: Any) -> dict[str, Any]:
    return {
        **index,
        "store": dict(store or {"backend": "memory", "id": uuid4()}),
        "schema_flexibility": "read",
    }
