"""Streams of sorted rows, put side by side in order, without holding more than some of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from datahike_async.index.columns import Rows
from datahike_async.index.levels.run import gathered
from datahike_async.index.persistent_set.node import row_key
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.index.protocol import Order

__all__ = ["Leaves", "Sides", "Stream", "merged", "next_part", "parted"]

Sides = tuple[list[Rows], list[Rows], list[Rows]]
"""Rows of a base, rows that were added, and rows that were removed."""

_Key = Callable[[Rows, int], tuple[Any, ...]]


class Stream:
    """Sorted rows of one of three sides, some at a time; ``waiting`` are those not taken yet."""

    __slots__ = ("_more", "is_over", "side", "waiting")

    def __init__(self, more: Iterator[Rows], side: int) -> None:
        self._more = more
        self.side = side
        self.is_over = False
        self.waiting: list[Rows] = []

    def fill(self) -> None:
        """Have rows waiting, unless none are left. Raises NodeMiss, and may be called again."""
        if not self.waiting and not self.is_over:
            more = self._next()
            self.waiting = more
            self.is_over = not more

    def _next(self) -> list[Rows]:
        # Descending rows are turned round: what is waiting ascends.
        found = next(self._more, None)
        return [] if found is None else [found]


class Leaves(Stream):
    """The leaves of a set, by position: what is missing may be fetched, and it goes on.

    They come for about ``rows`` rows at a time.
    """

    __slots__ = ("_at", "_rows", "_set")

    def __init__(self, held: PersistentSet, side: int, rows: int) -> None:
        super().__init__(iter(()), side)
        self._set = held
        self._rows = rows
        self._at = 0

    def _next(self) -> list[Rows]:
        # Leaves that were never stored may be slices of all that came with them, which joining them
        # would copy each time.
        found = [rows.owned() for rows in self._set.leaves(self._at, self._rows)]
        self._at += sum(map(len, found))
        return found


def merged(
    streams: Sequence[Stream], order: Order, temporal: bool, *, reverse: bool = False
) -> Iterator[Sides]:
    """Iterate over what streams have, part after part; all that is said of a key is in one part.

    With ``reverse`` streams descend, and so do the parts; rows of a part ascend.
    """
    while True:
        part = next_part(streams, order, temporal, reverse=reverse)
        if part is None:
            return
        yield part


def next_part(
    streams: Sequence[Stream], order: Order, temporal: bool, *, reverse: bool = False
) -> Sides | None:
    """Return the next part, None where nothing is left.

    Raises NodeMiss, and may be called again if the streams may.
    """
    gathered([stream.fill for stream in streams])
    there = [stream for stream in streams if stream.waiting]
    if not there:
        return None
    key = _key_of(order, temporal)
    # Up to where the nearest of them is known: behind it others may have more.
    ends = [key(stream.waiting[-1], len(stream.waiting[-1]) - 1) for stream in there]
    pivot = max(ends) if reverse else min(ends)
    out: Sides = ([], [], [])
    for stream in there:
        taken, stream.waiting = _cut(stream.waiting, pivot, key, reverse=reverse)
        out[stream.side].extend(reversed(taken) if reverse else taken)
    return out


def _key_of(order: Order, temporal: bool) -> _Key:
    """Return what gives the key of a row: all that may be said of it several times has one."""
    size = 4 if temporal else 3
    return lambda rows, i: row_key(rows, i, order)[:size]


def parted(
    left: list[Rows], right: list[Rows], rows: int, order: Order, temporal: bool
) -> tuple[list[Rows], list[Rows], list[Rows], list[Rows]]:
    """Return about so many rows that come first on each of two sides, or fewer, and the others.

    All that is said of a key stays together.
    """
    key = _key_of(order, temporal)
    ends = [_nth(side, rows - 1, key) for side in (left, right) if sum(map(len, side)) >= rows]
    pivot = min(ends)
    (first, more), (second, rest) = _cut(left, pivot, key), _cut(right, pivot, key)
    return first, second, more, rest


def _nth(runs: list[Rows], n: int, key: _Key) -> tuple[Any, ...]:
    for rows in runs:
        if n < len(rows):
            return key(rows, n)
        n -= len(rows)
    raise IndexError(n)


def _cut(
    waiting: list[Rows], pivot: tuple[Any, ...], key: _Key, *, reverse: bool = False
) -> tuple[list[Rows], list[Rows]]:
    """Return the rows up to a key, and the others. What descends comes out ascending."""
    taken: list[Rows] = []
    for n, rows in enumerate(waiting):
        low, high = 0, len(rows)
        while low < high:
            middle = (low + high) // 2
            at = key(rows, middle)
            if at >= pivot if reverse else at <= pivot:
                low = middle + 1
            else:
                high = middle
        if low:
            part = rows if low == len(rows) else rows.slice(0, low)
            taken.append(part.backwards() if reverse else part)
        if low < len(rows):
            return taken, [rows.slice(low, len(rows)) if low else rows, *waiting[n + 1 :]]
    return taken, []
