"""Filters: whether runs can have rows of an entity, or of a value, at the price of one look.

A filter is a set of bits, a power of two of them, about eight a row, and one hash. What it has not
is not in the run; of what it has, about one in ten is not either. Hashes are the same in every
process: filters are stored.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import CorruptData
from datahike_async.index import codec
from datahike_async.index.arrays import numbered, uniques
from datahike_async.index.columns import BOOL, CODED, FLOAT, INSTANT, INT, Column, Rows, micros
from datahike_async.index.protocol import Bound, Order

__all__ = ["Filter", "Making", "hash_of", "hashes_of", "hashes_of_bounds", "room"]

_U64: TypeAlias = npt.NDArray[np.uint64]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_SHIFT: Final = 20
_ATTRIBUTE: Final = 0xD1B54A32D192ED03
_MASK: Final = 2**64 - 1
_LEAST: Final = 64
_MOST: Final = 2**40
_ROW_BITS: Final = 8


class Filter:
    """What a run may hold. ``bits`` has a power of two of bits; ``mask`` is one less than that."""

    __slots__ = ("bits", "mask")

    def __init__(self, bits: bytes) -> None:
        self.bits = bits
        self.mask = len(bits) * 8 - 1

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        return len(self.bits) + 100

    def may_have_many(self, hashed: _U64) -> npt.NDArray[np.bool_]:
        """Say of each of many hashes whether something of it may be there."""
        at = hashed & np.uint64(self.mask)
        found = np.frombuffer(self.bits, np.uint8)[at >> np.uint64(3)]
        return np.asarray(found >> (at & np.uint64(7)).astype(np.uint8) & 1, np.bool_)

    @classmethod
    def of(cls, hashes: _U64) -> Filter:
        """Return the filter of all that has one of some hashes."""
        making = Making(len(hashes))
        making.add(hashes)
        return making.made()

    def encode(self) -> bytes:
        """Return it as bytes."""
        return codec.seal([self.bits])

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Filter:
        """Return the filter that was encoded. Raises CorruptData or UnsupportedFormat."""
        plain = codec.unseal(data)
        bits = plain[0] if isinstance(plain, (list, tuple)) and len(plain) == 1 else None
        size = len(bits) * 8 if isinstance(bits, bytes) else 0
        if not _LEAST <= size <= _MOST or size & (size - 1):
            raise CorruptData("Stored bytes are no filter of an index.")
        assert isinstance(bits, bytes)
        return cls(bits)


class Making:
    """A filter that is made of rows as they come; ``count`` is what :func:`room` says of them."""

    __slots__ = ("_bits",)

    def __init__(self, count: int) -> None:
        size = _LEAST
        while size < count * _ROW_BITS:
            size *= 2
        self._bits = np.zeros(size // 8, np.uint8)

    def add(self, hashes: _U64) -> None:
        """Add rows by their hashes."""
        at = uniques(hashes & np.uint64(len(self._bits) * 8 - 1))
        if not len(at):
            return
        places = at >> np.uint64(3)
        bits = np.uint8(1) << (at & np.uint64(7)).astype(np.uint8)
        # Those of one byte stand side by side.
        starts = np.flatnonzero(np.diff(places, prepend=~places[0]))
        self._bits[places[starts]] |= np.bitwise_or.reduceat(bits, starts)

    def made(self) -> Filter:
        """Return the filter."""
        return Filter(self._bits.tobytes())


def room(adds: int, removes: int, order: Order) -> int:
    """Return how many different hashes so many rows of a run have at most, nearly always.

    Most of what is removed has the entity of something that is added, and another value.
    """
    return adds + removes if order is Order.AVET else max(adds, removes)


def hash_of(bound: Bound, order: Order) -> int | None:
    """Return the hash of what a bound names; None where it names too little."""
    if order is Order.EAVT:
        return int((bound[0] * _GOLDEN & _MASK) >> _SHIFT) if bound else None
    if len(bound) < 2:
        return None
    if order is Order.AEVT:
        return int((bound[1] * _GOLDEN & _MASK) >> _SHIFT)
    return int(((bound[0] * _ATTRIBUTE + _of_value(bound[1])) * _GOLDEN & _MASK) >> _SHIFT)


def hashes_of(rows: Rows, order: Order) -> _U64:
    """Return the hash of each row."""
    if order is not Order.AVET:
        return _mixed(rows.e.astype(np.int64, copy=False).view(np.uint64))
    return _of_values(rows.a.astype(np.int64), rows.v)


def hashes_of_bounds(bounds: Sequence[Column], order: Order) -> _U64 | None:
    """Return the hash of each of many bounds; None where they name too little."""
    if order is Order.EAVT:
        return _mixed(np.ascontiguousarray(bounds[0].data).view(np.uint64))
    if len(bounds) < 2:
        return None
    if order is Order.AEVT:
        return _mixed(np.ascontiguousarray(bounds[1].data).view(np.uint64))
    return _of_values(bounds[0].data, bounds[1])


def _mixed(data: _U64) -> _U64:
    return data * np.uint64(_GOLDEN) >> np.uint64(_SHIFT)


def _of_values(a: npt.NDArray[Any], values: Column) -> _U64:
    attributes = np.ascontiguousarray(a, np.int64).view(np.uint64) * np.uint64(_ATTRIBUTE)
    return _mixed(attributes + _numbers(values))


def _numbers(values: Column) -> _U64:
    """Return for each value of a column what :func:`_of_value` returns."""
    kind, data = values.kind, values.data
    if kind in (INT, INSTANT):
        return np.ascontiguousarray(data).view(np.uint64)
    if kind == BOOL:
        return data.astype(np.uint64)
    if kind == FLOAT:
        # Minus zero is zero, and one NaN is as another.
        plain = np.where(np.isnan(data), np.nan, data + 0.0)
        return plain.view(np.uint64)
    if kind == CODED:
        assert values.dictionary is not None
        used, codes = numbered(data)
        listed = values.dictionary.listed
        made = np.array([_of_value(listed[c]) for c in used.tolist()], np.uint64)
        return made[codes]
    return np.array([_of_value(value) for value in values.tolist()], np.uint64)


def _of_value(value: Any) -> int:
    kind = type(value)
    if kind is int:
        return int(value & _MASK)
    if kind is str:
        return zlib.crc32(value.encode("utf-8", "surrogatepass"))
    if kind is Keyword or kind is Symbol:
        return zlib.crc32(str(value).encode("utf-8", "surrogatepass"))
    if kind is UUID:
        return int(value.int & _MASK)
    if kind is datetime:
        return micros(value) & _MASK
    if kind is bool:
        return int(value)
    if kind is bytes:
        return zlib.crc32(value)
    if kind is float:
        plain = np.nan if value != value else value + 0.0
        return int(np.float64(plain).view(np.uint64))
    # Tuples, decimals and the like have one hash: nothing is ruled out of them.
    return 0
