"""Running the clauses of a query: one relation after another, the cheapest clause next.

A conjunction is a set of relations over disjoint variables and the constants that ``:in`` gave.
The order in which clauses are written never matters: whichever is ready and cheapest runs next,
and what can never become ready is an error. Everything here is synchronous but for missing nodes,
asynchronous functions, and the pauses that the caller asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as Collection
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.index.columns import Column
from datahike_async.query.ast import (
    Clause,
    Function,
    Not,
    Or,
    Pattern,
    Predicate,
    RuleCall,
    is_var,
)
from datahike_async.query.estimate import estimate, fetch_attributes, read_whole
from datahike_async.query.functions import Functions
from datahike_async.query.patterns import match_pattern
from datahike_async.query.relation import Relation, column_of, join, semi, union, unit
from datahike_async.query.rules import Rules
from datahike_async.query.ruleset import RuleSet
from datahike_async.query.where import variables_of
from datahike_async.snapshot.views import View

__all__ = ["Engine", "State"]

Pause = Callable[[], Awaitable[None]]

# The cost of what only takes rows away and cannot fail.
_AT_ONCE: Final = -3.0
# Fewer rows than this are cheaper to carry along than to make distinct.
_WORTH: Final = 256


class State:
    """What is known so far in one conjunction."""

    __slots__ = ("consts", "relations")

    def __init__(self, consts: Mapping[Symbol, Any], relations: Sequence[Relation] = ()) -> None:
        self.consts = consts
        self.relations: list[Relation] = list(relations)

    def bound(self, variable: Symbol) -> bool:
        """Whether a variable has a value."""
        return variable in self.consts or any(variable in r.columns for r in self.relations)

    def variables(self) -> set[Symbol]:
        """Return all variables that have a value."""
        return {*self.consts, *(v for relation in self.relations for v in relation.columns)}

    def column_of(self, variable: Symbol) -> Column | None:
        """Return the column of a variable that is no constant."""
        for relation in self.relations:
            found = relation.columns.get(variable)
            if found is not None:
                return found
        return None

    def take(self, variables: Sequence[Symbol]) -> Relation:
        """Remove the relations that hold any of ``variables`` and return their product."""
        wanted: list[Relation] = []
        others: list[Relation] = []
        for relation in self.relations:
            (wanted if not relation.columns.keys().isdisjoint(variables) else others).append(
                relation
            )
        self.relations = others
        out = wanted[0] if wanted else unit()
        for relation in wanted[1:]:
            out = join(out, relation)
        return out

    def add(self, relation: Relation) -> None:
        """Join a relation with those that share its variables."""
        if relation.columns:
            relation = join(self.take(list(relation.columns)), relation)
            self.relations.append(relation)
        elif not relation.count:
            self.relations.append(relation)

    def keep(self, variables: Collection[Symbol]) -> None:
        """Forget the columns of other variables, where there are enough rows to be worth it."""
        for i, relation in enumerate(self.relations):
            if relation.count > _WORTH and not variables >= relation.columns.keys():
                self.relations[i] = relation.project(variables)

    @property
    def empty(self) -> bool:
        """Whether no row can come of it any more."""
        return any(not r.count for r in self.relations)

    def whole(self, variables: Sequence[Symbol]) -> Relation:
        """Return the distinct rows over ``variables``, constants included."""
        if self.empty:
            none = {v: Column.of([]) for v in variables}
            return Relation(none, 0)
        out = unit()
        columns = [v for v in variables if v not in self.consts]
        for relation in self.relations:
            out = join(out, relation.project(columns))
        for variable in variables:
            if variable in self.consts:
                constant = column_of([self.consts[variable]])
                out = out.with_column(variable, constant.take(np.zeros(out.count, np.int64)))
        return out


class Engine:
    """One run of one query: its sources, rules and functions."""

    def __init__(
        self,
        sources: Mapping[Symbol, Any],
        views: Mapping[Symbol, View],
        rules: RuleSet,
        functions: Mapping[Symbol, Any],
        pause: Pause | None = None,
    ) -> None:
        self.sources = sources
        self.views = views
        self.rules = Rules(self, rules)
        self.functions = Functions(self, functions)
        self.pause = pause
        # Whether the attributes that the query reads whole were asked for together already.
        self._ahead = False

    def source(self, name: Symbol) -> Any:
        """Return the view, or the collection of tuples, that a source names."""
        found = self.views.get(name)
        if found is not None:
            return found
        if name in self.sources:
            return self.sources[name]
        raise QueryError(
            f"The source {shown(name)} is used in :where and not given in :in.",
            error=":query/where",
        )

    async def run(
        self, clauses: Sequence[Clause], state: State, wanted: Sequence[Symbol] | None = None
    ) -> State:
        """Carry out ``clauses`` on ``state`` and return it.

        Of variables that are neither ``wanted`` nor in a clause to come the values may be dropped.
        """
        todo = list(clauses)
        while todo:
            if state.empty:
                return state
            at = self._next(todo, state) if len(todo) > 1 else 0
            if wanted is not None and _multiplies(todo[at], state):
                state.keep({*wanted, *variables_of(todo)})
            clause = todo.pop(at)
            await self._one(clause, state, todo)
            if self.pause is not None:
                await self.pause()
        return state

    # -- the order -----------------------------------------------------------------------------

    def _next(self, todo: list[Clause], state: State) -> int:
        best, best_cost = -1, float("inf")
        waiting: int | None = None
        for i, clause in enumerate(todo):
            cost = self._cost(clause, state, todo)
            if cost is None:
                waiting = i if waiting is None else waiting
            elif cost < best_cost:
                best, best_cost = i, cost
                if cost == _AT_ONCE:
                    break
        return best if best >= 0 else (waiting or 0)

    def _cost(self, clause: Clause, state: State, todo: list[Clause]) -> float | None:
        """Return an estimate of rows, below 0 for what should run at once, None for not yet."""
        if isinstance(clause, Pattern):
            return estimate(self.source(clause.source), clause, state)
        if isinstance(clause, (Predicate, Function)):
            inputs = [t for t in (clause.function, *clause.args) if is_var(t)]
            if not all(map(state.bound, inputs)):
                return None
            if isinstance(clause, Function):
                return -1.0
            return _AT_ONCE if self.functions.is_builtin(clause.function) else -2.0
        if isinstance(clause, Not):
            wanted = variables_of([clause])
            others = variables_of(c for c in todo if c is not clause and not isinstance(c, Not))
            return -0.5 if all(state.bound(v) or v not in others for v in wanted) else None
        variables = variables_of([clause])
        free = sum(not state.bound(v) for v in variables)
        if isinstance(clause, RuleCall):
            if clause.fresh:
                return float(self.rules.fresh_count(clause))
            if not self.rules.ready(clause, state):
                return None
            return 1e7 + free * 1e9 if free == len(variables) else 1e5 + free
        if not self.rules.known.checker.ready(clause, state.variables()):
            return None
        return 1e6 + free * 1e9 if free == len(variables) else 1e4 + free

    # -- one clause ----------------------------------------------------------------------------

    async def _one(self, clause: Clause, state: State, todo: Sequence[Clause]) -> None:
        if isinstance(clause, Pattern):
            source = self.source(clause.source)
            if todo and not self._ahead and isinstance(source, View):
                attributes = read_whole(source, clause, todo, state)
                if attributes:
                    self._ahead = True
                    await fetch_attributes(source, attributes)
            await match_pattern(source, clause, state)
        elif isinstance(clause, Predicate):
            self._need(clause, state)
            await self.functions.predicate(clause, state)
        elif isinstance(clause, Function):
            self._need(clause, state)
            await self.functions.function(clause, state)
        elif isinstance(clause, Not):
            await self._not(clause, state)
        elif isinstance(clause, Or):
            await self._or(clause, state)
        else:
            await self.rules.call(clause, state)

    def _need(self, clause: Predicate | Function, state: State) -> None:
        inputs = [t for t in (clause.function, *clause.args) if is_var(t)]
        missing = [v for v in inputs if not state.bound(v)]
        if missing:
            names = ", ".join(map(repr, dict.fromkeys(missing)))
            raise QueryError(
                f"Insufficient bindings: {names} not bound in "
                f"({clause.function} {' '.join(map(repr, clause.args))}).",
                error=":query/where",
            )

    async def _not(self, clause: Not, state: State) -> None:
        variables = sorted(variables_of([clause]), key=repr)
        shared = [v for v in variables if state.bound(v)]
        if variables and not shared:
            raise QueryError(
                "Insufficient bindings: none of "
                f"{', '.join(map(repr, variables))} is bound outside of (not …).",
                error=":query/where",
            )
        columns = [v for v in shared if v not in state.consts]
        outer = state.take(columns)
        inner = State(self._visible(clause.variables, state), [outer.project(columns)])
        await self.run(clause.clauses, inner, columns)
        found = inner.whole(columns)
        left = semi(outer, found, keep=False) if columns else outer
        if not columns and found.count:
            left = outer.take(np.zeros(outer.count, np.bool_))
        state.relations.append(left)

    def _visible(self, variables: Sequence[Symbol] | None, state: State) -> Mapping[Symbol, Any]:
        """Return the constants that a scope with a head sees."""
        if variables is None:
            return state.consts
        return {v: x for v, x in state.consts.items() if v in variables}

    async def _or(self, clause: Or, state: State) -> None:
        head = None if clause.variables is None else clause.required + clause.variables
        wanted = sorted(variables_of([clause]), key=repr) if head is None else list(head)
        bound = [v for v in wanted if state.bound(v) and v not in state.consts]
        seed = state.take(bound)
        consts = self._visible(head, state)
        if len(clause.branches) == 1 and head is None:
            inner = State(consts, [seed])
            await self.run(clause.branches[0], inner)
            state.relations += inner.relations
            return
        known = seed.project(bound)
        columns = [v for v in wanted if v not in consts]
        parts = []
        for branch in clause.branches:
            inner = State(consts, [known] if bound else [])
            await self.run(branch, inner, columns)
            if inner.empty:
                continue
            missing = [v for v in columns if not inner.bound(v)]
            if missing:
                raise QueryError(
                    "All branches of (or …) should bind the same variables; "
                    f"{shown(missing[0])} is missing in one. Use or-join to say which are shared.",
                    error=":query/where",
                )
            parts.append(inner.whole(columns))
        found = union(parts, columns)
        if not columns:
            if not any(p.count for p in parts):
                seed = Relation(seed.columns, 0) if not seed.columns else seed.take(_none(seed))
            state.relations.append(seed)
            return
        state.relations.append(join(seed, found))


def _multiplies(clause: Clause, state: State) -> bool:
    """Whether a clause may find several rows for one that is known."""
    if not state.relations or isinstance(clause, (Predicate, Not)):
        return False
    if isinstance(clause, Pattern):
        entity = clause.terms[0]
        return not is_var(entity) or state.column_of(entity) is None
    return True


def _none(relation: Relation) -> Any:
    return np.zeros(relation.count, np.bool_)
