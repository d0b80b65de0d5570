"""Values as Python's objects: putting many in arrays and in order without a stop for others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from heapq import merge
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.looks import pieces, walked

__all__ = ["COPIED", "OBJECTS", "array_of", "filled", "object_array", "ordered", "types_of"]

OBJECTS: Final = 1 << 15
"""One call that handles more objects keeps the interpreter from other threads for long."""

COPIED: Final = 4
"""What an object that is made or copied counts for, in looks at the clock."""

# What an object that is sorted counts for.
_SORTED: Final = 8

# What NumPy never looks into.
_ATOMS: Final[frozenset[type]] = frozenset(
    {bool, bytes, Char, datetime, Decimal, float, Fraction, int, Keyword, str, Symbol, UUID}
)


def object_array(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    """Return a one-dimensional object array; sequences stay elements."""
    out = np.empty(len(values), np.object_)
    if _ATOMS.issuperset(types_of(values)):
        filled(out, values)
    else:
        # Of a list of equally long tuples NumPy would take the elements.
        for i, v in enumerate(walked(values, each=COPIED)):
            out[i] = v
    return out


def types_of(values: Sequence[Any]) -> set[type]:
    """Return the types that occur among values."""
    if len(values) <= OBJECTS:
        return set(map(type, values))
    types: set[type] = set()
    for i, j in pieces(len(values), each=COPIED):
        types.update(map(type, values[i:j]))
    return types


def array_of(values: Sequence[Any], dtype: Any) -> npt.NDArray[Any]:
    """Return values of one type as an array."""
    if len(values) <= OBJECTS:
        return np.array(values, dtype)
    return filled(np.empty(len(values), dtype), values)


def ordered(keys: Sequence[Any]) -> Sequence[int]:
    """Return the positions that sort keys of Python's, which are sorted in parts.

    Sorting a million in one call would keep the interpreter from every other thread for a second.
    """
    if len(keys) <= OBJECTS:
        return sorted(range(len(keys)), key=keys.__getitem__)
    parts = [sorted(range(i, j), key=keys.__getitem__) for i, j in pieces(len(keys), each=_SORTED)]
    return list(walked(merge(*parts, key=keys.__getitem__)))


def filled(out: npt.NDArray[Any], data: Any) -> npt.NDArray[Any]:
    """Fill an array with values, in parts."""
    for i, j in pieces(len(data), each=COPIED):
        out[i:j] = data[i:j]
    return out
