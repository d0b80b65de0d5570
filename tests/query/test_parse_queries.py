"""Query text and data become one parsed form; malformed ones name their section."""

from __future__ import annotations

import pytest

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import EdnError, QueryError
from datahike_async.query.language.ast import (
    BindCollection,
    BindIgnore,
    BindRelation,
    BindScalar,
    BindTuple,
    Function,
    Not,
    Or,
    Pattern,
    Predicate,
    Pull,
    RuleCall,
)
from datahike_async.query.language.parse import parse_query
from datahike_async.query.language.where import parse_rules

E, N, A = Symbol("?e"), Symbol("?n"), Symbol("?a")


def fails(query: object) -> str | None:
    with pytest.raises(QueryError) as caught:
        parse_query(query)
    return caught.value.error


def test_text_list_and_map_parse_alike() -> None:
    text = parse_query("[:find ?e ?n :in $ ?a :where [?e :name ?n] [?e :age ?a]]")
    data = parse_query(
        [
            ":find",
            "?e",
            "?n",
            ":in",
            "$",
            "?a",
            ":where",
            ["?e", ":name", "?n"],
            ["?e", ":age", "?a"],
        ]
    )
    mapped = parse_query(
        {
            "find": ["?e", "?n"],
            ":in": ["$", "?a"],
            Keyword("where"): [["?e", ":name", "?n"], ["?e", Keyword("age"), "?a"]],
        }
    )
    assert text == data == mapped
    assert text.find.elements == (E, N)
    assert text.where[0].terms[:3] == (E, Keyword("name"), N)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("form", "kind", "count"),
    [
        ("?e ?n", "relation", 2),
        ("[?n ...]", "collection", 1),
        ("[?e ?n]", "tuple", 2),
        ("?n .", "scalar", 1),
    ],
)
def test_find_specs(form: str, kind: str, count: int) -> None:
    query = parse_query(f"[:find {form} :where [?e :name ?n]]")
    assert query.find.kind == kind
    assert len(query.find.elements) == count


def test_pull_in_find_keeps_its_pattern_and_source() -> None:
    query = parse_query("[:find (pull $h ?e [:name {:friend [*]}]) :in $h :where [$h ?e :name]]")
    assert query.find.elements == (
        Pull(
            Symbol("$h"),
            E,
            [Keyword("name"), {Keyword("friend"): [Symbol("*")]}],
        ),
    )


def test_every_in_form() -> None:
    query = parse_query(
        "[:find ?e :in $ $2 % ?x [?y ...] [?z _] [[?e ?n]] _ :where [?e :a ?x] [?e :b ?y]]"
    )
    assert query.ins == (
        BindScalar(Symbol("$")),
        BindScalar(Symbol("$2")),
        BindScalar(Symbol("%")),
        BindScalar(Symbol("?x")),
        BindCollection(BindScalar(Symbol("?y"))),
        BindTuple((BindScalar(Symbol("?z")), BindIgnore())),
        BindRelation((BindScalar(E), BindScalar(N))),
        BindIgnore(),
    )


def test_clauses() -> None:
    query = parse_query(
        """[:find ?e :in $ $h % :where
            [?e :name ?n]
            [$h ?e :age 5 ?t true]
            [(> ?n 5)]
            [(inc ?n) ?a]
            (follows ?e ?n)
            ($h follows ?e _)
            (not [?e :x] [?e :y])
            (not-join [?e] [?e :x ?a])
            (or [?e :x] (and [?e :y] [?e :z]))
            (or-join [[?n] ?e] [?e :w ?n])]"""
    )
    kinds = [type(c) for c in query.where]
    assert kinds == [
        Pattern, Pattern, Predicate, Function, RuleCall, RuleCall, Not, Not, Or, Or,
    ]  # fmt: skip
    assert query.where[1].source is Symbol("$h")  # type: ignore[union-attr]
    assert query.where[5].source is Symbol("$h")  # type: ignore[union-attr]
    assert [len(b) for b in query.where[8].branches] == [1, 2]  # type: ignore[union-attr]
    assert query.where[9].required == (N,)  # type: ignore[union-attr]


def test_a_lookup_ref_as_entity_is_a_pattern() -> None:
    query = parse_query('[:find ?n :where [[:email "a@b"] :name ?n]]')
    assert query.where[0].terms[0] == [Keyword("email"), "a@b"]  # type: ignore[union-attr]


def test_a_string_value_that_looks_like_a_keyword_stays_a_string() -> None:
    query = parse_query([":find", "?e", ":where", ["?e", ":tag", ":x"]])
    assert query.where[0].terms[2] == ":x"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("[:where [?e :a]]", ":parser/find"),
        ("[:find :where [?e :a]]", ":parser/find"),
        ("[:find 5 :where [?e :a]]", ":parser/find"),
        ("[:find (pull ?e) :where [?e :a]]", ":parser/find"),
        ("[:find ?x :where [?e :a]]", ":parser/query"),
        ("[:find ?e :with ?x :where [?e :a]]", ":parser/query"),
        ("[:find ?e :with ?e :where [?e :a]]", ":parser/query"),
        ("[:find ?e :find ?e :where [?e :a]]", ":parser/query"),
        ("[:find ?e :in ?x ?x :where [?e :a]]", ":parser/query"),
        ("[?e :where [?e :a]]", ":parser/query"),
        ("{:find [?e] :wher [[?e :a]]}", ":parser/query"),
        ("[:find ?e :with 5 :where [?e :a]]", ":parser/with"),
        ("[:find ?e :in 5 :where [?e :a]]", ":parser/in"),
        ("[:find ?e :where 5]", ":parser/where"),
        ("[:find ?e :where [?e :a] (rule)]", ":parser/where"),
        ("[:find ?e :where [?e :a 1 2 3 4]]", ":parser/where"),
        ("[:find ?e :where [?e :a] (not)]", ":parser/where"),
        ("[:find ?e :where (or-join [] [?e :a])]", ":parser/rule-vars"),
        ("[:find ?e :where (or-join [?e ?e] [?e :a])]", ":parser/rule-vars"),
        ("[:find ?e :where [?e :a] [(inc 1) x]]", ":parser/binding"),
        ("[:find ?e :where [?e :a] :limit 1.5]", ":parser/limit"),
        ("[:find ?e :where [?e :a] :offset x]", ":parser/offset"),
        ("[:find ?e :where [?e :a] :timeout 0]", ":parser/timeout"),
        ("[:find ?e :where [?e :a] :order-by [:desc ?e]]", ":parser/order-by"),
        ("[:find ?e :where [?e :a] :order-by [3]]", ":parser/order-by"),
        ("[:find ?e :where [?e :a] :order-by [?x]]", ":parser/order-by"),
        ("[:find ?e :keys a b :where [?e :a]]", ":parser/return-maps"),
        ("[:find ?e . :keys a :where [?e :a]]", ":parser/return-maps"),
        ("[:find ?e :keys a :strs a :where [?e :a]]", ":parser/return-maps"),
        ("[:find ?e :where [?e :a] :having [(> ?z 1)]]", ":parser/having"),
        ("[:find ?e :where [?e :a ?x] [(+ ?x (inc 1)) ?y]]", ":query/where"),
        (5, ":parser/query"),
    ],
)
def test_what_is_malformed_names_its_section(query: object, error: str) -> None:
    assert fails(query) == error


def test_broken_text_says_where() -> None:
    with pytest.raises(EdnError):
        parse_query("[:find ?e :where [?e :a]")


def test_rules() -> None:
    rules = parse_rules(
        "[[(f ?x ?y) [?x :f ?y]] [(f ?x ?y) [?x :f ?t] (f ?t ?y)] [(g [?x] ?y) [(inc ?x) ?y]]]"
    )
    assert [len(branches) for branches in rules.values()] == [2, 1]
    assert rules[Symbol("g")][0].required == (Symbol("?x"),)
    data = parse_rules(
        [
            [("f", "?x", "?y"), ["?x", ":f", "?y"]],
            [("f", "?x", "?y"), ["?x", ":f", "?t"], ("f", "?t", "?y")],
            [("g", ["?x"], "?y"), [("inc", "?x"), "?y"]],
        ]
    )
    assert data == rules


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ("5", ":parser/rule"),
        ("[[(f ?x)]]", ":parser/rule"),
        ("[[f [?x :f]]]", ":parser/rule"),
        ("[[(f ?x) [?x :a]] [(f ?x ?y) [?x :a ?y]]]", ":parser/rule"),
        ("[[(f 5) [?x :a]]]", ":parser/rule-vars"),
        ("[[(f) [?x :a]]]", ":parser/rule-vars"),
    ],
)
def test_malformed_rules(rules: str, error: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_rules(rules)
    assert caught.value.error == error
