"""The memtable under forks, failures and schema changes: states never leak into one another."""

from __future__ import annotations

import pytest

import datahike_async as d
from datahike_async.tx.apply import absorbed

pytestmark = pytest.mark.anyio

SCHEMA = {
    ":tag": {":db/valueType": ":db.type/string", ":db/cardinality": ":db.cardinality/many"},
    ":n": {":db/valueType": ":db.type/long", ":db/cardinality": ":db.cardinality/one"},
}


async def tags(db, e=1):
    return sorted(x.v for x in await db.datoms("eavt", e, ":tag"))


@pytest.fixture(params=[True, False])
async def db(request):
    db = d.empty_db(keep_history=True, schema_flexibility="write")
    db = await db.db_with(
        [{":db/ident": k, **v} for k, v in SCHEMA.items()] + [{":db/id": 100, ":n": 1}]
    )
    db = await db.db_with([{":db/id": 101, ":tag": ["a", "b"]}])
    return db._wrap(await absorbed(db.snapshot)) if request.param else db


async def test_an_index_that_failed_leaves_nothing(db):
    with pytest.raises(d.TransactionError):
        await db.db_with([{":db/ident": ":tag", ":db/index": True}, [":db/add", 101, ":nope", 1]])
    more = await db.db_with([{":db/id": 101, ":tag": ["c", "d"]}])
    again = await more.with_([{":db/id": 101, ":tag": ["c", "a"]}])
    assert [x for x in again.tx_data if x.e == 101] == []
    gone = await more.db_with([[":db/retract", 101, ":tag", "c"]])
    assert await tags(gone, 101) == ["a", "b", "d"]
    indexed = await gone.db_with([{":db/ident": ":tag", ":db/index": True}])
    assert [x.v for x in await indexed.datoms("avet", ":tag")] == ["a", "b", "d"]
    assert [x.v for x in await indexed.index_range(":tag", "b", "c")] == ["b"]
    past = indexed.history()
    assert sorted(x.v for x in await past.datoms("avet", ":tag")) == ["a", "b", "c", "c", "d"]


async def test_branches_of_one_value(db):
    children = [await db.db_with([{":db/id": 101, ":tag": [str(i)]}]) for i in range(4)]
    grandchildren = [
        await child.db_with([[":db/retract", 101, ":tag", "a"], [":db/add", 101, ":tag", "z"]])
        for child in children
    ]
    for i, (child, grandchild) in enumerate(zip(children, grandchildren, strict=True)):
        assert await tags(child, 101) == sorted(["a", "b", str(i)])
        assert await tags(grandchild, 101) == sorted(["b", "z", str(i)])
    assert await tags(db, 101) == ["a", "b"]


async def test_retract_and_assert_in_one_transaction(db):
    report = await db.with_(
        [
            [":db/retract", 101, ":tag", "a"],
            [":db/add", 101, ":tag", "a"],
            [":db/add", 101, ":tag", "q"],
            [":db/retract", 101, ":tag", "q"],
        ]
    )
    after = report.db_after
    assert await tags(after, 101) == ["a", "b"]
    assert await tags(after.as_of(db.max_tx), 101) == ["a", "b"]
    assert await tags(after.as_of(report.tx), 101) == ["a", "b"]
    assert await tags(after.since(db.max_tx), 101) == ["a"]
    ops = [(x.v, x.added) for x in report.tx_data if x.e == 101]
    assert ops == [("a", False), ("a", True), ("q", True), ("q", False)]


async def test_a_function_that_saw_the_running_state_and_failed(db):
    seen = []

    def look(running):
        seen.append(running)
        return [[":db/add", 101, ":nope", 1]]

    with pytest.raises(d.TransactionError):
        await db.db_with([[":db/add", 101, ":tag", "running"], [":db.fn/call", look]])
    after = await db.db_with([[":db/add", 101, ":tag", "later"]])
    assert await tags(after, 101) == ["a", "b", "later"]
    # What the function was given stays what it was.
    assert await tags(seen[0], 101) == ["a", "b", "running"]


async def test_cardinality_grows_and_shrinks(db):
    many = await db.db_with([{":db/ident": ":n", ":db/cardinality": ":db.cardinality/many"}])
    many = await many.db_with([[":db/add", 100, ":n", 2]])
    assert [x.v for x in await many.datoms("eavt", 100, ":n")] == [1, 2]
    with pytest.raises(d.TransactionError, match="narrow"):
        await many.db_with([{":db/ident": ":n", ":db/cardinality": ":db.cardinality/one"}])
    single = await many.db_with([[":db/retract", 100, ":n", 1]])
    single = await single.db_with([{":db/ident": ":n", ":db/cardinality": ":db.cardinality/one"}])
    single = await single.db_with([[":db/add", 100, ":n", 3]])
    assert [x.v for x in await single.datoms("eavt", 100, ":n")] == [3]
    assert await single.history().q("[:find [?v ...] :where [100 :n ?v]]") == [1, 2, 3]


async def test_the_past_is_in_order_wherever_it_lies():
    db = d.empty_db(keep_history=True, schema_flexibility="read")
    start = await db.db_with([[":db/add", e, ":v", e] for e in (1, 2, 3, 4)])
    db = start
    # Retracted in another order than that of the index, and all of it in the memtable.
    for e in (4, 1, 3, 2):
        db = await db.db_with([[":db/retract", e, ":v", e]])
    for state in (db, db._wrap(await absorbed(db.snapshot))):
        then = state.as_of(start.max_tx)
        for order in ("eavt", "aevt"):
            found = [x.e for x in await then.datoms(order) if x.a is d.kw("v")]
            assert found == [1, 2, 3, 4]
        assert await then.q("[:find ?e :in $ [?e ...] :where [?e :v _]]", [4, 2]) == {(4,), (2,)}
