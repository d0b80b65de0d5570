"""Databases to copy, and whether a copy is the same."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

import datahike_async as d
from datahike_async.env import SYSTEM
from datahike_async.konserve import opening as stores
from datahike_async.konserve.store import Store
from datahike_async.storage import backup as copying
from datahike_async.storage.branches.read import read_branch
from datahike_async.transactor.limits import Limits

SMALL = Limits(flush_rows=60, flush_bytes=8_000, flush_journal_bytes=8_000, close_rows=1)
SCHEMA = """
[{:db/ident :n :db/valueType :db.type/string :db/cardinality :db.cardinality/one :db/index true}
 {:db/ident :k :db/valueType :db.type/long :db/cardinality :db.cardinality/many}]
"""


async def grow(conn: d.Connection, start: int, count: int) -> None:
    for i in range(start, start + count):
        rows = [{":n": f"{i} {j}", ":k": [i, j, i + j]} for j in range(12)]
        known = [x.e for x in await conn.db().datoms("avet", ":n")][:1]
        await conn.transact([*rows, *([":db/retractEntity", e] for e in known)])


async def source(config: dict[str, Any], count: int = 6) -> None:
    """Make a database with two branches, several checkpoints and records behind the last."""
    async with d.connect(config, create=True, limits=SMALL) as conn:
        await conn.transact(SCHEMA)
        await grow(conn, 0, count)
        await d.branch(conn, ":db", ":other")
        async with d.connect(config, branch=":other", limits=SMALL) as other:
            await grow(other, 100, 2)
        await grow(conn, count, 2)


def memory() -> dict[str, Any]:
    return {"store": {"backend": "memory", "id": uuid4()}}


def in_file(folder: Path, name: str) -> dict[str, Any]:
    return {"store": {"backend": "file", "path": str(folder / name)}}


async def assert_same(left: dict[str, Any], right: dict[str, Any]) -> int:
    """Compare all branches and all their commits; return how many commits there are."""
    count = 0
    async with d.connect(left) as ours, d.connect(right) as theirs:
        assert await d.branches(ours) == await d.branches(theirs)
        for branch in sorted(await d.branches(ours)):
            async with d.connect(left, branch=branch) as line:
                async for db in d.branch_history(line):
                    copy = await d.commit_as_db(theirs, db.commit_id)
                    assert copy is not None
                    assert await d.diff(db, copy, transactions=True) == ([], [])
                    assert d.parent_commit_ids(copy) == d.parent_commit_ids(db)
                    count += 1
    return count


async def copied_and_grown(config: dict[str, Any], target: dict[str, Any]) -> None:
    await source(config)
    seen: list[tuple[int, int]] = []
    done = await d.backup(config, target, progress=lambda *now: seen.append(now))
    assert done.id == UUID(str(target["store"]["id"]))
    assert done.blobs > 0
    assert done.kept == 0
    assert seen[-1][0] == seen[-1][1]
    assert pickle.loads(pickle.dumps(done)) == done
    assert d.jsonable(done)["commits"][":db"] == str(done.commits[d.kw("db")])
    assert await assert_same(config, target) > 10
    async with d.connect(config, limits=SMALL) as conn:
        await grow(conn, 50, 3)
        await d.delete_branch(conn, ":other")
        await d.branch(conn, ":db", ":new")
    # The last to leave has flushed.
    async with d.connect(config, limits=SMALL) as conn:
        again = await d.backup(conn, target, since=done)
        assert again.commits == {
            d.kw("db"): d.commit_id(conn.db()),
            d.kw("new"): d.commit_id(conn.db()),
        }
        idle = await d.backup(conn, target, since=again)
        assert idle.commits == again.commits
    # What is new alone: nodes that both have are not written again.
    assert 0 < again.bytes < done.bytes
    assert (idle.blobs, idle.bytes) == (0, 0)
    report = await d.verify(target, deep=True)
    assert report.ok, str(report)
    assert report.checkpoints == (await d.verify(config)).checkpoints
    assert await assert_same(config, target) > 10
    # It is a database, and goes its own way: from then on it is no copy.
    async with d.connect(target, limits=SMALL) as copy:
        await grow(copy, 80, 4)
    assert (await d.verify(target, deep=True)).ok
    with pytest.raises(d.DatabaseExists) as refused:
        await d.backup(config, target)
    assert refused.value.error == ":backup/diverged"


async def opened_copy(config: dict[str, Any]) -> Store:
    """Return a store of a copy, made if need be."""
    if await stores.store_exists(config["store"]):
        return await stores.connect_store(config["store"])
    return await stores.create_store({**config["store"], "id": config["store"].get("id", uuid4())})


async def copy_into(config: dict[str, Any], target: Store) -> None:
    from_ = await stores.connect_store(config["store"])
    try:
        there = await read_branch(target, "db", None)
        id_ = target.id or uuid4() if there is None else there.head.base.store
        await copying.copy_store(copying.Copying(from_, target, id_, SYSTEM))
    finally:
        await from_.release()


async def commit_of(config: dict[str, Any]) -> UUID:
    async with d.connect(config) as conn:
        found = d.commit_id(conn.db())
        assert found is not None
        return found
