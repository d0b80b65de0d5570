"""Sets of integers in arrays: distinct values, numbering, membership.

NumPy's own ``unique`` builds a hash table, which for millions of integers takes a hundred times as
long as sorting them, and keeps the interpreter from every other thread meanwhile. These sort, or
mark what is there in a table where the integers lie close together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["firsts", "member", "numbered", "uniques"]

Ints = npt.NDArray[Any]


def _dense(low: int, high: int, count: int) -> bool:
    """Whether a table of all integers between two is worth its size."""
    return high - low < 16 * count + 1024


def uniques(values: Ints) -> Ints:
    """Return the distinct integers, ascending."""
    if len(values) < 2:
        return values
    ordered = np.sort(values)
    keep = ordered[1:] != ordered[:-1]
    return ordered if keep.all() else ordered[np.concatenate([[True], keep])]


def numbered(values: Ints) -> tuple[Ints, Ints]:
    """Return the distinct integers, ascending, and for each of ``values`` its number among them."""
    if not len(values):
        return values, np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if _dense(low, high, len(values)):
        offsets = values.astype(np.int64, copy=False) - low
        there = np.zeros(high - low + 1, np.bool_)
        there[offsets] = True
        number = np.cumsum(there) - 1
        return (np.flatnonzero(there) + low).astype(values.dtype, copy=False), number[offsets]
    order = np.argsort(values)
    ordered = values[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.cumsum(new) - 1
    return ordered[new], numbers


def firsts(values: Ints) -> tuple[Ints, Ints]:
    """Return the distinct integers, ascending, and for each the position of one that is equal."""
    if not len(values):
        return values, np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if _dense(low, high, len(values)):
        place = np.full(high - low + 1, -1, np.int64)
        place[values.astype(np.int64, copy=False) - low] = np.arange(len(values))
        found = np.flatnonzero(place >= 0)
        return (found + low).astype(values.dtype, copy=False), place[found]
    order = np.argsort(values)
    ordered = values[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    return ordered[new], order[new]


def member(values: Ints, among: Ints) -> npt.NDArray[np.bool_]:
    """Return where ``values`` are one of ``among``; both are integers."""
    if not len(values) or not len(among):
        return np.zeros(len(values), np.bool_)
    low, high = int(among.min()), int(among.max())
    if _dense(low, high, len(values) + len(among)):
        there = np.zeros(high - low + 1, np.bool_)
        there[among.astype(np.int64, copy=False) - low] = True
        inside = (values >= low) & (values <= high)
        return np.asarray(there[np.where(inside, values - low, 0)] & inside)
    ordered = np.sort(among)
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.asarray(ordered[at] == values)
