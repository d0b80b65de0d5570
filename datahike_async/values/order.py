"""A total order over all canonical values, of whatever types.

By type first: nil, booleans, numbers, characters, strings, keywords, symbols, instants, uuids,
bytes, tuples (shorter first, nil before everything in them), arrays, then maps, sets and tagged
elements, which only results of queries hold. Numbers compare exactly across int, float, Decimal and
ratios, tie by type, and NaN follows every other number. Strings go by code point, bytes unsigned,
uuids as two signed halves, the more significant one first. Indexes are stored in this order
(decision 34). Keys are equal exactly where :func:`~datahike_async.values.types.typed_key` is.
"""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from datahike_async.edn.types import Char, FrozenMap, Keyword, Symbol, Tagged
from datahike_async.looks import STEP, pieces
from datahike_async.values.types import DoubleArray, FloatArray, plain

__all__ = ["LONG", "compare", "sort_key"]

_NIL: Final = (0,)
_SEQUENCES: Final = (list, tuple)
_SIGNS: Final = 1 << 127 | 1 << 63
"""With these bits turned round, a uuid compares as its halves do as signed numbers."""

LONG: Final = 1 << 13
"""Sequences of more elements are compared in pieces."""


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
        return (8, value.int ^ _SIGNS)
    if kind is tuple or kind is list:
        return (10, len(value), tuple(map(sort_key, value)))
    if kind is bytes:
        return (9, value)
    if kind is Decimal:
        return (2, math.inf, 5) if value.is_nan() else (2, value, 2)
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
    return _rare(value)


def _rare(value: Any) -> tuple[Any, ...]:
    kind = type(value)
    if kind is dict or kind is FrozenMap:
        entries = sorted((sort_key(k), sort_key(v)) for k, v in value.items())
        return (13, len(entries), tuple(entries))
    if isinstance(value, AbstractSet):
        return (14, len(value), tuple(sorted(map(sort_key, value))))
    if kind is Tagged:
        return (15, value.tag, sort_key(value.value))
    made = plain(value)
    return sort_key(made) if made is not value else (16, kind.__name__, repr(value))


def compare(a: Any, b: Any) -> int:
    """Return -1, 0 or 1 as ``a`` sorts before, with or after ``b``."""
    if type(a) in _SEQUENCES and type(b) in _SEQUENCES and len(a) == len(b) > LONG:
        # Comparing keys of a million elements in one call takes long.
        for start, stop in pieces(len(a), each=STEP):
            order = compare(a[start:stop], b[start:stop])
            if order:
                return order
        return 0
    ka, kb = sort_key(a), sort_key(b)
    return (ka > kb) - (ka < kb)
