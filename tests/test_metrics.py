"""Counts of datoms, against counting them one by one; tempids and UUIDs that sort by time."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits

pytestmark = pytest.mark.anyio

SCHEMA = [
    {":db/ident": ":name", ":db/valueType": ":db.type/string",
     ":db/cardinality": ":db.cardinality/one", ":db/unique": ":db.unique/identity"},
    {":db/ident": ":aka", ":db/valueType": ":db.type/string",
     ":db/cardinality": ":db.cardinality/many"},
]  # fmt: skip


async def counted(db: d.Database) -> None:
    found = await db.metrics()
    datoms = list(await db.datoms("eavt"))
    indexed = list(await db.datoms("avet"))
    assert found.count == len(datoms) == await db.count()
    assert found.avet_count == len(indexed)
    assert found.per_attr_counts == Counter(x.a for x in datoms)
    assert found.per_entity_counts == Counter(x.e for x in datoms)
    if db.snapshot.keep_history:
        past = db.history()
        assert found.temporal_count == await past.count() - len(datoms)
        assert found.temporal_avet_count == len(await past.datoms("avet")) - len(indexed)
    else:
        assert found.temporal_count is found.temporal_avet_count is None
    told = d.jsonable(found)
    assert told["count"] == found.count
    assert sum(told["per_attr_counts"].values()) == sum(told["per_entity_counts"].values())


@pytest.mark.parametrize("history", [True, False])
async def test_metrics_are_what_counting_gives(tmp_path: Path, history: bool) -> None:
    config = {
        "store": {"backend": "file", "path": str(tmp_path / "db"), "id": uuid4()},
        "keep-history?": history,
    }
    async with d.connect(config, create=True, limits=Limits(flush_rows=40, close_rows=1)) as conn:
        await conn.transact(SCHEMA)
        for i in range(30):
            await conn.transact([{":name": f"n{i % 20}", ":aka": [f"a{i}", f"b{i}"]}])
        middle = conn.db().max_tx
        await conn.transact([[":db/retract", [":name", "n3"], ":aka", "a3"]])
        await counted(conn.db())
    async with d.connect(config) as conn:
        db = conn.db()
        await counted(db)
        assert await d.metrics(db) == await db.metrics()
        await counted(await db.db_with([{":name": "new"}]))
        if history:
            await counted(db.as_of(middle))
            await counted(db.since(middle - 3))
        await counted(db.filter(lambda _, datom: datom.e % 2 == 0))


async def test_tempids_are_new_each_time_and_resolve() -> None:
    first, second = d.tempid(":db.part/user"), d.tempid()
    assert second < first < -999_999
    assert d.tempid(d.kw("db.part/user"), -5) == -5
    assert d.tempid(":db.part/tx") == d.kw("db/current-tx")
    for bad in (5, 0, True, "x"):
        with pytest.raises(d.ArgumentError, match="negative"):
            d.tempid(":db.part/user", bad)  # type: ignore[arg-type]
    report = await d.empty_db().with_([[":db/add", first, ":a", 1], [":db/add", second, ":b", 2]])
    assert d.resolve_tempid(report.db_after, report.tempids, first) == 1
    assert d.resolve_tempid(report.db_after, report.tempids, second) == 2
    assert d.resolve_tempid(report.db_after, report.tempids, -7) is None


def test_squuids_begin_with_the_time() -> None:
    assert d.squuid() != d.squuid()
    before = int(datetime.now(UTC).timestamp()) * 1000
    assert before <= d.squuid_time_millis(d.squuid()) <= before + 5000
    assert (d.squuid().version, d.squuid().variant) == (4, UUID(int=0, version=4).variant)
    assert d.squuid(1_000_000_000_000) < d.squuid(1_000_000_001_000)
    for bad in (-1, 2**32 * 1000, 1.5, "now"):
        with pytest.raises(d.ArgumentError, match="milliseconds"):
            d.squuid(bad)  # type: ignore[arg-type]
    with pytest.raises(d.ArgumentError):
        d.squuid_time_millis("x")  # type: ignore[arg-type]
