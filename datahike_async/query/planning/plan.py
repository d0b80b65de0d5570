"""Plans: what each clause of a query gives, by statistics, and the order that follows from it.

Knows clauses, statistics and what is bound, never values of rows. ``ordering`` weighs the orders,
``cost`` says what each step costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.query.language.ast import (
    BLANK,
    Clause,
    Or,
    Pattern,
    Predicate,
    RuleCall,
    is_var,
)
from datahike_async.query.language.where import attributes_of, variables_of
from datahike_async.query.planning.cost import COMPARED, MIXED, READ, SEEK, Given, Known
from datahike_async.query.planning.ordering import Ordering, Step
from datahike_async.query.planning.walk import LONG, Walk
from datahike_async.query.reading.stats import Stats
from datahike_async.snapshot.views import View

if TYPE_CHECKING:
    from datahike_async.query.language.ruleset import RuleSet

__all__ = ["Planner", "Plans"]

_DEEPEST: Final = 3
_KEPT: Final = 64
_SELECTS: Final = {"=": 0.05, "!=": 0.95, "not=": 0.95}


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
        self.rules = rules
        self.is_builtin = is_builtin
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
        clauses = list(clauses)
        if len(clauses) > LONG:
            return Walk(self, clauses, consts, known).run()
        return Ordering(self, clauses, consts, list(known)).run()

    # -- what clauses give ---------------------------------------------------------------------

    def generated(
        self, clause: Clause, consts: Mapping[Symbol, Any], others: Sequence[Clause]
    ) -> Given:
        """Return what a pattern, an ``or`` or a rule call gives by itself."""
        if isinstance(clause, Pattern):
            return self._pattern(clause, consts, others)
        if isinstance(clause, Or):
            return self._or(clause, consts)
        assert isinstance(clause, RuleCall)
        return self._rule(clause, consts)

    def _pattern(
        self, clause: Pattern, consts: Mapping[Symbol, Any], others: Sequence[Clause]
    ) -> Given:
        source = self._source(clause.source)
        free = [t for t in clause.terms if is_var(t) and t not in consts]
        if not isinstance(source, View):
            size = float(len(source)) if hasattr(source, "__len__") else 1000.0
            return Given(size, dict.fromkeys(free, size), size * 0.5, 0.0, "collection")
        stats = self.stats(source)
        e, a, v = (consts.get(t, t) if is_var(t) else t for t in clause.terms[:3])
        if not isinstance(a, (Keyword, str)):
            total = stats.total()
            if not _open(e):
                return Given(8.0, dict.fromkeys(free, 8.0), SEEK, 0.0, "EAVT entity")
            load = total * MIXED
            attributes = len(source.schema.attrs)
            if not _open(v):
                rows = max(total / 1000, 8.0)
                found = dict.fromkeys(free, rows)
                return Given(rows, found, SEEK * attributes, SEEK, "AVET value")
            return Given(
                total,
                dict.fromkeys(free, total),
                load,
                load,
                "AEVT scan of all",
                e if is_var(e) else None,
                v if is_var(v) else None,
                size=total,
                absent=True,
                attributes=attributes,
            )
        attr = source.schema.by_key.get(a)
        if attr is None:
            return Given(0.0, dict.fromkeys(free, 1.0), 0.0, 0.0, "unknown attribute")
        count, entities = stats.count(attr), stats.entities(attr)
        resident = stats.resident(attr)
        load = 0.0 if resident else count * READ
        if not _open(e):
            rows = max(count / max(entities, 1.0), 0.5)
            if not _open(v):
                rows = min(rows, 1.0)
            return Given(rows, dict.fromkeys(free, rows), SEEK, SEEK, "EAVT entity")
        values = stats.values(attr)
        rows, scan, operator = count, load + count * COMPARED, "AEVT column"
        if not _open(v):
            rows = stats.matching(attr, v)
            if attr.indexed:
                scan, operator = SEEK + rows * READ, "AVET value"
            else:
                operator = "AEVT column, filtered"
            values = 1.0
        for term in clause.terms[3:]:
            if not _open(consts.get(term, term) if is_var(term) else term):
                rows *= 0.1
        share = _share(v, others) if is_var(v) else 1.0
        if share < 1.0 and attr.indexed and not resident:
            operator = "AVET range"
            scan = SEEK + rows * share * READ
        rows *= share
        known = {}
        for term in free:
            known[term] = rows
        if is_var(e) and e in known:
            # Of all that have the attribute: what selects here selects as much of any others.
            known[e] = entities
        if is_var(v) and v in known:
            known[v] = min(rows, values)
        return Given(
            rows,
            known,
            scan,
            load,
            operator,
            e if is_var(e) else None,
            v if is_var(v) and attr.indexed else None,
            not attr.many,
            count,
            not resident,
        )

    def _or(self, clause: Or, consts: Mapping[Symbol, Any]) -> Given:
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
        return Given(rows, dict.fromkeys(head, rows), cost, cost, "union", seeded=True)

    def _rule(self, clause: RuleCall, consts: Mapping[Symbol, Any]) -> Given:
        head = [v for v in clause.args if is_var(v) and v not in consts]
        if clause.fresh:
            rows = float(self._fresh_count(clause))
            return Given(rows, dict.fromkeys(head, rows), 0.0, 0.0, "fresh answers")
        recursive = clause.name in self.rules.recursive
        rows = cost = 0.0
        for branch in self.rules.branches.get(clause.name, ()):
            if recursive and self.rules.calls_circle(clause.name, branch):
                continue
            a, b = self._conjunction(self.rules.body(branch, clause.source), {})
            rows, cost = rows + a, cost + b
        operator = "rule"
        if recursive:
            rows, cost = rows * 8, cost * 20
            operator = "closure" if self.rules.linear(clause.name) is not None else "fixpoint"
        for arg in clause.args:
            if not is_var(arg) or arg in consts:
                rows /= max(rows**0.5, 1.0)
        values = dict.fromkeys(head, max(rows**0.5, 1.0))
        return Given(rows, values, cost, cost, operator, seeded=True)

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
