"""Every error of a query: its keyword, which callers dispatch on, and what its message names.

``:query/plan`` of the reference has no case: no operation of a plan comes from outside here.
"""

from __future__ import annotations

from typing import Any

import pytest

import datahike_async as d

pytestmark = pytest.mark.anyio

SCHEMA = {
    ":name": {":db/valueType": ":db.type/string"},
    ":age": {":db/valueType": ":db.type/long"},
    ":friend": {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"},
    ":email": {":db/valueType": ":db.type/string", ":db/unique": ":db.unique/identity"},
}
DATA = [
    {":db/id": 1, ":name": "Ada", ":email": "a@x", ":friend": 2, ":age": 5},
    {":db/id": 2, ":name": "Bob", ":email": "b@x"},
]
LEVELS = 3_000
HUGE = 10**5000  # more digits than Python prints


async def database() -> d.Database:
    return await d.empty_db(SCHEMA).db_with(DATA)


def where(clauses: str) -> str:
    return f"[:find ?e :where [?e :name ?n] {clauses}]"


def nested(make: Any, leaf: Any) -> Any:
    for _ in range(LEVELS):
        leaf = make(leaf)
    return leaf


def case_name(value: Any) -> str | None:
    return value[:60] if isinstance(value, str) else None


# -- the parts of a query ------------------------------------------------------------------------

E = "[:find ?e :where [?e :name]"
PARTS = [
    # :parser/query
    (5, ":parser/query", "not 5"),
    ("5", ":parser/query", "not 5"),
    (None, ":parser/query", "None"),
    ("[?e :find]", ":parser/query", "not ?e"),
    ("[:find ?e :find ?e]", ":parser/query", ":find occurs twice"),
    ("[:find ?e :wher [?e]]", ":parser/query", ":wher"),
    ("{:find [?e] 5 6}", ":parser/query", "5 is no section"),
    ({":find": ["?e"], None: 1}, ":parser/query", "nil is no section"),
    ("[:find ?z :where [?e :name]]", ":parser/query", "unknown vars: ?z"),
    ("[:find ?e :with ?z :where [?e]]", ":parser/query", "unknown vars: ?z"),
    ("[:find ?e :with ?e :where [?e]]", ":parser/query", "share ?e"),
    ("[:find ?e :in $ ?x ?x :where [?e]]", ":parser/query", "?x twice"),
    ({":query": E + "]", ":args": [], ":limits": 1}, ":parser/query", ":limits"),
    ({":find": ["?e"], ":where": [[("", "?e")]]}, ":parser/query", "''"),
    ({":find": ["?\ud800"], ":where": [["?e"]]}, ":parser/query", "surrogate"),
    # :parser/find
    ("[]", ":parser/find", ":find"),
    ({}, ":parser/find", ":find"),
    ("[:find]", ":parser/find", "[]"),
    ("{:find ?e}", ":parser/find", "?e"),
    ("[:find e :where [?e]]", ":parser/find", "e in :find"),
    ("[:find 5 :where [?e]]", ":parser/find", "5 in :find"),
    ("[:find [] :where [?e]]", ":parser/find", "[] in :find"),
    ("[:find [?e ...] ?n :where [?e :name ?n]]", ":parser/find", "[?e ...] in :find"),
    ("[:find ?e . ?n :where [?e :name ?n]]", ":parser/find", ". in :find"),
    ("[:find (pull ?e) :where [?e]]", ":parser/find", "(pull ?e)"),
    ("[:find (pull e [*]) :where [?e]]", ":parser/find", "(pull e [*])"),
    ("[:find (count) :where [?e]]", ":parser/find", "(count)"),
    ("[:find (count 5) :where [?e]]", ":parser/find", "(count 5)"),
    ("[:find (5 ?e) :where [?e]]", ":parser/find", "(5 ?e)"),
    ("[:find (count ?n ?e) :where [?e :name ?n]]", ":parser/find", "(count …)"),
    ("[:find (min -1 ?e) :where [?e :name]]", ":parser/find", "(min -1 …)"),
    ("[:find (sample x ?e) :where [?e :name]]", ":parser/find", "(sample x …)"),
    ("[:find (max 1 2 ?e) :where [?e :name]]", ":parser/find", "(max …)"),
    # :parser/with and :parser/in
    ("[:find ?e :with e :where [?e]]", ":parser/with", "[e]"),
    ("{:find [?e] :with 5 :where [[?e]]}", ":parser/with", "5"),
    ("{:find [?e] :in 5 :where [[?e]]}", ":parser/in", "5"),
    ("[:find ?e :in 5 :where [?e]]", ":parser/in", "5"),
    ("[:find ?e :in $ [] :where [?e]]", ":parser/in", "[]"),
    ("[:find ?e :in $ {} :where [?e]]", ":parser/in", "{}"),
    ("[:find ?e :in $ [[]] :where [?e]]", ":parser/in", "[]"),
    ("[:find ?e :in $ [?x ... ?y] :where [?e]]", ":parser/in", "..."),
    # :parser/return-maps
    (E + " :keys a b]", ":parser/return-maps", ":keys has 2 names for 1"),
    (E + " :keys]", ":parser/return-maps", ":keys has 0 names"),
    ("[:find ?e . :keys a :where [?e]]", ":parser/return-maps", "scalar"),
    ("[:find [?e ...] :strs a :where [?e]]", ":parser/return-maps", ":strs"),
    (E + " :keys a :strs b]", ":parser/return-maps", "Only one"),
    (E + " :keys 5]", ":parser/return-maps", "5 in :keys"),
    (E + " :syms [a]]", ":parser/return-maps", "[a] in :syms"),
    (E + ' :strs ""]', ":parser/return-maps", '""'),
    ({":find": ["?e"], ":keys": [None], ":where": [["?e"]]}, ":parser/return-maps", "nil"),
    ("[:find ?e ?n :keys a a :where [?e :name ?n]]", ":parser/return-maps", "a twice"),
    ("{:find [?e] :keys a :where [[?e]]}", ":parser/return-maps", "not a"),
    # :parser/limit, :parser/offset, :parser/timeout
    (E + " :limit x]", ":parser/limit", "x"),
    (E + " :limit 1 2]", ":parser/limit", "[1, 2]"),
    (E + " :limit 1.0]", ":parser/limit", "1.0"),
    (E + " :limit]", ":parser/limit", "[]"),
    (E + " :limit true]", ":parser/limit", "True"),
    (E + " :offset x]", ":parser/offset", "x"),
    (E + " :offset 1.5]", ":parser/offset", "1.5"),
    (E + " :timeout 0]", ":parser/timeout", "0"),
    (E + " :timeout x]", ":parser/timeout", "x"),
    (E + " :timeout 1 2]", ":parser/timeout", "[1, 2]"),
    # :parser/order-by
    (E + " :order-by ?z]", ":parser/order-by", "?z"),
    (E + " :order-by 5]", ":parser/order-by", "5"),
    (E + " :order-by -1]", ":parser/order-by", "-1"),
    (E + " :order-by :desc]", ":parser/order-by", ":desc"),
    (E + " :order-by [:asc ?e]]", ":parser/order-by", ":asc"),
    (E + " :order-by [?e :desc :asc]]", ":parser/order-by", ":asc"),
    (E + " :order-by [?e :down]]", ":parser/order-by", ":down"),
    (E + " :order-by {}]", ":parser/order-by", "{}"),
    (E + " :order-by [[?e]]]", ":parser/order-by", "[?e]"),
    (E + ' :order-by ""]', ":parser/order-by", '""'),
    (E + " :order-by (count ?e)]", ":parser/order-by", "(count ?e)"),
    ({":find": ["?e"], ":order-by": [b"x"], ":where": [["?e"]]}, ":parser/order-by", "eA=="),
    # :parser/having
    ("{:find [?e] :having 5 :where [[?e]]}", ":parser/having", "5"),
    (E + " :having 5]", ":parser/having", "5"),
    (E + " :having (> ?e 1)]", ":parser/having", "(> ?e 1)"),
    (E + " :having [(> ?e 1) ?x]]", ":parser/having", "[(> ?e 1) ?x]"),
    (E + " :having [?e :name ?n]]", ":parser/having", "[?e :name ?n]"),
    (E + " :having (not [(> ?e 1)])]", ":parser/having", "(not [(> ?e 1)])"),
    (E + " :having [()]]", ":parser/having", "[()]"),
    (E + " :having [(5 ?e)]]", ":parser/having", "5"),
    (E + " :having [(?f ?e)]]", ":parser/having", "?f"),
    (E + " :having [(> ?z 1)]]", ":parser/having", "?z"),
    (E + " :having [(missing? $ ?e :age)]]", ":parser/having", "$"),
    (E + " :having [(> (count ?z) 1)]]", ":parser/having", "?z"),
    (E + " :having [(> (count 5) 1)]]", ":parser/having", "(count 5)"),
    (E + " :having [(= (pull ?e [*]) 1)]]", ":parser/having", "pull"),
    ("[:find (count ?e) :where [?e] :having [(> ?e 1)]]", ":parser/having", "?e"),
    (E + " :having [(> (inc ?e) 1)]]", ":query/where", "inc"),
    (E + " :having [(nosuch ?e)]]", ":query/where", "nosuch"),
    # :parser/where
    ("{:find [?e] :where 5}", ":parser/where", "5"),
    ("[:find ?e :where 5]", ":parser/where", "5"),
    ("[:find ?e :where [] [?e]]", ":parser/where", "[]"),
    ("[:find ?e :where {} [?e]]", ":parser/where", "{}"),
    (where("[?e :name ?n ?t ?o ?z]"), ":parser/where", "[?e :name ?n ?t ?o ?z]"),
    (where("[(inc ?e) ?a ?b]"), ":parser/where", "[(inc ?e) ?a ?b]"),
    (where("[()]"), ":parser/where", "[()]"),
    (where("[(:k ?e)]"), ":parser/where", "[(:k ?e)]"),
    (where("(not)"), ":parser/where", "(not)"),
    (where("(not 5)"), ":parser/where", "5"),
    (where("(not-join [?e])"), ":parser/where", "(not-join [?e])"),
    (where("(or)"), ":parser/where", "(or)"),
    (where("(or-join [?e])"), ":parser/where", "(or-join [?e])"),
    (where("(and)"), ":parser/where", "(and)"),
    (where("(and 5)"), ":parser/where", "5"),
    (where("(nosuch)"), ":parser/where", "(nosuch)"),
    (where("(5 ?e)"), ":parser/where", "(5 ?e)"),
    # :parser/rule-vars
    (where("(not-join [] [?e :name])"), ":parser/rule-vars", "(not-join []"),
    (where("(not-join ?e [?e :name])"), ":parser/rule-vars", "(not-join ?e"),
    (where("(not-join)"), ":parser/rule-vars", "(not-join)"),
    (where("(not-join [5] [?e :name])"), ":parser/rule-vars", "[5]"),
    (where("(not-join [?e ?e] [?e :name])"), ":parser/rule-vars", "[?e ?e]"),
    (where("(or-join 5 [?e :age])"), ":parser/rule-vars", "(or-join 5"),
    (where("(or-join [[]] [?e :age])"), ":parser/rule-vars", "[[]]"),
    # :parser/binding
    (where("[(inc ?e) 5]"), ":parser/binding", "5"),
    (where("[(inc ?e) {}]"), ":parser/binding", "{}"),
    (where("[(inc ?e) []]"), ":parser/binding", "[]"),
    (where("[(inc ?e) $]"), ":parser/binding", "$"),
    (where("[(inc ?e) [[?a] ?b ...]]"), ":parser/binding", "..."),
    # what cannot be printed
    ({":find": ["?e"], ":where": [["?e"], [(">", "?z", HUGE)]]}, ":query/where", "a int that"),
    ({":find": ["?e"], ":where": [["?e"], ("r", HUGE)]}, ":query/where", "a int that"),
    ({":find": ["?e"], ":where": [["?e"], [("inc", HUGE, 1), "?x"]]}, ":query/where", "takes 1"),
    ({":find": ["?e"], ":where": [["?e"], [("name", HUGE), "?x"]]}, ":query/where", "a int that"),
    # :parser/pull
    ("[:find (pull ?e []) :where [?e :name]]", ":parser/pull", "[]"),
    ("[:find (pull ?e [5]) :where [?e :name]]", ":parser/pull", "5"),
    ("[:find (pull ?e [{:friend 0}]) :where [?e :name]]", ":parser/pull", "{:friend"),
    ("[:find (pull ?e [[:name :lim 1]]) :where [?e :name]]", ":parser/pull", ":lim"),
]


def check(caught: pytest.ExceptionInfo[Any], keyword: str, named: str) -> None:
    assert type(caught.value) in (d.QueryError, d.QueryCanceled)
    assert caught.value.error == keyword
    assert named in str(caught.value)


@pytest.mark.parametrize(("query", "keyword", "named"), PARTS, ids=case_name)
async def test_parts_of_a_query(query, keyword, named):
    db = await database()
    inputs = () if isinstance(query, dict) and ":query" in query else (db,)
    with pytest.raises(d.QueryError) as caught:
        await d.q(query, *inputs)
    check(caught, keyword, named)


# -- clauses -------------------------------------------------------------------------------------

CLAUSES = [
    # functions and predicates
    ("[(nosuch ?n)]", ":query/where", "'nosuch'"),
    ("[(incc ?e) ?x]", ":query/where", "Did you mean inc?"),
    ("[(> ?z 1)]", ":query/where", "?z not bound in (> ?z 1)"),
    ("[(inc ?z) ?y]", ":query/where", "?z not bound"),
    ("[(+ 1 (inc ?e)) ?y]", ":query/where", "(inc ?e)"),
    ("[(5 ?e)]", ":query/where", "5 is no function"),
    ("[(?n ?e)]", ":query/where", "'Ada', no function"),
    ("[(inc) ?x]", ":query/where", "inc takes 1 argument; it was given 0"),
    ("[(inc ?e ?e) ?x]", ":query/where", "inc takes 1 argument; it was given 2"),
    ("[(subs ?n) ?x]", ":query/where", "subs takes 2 to 3 arguments"),
    ("[(pos? ?e ?e)]", ":query/where", "pos? takes 1 argument"),
    ("[(inc ?n) ?x]", ":query/where", "(inc 'Ada')"),
    ("[(/ ?e 0) ?x]", ":query/where", "(/ 1 0)"),
    ('[(re-find "(" ?n)]', ":query/where", "'('"),
    ("[(subs ?n 5) ?x]", ":query/where", "(subs 'Ada' 5)"),
    ("[(get-else $ ?e :age nil) ?x]", ":query/where", "nil as default"),
    ("[(get-else $ ?e :age) ?x]", ":query/where", "(get-else …)"),
    ("[(missing? ?e :age)]", ":query/where", "(missing? …)"),
    ("[(missing? $ ?e 5)]", ":query/where", "not 5"),
    ('[(missing? $ ?e "age")]', ":query/where", "not 'age'"),
    ("[(get-some $ ?e) ?x]", ":query/where", "(get-some …)"),
    ("[(get-some $ ?e 5) ?x]", ":query/where", "not 5"),
    ("[(missing? $x ?e :age)]", ":query/where", "$x"),
    ("[(q) ?x]", ":query/where", "(q …)"),
    ("[(q 5 $) ?x]", ":parser/query", "5"),
    # bindings
    ("[(inc ?e) [?a ?b]]", ":query/binding", "2 to tuple"),
    ("[(inc ?e) [?a ...]]", ":query/binding", "2 to collection"),
    ("[(vector ?e) [?a ?b]]", ":query/binding", "[1]"),
    ("[(ground [[1]]) [[?a ?b]]]", ":query/binding", "[1]"),
    # not, or, rules and sources
    ("(not [?z :name ?y])", ":query/where", "none of ?y, ?z is bound"),
    ("(not-join [?z] [?z :name])", ":query/where", "none of ?z is bound"),
    ("(or [?e :age] [?z :age])", ":query/where", "?z is missing"),
    ("(or-join [?z] [?e :age])", ":query/where", "?z is missing"),
    ("(or-join [[?z] ?e] [?e :age])", ":query/where", "?z should be bound"),
    ("(nosuch ?e)", ":query/where", "'nosuch'"),
    ("[$x ?e :name]", ":query/where", "$x"),
    # what a pattern holds
    ("[nil :name ?v]", ":search/pattern", "entity-id"),
    ("[1.5 :name ?v]", ":search/pattern", "1.5"),
    ("[true :name ?v]", ":search/pattern", "True"),
    ("[?e 5]", ":search/pattern", "attribute in pattern, must be a keyword"),
    ("[?e [:a] 5]", ":search/pattern", "[:a]"),
    ('[?e "age"]', ":search/pattern", "Did you mean :age?"),
    ("[?e age ?v]", ":search/pattern", "?age"),
    ("[?e :name {}]", ":search/pattern", "value in pattern"),
    ("[?e :name nil]", ":search/pattern", "nil"),
    ("[?e ?a #{}]", ":search/pattern", "#{}"),
    ("[?e :name ?n tx]", ":search/pattern", "transaction ID in pattern"),
    ('[?e :name ?n "x"]', ":search/pattern", '"x"'),
    ("[?e _ _ 1.5]", ":search/pattern", "1.5"),
    ("[?e :name ?n ?t 5]", ":search/pattern", "added? in pattern"),
    ("[?e :name ?n ?t nil]", ":search/pattern", "nil"),
    # entities
    ('["x" :name ?v]', ":entity-id/syntax", "'x'"),
    ("[{} :name ?v]", ":entity-id/syntax", "{}"),
    ("[foo :name ?v]", ":entity-id/syntax", "foo"),
    ("[[] :name ?v]", ":lookup-ref/syntax", "[]"),
    ("[[:email] :name ?v]", ":lookup-ref/syntax", "[:email]"),
    ("[[:email 1 2] :name ?v]", ":lookup-ref/syntax", "[:email, 1, 2]"),
    ("[[:email 5] :name ?v]", ":lookup-ref/syntax", ":db.type/string"),
    ("[?e :friend [:email]]", ":lookup-ref/syntax", "[:email]"),
    ('[[:name "x"] :name ?v]', ":lookup-ref/unique", ":name"),
    ('[[:nosuch "x"] :name ?v]', ":lookup-ref/unique", ":nosuch"),
    ('[?e :friend [:name "x"]]', ":lookup-ref/unique", ":name"),
]


@pytest.mark.parametrize(("clause", "keyword", "named"), CLAUSES, ids=case_name)
async def test_clauses(clause, keyword, named):
    with pytest.raises(d.QueryError) as caught:
        await d.q(where(clause), await database())
    check(caught, keyword, named)


@pytest.mark.parametrize(
    ("find", "named"),
    [
        ("(nosuch ?e)", "'nosuch'"),
        ("(?f ?e)", "?f"),
        ("(aggregate ?f ?e)", "?f"),
        ("(sum ?n)", "'Ada'"),
        ("(avg ?n)", "'Ada'"),
    ],
)
async def test_aggregates(find, named):
    with pytest.raises(d.QueryError) as caught:
        await d.q(f"[:find {find} :where [?e :name ?n]]", await database())
    check(caught, ":query/where", named)


# -- inputs and rules ----------------------------------------------------------------------------


def raising(_: Any) -> Any:
    raise ZeroDivisionError("of my own")


FRIENDS = "[(r ?x ?y) [?x :friend ?y]]"
INPUTS = [
    ("?n", "[?e :name ?n]", None, ":query/binding", "?n"),
    ("?n", "[?e :name ?n]", object(), ":search/pattern", "object"),
    ("[?n ...]", "[?e :name ?n]", 5, ":query/binding", "5 to collection"),
    ("[?n ...]", "[?e :name ?n]", "abc", ":query/binding", "'abc'"),
    ("[?n ?m]", "[?e :name ?n]", 5, ":query/binding", "5 to tuple"),
    ("[?n ?m]", "[?e :name ?n]", [7], ":query/binding", "[7]"),
    ("[[?n ?m]]", "[?e :name ?n]", [[7]], ":query/binding", "[7]"),
    ("[[?n ?m]]", "[?e :name ?n]", [7], ":query/binding", "7 to tuple"),
    ("[[?n]]", "[?e :name ?n]", [[None]], ":query/binding", "?n"),
    ("?n", "[?e :name ?n]", nested(lambda x: [x], 1), ":query/binding", "nested"),
    ("[?n ...]", "[?e :name ?n]", [nested(lambda x: [x], 1)], ":query/binding", "nested"),
    ("?r", "[?r :name ?e]", [":email"], ":lookup-ref/syntax", ":email"),
    ("?r", "[?r :name ?e]", [":name", "x"], ":lookup-ref/unique", ":name"),
    ("?r", "[?r :name ?e]", "x", ":entity-id/syntax", "'x'"),
    ("?r", "[?r :name ?e]", 1.5, ":search/pattern", "1.5"),
    ("?a", "[?e ?a]", 5, ":search/pattern", "5"),
    ("?f", "[?e :name ?n] [(?f ?n)]", 5, ":query/where", "?f is 5"),
    ("f", "[?e :name ?n] [(f ?n)]", 5, ":query/where", "f is 5"),
    ("?f", "[?e :name ?n] [(?f ?n)]", raising, ":query/where", "ZeroDivisionError: of my own"),
    ("?f", "[?e :name ?n] [(?f)]", raising, ":query/where", "takes 1 argument"),
    ("$b", "[$b ?e]", 5, ":query/where", "5"),
    ("$b", "[$b ?e]", "abc", ":query/where", "'abc'"),
    ("$b", "[$b ?e]", [5], ":query/where", "5"),
    # rules
    ("%", "(r ?e)", 5, ":parser/rule", "5"),
    ("%", "(r ?e)", "{}", ":parser/rule", "{}"),
    ("%", "(r ?e)", "[5]", ":parser/rule", "5"),
    ("%", "(r ?e)", "[[(r ?x)]]", ":parser/rule", "[(r ?x)]"),
    ("%", "(r ?e)", "[[5 [?x]]]", ":parser/rule", "5"),
    ("%", "(r ?e)", "[[(5 ?x) [?x]]]", ":parser/rule", "5"),
    ("%", "(r ?e)", "[[(not ?x) [?x]]]", ":parser/rule", "called not"),
    ("%", "(r ?e)", "[[(r ?x) [?y :name]]]", ":query/where", "?e not bound in (r ?e)"),
    ("%", "(r ?e)", "[[(r ?x) [?x]] [(r ?x ?y) [?x :name ?y]]]", ":parser/rule", "r differ"),
    ("%", "(r ?e)", "[[(r ?x) [?x :name] (not (r ?x))]]", ":parser/rule", "(not …)"),
    ("%", "(r ?e)", "[[(r) [?x :name]]]", ":parser/rule-vars", "(r)"),
    ("%", "(r ?e)", "[[(r 5) [?x :name]]]", ":parser/rule-vars", "(r 5)"),
    ("%", "(r ?e)", "[[(r [[?x]]) [?x :name]]]", ":parser/rule-vars", "[[?x]]"),
    ("%", "(r ?e)", "[[(r ?x) 5]]", ":parser/where", "5"),
    ("%", "(r ?e)", "[[(r ?x) (s ?x)]]", ":query/where", "'s'"),
    ("%", "(r ?e)", "[[(r [?x]) [?x :name]]]", ":query/where", "?e not bound"),
    ("%", "(r ?e)", [[("r", "?x"), [("", "?x")]]], ":parser/rule", "''"),
    ("%", "(r ?e ?e)", f"[{FRIENDS} [(r ?x ?y) (r ?x ?t ?t) (r ?t ?y)]]", ":query/where", "has 3"),
    ("%", "(r ?e ?e)", "[[(r ?x) [?x :name]]]", ":query/where", "takes 1"),
]


@pytest.mark.parametrize(("binding", "clauses", "given", "keyword", "named"), INPUTS, ids=case_name)
async def test_inputs(binding, clauses, given, keyword, named):
    query = f"[:find ?e :in $ {binding} :where {clauses}]"
    with pytest.raises(d.QueryError) as caught:
        await d.q(query, await database(), given)
    check(caught, keyword, named)


async def test_too_many_inputs():
    with pytest.raises(d.QueryError) as caught:
        await d.q("[:find ?e :in $ :where [?e :name]]", await database(), "x", "y")
    check(caught, ":query/inputs", "takes 1 input (:in $), 3 were given")


async def test_a_query_that_takes_too_long():
    data = [(i,) for i in range(300)]
    query = "[:find (count ?a) . :in [[?a]] [[?b]] [[?c]] :where [(< ?a ?b)] [(< ?b ?c)]]"
    with pytest.raises(d.QueryCanceled) as caught:
        await d.q(query, data, data, data, timeout=0.001)
    check(caught, ":query/canceled", "0.001 ms")


# -- nested without end --------------------------------------------------------------------------

X = [["?e", ":name"]]
DEEP = {
    "where": {":find": ["?e"], ":where": [nested(lambda x: ("not", x), X[0])]},
    "find": {":find": [nested(lambda x: [x], "?e")], ":where": X},
    "in": {":find": ["?e"], ":in": nested(lambda x: [x], "?x"), ":where": X},
    "constant": {":find": ["?e"], ":where": [["?e", ":name", nested(lambda x: (x,), 1)]]},
    "map": {":find": ["?e"], ":where": [["?e", ":name", nested(lambda x: {":k": x}, 1)]]},
    "set": {":find": ["?e"], ":where": [["?e", ":x", nested(lambda x: frozenset([x]), 1)]]},
    "keys": {":find": ["?e"], ":keys": nested(lambda x: [x], "a"), ":where": X},
    "order-by": {":find": ["?e"], ":order-by": nested(lambda x: [x], "?e"), ":where": X},
    "having": {":find": ["?e"], ":having": nested(lambda x: [x], "?e"), ":where": X},
    "limit": {":find": ["?e"], ":limit": nested(lambda x: [x], 1), ":where": X},
    "pull": {":find": [("pull", "?e", nested(lambda x: [{":friend": x}], ["*"]))], ":where": X},
}


@pytest.mark.parametrize("part", DEEP)
async def test_data_nested_ten_thousand_deep(part):
    with pytest.raises(
        d.QueryError, match=r"nested|that cannot be printed|frozenset\(\{frozenset"
    ) as caught:
        await d.q(DEEP[part], await database())
    assert caught.value.error in (":parser/query", ":search/pattern")


@pytest.mark.parametrize(
    "form", ["(not {})", "(or {})", "(and {})", "[(vector {}) ?x]", "[(inc ?e) [{}]]"]
)
async def test_text_nested_ten_thousand_deep(form):
    before, after = form.split("{}")
    text = where(before * LEVELS + "[?e :name]" + after * LEVELS)
    with pytest.raises(d.EdnError, match="nested deeper than"):
        await d.q(text, await database())


async def test_what_contains_itself():
    query: list[Any] = [":find", "?e", ":where"]
    query.append(query)
    with pytest.raises(d.QueryError) as caught:
        await d.q(query, await database())
    check(caught, ":parser/query", "nested deeper than")


@pytest.mark.parametrize("call", [d.q, d.explain, d.query_stats])
async def test_a_chain_of_rules_without_end(call):
    rules = " ".join(f"[(r{i} ?x) (r{i + 1} ?x)]" for i in range(LEVELS))
    rules = f"[{rules} [(r{LEVELS} ?x) [?x :name]]]"
    with pytest.raises(d.QueryError) as caught:
        await call("[:find ?e :in $ % :where (r0 ?e)]", await database(), rules)
    check(caught, ":query/where", "levels")
