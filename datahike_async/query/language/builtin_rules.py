"""Rules that every query can call without bringing them: valid time, and relations of intervals.

They are injected where a query, or one of its rules, calls one by name; a rule of the user's with
the same name stands before ours. All intervals are half-open: they hold their start, not their end.

Valid time is what transaction entities say with ``:db.valid/from`` and ``:db.valid/to``. Without
an end a transaction is valid from its start on; without a start these rules do not see it. The
relations of intervals take two intervals as four values of any one type that has an order.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

from datahike_async.edn.reader import read
from datahike_async.edn.types import Symbol
from datahike_async.query.language.ast import RuleBranch
from datahike_async.query.language.where import parse_clauses

__all__ = ["BUILTIN_RULES", "RULE_NAMES", "builtin_rules"]

_WINDOW: Final = """[?tx :db.valid/from ?start]
  [(get-else $ ?tx :db.valid/to #inst "9999-12-31T23:59:59.999Z") ?end]"""

_VALID_TIME: Final = {
    "valid-at": (
        "?tx ?at",
        f"{_WINDOW} [(<= ?start ?at)] [(< ?at ?end)]",
        "The transaction ?tx is valid at the instant ?at.",
    ),
    "valid-between": (
        "?tx ?from ?to",
        f"{_WINDOW} [(< ?start ?to)] [(< ?from ?end)]",
        "The validity of ?tx and the time from ?from to ?to share an instant.",
    ),
    "valid-during": (
        "?tx ?from ?to",
        f"{_WINDOW} [(<= ?from ?start)] [(<= ?end ?to)]",
        "The validity of ?tx lies within ?from and ?to.",
    ),
    "period-overlaps?": ("?tx ?from ?to", "(valid-between ?tx ?from ?to)", "As `valid-between`."),
}

# A is [?a, ?b), B is [?c, ?d).
_INTERVALS: Final = {
    "overlaps": ("[(< ?a ?d)] [(< ?c ?b)]", "A and B share a point."),
    "equals": ("[(= ?a ?c)] [(= ?b ?d)]", "Both have the same ends."),
    "contains": ("[(<= ?a ?c)] [(<= ?d ?b)]", "B lies within A; ends may be shared."),
    "strictly-contains": ("[(< ?a ?c)] [(< ?d ?b)]", "B lies within A; no end is shared."),
    "precedes": ("[(<= ?b ?c)]", "A ends before or where B starts."),
    "strictly-precedes": ("[(< ?b ?c)]", "A ends before B starts, with a gap."),
    "immediately-precedes": ("[(= ?b ?c)]", "A ends where B starts."),
    "succeeds": ("[(<= ?d ?a)]", "A starts where or after B ends."),
    "strictly-succeeds": ("[(< ?d ?a)]", "A starts after B ends, with a gap."),
    "immediately-succeeds": ("[(= ?d ?a)]", "A starts where B ends."),
    "meets": (
        "(interval-immediately-precedes? ?a ?b ?c ?d)",
        "As `interval-immediately-precedes?`.",
    ),
    "starts": ("[(= ?a ?c)] [(< ?b ?d)]", "Same start; A ends first."),
    "started-by": ("[(= ?a ?c)] [(< ?d ?b)]", "Same start; B ends first."),
    "finishes": ("[(= ?b ?d)] [(< ?c ?a)]", "Same end; A starts last."),
    "finished-by": ("[(= ?b ?d)] [(< ?a ?c)]", "Same end; B starts last."),
}

BUILTIN_RULES: Final[Mapping[str, tuple[str, str, str]]] = {
    **_VALID_TIME,
    **{
        f"interval-{name}?": ("?a ?b ?c ?d", body, meaning)
        for name, (body, meaning) in _INTERVALS.items()
    },
}
"""Name, variables of the head, body as EDN text, and what it says."""

RULE_NAMES: Final = frozenset(map(Symbol, BUILTIN_RULES))


@cache
def builtin_rules() -> Mapping[Symbol, tuple[RuleBranch, ...]]:
    """Return the rules, parsed when first asked for."""
    out = {}
    for name, (head, body, _) in BUILTIN_RULES.items():
        symbol, variables = Symbol(name), tuple(map(Symbol, head.split()))
        # Not as text of a whole rule: some ends of intervals say nothing, and stand in no body.
        out[symbol] = (RuleBranch(symbol, (), variables, parse_clauses(read(f"[{body}]"))),)
    return out
