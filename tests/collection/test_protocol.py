"""What others do between two steps of a collection, and the faults that each of these must find.

A scenario is what happens at a step; it fails by an assertion or an error where something that was
promised is not there. Without a fault none fails, and each fault that is planted makes one fail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async import collection as verbs
from datahike_async.config.collecting import Retention
from datahike_async.env import SYSTEM
from datahike_async.konserve import opening as stores
from datahike_async.storage import collecting
from datahike_async.storage.branches import branching, finding, forcing, tagging
from datahike_async.storage.branches import fence as fences
from datahike_async.storage.branches.fence import Fenced
from datahike_async.storage.branches.read import read_branch, read_head
from datahike_async.storage.collecting import Collection
from datahike_async.transactor.branch import Branch
from datahike_async.transactor.limits import Limits
from tests.collection.garbage import collection, fresh, numbers

pytestmark = pytest.mark.anyio

NEVER = Limits(flush_rows=10**9, flush_bytes=10**9, flush_journal_bytes=10**9, close_rows=10**9)
ONE = Retention(commits=1)

Step = Callable[[], Awaitable[None]]


@pytest.fixture(params=["memory", "file"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return fresh(store)


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
        run = collection(store, keep)
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


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
async def test_nothing_that_lives_is_removed(
    config: dict[str, Any], scenario: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    await scenario(config)


async def test_a_branch_that_is_forced_as_an_epoch_begins_is_told_of_it(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was replaced before its head was told, by a value that this epoch would not keep."""
    ready, go_on = anyio.Event(), anyio.Event()
    replace_branch = forcing.replace_branch

    async def late(*arguments: Any) -> Any:
        ready.set()
        await go_on.wait()
        return await replace_branch(*arguments)

    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(30))
        old = conn.db()
        await flushed(conn, range(30, 60))
        await d.branch(conn, ":db", ":forced")
        store = conn._transactor.branch.store
        before, _ = await read_head(store, "forced")
        monkeypatch.setattr(forcing, "replace_branch", late)

        async def replaced() -> None:
            go_on.set()
            while (head := (await read_head(store, "forced"))[0]) is None or (
                before is not None and head.base.born == before.base.born
            ):
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(d.force_branch, conn, old, ":forced", [":db"])
            await ready.wait()
            await collect(config, begun=replaced)
        assert await numbers(await d.branch_as_db(conn, ":forced")) == list(range(30))
        async with d.connect({**config, "branch": "forced"}) as forced:
            await forced.transact([{":n": 100}])
        await d.branch(conn, ":db", ":other")
        blocks = [
            (await d.branch_as_db(conn, f":{n}")).snapshot.trees.ids for n in ("forced", "other")
        ]
        assert blocks[0] != blocks[1]
        await collect(config)
        assert (await d.verify(conn)).ok


async def test_of_a_branch_that_nobody_can_list_any_more_none_is_made(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head is there, and a collection, which knows nothing of it, has removed what it names."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        old = await flushed(conn, range(30))
        await flushed(conn, range(30, 60))
        real = branching.list_branch
        begun, over = anyio.Event(), anyio.Event()

        async def late(*arguments: Any) -> bool:
            begun.set()
            await over.wait()
            return await real(*arguments)

        async def make() -> None:
            with pytest.raises(d.SnapshotExpired):
                await d.branch(conn, old, ":new")

        monkeypatch.setattr(branching, "list_branch", late)
        async with anyio.create_task_group() as tasks:

            async def begin() -> None:
                tasks.start_soon(make)
                await begun.wait()

            await collect(config, listed=begin)
            monkeypatch.setattr(branching, "list_branch", real)
            with pytest.raises(d.DatabaseNotFound):
                await d.branch(conn, ":new", ":other")
            with pytest.raises(d.DatabaseNotFound):
                await d.tag(conn, ":kept", ":new")
            over.set()
        assert await d.branches(conn) == {d.kw("db")}
        assert (await d.verify(conn)).ok


async def test_a_branch_that_was_replaced_and_not_listed_anew_gives_nothing_of_what_it_was(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it open knows commits of it that collections have not kept since."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(30))
        await d.branch(conn, ":db", ":side")
        async with d.connect(on(config, "side"), limits=NEVER) as side:
            lost = await flushed(side, range(30, 60))

            async def ended(*_: Any, **__: Any) -> None:
                raise RuntimeError("ended half way")

            with monkeypatch.context() as patch, pytest.raises(RuntimeError):
                patch.setattr(branching, "list_branch", ended)
                await d.force_branch(conn, conn.db(), ":side", [":db"])
            for _ in range(2):
                await collect(config)
            with pytest.raises((d.DatabaseNotFound, d.SnapshotExpired)):
                await d.branch(side, lost, ":new")
            assert d.kw("new") not in await d.branches(conn)
        assert (await d.verify(conn)).ok


async def test_what_is_kept_of_another_branch_of_its_name_is_not_kept_of_a_branch(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before it is listed still, whose past goes further back."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await flushed(conn, range(10))
        await d.branch(conn, ":db", ":side")
        await flushed(conn, range(10, 20))
        await flushed(conn, range(20, 30))
        await collect(config)

        async def ended(*_: Any, **__: Any) -> None:
            raise RuntimeError("ended half way")

        with monkeypatch.context() as patch:
            patch.setattr(branching, "list_branch", ended)
            with pytest.raises(RuntimeError):
                await d.delete_branch(conn, ":side")
            with pytest.raises(RuntimeError):
                await d.branch(conn, ":db", ":side")
        assert (await d.verify(conn, deep=True)).ok
        await d.branch(conn, ":side", ":new")
        assert (await d.verify(conn, deep=True)).ok
        await collect(config, keep=Retention(commits=100))
        assert (await d.verify(conn, deep=True)).ok


async def test_what_is_left_of_a_branch_that_is_listed_is_left_alone(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made and deleted since the epoch began, and whoever deleted it was ended half way."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await d.branch(conn, ":db", ":side")
        await d.delete_branch(conn, ":side")

        async def ended(*_: Any) -> None:
            raise RuntimeError("ended half way")

        async def begin_and_end() -> None:
            async with elsewhere(config) as store:
                await d.branch(conn, ":db", ":side")
                with monkeypatch.context() as patch, pytest.raises(RuntimeError):
                    patch.setattr(branching, "list_branch", ended)
                    await branching.end_branch(store, "side", SYSTEM)

        await collect(config, marked=begin_and_end)
        assert (await d.verify(conn)).ok
        for _ in range(2):
            await collect(config)
        report = await d.verify(conn)
        assert report.ok
        assert not report.orphans
        assert await d.branches(conn) == {d.kw("db")}


async def test_what_a_branch_was_whose_name_another_one_has_is_kept_by_nobody(
    config: dict[str, Any],
) -> None:
    """Who still has the old one open finds by it no commit that only that had; a tag keeps one."""
    async with d.connect(config, create=True, limits=NEVER) as conn:
        old = await flushed(conn, range(30))
        await d.branch(conn, ":db", ":side")
        async with d.connect(on(config, "side"), limits=NEVER) as side:
            tagged = await flushed(side, range(30, 60))
            await d.tag(conn, ":kept", tagged)
            lost = await flushed(side, range(60, 70))
            await flushed(side, range(70, 80))
            async with elsewhere(config) as store:
                await branching.end_branch(store, "side", SYSTEM)
            await d.branch(conn, old, ":side")
            for _ in range(2):
                await collect(config)
            db = await d.commit_as_db(side, tagged)
            assert db is not None
            assert await numbers(db) == list(range(60))
            with pytest.raises((d.DatabaseNotFound, d.SnapshotExpired)):
                await d.branch(side, lost, ":new")
            assert d.kw("new") not in await d.branches(conn)
        assert (await d.verify(conn)).ok


# -- faults --------------------------------------------------------------------------------------


Patch = pytest.MonkeyPatch


def publishes_a_flush_of_an_older_epoch(patch: Patch) -> None:
    patch.setattr(
        Branch,
        "is_current",
        lambda self, prepared: prepared.flushed.snapshot.trees is self.snapshot.trees,
    )


def drops_the_journal(patch: Patch) -> None:
    real = fences.write_head

    async def write(store: Any, head: Any, revision: Any) -> None:
        await real(store, replace(head, tail=()), revision)

    patch.setattr(fences, "write_head", write)


def does_not_fence_heads(patch: Patch) -> None:
    async def fence(store: Any, name: str, epoch: int, env: Any) -> Fenced | None:
        state = await read_branch(store, name, None)
        return None if state is None else Fenced(state.head.base, state.head.tail, False)

    patch.setattr(collecting, "fence_head", fence)


def leaves_the_registry_out(patch: Patch) -> None:
    async def change(store: Any, begun: Any) -> Any:
        return await begun(await collecting.read_registry(store))

    patch.setattr(collecting, "change_registry", change)


def removes_segments(patch: Patch) -> None:
    patch.setattr(collecting, "segments_between", _no_segments)


async def _no_segments(*_: Any) -> list[Any]:
    return []


def ignores_pins(patch: Patch) -> None:
    async def no_pins(_: Any) -> dict[Any, Any]:
        return {}

    patch.setattr(collecting, "read_pins", no_pins)


def ignores_tags(patch: Patch) -> None:
    async def no_tag(*_: Any) -> None:
        return None

    patch.setattr(collecting, "tagged_head", no_tag)


def does_not_ask_what_is_retained(patch: Patch) -> None:
    real = finding._found

    async def found(store: Any, past: Any, registry: Any, *rest: Any) -> Any:
        return await real(store, past, replace(registry, floors={}), *rest)

    patch.setattr(finding, "_found", found)


def lists_a_branch_of_an_older_epoch(patch: Patch) -> None:
    real = branching.read_head

    async def read(store: Any, name: str) -> Any:
        head, revision = await real(store, name)
        return (None if head is None else replace(head, epoch=10**6)), revision

    patch.setattr(branching, "read_head", read)


def lists_a_tag_in_another_epoch(patch: Patch) -> None:
    real = tagging.change_registry

    async def change(store: Any, make: Any) -> Any:
        async def blind(now: Any) -> Any:
            made = await make(replace(now, epoch=0))
            return None if made is None else replace(made, epoch=now.epoch)

        return await real(store, blind)

    patch.setattr(tagging, "change_registry", change)


def does_not_read_the_epoch_again(patch: Patch) -> None:
    real = verbs._pinned

    async def pinned(*arguments: Any) -> Any:
        registry = await verbs.read_registry(arguments[1].branch.store)

        async def same(_: Any) -> Any:
            return registry

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(verbs, "read_registry", same)
            return await real(*arguments)

    patch.setattr(verbs, "_pinned", pinned)


def forgets_what_was_there_before(patch: Patch) -> None:
    real = Collection._mark

    async def mark(self: Any, *arguments: Any) -> Any:
        self._before, self._alone = {}, {}
        return await real(self, *arguments)

    patch.setattr(Collection, "_mark", mark)
    real_fence = collecting.fence_head

    async def fence(*arguments: Any) -> Fenced | None:
        found = await real_fence(*arguments)
        return None if found is not None and found.deleted else found

    patch.setattr(collecting, "fence_head", fence)


def removes_heads_by_name(patch: Patch) -> None:
    patch.setattr(collecting, "IMMUTABLE", ("",))


def forces_whatever_is_gone(patch: Patch) -> None:
    async def fine(*_: Any) -> None:
        pass

    from datahike_async import versions

    patch.setattr(versions, "require_kept", fine)


FAULTS = [
    (publishes_a_flush_of_an_older_epoch, a_flush_that_is_prepared),
    (does_not_fence_heads, a_flush_under_way),
    (does_not_fence_heads, a_flush_that_is_prepared),
    (drops_the_journal, records_beside_the_head),
    (removes_segments, the_log_of_what_is_retained),
    (ignores_pins, a_pin),
    (ignores_tags, a_tag),
    (leaves_the_registry_out, a_branch_of_an_old_commit_after),
    (leaves_the_registry_out, a_tag_of_an_old_commit_after),
    (leaves_the_registry_out, a_branch_that_is_listed_late),
    (does_not_ask_what_is_retained, a_branch_of_an_old_commit_after),
    (does_not_ask_what_is_retained, a_tag_of_an_old_commit_after),
    (lists_a_branch_of_an_older_epoch, a_branch_that_is_begun_meanwhile),
    (lists_a_tag_in_another_epoch, a_tag_that_is_listed_late),
    (does_not_read_the_epoch_again, a_pin_that_is_written_late),
    (forgets_what_was_there_before, a_branch_of_one_that_is_deleted),
    (forgets_what_was_there_before, a_branch_of_a_tag_that_is_taken_back),
    (removes_heads_by_name, a_name_that_is_used_again),
    (forces_whatever_is_gone, a_forced_branch),
]


@contextmanager
def planted(fault: Callable[[Patch], None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        yield


@pytest.mark.parametrize(
    ("fault", "scenario"), FAULTS, ids=lambda x: getattr(x, "__name__", str(x))
)
async def test_a_fault_is_found(
    tmp_path: Path, fault: Callable[[Patch], None], scenario: Any
) -> None:
    store = {"backend": "file", "id": uuid4(), "path": str(tmp_path / "db")}
    with planted(fault), pytest.raises((AssertionError, d.DatahikeError, pytest.fail.Exception)):
        await scenario(fresh(store))
