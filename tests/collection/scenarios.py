"""What others do between two steps of a collection.

A scenario is what happens at a step; it fails by an assertion or an error where something that was
promised is not there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import anyio
import pytest

import datahike_async as d
from datahike_async import collection as verbs
from datahike_async.config.collecting import Retention
from datahike_async.konserve import opening as stores
from datahike_async.storage import collecting
from datahike_async.storage.branches import branching, tagging
from datahike_async.storage.branches.read import read_branch, read_head
from datahike_async.transactor.limits import Limits
from tests.collection.garbage import collection, index_of, numbers

NEVER = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=10**9)
ONE = Retention(commits=1)

Step = Callable[[], Awaitable[None]]


async def nothing() -> None:
    pass


@asynccontextmanager
async def elsewhere(config: dict[str, Any]):  # type: ignore[no-untyped-def]
    store = await stores.connect_store(dict(config["store"]))
    try:
        yield store
    finally:
        await stores.release_store(store)


async def collect(
    config: dict[str, Any],
    *,
    listed: Step = nothing,
    begun: Step = nothing,
    marked: Step = nothing,
    keep: Retention = ONE,
) -> collecting.Collected:
    """Collect as another process, with steps of others in between.

    ``listed``: before the epoch begins; ``begun``: before the heads are told; ``marked``: before
    anything is removed.
    """
    real = collecting.Collection

    class Staged(real):  # type: ignore[misc, valid-type]
        async def _fenced(self) -> Any:
            await listed()
            return await super()._fenced()

        async def _mark(self, *arguments: Any) -> Any:
            await begun()
            return await super()._mark(*arguments)

        async def _sweep(self, *arguments: Any) -> Any:
            await marked()
            return await super()._sweep(*arguments)

    async with elsewhere(config) as store:
        run = collection(store, keep, index=index_of(config))
        run.__class__ = Staged
        return await run.run()


async def flushed(conn: d.Connection, numbers_: range) -> UUID:
    """Write, flush, and return the newest commit."""
    for n in numbers_:
        await conn.transact([{":n": n, ":text": "x" * 300}])
    transactor = conn._transactor
    transactor.flushing.written(await transactor.branch.prepare_flush())
    await conn.sync()
    commit = d.commit_id(conn.db())
    assert commit is not None
    return commit


def on(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {**config, "branch": name}


# -- scenarios -----------------------------------------------------------------------------------


async def a_flush_that_is_prepared(config: dict[str, Any]) -> None:
    """It was written before the collection listed the store, and is published in its midst."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(50))
        for n in range(50, 80):
            await conn.transact([{":n": n}])
        transactor = conn._transactor
        prepared = await transactor.branch.prepare_flush()

        async def publish() -> None:
            await conn.sync()  # it learns of the collection by itself
            transactor.flushing.written(prepared)
            await conn.sync()
            await conn.transact([{":n": 80}])

        await collect(config, marked=publish)
        await conn.transact([{":n": 81}])
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == list(range(82))


async def a_flush_under_way(config: dict[str, Any]) -> None:
    """It was written before the collection, whose fence its publication meets."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(50))
        for n in range(50, 80):
            await conn.transact([{":n": n}])
        branch = conn._transactor.branch
        prepared = await branch.prepare_flush()

        async def publish() -> None:
            conn._transactor.flushing.written(prepared)
            await conn.sync()

        await collect(config, marked=publish)
        await conn.transact([{":n": 80}])
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == list(range(81))


async def records_beside_the_head(config: dict[str, Any]) -> None:
    """More of them than a head may carry."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(10))
        for n in range(10, 40):
            await conn.transact([{":n": n, ":large": str(n) * 2000}])
        await collect(config)
        await conn.transact([{":n": 40}])
        assert await numbers(conn.db()) == list(range(41))
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == list(range(41))
        async with elsewhere(config) as store:
            state = await read_branch(store, "db", None)
            assert state is not None
            assert state.tail.inline <= 40_000


async def the_log_of_what_is_retained(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(10))
        commits = []
        for n in range(10, 30):
            report = await conn.transact([{":n": n}])
            commits.append(d.commit_id(report.db_after))
        await flushed(conn, range(30, 40))
        await collect(config, keep=Retention(commits=25))
    async with d.connect(config) as conn:
        for n, commit in enumerate(commits, 10):
            db = await d.commit_as_db(conn, commit)
            assert db is not None
            assert await numbers(db) == list(range(n + 1))


async def _made_of_an_old_commit(
    config: dict[str, Any], make: Callable[[d.Connection, UUID], Awaitable[Any]], at: str
) -> None:
    async with d.connect(config, create=True, limits=NEVER) as conn:
        old = await flushed(conn, range(30))
        await flushed(conn, range(30, 60))
        made = False

        async def step() -> None:
            nonlocal made
            async with d.connect(config, read_only=False) as other:
                try:
                    await make(other, old)
                    made = True
                except d.SnapshotExpired:
                    pass

        await collect(config, **{at: step})
        assert made == (at == "listed")
    async with d.connect(config) as conn:
        if not made:
            with pytest.raises(d.SnapshotExpired):
                await d.commit_as_db(conn, old)
        elif d.kw("new") in await d.branches(conn):
            assert await numbers(await d.branch_as_db(conn, ":new")) == list(range(30))
        else:
            db = await d.commit_as_db(conn, old)
            assert db is not None
            assert await numbers(db) == list(range(30))


async def a_branch_of_an_old_commit_before(config: dict[str, Any]) -> None:
    await _made_of_an_old_commit(config, lambda c, old: d.branch(c, old, ":new"), "listed")


async def a_branch_of_an_old_commit_after(config: dict[str, Any]) -> None:
    await _made_of_an_old_commit(config, lambda c, old: d.branch(c, old, ":new"), "begun")


async def a_tag_of_an_old_commit_before(config: dict[str, Any]) -> None:
    await _made_of_an_old_commit(config, lambda c, old: d.tag(c, ":new", old), "listed")


async def a_tag_of_an_old_commit_after(config: dict[str, Any]) -> None:
    await _made_of_an_old_commit(config, lambda c, old: d.tag(c, ":new", old), "begun")


async def a_branch_that_is_listed_late(config: dict[str, Any]) -> None:
    """Its head is there before the collection begins, and its maker lists it after."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        old = await flushed(conn, range(30))
        await flushed(conn, range(30, 60))
        real = branching.list_branch
        ran = False

        async def late(*arguments: Any) -> bool:
            nonlocal ran
            if not ran:
                ran = True
                await collect(config)
            return await real(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(branching, "list_branch", late)
            with pytest.raises(d.SnapshotExpired):
                await d.branch(conn, old, ":new")
        assert await d.branches(conn) == {d.kw("db")}
        await d.branch(conn, ":db", ":new")
        assert await numbers(await d.branch_as_db(conn, ":new")) == list(range(60))
        await collect(config)
    async with d.connect(on(config, "new")) as conn:
        assert await numbers(conn.db()) == list(range(60))


async def a_branch_that_is_begun_meanwhile(config: dict[str, Any]) -> None:
    """Its head is written after the names were listed, and its maker lists it in the end."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        old = await flushed(conn, range(30))
        await flushed(conn, range(30, 60))
        real = branching.list_branch
        begun, over = anyio.Event(), anyio.Event()

        async def late(*arguments: Any) -> bool:
            begun.set()
            await over.wait()
            return await real(*arguments)

        made: list[bool] = []

        async def make() -> None:
            try:
                await d.branch(conn, old, ":new")
                made.append(True)
            except d.SnapshotExpired:
                made.append(False)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(branching, "list_branch", late)
            async with anyio.create_task_group() as tasks:

                async def begin() -> None:
                    tasks.start_soon(make)
                    await begun.wait()

                await collect(config, listed=begin)
                over.set()
        if made == [True]:
            assert await numbers(await d.branch_as_db(conn, ":new")) == list(range(30))
        assert made == [False]
        await collect(config)


async def _late(
    config: dict[str, Any],
    where: Any,
    name: str,
    make: Callable[[d.Connection, UUID], Awaitable[Any]],
) -> None:
    """A collection runs between two steps of whoever makes something of an old commit."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        old = await flushed(conn, range(30))
        await flushed(conn, range(30, 60))
        real, ran = getattr(where, name), False

        async def late(*arguments: Any) -> Any:
            nonlocal ran
            if not ran:
                ran = True
                await collect(config)
            return await real(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, name, late)
            with pytest.raises(d.SnapshotExpired):
                await make(conn, old)
        assert ran


async def a_tag_that_is_listed_late(config: dict[str, Any]) -> None:
    await _late(config, tagging, "change_registry", lambda c, old: d.tag(c, ":new", old))


async def a_pin_that_is_written_late(config: dict[str, Any]) -> None:
    async def pinned(conn: d.Connection, old: UUID) -> None:
        async with d.pin(conn, old) as db:
            assert await numbers(db) == list(range(30))

    await _late(config, verbs, "write_pin", pinned)


async def a_pin(config: dict[str, Any]) -> None:
    """It keeps a commit whatever becomes of its branch."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(30))
        await conn.transact([{":n": 30, ":large": "x" * 50_000}])
        await d.branch(conn, ":db", ":side")
        async with d.connect(on(config, "side"), limits=NEVER) as side:
            await flushed(side, range(31, 50))
        async with d.pin(conn, ":side") as db, d.pin(conn) as main:
            await d.delete_branch(conn, ":side")
            await flushed(conn, range(31, 60))
            for _ in range(2):
                await collect(config)
            commits = [(main.commit_id, 31), (db.commit_id, 50)]
            async with d.connect(config, read_only=True) as reader:
                for commit, count in commits:
                    found = await d.commit_as_db(reader, commit)
                    assert found is not None
                    assert await numbers(found) == list(range(count))
        done = await collect(config)
        assert done.pins == 0
        assert done.freed > 0
        with pytest.raises(d.SnapshotExpired):
            await d.commit_as_db(conn, main.commit_id)


async def a_tag(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(30))
        await conn.transact([{":n": 30, ":large": "x" * 50_000}])
        await d.tag(conn, ":v1")
        await flushed(conn, range(31, 60))
        for _ in range(2):
            await collect(config)
    async with d.connect(config) as conn:
        db = await d.commit_as_db(conn, (await d.tags(conn))[d.kw("v1")])
        assert db is not None
        assert await numbers(db) == list(range(31))
        await d.branch(conn, db.commit_id, ":from-tag")
        await collect(config)
        assert await numbers(await d.branch_as_db(conn, ":from-tag")) == list(range(31))
        assert (await d.verify(conn, deep=True)).ok


async def _branched_from_what_goes(
    config: dict[str, Any], name: str, of: Callable[[d.Connection], Awaitable[Any]], gone: Any
) -> None:
    """After the epoch began somebody branches from what he then removes."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(30))
        source = await of(conn)
        await flushed(conn, range(30, 60))

        async def step() -> None:
            await d.branch(conn, source, ":kept")
            await gone(conn)

        await collect(config, begun=step)
        await collect(config)
        await collect(config)
    async with d.connect(on(config, "kept")) as conn:
        found = await numbers(conn.db())
        assert found[:30] == list(range(30))
        assert (await d.verify(conn, deep=True)).ok


async def a_branch_of_one_that_is_deleted(config: dict[str, Any]) -> None:
    async def side(conn: d.Connection) -> str:
        await d.branch(conn, ":db", ":side")
        async with d.connect(on(config, "side"), limits=NEVER) as other:
            await flushed(other, range(100, 130))
        return ":side"

    await _branched_from_what_goes(config, "side", side, lambda c: d.delete_branch(c, ":side"))


async def a_branch_of_a_tag_that_is_taken_back(config: dict[str, Any]) -> None:
    async def tagged(conn: d.Connection) -> Any:
        await d.tag(conn, ":v1")
        at = d.commit_id(conn.db())
        await flushed(conn, range(30, 40))
        await collect(config)
        return at

    await _branched_from_what_goes(config, "v1", tagged, lambda c: d.untag(c, ":v1"))


async def a_name_that_is_used_again(config: dict[str, Any]) -> None:
    """What is left of a head is listed, and by the time it is removed another one lies there."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(30))
        await d.branch(conn, ":db", ":side")
        await d.delete_branch(conn, ":side")

        async def again() -> None:
            await d.branch(conn, ":db", ":side")

        await collect(config, marked=again)
        async with d.connect(on(config, "side")) as side:
            assert await numbers(side.db()) == list(range(30))
            await side.transact([{":n": 30}])
        await d.delete_branch(conn, ":side")
        await collect(config)
        await collect(config)
        async with elsewhere(config) as store:
            assert await read_head(store, "side") == (None, collecting_absent())
        await d.branch(conn, ":db", ":side")
        assert await numbers(await d.branch_as_db(conn, ":side")) == list(range(30))


def collecting_absent() -> Any:
    from datahike_async.konserve.blob import ABSENT

    return ABSENT


async def a_forced_branch(config: dict[str, Any]) -> None:
    """It becomes what an old commit was, which the collection lets go of at the same time."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(30))
        old = conn.db()
        await flushed(conn, range(30, 60))
        made = False

        async def force() -> None:
            nonlocal made
            try:
                await d.force_branch(conn, old, ":forced", [":db"])
                made = True
            except d.SnapshotExpired:
                pass

        await collect(config, begun=force)
        assert not made
        await d.force_branch(conn, conn.db(), ":forced", [":db"])
        await collect(config)
        assert await numbers(await d.branch_as_db(conn, ":forced")) == list(range(60))


SCENARIOS: list[Callable[[dict[str, Any]], Awaitable[None]]] = [
    a_flush_that_is_prepared,
    a_flush_under_way,
    records_beside_the_head,
    the_log_of_what_is_retained,
    a_branch_of_an_old_commit_before,
    a_branch_of_an_old_commit_after,
    a_tag_of_an_old_commit_before,
    a_tag_of_an_old_commit_after,
    a_branch_that_is_listed_late,
    a_branch_that_is_begun_meanwhile,
    a_tag_that_is_listed_late,
    a_pin_that_is_written_late,
    a_pin,
    a_tag,
    a_branch_of_one_that_is_deleted,
    a_branch_of_a_tag_that_is_taken_back,
    a_name_that_is_used_again,
    a_forced_branch,
]
