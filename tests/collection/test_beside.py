"""A collection beside readers and writers that know nothing of it, and by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.config.collecting import Retention
from datahike_async.storage.branches.registry import read_registry
from datahike_async.transactor.collecting import collect_in_turn
from datahike_async.transactor.limits import Limits
from tests.collection.garbage import SMALL, collected, fresh, numbers, settled
from tests.collection.scenarios import NEVER, flushed
from tests.strangers import as_a_stranger

pytestmark = pytest.mark.anyio

ONE = Retention(commits=1)


@pytest.fixture(params=["memory", "file", "lmdb"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param != "memory":
        store["path"] = str(tmp_path / "db")
    return fresh(store)


async def many(conn: d.Connection) -> None:
    """Write 2000 entities, and flush."""
    await conn.transact([{":n": n, ":text": "x" * 300} for n in range(1999)])
    await flushed(conn, range(1999, 2000))


async def test_a_reader_of_an_old_value_is_told_so(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await many(conn)
    # Whoever only reads shares nothing with those who write.
    async with d.connect(config, read_only=True) as reader, d.connect(config, limits=NEVER) as conn:
        old = reader.db()
        assert len(await numbers(old)) == 2000
        await conn.transact([[":db/add", e, ":n", -1] for e in range(1, 2001)])
        await flushed(conn, range(2000, 2001))
        assert (await collected(config, keep=ONE)).freed > 0
        reader._transactor.branch.source.cache.clear()
        try:
            assert len(await old.datoms("eavt")) == 4002
        except d.SnapshotExpired as error:
            assert error.error == ":snapshot/expired"
            assert "pin(conn" in str(error)
        else:
            # A pack stays as long as any of its nodes is needed.
            assert config["store"]["backend"] == "file"
        assert len(await (await reader.sync()).datoms("aevt", ":n")) == 2001


async def test_damage_is_not_taken_for_a_collection(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await many(conn)
        await collected(config, keep=ONE)
        await flushed(conn, range(2000, 2010))
        store, source = conn._transactor.branch.store, conn._transactor.branch.source
        index = conn.db().snapshot.trees.current
        for each in index.values():
            await store.dissoc(next(iter(each.addresses())).blob)
        source.cache.clear()
    async with d.connect(config) as conn:
        with pytest.raises(d.CorruptData) as caught:
            await conn.db().datoms("eavt")
        assert caught.value.error == ":node-not-found"


async def test_a_writer_whose_state_is_long_gone_goes_on(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=NEVER) as conn:
        await many(conn)
    async with d.connect(config, limits=NEVER) as idle:
        before = idle.db()
        transactor = idle._transactor
        # Another process has it, too.
        other = await _another(config)
        try:
            await other.transact([[":db/add", e, ":n", -1] for e in range(1, 2001)])
            await flushed(other, range(2000, 2001))
        finally:
            await other.release()
        await collected(config, keep=ONE)
        transactor.branch.source.cache.clear()
        for tree in before.snapshot.trees.indexes():
            tree.base._root = None  # type: ignore[attr-defined]
        report = await idle.transact([[":db/retract", 5, ":n", -1], [":db/add", 5, ":n", -2]])
        assert report.tx > before.max_tx
        assert {x.v for x in await idle.db().datoms("aevt", ":n")} == {-1, -2, 2000}


async def _another(config: dict[str, Any]) -> d.Connection:
    """Return a connection that shares nothing with those that are open, as another process has."""
    with as_a_stranger():
        return await d.connect(config, limits=NEVER)


@pytest.mark.parametrize("ownership", ["exclusive", "shared"])
async def test_a_writer_goes_on_through_collections(config: dict[str, Any], ownership: str) -> None:
    writer = {"writer-ownership": ownership}
    async with d.connect(config, create=True, limits=SMALL, writer=writer) as conn:
        done = False

        async def collect() -> None:
            while not done:
                await collected(config, keep=Retention(commits=3))
                await anyio.sleep(0.005)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect)
            for n in range(80):
                await conn.transact([{":n": n, ":text": "x" * 100}])
            await settled(conn)
            done = True
        assert await numbers(conn.db()) == list(range(80))
        assert conn._transactor.fatal is None
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == list(range(80))
        assert (await d.verify(conn, deep=True)).ok


async def test_two_collectors_and_branches_that_come_and_go(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=SMALL) as conn:
        done = False
        failed: list[BaseException] = []

        async def collect(commits: int) -> None:
            while not done:
                try:
                    await collected(config, keep=Retention(commits=commits))
                except d.DatahikeError as error:
                    failed.append(error)
                await anyio.sleep(0.002)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, 1)
            tasks.start_soon(collect, 10)
            for n in range(40):
                await conn.transact([{":n": n, ":text": "x" * 100}])
                if n % 10 == 5:
                    await d.branch(conn, ":db", ":side")
                    async with d.connect({**config, "branch": "side"}, limits=SMALL) as side:
                        await side.transact([{":n": 1000 + n}])
                        assert await numbers(side.db()) == [*range(n + 1), 1000 + n]
                if n % 10 == 8:
                    await d.delete_branch(conn, ":side")
            done = True
        assert not failed
        await settled(conn)
        assert await numbers(conn.db()) == list(range(40))
        await collected(config, keep=ONE)
        assert (await d.verify(conn, deep=True)).ok


async def test_it_collects_by_itself(config: dict[str, Any]) -> None:
    gc = {"every": 0.05, "retain": {"commits": 5}}
    async with d.connect(config, create=True, limits=SMALL, gc=gc) as conn:
        store = conn._transactor.branch.store
        with anyio.fail_after(30):
            n = 0
            while (await read_registry(store)).epoch < 3:
                await conn.transact([{":n": n, ":text": "x" * 100}])
                n += 1
        assert await numbers(conn.db()) == list(range(n))
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == list(range(n))
        assert (await d.verify(conn)).ok


async def test_of_those_who_collect_by_themselves_one_does(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, gc={"every": 1000}) as conn:
        assert conn.config.gc is not None
        for _ in range(3):
            await collect_in_turn(conn._transactor, conn.config.gc)
        assert (await read_registry(conn._transactor.branch.store)).epoch == 1


@pytest.mark.parametrize(
    "gc",
    [
        5,
        {},
        {"every": 0},
        {"every": "often"},
        {"every": 5, "retain": {}},
        {"every": 5, "retain": {"commits": 0}},
        {"every": 5, "retain": {"days": 1}},
        {"every": 5, "keep": 1},
    ],
)
async def test_an_option_that_is_none_is_named(gc: Any) -> None:
    with pytest.raises(d.ConfigError, match=r":gc|:retain"):
        d.Config.of(gc=gc)


async def test_what_is_to_be_kept_is_checked(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        for bad in ("all of it", {"commits": -1}, [], 5):
            with pytest.raises(d.ConfigError, match="retain"):
                await d.gc_storage(conn, retain=bad)
        for point in ("yesterday", True, 1.5):
            with pytest.raises(d.ArgumentError, match="remove_before"):
                await d.gc_storage(conn, point)  # type: ignore[arg-type]
        with pytest.raises(d.ArgumentError, match="seconds"):
            async with d.pin(conn, ttl=0):
                pass
        with pytest.raises(d.DatahikeError):
            async with d.pin(conn, uuid4()):
                pass
    async with d.connect(config, read_only=True) as conn:
        assert (await d.gc_storage(conn, dry_run=True)).dry_run
        with pytest.raises(d.WriterError):
            await d.gc_storage(conn)


async def test_remove_before_and_age(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=Limits(close_rows=10**9)) as conn:
        await flushed(conn, range(10))
        middle = conn.db()
        await flushed(conn, range(10, 20))
        assert (await d.gc_storage(conn)).branches[d.kw("db")].since is None
        assert (await d.gc_storage(conn, 0)).freed == 0
        assert (await d.gc_storage(conn, retain={"seconds": 1000})).branches[
            d.kw("db")
        ].checkpoints == 3
        done = await d.gc_storage(conn, middle.max_tx)
        assert done.branches[d.kw("db")].since_tx == middle.max_tx
        assert await d.commit_as_db(conn, middle.commit_id) == middle
        done = await d.gc_storage(conn, conn.db().max_tx, retain=":all")
        assert done.branches[d.kw("db")].since_tx == middle.max_tx
        done = await d.gc_storage(conn, retain={"seconds": 0})
        assert done.branches[d.kw("db")].since_tx == conn.db().max_tx
        with pytest.raises(d.SnapshotExpired):
            await d.commit_as_db(conn, middle.commit_id)
