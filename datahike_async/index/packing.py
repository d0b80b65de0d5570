"""Packing: several keys of integers as few, so that sorting by them is sorting once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.index.columns import EMPTY_I64, I64

__all__ = ["packed", "sorting"]

_ROOM: Final = 2**62


def packed(keys: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Return keys that compare as ``keys`` do, the most significant first, and are fewer.

    Neighbours become one where the ranges of their values leave room. None are left of no rows, or
    where all rows are alike; keys that are no integers stay as they are.
    """
    out: list[npt.NDArray[Any]] = []
    found: I64 | None = None
    room = 1
    for key in keys if len(keys[0]) else ():
        if key.dtype.kind not in "iub":
            if found is not None:
                out.append(found)
            out.append(key)
            found, room = None, 1
            continue
        low, high = int(key.min()), int(key.max())
        size = high - low + 1
        key = key.astype(np.int64, copy=False)
        if size == 1:
            continue
        if found is None or room * size > _ROOM:
            if found is not None:
                out.append(found)
            found, room = key, size
            if size <= _ROOM and low:
                found = found - low
            continue
        found = found * size
        found += key
        found -= low
        room *= size
    if found is not None:
        out.append(found)
    return out


def sorting(keys: Sequence[npt.NDArray[Any]]) -> I64:
    """Return the positions that sort rows by keys, the most significant first.

    Those that are alike stay in their order.
    """
    few = packed(keys)
    if not few:
        return np.arange(len(keys[0])) if len(keys[0]) else EMPTY_I64
    if len(few) == 1:
        return np.argsort(few[0], kind="stable")
    return np.lexsort(few[::-1])
