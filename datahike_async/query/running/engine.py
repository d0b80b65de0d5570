"""Running the clauses of a query, one after the other in the order that was planned.

A conjunction is a set of relations over disjoint variables and the constants that ``:in`` gave.
The order in which clauses are written never matters: they are planned by cost, planned again where
rows turn out to be far more or fewer than thought, and what can never become ready is an error.
Everything here is synchronous but for missing nodes, asynchronous functions, and the host's pauses;
a step over many rows runs in a worker thread that the host lends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import Any, Final, TypeVar

import numpy as np

from datahike_async.collector import set_aside
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.index.columns import Column
from datahike_async.index.source import fetched
from datahike_async.looks import SMALL
from datahike_async.query.language.ast import (
    DEFAULT_SOURCE,
    Clause,
    Function,
    Not,
    Or,
    Pattern,
    Predicate,
    RuleCall,
    is_var,
)
from datahike_async.query.language.text import call_text, term_text
from datahike_async.query.language.where import attributes_of, plain_calls, variables_of
from datahike_async.query.limits.host import LARGE
from datahike_async.query.limits.watch import Elsewhere, Watch
from datahike_async.query.planning.cost import Known
from datahike_async.query.planning.ordering import Step
from datahike_async.query.planning.plan import Planner, Plans
from datahike_async.query.reading.amount import read_together, read_whole, rows_selected
from datahike_async.query.reading.fetch import SEEKS, fetch_attributes
from datahike_async.query.reading.parts import has_room_for_all
from datahike_async.query.reading.patterns import (
    Part,
    apart_by,
    match_pattern,
    part_of,
    parts_of,
    selects,
)
from datahike_async.query.relations.joins import join, union, without
from datahike_async.query.relations.relation import Relation
from datahike_async.query.relations.state import State
from datahike_async.query.running.bound import Bound
from datahike_async.query.running.functions import Functions
from datahike_async.query.running.gather import Fold, Gathered, together
from datahike_async.query.running.rules import Rules
from datahike_async.query.running.run import Nested, Run
from datahike_async.query.running.trace import Ran
from datahike_async.snapshot.views import View

__all__ = ["Engine"]

T = TypeVar("T")

# Fewer rows than this are cheaper to carry along than to make distinct.
_WORTH: Final = 256
# Planned again where an estimate was wrong by this factor, and rows matter.
_WRONG: Final = 10
# Conjunctions of so few clauses are planned in no time.
_SHORT: Final = 8
# A conjunction is planned again so often at most: each time costs what planning costs.
_REPLANS: Final = 8
# How many of the clauses to come a pattern looks at, for what bounds it and what to fetch ahead.
_AHEAD: Final = 64
# So many rows are not joined with what they must not match.
_ALONE: Final = 1 << 12
# Where a step reads so much, what lives already is spared by the garbage collector meanwhile.
_HUGE: Final = 1 << 22
# More columns than this are made fewer also where there are few rows.
_WIDE: Final = 24


class Engine(Run):
    """Carries clauses out, with the rules and functions of one run."""

    def __init__(
        self,
        bound: Bound,
        plans: Plans,
        watch: Watch,
        nested: Nested,
        trace: list[Ran] | None = None,
    ) -> None:
        super().__init__(bound, watch, nested)
        self.trace = trace
        self.rules = Rules(self, bound.rules, self.run)
        self.functions = Functions(self, bound.functions)
        self.planner = Planner(
            self.source, bound.rules, self.functions.is_builtin, self.rules.fresh_count
        )
        self._plans = plans
        # Whether the attributes that the query reads whole were asked for together already.
        self._ahead = False
        self._depth = 0
        # Whether a database is so large that reading of it may take long.
        self._many = False
        # Whether memory may have no room for all of an attribute.
        self.limited = False
        for view in self.views.values():
            self.meter.share(view.snapshot.trees.memory.query)
            self.limited |= not has_room_for_all(view)
            if 8 * (len(view.snapshot.trees) + view.snapshot.n) >= LARGE:
                self._many = True

    def check(
        self, calls: Sequence[Predicate | Function | RuleCall], consts: Mapping[Symbol, Any]
    ) -> None:
        """Raise QueryError for a call of what is not there, whether or not a row will reach it."""
        for call in calls:
            if isinstance(call, RuleCall):
                self.rules.branches(call)
            else:
                self.functions.check(call, consts)

    async def run(
        self,
        clauses: Sequence[Clause],
        state: State,
        wanted: Sequence[Symbol] | None = None,
        fold: Fold | None = None,
    ) -> State:
        """Carry out ``clauses`` on ``state`` and return it.

        Of variables that are neither ``wanted`` nor in a clause to come the values may be dropped.
        What is read in parts goes to ``fold``, where it takes them: then the state has no rows.
        """
        if len(clauses) == 1:
            if not state.empty:
                step = Step(clauses[0], "", -1.0, 0.0)
                parts = await self._parts(step.clause, state, ()) if self.limited else []
                if parts:
                    await self._in_parts(step, parts, (), state, wanted, fold)
                else:
                    await self._step(step, state, ())
            return state
        if len(clauses) <= _SHORT and not any(isinstance(c, (Not, Or)) for c in clauses):
            steps = self.plan(clauses, state)
        else:
            steps = await self.heavy(0, self.plan, clauses, state)
        at, again = 0, 0
        uses: dict[Symbol, int] | None = None
        while at < len(steps):
            if state.empty:
                return state
            step, at = steps[at], at + 1
            rest = [s.clause for s in steps[at : at + _AHEAD]]
            if self.limited:
                parts = await self._parts(step.clause, state, rest)
                if parts:
                    rest = [s.clause for s in steps[at:]]
                    await self._in_parts(step, parts, rest, state, wanted, fold)
                    return state
            if wanted is not None and state.relations:
                multiplies = self._multiplies(step.clause, state)
                if multiplies or state.rows() > SMALL:
                    uses = uses or _uses(steps)
                    forget = state.keep if multiplies else state.spare
                    await self.heavy(state.rows(), forget, wanted, uses, at - 1)
            await self._step(step, state, rest)
            if at + 1 < len(steps) and again < _REPLANS and _far_off(step.rows, state.rows()):
                clauses = [s.clause for s in steps[at:]]
                known = _known(state)
                steps = await self.heavy(0, self.planner.order, clauses, state.consts, known)
                at, again, uses = 0, again + 1, None
        return state

    async def _parts(self, clause: Clause, state: State, rest: Sequence[Clause]) -> list[Part]:
        """Return the parts that a clause is carried out in; none where memory has room for all."""
        view = self.source(clause.source) if isinstance(clause, Pattern) else None
        if not isinstance(view, View) or not isinstance(clause, Pattern):
            return []
        outer, self.meter.clause = self.meter.clause, clause
        parts = await parts_of(view, clause, state, rest)
        self.meter.clause = outer
        return parts

    async def _in_parts(
        self,
        step: Step,
        parts: Sequence[Part],
        rest: Sequence[Clause],
        state: State,
        wanted: Sequence[Symbol] | None,
        fold: Fold | None,
    ) -> None:
        """Carry out a pattern and all that comes after it, for one part of its rows at a time."""
        clause = step.clause
        assert isinstance(clause, Pattern)
        apart = apart_by(clause)
        gathered = Gathered(self.meter, apart)
        sink: Fold = gathered if fold is None or not fold.takes(apart) else fold
        names: Sequence[Symbol] = () if wanted is None else wanted
        names = [v for v in names if v not in state.consts]
        outer, traces = self.trace, []
        for part in parts:
            known = await self.heavy(state.rows(), part_of, part, clause, state)
            inner = known or state.inner(state.consts, state.relations)
            if outer is not None:
                self.trace = []
                traces.append(self.trace)
            one = Step(clause, step.operator, step.rows / len(parts), 0.0)
            one.part = part if known is None else None
            await self._step(one, inner, rest)
            if rest and not inner.empty:
                await self.run(rest, inner, wanted)
            if inner.empty:
                continue
            if wanted is None:
                names = sorted(inner.variables() - state.consts.keys(), key=repr)
            if sink is fold:
                names = wanted or ()
            found = await self.whole(inner, names)
            outer_clause, self.meter.clause = self.meter.clause, clause
            await self.heavy(found.count, sink.add, found)
            self.meter.clause = outer_clause
        self.trace = outer
        if outer is not None:
            outer += together(traces)
        state.relations = [await self.heavy(0, gathered.relation, names)]

    def _multiplies(self, clause: Clause, state: State) -> bool:
        """Whether a clause may find several rows for one that is known, of which there are many."""
        if state.rows() <= _WORTH and state.width() <= _WIDE:
            return False
        if isinstance(clause, (Predicate, Not)):
            return False
        if isinstance(clause, Pattern):
            entity, key = clause.terms[:2]
            if not is_var(entity) or state.column_of(entity) is None:
                return True
            source = self.source(clause.source)
            attr = source.schema.by_key.get(key) if isinstance(source, View) else None
            return attr is None or attr.many or state.width() > _WIDE
        return True

    # -- the order -----------------------------------------------------------------------------

    def plan(self, clauses: Sequence[Clause], state: State) -> list[Step]:
        """Return the steps of a conjunction; those of the last time where nothing much changed."""
        # When a rule can be called depends on what it requires.
        parts: list[Any] = [id(clauses), id(self.rules.known), *state.consts]
        for relation in state.relations:
            parts.append(relation.count.bit_length())
            parts += relation.columns
        owners: list[Any] = [clauses, self.rules.known]
        for name, key in self._plans.attributes(clauses):
            source = self.source(name)
            if isinstance(source, View):
                schema = source.schema
                attr = schema.by_key.get(key) if key is not None else None
                if attr is not None:
                    # What has become resident can be looked at, and planned better.
                    stats = self.planner.stats(source)
                    size = int(stats.count(attr)).bit_length()
                    parts.append(-size if stats.resident(attr) else size)
                parts.append(id(schema))
                owners.append(schema)
            else:
                size = len(source) if hasattr(source, "__len__") else 0
                parts.append(size.bit_length())
        whole = tuple(parts)
        found = self._plans.get(whole)
        if found is None:
            found = self.planner.order(clauses, state.consts, _known(state))
            self._plans.put(whole, owners, found)
        return found

    # -- one clause ----------------------------------------------------------------------------

    async def _step(self, step: Step, state: State, rest: Sequence[Clause]) -> None:
        clause, meter = step.clause, self.meter
        outer, meter.clause = meter.clause, clause
        if isinstance(clause, (Not, Or)) and perf_counter() > self.watch.turn:
            # Each level goes over all that is below it, before anything is carried out.
            await self.pause()
        if self.trace is None:
            await self._anywhere(step, state, rest)
        else:
            await self._traced(step, state, rest)
        if state.relations:
            last = state.relations[-1]
            meter.rows(last.count, len(last.columns))
            if last.count > _WORTH and meter.limited:
                meter.holds(sum(relation.nbytes for relation in state.relations))
        if perf_counter() > self.watch.turn:
            await self.pause()
        meter.clause = outer

    async def _traced(self, step: Step, state: State, rest: Sequence[Clause]) -> None:
        assert self.trace is not None
        ran = Ran(step.clause, self._depth, step.rows if step.rows >= 0 else None)
        ran.bound = sorted({term_text(v) for v in variables_of([step.clause]) if state.bound(v)})
        self.trace.append(ran)
        waves: list[int] = []
        token = fetched.set(waves)
        self._depth += 1
        start = perf_counter()
        try:
            ran.operator = await self._anywhere(step, state, rest)
        finally:
            ran.seconds = perf_counter() - start
            self._depth -= 1
            fetched.reset(token)
            ran.nodes, ran.waves = sum(waves), len(waves)
            outer = fetched.get()
            if outer is not None:
                outer.extend(waves)
        ran.rows = 0 if state.empty else state.rows()
        ran.relations = [r.count for r in state.relations]

    async def _anywhere(self, step: Step, state: State, rest: Sequence[Clause]) -> str:
        """Carry out a clause, in a worker thread where it touches many rows."""
        clause, watch = step.clause, self.watch
        if self.host is None or watch.inside:
            return await self._one(clause, state, rest, step.part)
        large = self._is_large(step, state) if step.large is None else step.large
        if not large:
            step.large = False
            if not isinstance(clause, Pattern):
                # What it consists of runs here or there, each by itself.
                return await self._one(clause, state, rest)
            relations, before = state.relations.copy(), watch.begin()
            try:
                return await self._one(clause, state, rest, step.part)
            except Elsewhere:
                # It reads and joins alone, so it can begin anew; and in a thread the next time.
                state.relations = relations
                step.large = True
            finally:
                watch.movable = before
        # So many nodes and values come to live that the collector would stop everyone to see them.
        amount = self._amount(clause, state) if isinstance(clause, Pattern) else 0
        with set_aside() if amount >= _HUGE and step.part is None else nullcontext():
            return await watch.in_thread(lambda: self._one(clause, state, rest, step.part))

    def _is_large(self, step: Step, state: State) -> bool:
        clause = step.clause
        if isinstance(clause, (Predicate, Function)):
            return False  # calls of functions stay on the event loop, and pause
        rows = state.rows()
        if rows < LARGE and not self._many:
            return False
        if isinstance(clause, Pattern):
            rows += self._amount(clause, state)
        else:
            if rows <= SEEKS and any(map(state.bound, variables_of([clause]))):
                return False  # what is known bounds each of its steps, which are looked at alone
            for name, key in self._reads(clause):
                source = self.source(name)
                if isinstance(source, View):
                    rows += self._whole(source, key)
            rows *= 2
            plain = self.functions.is_builtin
            if rows >= LARGE and not plain_calls(clause, self.rules.rules, plain):
                return False
        # The more rows a step is thought to give, the more it may.
        return rows + 2 * step.rows >= LARGE

    def _amount(self, clause: Pattern, state: State) -> int:
        """Return about how many rows a pattern reads."""
        view = self.source(clause.source)
        if not isinstance(view, View):
            return 0
        terms = [state.consts.get(t, t) if is_var(t) else t for t in clause.terms]
        key = terms[1]
        if not isinstance(key, (Keyword, str)):
            return 0 if selects(view, clause.terms, state) else self._whole(view, None)
        attr = view.schema.by_key.get(key)
        if attr is None:
            return 0
        selected = rows_selected(self.planner.stats(view), attr, terms, state)
        return self._whole(view, key) if selected is None else int(selected)

    def _whole(self, view: View, key: Any) -> int:
        """Return about how many rows reading all of an attribute counts for; None: of all."""
        stats = self.planner.stats(view)
        if key is None:
            return 3 * int(stats.total())
        attr = view.schema.by_key.get(key)
        # What is not put together yet costs several times what comparing it does.
        return 0 if attr is None else int(stats.count(attr)) * (1 if stats.resident(attr) else 8)

    def _reads(self, clause: Clause) -> list[tuple[Symbol, Any]]:
        """Return the (source, attribute) pairs of a clause and of the rules that it calls."""
        out = attributes_of((clause,))
        if isinstance(clause, RuleCall):
            for source, key in self.rules.known.reads(clause.name):
                out.append((clause.source if source is DEFAULT_SOURCE else source, key))
        return out

    async def _one(
        self, clause: Clause, state: State, todo: Sequence[Clause], part: Part | None = None
    ) -> str:
        if isinstance(clause, Pattern):
            source = self.source(clause.source)
            if todo and not self._ahead and isinstance(source, View):
                attributes = read_whole(source, clause, todo, state)
                if attributes and read_together(source, attributes):
                    self._ahead = True
                    await fetch_attributes(source, attributes)
            return await match_pattern(source, clause, state, todo, part)
        if isinstance(clause, Predicate):
            self._need(clause, state)
            return await self.functions.predicate(clause, state)
        if isinstance(clause, Function):
            self._need(clause, state)
            return await self.functions.function(clause, state)
        if isinstance(clause, Not):
            return await self._not(clause, state)
        if isinstance(clause, Or):
            return await self._or(clause, state)
        return await self.rules.call(clause, state)

    def _need(self, clause: Predicate | Function, state: State) -> None:
        missing = [v for v in clause.inputs if not state.bound(v)]
        if missing:
            names = ", ".join(map(repr, dict.fromkeys(missing)))
            raise QueryError(
                f"Insufficient bindings: {names} not bound in "
                f"{call_text(clause.function, clause.args)}.",
                error=":query/where",
            )

    async def _not(self, clause: Not, state: State) -> str:
        variables = sorted(variables_of([clause]), key=repr)
        shared = [v for v in variables if state.bound(v)]
        if variables and not shared:
            raise QueryError(
                "Insufficient bindings: none of "
                f"{', '.join(map(repr, variables))} is bound outside of (not …).",
                error=":query/where",
            )
        columns = [v for v in shared if v not in state.consts]
        outer = await self.taken(state, columns)
        # What many rows must not match is found by itself: nothing of theirs is joined with it.
        seed = []
        if not columns or not self._alone(clause, outer.count):
            seed = [await self.heavy(outer.count, outer.project, columns)]
        inner = state.inner(self._visible(clause.variables, state), seed)
        await self.run(clause.clauses, inner, columns)
        found = await self.whole(inner, columns)
        left = outer
        if columns:
            left = await self.heavy(outer.count + found.count, without, outer, found)
        if not columns and found.count:
            left = outer.take(np.zeros(outer.count, np.bool_))
        state.relations.append(left)
        return "anti-join"

    def _alone(self, clause: Not, rows: int) -> bool:
        """Whether a branch is one pattern of an attribute with no more datoms than rows."""
        pattern = clause.clauses[0]
        if rows < _ALONE or len(clause.clauses) > 1 or not isinstance(pattern, Pattern):
            return False
        source, key = self.source(pattern.source), pattern.terms[1]
        attr = source.schema.by_key.get(key) if isinstance(source, View) else None
        if attr is None or is_var(key):
            return False
        return bool(self.planner.stats(source).count(attr) <= rows)

    def _visible(self, variables: Sequence[Symbol] | None, state: State) -> Mapping[Symbol, Any]:
        """Return the constants that a scope with a head sees."""
        if variables is None:
            return state.consts
        return {v: x for v, x in state.consts.items() if v in variables}

    async def _or(self, clause: Or, state: State) -> str:
        head = None if clause.variables is None else clause.required + clause.variables
        wanted = sorted(variables_of([clause]), key=repr) if head is None else list(head)
        bound = [v for v in wanted if state.bound(v) and v not in state.consts]
        seed = await self.taken(state, bound)
        consts = self._visible(head, state)
        if len(clause.branches) == 1 and head is None:
            inner = state.inner(consts, [seed])
            await self.run(clause.branches[0], inner)
            state.relations += inner.relations
            return "conjunction"
        known = await self.heavy(seed.count, seed.project, bound)
        columns = [v for v in wanted if v not in consts]
        parts = []
        for branch in clause.branches:
            inner = state.inner(consts, [known] if bound else [])
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
            parts.append(await self.whole(inner, columns))
        found = await self.heavy(sum(p.count for p in parts), union, parts, columns)
        if not columns:
            if not any(p.count for p in parts):
                seed = Relation(seed.columns, 0) if not seed.columns else seed.take(_none(seed))
            state.relations.append(seed)
            return "union"
        few = seed.count * found.count <= SMALL
        joined = await self.heavy(1 if few else 0, join, seed, found, self.meter)
        state.relations.append(joined)
        return "union"


def _uses(steps: Sequence[Step]) -> dict[Symbol, int]:
    """Return of each variable which step is the last to use it."""
    return {v: i for i, step in enumerate(steps) for v in variables_of((step.clause,))}


def _far_off(estimate: float, rows: int) -> bool:
    """Whether an estimate was so wrong that the rest should be planned again."""
    more, less = max(estimate, rows), min(estimate, rows)
    return more > 4 * _WORTH and more > _WRONG * max(less, 1.0)


def _known(state: State) -> list[Known]:
    out: list[Known] = []
    for relation in state.relations:
        rows = float(relation.count)
        out.append((rows, {v: min(rows, _values(c)) for v, c in relation.columns.items()}))
    return out


def _values(column: Column) -> float:
    return float(len(column) if column.dictionary is None else len(column.dictionary))


def _none(relation: Relation) -> Any:
    return np.zeros(relation.count, np.bool_)
