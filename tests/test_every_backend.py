"""One database, every backend: what users do works alike wherever the bytes lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits
from tests.servers.programs import S3Server
from tests.stores import LOCAL, REMOTE, TIERED, on_loops, store_on
from tests.strangers import Strangers

ALL = on_loops([*LOCAL, *REMOTE, *TIERED])

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize(("anyio_backend", "store"), ALL, indirect=["store"]),
]

SCHEMA = """
[{:db/ident :name :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :age :db/valueType :db.type/long :db/cardinality :db.cardinality/one}
 {:db/ident :knows :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}
 {:db/ident :tags :db/valueType :db.type/keyword :db/cardinality :db.cardinality/many}]
"""
OFTEN = Limits(flush_rows=60, flush_bytes=3_000, flush_journal_bytes=3_000, close_rows=5)


@pytest.fixture
def store(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], S3Server]
) -> Mapping[str, Any]:
    return store_on(request.param, tmp_path, servers)


async def test_a_life(store: Mapping[str, Any]) -> None:
    assert not await d.database_exists(store=store)
    await d.create_database(store=store, initial_tx=SCHEMA)
    with pytest.raises(d.DatabaseExists):
        await d.create_database(store=store)
    async with d.connect(store=store, limits=OFTEN) as conn:
        first = await conn.transact(
            [{":name": "Ada", ":age": 36, ":tags": [":a", ":b"], ":knows": [{":name": "Bob"}]}]
        )
        for age in range(37, 60):
            await conn.transact([{":name": "Ada", ":age": age}])
        await conn.transact([{":name": f"n{i}", ":age": i} for i in range(2_000)])
        await conn.transact([[":db/retractEntity", [":name", "Bob"]]])
        with pytest.raises(d.TransactionError):
            await conn.transact([{":name": "Ada", ":age": "old"}])
    async with d.connect(store=store) as conn:
        db = conn.db()
        assert await db.q('[:find ?a . :where [?e :name "Ada"] [?e :age ?a]]') == 59
        assert await db.q("[:find (count ?e) . :where [?e :name _]]") == 2_001
        then = db.as_of(first.tx)
        pattern = "[:age {:knows [:name]} :tags]"
        ada = await then.pull(pattern, [":name", "Ada"])
        assert (ada[":age"], ada[":knows"][0][":name"]) == (36, "Bob")
        ages = await db.history().q('[:find [?a ...] :where [?e :name "Ada"] [?e :age ?a _ true]]')
        assert sorted(ages) == list(range(36, 60))
        assert await db.since(first.tx).q("[:find (count ?e) . :where [?e :age _]]") == 2_001
    await d.delete_database(store=store)
    assert not await d.database_exists(store=store)
    with pytest.raises(d.DatabaseNotFound):
        async with d.connect(store=store):
            pass


async def test_two_writers_and_a_reader(store: Mapping[str, Any]) -> None:
    await d.create_database(store=store, initial_tx=SCHEMA)
    each = 15

    async def write(conn: d.Connection, who: str) -> None:
        for i in range(each):
            await conn.transact([{":name": f"{who}{i}", ":age": i}])

    async with (
        Strangers(store, limits=OFTEN) as one,
        Strangers(store, limits=OFTEN) as two,
        Strangers(store) as reader,
    ):
        async with anyio.create_task_group() as group:
            group.start_soon(write, one, "a")
            group.start_soon(write, two, "b")
            for _ in range(5):
                held = await reader.sync()
                seen = len(await held.datoms("aevt", ":name"))
                await anyio.sleep(0.01)
                assert len(await held.datoms("aevt", ":name")) == seen
        names = {x.v for x in await (await reader.sync()).datoms("aevt", ":name")}
    assert names == {f"{who}{i}" for who in "ab" for i in range(each)}
    async with d.connect(store=store) as conn:
        txs = await conn.db().q("[:find (count ?t) . :where [?t :db/txInstant _]]")
        assert txs == 2 * each + 1
    await d.delete_database(store=store)


async def test_an_exclusive_writer_is_fenced(store: Mapping[str, Any]) -> None:
    await d.create_database(store=store, initial_tx=SCHEMA)
    mine = {":writer-ownership": ":exclusive"}
    async with Strangers(store, writer=mine) as owner, Strangers(store) as other:
        await owner.transact([{":name": "mine"}])
        await other.transact([{":name": "theirs"}])
        with pytest.raises(d.WriterFenced):
            await owner.transact([{":name": "lost"}])
    async with d.connect(store=store) as conn:
        assert {x.v for x in await conn.db().datoms("aevt", ":name")} == {"mine", "theirs"}
    await d.delete_database(store=store)


async def test_branches_of_one_store_open_at_once(store: Mapping[str, Any]) -> None:
    await d.create_database(store=store, initial_tx=SCHEMA)
    async with d.connect(store=store, limits=OFTEN) as main:
        for age in range(25):
            report = await main.transact([{":name": "Ada", ":age": age}])
        held = report.db_before
        await d.branch(main, d.commit_id(held), ":side")
        async with d.connect(store=store, branch=":side", limits=OFTEN) as side:
            assert side.db() == held
            for age in range(100, 120):
                await side.transact([{":name": "Ada", ":age": age}])
                await main.transact([{":name": "Bob", ":age": age}])
            ages = "[:find [?a ...] :where [_ :age ?a]]"
            assert set(await side.db().q(ages)) == {119}
            assert set(await (await d.branch_as_db(main, ":side")).q(ages)) == {119}
            merged = await d.merge_db(main, [":side"], [{":name": "Ada", ":age": 119}])
            assert d.commit_id(side.db()) in d.parent_commit_ids(merged.db_after)
            line = [db.commit_id async for db in d.branch_history(side)]
            assert d.commit_id(held) in line
            assert len(line) == len(set(line)) == 25 + 20 + 1
            await d.delete_branch(main, ":side")
            with pytest.raises(d.WriterError):
                await side.transact([{":name": "Ada", ":age": 0}])
    async with d.connect(store=store) as main:
        found = await d.commit_as_db(main, d.commit_id(held))
        assert found == held
        assert await d.branches(main) == {d.kw("db")}
    await d.delete_database(store=store)
    assert not await d.database_exists(store=store)
