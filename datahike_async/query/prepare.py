"""Queries and rules parsed, checked and kept: by text, or by the structure of their data.

Knows nothing of databases: what is kept here holds for all of them.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.looks import STEP, tally
from datahike_async.query.language.parse import parse_query
from datahike_async.query.language.ruleset import RuleSet
from datahike_async.query.language.where import parse_rules
from datahike_async.query.running.prepared import Prepared

if TYPE_CHECKING:
    pass

__all__ = ["NO_RULES", "SHORT", "prepare", "rules_of"]


_PLANS: Final = 512
# Characters of a text that is parsed in less than a millisecond, and of one that is kept.
SHORT: Final = 2_000
_LONGEST: Final = 100_000
_FEW: Final = 16


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
