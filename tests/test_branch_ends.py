"""Branches that are deleted and made again, by several at once: nobody mistakes one for another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async.env import SYSTEM
from datahike_async.konserve import opening as stores
from datahike_async.storage.branches import branching
from datahike_async.storage.branches.origin import Origin
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.branches.walk import Place
from datahike_async.storage.keys import BRANCHES
from datahike_async.storage.probe import Probe
from tests.collection.garbage import collected
from tests.stores import on

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "file"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return {"store": store, "schema_flexibility": "read"}


async def numbers(db: d.Database) -> list[int]:
    return sorted(x.v for x in await db.datoms("aevt", ":n"))


async def made_again_elsewhere(config: dict[str, Any], name: str) -> None:
    """Delete a branch and make another one of its name, as another process does."""
    store = await stores.connect_store(config["store"])
    await branching.end_branch(store, name, SYSTEM)
    state = await read_branch(store, "db", None)
    assert state is not None
    place = Place(state.head.base, tuple(state.tail.records), state.records, state.commit)

    async def find(_: object) -> Origin:
        return Origin(place, None)

    await branching.begin_branch(store, name, find, SYSTEM)
    await stores.release_store(store)


async def test_who_connects_gets_the_branch_that_is_there(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as main:
        await main.transact([{":n": 1}])
        await d.branch(main, ":db", ":trial")
        old = await d.connect(on(config, "trial"))
        await old.transact([{":n": 2}])
        await d.delete_branch(main, ":trial")
        with pytest.raises(d.DatabaseNotFound):
            await d.connect(on(config, "trial"))
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as new:
            assert await numbers(new.db()) == [1]
            with pytest.raises(d.WriterError, match="was deleted"):
                await old.transact([{":n": 3}])
            await new.transact([{":n": 4}])
            assert await numbers(new.db()) == [1, 4]
        await old.release()


@pytest.mark.parametrize("looking", [True, False])
async def test_a_writer_never_goes_on_on_another_branch_of_the_same_name(
    config: dict[str, Any], looking: bool
) -> None:
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as old:
            basis = (await old.transact([{":n": 2}])).db_after
            await main.transact([{":n": 7}])
            # Its newest transaction has the same number as the one of the branch that was.
            await made_again_elsewhere(config, "trial")
            if looking:
                with pytest.raises(d.DatabaseNotFound, match="was deleted"):
                    await old.sync()
            with pytest.raises(d.WriterError, match="was deleted"):
                await old.transact([{":n": 3}], expected_basis=basis)
            assert await numbers(await d.branch_as_db(main, ":trial")) == [7]
            # What is broken is not joined.
            async with d.connect(on(config, "trial")) as new:
                assert await numbers(new.db()) == [7]
                await new.transact([{":n": 8}])
            assert await numbers(old.db()) == [2]


async def test_who_has_a_branch_open_is_told_of_its_end_also_after_a_collection(
    config: dict[str, Any],
) -> None:
    """Then nothing is left of it; the database is there all the same."""
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial, d.connect(on(config, "trial")) as other:
            store = await stores.connect_store(config["store"])
            await branching.end_branch(store, "trial", SYSTEM)
            await stores.release_store(store)
            await collected(config)
            with pytest.raises(d.DatabaseNotFound) as caught:
                await trial.sync()
            assert caught.value.error == ":branch-does-not-exist"
            with pytest.raises(d.WriterError, match="does not exist as it was opened"):
                await other.transact([{":n": 1}])


async def test_a_slow_deletion_leaves_the_branch_that_was_made_since(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = branching.change_registry

    async def slow(*arguments: Any) -> Any:
        monkeypatch.setattr(branching, "change_registry", real)
        await made_again_elsewhere(config, "trial")
        return await real(*arguments)

    async with d.connect(config, create=True) as main:
        await main.transact([{":n": 1}])
        await d.branch(main, ":db", ":trial")
        monkeypatch.setattr(branching, "change_registry", slow)
        await d.delete_branch(main, ":trial")
        assert await d.branches(main) == {d.kw("db"), d.kw("trial")}
        assert await numbers(await d.branch_as_db(main, ":trial")) == [1]


async def test_a_branch_that_was_deleted_before_its_maker_listed_it_is_not_listed(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = branching.change_registry

    async def slow(*arguments: Any) -> Any:
        monkeypatch.setattr(branching, "change_registry", real)
        await d.delete_branch(main, ":trial")
        return await real(*arguments)

    async with d.connect(config, create=True) as main:
        monkeypatch.setattr(branching, "change_registry", slow)
        await d.branch(main, ":db", ":trial")
        assert await d.branches(main) == {d.kw("db")}
        await d.branch(main, ":db", ":trial")
        assert await d.branches(main) == {d.kw("db"), d.kw("trial")}


async def test_a_name_whose_deletion_was_ended_half_way_can_be_used(
    config: dict[str, Any],
) -> None:
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
        before = await main._transactor.branch.store.get(BRANCHES)
        await d.delete_branch(main, ":trial")
        await main._transactor.branch.store.assoc(BRANCHES, before)
        await main.transact([{":n": 1}])
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial:
            assert await numbers(trial.db()) == [1]
        await d.delete_branch(main, ":trial")
        assert await d.branches(main) == {d.kw("db")}


async def test_a_branch_that_is_written_to_all_the_time_can_be_deleted(
    config: dict[str, Any],
) -> None:
    acknowledged: list[int] = []

    async def write(conn: d.Connection) -> None:
        with pytest.raises(d.WriterError, match="was deleted"):
            while True:
                await conn.transact([{":n": len(acknowledged)}])
                acknowledged.append(1)

    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial, anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(write, trial)
            while len(acknowledged) < 20:
                await anyio.lowlevel.checkpoint()
            await d.delete_branch(main, ":trial")
            there = len(acknowledged)
            await anyio.sleep(0.02)
        # Those of the last group were committed before the deletion, and heard of it after.
        assert len(acknowledged) <= there + 4


Call = Callable[[d.Connection], Awaitable[None]]
CHANGES: list[Call] = [
    lambda conn: d.branch(conn, ":db", ":new"),
    lambda conn: d.branch(conn, ":db", ":trial"),
    lambda conn: d.delete_branch(conn, ":trial"),
    lambda conn: d.delete_branch(conn, ":unknown"),
]


async def test_where_nothing_may_be_written_no_branch_is_made_or_deleted(
    config: dict[str, Any],
) -> None:
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
    async with d.connect(config, read_only=True) as conn:
        for call in CHANGES:
            with pytest.raises(d.WriterError) as caught:
                await call(conn)
            assert caught.value.error == ":writer/read-only"
        assert await d.branches(conn) == {d.kw("db"), d.kw("trial")}


async def test_a_store_that_does_not_compare_is_not_entrusted_with_branches(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: Probe) -> None:
        raise d.FencingUnsupported("it lies")

    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":trial")
        with monkeypatch.context() as patch:
            patch.setattr(Probe, "check", fails)
            for call in CHANGES:
                with pytest.raises(d.FencingUnsupported):
                    await call(main)
        assert await d.branches(main) == {d.kw("db"), d.kw("trial")}


ODD = [
    "a/b",
    "../x",
    "a.b",
    "ü" * 200,
    "x" * 1000,
    "😀",
    "a:b",
    "::a",
    "1",
    "*",
    '"',
    "/",
    "branches",
]


async def test_whatever_a_branch_is_called_it_can_be_used(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as main:
        await main.transact([{":n": 1}])
        for name in ODD:
            await d.branch(main, ":db", name)
            async with d.connect(on(config, name)) as conn:
                await conn.transact([{":n": 2}])
            assert await numbers(await d.branch_as_db(main, name)) == [1, 2]
            await d.delete_branch(main, name)
        for name in ("", ":", "a\x0bb", "a\x00", "\ud800"):
            with pytest.raises(d.ArgumentError):
                await d.branch(main, ":db", name)
        assert await d.branches(main) == {d.kw("db")}
