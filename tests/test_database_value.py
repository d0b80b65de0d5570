"""Reading a database value: datoms, seeking, ranges, views, and values without a store."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

import datahike_async as d
from datahike_async.env import Env
from datahike_async.tx.apply import absorbed

pytestmark = pytest.mark.anyio

SCHEMA = {
    ":name": {":db/valueType": ":db.type/string", ":db/cardinality": ":db.cardinality/one"},
    ":age": {
        ":db/valueType": ":db.type/long",
        ":db/cardinality": ":db.cardinality/one",
        ":db/index": True,
    },
    ":friend": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":email": {
        ":db/valueType": ":db.type/string",
        ":db/cardinality": ":db.cardinality/one",
        ":db/unique": ":db.unique/identity",
    },
}
PEOPLE = [
    (1, ":name", "Ivan"),
    (1, ":age", 15),
    (1, ":email", "i@x"),
    (2, ":name", "Petr"),
    (2, ":age", 37),
    (2, ":friend", 1),
    (3, ":name", "Anna"),
    (3, ":age", 37),
]


@pytest.fixture(params=["memtable", "trees", "init"])
async def db(request):
    if request.param == "init":
        return d.init_db([(*fact, 536870913) for fact in PEOPLE], SCHEMA)
    db = await d.empty_db(SCHEMA).db_with([[":db/add", *fact] for fact in PEOPLE])
    return db if request.param == "memtable" else db._wrap(await absorbed(db.snapshot))


def eav(datoms):
    return [(x.e, ":" + x.a.text, x.v) for x in datoms]


async def test_datoms(db):
    assert sorted(eav(await db.datoms("eavt"))) == sorted(PEOPLE)
    assert eav(await db.datoms(":eavt", 2, ":age")) == [(2, ":age", 37)]
    assert eav(await db.datoms(d.kw("eavt"), [":email", "i@x"], ":name")) == [(1, ":name", "Ivan")]
    assert eav(await db.datoms("aevt", ":name")) == [x for x in PEOPLE if x[1] == ":name"]
    assert eav(await db.datoms("aevt", ":name", 3, "Anna")) == [(3, ":name", "Anna")]
    assert [x.e for x in await db.datoms("avet", ":age", 37)] == [2, 3]
    assert [x.e for x in await db.datoms("avet", ":friend", [":email", "i@x"])] == [2]
    assert eav(await db.datoms("avet", ":name")) == []  # not indexed
    assert eav(await db.datoms("avet", ":nothing")) == []
    assert eav(await d.datoms(db, "eavt", 9)) == []
    (datom,) = await db.datoms("eavt", 1, ":name")
    assert datom == d.Datom(1, d.kw("name"), "Ivan", 0)
    assert (datom[0], datom.tx, datom.added, len(datom)) == (1, 536870913, True, 5)
    found = await db.datoms("eavt")
    assert found[-1] == list(found)[-1]
    assert eav(found[2:4]) == eav(list(found)[2:4])
    assert eav(reversed(found)) == eav(found)[::-1]
    with pytest.raises(d.QueryError, match=":vaet") as caught:
        await db.datoms(":vaet")
    assert caught.value.error == ":unknown-index-type"
    with pytest.raises(d.QueryError) as caught:
        await db.datoms("eavt", [":email", "nobody"])
    assert caught.value.error == ":entity-id/missing"


async def test_seeking(db):
    everything = eav(await db.datoms("eavt"))
    start = everything.index((2, ":age", 37))
    assert eav(await db.seek_datoms("eavt", 2, ":age")) == everything[start:]
    assert eav(await db.rseek_datoms("eavt", 2, ":age")) == everything[: start + 1][::-1]
    assert [x.v for x in await db.seek_datoms("avet", ":age", 16) if x.a is d.kw("age")] == [37, 37]
    assert [x.v for x in await db.rseek_datoms("avet", ":age", 36)] == [15]


async def test_index_range(db):
    assert [(x.e, x.v) for x in await db.index_range(":age", 15, 37)] == [(1, 15), (2, 37), (3, 37)]
    assert [x.v for x in await db.index_range(":age", 16)] == [37, 37]
    assert [x.v for x in await d.index_range(db, ":age", None, 16)] == [15]
    with pytest.raises(d.QueryError, match="db/index true"):
        await db.index_range(":name", "a", "b")
    with pytest.raises(d.QueryError, match="not in the schema"):
        await db.index_range(":nam")


async def test_identifiers(db):
    assert await db.entid(2) == 2
    assert await db.entid([":email", "i@x"]) == 1
    assert await db.entid([":email", "no"]) is None
    assert await db.entid(":no/ident") is None
    for bad, keyword in (
        ([":email"], ":lookup-ref/syntax"),
        ([":name", "Ivan"], ":lookup-ref/unique"),
        (1.5, ":entity-id/syntax"),
        ("name", ":entity-id/syntax"),
    ):
        with pytest.raises(d.QueryError) as caught:
            await db.entid(bad)
        assert caught.value.error == keyword


async def test_speculation_leaves_the_value_alone(db):
    before = list(await db.datoms("eavt"))
    one = await db.db_with([{":db/id": 1, ":age": 16}])
    two = await db.db_with([{":db/id": 1, ":age": 17}])
    three = await one.db_with([[":db/retractEntity", 1]])
    assert list(await db.datoms("eavt")) == before
    assert [x.v for x in await one.datoms("eavt", 1, ":age")] == [16]
    assert [x.v for x in await two.datoms("eavt", 1, ":age")] == [17]
    assert eav(await three.datoms("eavt", 1)) == []
    assert await three.count() == len(before) - 4
    assert db == db._with_view(db.view)
    assert db != one


async def test_schema_views(db):
    assert d.schema(db)[d.kw("age")][d.kw("db/index")] is True
    reverse = d.reverse_schema(db)
    assert reverse[d.kw("db/unique")] == {d.kw("email")}
    assert d.kw("friend") in reverse[d.kw("db.cardinality/many")]


async def test_time():
    env = Env.seeded(3)
    db = d.empty_db(keep_history=True, schema_flexibility="read", env=env)
    instants, states = [], []
    for age in (1, 2, 3):
        report = await db.with_([{":db/id": 1, ":age": age, ":step": f"s{age}"}])
        db = report.db_after
        instants.append((report.tx, report.instant))
        states.append(await db.pull("[:age :step]", 1))
    for (tx, instant), state in zip(instants, states, strict=True):
        assert await db.as_of(tx).pull("[:age :step]", 1) == state
        assert await db.as_of(instant).pull("[:age :step]", 1) == state
        between = instant + timedelta(microseconds=10)
        assert await d.as_of(db, between).pull("[:age :step]", 1) == state
    assert await db.as_of(datetime(2000, 1, 1, tzinfo=UTC)).pull("[:age]", 1) is None
    assert await db.since(instants[1][0]).pull("[:age]", 1) == {":age": 3}
    assert await d.since(db, instants[2][1]).pull("[:age]", 1) is None
    window = db.as_of(instants[1][0]).since(instants[0][0])
    assert await window.pull("[:age]", 1) == {":age": 2}
    events = await d.history(db).q("[:find ?v ?tx ?op :where [1 :age ?v ?tx ?op]]")
    t1, t2, t3 = (tx for tx, _ in instants)
    assert events == {
        (1, t1, True), (1, t2, False), (2, t2, True), (2, t3, False), (3, t3, True)
    }  # fmt: skip
    past = await db.as_of(t2).history().q("[:find ?v ?tx ?op :where [1 :age ?v ?tx ?op]]")
    assert past == {(1, t1, True), (1, t2, False), (2, t2, True)}
    assert await db.history().count() > await db.count()
    with pytest.raises(d.TransactionError) as caught:
        await db.as_of(t1).db_with([{":age": 1}])
    assert caught.value.error == ":transaction/filtered"


async def test_since_0_is_everything():
    db = d.empty_db(keep_history=True, schema_flexibility="read")
    db = await db.db_with([{":db/id": 1, ":age": 1}])
    db = await db.db_with([{":db/id": 1, ":age": 2}])
    assert list(await db.since(0).datoms(":eavt")) == list(await db.datoms(":eavt"))
    assert await db.since(0).q("[:find ?a . :where [1 :age ?a]]") == 2
    assert await db.since(0).history().count() == await db.history().count()
    assert await db.since(0).as_of(db.max_tx - 1).pull("[:age]", 1) == {":age": 1}
    with pytest.raises(d.DatahikeError, match="Invalid transaction ID"):
        db.since(-1)


async def test_as_of_a_date_ends_before_the_first_transaction_that_is_later():
    """What was imported with an old instant after a new one was not known at the old one."""

    def day(n: int) -> datetime:
        return datetime(2020, 1, n, tzinfo=UTC)

    db = d.empty_db(keep_history=True, schema_flexibility="read")
    transactions = []
    for n in (2, 4, 3, 6, 5, 8):
        report = await db.with_([{":db/id": 1, ":day": n}], {":db/txInstant": day(n)})
        transactions.append(report.tx)
        db = report.db_after
    expected = {1: None, 2: 2, 3: 2, 4: 3, 5: 3, 6: 5, 7: 5, 8: 8, 9: 8}
    for n, known in expected.items():
        found = await db.as_of(day(n)).q("[:find ?d . :where [1 :day ?d]]")
        assert found == known, n
        # What was not known then was learned since then.
        later = await db.since(day(n)).q("[:find ?d . :where [1 :day ?d]]")
        assert later == (None if n >= 8 else 8)
    seen = await db.as_of(day(4)).q("[:find [?tx ...] :where [_ :day _ ?tx]]")
    assert seen == [transactions[2]]


async def test_bad_points_in_time():
    db = d.empty_db(keep_history=True)
    for bad in (5, True, "2026", 1.5):
        with pytest.raises(d.DatahikeError, match="Invalid transaction ID"):
            db.as_of(bad)
    with pytest.raises(d.DatahikeError, match="time zone"):
        db.since(datetime(2026, 1, 1))
    without = d.empty_db()
    for view in (without.history, lambda: without.as_of(536870912)):
        with pytest.raises(d.DatahikeError, match="keep-history"):
            view()


async def test_a_connection_is_no_database():
    config = {"store": {"backend": "memory", "id": "a3f8f2a8-64be-4b42-9a0d-111111111111"}}
    await d.create_database(config)
    async with d.connect(config) as conn:
        for call in (
            d.q("[:find ?e :where [?e :db/ident _]]", conn),
            d.pull(conn, "[*]", 1),
            d.datoms(conn, "eavt"),
        ):
            with pytest.raises(d.QueryError, match="db\\(\\)") as caught:
                await call
            assert caught.value.error == ":datahike/db-expected"
    await d.delete_database(config)


async def test_a_misspelt_lookup_ref_says_what_may_be_meant(db):
    for ref, hint in (
        ([":eamil", "Ada"], "Did you mean :email?"),
        (["email", "Ada"], "Did you mean :email?"),
        ([":quite-another", 1], "is not in the schema."),
        ([5, 1], "5 is no attribute."),
    ):
        with pytest.raises(d.QueryError, match=re.escape(hint)) as caught:
            await db.entid(ref)
        assert caught.value.error == ":lookup-ref/unique"
        assert ("Did you mean" in str(caught.value)) is hint.startswith("Did")
