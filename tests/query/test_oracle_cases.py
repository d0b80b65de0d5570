"""Cases that random comparison with the naive evaluator once found, as it shrank them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from datahike_async.database import empty_db
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.values.types import typed_key
from tests.query import oracle
from tests.query.generator import NAMED, SCHEMA

pytestmark = pytest.mark.anyio

CASES: list[tuple[list[Any], str, list[tuple[Any, ...]]]] = [
    (
        # A value that names no entity has no attributes; it is no error.
        [[":db/add", 1, ":refs", 1]],
        "[:find ?a ?d :where [?e :refs _] [(ground [true [1 2] 1]) [?a ...]] "
        "[(get-else $ ?a :refs :none) ?d]]",
        [(True, Keyword("none")), ((1, 2), Keyword("none")), (1, 1)],
    ),
    (
        # A value that is bound twice is looked up once.
        [[":db/add", 4, ":any", 0], [":db/add", 4, ":index", 0], [":db/add", 1, ":any", 0]],
        "[:find ?f ?v ?w :where [?w :any ?v] [?w :any 0] [?f :index ?v]]",
        [(4, 0, 1), (4, 0, 4)],
    ),
    (
        # An int that is too large for an entity id does not hide the others.
        [
            [":db/add", 1, ":any", 2**70],
            [":db/add", 3, ":ref", 1],
            [":db/add", 1, ":ref", 1],
        ],
        "[:find ?e ?v :where [?e :ref 1] [?v :ref] "
        "(or [?e :ref ?v] (and [3 :ref ?e] [?e :any ?v]))]",
        [(1, 1), (3, 1)],
    ),
    (
        # A tuple among the values of a variable is no lookup ref that could be wrong.
        [
            [":db/add", 1, ":index", (True, "a")],
            [":db/add", 1, ":index", 3],
            [":db/add", 3, ":long", 1],
        ],
        "[:find ?e :where [1 :index ?e] [?e :long ?w]]",
        [(3,)],
    ),
]


@pytest.mark.parametrize(("facts", "query", "expected"), CASES)
async def test_found_before(facts: list[Any], query: str, expected: list[tuple[Any, ...]]) -> None:
    db = await empty_db(SCHEMA).db_with(facts)
    found = list(await db.q(query))
    assert Counter(map(typed_key, found)) == Counter(map(typed_key, expected))


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([":id", "a"], [Keyword("id"), "a"], [5]),
        ([":id", 1], Keyword("a"), [6]),
        ([":id", "a"], [":id", 1], []),
    ],
    ids=["two spellings", "two names", "names of two"],
)
async def test_the_evaluator_knows_that_two_names_are_of_one_entity(
    one: Any, other: Any, found: list[int]
) -> None:
    """Also where a rule has a variable twice in its head, and is called with both."""
    r, x, a, b, value = map(Symbol, ("r", "?x", "?a", "?b", "?value"))
    rules = [[(r, x, x), [x, Keyword("long"), value]]]
    facts = [*NAMED, [":db/add", 1, ":long", 5], [":db/add", 2, ":long", 6]]
    db = await empty_db(SCHEMA).db_with(facts)
    text = "[:find [?value ...] :in $ % ?a ?b :where (r ?a ?b) [?a :long ?value]]"
    assert await db.q(text, rules, one, other) == found
    datoms = [tuple(datom) for datom in await db.datoms("eavt")]
    rows = oracle.evaluate(
        [value],
        [(r, a, b), [a, Keyword("long"), value]],
        ins=[Symbol("$"), a, b],
        inputs=[datoms, one, other],
        rules=rules,
    )
    assert rows == [(value,) for value in found]
