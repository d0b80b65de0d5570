"""Nothing that lives is removed, whatever others do between two steps of a collection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.config.collecting import Retention
from datahike_async.env import SYSTEM
from datahike_async.storage.branches import branching, forcing
from datahike_async.storage.branches.read import read_head
from tests.collection.garbage import fresh, numbers
from tests.collection.scenarios import NEVER, SCENARIOS, collect, elsewhere, flushed, on
from tests.indexes import TREE

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "file"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return fresh(store, **(TREE if request.param == "memory" else {}))


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
