"""Rebasing: the commits of a branch again on another one; all, or it is what it was."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

import datahike_async as d
from datahike_async import rebasing
from datahike_async.konserve.errors import StoreIOError
from datahike_async.transactor.limits import Limits

pytestmark = pytest.mark.anyio

LIMITS = {
    "flushing": Limits(
        flush_rows=20, flush_bytes=1_000, flush_journal_bytes=2_000, close_rows=10**9
    ),
    "tail": Limits(close_rows=10**9),
}


@pytest.fixture(params=["memory", "file"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return {"store": store, "schema_flexibility": "read", "keep_history": True}


async def line(conn: d.Connection, count: int) -> list[Any]:
    """Return what was said of the newest commits of a branch, oldest first."""
    found = []
    async with aclosing(d.branch_history(conn)) as history:
        async for db in history:
            if len(found) == count:
                break
            found.append((await db.pull("[*]", db.max_tx)).get(d.kw("why")))
    return found[::-1]


async def numbers(db: d.Database) -> list[Any]:
    return sorted((x.e, str(x.a), x.v) for x in await db.datoms("eavt") if x.e < 2**29)


async def test_one_that_is_cancelled_leaves_no_branch_behind(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with d.connect(config, create=True) as main:
        await main.transact([{":n": 0}])
        await d.branch(main, ":db", ":f")
        async with d.connect({**config, "branch": ":f"}) as feature:
            await feature.transact([{":n": 1}])
            await main.transact([{":n": 2}])
            scope, committed = anyio.CancelScope(), rebasing._committed

            async def cancelled(*args: Any) -> None:
                await committed(*args)
                scope.cancel()
                await anyio.lowlevel.checkpoint()

            monkeypatch.setattr(rebasing, "_committed", cancelled)
            before = await numbers(feature.db())
            with scope:
                await d.rebase(feature, ":db")
            assert scope.cancelled_caught
            assert await d.branches(main) == {d.kw("db"), d.kw("f")}
            assert await numbers(await feature.sync()) == before


@pytest.mark.parametrize("history", [True, False])
async def test_who_sends_a_transaction_again_is_answered(
    config: dict[str, Any], history: bool
) -> None:
    config["keep_history"] = history
    identity = {
        ":db/ident": ":name",
        ":db/valueType": ":db.type/string",
        ":db/cardinality": ":db.cardinality/one",
        ":db/unique": ":db.unique/identity",
    }
    sent: dict[str, list[Any]] = {
        "both": [{":n": 1}],
        "made": [{":db/id": "x", ":name": "Ada"}, {":db/id": "y", ":n": 2}],
        "nothing": [[":db.fn/cas", 1, ":m", 0, 1]],
        "upsert": [{":db/id": "x", ":name": "Ada", ":n": 3}],
    }
    async with d.connect(config, create=True) as main:
        await main.transact([identity, {":db/id": 1, ":n": 0, ":m": 0}])
        await d.branch(main, ":db", ":f")
        at = {**config, "branch": ":f"}
        feature = await d.connect(at)
        for key, data in sent.items():
            await feature.transact(data, idempotency_key=key)
        await main.transact(sent["both"], idempotency_key="both")
        await main.transact([{":name": "Ada"}, [":db/add", 1, ":m", 1]])
        assert len(await d.rebase(feature, ":db")) == 4
        await feature.release()
        async with d.connect(at) as feature:
            before = feature.db()
            there = await d.q("[:find ?e . :where [?e :name]]", before)
            number = await d.q("[:find ?e . :where [?e :n 2]]", before)
            for key, data in sent.items():
                report = await feature.transact(data, idempotency_key=key)
                assert report.repeated
                found = {k: v for k, v in report.tempids.items() if k in ("x", "y")}
                wanted = {"made": {"x": there, "y": number}, "upsert": {"x": there}}
                assert found == wanted.get(key, {})
                others = {k: v for k, v in report.tempids.items() if k not in found}
                assert set(others.values()) <= {report.tx}, others
            assert feature.db() == before


@pytest.mark.parametrize("limits", sorted(LIMITS))
async def test_the_commits_of_a_branch_come_again(config: dict[str, Any], limits: str) -> None:
    options = {"limits": LIMITS[limits]}
    async with d.connect(config, create=True, **options) as main:
        await main.transact([{":db/id": 1, ":n": 0, ":tag": "x"}])
        await d.branch(main, ":db", ":f")
        at = {"store": config["store"], "branch": ":f"}
        feature = await d.connect(at, **options)
        made = {}
        for i in range(5):
            data = [[":db/add", 10 + i, ":n", i], {":made": i}]
            made[i] = (await feature.transact(data, {":why": f"f{i}"})).tx_data
        await feature.transact([[":db/add", 1, ":tag", "x"]], {":why": "nothing"})
        for i in range(12):
            await main.transact([[":db/add", 50 + i, ":n", i]], {":why": f"m{i}"})
        reports = await d.rebase(feature, ":db")
        assert [len(one.added) for one in reports] == [2] * 5
        with pytest.raises(d.DatahikeError):
            await feature.transact([{":n": 1}])
        await feature.release()
        assert await d.branches(main) == {d.kw("db"), d.kw("f")}
        async with d.connect(at, **options) as feature:
            db = feature.db()
            assert await d.merge_base(main, ":db", ":f") == (d.commit_id(main.db()),)
            assert await line(feature, 7) == ["m10", "m11", "f0", "f1", "f2", "f3", "f4"]
            news = [(10 + i, ":n", i) for i in range(5)]
            ids = [x.e for x in await db.datoms("aevt", ":made")]
            news += [(e, ":made", i) for i, e in enumerate(sorted(ids))]
            assert await numbers(db) == sorted(await numbers(main.db()) + news)
            # What it makes from now on is nothing that it has.
            report = await feature.transact([{":made": 6}])
            assert report.tx_data[-1].e not in ids
            assert await d.rebase(feature, ":db") == []
            assert (await d.merge(main, ":f")).conflicts == ()
        async with d.connect(at, **options) as feature:
            assert await numbers(feature.db()) == await numbers(main.db())


async def test_at_a_conflict_the_branch_is_what_it_was(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as main:
        await main.transact([{":db/id": 1, ":n": 0}])
        await d.branch(main, ":db", ":f")
        async with d.connect(main.config, branch=":f") as feature:
            await feature.transact([[":db/add", 2, ":n", 2]])
            wrong = await feature.transact([[":db/add", 1, ":n", 1]])
            await feature.transact([[":db/add", 3, ":n", 3]])
            await main.transact([[":db/add", 1, ":n", 9]])
            before = feature.db()
            with pytest.raises(d.MergeConflict) as caught:
                await d.rebase(feature, ":db")
            report = caught.value.report
            assert report.theirs == d.commit_id(wrong.db_after)
            assert [(one.kind, one.entity) for one in report.conflicts] == [("value", 1)]
            assert feature.db() == before == await feature.sync()
            assert await d.branches(main) == {d.kw("db"), d.kw("f")}
            await d.rebase(feature, ":db", on_conflict="theirs")
        async with d.connect(main.config, branch=":f") as feature:
            assert [v for _, _, v in await numbers(feature.db())] == [1, 2, 3]


async def test_a_branch_that_has_nothing_of_its_own_becomes_the_other(
    config: dict[str, Any],
) -> None:
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":f")
        await main.transact([{":db/id": 1, ":n": 0}])
        async with d.connect(main.config, branch=":f") as feature:
            assert await d.rebase(feature, ":db") == []
        async with d.connect(main.config, branch=":f") as feature:
            assert d.commit_id(feature.db()) == d.commit_id(main.db())


@pytest.mark.parametrize("often", [1, 100])
async def test_whoever_commits_meanwhile_loses_nothing(
    config: dict[str, Any], often: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = rebasing._committed
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":f")
        await main.transact([{":db/id": 1, ":n": 0}])
        async with d.connect(main.config, branch=":f") as feature:
            await feature.transact([{":db/id": 10, ":n": 0}])
            done = []

            async def then(*args: Any) -> None:
                await committed(*args)
                if len(done) < often:
                    done.append(await feature.transact([{":db/id": 20 + len(done), ":n": 0}]))

            monkeypatch.setattr(rebasing, "_committed", then)
            if often > 1:
                with pytest.raises(d.HeadConflict):
                    await d.rebase(feature, ":db")
                wanted = [10, *range(20, 20 + len(done))]
            else:
                await d.rebase(feature, ":db")
                wanted = [1, 10, 20]
        async with d.connect(main.config, branch=":f") as feature:
            assert [e for e, *_ in await numbers(feature.db())] == wanted
        assert await d.branches(main) == {d.kw("db"), d.kw("f")}


async def test_where_it_fails_the_branch_is_what_it_was(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with d.connect(config, create=True) as main:
        await d.branch(main, ":db", ":f")
        await main.transact([{":db/id": 1, ":n": 0}])
        async with d.connect(main.config, branch=":f") as feature:
            await feature.transact([{":db/id": 10, ":n": 0}])
            before = feature.db()

            async def fails(*args: Any) -> None:
                raise StoreIOError("no room")

            for name in ("_committed", "move_branch"):
                with monkeypatch.context() as patch:
                    patch.setattr(rebasing, name, fails)
                    with pytest.raises((d.StorageError, StoreIOError)):
                        await d.rebase(feature, ":db")
                assert await feature.sync() == before
                assert await d.branches(main) == {d.kw("db"), d.kw("f")}
            await feature.transact([{":db/id": 11, ":n": 0}])
            await d.rebase(feature, ":db")
        async with d.connect(main.config, branch=":f") as feature:
            assert [e for e, *_ in await numbers(feature.db())] == [1, 10, 11]


async def test_main_can_be_rebased(config: dict[str, Any]) -> None:
    main = await d.connect(config, create=True)
    await d.branch(main, ":db", ":f")
    await main.transact([{":n": 1}])
    async with d.connect(main.config, branch=":f") as feature:
        await feature.transact([{":n": 2}])
        await d.rebase(main, ":f")
        await main.release()
        async with d.connect(feature.config, branch=":db") as again:
            report = await again.transact([{":n": 3}])
            found = await numbers(again.db())
            assert sorted(v for _, _, v in found) == [1, 2, 3]
            assert len({e for e, _, _ in found}) == 3
            assert report.tx_data[-1].e not in {e for e, _, v in found if v != 3}
