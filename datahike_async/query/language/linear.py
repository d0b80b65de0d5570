"""Linear rules: those that are a transitive closure, told by their shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datahike_async.edn.types import Symbol
from datahike_async.query.language.ast import Clause, Pattern, RuleBranch, RuleCall, is_var
from datahike_async.query.language.where import rules_called, variables_of

__all__ = ["Linear", "linear_form"]


@dataclass(frozen=True, slots=True)
class Linear:
    """A rule that is a transitive closure. ``step`` is None where the base is its own step."""

    base: tuple[RuleBranch, ...]
    step: tuple[Clause, ...] | None
    ends: tuple[Symbol, Symbol]
    right: bool


def linear_form(branches: Sequence[RuleBranch], recursive: set[Symbol]) -> Linear | None:
    """Return the closure that a rule is, or None where it is something else."""
    name = branches[0].name
    if len(branches[0].head) != 2 or any(b.required for b in branches):
        return None
    base = tuple(b for b in branches if not _calls_any(b.clauses, recursive))
    rest = [b for b in branches if _calls_any(b.clauses, recursive)]
    if not base or len(rest) != 1 or not all(_generates(b.clauses, b.head) for b in base):
        return None
    branch = rest[0]
    x, y = branch.head
    calls = [c for c in branch.clauses if isinstance(c, RuleCall) and c.name in recursive]
    others = tuple(c for c in branch.clauses if c not in calls)
    if x is y or any(c.name is not name or c.source.text != "$" or len(c.args) != 2 for c in calls):
        return None
    if len(calls) == 2 and not others:
        for one, two in (calls, calls[::-1]):
            (a, t), (u, b) = one.args, two.args
            if a is x and b is y and t is u and is_var(t) and t not in (x, y):
                return Linear(base, None, (x, y), True)
        return None
    if len(calls) != 1 or _calls_any(others, recursive):
        return None
    a, b = calls[0].args
    names = variables_of(others)
    if len(base) == 1 and _shape(base[0].clauses, base[0].head) == _shape(
        others, (x, a) if b is y else (b, y)
    ):
        # The step is the base: the closure of one relation.
        if (b is y and a is not x and y not in names) or (a is x and b is not y and x not in names):
            return Linear(base, None, (x, y), True)
        return None
    if b is y and is_var(a) and a not in (x, y) and y not in names and {x, a} <= names:
        return Linear(base, others, (x, a), True) if _generates(others, (x, a)) else None
    if a is x and is_var(b) and b not in (x, y) and x not in names and {b, y} <= names:
        return Linear(base, others, (b, y), False) if _generates(others, (b, y)) else None
    return None


def _shape(clauses: Sequence[Clause], ends: Sequence[Any]) -> Any:
    """Return patterns with their variables numbered, so that renamed ones compare equal."""
    if not all(map(is_var, ends)) or ends[0] is ends[1]:
        return object()  # a constant, which may have no hash, is no end of a step
    names = {end: i for i, end in enumerate(ends)}
    if not all(isinstance(c, Pattern) for c in clauses):
        return object()
    return [
        (
            c.source,
            [names.setdefault(t, len(names)) if is_var(t) else (type(t), t) for t in c.terms],
        )
        for c in clauses
        if isinstance(c, Pattern)
    ]


def _calls_any(clauses: Sequence[Clause], names: set[Symbol]) -> bool:
    return not rules_called(clauses).isdisjoint(names)


def _generates(clauses: Sequence[Clause], variables: Sequence[Symbol]) -> bool:
    """Whether patterns alone bind all variables, so that nothing needs to flow in."""
    bound = {v for c in clauses if isinstance(c, Pattern) for v in c.gives}
    return set(variables) <= bound and variables_of(clauses) <= bound
