"""The log as users see it: what each transaction did, told as it was when it was committed."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits
from tests.stores import on

pytestmark = pytest.mark.anyio

SMALL = Limits(flush_rows=40, flush_bytes=2_000, flush_journal_bytes=4_000, close_rows=10**9)
SCHEMA = """[{:db/ident :many :db/cardinality :db.cardinality/many}
             {:db/ident :name :db/cardinality :db.cardinality/one}]"""

Told = tuple[int, list[tuple[Any, ...]]]


@pytest.fixture(params=["memory", "file"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param == "file":
        store["path"] = str(tmp_path / "db")
    return {"store": store, "schema_flexibility": "read"}


def told(report: d.TxReport) -> Told:
    """Return what a transaction did in the end, by its report."""
    steps: dict[Any, list[bool]] = {}
    for x in report.tx_data:
        steps.setdefault((x.e, str(x.a), type(x.v).__name__, x.v), []).append(x.added)
    done = [(*fact, False) for fact, added in steps.items() if not added[0]]
    done += [(*fact, True) for fact, added in steps.items() if added[-1]]
    return report.tx, sorted(done, key=repr)


def of(entry: d.LogEntry) -> Told:
    signs = [x.added for x in entry.datoms]
    assert signs == sorted(signs), "what was retracted comes first"
    assert {x.tx for x in entry.datoms} <= {entry.tx}
    return entry.tx, sorted(
        ((x.e, str(x.a), type(x.v).__name__, x.v, x.added) for x in entry.datoms), key=repr
    )


async def entries(conn: d.Connection, *points: Any) -> list[Told]:
    return [of(entry) async for entry in conn.tx_range(*points)]


def transaction(rng: random.Random) -> list[Any]:
    """Return data that changes some of few facts, now and then one of them twice."""
    values = [1, True, 1.5, "a", "b", d.kw("k"), datetime(2020, 1, 1, tzinfo=UTC)]
    out: list[Any] = []
    for _ in range(rng.choice([1, 3, 9])):
        e, v = rng.randrange(11, 16), rng.choice(values)
        a = rng.choice([":many", ":name"])
        out += rng.choice(
            [
                [[":db/add", e, a, v]],
                [[":db/add", e, a, v]],
                [[":db/retract", e, a, v]],
                [[":db/add", e, a, v], [":db/retract", e, a, v]],
                [[":db/retract", e, a, v], [":db/add", e, a, v]],
                [[":db/retractEntity", e]],
            ]
        )
    return out


async def filled(config: dict[str, Any], seed: int, times: int = 3) -> list[Told]:
    """Transact at random, with flushes, a large load and reopening; return what was done."""
    rng, out = random.Random(seed), []
    await d.create_database(config)
    for _ in range(times):
        async with d.connect(config, limits=SMALL) as conn:
            if not out:
                out.append(told(await conn.transact(SCHEMA)))
            count = rng.randrange(8)
            out += [told(await conn.transact(transaction(rng))) for _ in range(count)]
            some = await conn.transact_many([transaction(rng), transaction(rng)])
            out += [told(report) for report in some]
            if rng.random() < 0.4:
                load = [[":db/add", 100 + i, ":name", rng.randrange(9)] for i in range(700)]
                out.append(told(await conn.transact(load)))
            if rng.random() < 0.4:
                await d.compact(conn)
    return out


@pytest.mark.parametrize(("seed", "keep_history"), [(0, True), (1, False), (2, True)])
async def test_any_range_is_what_was_committed(
    config: dict[str, Any], seed: int, keep_history: bool
) -> None:
    known = await filled({**config, "keep_history": keep_history}, seed)
    rng = random.Random(seed)
    async with d.connect(config, limits=SMALL) as conn:
        assert await entries(conn) == known
        for _ in range(12):
            i, j = rng.randrange(len(known)), rng.randrange(len(known))
            assert await entries(conn, known[i][0], known[j][0]) == known[i + 1 : j + 1]
        first = known[0][0]
        line = {db.max_tx: db async for db in d.branch_history(conn)}
        async for entry in conn.tx_range(first, line[known[-2][0]]):
            assert entry.commit_id == line[entry.tx].commit_id
            if keep_history:
                assert entry.instant == await instant_of(conn, entry.tx)
        assert await entries(conn, line[first]) == known[1:]


async def instant_of(conn: d.Connection, tx: int) -> Any:
    return (await conn.db().pull("[:db/txInstant]", tx))[":db/txInstant"]


@pytest.mark.parametrize("seed", range(2))
async def test_what_was_collected_is_told_from_the_history(
    config: dict[str, Any], seed: int
) -> None:
    known = await filled(config, seed)
    middle = known[len(known) // 2][0]
    async with d.connect(config, limits=SMALL) as conn:
        before = [entry async for entry in conn.tx_range()]
        assert (await d.gc_storage(conn, remove_before=middle)).freed
    async with d.connect(config, limits=SMALL) as conn:
        after = [entry async for entry in conn.tx_range()]
        assert after == before
        assert [(x.tx, x.a, x.added) for y in after for x in y.datoms] == [
            (x.tx, x.a, x.added) for y in before for x in y.datoms
        ]
        assert [entry.commit_id for entry in after[:2]] == [None, None]
        assert after[-1].commit_id == before[-1].commit_id
        assert await entries(conn, known[1][0], known[3][0]) == known[2:4]


async def test_without_history_what_was_collected_is_refused(config: dict[str, Any]) -> None:
    known = await filled({**config, "keep_history": False}, 1)
    async with d.connect(config, limits=SMALL) as conn:
        await d.gc_storage(conn, remove_before=known[-3][0])
    async with d.connect(config, limits=SMALL) as conn:
        with pytest.raises(d.SnapshotExpired):
            await entries(conn)
        assert await entries(conn, known[-2][0]) == known[-1:]


async def test_what_was_purged_is_not_told(config: dict[str, Any]) -> None:
    config["crypto_hash"] = False  # which allows for no purge
    async with d.connect(config, create=True, limits=SMALL) as conn:
        reports = [await conn.transact([{":db/id": 1, ":n": n, ":m": -n}]) for n in range(30)]
        purge = await conn.transact([[":db.purge/attribute", 1, ":n"]])
        found = await entries(conn)
        assert [tx for tx, _ in found] == [report.tx for report in [*reports, purge]]
        names = {a for _, datoms in found for _, a, *_ in datoms}
        assert names == {":m", ":db/txInstant"}
        assert sum(a == ":m" for _, datoms in found for _, a, *_ in datoms) == 59


async def test_points_are_instants_and_databases_too(config: dict[str, Any]) -> None:
    for keep_history in (True, False):
        store = {**config["store"], "id": uuid4()}
        store |= {"path": f"{store['path']}-{keep_history}"} if "path" in store else {}
        options = {**config, "store": store, "keep_history": keep_history}
        async with d.connect(options, create=True) as conn:
            reports = [await conn.transact([{":n": n}]) for n in range(6)]
            known = [told(report) for report in reports]
            at = [report.instant for report in reports]
            assert await entries(conn, at[1], at[3]) == known[2:4]
            little = timedelta(microseconds=1)
            assert await entries(conn, at[1] - little, at[3] - little) == known[1:3]
            assert await entries(conn, datetime(1900, 1, 1, tzinfo=UTC)) == known
            assert await entries(conn, None, datetime(1900, 1, 1, tzinfo=UTC)) == []
            assert await entries(conn, 0, reports[1].db_after) == known[:2]
            assert await entries(conn, reports[3].db_after) == known[4:]
            assert await entries(conn, known[4][0], known[1][0]) == []


async def test_the_log_of_a_branch_begins_with_that_of_the_other(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=SMALL) as conn:
        known = [told(await conn.transact([{":n": n}])) for n in range(30)]
        await d.branch(conn, ":db", ":trial")
        async with d.connect(on(config, "trial"), limits=SMALL) as trial:
            known += [told(await trial.transact([{":m": n}])) for n in range(30)]
            assert await entries(trial) == known
        await conn.transact([{":n": -1}])
        await d.merge(conn, ":trial")
        found = await entries(conn, known[29][0])
        assert len(found) == 2
        assert found[-1][0] == conn.db().max_tx > known[-1][0]
        assert sum(a == ":m" for _, a, *_ in found[-1][1]) == 30


async def test_a_range_ends_where_the_database_was_when_it_began(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True, limits=SMALL) as conn:
        known = [told(await conn.transact([{":n": n}])) for n in range(3)]
        going = conn.tx_range()
        found = [of(await anext(going))]
        for n in range(60):
            await conn.transact([{":later": n}])
        found += [of(entry) async for entry in going]
        assert found == known
        going = d.tx_range(conn)
        await anext(going)
    with pytest.raises(d.ConnectionClosed):
        await anext(going)
    with pytest.raises(d.ConnectionClosed):
        conn.tx_range()


async def test_an_entry_has_a_form_in_json(config: dict[str, Any]) -> None:
    async with d.connect(config, create=True) as conn:
        report = await conn.transact([[":db/add", 1, ":n", 5]])
        (entry,) = [x async for x in conn.tx_range(report.db_before)]
        said = json.loads(json.dumps(d.jsonable(entry)))
        assert said == {
            "tx": report.tx,
            "instant": report.instant.isoformat(),
            "datoms": [
                [1, ":n", 5, report.tx, True],
                [report.tx, ":db/txInstant", report.instant.isoformat(), report.tx, True],
            ],
            "commit_id": str(d.commit_id(report.db_after)),
        }


async def test_what_is_no_point_is_refused(config: dict[str, Any]) -> None:
    async with (
        d.connect(config, create=True) as conn,
        d.connect(store={"backend": "memory"}, create=True) as other,
    ):
        naive = datetime(2020, 1, 1)
        wrong = [1, -5, True, "2020", 1.5, naive, d.empty_db(), other.db(), conn.db().history()]
        for point in wrong:
            for points in ((point,), (None, point)):
                with pytest.raises(d.ArgumentError) as caught:
                    conn.tx_range(*points)
                assert caught.value.error == ":temporal/invalid-time-point"
        with pytest.raises(d.ArgumentError, match="connection is expected"):
            d.tx_range(conn.db())  # type: ignore[arg-type]
