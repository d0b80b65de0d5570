"""Idents and lookup refs in queries: resolved as constants and inputs, never as data."""

from __future__ import annotations

from functools import partial
from itertools import cycle
from typing import Any

import anyio
import pytest

from datahike_async.database import Database, empty_db
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.edn.writer import write
from datahike_async.errors import QueryError
from datahike_async.functions import register_function, unregister_function
from datahike_async.query.api import explain, q, query_stats
from datahike_async.query.language import places
from datahike_async.query.language.ruleset import RuleSet
from datahike_async.query.language.where import parse_rules
from datahike_async.values.types import typed_key
from tests.query.test_rules_queries import CLOSURES
from tests.query.ways import WAYS, forced

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Nothing here waits for an event loop: one is enough, but for one test below."""
    return "asyncio"


SCHEMA: dict[str, dict[str, Any]] = {
    ":id": {":db/unique": ":db.unique/identity"},
    ":follows": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
}
# a → b → c → d, e → e; each has an ident and a lookup ref.
EDGES = {(1, 2), (2, 3), (3, 4), (5, 5)}
NAMES = dict(enumerate("abcde", 1))


_MADE: dict[Any, Database] = {}


async def graph(first: int = 1) -> Database:
    """Return the graph, its entities counted from ``first``; the same every time."""
    if first not in _MADE:
        _MADE[first] = await _graph(first)
    return _MADE[first]


async def _graph(first: int) -> Database:
    shift = first - 1
    facts: list[Any] = []
    for e, name in NAMES.items():
        facts += [
            [":db/add", e + shift, ":id", name],
            [":db/add", e + shift, ":db/ident", f":node/{name}"],
            [":db/add", e + shift, ":name", name.upper()],
        ]
    facts += [[":db/add", a + shift, ":follows", b + shift] for a, b in EDGES]
    return await empty_db(SCHEMA, keep_history=True).db_with(facts)


def lookup_ref(e: int) -> Any:
    return [":id", NAMES[e]]


def ident(e: int) -> Any:
    return Keyword(f"node/{NAMES[e]}")


def ident_text(e: int) -> Any:
    return f":node/{NAMES[e]}"


WRITTEN = {"lookup ref": lookup_ref, "ident": ident}
GIVEN = {**WRITTEN, "text of an ident": ident_text}


def called(shape: str) -> str:
    """Return the name of a closure, which is called r among those of other shapes."""
    return "r/" + shape.replace(" ", "-")


# Each finds something for ?e = b, the entity 2.
CLAUSES = {
    "entity": "[?e :name ?y]",
    "value": "[?y :follows ?e]",
    "both": "[?e :follows ?y] [?y _ _] (not [?y :follows ?e])",
    "any attribute": "[?e ?y _]",
    "not": "[?y :name] (not [?y :follows ?e])",
    "not-join": "[?y :name] (not-join [?e ?y] [?e :follows ?z] [?z :follows ?y])",
    "or": "(or [?e :follows ?y] [?y :follows ?e])",
    "or-join": "(or-join [[?e] ?y] (and [?e :follows ?z] [?z :follows ?y]) [?y :follows ?e])",
    "get-else": "[(get-else $ ?e :name 0) ?y]",
    "get-some": "[(get-some $ ?e :nothing :name) [_ ?y]]",
    "missing?": "[?y :name] [(missing? $ ?e :nothing)]",
    "missing? in reverse": "[?y :name] [(missing? $ ?e :_nothing)]",
    "plain rule": "(next ?e ?y)",
    "plain rule backwards": "(next ?y ?e)",
    "rule of rules": "(around ?e ?y)",
    "rule in not": "[?y :name] (not (next ?y ?e))",
    "rule in or": "(or (next ?e ?y) (next ?y ?e))",
    **{f"{shape}, forward": f"({called(shape)} ?e ?y)" for shape in CLOSURES},
    **{f"{shape}, backward": f"({called(shape)} ?y ?e)" for shape in CLOSURES},
    "mutual recursion": "(even ?e ?y)",
    "mutual recursion backwards": "(even ?y ?e)",
    "deep in rules": "[?y :name] (deep ?y ?e)",
    "by attribute": "(by :follows ?e ?y)",
    "by attribute backwards": "(by :follows ?y ?e)",
}
RULES = (
    """[[(next ?x ?y) [?x :follows ?y]]
        [(around ?x ?y) (next ?x ?y)] [(around ?x ?y) (next ?y ?x)]
        [(even ?x ?y) [?x :follows ?z] (odd ?z ?y)] [(odd ?x ?y) [?x :follows ?y]]
        [(odd ?x ?y) [?x :follows ?z] (even ?z ?y)]
        [(deep ?x ?e) [?x :follows] (or-join [?x ?e] (and (not (around ?x ?e)) [?e :id]))]
        [(by ?a ?x ?y) [?x ?a ?y]] [(by ?a ?x ?y) [?x ?a ?z] (by ?a ?z ?y)]
    """
    + " ".join(t[1:-1].replace("(r ", f"({called(s)} ") for s, t in CLOSURES.items())
    + "]"
)


async def ask(clauses: str, db: Any, binding: str, value: Any, find: str = "?y") -> set[Any]:
    return set(await q(f"[:find {find} :in $ % {binding} :where {clauses}]", db, RULES, value))


@pytest.mark.parametrize("clauses", CLAUSES)
async def test_an_input_that_names_an_entity_finds_what_its_id_finds(clauses: str) -> None:
    db, text = await graph(), CLAUSES[clauses]
    for e in (2, 5):
        expected = await ask(text, db, "?e", e)
        for name in GIVEN.values():
            assert await ask(text, db, "?e", name(e)) == expected
            assert await ask(text, db, "[?e ...]", [name(e), 77]) >= expected
        assert await ask(text, db, "[?e _]", [lookup_ref(e), 0]) == expected
        assert await ask(text, db, "[[_ ?e]]", [[0, ident(e)]]) == expected
    several = await ask(text, db, "[?e ...]", [2, 3, 4, 5], "?e ?y")
    named = await ask(text, db, "[?e ...]", [2, lookup_ref(3), ident(4), 5], "?e ?y")
    given = {3: (":id", "c"), 4: ident(4)}
    assert named == {(given.get(e, e), y) for e, y in several}
    assert several


@pytest.mark.parametrize("clauses", [name for name in CLAUSES if "join" not in name])
async def test_a_constant_that_names_an_entity_finds_what_its_id_finds(clauses: str) -> None:
    db, text = await graph(), CLAUSES[clauses]
    with_id = text.replace("?e", "2")
    expected = await ask(with_id, db, "_", 0)
    for name in WRITTEN.values():
        named = text.replace("?e", write(name(2)))
        assert await ask(named, db, "_", 0) == expected
        rules = RULES[:-1] + f" [(own ?y) {named}] [(again ?y) (own ?y) [?y _]]]"
        plain = RULES[:-1] + f" [(own ?y) {with_id}] [(again ?y) (own ?y) [?y _]]]"
        query = "[:find ?y :in $ % :where (again ?y) (not (own 77))]"
        assert await q(query, db, rules) == await q(query, db, plain)


@pytest.mark.parametrize(("clauses", "way"), [*zip(CLAUSES, cycle(WAYS), strict=False)])
async def test_every_way_to_carry_out_a_query_resolves_alike(clauses: str, way: str) -> None:
    db, text = await graph(), CLAUSES[clauses]
    expected = await ask(text, db, "?e", 2)
    with forced(way):
        for value in (lookup_ref(2), ident(2)):
            assert await ask(text, db, "?e", value) == expected
            assert await ask(text, db, "[?e ...]", [value]) == expected


def test_references_resolve_on_trio() -> None:
    anyio.run(
        partial(test_an_input_that_names_an_entity_finds_what_its_id_finds, "entity"),
        backend="trio",
    )


@pytest.mark.parametrize("view", ["as of", "since", "history"])
async def test_references_resolve_in_views_of_the_past(view: str) -> None:
    db = await graph()
    past = {"as of": db.as_of(db.max_tx), "since": db.since(0), "history": db.history()}[view]
    for text in [*CLAUSES.values()][::3]:
        expected = await ask(text, past, "?e", 2)
        assert await ask(text, past, "?e", lookup_ref(2)) == expected
        assert await ask(text, past, "[?e ...]", [ident(2)]) == expected


async def test_each_source_resolves_for_itself() -> None:
    one, other = await graph(), await graph(101)
    rules = RULES[:-1] + ' [(own ?y) [[:id "b"] :name ?y]] [(far ?y) (next [:id "b"] ?y)]]'
    query = """[:find ?x ?y ?n ?f ?g :in $ $o % ?e
                :where [?e :follows ?x] [$o ?e :follows ?y] ($o own ?n) (far ?f) ($o far ?g)]"""
    for reference in (lookup_ref(2), ident(2)):
        assert await q(query, one, other, rules, reference) == {(3, 103, "B", 3, 103)}
    through = """[:find ?e ?x ?y :in $ $o % [?e ...]
                  :where (r/right ?e ?x) ($o r/right ?e ?y) [$o ?y :id "c"]]"""
    found = await q(through, one, other, RULES, [lookup_ref(2), 2])
    assert found == {((":id", "b"), 3, 103), ((":id", "b"), 4, 103)}
    # In a plain collection nothing is a reference.
    pairs = [((":id", "b"), 7), (2, 8)]
    query = "[:find ?v :in $ ?e :where [?e ?v]]"
    assert await q(query, pairs, lookup_ref(2)) == {(7,)}


async def test_a_nested_query_resolves_its_inputs() -> None:
    nested = '(q "[:find ?y :in $ % ?e :where (r/left ?e ?y)]" $ ?rules ?e)'
    query = f"[:find ?r . :in $ ?rules ?e :where [{nested} ?r]]"
    assert await q(query, await graph(), RULES, lookup_ref(2)) == {(3,), (4,)}


# -- nothing --------------------------------------------------------------------------------------

NOBODY = [[":id", "nobody"], Keyword("node/nobody")]


@pytest.mark.parametrize(("clauses", "nobody"), [*zip(CLAUSES, cycle(NOBODY), strict=False)])
async def test_a_reference_to_nothing_is_an_error(clauses: str, nobody: Any) -> None:
    db, text = await graph(), CLAUSES[clauses]
    inputs: list[tuple[str, Any]] = [
        ("?e", nobody),
        ("[?e ...]", [2, nobody]),
        ("[[?e _]]", [[nobody, 1]]),
    ]
    asked = [(text, *given) for given in inputs]
    asked.append((f'[?q :id "nowhere"] {text}', *inputs[0]))
    if "join" not in clauses:
        written = text.replace("?e", write(nobody))
        asked += [(written, "_", 0), (f'[?q :id "nowhere"] {written}', "_", 0)]
    for query in asked:
        with pytest.raises(QueryError, match="Nothing found for entity id") as caught:
            await ask(query[0], db, *query[1:])
        assert caught.value.error == ":entity-id/missing"
        assert "nobody" in str(caught.value)


async def test_a_point_query_for_nothing_is_an_error() -> None:
    db = await graph()
    for query, given in (
        ("[:find ?n :in $ ?e :where [?e :name ?n]]", [":id", "nobody"]),
        ("[:find ?n :in $ ?e :where [?x :follows ?e] [?x :name ?n]]", [":id", "nobody"]),
        ("[:find ?n :in $ _ :where [[:id nobody] :name ?n]]".replace("nobody", '"nobody"'), 0),
        ("[:find ?n :in $ _ :where [:node/nobody :name ?n]]", 0),
        # Also where nothing was found before it came to that.
        ('[:find ?x :in $ ?e :where [?x :id "nowhere"] [?x :follows ?e]]', [":id", "nobody"]),
        ('[:find ?x :in $ _ :where [?x :id "nowhere"] [?x :follows :node/nobody]]', 0),
        ('[:find ?x :in $ _ :where [?x :id "nowhere"] [:node/nobody :follows ?x]]', 0),
    ):
        with pytest.raises(QueryError, match="nobody") as caught:
            await q(query, db, given)
        assert caught.value.error == ":entity-id/missing"


async def test_pulling_nothing_is_nothing() -> None:
    query = "[:find (pull ?e [:name]) . :in $ ?e]"
    assert await q(query, await graph(), [":id", "nobody"]) is None
    assert await q(query, await graph(), [":id", "b"]) == {":name": "B"}


# -- data -----------------------------------------------------------------------------------------

DATA: list[Any] = [Keyword("node/b"), (Keyword("id"), "b"), (":id", "b"), ":node/b", "b", 1.5]


async def holding(value: Any) -> Database:
    key = ("holds", typed_key(value))
    if key not in _MADE:
        _MADE[key] = await _holding(value)
    return _MADE[key]


async def _holding(value: Any) -> Database:
    db = await graph()
    return await db.db_with([[":db/add", 50, ":holds", value], [":db/add", 50, ":is", 2]])


@pytest.mark.parametrize(("value", "way"), [*zip(cycle(DATA), WAYS, strict=False)], ids=str)
async def test_what_data_bind_is_never_resolved(value: Any, way: str) -> None:
    db = await holding(value)
    found = 0
    for text in [*CLAUSES.values()][::2]:
        if "(not" in text or "missing?" in text:
            continue  # these hold of what is no entity
        query = f"[:find ?y :in $ % :where [50 :holds ?e] {text}]"
        with forced(way):
            if "get-else" in text:
                assert await q(query, db, RULES) == {(0,)}
            else:
                assert await q(query, db, RULES) == set()
            found += len(await q(query.replace(":holds", ":is"), db, RULES)) > 0
    assert found > 10


@pytest.mark.parametrize("call", ['ground [:id "b"]', "identity :node/b", 'vector :id "b"'])
async def test_what_functions_bind_is_never_resolved(call: str) -> None:
    db = await graph()
    for clause in ("[?e :name ?y]", "[?y :follows ?e]", "(r/right ?e ?y)"):
        query = f"[:find ?y :in $ % :where [({call}) ?e] {clause}]"
        assert await q(query, db, RULES) == set()


async def test_data_of_a_point_query_is_never_resolved() -> None:
    db = await holding(Keyword("node/b"))
    for clause in ("[?v :name ?y]", "[?y :follows ?v]"):
        query = f"[:find ?y :in $ ?e :where [?e :holds ?v] {clause}]"
        assert await q(query, db, 50) == set()
        assert await q(query.replace(":holds", ":is"), db, 50) != set()


# -- as an entity, and as it is -------------------------------------------------------------------


async def test_a_reference_is_what_was_given_where_no_entity_stands() -> None:
    db = await holding(Keyword("node/b"))
    shown = "[:find ?x ?n :in $ ?e :where [?x :holds ?e] [?e :name ?n]]"
    assert await q(shown, db, Keyword("node/b")) == {(50, "B")}
    register_function("test/seen", lambda x: [x])
    try:
        query = "[:find ?s ?e ?n :in $ ?e :where [?e :name ?n] [(test/seen ?e) [?s]]]"
        given = (Keyword("id"), "b")
        assert await q(query, db, list(given)) == {(given, given, "B")}
    finally:
        unregister_function("test/seen")


MIXED = {
    "predicate": "[?x :follows ?y] [(not= ?x 2)]",
    "value": "[?x :follows ?y] [?z :holds ?x]",
    "function": "[?x :follows ?y] [(vector ?x) [?w]] [(= ?w ?x)]",
    "recursion on the right": "[?x :follows ?z] [(not= ?x 2)] (m ?z ?y)",
    "recursion on the left": "(m ?x ?z) [?z :follows ?y] [(not= ?x 2)]",
    "negation": "[?x :follows ?y] (not-join [?x] [_ :other ?x])",
    "choice": "[?x :follows ?y] (or-join [?x] [_ :holds ?x] [?x :nothing])",
}


@pytest.mark.parametrize("body", MIXED)
async def test_a_rule_reads_its_arguments_as_if_its_clauses_stood_there(body: str) -> None:
    db = await holding(Keyword("node/b"))
    clauses = MIXED[body]
    rules = f"[[(m ?x ?y) [?x :follows ?y]] [(m ?x ?y) {clauses}] [(own ?x ?y) {clauses}]]"
    query = "[:find ?e ?y :in $ % {} :where {}]"
    inlined = clauses.replace("?x", "?e")
    for binding, value in (
        ("?e", ident(2)),
        ("[?e ...]", [ident(2), 1, 2, 3, 50]),
        ("?e", lookup_ref(2)),
    ):
        expected = await q(query.format(binding, inlined), db, rules, value)
        assert await q(query.format(binding, "(own ?e ?y)"), db, rules, value) == expected
        if binding == "?e" and "m" not in body:
            written = write(value)
            constant = f"[:find ?y :in $ % :where (own {written} ?y)]"
            assert await q(constant, db, rules) == {row[1:] for row in expected}
    found = await q(query.format("?e", "(m ?e ?y)"), db, rules, ident(2))
    assert (ident(2), 3) in found


async def test_an_attribute_may_be_given_as_text() -> None:
    db = await graph()
    rules = "[[(has ?x ?a ?v) [?x ?a ?v]]]"
    for clause in ("[?x ?a ?v]", "(has ?x ?a ?v)", '(has ?x ":name" ?v) [(= ?a ?a)]'):
        query = f"[:find ?x ?v :in $ % {{}} :where {clause} [?x :id]]"
        expected = {(e, name.upper()) for e, name in NAMES.items()}
        for binding, value in (("?a", ":name"), ("?a", Keyword("name")), ("[?a ...]", [":name"])):
            assert await q(query.format(binding), db, rules, value) == expected
    # What data bind is no name, whatever the plan.
    db = await db.db_with([[":db/add", 60, ":called", ":name"]])
    for way in WAYS:
        with forced(way):
            assert await q("[:find ?v :where [60 :called ?a] [1 ?a ?v]]", db) == set()
            assert await q("[:find ?v :where [?z :called ?a] [?x ?a ?v]]", db) == set()


async def test_an_attribute_that_is_given_says_whether_its_values_are_entities() -> None:
    db = await graph()
    query = "[:find ?x :in $ % ?a ?v :where {}]"
    rules = "[[(has ?v ?x ?a) [?x ?a ?v]]]"
    for clause in ("[?x ?a ?v]", "(has ?v ?x ?a)"):
        for attribute in (Keyword("follows"), ":follows"):
            found = await q(query.format(clause), db, rules, attribute, lookup_ref(2))
            assert found == {(1,)}
        assert await q(query.format(clause), db, rules, ":name", lookup_ref(2)) == set()
    assert await q('[:find ?x :in $ % :where (has [:id "b"] ?x :follows)]', db, rules) == {(1,)}


async def test_variables_of_scopes_of_their_own_are_not_the_inputs() -> None:
    db = await graph()
    inner = "(not-join [?y] [?e :holds ?y] [?e :name])"
    query = f"[:find ?y :in $ ?e :where [?y :name] [(= ?e ?e)] {inner}]"
    # Only the ?e inside would be an entity, so the one that was given is not looked for.
    assert len(await q(query, db, [":id", "nobody"])) == 5


async def test_references_are_shown_as_they_were_written() -> None:
    db = await graph()
    query = "[:find ?y :in $ % ?e :where (r/right ?e ?y) [?y :name ?n] (not [?e :nothing ?y])]"
    stats = await query_stats(query, db, RULES, lookup_ref(2))
    assert "(r/right ?e ?y)" in [ran.data()[":clause"] for ran in stats.clauses]
    assert "@" not in str([ran.data() for ran in stats.clauses])
    assert "@" not in str(await explain(query, db, RULES, lookup_ref(2)))


async def test_many_references_of_an_input_are_found_together() -> None:
    many = 3000
    facts = [[":db/add", i, ":id", f"n{i}"] for i in range(1, many)]
    db = await empty_db(SCHEMA).db_with(facts)
    given = [[":id", f"n{i}"] for i in range(1, many)]
    found = await q("[:find ?i :in $ [?e ...] :where [?e :id ?i]]", db, given)
    assert len(found) == many - 1


@pytest.mark.parametrize(
    "branch",
    ["[(r ?x ?y) [?x :a{} ?y] (r ?y ?x)]", "[(r{} ?x ?y) [?x :a ?y] (r{} ?y ?x) (r0 ?x ?y)]"],
    ids=["many attributes", "many rules"],
)
def test_where_arguments_stand_is_found_out_in_steps_that_grow_with_the_rules(
    branch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(places, "tally", steps.append)
    taken = []
    for many in (100, 200):
        steps.clear()
        text = " ".join(branch.replace("{}", str(i)) for i in range(many))
        rules = RuleSet(parse_rules(f"[{text}]"))
        assert rules.places(Symbol("r" if "(r ?x" in branch else "r0"))[0]
        assert not rules.hold_references(rules.branches)
        taken.append(sum(steps))
    assert taken[1] < 3 * taken[0]
