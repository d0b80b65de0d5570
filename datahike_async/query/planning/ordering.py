"""Ordering the clauses of one conjunction: exhaustive for few patterns, greedy for many.

Patterns that share no variable with what is known may come before they connect: the engine keeps
such relations apart until a clause joins them, so an order is a bushy tree. What takes rows away
(predicates, functions, negation) runs as soon as its variables are bound, unless that would
multiply relations that a clause to come connects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from datahike_async.edn.types import Symbol
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
from datahike_async.query.planning.cost import MADE, STEP, Estimates, Given, Known, extended

__all__ = ["Ordering", "Step"]

# Up to so many patterns every order is weighed; of more, the next best is taken each time.
_EXHAUSTIVE: Final = 6
# There it is tried from so many of those that give the fewest rows.
_STARTS: Final = 3


@dataclass(slots=True)  # not frozen: made in every query, at a third of the cost
class Step:
    """A clause in its place: how it will be carried out, the rows it leaves, and its cost."""

    clause: Clause
    operator: str
    rows: float
    cost: float
    # Whether it turned out to be too much for the event loop the last time; None: it never ran.
    large: bool | None = None
    # The part of an attribute that is read, where memory has no room for all of it.
    part: tuple[int, int, int] | None = None


class Ordering:
    """The ordering of one conjunction."""

    def __init__(
        self,
        planner: Estimates,
        clauses: list[Clause],
        consts: Mapping[Symbol, Any],
        known: list[Known],
    ) -> None:
        self.planner = planner
        self.consts = consts
        self.known = known
        self.todo = clauses
        self.steps: list[Step] = []
        self._given: dict[int, Given] = {}
        self._queue: list[Pattern] = []

    def run(self) -> list[Step]:
        """Return the clauses as steps, in the order they are to run."""
        while self.todo:
            clause = self._filter() or self._generator()
            if clause is None:
                # Nothing is ready: a clause that waits for others, or for what never comes.
                spanning = self._filter(spanning=True)
                clause = spanning or self.todo[0]
            # By identity: clauses with 1 and with true are equal to Python.
            self.todo = [c for c in self.todo if c is not clause]
            self._append(clause)
        return self.steps

    # -- what is bound -------------------------------------------------------------------------

    def _bound(self, variable: Symbol) -> bool:
        return variable in self.consts or any(variable in values for _, values in self.known)

    def _spans(self, variables: Iterable[Symbol]) -> bool:
        wanted = set(variables)
        return sum(not wanted.isdisjoint(values) for _, values in self.known) > 1

    # -- what takes rows away --------------------------------------------------------------------

    def _filter(self, *, spanning: bool = False) -> Clause | None:
        """Return the clause that should run at once: it is ready and multiplies nothing."""
        best: Clause | None = None
        best_rank = 4
        for clause in self.todo:
            if isinstance(clause, (Predicate, Function)):
                inputs = clause.inputs
                if not all(map(self._bound, inputs)) or (not spanning and self._spans(inputs)):
                    continue
                rank = 2
                if isinstance(clause, Predicate):
                    rank = 0 if self.planner.is_builtin(clause.function) else 1
                elif self._can_wait(clause):
                    continue
            elif isinstance(clause, Not):
                wanted = variables_of([clause])
                others = variables_of(
                    c for c in self.todo if c is not clause and not isinstance(c, Not)
                )
                if any(not self._bound(v) and v in others for v in wanted):
                    continue
                if not spanning and self._spans(wanted):
                    continue
                rank = 3
            else:
                continue
            if rank < best_rank:
                best, best_rank = clause, rank
                if not rank:
                    break
        return best

    def _can_wait(self, clause: Function) -> bool:
        """Whether something else can run that a function has nothing to give to.

        A function may fail; it is called on what all those leave, whatever their order.
        """
        given = set(clause.gives)
        return any(
            given.isdisjoint(variables_of([other]))
            for other in self.todo
            if isinstance(other, Pattern)
            or (isinstance(other, (Or, RuleCall)) and self._ready(other))
        )

    # -- what gives rows -----------------------------------------------------------------------

    def _source(self, clause: Clause) -> Given:
        found = self._given.get(id(clause))
        if found is None:
            found = self._given[id(clause)] = self.planner.generated(clause, self.consts, self.todo)
        return found

    def _generator(self) -> Clause | None:
        patterns = [c for c in self.todo if isinstance(c, Pattern)]
        others = [c for c in self.todo if isinstance(c, (Or, RuleCall)) and self._ready(c)]
        for other in others:
            if isinstance(other, RuleCall) and other.fresh:
                return other
        results = {
            v for c in self.todo if isinstance(c, Function) for v in c.gives if not self._bound(v)
        }
        if results:
            # What uses results of functions comes after them; unless nothing else can go on.
            apart = [p for p in patterns if results.isdisjoint(self._source(p).values)]
            others_apart = [c for c in others if results.isdisjoint(variables_of([c]))]
            if apart or others_apart:
                patterns, others = apart, others_apart
                self._queue = [p for p in self._queue if any(p is q for q in patterns)]
        if patterns and not self._queue:
            self._queue = self._best_order(self._group(patterns, bool(others)))
        candidates: list[Clause] = [*self._queue[:1], *others]
        best: Clause | None
        if patterns and self.known:
            candidates = [c for c in candidates if isinstance(c, Pattern) or self._touches(c)]
        best = candidates[0] if len(candidates) == 1 else None
        best_cost = 0.0
        for clause in candidates if best is None else ():
            cost, rows, after, _ = extended(self.known, self._source(clause))
            total = cost + rows * MADE
            # What runs first decides what the others cost.
            for later in candidates:
                if later is not clause:
                    more, rows, _, _ = extended(after, self._source(later))
                    total += more + rows * MADE
            if isinstance(clause, Pattern) and self.known and not self._touches(clause):
                # Something else connects it; then it is not read from end to end.
                total += 1e6
            if best is None or total < best_cost:
                best, best_cost = clause, total
        if best is not None and self._queue and best is self._queue[0]:
            self._queue.pop(0)
        else:
            self._queue = []
        return best

    def _ready(self, clause: Or | RuleCall) -> bool:
        if isinstance(clause, RuleCall) and (
            clause.fresh or clause.name not in self.planner.rules.branches
        ):
            return True
        variables = {*self.consts, *(v for _, values in self.known for v in values)}
        return self.planner.rules.checker.ready(clause, variables)

    def _touches(self, clause: Clause) -> bool:
        return any(map(self._bound, variables_of([clause])))

    def _group(self, patterns: list[Pattern], apart: bool) -> list[Pattern]:
        """Return the patterns to be ordered together.

        All of them; but where other clauses may connect (``apart``), those that hang together with
        what is known, or with the cheapest one.
        """
        if not apart or len(patterns) < 2:
            return patterns
        bound = {v for _, values in self.known for v in values}
        start = [p for p in patterns if not bound.isdisjoint(self._source(p).values)]
        if not start:
            start = [min(patterns, key=lambda p: self._source(p).rows)]
        chosen = set(map(id, start))
        reached = {v for p in start for v in self._source(p).values}
        grown = True
        while grown:
            grown = False
            for p in patterns:
                if id(p) not in chosen and not reached.isdisjoint(self._source(p).values):
                    chosen.add(id(p))
                    reached |= self._source(p).values.keys()
                    grown = True
        return [p for p in patterns if id(p) in chosen]

    def _best_order(self, patterns: list[Pattern]) -> list[Pattern]:
        if len(patterns) < 2:
            return patterns
        if len(patterns) > _EXHAUSTIVE:
            return self._greedy_order(patterns)
        sources = [self._source(p) for p in patterns]
        # For every set of patterns the cheapest way to have carried out just those.
        best: dict[int, tuple[float, tuple[int, ...], list[Known]]] = {0: (0.0, (), self.known)}
        for size in range(len(patterns)):
            for done in [d for d in best if d.bit_count() == size]:
                cost, order, known = best[done]
                for i, source in enumerate(sources):
                    bit = 1 << i
                    if done & bit:
                        continue
                    more, rows, after, _ = extended(known, source)
                    total = cost + more + rows * MADE
                    found = best.get(done | bit)
                    if found is None or total < found[0]:
                        best[done | bit] = (total, (*order, i), after)
        return [patterns[i] for i in best[(1 << len(patterns)) - 1][1]]

    def _greedy_order(self, patterns: list[Pattern]) -> list[Pattern]:
        sources = [self._source(p) for p in patterns]
        bound = {v for _, values in self.known for v in values}
        starts: Iterable[int | None] = (None,)
        if all(bound.isdisjoint(source.values) for source in sources):
            # Nothing is known yet: the few that give the fewest rows are tried, and the cheapest.
            fewest = sorted(range(len(sources)), key=lambda i: sources[i].rows)[:_STARTS]
            cheapest = min(range(len(sources)), key=lambda i: _cost([], sources[i]))
            starts = dict.fromkeys([*fewest, cheapest])
        orders = [self._greedy_from(start, sources) for start in starts]
        return [patterns[i] for i in min(orders)[1]]

    def _greedy_from(self, start: int | None, sources: list[Given]) -> tuple[float, list[int]]:
        """Return the cost of carrying all out from one that comes first, and the order.

        What is connected with what is known comes before what is not, as cheap as that may be by
        itself: it is read from end to end, and its rows are multiplied with those to come.
        """
        known, out, total = self.known, [], 0.0
        left = dict.fromkeys(range(len(sources)))
        bound = {v for _, values in known for v in values}
        while left:
            if start is None:
                near = [i for i in left if not bound.isdisjoint(sources[i].values)]
                if near:
                    start = min(near, key=lambda i: _cost(known, sources[i]))
                else:
                    start = min(left, key=lambda i: sources[i].rows)
            more, rows, known, _ = extended(known, sources[start])
            total += more + rows * MADE
            bound |= sources[start].values.keys()
            out.append(start)
            del left[start]
            start = None
        return total, out

    # -- steps -----------------------------------------------------------------------------------

    def _append(self, clause: Clause) -> None:
        if isinstance(clause, (Pattern, Or, RuleCall)):
            cost, rows, self.known, operator = extended(self.known, self._source(clause))
            self.steps.append(Step(clause, operator, rows, cost))
            return
        variables = variables_of([clause])
        near = [k for k in self.known if not k[1].keys().isdisjoint(variables)]
        far = [k for k in self.known if k[1].keys().isdisjoint(variables)]
        rows = 1.0
        values: dict[Symbol, float] = {}
        for count, others in near:
            rows *= count
            values |= others
        before = rows
        if isinstance(clause, Predicate):
            operator = "predicate"
            # What a predicate on one variable takes away is in the estimate of its pattern.
            if len(variables) > 1:
                rows *= 0.33
        elif isinstance(clause, Function):
            operator = "function"
            for variable in clause.gives:
                if variable in values:
                    rows *= 0.1
                values.setdefault(variable, rows)
        else:
            operator = "anti-join"
            rows *= 0.5
        self.known = [*far, (rows, values)] if near or values else far
        self.steps.append(Step(clause, operator, rows, STEP + before * 0.01))


def _cost(known: list[Known], source: Given) -> float:
    """Return what joining a source costs, and carrying its rows on."""
    cost, rows, _, _ = extended(known, source)
    return cost + rows * MADE
