"""A parsed query and all that follows from it alone, whatever the data are."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Final

from datahike_async.edn.types import Symbol
from datahike_async.query.language.ast import (
    Aggregate,
    BindScalar,
    Function,
    Predicate,
    Pull,
    Query,
    RuleCall,
    is_var,
)
from datahike_async.query.language.builtin_rules import RULE_NAMES
from datahike_async.query.language.referring import Kept
from datahike_async.query.language.ruleset import RuleSet
from datahike_async.query.language.text import name_of
from datahike_async.query.language.where import calls_of, canonical, rules_called
from datahike_async.query.planning.plan import Plans
from datahike_async.query.reading.point import PointPlan, point_plan

__all__ = ["Calls", "Prepared"]

_FEW: Final = 16


# Functions and rules that are called.
Calls = Sequence[Predicate | Function | RuleCall]


class Prepared:
    """A parsed query and what follows from it alone; kept for the next call."""

    __slots__ = (
        "_checked",
        "builtin_rules",
        "names",
        "plans",
        "point",
        "query",
        "references",
        "scalars",
        "simple",
        "wanted",
    )

    def __init__(self, query: Query) -> None:
        query = self.query = replace(query, where=canonical(query.where))
        elements = query.find.elements
        self.names = tuple(map(name_of, elements))
        wanted: dict[Symbol, None] = {}
        for element in elements:
            if isinstance(element, Aggregate):
                wanted.update(dict.fromkeys(a for a in element.args if is_var(a)))
            else:
                wanted[element.variable if isinstance(element, Pull) else element] = None
        wanted.update(dict.fromkeys(query.with_))
        self.wanted = tuple(wanted)
        plain = not (query.order_by or query.offset or query.limit is not None)
        plain = plain and query.keys is None and query.timeout is None
        self.point: PointPlan | None = point_plan(query) if plain else None
        self.plans = Plans()
        # Whether inputs are single values, databases and rules alone.
        self.scalars = all(type(b) is BindScalar for b in query.ins)
        # Whether it is checked in no time.
        self.simple = len(query.where) < _FEW and not any(clause.children for clause in query.where)
        self.builtin_rules = rules_called(query.where) & RULE_NAMES
        # The rules that it was checked with, and what it calls, also in rules that it reaches.
        self._checked: tuple[RuleSet, Calls] | None = None
        # What ``references`` keeps of it.
        self.references: Kept | None = None

    def ordered(self, order_by: Sequence[tuple[int, bool]]) -> Prepared:
        """Return the same query in another order, which the call asks for."""
        out = copy(self)
        out.query = replace(self.query, order_by=order_by)
        return out

    def calls(self, rules: RuleSet) -> Calls | None:
        """Return what a query that was checked with these rules calls and may not be there."""
        last = self._checked
        return last[1] if last is not None and last[0] is rules else None

    def check(self, rules: RuleSet, bound: set[Symbol]) -> Calls:
        """Return all calls; raise QueryError where a variable cannot be bound, whatever the data.

        What is ``bound`` is the same in every run: ``:in`` says it.
        """
        rules.checker.check(self.query.where, bound)
        own = (*calls_of(self.query.where), *self.query.having)
        calls = (*own, *rules.calls(rules_called(self.query.where)))
        self._checked = (rules, calls)
        return calls

    def found(self, rules: RuleSet) -> None:
        """Say that all calls were of what is there; rules stay as long as these are given."""
        last = self._checked
        if last is not None and last[0] is rules:
            self._checked = (rules, tuple(c for c in last[1] if not isinstance(c, RuleCall)))
