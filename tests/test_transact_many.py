"""Several transactions in one publication: all of them, or none."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits
from datahike_async.tx import bulk

pytestmark = pytest.mark.anyio

FLUSHING = Limits(flush_rows=6, flush_bytes=300, flush_journal_bytes=600, close_rows=10**9)
AGE = {
    ":db/ident": ":age",
    ":db/valueType": ":db.type/long",
    ":db/cardinality": ":db.cardinality/one",
}


async def numbers(db: d.Database) -> list[int]:
    return sorted(x.v for x in await db.datoms("aevt", ":n"))


@pytest.mark.parametrize("limits", [FLUSHING, Limits()], ids=["flushing", "tail"])
async def test_they_are_applied_one_on_the_other_and_each_is_a_commit(
    config: dict[str, Any], limits: Limits
) -> None:
    await d.create_database(config)
    async with d.connect(config, limits=limits) as conn:
        before, generation = conn.db(), conn._transactor.branch.committer.generation
        heard: list[d.TxReport] = []
        conn.listen(heard.append)
        reports = await conn.transact_many(
            [
                [AGE],
                "[{:n 1, :age 4, :db/id 1}]",
                {":tx-data": [[":db.fn/cas", 1, ":age", 4, 5]], ":tx-meta": {":why": "later"}},
                ({":n": n} for n in range(2, 4)),
            ]
        )
        assert conn._transactor.branch.committer.generation == generation + 1
        assert [r.tx for r in reports] == [*range(before.max_tx + 1, before.max_tx + 5)]
        for last, report in zip([before, *(r.db_after for r in reports)], reports, strict=False):
            assert report.db_before == last
            assert d.parent_commit_ids(report.db_after) == {d.commit_id(last)}
            there = await d.commit_as_db(conn, d.commit_id(report.db_after))
            assert there == report.db_after
            assert await numbers(report.db_after) == await numbers(there)
        assert reports[-1].db_after == conn.db()
        assert reports[2].tx_meta[d.kw("why")] == "later"
        assert await numbers(reports[1].db_after) == [1]
        with anyio.fail_after(5):
            while len(heard) < 4:
                await anyio.sleep(0.001)
        assert [r.tx for r in heard] == [r.tx for r in reports]
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == [1, 2, 3]
        assert await d.q("[:find ?a . :where [_ :age ?a]]", conn.db()) == 5


@pytest.mark.parametrize("count", [1, 20, bulk.LEAST])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_where_one_fails_none_is_there(
    config: dict[str, Any], count: int, place: int
) -> None:
    async with d.connect(config, create=True) as conn:
        await conn.transact([AGE, {":db/id": 1, ":n": 0, ":age": 7}])
        before = conn.db()
        parts: list[Any] = [[{":n": n} for n in range(count)] for _ in range(3)]
        parts[place] = [[":db.fn/cas", 1, ":age", 0, 1]]
        with pytest.raises(d.TransactionError) as caught:
            await conn.transact_many(parts)
        assert caught.value.error == ":transact/cas"
        assert caught.value.data[":transaction"] == place
        assert caught.value.__notes__ == [f"In transaction {place + 1} of 3."]
        assert conn.db() == before
        assert conn.db().max_eid == before.max_eid
        assert await numbers(conn.db()) == [0]
        # Those beside it in a group are nobody's business.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conn.transact, [{":n": 100}])
            tasks.start_soon(_refused, conn, parts)
            tasks.start_soon(conn.transact_many, [[{":n": 101}], [{":n": 102}]])
            tasks.start_soon(_refused, conn, parts)
            tasks.start_soon(conn.transact, [{":n": 103}])
        assert await numbers(conn.db()) == [0, 100, 101, 102, 103]
        assert len({x.e for x in await conn.db().datoms("aevt", ":n")}) == 5
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == [0, 100, 101, 102, 103]


async def test_a_purge_that_does_not_come_about_leaves_those_beside_it_in_the_log(
    config: dict[str, Any],
) -> None:
    refused = [[[":db.purge/entity", 1]], [[":db.fn/cas", 2, ":n", 5, 6]]]
    async with d.connect(config, create=True) as conn:
        await conn.transact([{":db/id": 1, ":n": 0}, {":db/id": 2, ":n": 1}])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conn.transact, [{":n": 100}])
            tasks.start_soon(_refused, conn, refused)
            tasks.start_soon(conn.transact, [{":n": 101}])
        assert await numbers(conn.db()) == [0, 1, 100, 101]
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == [0, 1, 100, 101]


async def _refused(conn: d.Connection, parts: list[Any]) -> None:
    with pytest.raises(d.TransactionError):
        await conn.transact_many(parts)


async def test_another_writer_between_has_all_of_them_applied_again(
    config: dict[str, Any],
) -> None:
    """What is refused on the old state may be right on the new one."""
    async with d.connect(config, create=True) as one:
        await one.transact([AGE, {":db/id": 1, ":age": 7}])
        results: list[Any] = []

        def elsewhere() -> None:
            async def main() -> None:
                async with d.connect(config) as other:
                    await other.transact([[":db/add", 1, ":age", 8]])

            anyio.run(main)

        await anyio.to_thread.run_sync(elsewhere)
        # This connection has not looked at the store since; publishing shows it.
        for old, new in ((8, 9), (9, 10)):
            results.append([[":db.fn/cas", 1, ":age", old, new]])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.transact, [{":n": 50}])
            tasks.start_soon(one.transact_many, [[{":n": 1}], *results])
        assert await d.q("[:find ?a . :where [_ :age ?a]]", one.db()) == 10
        assert await numbers(one.db()) == [1, 50]


async def test_what_is_given_is_checked(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        before = (await conn.transact([{":n": 0}])).db_after
        assert await conn.transact_many([]) == []
        for wrong in ("[[{:n 1}]]", {":tx-data": []}, 7):
            with pytest.raises(d.ArgumentError, match="takes a collection of transactions"):
                await conn.transact_many(wrong)
        with pytest.raises(d.ArgumentError, match="idempotency_key can't be said of one"):
            await conn.transact_many([{":tx-data": [{":n": 1}], ":idempotency-key": "x"}])
        with pytest.raises(d.TransactionError):
            await conn.transact_many([[{":n": 1}], 7])
        with pytest.raises(d.TransactionError) as basis:
            await conn.transact_many([[{":n": 1}], [{":n": 2}]], expected_basis=before.max_tx - 1)
        assert basis.value.error == ":transact/basis-mismatch"
        assert conn.db() == before
        reports = await d.transact_many(conn, [[{":n": 1}], [{":n": 2}]], expected_basis=before)
        assert len(reports) == 2
    async with d.connect(config, read_only=True) as reader:
        with pytest.raises(d.WriterError):
            await reader.transact_many([[{":n": 3}]])
