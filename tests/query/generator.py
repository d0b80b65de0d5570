"""Hypothesis strategies: small databases with a history, and queries and rules over them.

Every query is safe (a variable of a call, a negation or ``:find`` occurs in a pattern, a rule call
or an input) and its clauses come in random order, which must not matter. Patterns are made from
facts of the database, with one solution in mind, or nearly all results would be empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.query.builtins.table import BUILTINS
from datahike_async.values.types import typed_key
from tests.query.oracle import Oracle

REF = {":db/valueType": ":db.type/ref"}
MANY = {":db/cardinality": ":db.cardinality/many"}
SCHEMA: dict[str, dict[str, Any]] = {
    ":any": {},
    ":many": MANY,
    ":index": {**MANY, ":db/index": True},
    ":long": {":db/valueType": ":db.type/long", ":db/index": True},
    ":text": {":db/valueType": ":db.type/string", ":db/index": True},
    ":ref": REF,
    ":refs": {**REF, **MANY},
    ":id": {":db/unique": ":db.unique/identity"},
}
# What the entities are called, from the first transaction on. Data have these values too.
NAMED: list[list[Any]] = [
    [":db/add", 1, ":id", "a"],
    [":db/add", 2, ":id", 1],
    [":db/add", 2, ":db/ident", ":a"],
    [":db/add", 3, ":db/ident", ":k/b"],
]
REFERENCES: dict[int, list[Any]] = {
    1: [[":id", "a"], [Keyword("id"), "a"]],
    2: [[":id", 1], Keyword("a")],
    3: [Keyword("k/b")],
}

INSTANT = datetime(2024, 5, 6, tzinfo=UTC)
VALUES: list[Any] = [
    *(0, 1, 2, True, False, 0.0, 1.0, 2.5, "a", "b", "1"),
    *(Keyword("a"), Keyword("k/b"), INSTANT, (1, "a"), (True, "a"), 2**70),
    (Keyword("id"), "a"),
]
# Drawn more often than others, so that values meet.
COMMON: list[Any] = [1, 1, True, 1.0, "a", Keyword("a")]
ENTITIES = [1, 2, 3, 4]
# One value to Python, three to a database.
TWINS: list[Any] = [1, True, 1.0]
ATTRIBUTES = [Keyword(name) for name in SCHEMA if name != ":id"]
REFS = [Keyword(":ref"), Keyword(":refs")]
# ?e … stand for entities as a rule, ?v … for other values.
VARIABLES = [Symbol(f"?{name}") for name in ("e", "v", "f", "w", "g")]
BLANK = Symbol("_")
OTHER = Symbol("$b")

values = st.sampled_from(VALUES + COMMON * 4)
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
    kind = ":db/add" if draw(st.integers(0, 6)) else ":db/retract"
    return [kind, draw(entities), ":" + attribute.text, draw(value_of(attribute))]


histories = st.lists(st.lists(operations(), min_size=5, max_size=14), min_size=1, max_size=4).map(
    lambda history: [[*NAMED, *history[0]], *history[1:]]
)


def facts_of(history: list[list[Any]]) -> list[tuple[Any, ...]]:
    """Return what is true in the end, near enough to make queries that find something."""
    facts: dict[Any, tuple[Any, ...]] = {}
    for kind, e, name, v in (op for operations in history for op in operations):
        many = ":db/cardinality" in SCHEMA.get(name, {})
        key = (e, name, typed_key(v)) if many else (e, name)
        v = Keyword(v) if name == ":db/ident" else v
        if kind == ":db/add":
            facts[key] = (e, Keyword(name), v)
        else:
            facts.pop(key, None)
    return list(facts.values())


class Witness:
    """The facts, and one value for each variable that the clauses so far allow."""

    def __init__(self, facts: list[tuple[Any, ...]]) -> None:
        self.facts = facts
        self.env: dict[Symbol, Any] = {}

    def term(self, draw: st.DrawFn, value: Any, pool: list[Symbol]) -> Symbol:
        """Return a variable for a value: one that has it, or one without a value yet."""
        key = typed_key(value)
        known = [v for v in pool if v in self.env and typed_key(self.env[v]) == key]
        fresh = [v for v in pool if v not in self.env]
        if not known and not fresh:
            return draw(st.sampled_from(pool))
        variable = draw(st.sampled_from(known * 3 + fresh))
        self.env[variable] = value
        return variable

    def joined(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return the rows that share a value with a variable, or all where none does."""
        known = {typed_key(v) for v in self.env.values()}
        return [r for r in rows if not known.isdisjoint(map(typed_key, r))] or rows


@dataclass
class Generated:
    """A query as data, with what it is given beside the database."""

    find: list[Any]
    where: list[Any]
    ins: list[Any] = field(default_factory=lambda: [Symbol("$")])
    inputs: list[Any] = field(default_factory=list)
    rules: list[Any] = field(default_factory=list)
    with_: list[Any] = field(default_factory=list)
    kind: str = "relation"
    # Indexes of all find elements, each with whether it descends; then the part that is wanted.
    order: list[tuple[int, bool]] = field(default_factory=list)
    offset: int = 0
    limit: int | None = None


# -- clauses -----------------------------------------------------------------------------------


@st.composite
def named(draw: st.DrawFn, entity: Any, likely: int = 5) -> Any:
    """An entity's id as it is, or what names the entity."""
    if type(entity) is not int or entity not in REFERENCES or draw(st.integers(0, 9)) >= likely:
        return entity
    return draw(st.sampled_from(REFERENCES[entity]))


def fitting(pool: list[Symbol], entity: bool) -> st.SearchStrategy[Symbol]:
    """A variable that usually stands for such a value, and sometimes any."""
    fit = [v for v in pool if (v.name[1] in "efgxyz") is entity] or pool
    return st.sampled_from(fit * 6 + pool)


@st.composite
def patterns(
    draw: st.DrawFn, pool: list[Symbol], witness: Witness | None = None
) -> tuple[list[Any], set[Symbol]]:
    """A pattern; with a witness usually one that it satisfies."""
    guided = witness is not None and bool(witness.facts) and draw(st.integers(0, 9)) < 9
    e: Any
    a: Any
    v: Any
    if guided:
        assert witness is not None
        fact = draw(st.sampled_from(witness.joined(witness.facts)))
        e, a, v = (fact[0], fact[1], fact[2])
        e = witness.term(draw, e, pool) if draw(st.integers(0, 9)) < 8 else e
        if draw(st.integers(0, 9)) < 7:
            v = witness.term(draw, v, pool)
        elif typed_key(v) in map(typed_key, TWINS):
            v = draw(st.sampled_from([v, *TWINS]))
        if draw(st.integers(0, 14)) == 14:
            a = witness.term(draw, a, pool)
    else:
        e, a, v = draw(fitting(pool, True)), draw(attributes), draw(st.sampled_from(pool))
        if draw(st.integers(0, 9)) == 9:
            v = draw(values)
    if isinstance(v, tuple):
        v = BLANK  # a tuple in the place of a value is read as a lookup ref
    e = draw(named(e))
    if a in REFS:
        v = draw(named(v))
    if draw(st.integers(0, 11)) == 11:
        e = BLANK
    if draw(st.integers(0, 11)) == 11:
        v = BLANK
    clause = [e, a, v]
    kind = draw(st.integers(0, 19))
    if kind == 19:
        clause.append(draw(fitting(pool, False)))
    elif kind >= 16:
        clause += [BLANK, draw(st.one_of(fitting(pool, False), st.just(True), st.just(False)))]
    elif kind >= 12 and v is BLANK:
        clause.pop()
    if not any(t in pool for t in clause if isinstance(t, Symbol)):
        clause[0] = draw(fitting(pool, True))
    return clause, {t for t in clause if isinstance(t, Symbol) and t.name[0] == "?"}


PREDICATES = ["=", "!=", "not=", "<", ">", "<=", ">=", "number?", "string?", "odd?", "keyword?"]
UNARY = {"number?", "string?", "odd?", "keyword?"}


OPPOSITE = {"=": "!=", "!=": "=", "not=": "=", "<": ">=", ">": "<=", "<=": ">", ">=": "<"}


@st.composite
def predicates(draw: st.DrawFn, bound: list[Symbol], witness: Witness | None = None) -> list[Any]:
    name = draw(st.sampled_from(PREDICATES))
    args: list[Any] = [draw(st.sampled_from(bound))]
    if name not in UNARY:
        plain = [v for v in VALUES if not isinstance(v, tuple)]
        near = None if witness is None else witness.env.get(args[0])
        if type(near) in (int, str) and draw(st.booleans()):
            # Just below, at, or just above what it is.
            around = [near - 1, near, near + 1] if type(near) is int else ["a", "ab", near]
            args.append(draw(st.sampled_from(around)))
        else:
            args.append(draw(st.one_of(st.sampled_from(bound), st.sampled_from(plain))))
        if draw(st.booleans()):
            args.reverse()
    if witness is not None and draw(st.integers(0, 9)) < 8:
        try:
            holds = BUILTINS[name](*(witness.env.get(a, a) for a in args))
        except TypeError:
            holds = False
        name = name if holds else OPPOSITE.get(name, "=")
        if not holds and name == "=":
            args = [args[0], args[0]]
    return [(Symbol(name), *args)]


@st.composite
def ranges(draw: st.DrawFn, pool: list[Symbol], witness: Witness) -> tuple[list[Any], set[Symbol]]:
    """A pattern over an indexed attribute, and comparisons that bound its value."""
    indexed = [f for f in witness.facts if f[1].text in ("long", "text")]
    if not indexed:
        return [], set()
    e, a, v = draw(st.sampled_from(indexed))
    clause = [witness.term(draw, e, pool), a, witness.term(draw, v, pool)]
    around = [v - 1, v, v + 1] if type(v) is int else ["", "a", "ab", v, "z"]
    out = [clause]
    for _ in range(draw(st.integers(1, 2))):
        args = [clause[2], draw(st.sampled_from(around))]
        if draw(st.booleans()):
            args.reverse()
        out.append([(Symbol(draw(st.sampled_from(["<", "<=", "<=", ">", ">=", "="]))), *args)])
    return out, {clause[0], clause[2]}


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
def bodies(
    draw: st.DrawFn, pool: list[Symbol], outer: list[Symbol], witness: Witness | None = None
) -> list[Any]:
    """A small conjunction that touches a variable of ``outer``, for use inside not and or."""
    first, found = draw(patterns(pool, witness))
    if not found & set(outer):
        first[0] = draw(st.sampled_from(outer))
        found = {t for t in first if t in pool or t in outer}
    body = [first]
    if draw(st.integers(0, 3)) == 0:
        body.append(draw(patterns(sorted(found, key=repr), witness))[0])
    if draw(st.integers(0, 3)) == 0:
        body.append(draw(predicates(sorted(found, key=repr), witness)))
    return body


@st.composite
def negations(draw: st.DrawFn, bound: list[Symbol], pool: list[Symbol]) -> Any:
    if draw(st.booleans()):
        return (Symbol("not"), *draw(bodies(bound, bound)))
    outer = draw(st.sampled_from(bound))
    # Variables beside the head are the negation's own, also where they have an outer namesake.
    return (Symbol("not-join"), [outer], *draw(bodies(pool, [outer])))


@st.composite
def choices(
    draw: st.DrawFn, bound: list[Symbol], pool: list[Symbol], witness: Witness
) -> tuple[Any, set[Any]]:
    outer = draw(st.sampled_from(bound))
    shared = sorted({outer, draw(st.sampled_from(pool))}, key=repr)
    count = draw(st.integers(1, 3))
    branches = []
    join = draw(st.booleans())
    for _ in range(count):
        body = draw(bodies(pool if join else shared, [outer], witness))
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
W = Symbol("?w")
PATH, LINK, EVEN, ODD, FAR, OWN = map(Symbol, ("path", "link", "even", "odd", "far", "own"))
HAND = Symbol("hand")


HANDED: list[Any] = [
    lambda a: [[X, a, Z], (HAND, Z, Y, W)],
    lambda a: [(HAND, X, Z, W), [Z, a, Y]],
    lambda a: [(HAND, X, Z, W), (HAND, Z, Y, W)],
    lambda a: [(LINK, X, Z), (HAND, Z, Y, W)],
    lambda a: [(HAND, Y, X, W)],
]


@st.composite
def rule_sets(draw: st.DrawFn) -> list[Any]:
    """A set of rules of two arguments each, recursive in one of several ways, and their names."""
    edge = draw(st.sampled_from(REFS))
    # Often the same: then the rule is the closure of one attribute.
    other = draw(st.sampled_from([edge, edge, *REFS, Keyword("any")]))
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
        # ?w is the caller's
        [(HAND, X, Y, W), [X, edge, Y]],
        [(HAND, X, Y, W), *draw(st.permutations(draw(st.sampled_from(HANDED))(other)))],
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
def rule_calls(
    draw: st.DrawFn, rules: list[Any], pool: list[Symbol], witness: Witness, bound: set[Symbol]
) -> tuple[Any, set[Any]]:
    name = draw(st.sampled_from(sorted({rule[0][0] for rule in rules}, key=repr)))
    source = Symbol("$")
    facts = [(*f, 0, True) for f in witness.facts]
    rows = [row[:2] for row in Oracle({source: facts}, rules, [source]).extension(source, name)]
    # What the rule leaves to its caller: a constant, or what has a value already.
    known = [*sorted(bound, key=repr) * 2, 1, "a", Keyword("a"), [":id", "a"]]
    handed = [draw(st.sampled_from(known))] if name is HAND else []
    if rows and draw(st.integers(0, 9)) < 9:
        row = draw(st.sampled_from(witness.joined(rows)))
        args = [witness.term(draw, value, pool) for value in row]
        kind = draw(st.integers(0, 4))
        if kind == 4 and not isinstance(row[1], tuple):
            args[1] = draw(st.one_of(named(row[1]), st.just(BLANK)))
        elif kind == 3 and not isinstance(row[0], tuple):
            args[0] = draw(named(row[0]))
        return (name, *args, *handed), {a for a in args if isinstance(a, Symbol) and a in pool}
    variable = fitting(pool, True)
    term = st.one_of(variable, variable, variable, entities, st.just(BLANK))
    args: list[Any] = [draw(term), draw(term)]
    if not {a for a in args if a in pool}:
        args[0] = draw(st.sampled_from(pool))
    return (name, *args, *handed), {a for a in args if a in pool}


# -- queries -----------------------------------------------------------------------------------


@st.composite
def inputs(draw: st.DrawFn, pool: list[Symbol], witness: Witness) -> tuple[Any, Any, set[Any]]:
    """A form of ``:in`` and its value, usually with what the witness has."""
    a, b = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
    plain = st.one_of(entities, values)

    def one(variable: Symbol) -> Any:
        known = witness.env.get(variable)
        found = draw(plain) if known is None or draw(st.integers(0, 5)) == 5 else known
        return draw(named(found))

    def some() -> list[Any]:
        return draw(st.lists(plain, max_size=3))

    kind = draw(st.integers(0, 3))
    if kind == 0:
        return a, one(a), {a}
    if kind == 1:
        return [a, Symbol("...")], [*some(), one(a)], {a}
    if kind == 2:
        return [a, b], [one(a), one(b)], {a, b}
    return [[a, b]], [*((x, draw(plain)) for x in some()), (one(a), one(b))], {a, b}


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
def queries(draw: st.DrawFn, facts: list[tuple[Any, ...]]) -> Generated:
    pool = VARIABLES[: draw(st.integers(3, 5))]
    witness = Witness(facts)
    out = Generated([], [])
    bound: set[Symbol] = set()
    with_rules = draw(st.booleans())
    if with_rules:
        out.rules = draw(rule_sets())
    where = out.where
    for _ in range(draw(st.integers(1, 3))):
        if with_rules and draw(st.booleans()):
            clause, found = draw(rule_calls(out.rules, pool, witness, bound))
        else:
            clause, found = draw(patterns(pool, witness))
        where.append(clause)
        bound |= found
    if draw(st.integers(0, 4)) == 4:
        clauses, found = draw(ranges(pool, witness))
        where += clauses
        bound |= found
    if draw(st.integers(0, 3)) == 3:
        form, value, found = draw(inputs(pool, witness))
        out.ins.append(form)
        out.inputs.append(value)
        bound |= found
    if with_rules:
        out.ins.append(Symbol("%"))
    if facts and draw(st.integers(0, 4)) == 4:
        # Some patterns read a plain collection of tuples instead.
        out.ins.append(OTHER)
        out.inputs.append(facts)
        for i, clause in enumerate(where):
            if isinstance(clause, list) and len(clause) == 3 and draw(st.booleans()):
                where[i] = [OTHER, *clause]
    for _ in range(draw(st.integers(0, 2))):
        ordered = sorted(bound, key=repr)
        kind = draw(st.sampled_from(["predicate", "function", "lookup", "not", "or", "or"]))
        found = set()
        if kind == "predicate":
            clause = draw(predicates(ordered, witness))
        elif kind == "function":
            # Fresh names first: a target that has a value already rarely agrees.
            fresh = [v for v in VARIABLES if v not in bound]
            clause, found = draw(functions(ordered, fresh * 4 + pool))
        elif kind == "lookup":
            fresh = [v for v in VARIABLES if v not in bound]
            clause, found = draw(lookups(ordered, fresh * 4 + pool))
        elif kind == "not":
            clause = draw(negations(ordered, pool))
        else:
            clause, found = draw(choices(ordered, pool, witness))
        where.append(clause)
        bound |= found
    out.where = draw(st.permutations(where))
    ordered = sorted(bound, key=repr)
    out.find = list(draw(st.lists(st.sampled_from(ordered), min_size=1, max_size=3, unique=True)))
    rest = [v for v in ordered if v not in out.find]
    if draw(st.integers(0, 4)) == 4:
        target = draw(st.sampled_from(ordered))
        plain = [v for v in out.find if v is not target]
        out.find = [*plain, (*draw(st.sampled_from(AGGREGATES)), target)]
        rest = [v for v in ordered if v not in plain and v is not target]
    if rest and draw(st.integers(0, 4)) == 4:
        out.with_ = [draw(st.sampled_from(rest))]
    elif draw(st.integers(0, 3)) == 3:
        out.kind = draw(st.sampled_from(["collection", "tuple", "scalar"]))
        if out.kind != "tuple":
            out.find = out.find[-1:]
    elif not any(isinstance(e, tuple) for e in out.find) and draw(st.integers(0, 3)) == 3:
        order = draw(st.permutations(range(len(out.find))))
        out.order = [(i, draw(st.booleans())) for i in order]
        out.offset = draw(st.integers(0, 3))
        out.limit = draw(st.one_of(st.none(), st.integers(0, 4)))
    return out


@st.composite
def cases(draw: st.DrawFn, count: int) -> tuple[list[list[Any]], list[Generated]]:
    """A history of transactions, and some queries about it."""
    history = draw(histories)
    facts = facts_of(history)
    return history, [draw(queries(facts)) for _ in range(count)]
