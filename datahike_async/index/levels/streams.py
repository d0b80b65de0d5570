"""Streams of sorted rows, put side by side in order, without holding more than some of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from datahike_async.index.columns import Rows
from datahike_async.index.levels.run import gathered
from datahike_async.index.persistent_set.node import row_key
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.index.protocol import Order

__all__ = ["Leaves", "Sides", "Stream", "merged", "next_part"]

Sides = tuple[list[Rows], list[Rows], list[Rows]]
"""Rows of a base, rows that were added, and rows that were removed."""

_ROWS: Final = 1 << 14


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
    """The leaves of a set, by position: what is missing may be fetched, and it goes on."""

    __slots__ = ("_at", "_set")

    def __init__(self, held: PersistentSet, side: int) -> None:
        super().__init__(iter(()), side)
        self._set = held
        self._at = 0

    def _next(self) -> list[Rows]:
        found = self._set.leaves(self._at, _ROWS)
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
    size = 4 if temporal else 3

    def key(rows: Rows, i: int) -> tuple[Any, ...]:
        return row_key(rows, i, order)[:size]

    # Up to where the nearest of them is known: behind it others may have more.
    ends = [key(stream.waiting[-1], len(stream.waiting[-1]) - 1) for stream in there]
    pivot = max(ends) if reverse else min(ends)
    out: Sides = ([], [], [])
    for stream in there:
        taken, stream.waiting = _cut(stream.waiting, pivot, key, reverse=reverse)
        out[stream.side].extend(reversed(taken) if reverse else taken)
    return out


def _cut(
    waiting: list[Rows], pivot: tuple[Any, ...], key: Any, *, reverse: bool
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
