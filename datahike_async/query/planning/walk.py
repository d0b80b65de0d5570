"""Ordering the clauses of a long conjunction: from one clause to the next, in nearly linear time.

``ordering`` weighs many orders, which for hundreds of clauses takes longer than running them. Here
each clause is looked at again only when a variable of its own gets a value: what takes rows away
runs at once, what gives the fewest rows for each that is known comes next, and functions wait for
all that they have nothing to give to. The rules are those of ``ordering``; only the search is less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, Final

from datahike_async.edn.types import Symbol
from datahike_async.looks import tally
from datahike_async.query.language.ast import (
    Clause,
    Function,
    Not,
    Or,
    Pattern,
    Predicate,
    RuleCall,
)
from datahike_async.query.language.where import variables_of
from datahike_async.query.planning.cost import STEP, Estimates, Given, Known, extended
from datahike_async.query.planning.ordering import Step

__all__ = ["LONG", "Walk"]

LONG: Final = 40
"""Conjunctions of more clauses are walked."""

# What planning one clause counts for, in looks at the clock.
_PLANNED: Final = 2048
_Generator = Pattern | Or | RuleCall


class _Known:
    """One relation: its rows, and about how many different values each variable has."""

    __slots__ = ("rows", "values")

    def __init__(self, rows: float, values: dict[Symbol, float]) -> None:
        self.rows = rows
        self.values = values


class Walk:
    """The ordering of one long conjunction."""

    def __init__(
        self,
        planner: Estimates,
        clauses: Sequence[Clause],
        consts: Mapping[Symbol, Any],
        known: Sequence[Known],
    ) -> None:
        self.planner = planner
        self.consts = consts
        self.clauses = clauses
        self.steps: list[Step] = []
        self.left = dict.fromkeys(range(len(clauses)))
        self.variables = [variables_of((c,)) - consts.keys() for c in clauses]
        self.home: dict[Symbol, _Known] = {}
        for rows, values in known:
            relation = _Known(rows, dict(values))
            self.home.update(dict.fromkeys(values, relation))
        # Who uses a variable, and of those who gives it rows.
        self.users: dict[Symbol, list[int]] = {}
        self.predicates: dict[Symbol, list[Clause]] = {}
        # Of variables that functions give and nothing else has given yet: by how many functions.
        self.results: dict[Symbol, int] = {}
        self.gives: dict[int, set[Symbol]] = {}
        # Generators in the order in which they come: (connected first, factor or rows, position).
        self.heap: list[tuple[bool, float, int]] = []
        self.parked: dict[int, None] = {}
        self.given: dict[int, Given] = {}
        # What is ready: predicates and negations by rank, and functions.
        self.ready: list[tuple[int, int]] = []
        self.functions: dict[int, None] = {}
        # How many generators are left, and how many of them mention a variable.
        self.generators = 0
        self.mentions: dict[Symbol, int] = {}
        for i, clause in enumerate(clauses):
            for v in self.variables[i]:
                self.users.setdefault(v, []).append(i)
            if isinstance(clause, Function):
                given = {v for v in clause.gives if v not in consts}
                self.gives[i] = given
                for v in given:
                    self.results[v] = self.results.get(v, 0) + 1
            elif isinstance(clause, Predicate):
                for v in self.variables[i]:
                    self.predicates.setdefault(v, []).append(clause)
            elif not isinstance(clause, Not):
                self.generators += 1
                for v in self.variables[i]:
                    self.mentions[v] = self.mentions.get(v, 0) + 1

    def run(self) -> list[Step]:
        """Return the clauses as steps, in the order they are to run."""
        for i in list(self.left):
            self._consider(i)
        while self.left:
            tally(_PLANNED)
            i = self._next()
            del self.left[i]
            self._append(i)
        return self.steps

    def _next(self) -> int:
        while self.ready:
            i = heappop(self.ready)[1]
            if i in self.left:
                return i
        first = next(iter(self.functions), None)
        if first is not None and not self._can_wait(first):
            del self.functions[first]
            return first
        while self.heap:
            i = heappop(self.heap)[2]
            if i in self.left:
                return i
        found = next((i for i in self.functions if not self._can_wait(i)), None)
        if found is None:
            # What uses results of functions goes first where these wait for something else.
            self.parked = {i: None for i in self.parked if i in self.left}
            found = next((i for i in self.parked if self._is_callable(i)), None)
            self.parked.pop(found, None)  # type: ignore[arg-type]
        if found is None:
            found = next(iter(self.functions), None)
        if found is not None:
            self.functions.pop(found, None)
            return found
        # Nothing is ready: what spans relations, or waits for what never comes.
        return next((i for i in self.left if self._is_bound(i)), next(iter(self.left)))

    def _is_bound(self, i: int) -> bool:
        clause = self.clauses[i]
        return isinstance(clause, (Predicate, Function, Not)) and all(
            v in self.home for v in self._inputs(i)
        )

    def _inputs(self, i: int) -> Iterable[Symbol]:
        clause = self.clauses[i]
        if isinstance(clause, (Predicate, Function)):
            return [v for v in clause.inputs if v not in self.consts]
        # A negation goes by the variables that anything else could still give it.
        return [v for v in self.variables[i] if v in self.mentions or v in self.results]

    def _can_wait(self, i: int) -> bool:
        """Whether something else can run that a function has nothing to give to."""
        given = self.gives[i]
        if self.generators > sum(self.mentions.get(v, 0) for v in given):
            return True
        touching = {j for v in given for j in self.users.get(v, ()) if self._generates(j)}
        return self.generators > len(touching)

    def _generates(self, i: int) -> bool:
        return i in self.left and not isinstance(self.clauses[i], (Predicate, Function, Not))

    # -- what can run --------------------------------------------------------------------------

    def _consider(self, i: int) -> None:
        """Look at a clause again: a variable of its has got a value, or a larger relation."""
        clause = self.clauses[i]
        if not isinstance(clause, (Predicate, Function, Not)):
            if i not in self.parked or not self._waits(i):
                self.parked.pop(i, None)
                self._push(i)
            return
        homes = set()
        for v in self._inputs(i):
            relation = self.home.get(v)
            if relation is None:
                return
            homes.add(id(relation))
        if len(homes) > 1:
            return
        if isinstance(clause, Function):
            self.functions[i] = None
        elif isinstance(clause, Not):
            heappush(self.ready, (3, i))
        else:
            heappush(self.ready, (0 if self.planner.is_builtin(clause.function) else 1, i))

    def _waits(self, i: int) -> bool:
        """Whether a generator uses results of functions, or lacks what it requires."""
        return any(v in self.results for v in self.variables[i]) or not self._is_callable(i)

    def _is_callable(self, i: int) -> bool:
        clause = self.clauses[i]
        if isinstance(clause, Pattern) or (isinstance(clause, RuleCall) and clause.fresh):
            return True
        rules = self.planner.rules
        if isinstance(clause, RuleCall) and clause.name not in rules.branches:
            return True
        bound = {v for v in variables_of((clause,)) if v in self.home or v in self.consts}
        return rules.checker.ready(clause, bound)

    def _push(self, i: int) -> None:
        if self._waits(i) and i not in self.parked:
            self.parked[i] = None
            return
        near = self._near(i)
        source = self._source(i)
        if not near:
            # Whatever it costs by itself: its rows are multiplied with those to come.
            heappush(self.heap, (True, source.rows, i))
            return
        before = 1.0
        for rows, _ in near:
            before *= max(rows, 1.0)
        rows = extended(near, source)[1]
        heappush(self.heap, (False, rows / before, i))

    def _source(self, i: int) -> Given:
        found = self.given.get(i)
        if found is None:
            clause = self.clauses[i]
            value = clause.terms[2] if isinstance(clause, Pattern) else None
            others = self.predicates.get(value, ()) if type(value) is Symbol else ()
            found = self.given[i] = self.planner.generated(clause, self.consts, others)
        return found

    def _near(self, i: int) -> list[Known]:
        """Return the relations that a clause touches, with the variables that they share alone."""
        homes: dict[int, tuple[_Known, dict[Symbol, float]]] = {}
        for v in self.variables[i]:
            relation = self.home.get(v)
            if relation is not None:
                shared = homes.setdefault(id(relation), (relation, {}))[1]
                shared[v] = min(relation.values[v], max(relation.rows, 1.0))
        return [(relation.rows, shared) for relation, shared in homes.values()]

    # -- steps ---------------------------------------------------------------------------------

    def _append(self, i: int) -> None:
        clause = self.clauses[i]
        near = self._near(i)
        new: dict[Symbol, float] = {}
        if isinstance(clause, (Pattern, Or, RuleCall)):
            source = self._source(i)
            cost, rows, after, operator = extended(near, source)
            new = after[-1][1]
            self.generators -= 1
            for v in self.variables[i]:
                self.mentions[v] -= 1
        else:
            rows = 1.0
            for count, _ in near:
                rows *= count
            cost = STEP + rows * 0.01
            if isinstance(clause, Predicate):
                operator = "predicate"
                rows *= 0.33 if len(self.variables[i]) > 1 else 1.0
            elif isinstance(clause, Function):
                operator = "function"
                for v in self.gives[i]:
                    self.results[v] = self.results.get(v, 1) - 1
                    if self.results[v] <= 0:
                        del self.results[v]
                    rows *= 0.1 if v in self.home else 1.0
                new = {v: rows for v in self.gives[i] if v not in self.home}
            else:
                operator = "anti-join"
                rows *= 0.5
        self.steps.append(Step(clause, operator, rows, cost))
        self._merge(i, rows, new)

    def _merge(self, i: int, rows: float, new: dict[Symbol, float]) -> None:
        """Make one relation of those that a clause touches; look again at whom that concerns."""
        homes = {id(self.home[v]): self.home[v] for v in self.variables[i] if v in self.home}
        concerned: dict[Symbol, None] = {}
        whole = max(homes.values(), key=lambda r: len(r.values), default=None)
        if whole is None:
            whole = _Known(rows, {})
        for relation in homes.values():
            if relation is not whole:
                # The smaller ones move, so that each variable moves a few times at most.
                for v, distinct in relation.values.items():
                    whole.values[v] = distinct
                    self.home[v] = whole
                    concerned[v] = None
        whole.rows = rows
        for v, distinct in new.items():
            whole.values[v] = distinct
            if v not in self.home:
                self.home[v] = whole
                self.results.pop(v, None)
                concerned[v] = None
        again = dict.fromkeys(j for v in concerned for j in self.users.get(v, ()) if j in self.left)
        for j in again:
            self._consider(j)
