"""What a large transaction looks up is read in one pass, and no more than that is read."""

from __future__ import annotations

from typing import Any

import pytest

import datahike_async as d
from datahike_async.index.columns import Column
from datahike_async.index.persistent_set import lookup
from datahike_async.index.persistent_set.node import Leaf
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.index.protocol import Order
from datahike_async.tx import apply

pytestmark = pytest.mark.anyio

MANY = 3_000


def attribute(name: str, kind: str, **properties: Any) -> dict[str, Any]:
    made = {
        ":db/ident": name,
        ":db/valueType": f":db.type/{kind}",
        ":db/cardinality": ":db.cardinality/one",
    }
    return {**made, **{f":db/{key}": value for key, value in properties.items()}}


SCHEMA = [
    attribute(":key", "string", unique=":db.unique/identity"),
    attribute(":serial", "long", unique=":db.unique/value"),
    attribute(":name", "string"),
    attribute(":age", "long", index=True),
    attribute(":score", "double"),
    attribute(":best", "ref"),
    attribute(":tag", "keyword", cardinality=":db.cardinality/many"),
    attribute(":friend", "ref", cardinality=":db.cardinality/many"),
    attribute(":part", "ref", cardinality=":db.cardinality/many", isComponent=True),
]


def person(i: int, generation: int = 0) -> dict[str, Any]:
    return {
        ":key": f"key {i}",
        ":serial": i,
        ":name": f"name {i} of {generation}",
        ":age": i % 50 + generation,
        ":score": i / 2 + generation,
    }


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
async def db():
    """A database all of which lies in its trees."""
    made = await d.empty_db(keep_history=True, schema_flexibility="write").db_with(SCHEMA)
    made = await made.db_with([person(i) for i in range(MANY)])
    links = [
        {
            ":key": f"key {i}",
            ":tag": [":t/a"],
            ":best": [":key", f"key {i + 1}"],
            ":friend": [[":key", f"key {i + 2}"]],
            ":part": [{":key": f"part {i}", ":name": "part"}],
        }
        for i in range(MANY // 2)
    ]
    made = await made.db_with(links)
    return made._wrap(await apply.absorbed(made.snapshot))


@pytest.fixture
def looks(monkeypatch):
    """Count the looks into trees for single keys, and the leaves that whole passes visit."""
    seen = {"single": 0, "leaves": 0}
    point, walk = PersistentSet._point, lookup.Lookup.walk

    def counted(self, bound):
        seen["single"] += 1
        return point(self, bound)

    def walked(self, node, i, stop):
        seen["leaves"] += isinstance(node, Leaf)
        return walk(self, node, i, stop)

    monkeypatch.setattr(PersistentSet, "_point", counted)
    monkeypatch.setattr(lookup.Lookup, "walk", walked)
    return seen


KEYS = range(0, MANY, 2)
FORMS = {
    "maps": lambda ids: [person(i, 1) for i in KEYS],
    "the same maps": lambda ids: [person(i) for i in KEYS],
    "maps with tags": lambda ids: [{":key": f"key {i}", ":tag": [":t/a", ":t/b"]} for i in KEYS],
    "maps with an id": lambda ids: [{":db/id": ids[i], ":age": 99, ":name": "x"} for i in KEYS],
    "maps that refer": lambda ids: [
        {":key": f"key {i}", ":best": [":key", f"key {i + 1}"], ":friend": [ids[i], ids[i + 1]]}
        for i in KEYS
    ],
    "maps in a map": lambda ids: [{":key": "new", ":friend": [person(i, 1) for i in KEYS]}],
    "additions": lambda ids: [[":db/add", ids[i], ":age", 99] for i in KEYS],
    "additions to lookup refs": lambda ids: [
        [":db/add", [":key", f"key {i}"], ":tag", ":t/c"] for i in KEYS
    ],
    "retractions": lambda ids: [[":db/retract", ids[i], ":age", i % 50] for i in KEYS],
    "retractions of all": lambda ids: [[":db.fn/retractAttribute", ids[i], ":tag"] for i in KEYS],
    "retractions of one of many": lambda ids: [
        [":db/retract", [":key", f"key {i}"], ":tag", ":t/a"] for i in KEYS
    ],
    "compare and set": lambda ids: [[":db/cas", ids[i], ":age", i % 50, 99] for i in KEYS],
    "entities": lambda ids: [[":db.fn/retractEntity", ids[i]] for i in KEYS],
}


async def ids_of(db: d.Database) -> dict[int, int]:
    return dict(await db.q("[:find ?i ?e :where [?e :serial ?i]]"))


@pytest.mark.parametrize("form", FORMS)
async def test_what_a_large_transaction_looks_up_is_read_in_passes(db, looks, form, monkeypatch):
    data = FORMS[form](await ids_of(db))
    looks["single"] = 0
    report = await db.with_(data)
    assert looks["single"] < 20
    # And all is as it is where every single thing is looked up.
    monkeypatch.setattr(apply, "_MANY", 10**9)
    monkeypatch.setattr(apply, "_FACTS", 10**9)
    monkeypatch.setattr(apply, "LEAST", 10**9)
    one_by_one = await db.with_(data)
    assert looks["single"] > len(KEYS)
    assert told(report) == told(one_by_one)
    assert listed(await report.db_after.datoms("avet")) == listed(
        await one_by_one.db_after.datoms("avet")
    )


def told(report: Any) -> list[Any]:
    return listed(report.tx_data)


def listed(datoms: Any) -> list[Any]:
    return [(x.e, x.a, x.v, x.tx, x.added) for x in datoms if x.a != d.kw("db/txInstant")]


async def test_what_is_read_is_in_proportion_to_what_is_asked_for(db, looks):
    data = [person(i, 1) for i in range(0, MANY, MANY // 20)]
    await db.with_(data)
    # One leaf for each unique value, and one or two for what an entity has.
    assert 0 < looks["leaves"] <= 4 * len(data)


async def test_values_far_apart_are_looked_up_together(db, monkeypatch):
    """As many searches of whole columns, whether they lie in one leaf or in all of them."""
    calls = []
    ranges = lookup.value_ranges
    monkeypatch.setattr(lookup, "value_ranges", lambda *at: calls.append(1) or ranges(*at))
    monkeypatch.setattr(lookup, "locate", None)  # and none of a single leaf
    holders = db.snapshot.trees.current[Order.AVET]
    serial = db.snapshot.schema.by_key[d.kw("serial")].id
    for wanted in (range(40), range(0, MANY, MANY // 40)):
        calls.clear()
        bounds = [Column.of([serial] * len(wanted)), Column.of([*wanted])]
        rows, stops = holders.lookup_many(bounds)
        assert rows.v.tolist() == [*wanted]
        assert stops.tolist() == [*range(1, len(wanted) + 1)]
        assert len(calls) == 1


async def test_nothing_is_read_of_an_entity_that_is_only_referred_to(db, monkeypatch):
    read = []
    look = PersistentSet.lookup_many

    def noted(self, bounds):
        read.append((self.order, len(bounds[0])))
        return look(self, bounds)

    monkeypatch.setattr(PersistentSet, "lookup_many", noted)
    refs = range(0, MANY, 7)
    data = [{":key": f"new {i}", ":best": [":key", f"key {i}"]} for i in refs]
    report = await db.with_(data)
    assert {order for order, _ in read} == {Order.AVET}
    assert sum(count for _, count in read) == 2 * len(refs)
    assert await report.db_after.q("[:find (count ?e) . :where [?e :best ?x] [?x :serial]]") > 0


async def test_a_part_is_read_after_what_the_part_before_it_did(db, monkeypatch):
    data = [person(i, 1) for i in range(100)]
    data += [{":key": f"key {i}", ":name": "again"} for i in range(100)]
    data += [[":db/add", [":key", f"key {i}"], ":key", f"other {i}"] for i in range(100)]
    data += [{":key": f"other {i}", ":age": 1} for i in range(100)]
    whole = await db.with_(data)
    monkeypatch.setattr(apply, "PART", 30)
    assert told(await db.with_(data)) == told(whole)
    found = await whole.db_after.q('[:find (count ?e) . :where [?e :age 1] [?e :name "again"]]')
    assert found == 100
