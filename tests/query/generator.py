"""Hypothesis strategies: small databases with a history, and queries and rules over them.

Every query is safe (a variable of a call, a negation or ``:find`` occurs in a pattern, a rule call
or an input) and its clauses come in random order, which must not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from datahike_async.edn.types import Keyword, Symbol

REF = {":db/valueType": ":db.type/ref"}
MANY = {":db/cardinality": ":db.cardinality/many"}
SCHEMA: dict[str, dict[str, Any]] = {
    ":any": {},
    ":many": MANY,
    ":index": {**MANY, ":db/index": True},
    ":long": {":db/valueType": ":db.type/long"},
    ":text": {":db/valueType": ":db.type/string", ":db/index": True},
    ":ref": REF,
    ":refs": {**REF, **MANY},
}

INSTANT = datetime(2024, 5, 6, tzinfo=UTC)
VALUES: list[Any] = [
    *(0, 1, 2, True, False, 0.0, 1.0, 2.5, "a", "b", "1"),
    *(Keyword("a"), Keyword("k/b"), INSTANT, (1, "a"), (True, "a"), 2**70),
]
ENTITIES = [1, 2, 3, 4, 5, 6]
ATTRIBUTES = [Keyword(name) for name in SCHEMA]
REFS = [Keyword(":ref"), Keyword(":refs")]
VARIABLES = [Symbol(f"?{c}") for c in "abcde"]
BLANK = Symbol("_")

values = st.sampled_from(VALUES)
entities = st.sampled_from(ENTITIES)
attributes = st.sampled_from(ATTRIBUTES)


def value_of(attribute: Keyword) -> st.SearchStrategy[Any]:
    if attribute in REFS:
        return entities
    if attribute.text == "long":
        return st.integers(0, 3)
    return st.sampled_from(["a", "b", "1", "ab"]) if attribute.text == "text" else values


@st.composite
def operations(draw: st.DrawFn) -> list[Any]:
    attribute = draw(attributes)
    kind = ":db/add" if draw(st.integers(0, 4)) else ":db/retract"
    return [kind, draw(entities), ":" + attribute.text, draw(value_of(attribute))]


histories = st.lists(st.lists(operations(), min_size=1, max_size=8), min_size=1, max_size=4)


@dataclass
class Generated:
    """A query as data, with what it is given beside the database."""

    find: list[Any]
    where: list[Any]
    ins: list[Any] = field(default_factory=lambda: [Symbol("$")])
    inputs: list[Any] = field(default_factory=list)
    rules: list[Any] = field(default_factory=list)
    with_: list[Any] = field(default_factory=list)


# -- clauses -----------------------------------------------------------------------------------


@st.composite
def patterns(draw: st.DrawFn, pool: list[Symbol]) -> tuple[list[Any], set[Symbol]]:
    variable = st.sampled_from(pool)
    kind = draw(st.integers(0, 9))
    e = draw(entities) if kind == 0 else BLANK if kind == 1 else draw(variable)
    a: Any = draw(attributes)
    if draw(st.integers(0, 9)) == 0:
        a = draw(variable)
    kind = draw(st.integers(0, 9))
    v: Any = draw(variable)
    if kind < 2:
        v = draw(value_of(a) if isinstance(a, Keyword) and kind else values)
        if isinstance(v, tuple):
            v = draw(variable)
    elif kind == 2:
        v = BLANK
    clause = [e, a, v]
    kind = draw(st.integers(0, 19))
    if kind == 0:
        clause.append(draw(variable))
    elif kind == 1:
        clause += [BLANK, draw(st.one_of(variable, st.booleans()))]
    elif kind == 2 and v is BLANK:
        clause.pop()
    if all(not (isinstance(t, Symbol) and t.name[0] == "?") for t in clause):
        clause[0] = draw(variable)
    return clause, {t for t in clause if isinstance(t, Symbol) and t.name[0] == "?"}


PREDICATES = ["=", "!=", "not=", "<", ">", "<=", ">=", "number?", "string?", "odd?", "keyword?"]
UNARY = {"number?", "string?", "odd?", "keyword?"}


@st.composite
def predicates(draw: st.DrawFn, bound: list[Symbol]) -> list[Any]:
    name = draw(st.sampled_from(PREDICATES))
    args: list[Any] = [draw(st.sampled_from(bound))]
    if name not in UNARY:
        plain = [v for v in VALUES if not isinstance(v, tuple)]
        args.append(draw(st.one_of(st.sampled_from(bound), st.sampled_from(plain))))
        if draw(st.booleans()):
            args.reverse()
    return [(Symbol(name), *args)]


@st.composite
def functions(
    draw: st.DrawFn, bound: list[Symbol], pool: list[Symbol]
) -> tuple[list[Any], set[Any]]:
    """A function that fails on nothing, and what it binds (a bound variable unifies)."""
    x, y = draw(st.sampled_from(bound)), draw(st.sampled_from(bound))
    target, other = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
    lookup = {1: "one", "a": 1, Keyword("a"): Keyword("k/b"), 2.5: False}
    table = [(1, "one"), (True, 1), ("a", 1.0)]
    call, binding = draw(
        st.sampled_from(
            [
                ((Symbol("identity"), x), target),
                ((Symbol("str"), x), target),
                ((Symbol("="), x, y), target),
                ((Symbol("vector"), x, y), target),
                ((Symbol("vector"), x, y), [target, other]),
                ((Symbol("vector"), x, y), [[target, Symbol("...")], BLANK][0]),
                ((Symbol("tuple"), x, 1), [target, BLANK]),
                ((Symbol("get"), lookup, x), target),
                ((Symbol("range"), 3), [target, Symbol("...")]),
                ((Symbol("ground"), table), [[target, other]]),
                ((Symbol("ground"), True), target),
            ]
        )
    )
    found = {t for t in _flat(binding) if t in pool}
    return [call, binding], found


def _flat(form: Any) -> list[Any]:
    return [x for item in form for x in _flat(item)] if isinstance(form, list) else [form]


@st.composite
def lookups(draw: st.DrawFn, bound: list[Symbol], pool: list[Symbol]) -> tuple[list[Any], set[Any]]:
    e, a = draw(st.sampled_from(bound)), draw(attributes)
    if draw(st.booleans()):
        return [(Symbol("missing?"), Symbol("$"), e, a)], set()
    target = draw(st.sampled_from(pool))
    default = draw(st.sampled_from([0, False, "a", 1.0]))
    return [(Symbol("get-else"), Symbol("$"), e, a, default), target], {target}


@st.composite
def bodies(draw: st.DrawFn, pool: list[Symbol], outer: list[Symbol]) -> list[Any]:
    """A small conjunction that touches a variable of ``outer``, for use inside not and or."""
    first, found = draw(patterns(pool))
    if not found & set(outer):
        first[0] = draw(st.sampled_from(outer))
        found = {t for t in first if t in pool}
    body = [first]
    if draw(st.integers(0, 3)) == 0:
        body.append(draw(patterns(sorted(found, key=repr)))[0])
    if draw(st.integers(0, 3)) == 0:
        body.append(draw(predicates(sorted(found, key=repr))))
    return body


@st.composite
def negations(draw: st.DrawFn, bound: list[Symbol], pool: list[Symbol]) -> Any:
    if draw(st.booleans()):
        return (Symbol("not"), *draw(bodies(bound, bound)))
    outer = draw(st.sampled_from(bound))
    # Variables beside the head are the negation's own, also where they have an outer namesake.
    return (Symbol("not-join"), [outer], *draw(bodies(pool, [outer])))


@st.composite
def choices(draw: st.DrawFn, bound: list[Symbol], pool: list[Symbol]) -> tuple[Any, set[Any]]:
    outer = draw(st.sampled_from(bound))
    shared = sorted({outer, draw(st.sampled_from(pool))}, key=repr)
    count = draw(st.integers(1, 3))
    branches = []
    join = draw(st.booleans())
    for _ in range(count):
        body = draw(bodies(pool if join else shared, [outer]))
        names = {t for clause in body for t in _symbols(clause)}
        for variable in shared:
            if variable not in names:
                body.append(
                    [
                        draw(st.sampled_from([*names & set(pool), variable])),
                        draw(attributes),
                        variable,
                    ]
                )
        branches.append(body[0] if len(body) == 1 else (Symbol("and"), *body))
    if join:
        return (Symbol("or-join"), list(shared), *branches), set(shared)
    return (Symbol("or"), *branches), set(shared)


def _symbols(form: Any) -> set[Any]:
    if isinstance(form, (list, tuple)):
        return {x for item in form for x in _symbols(item)}
    return {form} if isinstance(form, Symbol) and form.name[0] == "?" else set()


# -- rules -------------------------------------------------------------------------------------

X, Y, Z = Symbol("?x"), Symbol("?y"), Symbol("?z")
PATH, LINK, EVEN, ODD, FAR, OWN = map(Symbol, ("path", "link", "even", "odd", "far", "own"))


@st.composite
def rule_sets(draw: st.DrawFn) -> list[Any]:
    """A set of rules of two arguments each, recursive in one of several ways, and their names."""
    edge, other = draw(st.sampled_from(REFS)), draw(st.sampled_from([*REFS, Keyword("any")]))
    base = [X, edge, Y]
    if draw(st.booleans()):
        base = [Y, edge, X]
    step = draw(
        st.sampled_from(
            [
                [[X, other, Z], (PATH, Z, Y)],
                [(PATH, X, Z), [Z, other, Y]],
                [(PATH, X, Z), (PATH, Z, Y)],
                [(PATH, Y, X)],
                [(PATH, Y, Z), [X, other, Z]],
                [(PATH, Z, Z), [X, other, Z], [Y, other, Z]],
                [(LINK, X, Z), (PATH, Z, Y)],
            ]
        )
    )
    rules: list[Any] = [
        [(PATH, X, Y), base],
        [(PATH, X, Y), *draw(st.permutations(step))],
        [(LINK, X, Y), [X, edge, Y]],
        [(LINK, X, Y), [Y, other, X]],
        # mutual recursion
        [(EVEN, X, Y), [X, edge, Z], (ODD, Z, Y)],
        [(EVEN, X, X), [X, other, BLANK]],
        [(ODD, X, Y), [X, edge, Z], (EVEN, Z, Y)],
        # a negation above a recursion
        [(FAR, X, Y), [X, edge, BLANK], [BLANK, edge, Y], (Symbol("not"), (PATH, X, Y))],
    ]
    body, found = draw(patterns([X, Y, Z]))
    more = draw(patterns([X, Y, Z]))
    if {X, Y} <= found | more[1]:
        own = [body, more[0]]
        if draw(st.booleans()):
            own.append(draw(predicates([X, Y])))
        rules.append([(OWN, X, Y), *own])
    return rules


@st.composite
def rule_calls(draw: st.DrawFn, rules: list[Any], pool: list[Symbol]) -> tuple[Any, set[Any]]:
    name = draw(st.sampled_from(sorted({rule[0][0] for rule in rules}, key=repr)))
    term = st.one_of(st.sampled_from(pool), st.sampled_from(pool), entities, st.just(BLANK))
    args = [draw(term), draw(term)]
    if not {a for a in args if a in pool}:
        args[0] = draw(st.sampled_from(pool))
    return (name, *args), {a for a in args if a in pool}


# -- queries -----------------------------------------------------------------------------------


@st.composite
def inputs(draw: st.DrawFn, pool: list[Symbol]) -> tuple[Any, Any, set[Any]]:
    a, b = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
    plain = st.one_of(entities, values)
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return a, draw(plain), {a}
    if kind == 1:
        return [a, Symbol("...")], draw(st.lists(plain, max_size=4)), {a}
    if kind == 2:
        return [a, b], [draw(plain), draw(plain)], {a, b}
    return [[a, b]], draw(st.lists(st.tuples(plain, plain), max_size=4)), {a, b}


AGGREGATES: list[tuple[Any, ...]] = [
    (Symbol("count"),),
    (Symbol("count-distinct"),),
    (Symbol("min"),),
    (Symbol("max"),),
    (Symbol("min"), 2),
    (Symbol("max"), 2),
    (Symbol("distinct"),),
]


@st.composite
def queries(draw: st.DrawFn) -> Generated:
    pool = VARIABLES[: draw(st.integers(2, 5))]
    out = Generated([], [])
    bound: set[Symbol] = set()
    if draw(st.integers(0, 2)) == 0:
        form, value, found = draw(inputs(pool))
        out.ins.append(form)
        out.inputs.append(value)
        bound |= found
    with_rules = draw(st.booleans())
    if with_rules:
        out.rules = draw(rule_sets())
        out.ins.append(Symbol("%"))
    where = out.where
    for _ in range(draw(st.integers(1, 3))):
        if with_rules and draw(st.booleans()):
            clause, found = draw(rule_calls(out.rules, pool))
        else:
            clause, found = draw(patterns(pool))
        where.append(clause)
        bound |= found
    for _ in range(draw(st.integers(0, 2))):
        ordered = sorted(bound, key=repr)
        kind = draw(st.sampled_from(["predicate", "function", "lookup", "not", "or", "or"]))
        found = set()
        if kind == "predicate":
            clause = draw(predicates(ordered))
        elif kind == "function":
            clause, found = draw(functions(ordered, pool))
        elif kind == "lookup":
            clause, found = draw(lookups(ordered, pool))
        elif kind == "not":
            clause = draw(negations(ordered, pool))
        else:
            clause, found = draw(choices(ordered, pool))
        where.append(clause)
        bound |= found
    out.where = draw(st.permutations(where))
    ordered = sorted(bound, key=repr)
    out.find = list(draw(st.lists(st.sampled_from(ordered), min_size=1, max_size=3, unique=True)))
    rest = [v for v in ordered if v not in out.find]
    if draw(st.integers(0, 4)) == 0:
        target = draw(st.sampled_from(ordered))
        plain = [v for v in out.find if v is not target]
        out.find = [*plain, (*draw(st.sampled_from(AGGREGATES)), target)]
        rest = [v for v in ordered if v not in plain and v is not target]
    if rest and draw(st.integers(0, 4)) == 0:
        out.with_ = [draw(st.sampled_from(rest))]
    return out
