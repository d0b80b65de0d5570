"""Looks at the clock in the midst of long work, for whoever runs it.

Code that goes over many values does so in pieces, and says before each how much it is about to do.
What a look does is up to the one who runs the work, and holds for its context alone: a query raises
where its time is over, where it was cancelled, or where the work has become too much for the event
loop. Where nobody is looking a look does nothing. Knows neither queries nor event loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from itertools import chain, islice
from typing import Final, TypeVar

__all__ = ["PIECE", "SMALL", "STEP", "Look", "look", "looking", "pieces", "tally", "walked"]

T = TypeVar("T")

PIECE: Final = 1 << 17
"""How many numbers NumPy handles from one look to the next: some milliseconds of work."""

SMALL: Final = 1 << 12
"""Fewer numbers than this are handled without a look."""

STEP: Final = 32
"""What a value that Python handles counts for, in numbers that NumPy handles."""

Look = Callable[[int], None]
"""Told how many numbers will be handled before the next look; raises where that is not to be."""

looking: Final[ContextVar[Look | None]] = ContextVar("looking", default=None)
"""The look of whoever runs what runs now."""


def look(count: int) -> None:
    """Say that ``count`` numbers will be handled before the next look; few need none."""
    if count > SMALL:
        tally(count)


def tally(count: int) -> None:
    """Say the same of what is little, and comes often."""
    found = looking.get()
    if found is not None:
        found(count)


def pieces(count: int, *, each: int = 1, size: int = 0) -> Iterable[tuple[int, int]]:
    """Return [start, stop) of the pieces that ``count`` values are to be handled in; look at each.

    ``each`` is what one value counts for; a piece counts for ``size``, or else for PIECE.
    """
    if count * each <= SMALL:
        return ((0, count),)
    return _pieces(count, each, max((size or PIECE) // each, 1))


def _pieces(count: int, each: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size):
        stop = min(start + size, count)
        look((stop - start) * each)
        yield start, stop


def walked(values: Iterable[T], *, each: int = STEP, count: int = -1) -> Iterable[T]:
    """Return values that Python handles one by one, to be gone over with looks in between.

    ``count`` is how many there are, where they do not tell.
    """
    if count < 0 and hasattr(values, "__len__"):
        count = len(values)  # type: ignore[arg-type]
    if 0 <= count * each <= SMALL:
        return values
    return _walked(values, each)


def _walked(values: Iterable[T], each: int) -> Iterator[T]:
    # A generator that gave each value by itself would cost more than what is done with most.
    return chain.from_iterable(_runs(iter(values), max(SMALL // each, 1), each))


def _runs(values: Iterator[T], many: int, each: int) -> Iterator[Iterable[T]]:
    """Return values in runs of ``many``; a run is taken from them while it is gone over."""
    for first in values:
        tally(many * each)
        yield (first,)
        yield islice(values, many - 1)
