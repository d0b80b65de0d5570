"""Whole numbers as they are stored: in the smallest width that holds them, and read again.

One column is [mode, base, width, bytes]. Mode 0: what they are above the base. Mode 1: the base and
the differences of numbers that rise. Mode 2: themselves. Mode 3: the base and no other. What is
read holds none of the bytes.
"""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import Narrow, constant, repeated

__all__ = ["encode_ints", "read_attributes", "read_codes", "read_ints", "read_times"]

_WIDE: Final = 2**62
_TOPS: Final = (2**8 - 1, 2**16 - 1, 2**32 - 1)
_WIDTHS: Final = tuple(map(np.dtype, ("<u1", "<u2", "<u4", "<i8")))


def encode_ints(values: npt.NDArray[Any], *, rising: bool = False) -> list[Any]:
    """Encode int64s as [mode, base, width, bytes]: differences where they rise, else offsets."""
    if not len(values):
        return [0, 0, 0, b""]
    values = values.astype(np.int64, copy=False)
    low, high = int(values.min()), int(values.max())
    if high == low:
        return [3, low, 0, b""]
    # Differences of more than that wrap round, and fall where they seem to rise.
    if rising and high - low < 2**63:
        steps = np.diff(values)
        if not len(steps) or int(steps.min()) >= 0:
            width = _width(int(steps.max()) if len(steps) else 0)
            return [1, low, width, steps.astype(_WIDTHS[width]).tobytes()]
    if high - low >= 2**32:
        return [2, 0, 3, values.astype("<i8").tobytes()]
    width = _width(high - low)
    return [0, low, width, (values - low).astype(_WIDTHS[width]).tobytes()]


def _width(top: int) -> int:
    return 0 if top < 2**8 else 1 if top < 2**16 else 2 if top < 2**32 else 3


def read_ints(data: Any, count: int) -> npt.NDArray[np.int64]:
    """Decode integers. They are copied: nothing of the bytes is held."""
    mode, base, width, raw = data
    if type(base) is not int:
        raise ValueError("the base of integers is none")
    if mode == 3:
        return np.full(count, base, np.int64)
    if mode == 1:
        out = np.empty(count, np.int64)
        out[0] = base
        out[1:] = _stored(raw, width, count - 1)
        np.add.accumulate(out, out=out)
        return out
    if mode not in (0, 2):
        raise ValueError("unknown integer mode")
    out = _stored(raw, width, count).astype(np.int64)
    if mode == 0 and base:
        out += base
    return out


def _stored(raw: bytes, width: int, count: int) -> npt.NDArray[Any]:
    """Return integers as they are stored; they lie where the bytes lie."""
    out = np.frombuffer(raw, _WIDTHS[width])
    if len(out) != count:
        raise ValueError(f"{len(out)} integers where {count} belong")
    return out


def _is_narrow(data: Any) -> bool:
    """Whether integers are stored as what they are above one that is not below zero."""
    mode, base, width, _ = data
    return mode == 0 and width < 3 and type(base) is int and 0 <= base < _WIDE


def read_codes(data: Any, count: int, size: int, kind: Any = np.int32) -> npt.NDArray[Any]:
    """Decode what is from 0 to less than ``size``. Raises ValueError where it is not."""
    if not _is_narrow(data):
        wide = read_ints(data, count)
        # One below zero is a large one there.
        if count and int(wide.view(np.uint64).max()) >= size:
            raise ValueError("a code points outside its dictionary")
        return wide.astype(kind)
    _, base, width, raw = data
    stored = _stored(raw, width, count)
    most = base + _TOPS[width]
    if most >= size and count and base + int(stored.max()) >= size:
        raise ValueError("a code points outside its dictionary")
    out = stored.astype(kind)
    if base:
        out += base
    return out


@lru_cache(maxsize=1024)
def _one(value: Any) -> npt.NDArray[np.int32]:
    out = np.array([operator.index(value)], np.int32)
    out.flags.writeable = False
    return out


def read_attributes(data: Any, count: int) -> npt.NDArray[np.int32]:
    """Decode ids of attributes, held once where they are all the same."""
    if data[0] == 3:
        return repeated(_one(data[1]), count)
    return constant(read_codes(data, count, 2**31))


def read_times(data: Any, count: int) -> npt.NDArray[np.int64] | Narrow:
    """Decode transactions, which few ask for: as narrow as they are stored."""
    if not _is_narrow(data):
        return read_ints(data, count)
    _, base, width, raw = data
    return Narrow(base, _stored(raw, width, count).copy())
