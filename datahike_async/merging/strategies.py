"""Who of two values wins: strategies, which are said in the schema (``:db.merge/strategy``)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from datahike_async.edn.types import Keyword
from datahike_async.errors import ArgumentError, TransactionError, shown
from datahike_async.functions import lookup_function
from datahike_async.merging.changes import Value
from datahike_async.snapshot.views import View
from datahike_async.values.order import sort_key
from datahike_async.values.schema import MERGE_STRATEGY, STRATEGIES, TX_INSTANT
from datahike_async.values.types import typed_key

__all__ = ["BOTH", "LATEST", "UNDECIDED", "called", "instants", "strategy_of", "winner"]

BOTH: Final = Keyword("db.merge/both")
LATEST: Final = Keyword("db.merge/latest")
_MAX: Final = Keyword("db.merge/max")
UNDECIDED: Final = object()
"""What a strategy answers that does not know."""


def strategy_of(ident: Keyword, base: View, ours: View, theirs: View) -> Keyword | None:
    """Return the strategy of an attribute, as the merge leaves it. Raises NodeMiss."""
    before, here, there = (_said(ident, view) for view in (base, ours, theirs))
    return there if here is before else here


def _said(ident: Keyword, view: View) -> Keyword | None:
    by_key = view.schema.by_key
    attr, strategy = by_key.get(ident), by_key.get(MERGE_STRATEGY)
    if attr is None or attr.eid is None or strategy is None:
        return None
    found = view.values(attr.eid, strategy.id)
    return found[0] if found else None


def instants(view: View, txs: set[int]) -> dict[int, datetime]:
    """Return when transactions of a state were, as far as it knows. Raises NodeMiss."""
    attr = view.schema.by_key[TX_INSTANT].id
    found = {tx: view.values(tx, attr) for tx in txs}
    return {tx: values[0] for tx, values in found.items() if values}


def winner(
    strategy: Keyword,
    base: Value | None,
    ours: Value | None,
    theirs: Value | None,
    when: tuple[Mapping[int, datetime], Mapping[int, datetime]],
) -> Any:
    """Return the value that both sides' come to, None for none, or UNDECIDED.

    ``when`` are instants of ours and theirs; of two values of one instant the greater is later.
    What one side retracted and the other changed stays as changed. Raises what a registered
    function raises.
    """
    values = [None if side is None else side.v for side in (base, ours, theirs)]
    if strategy not in STRATEGIES:
        return called(strategy, *values)
    if strategy is BOTH:
        return UNDECIDED
    if ours is None or theirs is None:
        return values[1] if theirs is None else values[2]
    if strategy is not LATEST:
        return (max if strategy is _MAX else min)(values[1:], key=sort_key)
    here, there = when[0].get(ours.t), when[1].get(theirs.t)
    if here is None or there is None:
        return UNDECIDED
    if here == there:
        return max(values[1:], key=sort_key)
    return ours.v if here > there else theirs.v


def called(name: Keyword, base: Any, ours: Any, theirs: Any) -> Any:
    """Return what the function that is registered under a name makes of values.

    Raises TransactionError ``:merge/strategy`` where there is none.
    """
    function = lookup_function(name)
    if function is None:
        raise TransactionError(
            f"The strategy {name} is not registered; call register_function({shown(name.text)}, f) "
            "first, with a function of the values of the base, of ours and of theirs.",
            error=":merge/strategy",
            strategy=name,
        )
    return function(base, ours, theirs)


def as_set(found: Any, name: Keyword) -> dict[Any, Any]:
    """Return what a function made of an attribute with many values, by typed key."""
    if isinstance(found, (str, bytes)) or not hasattr(found, "__iter__"):
        raise ArgumentError(
            f"The strategy {name} returned {shown(found)}; of an attribute with many values it is "
            "given lists, and returns one."
        )
    return {typed_key(v): v for v in found}
