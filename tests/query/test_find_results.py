"""The find specs, aggregates, return maps, order, limit; and the lazy result itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from datahike_async.database import Database, init_db
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import QueryError
from datahike_async.functions import register_function, unregister_function
from datahike_async.query.answer.result import QueryList, QueryResult
from datahike_async.query.api import q
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet

pytestmark = pytest.mark.anyio

PEOPLE = [(1, "Ivan", 15, 1.5), (2, "Petr", 37, 2.5), (3, "Ivan", 37, 4.0), (4, "Oleg", 20, 0.5)]
NAMES = "[?e :name ?n]"


def people() -> Database:
    datoms: list[Any] = []
    for e, name, age, score in PEOPLE:
        datoms += [(e, ":name", name), (e, ":age", age), (e, ":score", score)]
    return init_db([*datoms, (1, ":friend", 2)], {":friend": {":db/valueType": ":db.type/ref"}})


# -- find specs --------------------------------------------------------------------------------


async def test_relation_collection_tuple_scalar() -> None:
    db = people()
    relation = await q(f"[:find ?e ?n :where {NAMES}]", db)
    assert isinstance(relation, QueryResult)
    assert relation == {(1, "Ivan"), (2, "Petr"), (3, "Ivan"), (4, "Oleg")}
    names = await q(f"[:find [?n ...] :where {NAMES}]", db)
    assert isinstance(names, list)
    assert sorted(names) == ["Ivan", "Oleg", "Petr"]
    assert await q("[:find [?n ?a] :where [2 :name ?n] [2 :age ?a]]", db) == ("Petr", 37)
    assert await q("[:find ?n . :where [2 :name ?n]]", db) == "Petr"


async def test_finds_of_nothing() -> None:
    db = people()
    nothing = '[?e :name ?n] [?e :name "No"] [?e :age ?a]'
    empty = await q(f"[:find ?e ?a :where {nothing}]", db)
    assert len(empty) == 0
    assert empty == set()
    assert await q(f"[:find [?e ...] :where {nothing}]", db) == []
    assert await q(f"[:find [?e ?a] :where {nothing}]", db) is None
    assert await q(f"[:find ?e . :where {nothing}]", db) is None
    assert await q(f"[:find (count ?e) :where {nothing}]", db) == []
    assert await q(f"[:find (count ?e) . :where {nothing}]", db) is None


async def test_false_and_zero_are_values() -> None:
    db = init_db([(1, ":on", False), (2, ":n", 0)])
    assert await q("[:find ?v . :where [1 :on ?v]]", db) is False
    assert await q("[:find ?v . :where [2 :n ?v]]", db) == 0
    assert await q("[:find [?v ...] :where [1 :on ?v]]", db) == [False]


async def test_pull_in_find() -> None:
    db = people()
    found = await q("[:find (pull ?e [:name :age]) ?a :where [?e :age ?a] [(> ?a 30)]]", db)
    expected = [
        ({Keyword("name"): "Petr", Keyword("age"): 37}, 37),
        ({Keyword("name"): "Ivan", Keyword("age"): 37}, 37),
    ]
    assert isinstance(found, QueryList)
    assert sorted(found, key=lambda r: r[0][Keyword("name")], reverse=True) == expected
    one = await q("[:find (pull ?e [:name]) . :where [?e :age 15]]", db)
    assert one == {Keyword("name"): "Ivan"}
    many = await q("[:find [(pull ?e [:name]) ...] :where [?e :age 15]]", db)
    assert many == [{Keyword("name"): "Ivan"}]
    given = await q(
        "[:find (pull $ ?e ?p) . :in $ ?p :where [?e :age 15]]",
        db,
        [":age", {":friend": [":name"]}],
    )
    assert given == {Keyword("age"): 15, Keyword("friend"): {Keyword("name"): "Petr"}}
    named = await q("[:find (pull ?e p) . :in $ p :where [?e :age 15]]", db, "[:age]")
    assert named == {Keyword("age"): 15}


# -- aggregates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("find", "expected"),
    [
        ("?n (count ?e)", {("Ivan", 2), ("Petr", 1), ("Oleg", 1)}),
        ("(count ?e)", {(4,)}),
        ("(count ?n)", {(3,)}),
        ("(count-distinct ?n)", {(3,)}),
        ("(sum ?a)", {(72,)}),
        ("?n (sum ?a) (min ?a) (max ?a)",
         {("Ivan", 52, 15, 37), ("Petr", 37, 37, 37), ("Oleg", 20, 20, 20)}),
        ("?n (avg ?a)", {("Ivan", 26.0), ("Petr", 37.0), ("Oleg", 20.0)}),
        ("(sum ?s) (min ?s) (max ?s) (avg ?s)", {(8.5, 0.5, 4.0, 2.125)}),
        ("(min ?n) (max ?n)", {("Ivan", "Petr")}),
        ("?a (min ?n) (max ?n)",
         {(15, "Ivan", "Ivan"), (37, "Ivan", "Petr"), (20, "Oleg", "Oleg")}),
        ("(median ?s)", {(2.0,)}),
        ("?n (variance ?s) (stddev ?s)",
         {("Ivan", 1.5625, 1.25), ("Petr", 0.0, 0.0), ("Oleg", 0.0, 0.0)}),
        ("?a (distinct ?n)",
         {(15, frozenset({"Ivan"})), (37, frozenset({"Ivan", "Petr"})), (20, frozenset({"Oleg"}))}),
    ],
)  # fmt: skip
async def test_aggregates(find: str, expected: set[Any]) -> None:
    query = f"[:find {find} :where {NAMES} [?e :age ?a] [?e :score ?s]]"
    found = await q(query, people())
    assert isinstance(found, QueryList)
    assert len(found) == len(expected)
    assert set(found) == expected


async def test_with_keeps_what_a_set_would_merge() -> None:
    db = people()
    assert await q("[:find (sum ?a) . :where [_ :age ?a]]", db) == 72
    assert await q("[:find (sum ?a) . :with ?e :where [?e :age ?a]]", db) == 109
    assert await q("[:find (count ?n) . :with ?e :where [?e :name ?n]]", db) == 4
    bag = await q("[:find ?n :with ?e :where [?e :name ?n]]", db)
    assert isinstance(bag, QueryList)
    assert sorted(bag) == [("Ivan",), ("Ivan",), ("Oleg",), ("Petr",)]


async def test_sized_aggregates() -> None:
    db = people()
    ages = "[:find ({} ?a) . :where [_ :age ?a]]"
    assert list(await q(ages.format("min 2"), db)) == [15, 20]
    assert list(await q(ages.format("max 2"), db)) == [20, 37]
    assert list(await q(ages.format("max 9"), db)) == [15, 20, 37]
    sample = await q(ages.format("sample 2"), db)
    assert len(sample) == 2
    assert set(sample) <= {15, 20, 37}
    rand = await q(ages.format("rand 5"), db)
    assert len(rand) == 5
    assert set(rand) <= {15, 20, 37}
    assert await q(ages.format("rand"), db) in {15, 20, 37}
    given = await q("[:find (min ?k ?a) . :in $ ?k :where [_ :age ?a]]", db, 1)
    assert list(given) == [15]


async def test_aggregates_of_ones_own() -> None:
    db = people()
    query = "[:find ({} ?a) . :with ?e :in $ {} :where [?e :age ?a]]"
    assert await q(query.format("aggregate f", "f"), db, sorted) == (15, 20, 37, 37)
    assert await q(query.format("aggregate ?f", "?f"), db, len) == 4
    register_function("test/spread", lambda values: max(values) - min(values))
    try:
        assert await q("[:find (test/spread ?a) . :where [_ :age ?a]]", db) == 22
    finally:
        unregister_function("test/spread")
    with pytest.raises(QueryError) as caught:
        await q("[:find (nonesuch ?a) :where [_ :age ?a]]", db)
    assert caught.value.error == ":query/where"
    with pytest.raises(QueryError, match="takes numbers"):
        await q("[:find (sum ?n) :where [_ :name ?n]]", db)


async def test_large_sums_are_exact() -> None:
    big = 2**62
    db = init_db([(i, ":v", big + i) for i in range(1, 6)])
    assert await q("[:find (sum ?v) . :where [_ :v ?v]]", db) == sum(big + i for i in range(1, 6))
    odd = init_db([(i, ":v", 2**53 + i) for i in range(1, 4)])
    assert await q("[:find (sum ?v) . :where [_ :v ?v]]", odd) == 3 * 2**53 + 6
    assert await q("[:find (max ?v) . :where [_ :v ?v]]", odd) == 2**53 + 3
    low = init_db([(i, ":v", -(2**63) + i) for i in range(3)])
    assert await q("[:find (sum ?v) . :where [_ :v ?v]]", low) == 3 * -(2**63) + 3


async def test_many_groups() -> None:
    db = init_db([d for i in range(3000) for d in ((i, ":k", i % 1000), (i, ":v", i))])
    found = await q("[:find ?k (sum ?v) (count ?v) (max ?v) :where [?e :k ?k] [?e :v ?v]]", db)
    assert sorted(found) == [(k, 3 * k + 3000, 3, k + 2000) for k in range(1000)]


# -- shapes ------------------------------------------------------------------------------------


async def test_return_maps() -> None:
    db = people()
    query = "[:find ?n ?a :{} name age :where [?e :name ?n] [?e :age ?a] [(< ?a 20)]]"
    assert await q(query.format("keys"), db) == [{Keyword("name"): "Ivan", Keyword("age"): 15}]
    assert await q(query.format("strs"), db) == [{"name": "Ivan", "age": 15}]
    assert await q(query.format("syms"), db) == [{Symbol("name"): "Ivan", Symbol("age"): 15}]
    one = await q("[:find [?n ?a] :keys n a :where [2 :name ?n] [2 :age ?a]]", db)
    assert one == {Keyword("n"): "Petr", Keyword("a"): 37}


async def test_order_limit_and_offset() -> None:
    db = people()
    query = "[:find ?n ?a :where [?e :name ?n] [?e :age ?a]"
    by_age = await q(query + " :order-by [?a :desc ?n :asc]]", db)
    assert by_age == [("Ivan", 37), ("Petr", 37), ("Oleg", 20), ("Ivan", 15)]
    assert await q(query + " :order-by ?a :limit 2]", db) == [("Ivan", 15), ("Oleg", 20)]
    assert await q(query + " :order-by [1 0] :limit 2 :offset 1]", db) == [
        ("Oleg", 20),
        ("Ivan", 37),
    ]
    assert len(await q(query + " :limit 3]", db)) == 3
    assert len(await q(query + " :limit 0]", db)) == 0
    assert len(await q(query + " :offset -4]", db)) == 4
    assert len(await q(query + " :offset 9]", db)) == 0
    assert len(await q(query + " :limit -1]", db)) == 4
    assert len(await q(query + " :limit -1 :offset 1]", db)) == 3
    assert len(await q(query + " :limit 1]", db, limit=-1)) == 4
    assert len(await q(query + "]", db, limit=1)) == 1
    scores = "[:find [?s ...] :where [_ :score ?s] :order-by [?s :desc]]"
    assert await q(scores, db) == [4.0, 2.5, 1.5, 0.5]


async def test_nan_follows_every_number_in_both_directions() -> None:
    nan = float("nan")
    for schema in ({}, {":d": {":db/valueType": ":db.type/double"}}):
        db = init_db([(1, ":d", nan), (2, ":d", 2.5), (3, ":d", -1.0)], schema)
        up = await db.q("[:find ?e ?v :where [?e :d ?v] :order-by [?v :asc]]")
        down = await db.q("[:find ?e ?v :where [?e :d ?v] :order-by [?v :desc]]")
        assert [e for e, _ in up] == [3, 2, 1]
        assert [e for e, _ in down] == [1, 2, 3]


async def test_argument_maps() -> None:
    db = people()
    found = await q({":query": "[:find ?e :in $ ?n :where [?e :name ?n]]", ":args": [db, "Petr"]})
    assert found == {(2,)}
    found = await q(
        {
            Keyword("query"): {"find": ["?e"], "where": [["?e", ":name", "_"]]},
            Keyword("args"): [db],
            Keyword("limit"): 2,
        }
    )
    assert len(found) == 2
    found = await q({":find": ["?e"], ":where": [["?e", ":age", 15]], ":args": [db]})
    assert found == {(1,)}


# -- the lazy result ---------------------------------------------------------------------------


async def test_a_result_is_a_set() -> None:
    found = await q("[:find ?e ?n :where [?e :name ?n]]", people())
    expected = {(1, "Ivan"), (2, "Petr"), (3, "Ivan"), (4, "Oleg")}
    assert found == expected
    assert expected == found
    assert found != {(1, "Ivan")}
    assert found != expected - {(1, "Ivan")} | {(9, "X")}
    assert set(found) == expected
    for _ in range(3):
        assert (1, "Ivan") in found
        assert (1, "Petr") not in found
        assert (True, "Ivan") not in found
        assert (1.0, "Ivan") not in found
        assert (1,) not in found
        assert "Ivan" not in found
        assert (1, ["x"]) not in found
    assert found & {(1, "Ivan"), (9, "X")} == {(1, "Ivan")}
    assert found | {(9, "X")} == expected | {(9, "X")}
    assert found <= expected
    assert found.names == ("e", "n")
    assert hash(found) == hash(frozenset(expected))


async def test_rows_that_differ_in_type_alone_stay_apart() -> None:
    db = init_db([(1, ":v", 1), (2, ":v", True), (3, ":v", 1.0)])
    found = await q("[:find ?v :where [_ :v ?v]]", db)
    assert len(found) == 3
    assert sorted(str(v) for (v,) in found) == ["1", "1.0", "True"]
    assert (True,) in found
    again = await q("[:find ?v :where [_ :v ?v]]", db)
    assert found == again
    assert found != await q("[:find ?v :where [?e :v ?v] [(< ?e 3)]]", db)


async def test_long_results_come_in_chunks() -> None:
    db = init_db([(i, ":n", i * 2) for i in range(10_000)])
    found = await q("[:find ?e ?n :where [?e :n ?n]]", db)
    assert list(found) == [(i, i * 2) for i in range(10_000)]
    assert list(map(len, found.chunks())) == [4096, 4096, 1808]
    assert [len(c) for c in found.chunks(6000)] == [6000, 4000]
    with pytest.raises(ValueError, match="at least 1"):
        next(found.chunks(0))


async def test_columns() -> None:
    when = datetime(2024, 5, 6, 7, 8, 9, 10, UTC)
    db = init_db([(1, ":name", "Ada"), (1, ":at", when), (1, ":x", 2.5), (1, ":tag", (1, "a"))])
    query = "[:find ?e ?n ?at ?x ?t :where [?e :name ?n] [?e :at ?at] [?e :x ?x] [?e :tag ?t]]"
    columns = (await q(query, db)).columns()
    assert list(columns) == ["e", "n", "at", "x", "t"]
    assert columns["e"].dtype == np.int64
    assert columns["x"].tolist() == [2.5]
    assert columns["n"].tolist() == ["Ada"]
    assert columns["at"][0] == np.datetime64("2024-05-06T07:08:09.000010")
    assert columns["t"][0] == (1, "a")
    with pytest.raises(ValueError, match="read-only"):
        columns["e"][0] = 5


async def test_the_result_outlives_later_queries_and_is_not_shared() -> None:
    db = people()
    query = "[:find ?e :in $ ?n :where [?e :name ?n]]"
    first = await q(query, db, "Ivan")
    second = await q(query, db, "Petr")
    assert first == {(1,), (3,)}
    assert second == {(2,)}


# -- sets of values ------------------------------------------------------------------------------

TWINS = [(1, 1), (1, 1.0), (1, True), (2, 1)]


async def test_distinct_keeps_values_apart_that_differ_in_type() -> None:
    found = await q("[:find ?e (distinct ?v) :in [[?e ?v]]]", TWINS)
    sets = dict(found)
    assert isinstance(sets[1], ValueSet)
    assert sorted(map(repr, sets[1])) == ["1", "1.0", "True"]
    assert 1 in sets[1]
    assert True in sets[1]
    assert 2 not in sets[1]
    assert True not in sets[2]
    assert sets[2] == {1} == sets[2]
    assert sets[1] != {1}
    assert hash(sets[2]) == hash(frozenset({1}))
    assert sets[2] | {5} == {1, 5}
    with pytest.raises(AttributeError):
        sets[2].add(1)  # type: ignore[attr-defined]


async def test_sets_that_functions_make_keep_values_apart_that_differ_in_type() -> None:
    query = "[:find ?n . :in ?v :where [({} ?v) ?s] [(count ?s) ?n]]"
    assert await q(query.format("set"), [1, 1.0, True]) == 3
    union = "[:find ?s . :where [(hash-set 1 true) ?a] [(hash-set 1.0) ?b] {} ]"
    found = await q(union.format("[(clojure.set/union ?a ?b) ?s]"))
    assert typed_key(found) == typed_key(ValueSet([1, True, 1.0]))
    assert await q(union.format("[(clojure.set/difference ?a ?b) ?s]")) == ValueSet([1, True])


async def test_a_nested_query_is_a_set() -> None:
    db = people()
    nested = '[(q "[:find ?n ?a :where [?e :name ?n] [?e :age ?a]]" $) ?r]'
    found = await q(f"[:find ?r . :where {nested}]", db)
    assert isinstance(found, ValueSet)
    assert found == {("Ivan", 15), ("Petr", 37), ("Ivan", 37), ("Oleg", 20)}
    assert await q(f"[:find ?c . :where {nested} [(count ?r) ?c]]", db) == 4
    assert await q(f'[:find ?c . :where {nested} [(contains? ?r ["Oleg" 20]) ?c]]', db) is True
    rows = await q(f"[:find ?n ?a :where {nested[:-3]} [[?n ?a]]]]", db)
    assert rows == found
    ordered = '[(q "[:find ?n (count ?e) :where [?e :name ?n]]" $) ?r]'
    assert isinstance(await q(f"[:find ?r . :where {ordered}]", db), tuple)


@pytest.mark.parametrize(
    "nested", ["'[:find ?n :where [_ :name ?n]]", "(quote [:find ?n :where [_ :name ?n]])"]
)
async def test_a_quoted_query_is_unquoted(nested: str) -> None:
    db = people()
    names = {("Ivan",), ("Petr",), ("Oleg",)}
    assert await q(nested, db) == names
    assert await q(f"[:find ?r . :where [(q {nested} $) ?r]]", db) == names
    data = ("quote", [":find", "?n", ":where", ["_", ":name", "?n"]])
    assert await q(data, db) == names
    assert await q("[:find ?e :in $ % :where (r ?e)]", db, "'[[(r ?e) [?e :age 20]]]") == {(4,)}
    pulled = await q("[:find (pull ?e '[:name]) . :where [?e :age 20]]", db)
    assert pulled == {":name": "Oleg"}


@pytest.mark.parametrize(
    "find", ["(count ?a)", "?n (count ?a)", "(pull ?a [*])", "?a", "?n (min 2 ?a)"]
)
async def test_with_shares_no_variable_with_find(find: str) -> None:
    query = f"[:find {find} :with ?a :where [?e :name ?n] [?e :age ?a]]"
    with pytest.raises(QueryError, match=r"should not share \?a") as caught:
        await q(query, people())
    assert caught.value.error == ":parser/query"
