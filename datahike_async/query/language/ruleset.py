"""Rules as they are known before any query runs them: who calls whom, and in which shape.

Nothing here reads data; a RuleSet is kept and shared by all queries that bring the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError
from datahike_async.query.language.ast import (
    DEFAULT_SOURCE,
    Clause,
    Function,
    Not,
    Predicate,
    RuleBranch,
    RuleCall,
)
from datahike_async.query.language.builtin_rules import RULE_NAMES, builtin_rules
from datahike_async.query.language.check import Checker
from datahike_async.query.language.linear import Linear, linear_form
from datahike_async.query.language.places import ATTRIBUTE, Constants, Places, rule_places, walked
from datahike_async.query.language.text import call_text
from datahike_async.query.language.where import attributes_of, calls_of, canonical, rules_called

__all__ = ["RuleSet", "shown"]


class RuleSet:
    """Parsed rules, and what follows from them alone; kept for every query that brings them."""

    __slots__ = (
        "_bodies",
        "_complete",
        "_linear",
        "_places",
        "_reads",
        "_rounds",
        "branches",
        "checker",
        "circle",
        "recursive",
    )

    def __init__(self, branches: Mapping[Symbol, tuple[RuleBranch, ...]]) -> None:
        called = {n for found in branches.values() for b in found for n in rules_called(b.clauses)}
        if not RULE_NAMES.isdisjoint(called - branches.keys()):
            branches = {**builtin_rules(), **branches}
        branches = {
            name: tuple(replace(b, clauses=canonical(b.clauses)) for b in found)
            for name, found in branches.items()
        }
        self.branches: Mapping[Symbol, tuple[RuleBranch, ...]] = branches
        # The rules that call one another in a circle with each recursive one.
        self.circle = _circles(branches)
        self.recursive = set(self.circle)
        self.checker = Checker(branches)
        self._complete: RuleSet | None = None
        self._linear: dict[Symbol, Linear | None] = {}
        self._places: Mapping[Symbol, tuple[Places, ...]] | None = None
        self._reads: dict[Symbol, list[tuple[Symbol, Any]]] = {}
        self._bodies: dict[tuple[int, Symbol], tuple[RuleBranch, tuple[Clause, ...]]] = {}
        self._rounds: dict[Symbol, list[tuple[RuleBranch, list[RuleBranch], bool]]] = {}
        for name in self.recursive:
            for branch in branches[name]:
                self._refuse_negation(name, branch.clauses, negated=False)

    def completed(self, called: Set[Symbol]) -> RuleSet:
        """Return these rules with the built-in ones, where names in ``called`` are only there.

        It is the same object every time.
        """
        if called <= self.branches.keys():
            return self
        if self._complete is None:
            self._complete = RuleSet({**builtin_rules(), **self.branches})
        return self._complete

    def _refuse_negation(self, name: Symbol, clauses: Sequence[Clause], *, negated: bool) -> None:
        for clause in clauses:
            if negated and isinstance(clause, RuleCall) and clause.name in self.circle[name]:
                raise QueryError(
                    f"The rule {name} depends on itself through (not …) in {shown(clause)}, "
                    "which has no well-defined answer.",
                    error=":parser/rule",
                )
            inside = negated or isinstance(clause, Not)
            for inner in clause.children:
                self._refuse_negation(name, inner, negated=inside)

    def rounds(self, name: Symbol) -> list[tuple[RuleBranch, list[RuleBranch], bool]]:
        """Return the branches of a recursive rule as they are run round by round.

        With each branch its variants in which one recursive call stands for fresh answers only;
        and whether a recursive call is nested, so that only running all of it again will do.
        """
        found = self._rounds.get(name)
        if found is None:
            circle = self.circle[name]
            found = self._rounds[name] = []
            for branch in self.branches[name]:
                variants = []
                nested = False
                for i, clause in enumerate(branch.clauses):
                    if isinstance(clause, RuleCall):
                        if clause.name in circle:
                            one = replace(clause, fresh=True)
                            clauses = (*branch.clauses[:i], one, *branch.clauses[i + 1 :])
                            variants.append(replace(branch, clauses=clauses))
                    elif rules_called((clause,)) & circle:
                        nested = True
                found.append((branch, variants, nested))
        return found

    def calls_circle(self, name: Symbol, branch: RuleBranch) -> bool:
        """Whether a branch of a recursive rule takes part in its recursion."""
        return not self.circle[name].isdisjoint(rules_called(branch.clauses))

    def body(self, branch: RuleBranch, source: Symbol) -> tuple[Clause, ...]:
        """Return the clauses of a branch, reading from ``source``; the same object every time."""
        if source is DEFAULT_SOURCE:
            return branch.clauses
        key = (id(branch), source)
        found = self._bodies.get(key)
        if found is None or found[0] is not branch:
            clauses = tuple(c.reading_from(source) for c in branch.clauses)
            found = self._bodies[key] = (branch, clauses)
        return found[1]

    def reads(self, name: Symbol) -> list[tuple[Symbol, Any]]:
        """Return the (source, attribute) pairs that a rule, and the rules it reaches, read."""
        found = self._reads.get(name)
        if found is None:
            called = {name, *_reached(self.branches, name)}
            bodies = (b.clauses for n in called for b in self.branches.get(n, ()))
            found = self._reads[name] = list(
                dict.fromkeys(pair for body in bodies for pair in attributes_of(body))
            )
        return found

    def calls(self, names: Iterable[Symbol]) -> list[Predicate | Function | RuleCall]:
        """Return all calls in the bodies of rules, and of the rules that they reach."""
        reached = {n for name in names for n in (name, *_reached(self.branches, name))}
        return [c for n in reached for b in self.branches.get(n, ()) for c in calls_of(b.clauses)]

    def places(self, name: Symbol) -> tuple[Places, ...]:
        """Return where the arguments of a rule stand, in it and in the rules that it reaches."""
        if self._places is None:
            self._places = rule_places(self.branches)
        return self._places.get(name, ())

    def attribute_arguments(self, name: Symbol) -> list[int]:
        """Return the numbers of a rule's arguments that name attributes."""
        return [i for i, places in enumerate(self.places(name)) if ATTRIBUTE in places]

    def hold_references(self, names: Iterable[Symbol]) -> bool:
        """Whether the bodies of rules, or of those they reach, may hold references as constants."""
        found = Constants(self.places)
        reached = {n for name in names for n in (name, *_reached(self.branches, name))}
        for called in reached:
            for branch in self.branches.get(called, ()):
                walked(branch.clauses, found)
        return found.found

    def linear(self, name: Symbol) -> Linear | None:
        """Return the closure that a recursive rule is, or None."""
        if name not in self._linear:
            self._linear[name] = linear_form(self.branches[name], self.recursive)
        return self._linear[name]


def shown(clause: RuleCall) -> str:
    """Return a rule call as it is written."""
    return call_text(clause.name, clause.args)


def _circles(rules: Mapping[Symbol, Sequence[RuleBranch]]) -> dict[Symbol, frozenset[Symbol]]:
    """Return for each rule that can call itself the rules of its circle, itself among them.

    The strongly connected components of who calls whom (Tarjan's algorithm, without recursion).
    """
    calls = {
        name: sorted({c for b in found for c in rules_called(b.clauses) if c in rules}, key=repr)
        for name, found in rules.items()
    }
    out: dict[Symbol, frozenset[Symbol]] = {}
    number: dict[Symbol, int] = {}
    lowest: dict[Symbol, int] = {}
    open_: dict[Symbol, None] = {}
    for root in calls:
        path = [] if root in number else [root]
        rest = {root: iter(calls[root])}
        while path:
            name = path[-1]
            if name not in number:
                number[name] = lowest[name] = len(number)
                open_[name] = None
            for called in rest[name]:
                if called not in number:
                    path.append(called)
                    rest[called] = iter(calls[called])
                    break
                if called in open_:
                    lowest[name] = min(lowest[name], number[called])
            else:
                path.pop()
                if path:
                    lowest[path[-1]] = min(lowest[path[-1]], lowest[name])
                if lowest[name] == number[name]:
                    circle = [open_.popitem()[0]]
                    while circle[-1] is not name:
                        circle.append(open_.popitem()[0])
                    if len(circle) > 1 or name in calls[name]:
                        out.update(dict.fromkeys(circle, frozenset(circle)))
    return out


def _reached(rules: Mapping[Symbol, Sequence[RuleBranch]], name: Symbol) -> set[Symbol]:
    """Return the rules that can be called from ``name``."""
    seen: set[Symbol] = set()
    stack = [name]
    while stack:
        for branch in rules.get(stack.pop(), ()):
            for called in rules_called(branch.clauses):
                if called not in seen:
                    seen.add(called)
                    stack.append(called)
    return seen
