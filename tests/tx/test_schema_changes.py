"""What a schema may say, and what may follow on it: Datahike's rules."""

from __future__ import annotations

from typing import Any

import pytest

import datahike_async as d

pytestmark = pytest.mark.anyio

MANY, ONE = ":db.cardinality/many", ":db.cardinality/one"


def attribute(name: str, type_: str, cardinality: str = ONE, **more: Any) -> dict[str, Any]:
    props = {
        ":db/ident": name,
        ":db/valueType": f":db.type/{type_}",
        ":db/cardinality": cardinality,
    }
    return props | {f":db/{key}": value for key, value in more.items()}


UNIQUE = {"unique": ":db.unique/identity"}


def refused(caught: pytest.ExceptionInfo[d.TransactionError], *names: str) -> None:
    assert caught.value.error == ":transact/schema"
    for name in names:
        assert name in str(caught.value)


@pytest.fixture(params=["write", "read"])
def empty(request):
    return d.empty_db(keep_history=True, schema_flexibility=request.param)


# -- unique and many -----------------------------------------------------------------------------


async def test_an_attribute_may_be_made_unique_and_many(empty):
    db = await empty.db_with([attribute(":email", "string", MANY, **UNIQUE)])
    db = await db.db_with([{":db/id": 100, ":email": ["a", "b"]}])
    assert await db.entid([":email", "a"]) == await db.entid([":email", "b"]) == 100
    report = await db.with_([{":db/id": "t", ":email": ["b", "c"]}])
    assert report.tempids == {"t": 100}
    assert await report.db_after.q("[:find [?v ...] :where [100 :email ?v]]") == ["a", "b", "c"]
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([[":db/add", 101, ":email", "a"]])
    assert caught.value.error == ":transact/unique"
    # What is there already may be said again, and other properties may change.
    again = attribute(":email", "string", MANY, doc="all addresses", **UNIQUE)
    assert await (await db.db_with([again])).entid([":email", "a"]) == 100


def test_a_schema_map_may_make_an_attribute_unique_and_many():
    props = attribute(":e", "string", MANY, **UNIQUE)
    del props[":db/ident"]
    for flexibility in ("read", "write"):
        assert d.empty_db({":e": props}, schema_flexibility=flexibility).schema


@pytest.mark.parametrize(
    ("made", "changed"),
    [
        (attribute(":e", "string", **UNIQUE), {":db/cardinality": MANY}),
        (attribute(":e", "string", MANY), {":db/unique": ":db.unique/identity"}),
        (attribute(":e", "string", MANY), {":db/unique": ":db.unique/value"}),
        (attribute(":e", "string"), {":db/unique": ":db.unique/value", ":db/cardinality": MANY}),
    ],
)
async def test_an_attribute_does_not_become_unique_and_many(empty, made, changed):
    db = await empty.db_with([made])
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([{":db/ident": ":e", **changed}])
    refused(caught, ":e", ":db/unique")


# -- composite tuples ----------------------------------------------------------------------------

PAIR = attribute(":a+b", "tuple", tupleAttrs=[":a", ":b"], **UNIQUE)
A, B = attribute(":a", "long"), attribute(":b", "long")


@pytest.mark.parametrize(
    "transactions", [[[PAIR, A, B]], [[PAIR], [A, B]], [[A, PAIR], [B]], [[A, B], [PAIR]]]
)
async def test_a_tuple_may_name_attributes_that_are_declared_later(empty, transactions):
    db = empty
    for schema in transactions:
        db = await db.db_with(schema)
    db = await db.db_with([{":db/id": 100, ":a": 1, ":b": 2}])
    assert [x.v for x in await db.datoms("aevt", ":a+b")] == [(1, 2)]
    assert await db.entid([":a+b", [1, 2]]) == 100


async def test_the_place_of_an_attribute_that_is_not_declared_is_nil(empty):
    db = await empty.db_with([PAIR, A])
    db = await db.db_with([{":db/id": 100, ":a": 1}])
    assert [x.v for x in await db.datoms("aevt", ":a+b")] == [(1, None)]
    db = await db.db_with([B])
    db = await db.db_with([{":db/id": 100, ":b": 2}])
    assert [x.v for x in await db.datoms("aevt", ":a+b")] == [(1, 2)]


@pytest.mark.parametrize(
    "part", [attribute(":b", "long", MANY), attribute(":b", "tuple", tupleTypes=[":db.type/long"])]
)
async def test_a_part_that_is_declared_later_must_be_fit_for_a_tuple(empty, part):
    part = dict(part)
    if ":db/tupleTypes" in part:
        part[":db/tupleAttrs"] = [":c"]
        del part[":db/tupleTypes"]
    db = await empty.db_with([PAIR, A])
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([part])
    refused(caught, ":a+b", ":b")


def test_a_schema_map_may_name_parts_that_come_later():
    pair = {k: v for k, v in PAIR.items() if k != ":db/ident"}
    assert d.empty_db({":a+b": pair}, schema_flexibility="write").schema


# -- lengths and predicates ------------------------------------------------------------------------


@pytest.mark.parametrize("typed", [{}, {":db/valueType": ":db.type/string"}])
async def test_the_longest_value_is_held_on_attributes_with_and_without_a_type(typed):
    db = await d.empty_db().db_with([{":db/ident": ":short", ":db/maxLength": 3, **typed}])
    db = await db.db_with([{":db/id": 100, ":short": "abc"}])
    for form in (
        {":short": "abcd"},
        [":db/add", 100, ":short", "abcd"],
        [":db/cas", 100, ":short", "abc", "abcd"],
        d.Datom(100, d.kw("short"), "abcd", db.max_tx),
    ):
        with pytest.raises(d.TransactionError) as caught:
            await db.with_([form])
        assert caught.value.error == ":transact/max-length"


async def test_the_longest_value_is_held_in_large_loads():
    db = await d.empty_db().db_with([{":db/ident": ":short", ":db/maxLength": 3}])
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([{":short": "abc"}] * 2000 + [{":short": "abcd"}])
    assert caught.value.error == ":transact/max-length"


async def test_predicates_are_held_on_attributes_without_a_type():
    d.register_function("test/short", lambda v: len(v) < 4)
    try:
        db = await d.empty_db().db_with(
            [{":db/ident": ":short", ":db.attr/preds": [d.sym("test/short")]}]
        )
        with pytest.raises(d.TransactionError) as caught:
            await db.with_([{":short": "abcd"}])
        assert caught.value.error == ":transact/attr-pred"
    finally:
        d.unregister_function("test/short")


# -- attributes that are gone ----------------------------------------------------------------------


async def test_a_retracted_attribute_takes_no_more_data():
    db = await d.empty_db(schema_flexibility="write", keep_history=True).db_with([A, B])
    db = await db.db_with([[":db/retractEntity", ":b"]])
    for forms in (
        [{":b": 1}],
        [{":a": 1, ":b": 1}],
        [[":db/add", 100, ":b", 1]],
        [[":db/cas", 100, ":b", None, 1]],
        [d.Datom(100, d.kw("b"), 1, db.max_tx)],
        [{":b": i} for i in range(2000)],
    ):
        with pytest.raises(d.TransactionError) as caught:
            await db.with_(forms)
        refused(caught, ":b", "not defined")
        assert "Did you mean :b?" not in str(caught.value)
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([{":a": 1}], {":b": 1})
    refused(caught, ":b")
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([[":db/retractEntity", ":a"], {":a": 1}])
    refused(caught, ":a")
    again = await db.db_with([attribute(":b", "string"), {":b": "x"}])
    assert await again.q("[:find ?v . :where [_ :b ?v]]") == "x"


async def test_a_renamed_attribute_takes_no_more_data_under_its_old_name():
    db = await d.empty_db(schema_flexibility="write").db_with([A])
    db = await db.db_with([[":db/add", ":a", ":db/ident", ":c"]])
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([{":a": 1}])
    refused(caught, ":a")
    assert await (await db.db_with([{":c": 1}])).q("[:find ?v . :where [_ :c ?v]]") == 1
