"""What Datahike's documentation says of queries, form by form, on one small database."""

from __future__ import annotations

from typing import Any

import pytest

from datahike_async.database import Database, init_db
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import QueryError
from datahike_async.query.api import q

pytestmark = pytest.mark.anyio

SCHEMA: dict[str, dict[str, Any]] = {
    ":email": {":db/unique": ":db.unique/identity"},
    ":friend": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":nick": {":db/cardinality": ":db.cardinality/many"},
}
DATOMS: list[tuple[int, str, Any]] = [
    (1, ":name", "Ada"), (1, ":age", 36), (1, ":email", "ada@x"), (1, ":nick", "A"),
    (1, ":nick", "Countess"), (1, ":friend", 2), (1, ":friend", 3),
    (2, ":name", "Ben"), (2, ":age", 20), (2, ":friend", 3),
    (3, ":name", "Cleo"), (3, ":age", 36), (3, ":active", False), (3, ":score", 0),
    (4, ":age", 51),
]  # fmt: skip


def people() -> Database:
    return init_db(DATOMS, SCHEMA)


RULES = """[[(knows ?a ?b) [?a :friend ?b]]
            [(reach ?a ?b) (knows ?a ?b)]
            [(reach ?a ?b) (knows ?a ?x) (reach ?x ?b)]
            [(older [?limit] ?e) [?e :age ?a] [(> ?a ?limit)]]]"""
NAMED = "[?e :name ?n]"

# A query, what it is given beside the database, and what it answers (sets as sets).
CASES: list[tuple[Any, tuple[Any, ...], Any]] = [
    # find
    (f"[:find ?n :where {NAMED}]", (), {("Ada",), ("Ben",), ("Cleo",)}),
    ("[:find [?n ?a] :where [2 :name ?n] [2 :age ?a]]", (), ("Ben", 20)),
    ("[:find ?n . :where [2 :name ?n]]", (), "Ben"),
    ("[:find ?n . :where [9 :name ?n]]", (), None),
    ("[:find [?n ...] :where [9 :name ?n]]", (), []),
    ("[:find (pull $ ?e [:name]) . :where [?e :age 20]]", (), {":name": "Ben"}),
    ("[:find (pull ?e p) . :in $ p :where [?e :age 20]]", ([":name"],), {":name": "Ben"}),
    ("[:find (pull ?e ?p) . :in $ ?p :where [?e :age 20]]", ("[:age]",), {":age": 20}),
    # aggregates
    ("[:find ?a (count ?e) :where [?e :age ?a]]", (), [(20, 1), (36, 2), (51, 1)]),
    ("[:find (sum ?a) . :with ?e :where [?e :age ?a]]", (), 143),
    ("[:find (sum ?a) . :where [?e :age ?a]]", (), 107),
    ("[:find (avg ?a) . :with ?e :where [?e :age ?a]]", (), 35.75),
    ("[:find (median ?a) . :with ?e :where [?e :age ?a]]", (), 36.0),
    ("[:find (variance ?a) . :where [2 :age ?a]]", (), 0.0),
    ("[:find (min 2 ?a) . :where [?e :age ?a]]", (), (20, 36)),
    ("[:find (max 2 ?a) . :where [?e :age ?a]]", (), (36, 51)),
    ("[:find (count-distinct ?a) . :with ?e :where [?e :age ?a]]", (), 3),
    ("[:find (distinct ?a) . :where [?e :age ?a]]", (), {20, 36, 51}),
    ("[:find (aggregate ?f ?a) . :in $ ?f :where [?e :age ?a]]", (len,), 3),
    ("[:find (count ?e) . :where [?e :name 7]]", (), None),
    ("[:find (count ?e) :where [?e :name 7]]", (), []),
    # inputs
    (f"[:find ?e :in $ ?n :where {NAMED}]", ("Ada",), {(1,)}),
    (f"[:find ?e :in $ [?n ...] :where {NAMED}]", (["Ada", "Ben"],), {(1,), (2,)}),
    (f"[:find ?e :in $ [?n ...] :where {NAMED}]", ({"Ada"},), {(1,)}),
    (f"[:find ?e :in $ [?n ...] :where {NAMED}]", ([],), set()),
    (f"[:find ?e ?x :in $ [?n ?x] :where {NAMED}]", (["Ada", 5],), {(1, 5)}),
    (f"[:find ?e ?x :in $ [[?n ?x]] :where {NAMED}]", ([["Ada", 5]],), {(1, 5)}),
    (f"[:find ?e ?x :in $ [[?n ?x]] :where {NAMED}]", ({"Ada": 5},), {(1, 5)}),
    (f"[:find ?e :in $ [[_ ?n]] :where {NAMED}]", ([[0, "Ben"]],), {(2,)}),
    (f"[:find ?e :in $ _ ?n :where {NAMED}]", (0, "Ben"), {(2,)}),
    (f"[:find x/?e :in $ x/?n :where {NAMED.replace('?', 'x/?')}]",
     ("Ben",), {(2,)}),
    ("[:find ?x :in $ f :where [2 :age ?a] [(f ?a) ?x]]", (lambda a: a + 1,), {(21,)}),
    ("[:find ?x :in $ ?f :where [2 :age ?a] [(?f ?a) ?x]]", (lambda a: a + 1,), {(21,)}),
    # sources
    ("[:find ?n ?c :in $ $c :where [?e :name ?n] [$c ?n ?c]]", ([("Ada", 7), ("X", 8)],),
     {("Ada", 7)}),
    ("[:find ?n :in $ $b % :where ($b knows ?a ?b) [?b :name ?n]]", (people(), RULES),
     {("Ben",), ("Cleo",)}),
    # patterns
    ("[:find ?a :where [?e :age ?a] [?e :age ?a]]", (), {(20,), (36,), (51,)}),
    ("[:find ?e :where [?e :undeclared _]]", (), set()),
    ("[:find ?a :where [3 ?a _]]", (),
     {(Keyword("name"),), (Keyword("age"),), (Keyword("active"),), (Keyword("score"),)}),
    ("[:find ?e :where [?e :friend [:email \"ada@x\"]]]", (), set()),
    ("[:find ?n :where [[:email \"ada@x\"] :friend ?f] [?f :name ?n]]", (),
     {("Ben",), ("Cleo",)}),
    ("[:find ?n :in $ ?who :where [?who :friend ?f] [?f :name ?n]]", ([":email", "ada@x"],),
     {("Ben",), ("Cleo",)}),
    # predicates and functions
    ("[:find ?e :where [?e :age ?a] [(<= 20 ?a 36)]]", (), {(1,), (2,), (3,)}),
    ("[:find ?e :where [?e :age ?a] [(> ?a \"x\")]]", (), set()),
    ("[:find ?x :where [(ground [1 2 3]) [?x ...]] [(odd? ?x)]]", (), {(1,), (3,)}),
    ("[:find ?x ?y :where [(ground [[1 2] [3 4]]) [[?x ?y]]]]", (), {(1, 2), (3, 4)}),
    ("[:find ?d :where [3 :name] [(get-else $ 3 :active true) ?d]]", (), {(False,)}),
    ("[:find ?d :where [2 :name] [(get-else $ 2 :active :none) ?d]]", (), {(Keyword("none"),)}),
    ("[:find ?k ?v :where [3 :name] [(get-some $ 3 :email :score) [?k ?v]]]", (),
     {(Keyword("score"), 0)}),
    ("[:find ?e :where [?e :age] [(missing? $ ?e :name)]]", (), {(4,)}),
    ("[:find ?e :where [?e :age] [(missing? $ ?e :_friend)]]", (), {(1,), (4,)}),
    ("[:find ?t :where [2 :name ?n] [2 :age ?a] [(tuple ?n ?a) ?t]]", (), {(("Ben", 20),)}),
    ("[:find ?y :where [(ground [1 2]) ?t] [(untuple ?t) [_ ?y]]]", (), {(2,)}),
    ("[:find ?x :where [2 :age ?x] [(identity 20) ?x]]", (), {(20,)}),
    ("[:find ?x :where [2 :age ?x] [(identity 21) ?x]]", (), set()),
    ("[:find ?r . :where [(q [:find (max ?a) . :where [_ :age ?a]] $) ?r]]", (), 51),
    ("[:find ?e :where [(q [:find (max ?a) . :where [_ :age ?a]] $) ?m] [?e :age ?m]]", (),
     {(4,)}),
    ("[:find ?n ?c :where [(q '[:find ?n ?a :where [?e :name ?n] [?e :age ?a]] $) [[?n ?c]]]]", (),
     {("Ada", 36), ("Ben", 20), ("Cleo", 36)}),
    # not, or
    ("[:find ?e :where [?e :age] (not [?e :name])]", (), {(4,)}),
    ("[:find ?e :where (not [?e :name]) [?e :age]]", (), {(4,)}),
    ("[:find ?e :where [?e :name] (not-join [?e] [?x :friend ?e])]", (), {(1,)}),
    ("[:find ?e :where (or [?e :name \"Ben\"] [?e :age 51])]", (), {(2,), (4,)}),
    ("[:find ?e :where (or-join [?e] (and [?e :age ?a] [(> ?a 50)]) [?e :score])]", (),
     {(3,), (4,)}),
    ("[:find ?e :in $ ?x :where (or [?e :age ?x] [?e :name \"Ben\"])]", (51,), {(2,), (4,)}),
    ("[:find ?e :in $ ?l :where (or-join [[?l] ?e] (and [?e :age ?a] [(> ?a ?l)]))]", (40,),
     {(4,)}),
    # rules
    ("[:find ?n :in $ % :where (reach 1 ?b) [?b :name ?n]]", (RULES,), {("Ben",), ("Cleo",)}),
    ("[:find ?e :in $ % :where (older 40 ?e)]", (RULES,), {(4,)}),
    ("[:find ?n :in $ % ?b :where (r ?n ?b)]", ("[[(r ?n ?b) [_ :name ?n]]]", 3),
     {("Ada",), ("Ben",), ("Cleo",)}),
    ("[:find ?n :in $ % ?e :where (reach ?e ?b) [?b :name ?n]]", (RULES, [":email", "ada@x"]),
     {("Ben",), ("Cleo",)}),
    # maps, order, parts
    ("[:find ?n ?a :keys name age :where [?e :name ?n] [?e :age ?a] [?e :active]]", (),
     [{":name": "Cleo", ":age": 36}]),
    ("{:find [?n] :keys [:name] :where [[2 :name ?n]]}", (), [{Keyword("name"): "Ben"}]),
    ("[:find ?n :strs name :where [2 :name ?n]]", (), [{"name": "Ben"}]),
    ("[:find ?n :syms name :where [2 :name ?n]]", (), [{Symbol("name"): "Ben"}]),
    ("[:find ?n ?a :where [?e :name ?n] [?e :age ?a] :order-by [?a :desc ?n :asc]]", (),
     [("Ada", 36), ("Cleo", 36), ("Ben", 20)]),
    ("[:find ?n :where [?e :name ?n] :order-by ?n :limit 2 :offset 1]", (), [("Ben",), ("Cleo",)]),
    ("[:find ?n :where [?e :name ?n] :order-by ?n :limit -1 :offset -1]", (),
     [("Ada",), ("Ben",), ("Cleo",)]),
    ("[:find ?n :where [?e :name ?n] :limit 0]", (), set()),
    # forms of a query
    ({":find": ["?e"], ":in": ["$", "?n"], ":where": [["?e", ":name", "?n"]]}, ("Ben",), {(2,)}),
    ("{:find [?e] :where [[?e :name \"Ben\"]]}", (), {(2,)}),
    ([":find", "?e", ":where", ["?e", ":name", "Ben"]], (), {(2,)}),
]  # fmt: skip


def _id(value: object) -> str:
    """Name a case by its text: what sets and functions look like differs between processes."""
    return value[:60] if isinstance(value, str) else ""


@pytest.mark.parametrize(("query", "given", "expected"), CASES, ids=_id)
async def test_what_is_documented(query: Any, given: tuple[Any, ...], expected: Any) -> None:
    found = await q(query, people(), *given)
    if isinstance(expected, list) and ":order-by" not in str(query):
        assert sorted(found, key=repr) == sorted(_keyed(expected), key=repr)
        return
    assert found == expected
    if isinstance(expected, (int, float, str)):
        assert type(found) is type(expected)


def _keyed(rows: list[Any]) -> list[Any]:
    """Return rows with keywords where maps are keyed by their text."""
    return [
        {Keyword(k) if str(k)[:1] == ":" else k: v for k, v in row.items()}
        if isinstance(row, dict)
        else row
        for row in rows
    ]


async def test_arguments_may_stand_in_the_query_map() -> None:
    query = {":find": ["?e"], ":in": ["$", "?n"], ":where": [["?e", ":name", "?n"]]}
    assert await q({**query, ":args": [people(), "Ben"]}) == {(2,)}
    assert await q({":query": query, ":args": [people(), "Ben"], ":limit": 1}) == {(2,)}


ERRORS: list[tuple[str, tuple[Any, ...], str]] = [
    ("[:find ?x :where [?e :name]]", (), ":parser/query"),
    ("[:find ?e :with ?e :where [?e :name]]", (), ":parser/query"),
    ("[:find (count ?e) :with ?e :where [?e :name]]", (), ":parser/query"),
    ("[:find ?e :in $ ?n :where [?e :name ?n]]", (), ":query/inputs"),
    ("[:find ?e :in $ % :where (r ?e)]", (), ":query/inputs"),
    ("[:find ?e :where [?e :name ?n]]", (1,), ":query/inputs"),
    ("[:find ?n . :keys n :where [?e :name ?n]]", (), ":parser/return-maps"),
    ("[:find ?n :keys n m :where [?e :name ?n]]", (), ":parser/return-maps"),
    ("[:find ?n :where [?e :name ?n] :order-by [?x]]", (), ":parser/order-by"),
    ("[:find ?n :where [?e :name ?n] :order-by [4]]", (), ":parser/order-by"),
    ("[:find ?n :where [?e :name ?n] :order-by [:desc ?n]]", (), ":parser/order-by"),
    ("[:find ?e :in $ [?n ...] :where [?e :name ?n]]", (5,), ":query/binding"),
    ("[:find ?e :in $ [?n ?m] :where [?e :name ?n]]", (["a"],), ":query/binding"),
    ("[:find ?e :where [?e :name 7] [(nosuch ?e)]]", (), ":query/where"),
    ("[:find ?e :where [?e :age ?a] [(+ ?a (inc 1)) ?x]]", (), ":query/where"),
    ("[:find ?e :where [?e :age] [(get-else $ ?e :name nil) ?x]]", (), ":query/where"),
    ("[:find ?e :where [?e :age] (not [?x :name])]", (), ":query/where"),
    ('[:find ?n :where [[:email "nobody"] :name ?n]]', (), ":entity-id/missing"),
    ("[:find ?n :in $ ?e :where [?e :name ?n]]", ([":email", "nobody"],), ":entity-id/missing"),
    ('[:find ?n :where [[:name "Ada"] :age ?n]]', (), ":lookup-ref/unique"),
    ("[:find ?n :where [[:email] :age ?n]]", (), ":lookup-ref/syntax"),
]


@pytest.mark.parametrize(("query", "given", "error"), ERRORS, ids=_id)
async def test_what_is_refused(query: str, given: tuple[Any, ...], error: str) -> None:
    with pytest.raises(QueryError) as caught:
        await q(query, people(), *given)
    assert caught.value.error == error
