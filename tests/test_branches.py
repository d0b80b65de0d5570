"""Branches and commits: each commit is a value that can be gone back to, and branched."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.konserve import opening as stores
from datahike_async.storage.keys import BRANCHES, head_key
from datahike_async.transactor.limits import Limits
from tests.stores import on

pytestmark = pytest.mark.anyio

SMALL = Limits(flush_rows=40, flush_bytes=2_000, flush_journal_bytes=4_000, close_rows=10**9)
CLOSING = Limits(close_rows=1)


@pytest.fixture(params=["memory", "file"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return {"store": store, "schema_flexibility": "read"}


async def numbers(db: d.Database) -> list[int]:
    return sorted(x.v for x in await db.datoms("aevt", ":n"))


async def test_a_branch_goes_its_own_way(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as main:
        await main.transact([{":n": 1}])
        await d.branch(main, ":db", ":trial")
        assert await d.branches(main) == {d.kw("db"), d.kw("trial")}
        async with d.connect(on(config, "trial")) as trial:
            assert d.commit_id(trial.db()) == d.commit_id(main.db())
            assert d.parent_commit_ids(trial.db()) == d.parent_commit_ids(main.db())
            await trial.transact([{":n": 2}])
            await main.transact([{":n": 3}])
            assert await numbers(trial.db()) == [1, 2]
            assert await numbers(main.db()) == [1, 3]
            assert await numbers(await d.branch_as_db(main, ":trial")) == [1, 2]
            assert await d.branch_as_db(main, ":db") == main.db()
            assert (await d.branch_as_db(main, "trial")).config.branch == "trial"
    async with d.connect(on(config, ":trial")) as trial:
        assert await numbers(trial.db()) == [1, 2]
        assert await numbers(await d.branch_as_db(trial, ":db")) == [1, 3]


@pytest.mark.parametrize("limits", [SMALL, CLOSING, Limits()], ids=["flushing", "closing", "tail"])
@pytest.mark.parametrize("keep_history", [True, False])
async def test_every_commit_can_be_read_and_branched(
    config: dict[str, Any], limits: Limits, keep_history: bool
) -> None:
    """Whether it lies in the head, in the journal, in the log of a flush, or is a load's."""
    rng = random.Random(4)
    await d.create_database({**config, "keep_history": keep_history})
    known: dict[Any, tuple[Any, ...]] = {}

    async def state(db: d.Database) -> tuple[Any, ...]:
        past = [] if not keep_history else await db.history().datoms("eavt")
        return (
            d.parent_commit_ids(db),
            db.max_tx,
            list(await db.datoms("eavt")),
            sorted(map(repr, past)),
            db.schema,
        )

    names = ["db"]
    for round_ in range(3):
        for name in list(names):
            async with d.connect(on(config, name), limits=limits) as conn:
                for i in range(rng.randrange(3, 8)):
                    rows = 600 if not rng.randrange(9) else rng.randrange(1, 9)
                    data: list[Any] = [{":n": rng.randrange(99), f":a{i}": j} for j in range(rows)]
                    if not rng.randrange(4):
                        data.append({":text": "long" * 12_000})
                    report = await conn.transact(data)
                    known[d.commit_id(report.db_after)] = await state(report.db_after)
                async with anyio.create_task_group() as group:
                    for i in range(3):
                        group.start_soon(conn.transact, [{":n": i}])
                async for db in d.branch_history(conn):
                    if db.commit_id in known:
                        assert await state(db) == known[db.commit_id]
                    else:
                        known[db.commit_id] = await state(db)
                picked: Any = rng.choice(list(known))
                new = f"b{round_}-{name}"[:30]
                if len(names) < 4:
                    await d.branch(conn, picked, new)
                    names.append(new)
                    assert await state(await d.branch_as_db(conn, new)) == known[picked]
    async with d.connect(on(config, rng.choice(names)), limits=limits) as conn:
        for commit in rng.sample(list(known), min(len(known), 12)):
            found = await d.commit_as_db(conn, commit)
            assert found is not None
            assert (found.commit_id, await state(found)) == (commit, known[commit])


async def test_history_goes_back_to_the_first_commit(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=SMALL) as conn:
        reports = [await conn.transact([{":n": i}]) for i in range(30)]
        line = [d.commit_id(reports[0].db_before), *(d.commit_id(r.db_after) for r in reports)]
        found = [db async for db in d.branch_history(conn)]
    assert [d.commit_id(db) for db in found] == line[::-1]
    assert d.parent_commit_ids(found[-1]) == frozenset()


async def test_a_merge_has_the_merged_for_parents(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as main:
        first = await main.transact([{":n": 1}])
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial:
            other = (await trial.transact([{":n": 2}])).db_after
        reports: list[Any] = []

        async def beside(i: int) -> None:
            reports.append(await main.transact([{":m": i}]))

        async def merge() -> None:
            commits = [":trial", d.commit_id(first.db_after)]
            reports.append(await d.merge_db(main, commits, [{":n": 2}], {":why": "merge"}))

        async with anyio.create_task_group() as group:
            for i in range(3):
                group.start_soon(beside, i)
            group.start_soon(merge)
            for i in range(3):
                group.start_soon(beside, i)
        made = {len(d.parent_commit_ids(r.db_after)) for r in reports}
        assert sorted(len(d.parent_commit_ids(r.db_after)) for r in reports)[:-1] == [1] * 6
        (merged,) = (r for r in reports if len(d.parent_commit_ids(r.db_after)) > 1)
        expected = {d.commit_id(merged.db_before), d.commit_id(other), d.commit_id(first.db_after)}
        assert d.parent_commit_ids(merged.db_after) == expected
        assert len(made) == 2
        assert await numbers(main.db()) == [1, 2]
        # The options of a map are those of any transaction.
        stale = {":tx-data": [{":n": 9}], ":expected-basis": first.tx}
        with pytest.raises(d.TransactionError) as caught:
            await d.merge_db(main, [":trial"], stale)
        assert caught.value.error == ":transact/basis-mismatch"
    async with d.connect(config) as main:
        line = [db async for db in d.branch_history(main)]
        ids = [d.commit_id(db) for db in line]
        assert d.commit_id(other) in ids
        assert len(set(ids)) == len(ids)
        (again,) = (db for db in line if d.commit_id(db) == d.commit_id(merged.db_after))
        assert d.parent_commit_ids(again) == expected


async def test_a_deleted_branch_is_no_more_for_whoever_has_it_open(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as main:
        await main.transact([{":n": 1}])
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial:
            kept = (await trial.transact([{":n": 2}])).db_after
            await d.delete_branch(main, ":trial")
            assert await d.branches(main) == {d.kw("db")}
            assert await numbers(kept) == [1, 2]
            with pytest.raises(d.DatahikeError, match="was deleted"):
                await trial.sync()
            with pytest.raises(d.DatahikeError, match="was deleted"):
                await trial.transact([{":n": 3}])
        with pytest.raises(d.DatabaseNotFound) as caught:
            await d.connect(on(config, "trial"))
        assert caught.value.error == ":branch-does-not-exist"
        assert not await d.database_exists(on(config, "trial"))
        with pytest.raises(d.DatabaseNotFound) as caught:
            await d.branch_as_db(main, ":trial")
        assert caught.value.error == ":branch-does-not-exist"
        # The name can be used again, and is another branch.
        await d.branch(main, ":db", ":trial")
        async with d.connect(on(config, "trial")) as trial:
            assert await numbers(trial.db()) == [1]
            await trial.transact([{":n": 4}])
        assert await numbers(await d.branch_as_db(main, ":trial")) == [1, 4]


async def test_a_branch_costs_the_same_whatever_there_is(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with d.connect(config, create=True, limits=CLOSING) as conn:
        await conn.transact([{":n": i} for i in range(20_000)])
    async with d.connect(config) as conn:
        await conn.transact([{":n": -1}])
        writes: list[str] = []
        store: Any = conn._transactor.branch.store
        for name in ("assoc", "multi_assoc", "dissoc"):
            real = getattr(store, name)

            async def noted(*args: Any, _real: Any = real, _name: str = name, **kw: Any) -> Any:
                writes.append(_name)
                return await _real(*args, **kw)

            monkeypatch.setattr(store, name, noted)
        await d.branch(conn, ":db", ":trial")
        assert writes == ["assoc", "assoc"]


@pytest.mark.parametrize("times", [2, 5])
async def test_of_many_who_make_one_branch_one_does(config: dict[str, Any], times: int) -> None:
    outcomes: list[str] = []
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":n": 1}])

        async def make() -> None:
            try:
                await d.branch(conn, ":db", ":trial")
                outcomes.append("made")
            except d.DatabaseExists as error:
                outcomes.append(str(error.error))

        async with anyio.create_task_group() as group:
            for _ in range(times):
                group.start_soon(make)
        assert outcomes.count(":branch-already-exists") >= times - 1
        assert await d.branches(conn) == {d.kw("db"), d.kw("trial")}
        assert await numbers(await d.branch_as_db(conn, ":trial")) == [1]


async def test_a_branch_that_was_begun_and_not_listed_is_taken_over(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":n": 1}])
        before = await conn._transactor.branch.store.get(BRANCHES)
        await d.branch(conn, ":db", ":trial")
        # Whoever made it was ended before it was listed.
        await conn._transactor.branch.store.assoc(BRANCHES, before)
        assert await d.branches(conn) == {d.kw("db")}
        with pytest.raises(d.DatabaseExists):
            await d.branch(conn, ":db", ":trial")
        assert await d.branches(conn) == {d.kw("db"), d.kw("trial")}


async def test_what_is_no_branch_and_no_commit_is_named(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":n": 1}])
        cases: list[tuple[Any, type[d.DatahikeError], str]] = [
            (d.branch(conn, ":db", ":db"), d.DatabaseExists, ":branch-already-exists"),
            (
                d.branch(conn, ":no", ":new"),
                d.DatabaseNotFound,
                ":from-branch-does-not-point-to-existing-branch-or-commit",
            ),
            (
                d.branch(conn, UUID(int=5), ":new"),
                d.DatabaseNotFound,
                ":from-branch-does-not-point-to-existing-branch-or-commit",
            ),
            (d.branch(conn, ":db", 5), d.ArgumentError, ":branch-must-be-keyword"),
            (d.branch(conn, ":db", "a b"), d.ArgumentError, ":branch-must-be-keyword"),
            (d.delete_branch(conn, ":db"), d.BadInput, ":cannot-delete-main-db-branch"),
            (d.delete_branch(conn, ":no"), d.DatabaseNotFound, ":branch-does-not-exist"),
            (d.branch_as_db(conn, ":no"), d.DatabaseNotFound, ":branch-does-not-exist"),
            (d.commit_as_db(conn, "x"), d.ArgumentError, ":commit-id-must-be-uuid"),
            (d.merge_db(conn, [], []), d.ArgumentError, ":must-provide-at-least-one-parent"),
            (d.merge_db(conn, ":db", []), d.ArgumentError, ":argument/invalid"),
            (d.merge_db(conn, [":no"], []), d.DatabaseNotFound, ":branch-does-not-exist"),
        ]
        for call, kind, keyword in cases:
            with pytest.raises(kind) as caught:
                await call
            assert caught.value.error == keyword
        assert await d.commit_as_db(conn, uuid4()) is None
        assert await d.branches(conn) == {d.kw("db")}
    with pytest.raises(d.ConnectionClosed):
        await d.branches(conn)


async def test_a_database_is_created_once_whatever_its_branch_is_called(
    config: dict[str, Any],
) -> None:
    await d.create_database({**config, "branch": ":work"})
    for name in ("work", "db"):
        with pytest.raises(d.DatabaseExists):
            await d.create_database({**config, "branch": name})
    async with d.connect(on(config, "work")) as conn:
        assert await d.branches(conn) == {d.kw("work")}
        with pytest.raises(d.BadInput):
            await d.delete_branch(conn, ":work")
        opened = await stores.connect_store(config["store"])
        assert await opened.exists(head_key("work"))
        assert not await opened.exists(head_key("db"))
        await stores.release_store(opened)
