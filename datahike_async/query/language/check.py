"""Whether the variables of a query can be bound at all, decided before any data is read.

A query that lacks a binding fails on every database alike, also on an empty one, and clauses that
need bindings wait for the others however they are written. Knows clauses and rules, no data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Final

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.looks import tally
from datahike_async.query.language.ast import (
    Clause,
    Function,
    Not,
    Or,
    Predicate,
    RuleBranch,
    RuleCall,
    is_var,
)
from datahike_async.query.language.text import call_text
from datahike_async.query.language.where import variables_of

__all__ = ["Checker"]

# What checking a clause counts for, in looks at the clock.
_CHECKED: Final = 256


class Checker:
    """Binding analysis under one set of rules."""

    __slots__ = ("_known", "_rules")

    def __init__(self, rules: Mapping[Symbol, Sequence[RuleBranch]]) -> None:
        self._rules = rules
        self._known: dict[tuple[Symbol, frozenset[int]], bool] = {}

    def check(self, clauses: Sequence[Clause], bound: Collection[Symbol]) -> None:
        """Raise QueryError ``:query/where`` where ``clauses`` cannot all be carried out."""
        stuck = self._stuck(clauses, set(bound))
        if stuck:
            left = set(map(id, stuck))
            known = {*bound, *_bindable(c for c in clauses if id(c) not in left)}
            raise self._error(stuck[0], known)

    def ready(self, clause: Clause, bound: set[Symbol]) -> bool:
        """Whether an ``or`` or a rule call has all bindings that its branches need."""
        return self._ready(clause, bound, frozenset())

    def _stuck(self, clauses: Sequence[Clause], bound: set[Symbol]) -> list[Clause]:
        """Return the clauses that never become ready; add to ``bound`` what the others bind."""
        # Each is looked at again when a variable of its own gets a value.
        watching: dict[Symbol, list[int]] = {}
        done = [False] * len(clauses)
        waits = [False] * len(clauses)
        bindable = _bindable(clauses)
        queue = deque(range(len(clauses)))
        while queue:
            tally(_CHECKED)
            i = queue.popleft()
            if done[i]:
                continue
            clause = clauses[i]
            if self._ready(clause, bound, bindable):
                done[i] = True
                new = _bindable((clause,)) - bound
                bound |= new
                for v in new:
                    queue.extend(watching.pop(v, ()))
            elif not waits[i]:
                waits[i] = True
                for v in variables_of((clause,)):
                    watching.setdefault(v, []).append(i)
        return [c for i, c in enumerate(clauses) if not done[i]]

    def _ready(self, clause: Clause, bound: set[Symbol], later: Set[Symbol]) -> bool:
        """Whether a clause can be carried out; ``later`` are variables that others give values."""
        if any(v not in bound for v in clause.inputs):
            return False
        if isinstance(clause, Not):
            variables = variables_of((clause,))
            if any(v in later and v not in bound for v in variables):
                return False
            if variables and variables.isdisjoint(bound):
                return False
            return not self._stuck(clause.clauses, variables & bound)
        if isinstance(clause, Or):
            variables = variables_of((clause,))
            for branch in clause.branches:
                here = variables & bound
                if self._stuck(branch, here) or not variables <= here:
                    return False
            return True
        if not isinstance(clause, RuleCall):
            return True
        branches = self._rules.get(clause.name)
        if branches is None or len(branches[0].head) != len(clause.args):
            return True  # the call itself says what is wrong
        known = (i for i, a in enumerate(clause.args) if not _free(a, bound))
        return self._rule(clause.name, branches, frozenset(known))

    def _rule(self, name: Symbol, branches: Sequence[RuleBranch], known: frozenset[int]) -> bool:
        key = (name, known)
        found = self._known.get(key)
        if found is not None:
            return found
        # A recursive call is taken to be fine: what it lacks, the branches outside lack too.
        taken = len(self._known)
        self._known[key] = True
        fine = False
        try:
            fine = all(self._branch(branch, known) for branch in branches)
        finally:
            # Also where this was stopped.
            if not fine:
                self._forget(taken)
        self._known[key] = fine
        return fine

    def _branch(self, branch: RuleBranch, known: frozenset[int]) -> bool:
        bound = {branch.head[i] for i in known}
        return (
            all(v in bound for v in branch.required)
            and not self._stuck(branch.clauses, bound)
            and bound.issuperset(branch.head)
        )

    def _forget(self, taken: int) -> None:
        """Forget what was found to be fine meanwhile: it may have counted on a rule that is not."""
        for other in [*self._known][taken:]:
            if self._known[other]:
                del self._known[other]

    def _error(self, clause: Clause, bound: set[Symbol]) -> QueryError:
        variables = sorted(variables_of((clause,)), key=repr)
        if isinstance(clause, (Predicate, Function)):
            missing = [v for v in dict.fromkeys(clause.inputs) if v not in bound]
            call = call_text(clause.function, clause.args)
            text = f"{_listed(missing)} not bound in {call}."
        elif isinstance(clause, Not):
            if variables and bound.isdisjoint(variables):
                text = (
                    f"none of {_listed(variables)} is bound outside of (not …); bind one beside it."
                )
            else:
                here = bound & set(variables)
                stuck = self._stuck(clause.clauses, here)
                return self._error(stuck[0], here) if stuck else _insufficient(_listed(variables))
        elif isinstance(clause, Or):
            missing = [v for v in clause.required if v not in bound]
            if missing:
                text = f"{_listed(missing)} should be bound outside of (or-join …)."
            else:
                return self._or_error(clause, variables, bound)
        elif isinstance(clause, RuleCall):
            missing = [a for a in clause.args if is_var(a) and a not in bound]
            call = call_text(clause.name, clause.args)
            text = f"{_listed(missing)} not bound in {call}, whose rule requires it."
        else:
            text = f"{_listed(variables)}."
        return _insufficient(text)

    def _or_error(self, clause: Or, variables: list[Symbol], bound: set[Symbol]) -> QueryError:
        for branch in clause.branches:
            here = bound & set(variables)
            stuck = self._stuck(branch, here)
            if stuck:
                return self._error(stuck[0], here)
            missing = [v for v in variables if v not in here]
            if missing:
                return QueryError(
                    "All branches of (or …) should bind the same variables; "
                    f"{shown(missing[0])} is missing in one. Use or-join to say which are shared.",
                    error=":query/where",
                )
        return _insufficient(_listed(variables))


def _insufficient(text: str) -> QueryError:
    return QueryError(f"Insufficient bindings: {text}", error=":query/where")


def _listed(variables: Iterable[Symbol]) -> str:
    return ", ".join(map(repr, variables))


def _free(arg: object, bound: Collection[Symbol]) -> bool:
    """Whether an argument of a rule call says nothing: a blank, or a variable without a value."""
    return type(arg) is Symbol and (arg.text == "_" or (is_var(arg) and arg not in bound))


def _bindable(clauses: Iterable[Clause]) -> set[Symbol]:
    return variables_of(c for c in clauses if not c.filters)
