"""Reading what may not be resident: together, in as few waves as there are levels in a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from datahike_async.edn.types import Keyword
from datahike_async.index.source import NodeMiss, fetch, resolve
from datahike_async.query.language.ast import BLANK, Pattern, is_var
from datahike_async.snapshot.views import View

if TYPE_CHECKING:
    from datahike_async.query.relations.state import State

__all__ = ["FEW", "fetch_attributes", "few", "merged", "read", "read_each", "read_whole"]

T = TypeVar("T")

FEW: Final = 48
"""Up to so many known entities or values are looked up one by one, whatever else could be done."""

SELECTIVE: Final = 64
"""So many times as many datoms as what is known of them make looking it up the better way."""

SEEKS: Final = 4096
"""More than this is never looked up one by one."""


def few(known: int, datoms: float) -> bool:
    """Whether so many known entities or values are looked up, rather than so many datoms read."""
    return known <= FEW or (known <= SEEKS and known * SELECTIVE <= datoms)


async def read(call: Callable[..., Any], *args: Any) -> Any:
    """Call a function of a view, fetching nodes that are missing."""
    try:
        return call(*args)
    except NodeMiss as miss:
        return await resolve(miss, call, *args)


async def read_each(call: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
    """Return what ``call`` gives for each of ``arguments``; what they miss is fetched together."""
    return await read(_each, call, list(arguments))  # type: ignore[no-any-return]


def _each(call: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
    out: list[T] = []
    misses: list[NodeMiss] = []
    for args in arguments:
        try:
            found = call(*args)
        except NodeMiss as miss:
            misses.append(miss)
        else:
            out.append(found)
    if misses:
        raise merged(misses)
    return out


def merged(misses: Sequence[NodeMiss]) -> NodeMiss:
    """Return one miss for several; all are of one source."""
    if len(misses) == 1:
        return misses[0]
    addresses = dict.fromkeys(address for miss in misses for address in miss.addresses)
    return NodeMiss(misses[0].source, list(addresses))


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
            await fetch(merged(misses))
            misses = _missing(view, attributes)


def _missing(view: View, attributes: Sequence[int]) -> list[NodeMiss]:
    out = []
    for a in attributes:
        try:
            view.attr(a)
        except NodeMiss as miss:
            out.append(miss)
    return out
