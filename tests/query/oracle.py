"""A naive Datalog evaluator, written to be read: what the engine has to agree with.

A query is data (lists for vectors, tuples for lists, Symbols and Keywords), a source is a list of
``(e, attribute, value, tx, added)`` tuples. Conjunctions are nested loops over solutions, a
solution is a dict from variable to value, and rules are solved bottom up until nothing is added.
Values are equal where their type is: 1, True and 1.0 are three values.

What names an entity, as a constant or an input, is a ``Ref``: its id where an entity stands, and
what was given everywhere else. What data bind is none. Rules are solved for each ``Ref`` that there
is as an argument, beside those solutions that the data give.

Not covered: pull, rules that need a bound argument for more than handing it through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.query.builtins.table import BUILTINS, truthy
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet

Datom = tuple[Any, ...]
Solution = dict[Symbol, Any]

BLANK, DOTS = Symbol("_"), Symbol("...")
NOT, NOT_JOIN = Symbol("not"), Symbol("not-join")
OR, OR_JOIN, AND = Symbol("or"), Symbol("or-join"), Symbol("and")


WILD: Any = object()
"""What a rule says of an argument that it does not bind: anything goes."""


class Ref:
    """A constant or an input that may name an entity or an attribute."""

    def __init__(self, given: Any, scalar: bool = False) -> None:
        self.given = given
        # Whether it is the same in all solutions, so that it may name a reference attribute.
        self.scalar = scalar

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and typed_key(self.given) == typed_key(other.given)

    def __hash__(self) -> int:
        return hash(typed_key(self.given))

    def __repr__(self) -> str:
        return f"Ref({self.given!r})"


def referring(value: Any, scalar: bool = False) -> Any:
    """Return a constant or an input as a Ref where it may name something."""
    if type(value) in (Keyword, list, tuple) or (type(value) is str and value[:1] == ":"):
        return Ref(frozen(value), scalar)
    return value


def given(value: Any) -> Any:
    """Return a value as it is where no entity stands."""
    return value.given if isinstance(value, Ref) else value


class MissingError(Exception):
    """A reference names nothing."""


class UnboundError(Exception):
    """No clause can go on: its variables have no values."""


def same(a: Any, b: Any) -> bool:
    return bool(typed_key(given(a)) == typed_key(given(b)))


def is_var(term: Any) -> bool:
    return isinstance(term, Symbol) and term.name.startswith("?")


def is_source(term: Any) -> bool:
    return isinstance(term, Symbol) and term.name.startswith("$")


def distinct(rows: Iterable[Any]) -> list[Any]:
    return list({typed_key(row): row for row in rows}.values())


# -- the shape of clauses ----------------------------------------------------------------------


def kind_of(clause: Any) -> str:
    """Return call, not, or, rule or pattern."""
    if isinstance(clause, list):
        return "call" if isinstance(clause[0], tuple) else "pattern"
    head = clause[0]
    if head in (NOT, NOT_JOIN):
        return "not"
    return "or" if head in (OR, OR_JOIN, AND) else "rule"


def binding_vars(binding: Any) -> set[Symbol]:
    if isinstance(binding, list):
        return set().union(*map(binding_vars, binding))
    return {binding} if is_var(binding) else set()


def variables(clause: Any) -> set[Symbol]:
    """Return the variables that a clause shares with those around it."""
    kind = kind_of(clause)
    if kind == "pattern":
        return {t for t in clause if is_var(t)}
    if kind == "call":
        return {t for t in clause[0] if is_var(t)} | binding_vars(clause[1:])
    if kind == "rule":
        return {t for t in clause[1:] if is_var(t)}
    if clause[0] in (NOT_JOIN, OR_JOIN):
        return set(clause[1])
    return set().union(*map(variables, clause[1:]))


# -- clauses -----------------------------------------------------------------------------------


class Oracle:
    """One evaluation: its sources by name, and the rules.

    ``databases`` are the sources that are one; ``inputs`` are values that rules may be called with.
    """

    def __init__(
        self,
        sources: Mapping[Symbol, Sequence[Datom]],
        rules: Sequence[Any],
        databases: Iterable[Symbol] = (),
        refs: Iterable[Ref] = (),
    ) -> None:
        self.sources = sources
        self.rules = rules
        self.databases = set(databases)
        self.refs = list(dict.fromkeys(refs))
        self.extensions: dict[tuple[Symbol, Symbol], list[tuple[Any, ...]]] = {}

    def solve(self, clauses: Sequence[Any], env: Solution, source: Symbol) -> Iterator[Solution]:
        """Yield the solutions of a conjunction that extend ``env``."""
        if not clauses:
            yield env
            return
        i = self.next_clause(clauses, env)
        rest = [*clauses[:i], *clauses[i + 1 :]]
        for extended in self.step(clauses[i], env, source):
            yield from self.solve(rest, extended, source)

    def next_clause(self, clauses: Sequence[Any], env: Solution) -> int:
        """Return a clause whose turn it is: calls once they can, negation when nothing else can."""
        for wanted in ("call", "pattern", "rule", "or", "not"):
            for i, clause in enumerate(clauses):
                if kind_of(clause) != wanted:
                    continue
                if wanted == "call" and not {t for t in clause[0] if is_var(t)} <= env.keys():
                    continue
                return i
        raise UnboundError(clauses)

    def step(self, clause: Any, env: Solution, source: Symbol) -> Iterator[Solution]:
        """Yield the solutions of one clause that extend ``env``."""
        kind = kind_of(clause)
        if kind != "call" and is_source(clause[0]):
            source, clause = clause[0], clause[1:]
            kind = kind_of(clause)
        if kind == "pattern":
            terms = self.named(source, clause, env) if source in self.databases else clause
            for datom in self.sources[source]:
                if len(datom) >= len(terms):
                    yield from unify(terms, datom[: len(terms)], env)
        elif kind == "call":
            yield from self.call(clause, env, source)
        elif kind == "rule":
            args = [t if isinstance(t, Symbol) else referring(t, True) for t in clause[1:]]
            for row in self.extension(source, clause[0]):
                yield from answered(args, row, env)
        elif kind == "not":
            inner, body = env, clause[1:]
            if clause[0] is NOT_JOIN:
                inner, body = {v: env[v] for v in clause[1] if v in env}, clause[2:]
            if next(self.solve(list(body), inner, source), None) is None:
                yield env
        elif clause[0] is AND:
            yield from self.solve(list(clause[1:]), env, source)
        elif clause[0] is OR:
            for branch in clause[1:]:
                yield from self.solve([branch], env, source)
        else:
            head, branches = clause[1], clause[2:]
            inner = {v: env[v] for v in head if v in env}
            for branch in branches:
                for found in self.solve([branch], inner, source):
                    yield {**env, **{v: found[v] for v in head}}

    def call(self, clause: Any, env: Solution, source: Symbol) -> Iterator[Solution]:
        """Yield what a predicate lets through, or what a function binds."""
        function, *terms = clause[0]
        name = function.text
        if name in ("get-else", "missing?") and terms[0] in self.databases:
            value = env[terms[1]] if is_var(terms[1]) else referring(terms[1])
            terms[1] = self.entity(terms[0], value)
        args = [given(env[t]) if is_var(t) else t for t in terms]
        if name in ("get-else", "missing?"):
            datoms = self.sources[args[0]]
            found = sorted(
                (d[2] for d in datoms if same(d[0], args[1]) and d[1] is args[2]), key=sort_key
            )
            value = not found if name == "missing?" else found[0] if found else args[3]
        else:
            try:
                value = BUILTINS[name](*args)
            except TypeError:
                if len(clause) == 1:
                    return
                raise
        if len(clause) == 1:
            if truthy(value):
                yield env
        elif value is not None:
            yield from bind(clause[1], value, env)

    # -- references ------------------------------------------------------------------------------

    def named(self, source: Symbol, clause: Sequence[Any], env: Solution) -> list[Any]:
        """Return a pattern with ids and keywords where references stand for them."""
        values = [env.get(t, t) if isinstance(t, Symbol) else referring(t, True) for t in clause]
        terms = list(clause)
        if isinstance(values[0], Ref):
            terms[0] = self.entity(source, values[0])
        attribute = values[1] if len(terms) > 1 else None
        if isinstance(attribute, Ref) and isinstance(attribute.given, (str, Keyword)):
            terms[1] = Keyword(attribute.given)
            said = attribute.scalar and attribute.given in REFERENCES
            if len(terms) > 2 and said and isinstance(values[2], Ref):
                terms[2] = self.entity(source, values[2])
        return [t if isinstance(t, Symbol) else given(t) for t in terms]

    def entity(self, source: Symbol, value: Any) -> Any:
        """Return the entity that a value names."""
        if not isinstance(value, Ref):
            return value
        found = resolve(self.sources[source], value.given)
        if found is None:
            raise MissingError(value)
        return found

    # -- rules -----------------------------------------------------------------------------------

    def extension(self, source: Symbol, name: Symbol) -> list[tuple[Any, ...]]:
        """Return all rows of a rule over a source; while it is being found, those so far."""
        key = (source, name)
        if key not in self.extensions:
            # What this rule calls is found together with it, again and again until nothing grows.
            group = self.called(name)
            for called in group:
                self.extensions.setdefault((source, called), [])
            grown = True
            while grown:
                grown = False
                for called in group:
                    rows = distinct(self.rows(source, called))
                    grown |= len(rows) > len(self.extensions[source, called])
                    self.extensions[source, called] = rows
        return self.extensions[key]

    def rows(self, source: Symbol, name: Symbol) -> Iterator[tuple[Any, ...]]:
        yield from self.extensions[source, name]
        for (head, *variables_), *body in self.rules:
            if head is name:
                for env in self.calls(variables_):
                    try:
                        solutions = list(self.solve(body, env, source))
                    except MissingError:
                        continue  # nobody has to call it with this
                    for found in solutions:
                        row = tuple(found.get(v, WILD) for v in variables_)
                        yield from self.seen(source, variables_, row)

    def seen(
        self, source: Symbol, head: Sequence[Symbol], row: tuple[Any, ...]
    ) -> Iterator[tuple[Any, ...]]:
        """Yield a row; of a variable that its head has twice, one is seen as an entity too.

        And as all else that names this entity.
        """
        yield row
        for i, variable in enumerate(head):
            if head.count(variable) > 1 and isinstance(row[i], Ref):
                entity = resolve(self.sources[source], row[i].given)
                names = [ref for ref in self.refs if self.names(source, ref, entity)]
                for other in (entity, *names):
                    yield (*row[:i], other, *row[i + 1 :])

    def names(self, source: Symbol, ref: Ref, entity: int | None) -> bool:
        return entity is not None and resolve(self.sources[source], ref.given) == entity

    def calls(self, variables_: Sequence[Symbol]) -> Iterator[Solution]:
        """Yield what may be given for the arguments of a rule: nothing, or a reference."""
        names = list(dict.fromkeys(variables_))
        for values in product([None, *self.refs], repeat=len(names)):
            yield {v: x for v, x in zip(names, values, strict=True) if x is not None}

    def called(self, name: Symbol) -> list[Symbol]:
        """Return the rules that take part in a recursion with ``name``, itself included.

        Others are complete before they are asked for, which negation relies on.
        """

        def reach(start: Symbol) -> set[Symbol]:
            seen: set[Symbol] = set()
            todo = [start]
            while todo:
                for called in self.direct(todo.pop()):
                    if called not in seen:
                        seen.add(called)
                        todo.append(called)
            return seen

        return [name, *(n for n in reach(name) if n is not name and name in reach(n))]

    def direct(self, name: Symbol) -> set[Symbol]:
        names = {rule[0][0] for rule in self.rules}

        def within(form: Any) -> Iterator[Symbol]:
            if isinstance(form, (list, tuple)):
                for item in form:
                    yield from within(item)
            elif form in names:
                yield form

        return {n for rule in self.rules if rule[0][0] is name for n in within(rule[1:])}


def answered(args: Sequence[Any], row: Sequence[Any], env: Solution) -> Iterator[Solution]:
    """Yield ``env`` extended by an answer of a rule, where it was given the same references."""
    terms, values = [], []
    for arg, value in zip(args, row, strict=True):
        if value is WILD:
            continue
        asked = env.get(arg, arg) if isinstance(arg, Symbol) else arg
        if isinstance(asked, Ref) or isinstance(value, Ref):
            if asked != value:
                return
            continue
        terms.append(arg)
        values.append(value)
    yield from unify(terms, values, env)


REFERENCES = [Keyword("ref"), Keyword("refs"), ":ref", ":refs"]


def resolve(datoms: Iterable[Datom], form: Any) -> int | None:
    """Return the entity that an ident or a lookup ref names among datoms, or None."""
    if isinstance(form, (Keyword, str)):
        key, value = Keyword("db/ident"), Keyword(form)
    else:
        if len(form) != 2 or not isinstance(form[0], (Keyword, str)) or Keyword(form[0]) is not ID:
            return None
        key, value = ID, form[1]
    return min((d[0] for d in datoms if d[1] is key and same(d[2], value)), default=None)


ID = Keyword("id")


def unify(terms: Sequence[Any], row: Sequence[Any], env: Solution) -> Iterator[Solution]:
    """Yield ``env`` with the variables among ``terms`` bound to ``row``, if they agree."""
    out = dict(env)
    for term, value in zip(terms, row, strict=True):
        if term is BLANK:
            continue
        if is_var(term) and term not in out:
            out[term] = value
        elif not same(out[term] if is_var(term) else term, value):
            return
    yield out


def bind(binding: Any, value: Any, env: Solution) -> Iterator[Solution]:
    """Yield the solutions of destructuring ``value``."""
    if not isinstance(binding, list):
        yield from unify([binding], [frozen(value)], env)
    elif len(binding) == 2 and binding[1] is DOTS:
        for item in value:
            yield from bind(binding[0], item, env)
    elif len(binding) == 1 and isinstance(binding[0], list):
        for row in value:
            yield from bind(binding[0], row, env)
    else:
        found = [env]
        for part, item in zip(binding, value, strict=False):
            found = [e for old in found for e in bind(part, item, old)]
        yield from found


def frozen(value: Any) -> Any:
    """Return a collection as the tuple that a variable holds."""
    return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value


# -- whole queries -----------------------------------------------------------------------------


def aggregate(form: tuple[Any, ...], values: list[Any]) -> Any:
    name, *args = form[:-1]
    ordered = sorted(values, key=sort_key)
    match name.text:
        case "count":
            return len(values)
        case "count-distinct":
            return len(distinct(values))
        case "sum":
            return sum(values)
        case "avg":
            return sum(values) / len(values)
        case "min":
            return ordered[: args[0]] if args else ordered[0]
        case "max":
            return ordered[-args[0] :] if args else ordered[-1]
        case "distinct":
            return ValueSet(values)
    raise NotImplementedError(name)


def evaluate(
    find: Sequence[Any],
    where: Sequence[Any],
    *,
    ins: Sequence[Any] = (Symbol("$"),),
    inputs: Sequence[Any] = (),
    with_: Sequence[Symbol] = (),
    rules: Sequence[Any] = (),
) -> list[tuple[Any, ...]]:
    """Return the rows of ``:find ?a (count ?b) …``: distinct, without order.

    With ``with_`` and no aggregates a row comes once for every value of those variables.
    """
    sources = {s: x for s, x in zip(ins, inputs, strict=True) if is_source(s)}
    envs: list[Solution] = [{}]
    for form, value in zip(ins, inputs, strict=True):
        if not is_source(form):
            scalar = not isinstance(form, list)
            bound = [e for env in envs for e in bind(form, value, env)]
            names = binding_vars(form)
            envs = [
                {v: referring(x, scalar) if v in names else x for v, x in env.items()}
                for env in bound
            ]
    refs = [x for env in envs for x in env.values() if isinstance(x, Ref)]
    names = {rule[0][0] for rule in rules}
    refs += [Ref(frozen(x), True) for form in (where, rules) for x in written(form, names)]
    oracle = Oracle(sources, rules, [Symbol("$")], refs)
    found = [s for env in envs for s in oracle.solve(where, env, Symbol("$"))]
    solutions = [{v: given(x) for v, x in s.items()} for s in found]
    wanted = [e[-1] if isinstance(e, tuple) else e for e in find]
    bag = distinct(tuple(s[v] for v in (*wanted, *with_)) for s in solutions)
    if not any(isinstance(e, tuple) for e in find):
        return [row[: len(find)] for row in bag]
    plain = [i for i, e in enumerate(find) if not isinstance(e, tuple)]
    groups: dict[Any, list[tuple[Any, ...]]] = {}
    for row in bag:
        groups.setdefault(typed_key(tuple(row[i] for i in plain)), []).append(row)
    return [
        tuple(
            aggregate(e, [row[i] for row in rows]) if isinstance(e, tuple) else rows[0][i]
            for i, e in enumerate(find)
        )
        for rows in groups.values()
    ]


def written(form: Any, names: set[Symbol]) -> Iterator[Any]:
    """Yield the arguments of rule calls that may be references."""
    if isinstance(form, (list, tuple)):
        called = isinstance(form, tuple) and form and form[0] in names
        for item in form:
            if called and type(item) in (Keyword, list):
                yield item
            yield from written(item, names)


# -- databases ---------------------------------------------------------------------------------


def state(log: Iterable[Datom], as_of: int | None = None, since: int = -1) -> list[Datom]:
    """Return what is true after a log of datoms, up to ``as_of``, asserted after ``since``."""
    live: dict[Any, Datom] = {}
    for e, a, v, tx, added in log:
        if as_of is not None and tx > as_of:
            continue
        key = (e, a, typed_key(v))
        if added:
            live.setdefault(key, (e, a, v, tx, True))
        else:
            live.pop(key, None)
    return [datom for datom in live.values() if datom[3] > since]
