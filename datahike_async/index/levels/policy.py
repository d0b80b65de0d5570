"""When runs are merged, and which: by their sizes alone.

Runs next to one another become one where there are too many; all go into the base once they have
half as many rows. So a row is written about once a tier and once more with the base, and a look at
all rows has half as much again to put together at most.

Chosen by simulating what is written (decision 34): with a quarter of the base instead of half of it
a base of 100,000 is rewritten twice as often, and fewer runs than eight are merged more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["MOST", "due", "into_base", "loads_into_base"]

MOST: Final = 8
"""Runs of an index."""
_SHARE: Final = 2
"""How many times the rows of all runs the base has at least."""

_LOAD: Final = 16
"""Into a base of at most so many times its rows a load goes at once."""


def into_base(base: int, rows: int) -> bool:
    """Whether so many rows of runs are to go into a base of so many."""
    return rows * _SHARE >= base


def loads_into_base(base: int, rows: int) -> bool:
    """Whether a large transaction of so many rows goes into a base of so many, past all runs.

    Loads mostly append: to make runs of them and merge those takes three times as long.
    """
    return rows * _LOAD >= base


def due(base: int, runs: Sequence[int]) -> int | None:
    """Return the first of the runs that are to be merged into one, the oldest coming first.

    -1: all are to go into the base; None: they may stay. ``base`` and ``runs`` are numbers of rows.
    """
    if runs and into_base(base, sum(runs)):
        return -1
    if len(runs) <= MOST:
        return None
    rows = 0
    for first in range(len(runs) - 1, -1, -1):
        rows += runs[first]
        # As few as may be, so that none is merged with far smaller ones time and again.
        if first < len(runs) - 1 and (first == 0 or runs[first - 1] >= rows):
            return first
    return 0
