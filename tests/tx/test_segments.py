"""Items that are carried out together do what each of them does after the one before."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datahike_async as d
from datahike_async.tx import apply, segments

pytestmark = pytest.mark.anyio

MANY = ":db.cardinality/many"


def attribute(name: str, kind: str, **properties: Any) -> dict[str, Any]:
    made = {
        ":db/ident": name,
        ":db/valueType": f":db.type/{kind}",
        ":db/cardinality": ":db.cardinality/one",
    }
    return {**made, **{f":db/{key}": value for key, value in properties.items()}}


SCHEMA = [
    attribute(":key", "string", unique=":db.unique/identity"),
    attribute(":number", "long", unique=":db.unique/identity"),
    attribute(":serial", "long", unique=":db.unique/value"),
    attribute(":name", "string"),
    attribute(":age", "long", index=True),
    attribute(":score", "double"),
    attribute(":on", "boolean"),
    attribute(":at", "instant"),
    attribute(":best", "ref"),
    attribute(":tag", "keyword", cardinality=MANY),
    attribute(":friend", "ref", cardinality=MANY),
    attribute(":x", "long"),
    attribute(":y", "long"),
    attribute(":short", "string", maxLength=2),
    {
        ":db/ident": ":xy",
        ":db/valueType": ":db.type/tuple",
        ":db/tupleAttrs": [":x", ":y"],
        ":db/cardinality": ":db.cardinality/one",
        ":db/unique": ":db.unique/value",
    },
]
FIRST = 100
KEYS = [f"k{i}" for i in range(5)]

keys = st.sampled_from([*KEYS, "new", "nöw"])
numbers = st.integers(0, 4)
ids = st.integers(FIRST, FIRST + 5)
known = st.one_of(ids, keys.map(lambda k: [":key", k]), numbers.map(lambda n: [":number", n]))
tags = st.sampled_from([":t/a", ":t/b", d.kw("t/c")])
values = {
    ":key": keys,
    ":number": numbers,
    ":serial": numbers,
    ":name": st.sampled_from(["a", "b", "ü", 7]),
    ":age": st.integers(0, 3),
    ":score": st.sampled_from([0.0, -0.0, 1.0, 1, float("nan")]),
    ":on": st.booleans(),
    ":at": st.sampled_from([datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)]),
    ":best": known,
    ":tag": tags | st.lists(tags, max_size=3) | st.frozensets(tags, max_size=2),
    ":friend": st.lists(known, max_size=2),
    ":x": st.integers(0, 2),
    ":y": st.integers(0, 2),
    ":short": st.sampled_from(["ab", "abc"]),
}
likely = st.sampled_from([*[":key"] * 3, ":number", ":serial", ":name", ":age", ":score", ":tag"])
named = st.one_of(ids, st.sampled_from(["t1", "t2", -1]), known)


@st.composite
def shape(draw: Any) -> list[Any]:
    """A few maps with the same keys, as a large transaction has many."""
    names = draw(st.lists(likely | st.sampled_from([*values]), min_size=1, max_size=4, unique=True))
    ref = draw(st.sampled_from([None, None, ids, named]))
    out = []
    for _ in range(draw(st.integers(1, 4))):
        item = {} if ref is None else {":db/id": draw(ref)}
        out.append({**item, **{name: draw(values[name]) for name in names}})
    return out


@st.composite
def vectors(draw: Any) -> list[Any]:
    name = draw(likely | st.sampled_from([*values]))
    plain = (
        values[name] if name not in (":tag", ":friend") else {":tag": tags, ":friend": known}[name]
    )
    ref = draw(st.sampled_from([st.integers(FIRST, FIRST + 4), keys.map(lambda k: [":key", k])]))
    refs = draw(st.lists(ref, min_size=1, max_size=4, unique_by=repr) | st.lists(ref, max_size=3))
    form = draw(st.sampled_from(["add", "retract", "retract all", "cas", "entity"]))
    out: list[Any] = []
    for e in refs:
        if form == "add":
            out.append([":db/add", e, name, draw(plain)])
        elif form == "retract":
            out.append([":db/retract", e, name, draw(plain)])
        elif form == "retract all":
            out.append((d.kw("db/retract"), e, name))
        elif form == "cas":
            out.append([":db/cas", e, name, draw(plain | st.none()), draw(plain)])
        else:
            out.append([":db/retractEntity", e])
    return out


transactions = st.lists(shape() | vectors(), min_size=1, max_size=4).map(
    lambda lists: [*chain.from_iterable(lists)]
)


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


async def base(in_trees: bool) -> d.Database:
    made = await d.empty_db(keep_history=True, schema_flexibility="write").db_with(SCHEMA)
    people = [
        {
            ":db/id": FIRST + i,
            ":key": key,
            ":number": i,
            ":serial": i,
            ":name": "a",
            ":age": i % 2,
            ":score": 0.0,
            ":tag": [":t/a"],
        }
        for i, key in enumerate(KEYS)
    ]
    made = await made.db_with(people)
    made = made._wrap(await apply.absorbed(made.snapshot))
    if not in_trees:
        # Some of it was written since.
        made = await made.db_with(
            [{":key": "k0", ":name": "c", ":tag": ":t/b"}, [":db/add", FIRST + 1, ":key", "k9"]]
        )
        made = await made.db_with([[":db/add", FIRST + 1, ":key", "k1"], {":key": "new", ":x": 1}])
    return made


async def outcome(db: d.Database, data: list[Any]) -> Any:
    instant = d.kw("db/txInstant")
    try:
        report = await db.with_(data)
    except d.TransactionError as error:
        return str(error), error.data.get(":error")
    after = report.db_after
    told = [(x.e, x.a, repr(x.v), x.tx, x.added) for x in report.tx_data if x.a != instant]
    found = [
        [(x.e, x.a, repr(x.v), x.tx, x.added) for x in await source.datoms(index) if x.a != instant]
        for source in (after, after.history())
        for index in ("eavt", "aevt", "avet")
    ]
    return told, report.tempids, after.snapshot.max_eid, found


CASES = {
    "a name that was given away": [
        [":db/add", 100, ":key", "z"],
        [":db/add", 101, ":best", [":key", "k0"]],
    ],
    "a name that is new": [
        {":key": "z", ":best": 101},
        {":key": "k2", ":best": [":key", "z"]},
    ],
    "one fact twice": [[":db/cas", 100, ":age", 0, 1], [":db/cas", 100, ":age", 1, 2]],
    "added after it was retracted": [[":db/retract", 100, ":age"], [":db/add", 100, ":age", 0]],
    "two names of one entity": [{":key": "k1", ":number": 2}, {":key": "k3", ":number": 3}],
    "a tempid that is known": [{":db/id": "t", ":key": "k1"}, {":db/id": "t", ":name": "b"}],
    "what is not ours": [{":key": "k1", ":serial": 1}, {":key": "k2", ":serial": 1}],
}


@pytest.mark.parametrize("case", CASES)
async def test_items_that_have_to_do_with_one_another_follow_one_another(case, monkeypatch):
    db, data = await base(True), CASES[case]
    monkeypatch.setattr(apply, "_MANY", 10**9)
    one_by_one = await outcome(db, data)
    monkeypatch.setattr(apply, "_MANY", 1)
    monkeypatch.setattr(segments, "_LEAST", 1)
    assert await outcome(db, data) == one_by_one


async def test_a_segment_that_fails_leaves_nothing(monkeypatch):
    db = await base(False)
    before = await outcome(db, [{":key": "k1", ":name": "b"}])
    people = [{":key": f"k{i % 5}" if i < 5 else f"q{i}", ":name": "x"} for i in range(50)]
    with pytest.raises(d.TransactionError):
        await db.with_([*people, [":db/add", 100, ":no/such", 1]])
    assert await outcome(db, [{":key": "k1", ":name": "b"}]) == before


@pytest.mark.parametrize("in_trees", [True, False])
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=transactions)
async def test_together_and_one_by_one_are_the_same(data, in_trees, monkeypatch):
    db = await base(in_trees)
    monkeypatch.setattr(apply, "_MANY", 10**9)
    one_by_one = await outcome(db, data)
    monkeypatch.setattr(apply, "_MANY", 1)
    monkeypatch.setattr(segments, "_LEAST", 1)
    together = await outcome(db, data)
    assert together == one_by_one
