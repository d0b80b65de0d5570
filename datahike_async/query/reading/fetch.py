"""Reading what may not be resident: together, in as few waves as there are levels in a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from datahike_async.index.source import NodeMiss, read
from datahike_async.snapshot.views import View

__all__ = [
    "FEW",
    "bisects",
    "fetch_attributes",
    "few",
    "merged",
    "read_each",
    "sought",
]

T = TypeVar("T")

FEW: Final = 48
"""Up to so many known entities or values are looked up one by one, whatever else could be done."""

SELECTIVE: Final = 64
"""So many times as many datoms as what is known of them make looking it up the better way."""

SEEKS: Final = 4096
"""More than this is never looked up one by one."""

_SOUGHT: Final = 16
"""Of fewer times as many datoms as known entities all are read, also where few are known."""

_BISECTED: Final = 8
"""So many times as many rows as known entities make bisecting a column the better way."""


def few(known: int, datoms: float) -> bool:
    """Whether so many known entities or values are looked up, rather than so many datoms read."""
    return known <= FEW or (known <= SEEKS and known * SELECTIVE <= datoms)


def sought(known: int, datoms: float) -> bool:
    """Whether known entities are looked up in EAVT, rather than an attribute put together."""
    return few(known, datoms) and known * _SOUGHT < datoms


def bisects(known: float, rows: float) -> bool:
    """Whether known entities are bisected for in a column of rows, rather than joined with it."""
    return known * _BISECTED <= rows


async def read_each(call: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
    """Return what ``call`` gives for each of ``arguments``; what they miss is fetched together."""
    return await read(_each, call, list(arguments))


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


async def fetch_attributes(view: View, attributes: Sequence[int]) -> None:
    """Make attributes resident, all of them in the same waves of reads."""
    await read(_touch, view, attributes)


def _touch(view: View, attributes: Sequence[int]) -> None:
    """Look at attributes; one miss names what all of them lack."""
    misses: list[NodeMiss] = []
    for a in attributes:
        try:
            view.attr(a)
        except NodeMiss as miss:
            misses.append(miss)
    if misses:
        raise merged(misses)
