"""Where clauses on databases and collections: the answers, and that clause order never matters."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from datahike_async.database import Database, empty_db, init_db
from datahike_async.edn.reader import read
from datahike_async.edn.types import Keyword
from datahike_async.errors import QueryCanceled, QueryError
from datahike_async.functions import register_function, unregister_function
from datahike_async.query.api import q

pytestmark = pytest.mark.anyio

REF = {":db/valueType": ":db.type/ref"}
MANY = {":db/cardinality": ":db.cardinality/many"}
SCHEMA: dict[str, dict[str, Any]] = {
    ":name": {":db/index": True},
    ":email": {":db/unique": ":db.unique/identity"},
    ":friend": {**REF, **MANY},
    ":boss": REF,
    ":aka": MANY,
}


def people(**options: Any) -> Database:
    return init_db(
        [
            (1, ":name", "Ivan"),
            (1, ":age", 15),
            (1, ":email", "ivan@x"),
            (2, ":name", "Petr"),
            (2, ":age", 37),
            (2, ":email", "petr@x"),
            (2, ":aka", "Pete"),
            (2, ":aka", "Bear"),
            (3, ":name", "Ivan"),
            (3, ":age", 37),
            (3, ":boss", 2),
            (1, ":friend", 2),
            (1, ":friend", 3),
            (2, ":friend", 3),
            (4, ":age", 15),
        ],
        SCHEMA,
        **options,
    )


async def answer(query: str, db: Any, *inputs: Any) -> set[Any]:
    """Run a query with its clauses in every order; all must agree."""
    form = read(query)
    at = form.index(Keyword("where"))
    head, clauses = form[: at + 1], form[at + 1 :]
    found = [
        await q([*head, *order], db, *inputs)
        for order in itertools.islice(itertools.permutations(clauses), 24)
    ]
    for other in found[1:]:
        assert other == found[0]
        assert len(other) == len(found[0])
    assert await q(query, db, *inputs) == found[0]
    return set(found[0])


CASES: list[tuple[str, tuple[Any, ...], set[Any]]] = [
    # patterns and joins
    ('[:find ?e :where [?e :name "Ivan"]]', (), {(1,), (3,)}),
    ('[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a]]', (), {(1, 15), (3, 37)}),
    ("[:find ?a :where [_ :age ?a]]", (), {(15,), (37,)}),
    ("[:find ?x ?y :where [?x :age ?a] [?y :age ?a] [?x :name _] [?y :name _]]", (),
     {(1, 1), (2, 2), (3, 3), (2, 3), (3, 2)}),
    ("[:find ?n :where [1 :friend ?f] [?f :name ?n]]", (), {("Petr",), ("Ivan",)}),
    ("[:find ?k :where [2 :aka ?k]]", (), {("Pete",), ("Bear",)}),
    ("[:find ?e :where [?e :aka _]]", (), {(2,)}),
    ("[:find ?e ?f ?n :where [?e :friend ?f] [?f :boss ?b] [?b :name ?n]]", (),
     {(1, 3, "Petr"), (2, 3, "Petr")}),
    ("[:find ?a ?b :where [?a :friend ?b] [?b :friend ?a]]", (), set()),
    ("[:find ?a :where [?a :friend ?a]]", (), set()),
    ("[:find ?a ?c :where [?a :friend ?b] [?b :friend ?c]]", (), {(1, 3)}),
    ("[:find ?e :where [?e :nothing]]", (), set()),
    ("[:find ?e ?v :where [?e :nothing ?v] [?e :name]]", (), set()),
    ("[:find ?a ?v :where [4 ?a ?v]]", (), {(Keyword("age"), 15)}),
    ('[:find ?e ?a :where [?e ?a "Ivan"]]', (), {(1, Keyword("name")), (3, Keyword("name"))}),
    ("[:find ?a :where [_ ?a]]", (),
     {(Keyword(a),) for a in ("name", "age", "email", "aka", "boss", "friend")}),
    ("[:find ?x ?y :where [?x :aka \"Bear\"] [?y :age 15]]", (), {(2, 1), (2, 4)}),
    # lookup refs and idents
    ('[:find ?a :where [[:email "petr@x"] :age ?a]]', (), {(37,)}),
    ('[:find ?e :where [?e :friend [:email "petr@x"]]]', (), {(1,)}),
    # predicates and functions
    ("[:find ?e :where [?e :age ?a] [(> ?a 20)]]", (), {(2,), (3,)}),
    ("[:find ?e :where [?e :age ?a] [(< 10 ?a 20)]]", (), {(1,), (4,)}),
    ('[:find ?e :where [?e :name ?n] [(< ?n "K")]]', (), {(1,), (3,)}),
    ("[:find ?x ?y :where [?x :age ?a] [?y :age ?b] [(< ?a ?b)] [?x :name]]", (),
     {(1, 2), (1, 3)}),
    ("[:find ?e ?b :where [?e :age ?a] [(inc ?a) ?b]]", (), {(1, 16), (2, 38), (3, 38), (4, 16)}),
    ("[:find ?e :where [?e :age ?a] [(- ?a 22) ?b] [?e2 :age ?b] [?e2 :email]]", (),
     {(2,), (3,)}),
    ("[:find ?e ?x :where [?e :email] [(ground [1 2]) [?x ...]]]", (),
     {(1, 1), (1, 2), (2, 1), (2, 2)}),
    ("[:find ?x ?y :where [(ground [[1 2] [3 4]]) [[?x ?y]]]]", (), {(1, 2), (3, 4)}),
    ("[:find ?x :where [(ground [1 2]) [?x _]]]", (), {(1,)}),
    ('[:find ?e ?n :where [?e :age] [(get-else $ ?e :name "?") ?n]]', (),
     {(1, "Ivan"), (2, "Petr"), (3, "Ivan"), (4, "?")}),
    ("[:find ?e :where [?e :age] [(missing? $ ?e :name)]]", (), {(4,)}),
    ("[:find ?e ?v :where [?e :age] [(get-some $ ?e :boss :email :age) [_ ?v]]]", (),
     {(1, "ivan@x"), (2, "petr@x"), (3, 2), (4, 15)}),
    # a function that binds what is bound unifies
    ("[:find ?e :where [?e :age ?a] [(ground 15) ?a]]", (), {(1,), (4,)}),
    ("[:find ?e :where [?e :age ?a] [(ground [15 20]) [?a ...]]]", (), {(1,), (4,)}),
    ("[:find ?e ?n :where [?e :age ?a] [?e :name ?n] [(vector ?n ?a) [?n ?a]]]", (),
     {(1, "Ivan"), (2, "Petr"), (3, "Ivan")}),
    ("[:find ?e :where [?e :age ?a] [?e :name ?n] [(vector ?a ?n) [?n ?a]]]", (), set()),
    # not
    ("[:find ?e :where [?e :age] (not [?e :name])]", (), {(4,)}),
    ('[:find ?e :where [?e :age ?a] (not [?e :name "Ivan"] [?e :age 15])]', (),
     {(2,), (3,), (4,)}),
    ("[:find ?e :where [?e :name] (not [?e :age ?a] [(> ?a 20)])]", (), {(1,)}),
    ("[:find ?e :where [?e :name] (not-join [?e] [?e :friend ?x] [?x :name \"Petr\"])]", (),
     {(2,), (3,)}),
    ("[:find ?e :where [?e :name ?x] (not-join [?e] [?e :friend ?x])]", (), {(3,)}),
    ("[:find ?e :where [?e :age] (not (not [?e :name]))]", (), {(1,), (2,), (3,)}),
    # or
    ('[:find ?e :where (or [?e :name "Petr"] [?e :age 15])]', (), {(1,), (2,), (4,)}),
    ('[:find ?e :where [?e :name] (or [?e :aka "Bear"] (and [?e :age 15] [?e :name "Ivan"]))]',
     (), {(1,), (2,)}),
    ("[:find ?e :where (or [?e :nothing] [?e :boss])]", (), {(3,)}),
    ("[:find ?e :where [?e :name] (or-join [?e] [?e :boss ?x] (and [?e :friend ?x] [?x :boss]))]",
     (), {(1,), (2,), (3,)}),
    ("[:find ?e ?a :where (or-join [?e ?a] [?e :age ?a] [?a :friend ?e]) [?e :name \"Petr\"]]",
     (), {(2, 37), (2, 1)}),
    ("[:find ?e ?y :where [?e :age ?x] (or-join [[?x] ?y] [(inc ?x) ?y] [(dec ?x) ?y])]", (),
     {(1, 16), (1, 14), (4, 16), (4, 14), (2, 38), (2, 36), (3, 38), (3, 36)}),
    # inputs
    ("[:find ?e :in $ ?n :where [?e :name ?n]]", ("Petr",), {(2,)}),
    ("[:find ?e ?n :in $ [?n ...] :where [?e :name ?n]]", (["Petr", "X", "Ivan"],),
     {(1, "Ivan"), (2, "Petr"), (3, "Ivan")}),
    ("[:find ?e ?x :in $ [[?n ?x]] :where [?e :name ?n]]",
     ([("Petr", 1), ("Petr", 2), ("Q", 3)],), {(2, 1), (2, 2)}),
    ("[:find ?e :in $ [?n ?a] :where [?e :name ?n] [?e :age ?a]]", (["Ivan", 37],), {(3,)}),
    ("[:find ?e :in $ [?n _] :where [?e :name ?n]]", (["Petr", 37],), {(2,)}),
    ("[:find ?e :in $ [?a ...] :where [?e :age ?a]]", ([],), set()),
    ("[:find ?e :in $ ?min :where [?e :age ?a] [(>= ?a ?min)]]", (37,), {(2,), (3,)}),
    ("[:find ?e ?a :in $ [[?e ?a]] :where [?e :age ?a]]", ([(1, 15), (2, 15)],), {(1, 15)}),
    ("[:find ?a :in $ ?e :where [?e :age ?a]]", ([Keyword("email"), "petr@x"],), {(37,)}),
    ("[:find ?a :in $ [?e ...] :where [?e :age ?a]]", ([[":email", "petr@x"], 1],),
     {(37,), (15,)}),
    ("[:find ?e :in $ ?a :where [?e ?a]]", (Keyword("aka"),), {(2,)}),
    ("[:find ?e ?x :in $ ?x :where [?e :aka]]", (7,), {(2, 7)}),
    ("[:find ?e :in $ pred :where [?e :age ?a] [(pred ?a)]]", (lambda a: a > 20,), {(2,), (3,)}),
    ("[:find ?y :in $ ?f :where [_ :age ?a] [(?f ?a) ?y]]", (lambda a: a * 2,), {(30,), (74,)}),
]  # fmt: skip


@pytest.mark.parametrize(("query", "inputs", "expected"), CASES, ids=[c[0] for c in CASES])
async def test_where(query: str, inputs: tuple[Any, ...], expected: set[Any]) -> None:
    assert await answer(query, people(), *inputs) == expected


async def test_the_same_from_a_memtable() -> None:
    """Data that was transacted and not yet merged into trees gives the same answers."""
    db = await empty_db(SCHEMA).db_with(
        [
            {":db/id": 1, ":name": "Ivan", ":age": 15, ":email": "ivan@x"},
            {
                ":db/id": 2,
                ":name": "Petr",
                ":age": 37,
                ":email": "petr@x",
                ":aka": ["Pete", "Bear"],
            },
            {":db/id": 3, ":name": "Ivan", ":age": 37, ":boss": 2},
            {":db/id": 4, ":age": 15},
            [":db/add", 1, ":friend", 2],
            [":db/add", 1, ":friend", 3],
            [":db/add", 2, ":friend", 3],
        ]
    )
    for query, inputs, expected in CASES:
        assert set(await q(query, db, *inputs)) == expected, query


async def test_values_of_different_types_never_merge() -> None:
    db = init_db([(1, ":v", 1), (2, ":v", 1.0), (3, ":v", True), (4, ":v", "1"), (5, ":v", 1)])
    rows = await q("[:find ?v :where [_ :v ?v]]", db)
    assert len(rows) == 4
    assert sorted(type(v).__name__ for (v,) in rows) == ["bool", "float", "int", "str"]
    pairs = await q("[:find ?a ?b :where [?a :v ?v] [?b :v ?v]]", db)
    assert set(pairs) == {(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 5), (5, 1)}
    for value, found in ((1, {(1,), (5,)}), (1.0, {(2,)}), (True, {(3,)}), ("1", {(4,)})):
        assert set(await q("[:find ?e :in $ ?v :where [?e :v ?v]]", db, value)) == found
        assert set(await q("[:find ?e :in $ [?v ...] :where [?e :v ?v]]", db, [value])) == found
        assert set(await q([":find", "?e", ":where", ["?e", ":v", value]], db)) == found


async def test_a_variable_twice_in_a_pattern_unifies() -> None:
    db = init_db([(1, ":a", 1), (2, ":a", 3), (3, ":b", 3), (4, ":a", "4")])
    assert await answer("[:find ?e :where [?e :a ?e]]", db) == {(1,)}
    assert await answer("[:find ?e :where [?e _ ?e]]", db) == {(1,), (3,)}
    assert set(await q("[:find ?x :in $ :where [$ ?x ?x]]", [(1, 1), (1, 2), (True, 1)])) == {(1,)}


async def test_every_value_type_comes_back_and_joins() -> None:
    values = [
        "text", 5, 2**70, 2.5, True, Keyword("k/v"), datetime(2020, 1, 2, tzinfo=UTC),
        UUID(int=7), b"\x00\xff", (1, "two", None),
    ]  # fmt: skip
    db = init_db([(i, f":v{i}", v) for i, v in enumerate(values, 1)])
    for i, v in enumerate(values, 1):
        assert await q(f"[:find ?v . :where [_ :v{i} ?v]]", db) == v
        assert await q(f"[:find ?e . :in $ ?v :where [?e :v{i} ?v]]", db, v) == i
        found = await q(f"[:find ?e . :in $ [?v ...] :where [?e :v{i} ?v]]", db, [v, "other"])
        assert found == i


async def test_transaction_and_added_positions() -> None:
    db = empty_db(keep_history=True)
    first = await db.with_([[":db/add", 1, ":age", 20]])
    second = await first.db_after.with_([[":db/add", 1, ":age", 21]])
    db, t1, t2 = second.db_after, first.tx, second.tx
    assert set(await q("[:find ?a ?t :where [1 :age ?a ?t]]", db)) == {(21, t2)}
    assert set(await q("[:find ?a ?op :where [1 :age ?a _ ?op]]", db)) == {(21, True)}
    history = await q("[:find ?a ?t ?op :where [?e :age ?a ?t ?op]]", db.history())
    assert set(history) == {(20, t1, True), (20, t2, False), (21, t2, True)}
    gone = await q("[:find ?a :where [?e :age ?a _ false]]", db.history())
    assert set(gone) == {(20,)}
    assert set(await q("[:find ?a :in $ ?t :where [?e :age ?a ?t]]", db.history(), t1)) == {(20,)}
    assert set(await q("[:find ?a :where [1 :age ?a]]", db.as_of(t1))) == {(20,)}
    both = await q("[:find ?a ?b :in $ $old :where [1 :age ?a] [$old 1 :age ?b]]", db, db.as_of(t1))
    assert set(both) == {(21, 20)}


async def test_sources_join_with_one_another() -> None:
    db = people()
    other = init_db([(10, ":nick", "Ivan"), (11, ":nick", "Petr")])
    query = "[:find ?e ?x :in $ $2 :where [?e :name ?n] [$2 ?x :nick ?n]]"
    assert set(await q(query, db, other)) == {(1, 10), (3, 10), (2, 11)}
    rows = [("Petr", 1), ("Ivan", 2), ("Ivan", 3), ("None", 4)]
    query = "[:find ?e ?x :in $ $rows :where [?e :name ?n] [$rows ?n ?x] [(> ?x 1)]]"
    assert set(await q(query, db, rows)) == {(1, 2), (3, 2), (1, 3), (3, 3)}
    assert set(await q("[:find ?a ?b :where [?a ?b]]", [(1, 2), (3, 4), (1, 2)])) == {
        (1, 2),
        (3, 4),
    }
    assert set(await q('[:find ?a :where [?a "x" 5]]', [(1, "x", 5), (2, "y", 5)])) == {(1,)}


async def test_registered_functions_and_coroutines() -> None:
    async def slow_double(x: int) -> int:
        return x * 2

    register_function("test/slow-double", slow_double)
    try:
        found = await q("[:find ?y :where [_ :age ?a] [(test/slow-double ?a) ?y]]", people())
        assert set(found) == {(30,), (74,)}
    finally:
        unregister_function("test/slow-double")


async def test_a_function_that_gives_none_drops_the_row() -> None:
    query = "[:find ?e ?y :in $ f :where [?e :age ?a] [(f ?a) ?y]]"
    found = await q(query, people(), lambda a: a if a > 20 else None)
    assert set(found) == {(2, 37), (3, 37)}


async def test_nested_query() -> None:
    query = """[:find ?e ?top :where [?e :age ?top]
                [(q "[:find (max ?a) . :where [_ :age ?a]]" $) ?top]]"""
    assert set(await q(query, people())) == {(2, 37), (3, 37)}


@pytest.mark.parametrize(
    ("query", "inputs", "error"),
    [
        ("[:find ?e :where [?e :age ?a] [(unknown-fn ?a)]]", (), ":query/where"),
        ("[:find ?e :where [?e :age ?a] [(> ?a ?b)] ]", (), ":query/where"),
        ("[:find ?e :where [?e :age ?a] [(inc ?b) ?c]]", (), ":query/where"),
        ("[:find ?e :where [?e :age] (not [?x :name])]", (), ":query/where"),
        ("[:find ?e :where (or [?e :age ?a] [?e :name])]", (), ":query/where"),
        ("[:find ?e :where [?e :age] (rule ?e)]", (), ":query/where"),
        ("[:find ?e :in $ [?a ...] :where [?e :age ?a]]", (5,), ":query/binding"),
        ("[:find ?e :in $ [?a ?b] :where [?e :age ?a]]", ([1],), ":query/binding"),
        ("[:find ?e :in $ [[?a ?b]] :where [?e :age ?a]]", ([[1]],), ":query/binding"),
        ("[:find ?e :where [?e 5 6]]", (), ":search/pattern"),
        ('[:find ?v :where [2.5 :age ?v]]', (), ":search/pattern"),
        ("[:find ?e :where [$x ?e :age]]", (), ":query/where"),
        ("[:find ?e :in $ :where [?e :age]]", ("extra",), ":query/inputs"),
    ],
)  # fmt: skip
async def test_what_cannot_be_answered_says_so(
    query: str, inputs: tuple[Any, ...], error: str
) -> None:
    with pytest.raises(QueryError) as caught:
        await q(query, people(), *inputs)
    assert caught.value.error == error


async def test_query_text_reaches_nothing_that_was_not_registered() -> None:
    for name in ("os.system", "eval", "__import__", "builtins/open", "len", "str.format"):
        with pytest.raises(QueryError, match="Unknown predicate/function"):
            await q(f'[:find ?x :where [({name} "x") ?x]]', people())


async def test_a_database_and_its_views_answer_after_later_writes() -> None:
    db = people()
    later = await db.db_with([[":db/add", 1, ":age", 99], [":db/retract", 3, ":name", "Ivan"]])
    query = '[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a]]'
    assert set(await q(query, db)) == {(1, 15), (3, 37)}
    assert set(await q(query, later)) == {(1, 99)}
    assert set(await q(query, db)) == {(1, 15), (3, 37)}


async def test_timeout_stops_a_long_query() -> None:
    with pytest.raises(QueryCanceled) as caught:
        await q(
            "[:find ?x :timeout 1 :in $ f :where [?e :age] [(f ?e) ?x] [(f ?x) ?y] [(f ?y) ?z]]",
            people(),
            _sleepy,
        )
    assert caught.value.error == ":query/canceled"


def _sleepy(x: int) -> int:
    return sum(range(100_000)) * 0 + x


async def test_pause_is_called_between_clauses() -> None:
    calls = 0

    class Counting:
        async def pause(self) -> None:
            nonlocal calls
            calls += 1

        async def in_thread(self, make: Any) -> Any:
            return await make()

        def check(self) -> None:
            pass

    db = init_db([(i, ":n", i) for i in range(50_000)])
    query = "[:find ?a ?b :in $ f :where [?a :n ?x] [(f ?x) ?y] [?b :n ?y] [(f ?b) ?c]]"
    found = await q(query, db, lambda x: x + 1, host=Counting())
    assert len(found) == 49_999
    assert calls > 0


@pytest.mark.parametrize(
    ("clauses", "message"),
    [
        ("[?e :nothing ?a] [(> ?b ?a)]", r"\?b not bound in \(> \?b \?a\)"),
        ("[?e :nothing] [(inc ?x) ?y]", r"\?x not bound in"),
        ("[?e :nothing] (not [?x :age])", r"none of \?x is bound"),
        ("[?e :nothing] (not [?e :age ?a] [(< ?b ?a)])", r"\?b not bound in"),
        ("[?e :nothing] (or-join [[?x]] [?x :age])", r"\?x should be bound outside"),
        ("[?e :nothing] (or-join [?e ?x] [?e :age ?x] [?e :name])", r"\?x is missing in one"),
        ("[?e :nothing] (or-join [?e] (and [?e :age ?a] [(> ?a ?b)]))", r"\?b not bound in"),
    ],
)
async def test_missing_bindings_are_found_without_data(clauses: str, message: str) -> None:
    """What fails on data fails on an empty database too."""
    for db in (people(), empty_db()):
        with pytest.raises(QueryError, match=message):
            await q(f"[:find ?e :where {clauses}]", db)


async def test_disjunctions_and_rules_wait_for_their_bindings() -> None:
    db = people()
    waiting = "(or-join [?a ?b] (and [(> ?a 20)] [(inc ?a) ?b]) (and [(< ?a 20)] [(dec ?a) ?b]))"
    found = await answer(f"[:find ?e ?b :where [_ :boss ?x] [?e :age ?a] {waiting}]", db)
    assert found == {(1, 14), (4, 14), (2, 38), (3, 38)}
    rules = "[[(next ?x ?y) [(inc ?x) ?y]]]"
    query = "[:find ?e :in $ % :where (next ?a 38) [?e :age ?a] [?e :email]]"
    assert set(await q(query, db, rules)) == {(2,)}


@pytest.mark.parametrize(
    ("names", "given", "missing"),
    [
        ("$ ?n", 1, "?n"),
        ("$ ?n %", 2, "%"),
        ("$ % ?n", 1, "% ?n"),
        ("$ [?n ...]", 1, "[?n ...]"),
        ("$ [[?n _]]", 1, "[[?n _]]"),
        ("$ ?n _", 2, "_"),
        ("$", 0, "$"),
    ],
)
async def test_a_filter_that_was_forgotten_is_an_error(
    names: str, given: int, missing: str
) -> None:
    query = f"[:find ?e ?n :in {names} :where [?e :name ?n]]"
    with pytest.raises(QueryError, match=re.escape(f"nothing for {missing}.")) as caught:
        await q(query, *[people(), "Petr"][:given])
    assert caught.value.error == ":query/inputs"


async def test_a_nested_query_needs_all_its_inputs() -> None:
    nested = '[(q "[:find ?e :in $ ?n :where [?e :name ?n]]" $) ?r]'
    with pytest.raises(QueryError) as caught:
        await q(f"[:find ?r :where {nested}]", people())
    assert caught.value.error == ":query/inputs"


async def test_a_query_that_reads_no_database_needs_none() -> None:
    assert set(await q("[:find ?x :where [(ground 1) ?x]]")) == {(1,)}
    with pytest.raises(QueryError, match=r"source \$"):
        await q("[:find ?x :where [?x :name]]")


async def test_a_guard_protects_a_function_wherever_it_stands() -> None:
    db = init_db([(i, ":n", i) for i in range(4)])
    query = "[:find ?e ?y :where [?e :n ?x] [(not= ?x 0)] [(/ 6 ?x) ?y]]"
    assert await answer(query, db) == {(1, 6), (2, 3), (3, 2)}

    def picky(x: int) -> bool:
        if x == 0:
            raise ValueError("zero")
        return x > 1

    query = "[:find ?e :in $ ok? :where [?e :n ?x] [(ok? ?x)] [(pos? ?x)]]"
    assert await answer(query, db, picky) == {(2,), (3,)}


async def test_whether_a_function_fails_does_not_depend_on_the_order_of_clauses() -> None:
    db = init_db([d for i in range(1, 5) for d in ((i, ":a", i), (i, ":b", 4 - i))])
    clauses = ["[?e :a ?x]", "[?e :b ?y]", "[(/ 1 ?y) ?z]", "[(> ?x 0)]"]
    outcomes = set()
    for order in itertools.permutations(clauses):
        try:
            outcomes.add(len(await q(f"[:find ?e ?z :where {' '.join(order)}]", db)))
        except QueryError as error:
            outcomes.add(error.error)  # type: ignore[arg-type]
    assert len(outcomes) == 1


async def test_attributes_as_inputs_by_keyword_or_text() -> None:
    db = people()
    query = "[:find ?a ?v :in $ [?a ...] :where [2 ?a ?v]]"
    given = await q(query, db, [Keyword("name"), Keyword("age")])
    assert set(given) == {(Keyword("name"), "Petr"), (Keyword("age"), 37)}
    assert set(await q(query, db, [":name", ":age", ":none"])) == {(":name", "Petr"), (":age", 37)}
    assert set(await q("[:find ?e :in $ ?a :where [?e ?a]]", db, ":aka")) == {(2,)}
    pairs = "[:find ?e :in $ [[?a ?v]] :where [?e ?a ?v]]"
    assert set(await q(pairs, db, [(":name", "Ivan"), (":age", 37)])) == {(1,), (2,), (3,)}


async def test_functions_of_the_database_over_many_rows() -> None:
    db = init_db(
        [d for i in range(200) for d in ((i, ":n", i), *([(i, ":odd", -i)] if i % 2 else []))]
    )
    found = await q('[:find ?e ?o :where [?e :n] [(get-else $ ?e :odd "no") ?o]]', db)
    assert set(found) == {(i, -i if i % 2 else "no") for i in range(200)}
    found = await q("[:find ?e :where [?e :n] [(missing? $ ?e :odd)]]", db)
    assert set(found) == {(i,) for i in range(0, 200, 2)}
    found = await q("[:find ?e ?a ?v :where [?e :n] [(get-some $ ?e :odd :n) [?a ?v]]]", db)
    assert set(found) == {
        (i, Keyword("odd" if i % 2 else "n"), -i if i % 2 else i) for i in range(200)
    }


async def test_an_int_beyond_64_bits_is_no_entity_and_hides_none() -> None:
    db = init_db([(1, ":any", 2**70), (1, ":ref", 2), (2, ":any", 1)], {":ref": REF})
    query = "[:find ?v ?r :in $ [?v ...] :where [?v :ref ?r]]"
    assert set(await q(query, db, [2**70, 1, -(2**70), "x"])) == {(1, 2)}
    assert await answer("[:find ?e ?r :where [_ :any ?e] [?e :ref ?r]]", db) == {(1, 2)}


async def test_inputs_of_numpy_and_lists_are_plain_values() -> None:
    db = people()
    by_age = "[:find ?e ?a :in $ ?a :where [?e :age ?a]]"
    found = await q(by_age, db, np.int64(37))
    assert set(found) == {(2, 37), (3, 37)}
    assert {type(a) for _, a in found} == {int}
    by_mail = "[:find ?e ?m :in $ ?m :where [?e :email ?m]]"
    assert set(await q(by_mail, db, np.str_("petr@x"))) == {(2, "petr@x")}
    by_entity = "[:find ?e ?a :in $ ?e :where [?e :age ?a]]"
    assert set(await q(by_entity, db, np.int64(1))) == {(1, 15)}
    ref = [Keyword("email"), "petr@x"]
    assert set(await q(by_entity, db, ref)) == {((Keyword("email"), "petr@x"), 37)}
    many = "[:find ?e ?a :in $ [?e ...] :where [?e :age ?a]]"
    assert set(await q(many, db, np.array([1, 2, 9]))) == {(1, 15), (2, 37)}
    assert set(await q(many, db, (x for x in (1, 3)))) == {(1, 15), (3, 37)}


async def test_none_is_no_input() -> None:
    for query in (
        "[:find ?e :in $ ?m :where [?e :email ?m]]",
        "[:find ?e :in $ ?m :where [?e :age ?m]]",
    ):
        with pytest.raises(QueryError, match="nil"):
            await q(query, people(), None)


@pytest.mark.parametrize("count", [3, 200])
async def test_the_attribute_of_get_else_may_be_a_variable(count):
    db = init_db([d for i in range(count) for d in ((i, ":n", i), (i, ":odd", i % 2 == 1))])
    query = '[:find ?e ?a ?v :in $ [?a ...] :where [?e :n] [(get-else $ ?e ?a "none") ?v]]'
    names = [":n", Keyword("odd"), ":nosuch", "plain"]
    expected = {(i, ":n", i) for i in range(count)} | {
        (i, Keyword("odd"), i % 2 == 1) for i in range(count)
    }
    expected |= {(i, name, "none") for i in range(count) for name in (":nosuch", "plain")}
    assert await q(query, db, names) == expected
    some = "[:find ?e ?k ?v :in $ [?a ...] :where [?e :n] [(get-some $ ?e ?a) [?k ?v]]]"
    assert await q(some, db, [":nosuch", ":n"]) == {(i, Keyword("n"), i) for i in range(count)}
    missing = "[:find ?e ?a :in $ [?a ...] :where [?e :n] [(missing? $ ?e ?a)]]"
    assert await q(missing, db, [":nosuch", ":n"]) == {(i, ":nosuch") for i in range(count)}


async def test_the_lowest_and_highest_integers() -> None:
    low, high = -(2**63), 2**63 - 1
    db = await empty_db({":n": {":db/cardinality": ":db.cardinality/many"}}).db_with(
        [[":db/add", 3, ":n", v] for v in (low, high, 3)]
    )
    assert await db.q("[:find ?v :in $ [?v ...] :where [_ :n ?v]]", [low, high, 4]) == {
        (low,),
        (high,),
    }
    for where in ("[?e :n ?v]", "[?e ?a ?v]", "[_ :n ?e] [?e :n ?v]"):
        found = await db.q(f"[:find ?e :in $ [?e ...] :where {where}]", [low, high, 3])
        assert found == {(3,)}
    assert await db.q("[:find ?v :where [?e :n ?v] (not [?v :n 3])]") == {(low,), (high,)}
