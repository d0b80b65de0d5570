"""Every form of transaction data, and every refusal: Datahike's keyword, and nothing written."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime

import pytest

import datahike_async as d
from datahike_async.edn import read
from datahike_async.env import Env

pytestmark = pytest.mark.anyio

SCHEMA = """
[{:db/ident :name :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :email :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :ssn :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/value}
 {:db/ident :age :db/valueType :db.type/long :db/cardinality :db.cardinality/one}
 {:db/ident :aka :db/valueType :db.type/string :db/cardinality :db.cardinality/many}
 {:db/ident :friend :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}
 {:db/ident :part :db/valueType :db.type/ref :db/cardinality :db.cardinality/many
  :db/isComponent true}
 {:db/ident :status :db/valueType :db.type/keyword :db/cardinality :db.cardinality/one}
 {:db/ident :color :db/valueType :db.type/ref :db/cardinality :db.cardinality/one}
 {:db/ident :a :db/valueType :db.type/long :db/cardinality :db.cardinality/one}
 {:db/ident :b :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :a+b :db/valueType :db.type/tuple :db/tupleAttrs [:a :b]
  :db/cardinality :db.cardinality/one :db/unique :db.unique/identity}
 {:db/ident :pair :db/valueType :db.type/tuple :db/tupleTypes [:db.type/long :db.type/string]
  :db/cardinality :db.cardinality/one}
 {:db/ident :short :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/maxLength 3}
 {:db/ident :even :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db.attr/preds test/even}
 {:db/ident :color/red}]
"""


@pytest.fixture
async def db():
    d.register_function("test/even", lambda v: v % 2 == 0)
    db = d.empty_db(keep_history=True, schema_flexibility="write", env=Env.seeded(1))
    yield await db.db_with(SCHEMA)
    d.unregister_function("test/even")


def shown(report):
    return [
        (x.e, ":" + x.a.text, x.v, x.added)
        for x in report.tx_data
        if x.a is not d.kw(":db/txInstant")
    ]


async def test_maps_and_tempids(db):
    report = await db.with_(
        [
            {":db/id": -1, ":name": "Ivan", ":friend": "petr"},
            {":db/id": "petr", ":name": "Petr", ":friend": [-1, {":name": "Anna"}]},
            [":db/add", "datomic.tx", ":name", "a transaction"],
            None,
        ]
    )
    ivan, petr = report.tempids[-1], report.tempids["petr"]
    after = report.db_after
    assert report.tempids["datomic.tx"] == report.tx
    assert await after.q("[:find ?n . :in $ ?e :where [?e :name ?n]]", report.tx) == "a transaction"
    assert set(
        await after.q("[:find [?n ...] :in $ ?e :where [?e :friend ?f] [?f :name ?n]]", petr)
    ) == {
        "Ivan",
        "Anna",
    }
    assert (await after.pull("[:friend]", ivan))[":friend"] == [{":db/id": petr}]
    assert report.db_before is db
    assert report[":db-after"] is after


async def test_nested_maps_give_the_outer_entity_its_id_first(db):
    report = await db.with_([{":name": "outer", ":part": [{":name": "inner"}]}])
    (outer, *_), *_ = [x for x in shown(report) if x[2] == "outer"]
    (inner, *_), *_ = [x for x in shown(report) if x[2] == "inner"]
    assert inner == outer + 1
    assert report.tempids == {}


async def test_upsert_by_identity(db):
    db = await db.db_with([{":email": "a@x", ":name": "Ada", ":age": 1}])
    report = await db.with_([{":db/id": "t", ":email": "a@x", ":age": 2}])
    eid = await db.entid([":email", "a@x"])
    assert report.tempids == {"t": eid}
    assert shown(report) == [(eid, ":age", 1, False), (eid, ":age", 2, True)]
    again = await db.with_([{":email": "a@x", ":name": "Ada"}])
    assert shown(again) == []


async def test_a_late_upsert_runs_the_transaction_again(db):
    db = await db.db_with([{":email": "a@x"}])
    eid = await db.entid([":email", "a@x"])
    report = await db.with_(
        [
            {":db/id": "t", ":name": "Ada"},
            {":db/id": "u", ":name": "Bob"},
            [":db/add", "t", ":email", "a@x"],
        ]
    )
    assert report.tempids["t"] == eid
    assert (eid, ":name", "Ada", True) in shown(report)
    assert (report.tempids["u"], ":name", "Bob", True) in shown(report)


async def test_reverse_attributes_and_lookup_refs(db):
    db = await db.db_with([{":email": "a@x", ":name": "Ada"}])
    ada = await db.entid([":email", "a@x"])
    report = await db.with_(
        [
            {":name": "Bob", ":_friend": [":email", "a@x"]},
            {":db/id": [":email", "a@x"], ":color": ":color/red", ":status": ":s/ok"},
        ]
    )
    bob = next(x[0] for x in shown(report) if x[2] == "Bob")
    red = await db.entid(":color/red")
    assert (ada, ":friend", bob, True) in shown(report)
    assert (ada, ":color", red, True) in shown(report)
    assert (ada, ":status", d.kw("s/ok"), True) in shown(report)


async def test_retractions(db):
    db = await db.db_with(
        [
            {
                ":db/id": 100,
                ":name": "A",
                ":aka": ["x", "y"],
                ":part": [{":db/id": 101, ":name": "p"}],
            },
            {":db/id": 102, ":friend": [100]},
        ]
    )
    assert shown(await db.with_([[":db/retract", 100, ":aka", "x"]])) == [(100, ":aka", "x", False)]
    assert len(shown(await db.with_([[":db/retract", 100, ":aka"]]))) == 2
    assert len(shown(await db.with_([[":db.fn/retractAttribute", 100, ":aka"]]))) == 2
    for nothing in ([100, ":aka", "no"], [100, ":age"], [[":email", "no"], ":name", "x"]):
        assert shown(await db.with_([[":db/retract", *nothing]])) == []
    gone = await db.with_([[":db/retractEntity", 100]])
    assert {(x[0], x[1]) for x in shown(gone)} == {
        (100, ":name"),
        (100, ":aka"),
        (100, ":part"),
        (101, ":name"),
        (102, ":friend"),
    }


async def test_cas(db):
    db = await db.db_with([{":db/id": 100, ":age": 1, ":aka": ["x"]}])
    assert shown(await db.with_([[":db/cas", 100, ":age", 1, 2]])) == [
        (100, ":age", 1, False),
        (100, ":age", 2, True),
    ]
    assert shown(await db.with_([[":db.fn/cas", 100, ":name", None, "n"]])) == [
        (100, ":name", "n", True)
    ]
    assert shown(await db.with_([[":db/cas", 100, ":aka", "x", "y"]])) == [(100, ":aka", "y", True)]


async def test_datoms_as_transaction_data(db):
    tx = db.max_tx
    report = await db.with_([d.Datom(100, d.kw("name"), "A", tx), [":db/add", 100, ":age", 5, tx]])
    assert {x.tx for x in report.tx_data if x.e == 100} == {tx}
    report = await report.db_after.with_([d.Datom(100, d.kw("name"), "A", tx, False)])
    assert shown(report) == [(100, ":name", "A", False)]


async def test_transaction_functions(db):
    async def rename(db, eid, name):
        old = await db.q("[:find ?n . :in $ ?e :where [?e :name ?n]]", eid)
        return [[":db/add", eid, ":name", f"{old} → {name}"]]

    db = await db.db_with([{":db/id": 100, ":name": "A"}])
    d.register_function("test/rename", rename)
    try:
        report = await db.with_(
            [
                [":db/add", 100, ":name", "B"],
                [":db.fn/call", "test/rename", 100, "C"],
                [d.kw("test/rename"), 100, "D"],
            ]
        )
        assert await report.db_after.q("[:find ?n . :where [100 :name ?n]]") == "B → C → D"
        inline = await db.with_([[":db.fn/call", lambda db, n: [[":db/add", 100, ":age", n]], 7]])
        assert (100, ":age", 7, True) in shown(inline)
    finally:
        d.unregister_function("test/rename")


async def test_composite_tuples(db):
    db = await db.db_with([{":db/id": 100, ":a": 1, ":b": "x"}])
    assert await db.entid([":a+b", [1, "x"]]) == 100
    report = await db.with_([{":a": 1, ":b": "x", ":name": "same"}])
    assert (100, ":name", "same", True) in shown(report)
    moved = await db.db_with([[":db/add", 100, ":a", 2]])
    assert await moved.entid([":a+b", [2, "x"]]) == 100
    assert await moved.entid([":a+b", [1, "x"]]) is None
    half = await moved.db_with([[":db/retract", 100, ":b"]])
    assert await half.q("[:find ?t . :where [100 :a+b ?t]]") == (2, None)
    none = await half.db_with([[":db/retract", 100, ":a"]])
    assert await none.q("[:find ?t . :where [100 :a+b ?t]]") is None


async def test_tx_meta_and_rising_instants(db):
    report = await db.with_(
        [{":name": "A"}], {":name": "why", ":db/txInstant": datetime(2025, 1, 1, tzinfo=UTC)}
    )
    assert report.instant == datetime(2025, 1, 1, tzinfo=UTC)
    assert report.tx_meta[d.kw("name")] == "why"
    later = await report.db_after.with_({":tx-data": [{":name": "B"}], ":tx-meta": {":name": "x"}})
    assert later.instant > report.instant
    assert await later.db_after.q("[:find ?n . :in $ ?t :where [?t :name ?n]]", later.tx) == "x"


async def test_schema_declared_in_the_same_transaction_is_usable(db):
    report = await db.with_(
        """[{:db/ident :new :db/valueType :db.type/long :db/cardinality :db.cardinality/many
             :db/index true}
            {:db/id 200 :new [1 2]}]"""
    )
    assert [x.v for x in await report.db_after.index_range(":new", 1, 5)] == [1, 2]


async def test_schema_on_read():
    db = d.empty_db(schema_flexibility="read")
    db = await db.db_with([{":db/id": 1, ":any": 1}, {":db/id": 2, ":any": "x", ":other": True}])
    assert await db.q("[:find ?e ?v :where [?e :any ?v]]") == {(1, 1), (2, "x")}


async def test_ensure(db):
    db = await db.db_with([{":db/ident": ":spec/person", ":db.entity/attrs": [":name", ":age"]}])
    await db.db_with([{":name": "A", ":age": 1, ":db/ensure": ":spec/person"}])
    with pytest.raises(d.TransactionError, match=":age") as caught:
        await db.db_with([{":name": "A", ":db/ensure": ":spec/person"}])
    assert caught.value.error == ":transact/ensure"


async def test_large_loads_and_small_ones_agree(db):
    items = [{":db/id": 1000 + i, ":name": f"n{i % 7}", ":age": i} for i in range(3000)]
    loaded = await db.with_(items)
    stepwise = db
    for start in range(0, 3000, 500):
        stepwise = await stepwise.db_with(items[start : start + 500])
    assert len(loaded.tx_data) == 6001
    assert [tuple(x)[:3] for x in await loaded.db_after.datoms("aevt", ":age")] == [
        tuple(x)[:3] for x in await stepwise.datoms("aevt", ":age")
    ]
    again = await loaded.db_after.with_(items)
    assert shown(again) == []


REFUSED = [
    ("[{:nme 1}]", ":transact/schema", "Did you mean :name"),
    ("[[:db/add 1 :nme 1]]", ":transact/schema", "not defined"),
    ('[{:age "x"}]', ":transact/schema", "is str, and :db.type/long takes an int"),
    ("[{:age 1.5}]", ":transact/schema", ":age"),
    ("[{:name nil}]", ":transact/syntax", "nil"),
    ("[[:db/add 1 :name nil]]", ":transact/syntax", "nil"),
    ('[{:ssn "1"} {:ssn "1"}]', ":transact/unique", "unique constraint"),
    ('[{:db/id 100 :email "a"} {:db/id 101 :email "a"}]', ":transact/upsert", "100"),
    ('[{:db/id 100 :email "a"} [:db/add 101 :email "a"]]', ":transact/unique", "101"),
    ("[[:db/cas 1 :age 1 2]]", ":transact/cas", "expected 1, found nothing"),
    ('[[:db/add [:email "no"] :age 1]]', ":entity-id/missing", "no"),
    ('[[:db/add [:name "no"] :age 1]]', ":lookup-ref/unique", ":name"),
    ("[[:db/add [:email] :age 1]]", ":lookup-ref/syntax", "two elements"),
    ("[[:db/add :no/ident :age 1]]", ":entity-id/missing", ":no/ident"),
    ("[[:db/retract -1 :age]]", ":transact/syntax", "tempid"),
    ("[[:db/cas -1 :age 1 2]]", ":transact/syntax", "tempid"),
    ("[[:db/add 1 :name]]", ":transact/syntax", "4 to 5 elements"),
    ("[[:foo/bar 1]]", ":transact/syntax", "Unknown operation"),
    ("[42]", ":transact/syntax", "expected map or vector"),
    ("{:data []}", ":transact/syntax", ":tx-data"),
    ("42", ":transact/syntax", "list of maps"),
    ("[{:_name 5 :age 1}]", ":transact/syntax", "db.type/ref"),
    ("[{:db/id true :age 1}]", ":entity-id/syntax", "db/id"),
    ("[[:db/add 999999999 :age 1]]", ":entity-id/syntax", "999999999"),
    ("[{:a+b [1 2]}]", ":transact/syntax", "tuple attrs"),
    ('[{:pair [1 "x" 2]}]', ":transact/syntax", "exactly 2"),
    ('[{:pair ["x" "y"]}]', ":transact/schema", ":pair"),
    ('[{:short "long"}]', ":transact/max-length", "3"),
    ("[{:even 1}]", ":transact/attr-pred", "test/even"),
    ("[[:db/purge 1 :none 1]]", ":transact/purge", ":none"),
    ("[{:db/ident :x :db/valueType :db.type/string}]", ":transact/schema", ":db/cardinality"),
    ("[{:db/ident :x :db/valueType :db.type/strin :db/cardinality :db.cardinality/one}]",
     ":schema/validation", ":db.type/strin"),
    ("[{:db/ident :x :db/valueType :db.type/long :db/cardinality :db.cardinality/one"
     " :db/isComponent true}]", ":schema/validation", "db.type/ref"),
    ("[{:db/ident :db/x :db/valueType :db.type/long :db/cardinality :db.cardinality/one}]",
     ":transact/schema", "namespace 'db'"),
]  # fmt: skip


@pytest.mark.parametrize(("tx", "keyword", "part"), REFUSED)
async def test_refusals_leave_nothing(db, tx, keyword, part):
    before = list(await db.datoms("eavt"))
    n = len(db.snapshot.mem)
    items = read(tx)
    if isinstance(items, list):
        # A good item first, so that there is something to take back.
        items = [{":db/id": "good", ":name": "first"}, *items]
    with pytest.raises(d.TransactionError) as caught:
        await db.with_(items)
    assert caught.value.error == keyword
    assert part in str(caught.value)
    assert len(db.snapshot.mem) == n
    assert list(await db.datoms("eavt")) == before


async def test_schema_migrations(db):
    db = await db.db_with(
        [{":db/id": 100, ":name": "A", ":aka": ["x", "y"]}, {":db/id": 101, ":name": "A"}]
    )

    async def refused(tx, part):
        with pytest.raises(d.TransactionError, match=part) as caught:
            await db.db_with(tx)
        assert caught.value.error == ":transact/schema"

    await refused([{":db/ident": ":name", ":db/valueType": ":db.type/long"}], "valueType")
    await refused([{":db/ident": ":name", ":db/unique": ":db.unique/value"}], "duplicate")
    await refused([{":db/ident": ":aka", ":db/cardinality": ":db.cardinality/one"}], "narrow")
    await refused([[":db/retractEntity", ":name"]], "neither renamed nor removed")
    name = await db.entid(":name")
    await refused([[":db/add", name, ":db/ident", ":title"]], "neither renamed nor removed")
    wider = await db.db_with([{":db/ident": ":name", ":db/cardinality": ":db.cardinality/many"}])
    wider = await wider.db_with([[":db/add", 100, ":name", "B"]])
    assert len(await wider.datoms("eavt", 100, ":name")) == 2
    indexed = await db.db_with([{":db/ident": ":name", ":db/index": True}])
    assert [x.e for x in await indexed.datoms("avet", ":name", "A")] == [100, 101]
    documented = await db.db_with([{":db/ident": ":name", ":db/doc": "What it is called"}])
    assert documented.schema[d.kw("name")][d.kw("db/doc")] == "What it is called"


async def test_the_error_for_an_unknown_attribute_says_how_to_declare_it(db):
    with pytest.raises(d.TransactionError, match="Did you mean :email") as caught:
        await db.db_with([{":emial": "ada@example.org"}])
    (advice,) = re.findall(r"transact\((\[.*?\])\)", str(caught.value))
    assert "'" not in advice
    db = await db.db_with(ast.literal_eval(advice))
    db = await db.db_with([{":emial": "ada@example.org"}])
    assert await db.q("[:find ?v . :where [_ :emial ?v]]") == "ada@example.org"
    loose = d.empty_db(schema_flexibility="read")
    assert 'schema_flexibility="read"' in str(caught.value)
    assert len(await (await loose.db_with([{":emial": "x"}])).datoms("eavt")) == 1
    with pytest.raises(d.TransactionError, match="Did you mean :db/valueType") as caught:
        await db.db_with([{":db/valuType": ":db.type/long"}])
    assert "Declare" not in str(caught.value)
