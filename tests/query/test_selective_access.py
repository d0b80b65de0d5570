"""What a selective clause binds is looked up in EAVT or AVET, whatever stands in the pattern."""

from __future__ import annotations

from typing import Any

import pytest

import datahike_async as d

pytestmark = pytest.mark.anyio

COUNT = 4000
ONE = {":db/cardinality": ":db.cardinality/one"}
SCHEMA = {
    ":id": {**ONE, ":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
    ":boss": {**ONE, ":db/valueType": ":db.type/ref"},
    ":age": {**ONE, ":db/valueType": ":db.type/long"},
    ":name": {**ONE, ":db/valueType": ":db.type/string"},
}
RULES = "[[(facts ?e ?a ?v) [?e ?a ?v]] [(refs ?e ?x ?a) [?x ?a ?e]]]"


@pytest.fixture(scope="module")
def db() -> Any:
    datoms: list[Any] = []
    for e in range(1, COUNT + 1):
        datoms += [(e, ":id", f"i{e}"), (e, ":boss", e // 10 + 1)]
        datoms += [(e, ":age", 10**6 + e % 90), (e, ":name", f"n{e % 50}")]
    return d.init_db(datoms, SCHEMA, schema_flexibility="write")


CASES = [
    ("[:find ?a ?v :in $ ?id :where [?e :id ?id] [?e ?a ?v]]", ["i77"], 4, "EAVT"),
    ('[:find ?a ?v :where [?e ?a ?v] [?e :id "i77"]]', [], 4, "EAVT"),
    ("[:find ?x ?a :in $ ?id :where [?e :id ?id] [?x ?a ?e]]", ["i77"], 10, "AVET"),
    ("[:find ?a ?v :in $ % ?id :where [?e :id ?id] (facts ?e ?a ?v)]", [RULES, "i77"], 4, "EAVT"),
    ("[:find ?x ?a :in $ % ?id :where [?e :id ?id] (refs ?e ?x ?a)]", [RULES, "i77"], 10, "AVET"),
    ("[:find ?e :in $ ?id :where [?e :id ?id] (not [?e ?a 5])]", ["i77"], 1, "EAVT"),
    ("[:find ?e :in $ ?id :where [?e :id ?id] (not [?x ?a ?e])]", ["i77"], 0, "AVET"),
    ('[:find ?e ?a :where [?b :id "i7"] [?e :boss ?b] [?e ?a]]', [], 40, "EAVT"),
    ("[:find ?x :in $ ?id :where [?e :id ?id] [?x :boss ?e]]", ["i77"], 10, "AVET"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "inputs", "rows", "index"), CASES)
async def test_what_a_selective_clause_binds_is_looked_up(
    db: Any, query: str, inputs: list[Any], rows: int, index: str
) -> None:
    assert len(await d.q(query, db, *inputs)) == rows
    steps = (await d.explain(query, db, *inputs, analyze=True)).data()
    operators = [step["operator"] for step in steps]
    assert not any("scan" in operator for operator in operators)
    assert any(f"{index} " in operator for operator in operators)
    # No step leaves more than what is asked for, and no pattern reads the whole database.
    assert all(step["rows"] <= 60 for step in steps)


async def test_a_value_is_found_in_whatever_attribute_has_it(db: Any) -> None:
    """Those without an index are compared, and none of another type."""
    assert await d.q('[:find ?a . :where [?e ?a "n7"] [?e :id "i7"]]', db) is not None
    found = await d.q('[:find ?e ?a :where [?e ?a "i7"]]', db)
    assert [(e, str(a)) for e, a in found] == [(7, ":id")]
    assert len(await d.q("[:find ?e :in $ ?v :where [?e ?a ?v]]", db, 10**6 + 7)) == 45
    assert not await d.q("[:find ?e :in $ ?v :where [?e ?a ?v]]", db, 7.0)


async def test_values_that_most_datoms_have_are_not_looked_up_one_by_one() -> None:
    """Their attribute is read and kept: the next query finds it at hand, and plans with it."""
    shops, sales = range(1, 21), range(100, 30_100)
    schema = {
        ":region": {**ONE, ":db/valueType": ":db.type/long"},
        ":shop": {**ONE, ":db/valueType": ":db.type/ref"},
    }
    db = d.init_db(
        [(e, ":region", e % 5) for e in shops] + [(e, ":shop", e % 20 + 1) for e in sales], schema
    )
    query = "[:find ?s ?r :where [?h :region ?r] [?s :shop ?h]]"

    async def operators(query: str, db: Any) -> list[str]:
        return [step["operator"] for step in (await d.explain(query, db, analyze=True)).data()]

    assert len(await d.q(query, db)) == len(sales)
    found = await operators(query, db)
    assert not any("seeks" in operator for operator in found)
    # A few of many are.
    few = query.replace("[?h :region ?r]", "[?h :region ?r] [(= ?h 7)]")
    other = d.init_db(
        [(e, ":region", e % 5) for e in shops]
        + [(e, ":shop", e % 20 + 1 if e < 2100 else e) for e in sales],
        schema,
    )
    assert "AVET seeks" in "".join(await operators(few, other))
