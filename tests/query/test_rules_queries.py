"""Rules: plain, several branches, recursive, mutually recursive; cycles end, order is nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

import pytest

from datahike_async.database import Database, init_db
from datahike_async.edn.reader import read
from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError
from datahike_async.query.api import explain, q
from datahike_async.query.language.ruleset import RuleSet
from datahike_async.query.language.where import parse_rules

pytestmark = pytest.mark.anyio

REF_MANY = {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"}
Edges = set[tuple[int, int]]


def graph(edges: Iterable[tuple[int, int]], **more: Any) -> Database:
    datoms: list[Any] = [(a, ":follows", b) for a, b in edges]
    for attribute, pairs in more.items():
        datoms += [(a, f":{attribute}", b) for a, b in pairs]
    return init_db(datoms, {":follows": REF_MANY, ":likes": REF_MANY})


def closed(edges: Edges) -> Edges:
    out = set(edges)
    while True:
        more = {(a, d) for a, b in out for c, d in edges if b == c} - out
        if not more:
            return out
        out |= more


async def ask(query: str, db: Database, rules: str, *inputs: Any) -> set[Any]:
    """Run with the clauses of every rule body, and the rules themselves, in several orders."""
    forms = read(rules)
    found = []
    for order in itertools.islice(itertools.permutations(forms), 4):
        for turn in (False, True):
            bodies = [[f[0], *(reversed(f[1:]) if turn else f[1:])] for f in order]
            found.append(await q(query, db, bodies, *inputs))
    for other in found[1:]:
        assert other == found[0]
    text = await q(query, db, rules, *inputs)
    assert text == found[0]
    return set(text)


CHAIN = {(1, 2), (2, 3), (3, 4), (10, 11)}
CYCLE = {(1, 2), (2, 3), (3, 1), (3, 4), (5, 5)}
CLOSURES = {
    "right": "[[(r ?x ?y) [?x :follows ?y]] [(r ?x ?y) [?x :follows ?t] (r ?t ?y)]]",
    "left": "[[(r ?x ?y) [?x :follows ?y]] [(r ?x ?y) (r ?x ?t) [?t :follows ?y]]]",
    "square": "[[(r ?x ?y) [?x :follows ?y]] [(r ?x ?y) (r ?x ?t) (r ?t ?y)]]",
    "renamed": "[[(r ?a ?b) [?a :follows ?b]] [(r ?c ?d) [?c :follows ?e] (r ?e ?d)]]",
    "mutual": "[[(r ?x ?y) [?x :follows ?y]] [(r ?x ?y) (s ?x ?y)]"
    " [(s ?x ?y) [?x :follows ?t] (r ?t ?y)]]",
    "through or": "[[(r ?x ?y) (or-join [?x ?y] [?x :follows ?y]"
    " (and [?x :follows ?t] (r ?t ?y)))]]",
}


@pytest.mark.parametrize("name", CLOSURES)
@pytest.mark.parametrize("edges", [CHAIN, CYCLE], ids=["chain", "cycle"])
async def test_closures(name: str, edges: Edges) -> None:
    db, rules, expected = graph(edges), CLOSURES[name], closed(edges)
    assert await ask("[:find ?x ?y :in $ % :where (r ?x ?y)]", db, rules) == expected
    assert await ask("[:find ?y :in $ % :where (r 1 ?y)]", db, rules) == {
        (b,) for a, b in expected if a == 1
    }
    assert await ask("[:find ?x :in $ % :where (r ?x 4)]", db, rules) == {
        (a,) for a, b in expected if b == 4
    }
    assert await ask("[:find ?x :in $ % :where (r ?x ?x)]", db, rules) == {
        (a,) for a, b in expected if a == b
    }
    assert await ask("[:find ?x :in $ % :where [?x :follows] (r ?x 4)]", db, rules) == {
        (a,) for a, b in expected if b == 4
    }
    assert await ask("[:find ?y :in $ % ?x :where (r ?x ?y)]", db, rules, 2) == {
        (b,) for a, b in expected if a == 2
    }
    swapped = "[:find ?x ?y :in $ % :where (r ?x ?y) (r ?y ?x)]"
    assert await ask(swapped, db, rules) == {p for p in expected if p[::-1] in expected}
    assert await ask("[:find ?x :in $ % :where (r ?x _)]", db, rules) == {(a,) for a, _ in expected}


@pytest.mark.parametrize("seed", range(12))
async def test_random_graphs(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.choice([4, 12, 60])
    edges = {(rng.randint(1, n), rng.randint(1, n)) for _ in range(rng.randint(0, 2 * n))}
    start = rng.randint(1, n)
    db, expected = graph(edges), closed(edges)
    for rules in CLOSURES.values():
        found = await q("[:find ?x ?y :in $ % :where (r ?x ?y)]", db, rules)
        assert set(found) == expected
        assert len(found) == len(expected)
        found = await q("[:find ?y :in $ % ?x :where (r ?x ?y)]", db, rules, start)
        assert set(found) == {(b,) for a, b in expected if a == start}


async def test_a_base_that_is_not_the_edge() -> None:
    db = graph({(1, 2), (2, 3)}, likes={(3, 9), (1, 8)})
    right = "[[(r ?x ?y) [?x :likes ?y]] [(r ?x ?y) [?x :follows ?t] (r ?t ?y)]]"
    query = "[:find ?x ?y :in $ % :where (r ?x ?y)]"
    assert await ask(query, db, right) == {(3, 9), (1, 8), (2, 9), (1, 9)}
    left = "[[(r ?x ?y) [?y :likes ?x]] [(r ?x ?y) (r ?x ?t) [?t :follows ?y]]]"
    assert await ask(query, db, left) == {(9, 3), (8, 1), (8, 2), (8, 3)}
    assert await ask("[:find ?y :in $ % :where (r 8 ?y)]", db, left) == {(1,), (2,), (3,)}
    assert await ask("[:find ?x :in $ % :where (r ?x 9)]", db, right) == {(1,), (2,), (3,)}


async def test_recursion_over_values_that_are_no_entities() -> None:
    db = init_db([(1, ":from", "a"), (1, ":to", "b"), (2, ":from", "b"), (2, ":to", "c")])
    rules = """[[(path ?x ?y) [?e :from ?x] [?e :to ?y]]
                [(path ?x ?y) [?e :from ?x] [?e :to ?t] (path ?t ?y)]]"""
    assert await ask("[:find ?x ?y :in $ % :where (path ?x ?y)]", db, rules) == {
        ("a", "b"), ("b", "c"), ("a", "c"),
    }  # fmt: skip
    assert await ask('[:find ?y :in $ % :where (path "a" ?y)]', db, rules) == {("b",), ("c",)}


async def test_same_generation() -> None:
    db = graph({(2, 1), (3, 1), (4, 2), (5, 3), (6, 5)})
    rules = """[[(sg ?x ?y) [?x :follows ?p] [?y :follows ?p]]
                [(sg ?x ?y) [?x :follows ?p] [?y :follows ?q] (sg ?p ?q)]]"""
    assert await ask("[:find ?x ?y :in $ % :where (sg ?x ?y) [(< ?x ?y)]]", db, rules) == {
        (2, 3), (4, 5),
    }  # fmt: skip
    assert await ask("[:find ?y :in $ % :where (sg 4 ?y)]", db, rules) == {(4,), (5,)}


async def test_even_and_odd_distance() -> None:
    db = graph({(1, 2), (2, 3), (3, 4), (4, 5)})
    rules = """[[(odd ?x ?y) [?x :follows ?y]]
                [(odd ?x ?y) [?x :follows ?t] (even ?t ?y)]
                [(even ?x ?y) [?x :follows ?t] (odd ?t ?y)]]"""
    assert await ask("[:find ?x ?y :in $ % :where (even ?x ?y)]", db, rules) == {
        (1, 3), (2, 4), (3, 5), (1, 5),
    }  # fmt: skip
    assert await ask("[:find ?y :in $ % :where (odd 1 ?y)]", db, rules) == {(2,), (4,)}


async def test_branches_predicates_and_functions_in_bodies() -> None:
    db = init_db([(1, ":age", 10), (2, ":age", 20), (3, ":age", 30), (3, ":vip", True)])
    rules = """[[(adult ?e) [?e :age ?a] [(>= ?a 18)]]
                [(guest ?e) [?e :vip true]]
                [(guest ?e) [?e :age ?a] [(< ?a 15)]]
                [(next ?x ?y) [(inc ?x) ?y]]
                [(apart [?x] ?y) [?e :age ?y] [(< ?x ?y)]]]"""
    assert await ask("[:find ?e :in $ % :where (adult ?e)]", db, rules) == {(2,), (3,)}
    assert await ask("[:find ?e :in $ % :where (guest ?e)]", db, rules) == {(1,), (3,)}
    assert await ask("[:find ?e :in $ % :where [?e :age] (not (adult ?e))]", db, rules) == {(1,)}
    assert await ask("[:find ?y :in $ % :where [1 :age ?a] (next ?a ?y)]", db, rules) == {(11,)}
    assert await ask("[:find ?y :in $ % :where (next 5 ?y)]", db, rules) == {(6,)}
    assert await ask("[:find ?y :in $ % :where [2 :age ?a] (apart ?a ?y)]", db, rules) == {(30,)}
    with pytest.raises(QueryError, match="Insufficient bindings"):
        await q("[:find ?y :in $ % :where (apart ?x ?y)]", db, rules)


async def test_recursion_that_needs_its_argument() -> None:
    """Demand flows into a recursive rule: nothing in the body binds ?n but the call."""
    rules = """[[(down [?n] ?m) [(identity ?n) ?m]]
                [(down [?n] ?m) [(> ?n 0)] [(dec ?n) ?k] (down ?k ?m)]]"""
    found = await ask("[:find ?m :in $ % :where (down 4 ?m)]", graph({(1, 2)}), rules)
    assert found == {(4,), (3,), (2,), (1,), (0,)}


async def test_a_repeated_variable_in_a_head_unifies() -> None:
    db = graph({(1, 1), (1, 2), (2, 2)})
    rules = "[[(loop ?x ?x) [?x :follows ?x]]]"
    query = "[:find ?a ?b :in $ % :where (loop ?a ?b)]"
    assert await ask(query, db, rules) == {(1, 1), (2, 2)}


async def test_constants_and_blanks_in_calls() -> None:
    db = init_db([(1, ":k", 5), (2, ":k", 6)])
    rules = """[[(has ?e ?v) [?e :k ?v]]
                [(made ?x) [(ground 7) ?x]]
                [(free ?e ?x) [?e :k] (not [?e :k ?x])]]"""
    assert await ask("[:find ?e :in $ % :where (has ?e 5)]", db, rules) == {(1,)}
    assert await ask("[:find ?e :in $ % :where (has ?e _) (has _ 6)]", db, rules) == {(1,), (2,)}
    assert await ask("[:find ?e :in $ % :where [?e :k] (made 7)]", db, rules) == {(1,), (2,)}
    assert await ask("[:find ?e :in $ % :where [?e :k] (made 8)]", db, rules) == set()
    assert await ask("[:find ?e :in $ % :where (free ?e 5)]", db, rules) == {(2,)}


async def test_rules_read_the_source_they_are_called_on() -> None:
    one, two = graph({(1, 2), (2, 3)}), graph({(7, 8), (8, 9)})
    for rules in CLOSURES.values():
        found = await q("[:find ?x ?y :in $ $2 % :where ($2 r ?x ?y)]", one, two, rules)
        assert set(found) == {(7, 8), (8, 9), (7, 9)}
        both = "[:find ?x ?y :in $ $2 % :where (r 1 ?x) ($2 r 7 ?y)]"
        assert set(await q(both, one, two, rules)) == {(2, 8), (2, 9), (3, 8), (3, 9)}


async def test_rules_on_collections() -> None:
    rules = "[[(r ?x ?y) [?x ?y]] [(r ?x ?y) [?x ?t] (r ?t ?y)]]"
    rows = [("a", "b"), ("b", "c"), ("c", "a")]
    found = await q("[:find ?x ?y :in $ % :where (r ?x ?y)]", rows, rules)
    assert set(found) == {(x, y) for x in "abc" for y in "abc"}


async def test_variables_of_a_body_are_its_own() -> None:
    db = graph({(1, 2), (2, 3)})
    rules = "[[(two ?x ?y) [?x :follows ?t] [?t :follows ?y]]]"
    query = "[:find ?x ?t ?y :in $ % :where [?t :follows 3] (two ?x ?y)]"
    assert await ask(query, db, rules) == {(1, 2, 3)}
    query = "[:find ?x ?y :in $ % ?t :where (two ?x ?y) [?t :follows]]"
    assert await ask(query, db, rules, 1) == {(1, 3)}


@pytest.mark.parametrize(
    ("query", "rules", "message"),
    [
        ("[:find ?x :in $ % :where (rr ?x ?y)]", "[[(r ?x ?y) [?x :f ?y]]]", "Unknown rule"),
        ("[:find ?x :in $ % :where (r ?x)]", "[[(r ?x ?y) [?x :f ?y]]]", "takes 2 arguments"),
        ("[:find ?x :in $ % :where (r ?x)]", "[[(r ?x) (s ?x)]]", "Unknown rule"),
    ],
)
async def test_bad_calls(query: str, rules: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        await q(query, graph({(1, 2)}), rules)


async def test_negation_of_a_recursive_rule_inside_recursion() -> None:
    """What stands inside a ``not`` is complete before anything is derived from its absence."""
    db = graph({(1, 2), (2, 3), (3, 4)}, likes={(4, 1), (1, 2), (2, 9)})
    rules = """[[(up ?x ?y) [?x :follows ?y]] [(up ?x ?y) (via ?x ?y)]
                [(via ?x ?y) [?x :follows ?t] (up ?t ?y)]
                [(free ?x ?y) [?x :likes ?y] (not (up ?x ?y))]
                [(free ?x ?y) [?x :likes ?t] (free ?t ?y) (not (up ?x ?t))]]"""
    assert await ask("[:find ?x ?y :in $ % :where (free ?x ?y)]", db, rules) == {(4, 1), (2, 9)}
    assert await ask("[:find ?y :in $ % :where (free 4 ?y)]", db, rules) == {(1,)}


async def test_recursion_through_negation_is_refused() -> None:
    rules = "[[(win ?x) [?x :follows ?y] (not (win ?y))]]"
    with pytest.raises(QueryError, match="depends on itself"):
        await q("[:find ?x :in $ % :where (win ?x)]", graph({(1, 2)}), rules)


async def test_long_chains_without_a_known_shape() -> None:
    """Round by round, only what is new is joined: a long chain is no quadratic affair."""
    n = 100
    db = graph({(i, i + 1) for i in range(n)})
    rules = CLOSURES["mutual"]
    assert len(await q("[:find ?x ?y :in $ % :where (r ?x ?y)]", db, rules)) == n * (n + 1) // 2
    assert len(await q("[:find ?y :in $ % :where (r 0 ?y)]", db, rules)) == n


@pytest.mark.parametrize("seed", range(8))
async def test_random_non_linear_recursion(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.choice([4, 9, 20])
    follows = {(rng.randint(1, n), rng.randint(1, n)) for _ in range(rng.randint(1, 2 * n))}
    likes = {(rng.randint(1, n), rng.randint(1, n)) for _ in range(rng.randint(1, n))}
    rules = """[[(p ?x ?y) [?x :follows ?y]]
                [(p ?x ?y) (p ?x ?a) [?b :likes ?a] (p ?b ?y)]
                [(p ?x ?y) (o ?y ?x) [?x :likes ?x]]
                [(o ?x ?y) (p ?x ?t) (p ?t ?y)]]"""
    p, o = set(follows), set[tuple[int, int]]()
    while True:
        new_p = p | {(x, y) for x, a in p for b, c in likes if a == c for d, y in p if d == b}
        new_p |= {(x, y) for y, x in o if (x, x) in likes}
        new_o = {(x, y) for x, t in p for u, y in p if t == u}
        if new_p == p and new_o == o:
            break
        p, o = new_p, new_o
    db = graph(follows, likes=likes)
    assert set(await q("[:find ?x ?y :in $ % :where (p ?x ?y)]", db, rules)) == p
    assert set(await q("[:find ?x ?y :in $ % :where (o ?x ?y)]", db, rules)) == o
    assert set(await q("[:find ?y :in $ % :where (o 1 ?y)]", db, rules)) == {
        (y,) for x, y in o if x == 1
    }


@pytest.mark.parametrize("seed", range(60))
def test_circles_of_rules(seed):
    rng = random.Random(seed)
    count = rng.randint(1, 8)
    calls = [[rng.randrange(count) for _ in range(rng.randint(0, 2))] for _ in range(count)]

    def reached(i: int) -> set[int]:
        out: set[int] = set()
        todo = list(calls[i])
        while todo:
            j = todo.pop()
            if j not in out:
                out.add(j)
                todo += calls[j]
        return out

    rules = [
        f"[(r{i} ?x) [?x :n] {' '.join(f'(r{j} ?x)' for j in called)}]"
        for i, called in enumerate(calls)
    ]
    known = RuleSet(parse_rules("[" + " ".join(rules) + "]"))
    circles = {
        Symbol(f"r{i}"): {Symbol(f"r{j}") for j in reached(i) if i in reached(j)}
        for i in range(count)
        if i in reached(i)
    }
    assert known.circle == circles
    assert known.recursive == set(circles)


# -- head variables that only the caller binds ----------------------------------------------------

TAGGED = {
    "plain": "[[(r ?x ?y ?t) [?x :follows ?y]]]",
    "right": "[[(r ?x ?y ?t) [?x :follows ?y]] [(r ?x ?y ?t) [?x :follows ?z] (r ?z ?y ?t)]]",
    "left": "[[(r ?x ?y ?t) [?x :follows ?y]] [(r ?x ?y ?t) (r ?x ?z ?t) [?z :follows ?y]]]",
    "both": "[[(r ?x ?y ?t) [?x :follows ?y]] [(r ?x ?y ?t) (r ?x ?z ?t) (r ?z ?y ?t)]]",
    "mutual": """[[(r ?x ?y ?t) [?x :follows ?y]] [(r ?x ?y ?t) [?x :follows ?z] (s ?t ?z ?y)]
                  [(s ?t ?x ?y) (r ?x ?y ?t)]]""",
}


@pytest.mark.parametrize("shape", TAGGED)
async def test_what_only_the_caller_binds_goes_through_a_rule(shape: str) -> None:
    db, rules = graph(CHAIN), TAGGED[shape]
    pairs = CHAIN if shape == "plain" else closed(CHAIN)
    query = "[:find ?x ?y ?t :in $ % {} :where (r ?x ?y {})]"
    assert await ask(query.format("?t", "?t"), db, rules, 7) == {(x, y, 7) for x, y in pairs}
    some = await ask(query.format("[?t ...]", "?t"), db, rules, [7, "a"])
    assert some == {(x, y, t) for x, y in pairs for t in (7, "a")}
    from_one = "[:find ?y :in $ % ?x [?t ...] :where (r ?x ?y ?t)]"
    assert await ask(from_one, db, rules, 1, [7]) == {(y,) for x, y in pairs if x == 1}
    written = await ask("[:find ?x ?y :in $ % :where (r ?x ?y [1 2])]", db, rules)
    assert written == pairs
    # What other clauses bind comes first, however the query is written.
    by_data = "[:find ?x ?y ?t :in $ % :where (r ?x ?y ?t) [?t :follows 11]]"
    assert await ask(by_data, db, rules) == {(x, y, 10) for x, y in pairs}


@pytest.mark.parametrize("shape", TAGGED)
@pytest.mark.parametrize("argument", ["?t", "_"])
async def test_a_head_variable_that_nobody_binds_is_an_error(shape: str, argument: str) -> None:
    query = f"[:find ?x ?y :in $ % :where [?x :follows] (r ?x ?y {argument})]"
    with pytest.raises(QueryError, match="Insufficient bindings") as caught:
        await q(query, graph(CHAIN), TAGGED[shape])
    assert caught.value.error == ":query/where"


async def test_what_a_circle_of_rules_lacks_is_not_forgotten() -> None:
    # That s is fine was found while r, which is not, was taken to be.
    rules = """[[(r ?x ?t) (s ?x ?t)] [(r ?x ?t) [?x :follows]] [(s ?x ?t) (r ?x ?t)]]"""
    for first, second in (("r", "s"), ("s", "r")):
        query = f"[:find ?x ?t :in $ % :where [?x :follows] ({first} ?x ?t) ({second} ?x ?t)]"
        with pytest.raises(QueryError, match="Insufficient bindings"):
            await q(query, graph(CHAIN), rules)


# -- sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["($h r ?x ?y)", "($h r ?x ?y) [$h ?y :follows ?z]"])
@pytest.mark.parametrize("shape", [*CLOSURES, "plain", "calling"])
async def test_a_rule_on_a_source_needs_no_default_source(call: str, shape: str) -> None:
    rules = {
        **CLOSURES,
        "plain": "[[(r ?x ?y) [?x :follows ?y] (not [?y :likes ?x])]]",
        "calling": """[[(r ?x ?y) (s ?x ?y) [(missing? $ ?x :likes)]]
                       [(s ?x ?y) [?x :follows ?y]]]""",
    }[shape]
    db = graph(CHAIN)
    named = f"[:find ?x ?y :in $h % {{}} :where {call}]"
    default = named.replace("$h ", "").replace(":in ", ":in $ ")
    for binding, value in (("?x", 1), ("?y", 3), ("[?x ...]", [1, 2]), ("[[?x ?y]]", [(1, 2)])):
        expected = await ask(default.format(binding), db, rules, value)
        assert await ask(named.format(binding), db, rules, value) == expected
        assert expected
    assert call.split(")")[0] in str(await explain(named.format("?x"), db, rules, 1))


CALLS = ["(r {} ?y)", "(r ?y {})", "(r ?x {}) [?x :follows ?y]"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("shape", CLOSURES)
async def test_a_recursive_rule_called_with_a_list_takes_it_for_a_lookup_ref(
    shape: str, call: str
) -> None:
    for constant in ("[3 4]", "[]", "[:follows]"):
        for called, given in ((call.format(constant), 0), (call.format("?l"), read(constant))):
            query = f"[:find ?y :in $ % ?l :where {called}]"
            with pytest.raises(QueryError) as caught:
                await q(query, graph(CHAIN), CLOSURES[shape], given)
            assert str(caught.value.error).startswith(":lookup-ref/")


@pytest.mark.parametrize("constant", ["{:a [1]}", "#{1}", '"a"', "2.5", "true"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_recursive_rule_called_with_what_is_no_entity_finds_nothing(
    constant: str, call: str
) -> None:
    called = call.format(constant)
    for rules in CLOSURES.values():
        query = f"[:find ?y :in $ % :where {called}]"
        assert await ask(query, graph(CHAIN), rules) == set()
    shapes = (
        f"[[(r ?x ?y) [?x :follows ?y]] [(r ?x ?y) (r {constant} ?y) [?x :follows ?y]]]",
        f"[[(r ?x ?y) [?x :follows ?y]] [(r ?x ?y) (r ?x {constant}) [?x :follows ?y]]]",
        f"[[(r ?x ?y) [?x :follows ?y]] [(r ?x ?y) (r ?x {constant}) (r {constant} ?y)]]",
    )
    for rules in shapes:
        found = await ask("[:find ?x ?y :in $ % :where (r ?x ?y)]", graph(CHAIN), rules)
        assert found == CHAIN
