"""What retracting takes along, and what it cannot find."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

import datahike_async as d

pytestmark = pytest.mark.anyio

SCHEMA = """
[{:db/ident :id :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :part :db/valueType :db.type/ref :db/cardinality :db.cardinality/many
  :db/isComponent true}
 {:db/ident :top :db/valueType :db.type/ref :db/cardinality :db.cardinality/one
  :db/isComponent true}
 {:db/ident :friend :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}]
"""


@pytest.fixture
async def db():
    db = await d.empty_db(schema_flexibility="write", keep_history=True).db_with(SCHEMA)
    return await db.db_with(
        [
            {
                ":db/id": 100,
                ":id": "whole",
                ":part": [{":db/id": 101, ":id": "part", ":top": {":db/id": 102, ":id": "top"}}],
                ":top": {":db/id": 103, ":id": "other"},
            },
            {":db/id": 104, ":id": "friend", ":friend": [100, 101]},
        ]
    )


async def left(db):
    return sorted(await db.q("[:find [?i ...] :where [_ :id ?i]]"))


@pytest.mark.parametrize("name", [":db.fn/retractAttribute", ":db/retractAttribute"])
async def test_retracting_an_attribute_retracts_its_components(db, name):
    after = await db.db_with([[name, 100, ":part"]])
    assert await left(after) == ["friend", "other", "whole"]
    assert [x.v for x in await after.datoms("eavt", 104, ":friend")] == [100]
    assert await left(await db.db_with([[name, 100, ":top"]])) == [
        "friend", "part", "top", "whole"
    ]  # fmt: skip
    assert await left(await db.db_with([[name, 104, ":friend"]])) == await left(db)


async def test_retracting_values_leaves_components(db):
    for form in ([":db/retract", 100, ":part"], [":db/retract", 100, ":part", 101]):
        assert await left(await db.db_with([form])) == await left(db)


@pytest.mark.parametrize("value", [[":id", "nobody"], ":no/ident"])
async def test_a_value_to_retract_that_nothing_has_is_an_error(db, value):
    with pytest.raises(d.TransactionError) as caught:
        await db.with_([[":db/retract", 104, ":friend", value]])
    assert caught.value.error == ":entity-id/missing"
    assert str(value[1]) in str(caught.value)


async def test_retracting_of_an_entity_that_is_not_there_does_nothing(db):
    nobody = [":id", "nobody"]
    for form in (
        [":db/retract", nobody, ":friend", 100],
        [":db/retract", nobody, ":friend", nobody],
        [":db/retract", nobody, ":friend"],
        [":db.fn/retractAttribute", nobody, ":part"],
        [":db/retractEntity", nobody],
    ):
        report = await db.with_([form])
        assert [x for x in report.tx_data if x.e != report.tx] == []


async def test_a_value_that_is_found_is_retracted_and_no_id_is_used_up(db):
    after = await db.db_with([[":db/retract", 104, ":friend", [":id", "part"]]])
    assert [x.v for x in await after.datoms("eavt", 104, ":friend")] == [100]
    assert (await db.db_with([[":db/retract", 104, ":friend", 5000]])).max_eid == db.max_eid


async def test_the_least_long_of_a_map_is_the_one_that_is_stated_and_retracted_later():
    least = -(2**63)
    of_longs = """[{:db/ident :n :db/valueType :db.type/long
                    :db/cardinality :db.cardinality/many}]"""
    db = await d.empty_db(schema_flexibility="write", keep_history=True).db_with(of_longs)
    db = await db.db_with([{":db/id": 100, ":n": least}])
    db = await db.db_with([[":db/add", 100, ":n", least]])
    assert [x.v for x in await db.datoms("eavt", 100)] == [least]
    db = await db.db_with([[":db/retract", 100, ":n", least]])
    assert not await db.datoms("eavt", 100)


EACH_TYPE = {
    ":db.type/string": "text",
    ":db.type/long": 7,
    ":db.type/double": -0.0,
    ":db.type/float": 1.5,
    ":db.type/boolean": True,
    ":db.type/keyword": d.Keyword("a/b"),
    ":db.type/symbol": d.Symbol("a/b"),
    ":db.type/uuid": UUID(int=2**127 + 1),
    ":db.type/instant": datetime(2026, 1, 2, tzinfo=UTC),
    ":db.type/bigint": 2**70,
    ":db.type/bigdec": Decimal("1.50"),
    ":db.type/bytes": b"abc",
    ":db.type/ref": 100,
}


@pytest.mark.parametrize("value_type", EACH_TYPE)
async def test_what_a_new_entity_was_given_in_a_map_is_found_by_value(db, value_type):
    value = EACH_TYPE[value_type]
    plain = {
        ":db/ident": ":v",
        ":db/valueType": value_type,
        ":db/cardinality": ":db.cardinality/one",
    }
    db = await db.db_with(
        [plain, {**plain, ":db/ident": ":u", ":db/unique": ":db.unique/identity"}]
    )
    db = await db.db_with([{":v": value, ":id": "by id"}, {":u": value, ":v": value}])
    # Said again they are the same facts, of the same entities.
    again = await db.db_with([{":v": value, ":id": "by id"}, {":u": value, ":v": value}])
    assert [x[:3] for x in await again.datoms("avet", ":u")] == [
        x[:3] for x in await db.datoms("avet", ":u")
    ]
    assert len(await again.datoms("aevt", ":v")) == 2
    pulled = (await db.pull("[:v]", [":u", value]))[":v"]
    assert pulled == value or pulled == {":db/id": value}
    gone = [[":db/retract", e, ":v", value] for e in ([":id", "by id"], [":u", value])]
    assert await (await db.db_with(gone)).datoms("aevt", ":v") == []
