"""Rule calls: what is bound flows in as a seed, what is found flows out as a relation.

A rule that does not reach itself is run like an ``or-join``. A recursive one is solved by tables:
one for each rule and set of bound arguments, holding the demands made and the answers found, run
again until neither grows. That ends on every finite database, cyclic or not, whatever the order of
clauses. A plain transitive closure, the most frequent case, is recognised and walked breadth first.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError
from datahike_async.index.columns import Column
from datahike_async.query.language.ast import (
    BLANK,
    RuleBranch,
    RuleCall,
    is_var,
)
from datahike_async.query.language.ruleset import RuleSet, shown
from datahike_async.query.relations.joins import matching, semi, union, without
from datahike_async.query.relations.relation import (
    Relation,
    column_of,
    constant_mask,
    distinct,
    equal_mask,
    unit,
)
from datahike_async.query.relations.seen import Seen
from datahike_async.query.running.closure import Solve, closure

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State
    from datahike_async.query.running.run import Run

__all__ = ["Rules"]

_Key = tuple[Symbol, Symbol, tuple[int, ...]]


class _Table:
    """The demands made of one rule with certain arguments bound, and the answers so far.

    ``asked`` and ``found`` are what this round has added; ``new_demand`` and ``fresh`` what the
    round before did.
    """

    __slots__ = ("answers", "asked", "demand", "found", "fresh", "new_demand", "seen")

    def __init__(self, demand: Relation, variables: Sequence[Symbol]) -> None:
        nothing = Relation({v: Column.of([]) for v in variables}, 0)
        self.demand = demand
        self.asked = [demand]
        self.new_demand = nothing
        self.answers = nothing
        self.fresh = nothing
        self.found: list[Relation] = []
        self.seen = Seen(variables)

    def size(self) -> int:
        """Return the rows that the next turn goes over at most."""
        return self.answers.count + sum(part.count for part in (*self.found, *self.asked))

    def turn(self) -> bool:
        """Begin a round: what the last one added becomes new. Return whether it added any."""
        variables = list(self.answers.columns)
        seen, parts = self.seen, []
        for part in self.found:
            seen, new = seen.added(part)
            parts.append(new)
        fresh, answers = _stacked(parts, variables), self.answers
        if fresh.count:
            answers = _stacked([answers, fresh], variables)
        new_demand = _stacked(self.asked, list(self.demand.columns))
        # All at once, at the end: what is too much for the event loop begins anew.
        self.seen, self.fresh, self.answers, self.new_demand = seen, fresh, answers, new_demand
        self.asked, self.found = [], []
        return bool(self.fresh.count or self.new_demand.count)


def _stacked(parts: Sequence[Relation], variables: Sequence[Symbol]) -> Relation:
    """Put relations that share no row one upon the other."""
    parts = [p for p in parts if p.count]
    if len(parts) == 1:
        return parts[0]
    columns = {v: Column.concat([p.columns[v] for p in parts]) for v in variables}
    if not variables:
        return Relation({}, 1 if parts else 0)
    return Relation(columns, sum(p.count for p in parts))


# Made once and held: a symbol that nobody holds is made anew each time.
_ARGUMENTS: Final = tuple(Symbol(f"?__arg{i}") for i in range(32))


def position(i: int) -> Symbol:
    """Return the column name of a rule's i-th argument."""
    return _ARGUMENTS[i] if i < len(_ARGUMENTS) else Symbol(f"?__arg{i}")


class Rules:
    """The rules of one run. ``solve`` carries clauses out."""

    def __init__(self, run: Run, known: RuleSet, solve: Solve) -> None:
        self.run = run
        self._carry_out = solve
        self.rules = known.branches
        self.known = known
        self._tables: dict[_Key, _Table] | None = None
        self._circle: frozenset[Symbol] = frozenset()
        self._done: dict[_Key, tuple[Relation, Relation]] = {}

    def branches(self, clause: RuleCall) -> tuple[RuleBranch, ...]:
        """Return the definitions of a called rule; raise QueryError for an unknown one."""
        found = self.rules.get(clause.name)
        if found is None:
            near = get_close_matches(clause.name.text, [n.text for n in self.rules], 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise QueryError(
                f"Unknown rule '{clause.name}' in {shown(clause)}.{hint} Rules are passed as % "
                "in :in.",
                error=":query/where",
            )
        arity = len(found[0].head)
        if len(clause.args) != arity:
            raise QueryError(
                f"The rule {clause.name} takes {arity} arguments, {shown(clause)} has "
                f"{len(clause.args)}.",
                error=":query/where",
            )
        return found

    def ready(self, clause: RuleCall, state: State) -> bool:
        """Whether the required arguments of a call are bound."""
        self.branches(clause)
        return self.known.checker.ready(clause, state.variables())

    async def call(self, clause: RuleCall, state: State) -> str:
        """Join the answers of a rule call into ``state``, and return how they were found."""
        branches = self.branches(clause)
        heavy = self.run.heavy
        if clause.fresh:
            for_all = [t.fresh for t in self._tables_of(clause)]
            answers = await heavy(0, union, for_all, _positions(branches[0]))
            answers = await heavy(answers.count, self._constrained, clause, answers, state)
            found = await heavy(answers.count, self._named, clause, answers, state)
            await heavy(0, state.add, found)
            return "fresh answers"
        if branches[0].required and not self.ready(clause, state):
            missing = [a for a in clause.args if is_var(a) and not state.bound(a)]
            raise QueryError(
                f"Insufficient bindings: {', '.join(map(repr, missing))} not bound in "
                f"{shown(clause)}, whose rule requires it.",
                error=":query/where",
            )
        variables = [a for a in clause.args if is_var(a) and a not in state.consts]
        bound = [v for v in dict.fromkeys(variables) if state.bound(v)]
        if bound:
            outer = await self.run.taken(state, bound)
            seed = await heavy(outer.count, self._seed, clause, state, bound, outer)
        else:
            outer = unit()
            seed = self._seed(clause, state, bound, outer)
        answers = await self.answers(clause.source, clause.name, branches, seed)
        state.relations.append(outer)
        found = await heavy(answers.count, self._named, clause, answers, state)
        if bound:
            await heavy(0, state.add, found)
        else:
            state.add(found)  # nothing of it is known: there is nothing to join
        if clause.name not in self.known.recursive:
            return "rule"
        return "fixpoint" if self.known.linear(clause.name) is None else "closure"

    def _seed(
        self, clause: RuleCall, state: State, bound: list[Symbol], outer: Relation
    ) -> Relation:
        """Return what is known of the arguments of a call."""
        if not bound and all(is_var(a) and a not in state.consts for a in clause.args):
            return unit()  # nothing is known: all of the rule is asked for
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
        return Relation(columns, known.count)

    def _named(self, clause: RuleCall, answers: Relation, state: State) -> Relation:
        """Return the answers under the caller's variables; repeated ones unify."""
        columns: dict[Symbol, Column] = {}
        mask: Any = None
        for i, arg in enumerate(clause.args):
            if not is_var(arg) or arg in state.consts:
                continue
            column = answers.columns[position(i)]
            if arg in columns:
                same = equal_mask(columns[arg], column)
                mask = same if mask is None else mask & same
            else:
                columns[arg] = column
        if not columns:
            return Relation({}, 1 if answers.count else 0)
        if len(columns) == len(clause.args):
            # Answers are distinct, and nothing was left out or compared.
            return Relation(columns, answers.count)
        found = Relation(columns, answers.count)
        return distinct(found if mask is None else found.take(mask))

    def _constrained(self, clause: RuleCall, answers: Relation, state: State) -> Relation:
        """Return the answers that agree with the constants of a call."""
        for i, arg in enumerate(clause.args):
            if arg is not BLANK and (not is_var(arg) or arg in state.consts):
                value = state.consts[arg] if is_var(arg) else arg
                value = tuple(value) if type(value) is list else value
                answers = answers.take(constant_mask(answers.columns[position(i)], value))
        return answers

    # -- answers -------------------------------------------------------------------------------

    async def answers(
        self, source: Symbol, name: Symbol, branches: Sequence[RuleBranch], seed: Relation
    ) -> Relation:
        """Return what a rule holds for, restricted to the bound arguments in ``seed``."""
        if name not in self.known.recursive:
            parts = [await self._branch(source, branch, seed) for branch in branches]
            rows = sum(p.count for p in parts)
            return await self.run.heavy(rows, union, parts, _positions(branches[0]))
        key = (source, name, _bound_positions(seed, branches[0]))
        if self._tables is not None and name in self._circle:
            return await self.run.heavy(0, self._ask, key, seed, branches[0])
        return await self._complete(key, branches[0], seed)

    async def _complete(self, key: _Key, branch: RuleBranch, seed: Relation) -> Relation:
        """Return all answers for ``seed``; what was solved once in this query is remembered."""
        variables = _positions(branch)
        done = self._done.get(key)
        missing = seed
        if done is not None and seed.columns:
            missing = await self.run.heavy(seed.count + done[0].count, without, seed, done[0])
        if done is None or (seed.columns and missing.count):
            if not missing.count:
                return Relation({v: Column.of([]) for v in variables}, 0)
            linear = self.known.linear(key[1])
            if linear is not None:
                answers = await closure(self.run, self._carry_out, linear, key[0], missing)
            else:
                answers = await self._solved(key, branch, missing)
            if done is not None:
                missing = _stacked([done[0], missing], list(seed.columns))
                answers = await self.run.heavy(0, union, [done[1], answers], variables)
            done = self._done[key] = (missing, answers)
        if not seed.columns:
            return done[1]
        return await self.run.heavy(done[1].count + seed.count, matching, done[1], seed)

    async def _solved(self, key: _Key, branch: RuleBranch, seed: Relation) -> Relation:
        # A rule that is called from the recursion of others is solved apart from them.
        outside = self._tables, self._circle
        self._tables, self._circle = {}, self.known.circle[key[1]]
        try:
            self._ask(key, seed, branch)
            await self._solve()
            # The table also answers the demands that the recursion made.
            answers = self._tables[key].answers
            if not seed.columns:
                return answers
            return await self.run.heavy(answers.count + seed.count, matching, answers, seed)
        finally:
            self._tables, self._circle = outside

    def _ask(self, key: _Key, seed: Relation, branch: RuleBranch) -> Relation:
        """Add a demand to a table and return the answers it has so far."""
        assert self._tables is not None
        table = self._tables.get(key)
        if table is None:
            seed = distinct(seed)
            self._tables[key] = table = _Table(seed, _positions(branch))
            return table.answers
        if not seed.columns:
            return table.answers
        more = semi(distinct(seed), table.demand, keep=False)
        demand = table.demand
        if more.count:
            demand = _stacked([demand, more], list(seed.columns))
        answers = semi(table.answers, seed, keep=True)
        if more.count:
            table.asked.append(more)
            table.demand = demand
        return answers

    def fresh_count(self, clause: RuleCall) -> int:
        """Return how many answers of the called rule the last round added."""
        return sum(t.fresh.count for t in self._tables_of(clause))

    def _tables_of(self, clause: RuleCall) -> list[_Table]:
        tables = self._tables or {}
        return [t for k, t in tables.items() if k[0] is clause.source and k[1] is clause.name]

    async def _solve(self) -> None:
        """Run round after round until none adds a demand or an answer.

        A round joins what the last one added with all that is known: every new answer follows from
        at least one that is fresh, or from a new demand.
        """
        assert self._tables is not None
        for number in count(1):
            self.run.meter.round(number)
            tables = list(self._tables.items())
            grown = [await self.run.heavy(table.size(), table.turn) for _, table in tables]
            if not any(grown):
                return
            total = 0
            for (source, name, _), table in tables:
                total += table.answers.count
                for branch, variants, nested in self.known.rounds(name):
                    if nested:
                        table.found.append(await self._branch(source, branch, table.demand))
                        continue
                    if table.new_demand.count:
                        found = await self._branch(source, branch, table.new_demand)
                        table.found.append(found)
                    for variant in variants:
                        if self._has_fresh(variant, source):
                            found = await self._branch(source, variant, table.demand)
                            table.found.append(found)
            # Rules that make new values may go on without end.
            self.run.meter.rows(total)

    def _has_fresh(self, branch: RuleBranch, source: Symbol) -> bool:
        for clause in branch.clauses:
            if isinstance(clause, RuleCall) and clause.fresh:
                called = clause.reading_from(source)
                assert isinstance(called, RuleCall)
                return self.fresh_count(called) > 0
        return True

    async def _branch(self, source: Symbol, branch: RuleBranch, seed: Relation) -> Relation:
        """Run one definition with what is bound and return its rows by argument position."""
        heavy = self.run.heavy
        start = await heavy(seed.count, _bound, branch, seed)
        state = self.run.state({}, [start] if start.columns else [])
        await self._carry_out(self.known.body(branch, source), state, branch.head)
        head = list(dict.fromkeys(branch.head))
        found = None
        if not state.empty:
            bound = [v for v in head if state.bound(v)]
            found = await heavy(_rows_of(state), state.whole, bound)
        if found is None or not found.count:
            return Relation({position(i): Column.of([]) for i in range(len(branch.head))}, 0)
        missing = [v for v in head if v not in found.columns]
        if missing:
            raise QueryError(
                f"The rule {branch.name} leaves {missing[0]!r} unbound.", error=":query/where"
            )
        named = {position(i): found.columns[v] for i, v in enumerate(branch.head)}
        return Relation(named, found.count)


def _bound(branch: RuleBranch, seed: Relation) -> Relation:
    """Return the bound arguments of a call under the names that a branch has for them."""
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
    return distinct(start.take(mask)) if columns else start


def _rows_of(state: State) -> int:
    """Return the rows that putting a state together gives at most; 0 where they may be many."""
    return state.relations[0].count if len(state.relations) == 1 else 0


def _positions(branch: RuleBranch) -> list[Symbol]:
    return [position(i) for i in range(len(branch.head))]


def _bound_positions(seed: Relation, branch: RuleBranch) -> tuple[int, ...]:
    if not seed.columns:
        return ()
    return tuple(i for i in range(len(branch.head)) if position(i) in seed.columns)
