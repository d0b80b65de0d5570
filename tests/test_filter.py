"""Filtered databases: everything that reads goes through the filters, on the past as well."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import datahike_async as d

pytestmark = pytest.mark.anyio

SCHEMA = {
    ":name": {":db/unique": ":db.unique/identity"},
    ":age": {":db/index": True},
    ":aka": {":db/cardinality": ":db.cardinality/many"},
    ":friend": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
}


@pytest.fixture
async def db() -> d.Database:
    return await d.empty_db(SCHEMA, keep_history=True).db_with(
        [
            {":db/id": 1, ":name": "Ada", ":age": 36, ":aka": ["A", "Lady"], ":friend": [2, 3]},
            {":db/id": 2, ":name": "Bob", ":age": 20, ":friend": [1]},
            {":db/id": 3, ":name": "Cy", ":age": 36, ":friend": [1]},
        ]
    )


async def waits(db: d.Database, datom: Any) -> bool:
    return False


class Waits:
    async def __call__(self, db: d.Database, datom: Any) -> bool:
        return False


async def test_a_filter_that_has_to_be_awaited_is_refused(db: d.Database) -> None:
    # A coroutine is true: it would keep everything.
    with pytest.raises(d.ArgumentError, match="answers at once"):
        db.filter(waits)
    with pytest.raises(d.ArgumentError, match="answers at once"):
        db.filter(columns=waits)
    for wanted in (Waits(), lambda db, datom: waits(db, datom)):
        for seen in (db.filter(wanted), db.filter(columns=wanted)):
            with pytest.raises(d.ArgumentError, match="answers at once"):
                await seen.q("[:find ?e :where [?e :age]]")


def adults(db: d.Database, datom: d.Datom) -> bool:
    return not (datom.a == d.kw("age") and datom.v < 30)


async def test_all_that_reads_sees_what_is_kept_alone(db: d.Database) -> None:
    seen = d.filter(db, adults)
    assert d.is_filtered(seen)
    assert seen.is_filtered
    assert not db.is_filtered
    assert set(await seen.q("[:find ?e :where [?e :age]]")) == {(1,), (3,)}
    assert set(await seen.q("[:find ?e :where [?e :age 20]]")) == set()
    assert await seen.pull("[:name :age]", 2) == {":name": "Bob"}
    assert await seen.pull_many("[:age]", [1, 2]) == [{":age": 36}, None]
    bob = await seen.entity(2)
    assert bob is not None
    assert bob.get(":age") is None
    assert [x.e for x in await seen.datoms("avet", ":age")] == [1, 3]
    assert [x.v for x in await seen.datoms("eavt", 2, ":age")] == []
    assert [x.e for x in await seen.index_range(":age", 0, 99)] == [1, 3]
    assert [x.v for x in await seen.seek_datoms("avet", ":age", 10)][:2] == [36, 36]
    below = await seen.rseek_datoms("avet", ":age", 30)
    assert [x for x in below if x.a == d.kw("age")] == []
    assert await seen.count() == await db.count() - 1


async def test_what_is_filtered_out_names_nothing(db: d.Database) -> None:
    seen = db.filter(lambda db, datom: datom.v != "Ada")
    assert await seen.entid([":name", "Ada"]) is None
    assert await seen.entid([":name", "Bob"]) == 2
    assert await seen.entity([":name", "Ada"]) is None
    assert await seen.q('[:find ?e . :where [?e :name "Ada"]]') is None


async def test_a_predicate_gets_the_unfiltered_database_and_a_datom(db: d.Database) -> None:
    got: list[tuple[Any, Any]] = []

    def first(given: d.Database, datom: d.Datom) -> bool:
        got.append((given, datom))
        return datom.e != 3

    def second(given: d.Database, datom: d.Datom) -> bool:
        got.append((given, datom))
        return datom.e != 2

    seen = db.filter(first).filter(second)
    assert {x.e for x in await seen.datoms("aevt", ":name")} == {1}
    assert all(given is db or given == db for given, _ in got)
    assert not any(given.is_filtered for given, _ in got)
    # The second one is not asked about what the first one does not keep.
    assert [datom.e for _, datom in got] == [1, 2, 3, 1, 2]
    assert all(type(datom) is d.Datom and datom.added for _, datom in got)


async def test_filters_stack_on_views_of_the_past_and_the_other_way_round(db: d.Database) -> None:
    then = db.max_tx
    later = await db.db_with([[":db/add", 2, ":age", 40], [":db/retract", 1, ":aka", "A"]])
    for seen in (later.filter(adults).as_of(then), later.as_of(then).filter(adults)):
        assert await seen.q("[:find [?e ...] :where [?e :age]]") == [1, 3]
        assert {x.v for x in await seen.datoms("aevt", ":aka")} == {"A", "Lady"}
        assert seen.is_filtered
    assert await later.filter(adults).q("[:find [?e ...] :where [?e :age]]") == [1, 2, 3]
    for seen in (later.filter(adults).history(), later.history().filter(adults)):
        ages = [(x.e, x.v, x.added) for x in await seen.datoms("aevt", ":age")]
        assert ages == [(1, 36, True), (2, 40, True), (3, 36, True)]
        gone = [(x.v, x.added) for x in await seen.datoms("aevt", ":aka") if not x.added]
        assert gone == [("A", False)]
    new = later.filter(adults).since(then)
    assert [(x.e, x.v) for x in await new.datoms("aevt", ":age")] == [(2, 40)]
    retractions = later.history().filter(lambda _, datom: not datom.added)
    assert {(x.e, x.v) for x in await retractions.datoms("eavt")} == {(2, 20), (1, "A")}


async def test_columns_are_asked_at_once(db: d.Database) -> None:
    asked: list[int] = []

    def keep(given: d.Database, datoms: d.DatomColumns) -> Any:
        assert given is db
        asked.append(len(datoms))
        assert datoms.e.dtype == datoms.tx.dtype == np.int64
        assert datoms.added.all()
        assert len({len(part) for part in (datoms.e, datoms.a, datoms.v, datoms.tx)}) == 1
        if datoms.v.dtype != object:
            with pytest.raises(ValueError, match="read-only"):
                datoms.v[0] = 0
        return (datoms.a != d.kw("age")) | np.array([v != 20 for v in datoms.v.tolist()])

    seen = db.filter(columns=keep)
    assert {x.e for x in await seen.datoms("aevt", ":age")} == {1, 3}
    assert asked == [3]
    assert [(x.a.name, x.v) for x in await seen.datoms("eavt", 2)] == [
        (x.a.name, x.v) for x in await db.datoms("eavt", 2) if x.v != 20
    ]
    both = db.filter(columns=keep).filter(lambda _, datom: datom.e < 3)
    assert {x.e for x in await both.datoms("aevt", ":age")} == {1}
    for wrong in (
        lambda db, datoms: True,
        lambda db, datoms: datoms.e,
        lambda db, datoms: [True] * (len(datoms) + 1),
    ):
        with pytest.raises(d.ArgumentError, match="bools"):
            await db.filter(columns=wrong).datoms("aevt", ":age")


async def test_what_a_predicate_raises_comes_out_bare(db: d.Database) -> None:
    def broken(_: d.Database, datom: d.Datom) -> bool:
        raise LookupError(datom.v)

    seen = db.filter(broken)
    for call in (
        lambda: seen.q("[:find ?n :where [?e :name ?n]]"),
        lambda: seen.datoms("eavt"),
        lambda: seen.pull("[:name]", 1),
        lambda: seen.entity(1),
    ):
        with pytest.raises(LookupError):
            await call()


async def test_many_datoms_are_asked_about_in_a_thread(anyio_backend: str) -> None:
    db = d.init_db([(i, ":n", i) for i in range(1, 20_001)])
    here, threads = threading.get_ident(), set()

    def even(_: d.Database, datom: d.Datom) -> bool:
        threads.add(threading.get_ident())
        return bool(datom.v % 2 == 0)

    assert len(await db.filter(even).datoms("eavt")) == 10_000
    assert here not in threads


async def test_a_filtered_database_is_not_modified(db: d.Database) -> None:
    seen = db.filter(adults)
    for call in (seen.with_, seen.db_with):
        with pytest.raises(d.TransactionError, match="filtered") as caught:
            await call([{":name": "Dee"}])
        assert caught.value.error == ":transaction/filtered"


async def test_equal_are_the_same_filters_of_equal_databases(db: d.Database) -> None:
    seen = db.filter(adults)
    assert seen == seen
    assert seen != db
    assert seen != db.filter(lambda db, datom: True)
    assert await d.diff(db, seen) == (
        [],
        [x for x in await db.datoms("eavt") if not adults(db, x)],
    )


async def test_bad_filters(db: d.Database) -> None:
    for arguments, named in (
        ((), {}),
        ((adults,), {"columns": adults}),
        ((5,), {}),
        ((), {"columns": 5}),
    ):
        with pytest.raises(d.ArgumentError, match=r"filter"):
            db.filter(*arguments, **named)  # type: ignore[arg-type]
