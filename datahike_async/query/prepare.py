"""Queries and rules parsed, checked and kept: by text, or by the structure of their data.

Knows nothing of databases: what is kept here holds for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.looks import STEP, tally
from datahike_async.query.answer.result import name_of
from datahike_async.query.language.ast import (
    Aggregate,
    BindScalar,
    Function,
    Not,
    Or,
    Predicate,
    Pull,
    Query,
    RuleCall,
    is_var,
)
from datahike_async.query.language.builtin_rules import RULE_NAMES
from datahike_async.query.language.parse import parse_query
from datahike_async.query.language.ruleset import RuleSet, calls_in
from datahike_async.query.language.where import calls_of, canonical, parse_rules
from datahike_async.query.planning.plan import Plans
from datahike_async.query.reading.point import PointPlan, point_plan

if TYPE_CHECKING:
    from datahike_async.query.reading.references import Kept

__all__ = ["NO_RULES", "SHORT", "Prepared", "prepare", "rules_of"]

# Functions and rules that are called.
Calls = Sequence[Predicate | Function | RuleCall]

_PLANS: Final = 512
# Characters of a text that is parsed in less than a millisecond, and of one that is kept.
SHORT: Final = 2_000
_LONGEST: Final = 100_000
_FEW: Final = 16


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
        self.simple = len(query.where) < _FEW and not any(
            isinstance(clause, (Not, Or)) for clause in query.where
        )
        self.builtin_rules = calls_in(query.where) & RULE_NAMES
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
        calls = (*own, *rules.calls(calls_in(self.query.where)))
        self._checked = (rules, calls)
        return calls

    def found(self, rules: RuleSet) -> None:
        """Say that all calls were of what is there; rules stay as long as these are given."""
        last = self._checked
        if last is not None and last[0] is rules:
            self._checked = (rules, tuple(c for c in last[1] if not isinstance(c, RuleCall)))


@lru_cache(_PLANS)
def _prepared_text(text: str) -> Prepared:
    return Prepared(parse_query(text))


@lru_cache(_PLANS)
def _rules_text(text: str) -> RuleSet:
    return RuleSet(parse_rules(text))


NO_RULES: Final = RuleSet({})
_rules_data: dict[Any, RuleSet] = {}


def rules_of(given: Any) -> RuleSet:
    """Return parsed rules, kept from the last time they were given."""
    if type(given) is str:
        return _rules_text(given) if len(given) <= _LONGEST else RuleSet(parse_rules(given))
    try:
        key = _frozen(given)
    except (TypeError, RecursionError):
        return RuleSet(parse_rules(given))
    found = _rules_data.get(key)
    if found is None:
        found = RuleSet(parse_rules(given))
        if len(_rules_data) >= _PLANS:
            _rules_data.clear()
        _rules_data[key] = found
    return found


_prepared_data: dict[Any, Prepared] = {}
_LEAVES: Final = frozenset({int, float, bool, bytes, UUID, datetime, type(None)})


def _frozen(form: Any) -> Any:
    """Return a key that is equal for equal query data only; raise TypeError for what has none."""
    kind = type(form)
    if kind is str or kind is Keyword or kind is Symbol:
        return form
    if kind is list or kind is tuple:
        tally(STEP * len(form))
        return (kind, *map(_frozen, form))
    if kind is dict:
        return (dict, *((_frozen(k), _frozen(v)) for k, v in form.items()))
    if kind in _LEAVES:
        return (kind, form)
    raise TypeError(kind.__name__)


def is_short(query: Any) -> bool:
    """Whether parsing takes no time to speak of; what is data must be walked to know."""
    return type(query) is str and len(query) <= SHORT


def prepare(query: Any) -> Prepared:
    """Return the parsed query, kept from the last time it was given."""
    if type(query) is str:
        if len(query) > _LONGEST:
            return Prepared(parse_query(query))
        return _prepared_text(query)
    try:
        key = _frozen(query)
    except (TypeError, RecursionError):
        return Prepared(parse_query(query))
    found = _prepared_data.get(key)
    if found is None:
        found = Prepared(parse_query(query))
        if len(_prepared_data) >= _PLANS:
            _prepared_data.clear()
        _prepared_data[key] = found
    return found
