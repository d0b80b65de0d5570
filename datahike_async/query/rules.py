"""Rule calls: what is bound flows in as a seed, what is found flows out as a relation.

A rule that does not reach itself is run like an ``or-join``. A recursive one is solved by tables:
one for each rule and set of bound arguments, holding the demands made and the answers found, run
again until neither grows. That ends on every finite database, cyclic or not, whatever the order of
clauses. A plain transitive closure, the most frequent case, is recognised and walked breadth first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError
from datahike_async.index.columns import Column
from datahike_async.query.ast import (
    BLANK,
    DEFAULT_SOURCE,
    Clause,
    Function,
    Not,
    Or,
    Predicate,
    RuleBranch,
    RuleCall,
    is_var,
)
from datahike_async.query.check import Checker
from datahike_async.query.closure import Linear, closure, linear_form
from datahike_async.query.relation import (
    Relation,
    column_of,
    distinct,
    equal_mask,
    semi,
    union,
)

if TYPE_CHECKING:
    from datahike_async.query.execute import Engine, State

__all__ = ["RuleSet", "Rules", "sourced"]

MAX_ROWS: Final = 50_000_000

_Key = tuple[Symbol, Symbol, tuple[int, ...]]


class _Table:
    """The demands made of one rule with certain arguments bound, and the answers so far."""

    __slots__ = ("answers", "demand")

    def __init__(self, demand: Relation, answers: Relation) -> None:
        self.demand = demand
        self.answers = answers


def position(i: int) -> Symbol:
    """Return the column name of a rule's i-th argument."""
    return Symbol(f"?__arg{i}")


class RuleSet:
    """Parsed rules, and what follows from them alone; kept for every query that brings them."""

    __slots__ = ("_linear", "branches", "checker", "recursive")

    def __init__(self, branches: Mapping[Symbol, tuple[RuleBranch, ...]]) -> None:
        self.branches = branches
        self.recursive = {name for name in branches if name in _reached(branches, name)}
        self.checker = Checker(branches)
        self._linear: dict[Symbol, Linear | None] = {}

    def linear(self, name: Symbol) -> Linear | None:
        """Return the closure that a recursive rule is, or None."""
        if name not in self._linear:
            self._linear[name] = linear_form(self.branches[name], self.recursive)
        return self._linear[name]


class Rules:
    """The rules of one engine."""

    def __init__(self, engine: Engine, known: RuleSet) -> None:
        self.engine = engine
        self.rules = known.branches
        self.known = known
        self._tables: dict[_Key, _Table] | None = None
        self._grown = False

    def branches(self, clause: RuleCall) -> tuple[RuleBranch, ...]:
        """Return the definitions of a called rule; raise QueryError for an unknown one."""
        found = self.rules.get(clause.name)
        if found is None:
            near = get_close_matches(clause.name.text, [n.text for n in self.rules], 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise QueryError(
                f"Unknown rule '{clause.name}' in {_shown(clause)}.{hint} Rules are passed as % "
                "in :in.",
                error=":query/where",
            )
        arity = len(found[0].head)
        if len(clause.args) != arity:
            raise QueryError(
                f"The rule {clause.name} takes {arity} arguments, {_shown(clause)} has "
                f"{len(clause.args)}.",
                error=":query/where",
            )
        return found

    def ready(self, clause: RuleCall, state: State) -> bool:
        """Whether the required arguments of a call are bound."""
        self.branches(clause)
        return self.known.checker.ready(clause, state.variables())

    async def call(self, clause: RuleCall, state: State) -> None:
        """Join the answers of a rule call into ``state``."""
        branches = self.branches(clause)
        if not self.ready(clause, state):
            missing = [a for a in clause.args if is_var(a) and not state.bound(a)]
            raise QueryError(
                f"Insufficient bindings: {', '.join(map(repr, missing))} not bound in "
                f"{_shown(clause)}, whose rule requires it.",
                error=":query/where",
            )
        seed, outer = self._seed(clause, state)
        answers = await self.answers(clause.source, clause.name, branches, seed)
        state.relations.append(outer)
        state.add(self._named(clause, answers, state))

    def _seed(self, clause: RuleCall, state: State) -> tuple[Relation, Relation]:
        variables = [a for a in clause.args if is_var(a) and a not in state.consts]
        bound = [v for v in dict.fromkeys(variables) if state.bound(v)]
        outer = state.take(bound)
        known = outer.project(bound)
        columns: dict[Symbol, Column] = {}
        for i, arg in enumerate(clause.args):
            if arg is BLANK:
                continue
            if is_var(arg) and arg not in state.consts:
                if arg in known.columns:
                    columns[position(i)] = known.columns[arg]
                continue
            value = state.consts.get(arg, arg) if is_var(arg) else arg
            constant = column_of([value])
            columns[position(i)] = constant.take(np.zeros(known.count, np.int64))
        return Relation(columns, known.count), outer

    def _named(self, clause: RuleCall, answers: Relation, state: State) -> Relation:
        """Return the answers under the caller's variables; repeated ones unify."""
        columns: dict[Symbol, Column] = {}
        mask = np.ones(answers.count, np.bool_)
        for i, arg in enumerate(clause.args):
            if not is_var(arg) or arg in state.consts:
                continue
            column = answers.columns[position(i)]
            if arg in columns:
                mask &= equal_mask(columns[arg], column)
            else:
                columns[arg] = column
        if not columns:
            return Relation({}, 1 if answers.count else 0)
        return distinct(Relation(columns, answers.count).take(mask))

    # -- answers -------------------------------------------------------------------------------

    async def answers(
        self, source: Symbol, name: Symbol, branches: Sequence[RuleBranch], seed: Relation
    ) -> Relation:
        """Return what a rule holds for, restricted to the bound arguments in ``seed``."""
        if name not in self.known.recursive:
            parts = [await self._branch(source, branch, seed) for branch in branches]
            return union(parts, _positions(branches[0]))
        linear = self.known.linear(name)
        if linear is not None:
            found = await closure(self.engine, linear, source, seed)
            if found is not None:
                return found
        if not seed.count:
            return Relation({p: Column.of([]) for p in _positions(branches[0])}, 0)
        key = (source, name, _bound_positions(seed, branches[0]))
        if self._tables is not None:
            return self._ask(key, seed, branches[0])
        self._tables = {}
        try:
            self._ask(key, seed, branches[0])
            await self._solve()
            # The table also answers the demands that the recursion made.
            answers = self._tables[key].answers
            return semi(answers, seed, keep=True) if seed.columns else answers
        finally:
            self._tables = None

    def _ask(self, key: _Key, seed: Relation, branch: RuleBranch) -> Relation:
        """Add a demand to a table and return the answers it has so far."""
        assert self._tables is not None
        table = self._tables.get(key)
        if table is None:
            empty = Relation({p: Column.of([]) for p in _positions(branch)}, 0)
            self._tables[key] = _Table(distinct(seed), empty)
            self._grown = True
            return empty
        if seed.columns:
            demand = union([table.demand, seed], list(seed.columns))
            if demand.count > table.demand.count:
                table.demand = demand
                self._grown = True
        return semi(table.answers, seed, keep=True) if seed.columns else table.answers

    async def _solve(self) -> None:
        assert self._tables is not None
        self._grown = True
        while self._grown:
            self._grown = False
            for key, table in list(self._tables.items()):
                source, name, _ = key
                branches = self.rules[name]
                found = [await self._branch(source, b, table.demand) for b in branches]
                parts = [table.answers, *found]
                answers = union(parts, _positions(branches[0]))
                if answers.count > table.answers.count:
                    table.answers = answers
                    self._grown = True
                if answers.count > MAX_ROWS:
                    raise QueryError(
                        f"The rule {name} has given more than {MAX_ROWS} rows; it may be making "
                        "new values without end.",
                        error=":query/canceled",
                    )

    async def _branch(self, source: Symbol, branch: RuleBranch, seed: Relation) -> Relation:
        """Run one definition with what is bound and return its rows by argument position."""
        from datahike_async.query.execute import State

        columns: dict[Symbol, Column] = {}
        mask = np.ones(seed.count, np.bool_)
        for i, variable in enumerate(branch.head):
            column = seed.columns.get(position(i))
            if column is None:
                continue
            if variable in columns:
                mask &= equal_mask(columns[variable], column)
            else:
                columns[variable] = column
        start = Relation(columns, seed.count)
        if columns:
            start = distinct(start.take(mask))
        state = State({}, [start] if columns else [])
        clauses = [sourced(c, source) for c in branch.clauses]
        await self.engine.run(clauses, state, branch.head)
        head = list(dict.fromkeys(branch.head))
        found = state.whole([v for v in head if state.bound(v)]) if not state.empty else None
        if found is None or not found.count:
            return Relation({position(i): Column.of([]) for i in range(len(branch.head))}, 0)
        missing = [v for v in head if v not in found.columns]
        if missing:
            raise QueryError(
                f"The rule {branch.name} leaves {missing[0]!r} unbound.", error=":query/where"
            )
        named = {position(i): found.columns[v] for i, v in enumerate(branch.head)}
        return Relation(named, found.count)


def _positions(branch: RuleBranch) -> list[Symbol]:
    return [position(i) for i in range(len(branch.head))]


def _bound_positions(seed: Relation, branch: RuleBranch) -> tuple[int, ...]:
    return tuple(i for i in range(len(branch.head)) if position(i) in seed.columns)


def _shown(clause: RuleCall) -> str:
    return f"({clause.name} {' '.join(map(repr, clause.args))})"


def _reached(rules: Mapping[Symbol, Sequence[RuleBranch]], name: Symbol) -> set[Symbol]:
    """Return the rules that can be called from ``name``."""
    seen: set[Symbol] = set()
    stack = [name]
    while stack:
        for branch in rules.get(stack.pop(), ()):
            for called in _calls(branch.clauses):
                if called not in seen:
                    seen.add(called)
                    stack.append(called)
    return seen


def _calls(clauses: Sequence[Clause]) -> set[Symbol]:
    out: set[Symbol] = set()
    for clause in clauses:
        if isinstance(clause, RuleCall):
            out.add(clause.name)
        elif isinstance(clause, Not):
            out |= _calls(clause.clauses)
        elif isinstance(clause, Or):
            for branch in clause.branches:
                out |= _calls(branch)
    return out


def sourced(clause: Clause, source: Symbol) -> Clause:
    """Return a clause of a rule body, reading from the source the rule was called on."""
    if source.text == "$":
        return clause
    if isinstance(clause, Not):
        return replace(clause, clauses=tuple(sourced(c, source) for c in clause.clauses))
    if isinstance(clause, Or):
        branches = tuple(tuple(sourced(c, source) for c in b) for b in clause.branches)
        return replace(clause, branches=branches)
    if isinstance(clause, (Predicate, Function)):
        args = tuple(source if a is DEFAULT_SOURCE else a for a in clause.args)
        return replace(clause, args=args)
    return replace(clause, source=source) if clause.source is DEFAULT_SOURCE else clause
