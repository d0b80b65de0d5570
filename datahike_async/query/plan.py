"""The order of a conjunction's clauses, by cost: exhaustive for few patterns, greedy for many.

Costs are microseconds and estimates rows, both rough: what matters is which of two orders is the
better one by far. Patterns that share no variable with what is known may come before they connect:
the engine keeps such relations apart until a clause joins them, so an order is a bushy tree. What
takes rows away (predicates, functions, negation) runs as soon as its variables are bound, unless
that would multiply relations that a clause to come connects.

Knows clauses, statistics and what is bound, never values of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.query.ast import (
    BLANK,
    Clause,
    Function,
    Not,
    Or,
    Pattern,
    Predicate,
    RuleCall,
    is_var,
)
from datahike_async.query.bindings import binding_variables
from datahike_async.query.fetch import FEW
from datahike_async.query.stats import Stats
from datahike_async.query.where import attributes_of, variables_of
from datahike_async.snapshot.views import View

if TYPE_CHECKING:
    from datahike_async.query.ruleset import RuleSet

__all__ = ["Known", "Planner", "Plans", "Step"]

# Up to so many patterns every order is weighed; of more, the next best is taken each time.
_EXHAUSTIVE: Final = 6
_DEEPEST: Final = 3
_KEPT: Final = 64
# Microseconds: of one step, one seek, and a row that is read, compared, looked up, joined, made.
_STEP, _SEEK = 8.0, 2.5
_READ, _COMPARED, _ALIGNED, _JOINED, _MADE = 0.02, 0.001, 0.006, 0.02, 0.01
_SELECTS: Final = {"=": 0.05, "!=": 0.95, "not=": 0.95}

Known = tuple[float, dict[Symbol, float]]
"""One relation: its rows, and about how many different values each variable has."""


@dataclass(frozen=True, slots=True)
class Step:
    """A clause in its place: how it will be carried out, the rows it leaves, and its cost."""

    clause: Clause
    operator: str
    rows: float
    cost: float


class Plans:
    """Plans of conjunctions, kept with the query or the rules that they belong to."""

    __slots__ = ("_attributes", "_kept")

    def __init__(self) -> None:
        self._attributes: dict[int, tuple[Any, list[tuple[Symbol, Any]]]] = {}
        # The clauses and schemas are kept with the plan, so that their ids stay their own.
        self._kept: dict[Any, tuple[Any, list[Step]]] = {}

    def get(self, key: Any) -> list[Step] | None:
        """Return a plan made before."""
        found = self._kept.get(key)
        return None if found is None else found[1]

    def attributes(self, clauses: Sequence[Clause]) -> list[tuple[Symbol, Any]]:
        """Return the (source, attribute) pairs that clauses read, found out once."""
        found = self._attributes.get(id(clauses))
        if found is None or found[0] is not clauses:
            if len(self._attributes) >= _KEPT:
                self._attributes.clear()
            found = self._attributes[id(clauses)] = (clauses, attributes_of(clauses))
        return found[1]

    def put(self, key: Any, owners: Any, plan: list[Step]) -> None:
        """Keep a plan; the oldest goes where there are many."""
        while len(self._kept) >= _KEPT:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[key] = (owners, plan)


@dataclass(frozen=True, slots=True)
class _Source:
    """What a pattern, an ``or`` or a rule call gives when nothing else is known."""

    rows: float
    values: dict[Symbol, float]
    # Microseconds to make all of it, and to have its columns at hand.
    scan: float
    load: float
    operator: str
    # The entity variable where a known entity is looked up; whether values are, one by one.
    entity: Symbol | None = None
    value: Symbol | None = None
    single: bool = False
    # Datoms of the attribute, where its columns are not at hand; else 0.
    absent: float = 0.0
    # Whether what is known flows in, and bounds what is looked for.
    seeded: bool = False


class Planner:
    """Plans the conjunctions of one query on its databases."""

    def __init__(
        self,
        source: Callable[[Symbol], Any],
        rules: RuleSet,
        is_builtin: Callable[[Any], bool],
        fresh_count: Callable[[RuleCall], int],
    ) -> None:
        self._source = source
        self._rules = rules
        self._is_builtin = is_builtin
        self._fresh_count = fresh_count
        self._stats: dict[int, Stats] = {}
        self._depth = 0

    def stats(self, view: View) -> Stats:
        """Return the statistics of a view, made once a query."""
        found = self._stats.get(id(view))
        if found is None:
            found = self._stats[id(view)] = Stats(view)
        return found

    def order(
        self, clauses: Iterable[Clause], consts: Mapping[Symbol, Any], known: Sequence[Known] = ()
    ) -> list[Step]:
        """Return the clauses in the order they are to run."""
        return _Ordering(self, list(clauses), consts, list(known)).run()

    # -- what clauses give ---------------------------------------------------------------------

    def generated(
        self, clause: Clause, consts: Mapping[Symbol, Any], others: Sequence[Clause]
    ) -> _Source:
        """Return what a pattern, an ``or`` or a rule call gives by itself."""
        if isinstance(clause, Pattern):
            return self._pattern(clause, consts, others)
        if isinstance(clause, Or):
            return self._or(clause, consts)
        assert isinstance(clause, RuleCall)
        return self._rule(clause, consts)

    def _pattern(
        self, clause: Pattern, consts: Mapping[Symbol, Any], others: Sequence[Clause]
    ) -> _Source:
        source = self._source(clause.source)
        free = [t for t in clause.terms if is_var(t) and t not in consts]
        if not isinstance(source, View):
            size = float(len(source)) if hasattr(source, "__len__") else 1000.0
            return _Source(size, dict.fromkeys(free, size), size * 0.5, 0.0, "collection")
        stats = self.stats(source)
        e, a, v = (consts.get(t, t) if is_var(t) else t for t in clause.terms[:3])
        if not isinstance(a, (Keyword, str)):
            total = stats.total()
            if not _open(e):
                return _Source(8.0, dict.fromkeys(free, 8.0), _SEEK, 0.0, "EAVT entity")
            load = total * _READ
            entity = e if is_var(e) else None
            return _Source(
                total, dict.fromkeys(free, total), load, load, "AEVT scan of all", entity
            )
        attr = source.schema.by_key.get(a)
        if attr is None:
            return _Source(0.0, dict.fromkeys(free, 1.0), 0.0, 0.0, "unknown attribute")
        count, entities = stats.count(attr), stats.entities(attr)
        resident = stats.resident(attr)
        load = 0.0 if resident else count * _READ
        if not _open(e):
            rows = max(count / max(entities, 1.0), 0.5)
            if not _open(v):
                rows = min(rows, 1.0)
            return _Source(rows, dict.fromkeys(free, rows), _SEEK, _SEEK, "EAVT entity")
        values = stats.values(attr)
        rows, scan, operator = count, load + count * _COMPARED, "AEVT column"
        if not _open(v):
            rows = stats.matching(attr, v)
            if attr.indexed:
                scan, operator = _SEEK + rows * _READ, "AVET value"
            else:
                operator = "AEVT column, filtered"
            values = 1.0
        for term in clause.terms[3:]:
            if not _open(consts.get(term, term) if is_var(term) else term):
                rows *= 0.1
        share = _share(v, others) if is_var(v) else 1.0
        if share < 1.0 and attr.indexed and not resident:
            operator = "AVET range"
            scan = _SEEK + rows * share * _READ
        rows *= share
        known = {}
        for term in free:
            known[term] = rows
        if is_var(e) and e in known:
            # Of all that have the attribute: what selects here selects as much of any others.
            known[e] = entities
        if is_var(v) and v in known:
            known[v] = min(rows, values)
        return _Source(
            rows,
            known,
            scan,
            load,
            operator,
            e if is_var(e) else None,
            v if is_var(v) and attr.indexed else None,
            not attr.many,
            0.0 if resident else count,
        )

    def _or(self, clause: Or, consts: Mapping[Symbol, Any]) -> _Source:
        head = [v for v in variables_of([clause]) if v not in consts]
        seen = (
            consts
            if clause.variables is None
            else {v: x for v, x in consts.items() if v in (*clause.required, *clause.variables)}
        )
        rows = cost = 0.0
        for branch in clause.branches:
            a, b = self._conjunction(branch, seen)
            rows, cost = rows + a, cost + b
        return _Source(rows, dict.fromkeys(head, rows), cost, cost, "union", seeded=True)

    def _rule(self, clause: RuleCall, consts: Mapping[Symbol, Any]) -> _Source:
        head = [v for v in clause.args if is_var(v) and v not in consts]
        if clause.fresh:
            rows = float(self._fresh_count(clause))
            return _Source(rows, dict.fromkeys(head, rows), 0.0, 0.0, "fresh answers")
        recursive = clause.name in self._rules.recursive
        rows = cost = 0.0
        for branch in self._rules.branches.get(clause.name, ()):
            if recursive and self._rules.calls_circle(clause.name, branch):
                continue
            a, b = self._conjunction(branch.clauses, {})
            rows, cost = rows + a, cost + b
        operator = "rule"
        if recursive:
            rows, cost = rows * 8, cost * 20
            operator = "closure" if self._rules.linear(clause.name) is not None else "fixpoint"
        for arg in clause.args:
            if not is_var(arg) or arg in consts:
                rows /= max(rows**0.5, 1.0)
        values = dict.fromkeys(head, max(rows**0.5, 1.0))
        return _Source(rows, values, cost, cost, operator, seeded=True)

    def _conjunction(
        self, clauses: Sequence[Clause], consts: Mapping[Symbol, Any]
    ) -> tuple[float, float]:
        if self._depth >= _DEEPEST:
            return 1000.0, 1000.0
        self._depth += 1
        try:
            steps = self.order(clauses, consts)
        finally:
            self._depth -= 1
        return (steps[-1].rows if steps else 1.0), sum(s.cost for s in steps)


def _open(term: Any) -> bool:
    return term is BLANK or is_var(term)


def _share(variable: Symbol, others: Sequence[Clause]) -> float:
    """Return the share of rows that the predicates on one variable leave."""
    share = 1.0
    for clause in others:
        if isinstance(clause, Predicate) and variable in clause.args and len(clause.args) == 2:
            a, b = clause.args
            if not (is_var(a) and is_var(b)) and type(clause.function) is Symbol:
                share *= _SELECTS.get(clause.function.text, 0.33)
    return share


class _Ordering:
    """The ordering of one conjunction."""

    def __init__(
        self,
        planner: Planner,
        clauses: list[Clause],
        consts: Mapping[Symbol, Any],
        known: list[Known],
    ) -> None:
        self.planner = planner
        self.consts = consts
        self.known = known
        self.todo = clauses
        self.steps: list[Step] = []
        self._given: dict[int, _Source] = {}
        self._queue: list[Pattern] = []

    def run(self) -> list[Step]:
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
                inputs = [t for t in (clause.function, *clause.args) if is_var(t)]
                if not all(map(self._bound, inputs)) or (not spanning and self._spans(inputs)):
                    continue
                rank = 2
                if isinstance(clause, Predicate):
                    rank = 0 if self.planner._is_builtin(clause.function) else 1
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

    # -- what gives rows -----------------------------------------------------------------------

    def _source(self, clause: Clause) -> _Source:
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
        if patterns and not self._queue:
            self._queue = self._best_order(self._group(patterns, bool(others)))
        candidates: list[Clause] = [*self._queue[:1], *others]
        best: Clause | None
        if patterns and self.known:
            candidates = [c for c in candidates if isinstance(c, Pattern) or self._touches(c)]
        best = candidates[0] if len(candidates) == 1 else None
        best_cost = 0.0
        for clause in candidates if best is None else ():
            cost, rows, after, _ = self._extended(self.known, self._source(clause))
            total = cost + rows * _MADE
            # What runs first decides what the others cost.
            for later in candidates:
                if later is not clause:
                    more, rows, _, _ = self._extended(after, self._source(later))
                    total += more + rows * _MADE
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
            clause.fresh or clause.name not in self.planner._rules.branches
        ):
            return True
        variables = {*self.consts, *(v for _, values in self.known for v in values)}
        return self.planner._rules.checker.ready(clause, variables)

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
                    more, rows, after, _ = self._extended(known, source)
                    total = cost + more + rows * _MADE
                    found = best.get(done | bit)
                    if found is None or total < found[0]:
                        best[done | bit] = (total, (*order, i), after)
        return [patterns[i] for i in best[(1 << len(patterns)) - 1][1]]

    def _greedy_order(self, patterns: list[Pattern]) -> list[Pattern]:
        left, known, out = list(patterns), self.known, []
        while left:
            weighed = []
            for i, p in enumerate(left):
                cost, rows, after, _ = self._extended(known, self._source(p))
                weighed.append((cost + rows * _MADE, i, after))
            _, i, known = min(weighed, key=lambda w: w[:2])
            out.append(left.pop(i))
        return out

    def _extended(
        self, known: list[Known], source: _Source
    ) -> tuple[float, float, list[Known], str]:
        """Return cost, rows, and what is known once a source has been joined; and how."""
        near: list[Known] = []
        far: list[Known] = []
        for relation in known:
            (far if relation[1].keys().isdisjoint(source.values) else near).append(relation)
        if not near:
            rows = source.rows
            return _STEP + source.scan, rows, [*known, (rows, source.values)], source.operator
        rows, values = source.rows, dict(source.values)
        there = 1.0
        for count, others in near:
            there *= count
            rows *= count
            for variable, distinct in others.items():
                mine = values.get(variable)
                if mine is None:
                    values[variable] = distinct
                else:
                    rows /= max(mine, distinct, 1.0)
                    values[variable] = min(mine, distinct)
        for variable, distinct in values.items():
            if distinct > rows:
                values[variable] = max(rows, 1.0)
        entity, value = source.entity, source.value
        count = there if len(near) == 1 else sum(c for c, _ in near)
        if entity is not None and any(entity in others for _, others in near):
            operator = f"{source.operator}, joined on {entity}"
            cost = source.load + count * _ALIGNED
            if not source.single:
                cost += source.rows * _JOINED
            if count <= FEW and source.absent > 16 * count:
                operator, cost = "EAVT seeks", count * _SEEK
        elif value is not None and any(value in others for _, others in near) and count <= FEW:
            operator, cost = "AVET seeks", count * _SEEK
        else:
            shared = [v.text for v in source.values if any(v in others for _, others in near)]
            operator = f"{source.operator}, joined on {' '.join(shared)}"
            cost = source.scan + (source.rows + count) * _JOINED
            if source.seeded:
                distinct = max(source.values[v] for v in source.values if v.text in shared)
                cost = cost * min(1.0, count / max(distinct, 1.0)) + count * _JOINED
        return _STEP + cost + rows * _MADE, rows, [*far, (rows, values)], operator

    # -- steps -----------------------------------------------------------------------------------

    def _append(self, clause: Clause) -> None:
        if isinstance(clause, (Pattern, Or, RuleCall)):
            cost, rows, self.known, operator = self._extended(self.known, self._source(clause))
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
            for variable in binding_variables(clause.binding):
                if variable in values:
                    rows *= 0.1
                values.setdefault(variable, rows)
        else:
            operator = "anti-join"
            rows *= 0.5
        self.known = [*far, (rows, values)] if near or values else far
        self.steps.append(Step(clause, operator, rows, _STEP + before * 0.01))
