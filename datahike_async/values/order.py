"""A total order over all canonical values, of whatever types.

By type first: nil, booleans, numbers, characters, strings, keywords, symbols, instants, uuids,
bytes, ratios among the numbers, tuples, arrays, the rest. Numbers compare exactly across int, float
and Decimal and tie by type, so that equal keys mean equal values of one type.
"""

from __future__ import annotations

import math
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.values.types import DoubleArray, FloatArray

__all__ = ["compare", "sort_key"]

_NIL: Final = (0,)


def sort_key(value: Any) -> tuple[Any, ...]:
    """Return a tuple that compares as ``value`` does in the order of an index."""
    kind = type(value)
    if kind is int:
        return (2, value, 0)
    if kind is str:
        return (4, value)
    if kind is float:
        return (2, value, 1) if value == value else (2, math.inf, 4)
    if kind is Keyword:
        return (5, value.namespace or "", value.name)
    if value is None:
        return _NIL
    if kind is bool:
        return (1, value)
    if kind is datetime:
        return (7, value)
    if kind is UUID:
        return (8, value.int)
    if kind is tuple or kind is list:
        return (10, len(value), tuple(map(sort_key, value)))
    if kind is bytes:
        return (9, value)
    if kind is Decimal:
        return (2, value, 2)
    if kind is Fraction:
        return (2, value, 3)
    if kind is Char:
        return (3, str(value))
    if kind is Symbol:
        return (6, value.namespace or "", value.name)
    if kind is FloatArray:
        return (11, len(value), tuple(map(sort_key, value)))
    if kind is DoubleArray:
        return (12, len(value), tuple(map(sort_key, value)))
    return (13, kind.__name__, repr(value))


def compare(a: Any, b: Any) -> int:
    """Return -1, 0 or 1 as ``a`` sorts before, with or after ``b``."""
    ka, kb = sort_key(a), sort_key(b)
    return (ka > kb) - (ka < kb)
