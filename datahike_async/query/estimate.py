"""What a pattern will read, and about how many rows it will leave: for order and for fetching.

Reads counts and schemas, never values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from datahike_async.edn.types import Keyword
from datahike_async.index.source import NodeMiss, resolve
from datahike_async.query.ast import BLANK, Pattern, is_var
from datahike_async.snapshot.views import View

if TYPE_CHECKING:
    from datahike_async.query.execute import State

__all__ = ["FEW", "estimate", "fetch_attributes", "read", "read_whole"]

FEW: Final = 48
"""Up to so many known entities are looked up one by one where a column is not at hand."""


async def read(call: Callable[..., Any], *args: Any) -> Any:
    """Call a function of a view, fetching nodes that are missing."""
    try:
        return call(*args)
    except NodeMiss as miss:
        return await resolve(miss, call, *args)


# -- fetching ahead ----------------------------------------------------------------------------


def read_whole(view: View, clause: Pattern, later: Sequence[Any], state: State) -> list[int]:
    """Return the attributes that a pattern and those after it will read from end to end.

    Empty where the pattern selects: then it is not known yet how much the others will read.
    """
    out: list[int] = []
    for pattern in (clause, *later):
        if not isinstance(pattern, Pattern) or pattern.source is not clause.source:
            continue
        e, key, v = pattern.terms[:3]
        attr = view.schema.by_key.get(key) if isinstance(key, (Keyword, str)) else None
        constant = v is not BLANK and (not is_var(v) or v in state.consts)
        whole = attr is not None and (is_var(e) or e is BLANK) and e not in state.consts
        column = state.column_of(e) if whole and is_var(e) else None
        if column is not None:
            whole = len(column) > FEW and not (constant and attr is not None and attr.unique)
        elif constant:
            whole = False
        if whole and attr is not None:
            out.append(attr.id)
        elif pattern is clause:
            return []
    return out


async def fetch_attributes(view: View, attributes: Sequence[int]) -> None:
    """Make attributes resident, all of them in the same waves of reads."""
    misses = _missing(view, attributes)
    if not misses:
        return
    source = misses[0].source
    with source.pinned():
        while misses:
            await source.fetch([address for miss in misses for address in miss.addresses])
            misses = _missing(view, attributes)


def _missing(view: View, attributes: Sequence[int]) -> list[NodeMiss]:
    out = []
    for a in attributes:
        try:
            view.attr(a)
        except NodeMiss as miss:
            out.append(miss)
    return out


# -- estimates ---------------------------------------------------------------------------------


def estimate(source: Any, clause: Pattern, state: State) -> float:
    """Return about how many rows a pattern would leave; less is sooner."""
    if not isinstance(source, View):
        return float(len(source)) if hasattr(source, "__len__") else 1000.0
    e, a, v = (_known(t, state) for t in clause.terms[:3])
    if e is not None and e is not True:
        return 1.0
    attr = source.schema.by_key.get(a) if isinstance(a, (Keyword, str)) else None
    if attr is None:
        return 0.0 if a is not None and a is not True else 1e12
    try:
        total = float(source.count_attr(attr.id))
    except NodeMiss:
        total = 1e6
    if v is not None and v is not True:
        total = 1.0 if attr.unique else total / 50 if attr.indexed else total / 20
    elif v is True:
        total = min(total, 1e3 + total / 10)
    if e is True:
        column = state.column_of(clause.terms[0])
        if column is not None:
            total = min(total, float(len(column)))
        return total / 2  # joined by entity: never more rows than are known, for single values
    return total + (1e9 if state.relations and v is not True else 0)


def _known(term: Any, state: State) -> Any:
    """Return a constant's value, True for a bound variable, None for what is free."""
    if term is BLANK:
        return None
    if is_var(term):
        if term in state.consts:
            return state.consts[term]
        return True if state.column_of(term) is not None else None
    return term
