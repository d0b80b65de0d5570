"""A naive Datalog evaluator, written to be read: what the engine has to agree with.

A query is data (lists for vectors, tuples for lists, Symbols and Keywords), a source is a list of
``(e, attribute, value, tx, added)`` tuples. Conjunctions are nested loops over solutions, a
solution is a dict from variable to value, and rules are solved bottom up until nothing is added.
Values are equal where their type is: 1, True and 1.0 are three values.

Not covered: lookup refs and idents, pull, rules that need a bound argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from datahike_async.edn.types import Symbol
from datahike_async.query.builtins import BUILTINS, truthy
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet

Datom = tuple[Any, ...]
Solution = dict[Symbol, Any]

BLANK, DOTS = Symbol("_"), Symbol("...")
NOT, NOT_JOIN = Symbol("not"), Symbol("not-join")
OR, OR_JOIN, AND = Symbol("or"), Symbol("or-join"), Symbol("and")


class UnboundError(Exception):
    """No clause can go on: its variables have no values."""


def same(a: Any, b: Any) -> bool:
    return bool(typed_key(a) == typed_key(b))


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
    """One evaluation: its sources by name, and the rules."""

    def __init__(self, sources: Mapping[Symbol, Sequence[Datom]], rules: Sequence[Any]) -> None:
        self.sources = sources
        self.rules = rules
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
            for datom in self.sources[source]:
                if len(datom) >= len(clause):
                    yield from unify(clause, datom[: len(clause)], env)
        elif kind == "call":
            yield from self.call(clause, env, source)
        elif kind == "rule":
            for row in self.extension(source, clause[0]):
                yield from unify(clause[1:], row, env)
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
        args = [env[t] if is_var(t) else t for t in terms]
        name = function.text
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
                for found in self.solve(body, {}, source):
                    yield tuple(found[v] for v in variables_)

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
    oracle = Oracle(sources, rules)
    envs: list[Solution] = [{}]
    for form, value in zip(ins, inputs, strict=True):
        if not is_source(form):
            envs = [e for env in envs for e in bind(form, value, env)]
    solutions = [s for env in envs for s in oracle.solve(where, env, Symbol("$"))]
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
