"""Arrays in pieces: ordering, distinct values, numbering, membership, taking and filling.

NumPy's own ``unique`` builds a hash table, which for millions of integers takes a hundred times as
long as sorting them, and keeps the interpreter from every other thread meanwhile. These sort, or
mark what is there in a table where the integers lie close together. Whatever goes over many values
does so in pieces, with a look at the clock between them (see ``looks``): one call of NumPy over
fifty million values takes seconds, and nothing can stop it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.looks import PIECE, SMALL, look, pieces

__all__ = [
    "firsts",
    "joined",
    "member",
    "numbered",
    "order_of",
    "ordered_bits",
    "positions_of",
    "searched",
    "taken",
    "uniques",
]

Ints = npt.NDArray[Any]

# What sorting a value counts for, and looking one up in sorted ones.
_SORTED: Final = 4
# Values for each bucket of a large sort, and samples for each bucket.
_BUCKET: Final = PIECE // 2
_SAMPLES: Final = 32


def _dense(low: int, high: int, count: int) -> bool:
    """Whether a table of all integers between two is worth its size."""
    return high - low < 16 * count + 1024


# -- pieces ----------------------------------------------------------------------------------------


def taken(data: npt.NDArray[Any], positions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return ``data[positions]``, of an index array or a mask, as a new array."""
    if len(positions) <= PIECE:
        if len(positions) > SMALL:
            look(len(positions))
        out: npt.NDArray[Any] = data[positions]
        return out
    if positions.dtype == np.bool_:
        positions = positions_of(positions)
    out = np.empty(len(positions), data.dtype)
    size = PIECE // 8 if data.dtype == np.object_ else PIECE
    for start, stop in pieces(len(positions), size=size):
        out[start:stop] = data[positions[start:stop]]
    return out


def positions_of(mask: npt.NDArray[np.bool_]) -> Ints:
    """Return where a mask is true, ascending."""
    if len(mask) <= PIECE:
        return np.flatnonzero(mask)
    found = [np.flatnonzero(mask[i:j]) + i for i, j in pieces(len(mask))]
    return joined(found)


def joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return arrays of one type, one after the other."""
    if len(parts) == 1:
        return parts[0]
    count = sum(map(len, parts))
    if count <= PIECE:
        return np.concatenate(parts)
    out = np.empty(count, np.result_type(*parts))
    at = 0
    for part in parts:
        for start, stop in pieces(len(part)):
            out[at + start : at + stop] = part[start:stop]
        at += len(part)
    return out


def searched(ordered: Ints, values: Ints, side: str = "left") -> Ints:
    """Return ``ordered.searchsorted(values, side)``."""
    out = np.empty(len(values), np.int64)
    for start, stop in pieces(len(values), each=_SORTED):
        out[start:stop] = ordered.searchsorted(values[start:stop], side)  # type: ignore[call-overload]
    return out


def ordered_bits(floats: npt.NDArray[np.float64]) -> Ints:
    """Return integers ordered as doubles are: 0.0 and -0.0 are one, NaN is itself and last."""
    bits = np.where(np.isnan(floats), np.nan, floats + 0.0).view(np.int64)
    return np.where(bits < 0, bits ^ (2**63 - 1), bits)


# -- order -----------------------------------------------------------------------------------------


def order_of(values: npt.NDArray[Any]) -> Ints:
    """Return the positions that sort values (no objects); equal ones stay in their order."""
    if len(values) <= _BUCKET:
        look(_SORTED * len(values))
        return np.argsort(values, kind="stable")
    if all((values[i:j] <= values[i + 1 : j + 1]).all() for i, j in pieces(len(values) - 1)):
        return np.arange(len(values))
    if values.dtype.kind == "f":
        values = ordered_bits(values)
    return _bucketed(values, 0)


def _bucketed(values: Ints, depth: int) -> Ints:
    """Sort many values: into buckets by samples of them, then each bucket by itself."""
    count = len(values)
    buckets = count // _BUCKET + 1
    sample = np.sort(values[np.linspace(0, count - 1, buckets * _SAMPLES).astype(np.int64)])
    pivots = uniques(sample[_SAMPLES // 2 :: _SAMPLES])
    # Bucket 2i lies before pivot i, bucket 2i+1 is equal to it: what comes often needs no sorting.
    size = 2 * len(pivots) + 1
    codes = np.empty(count, np.uint16 if size < 2**16 else np.int64)
    runs = [*pieces(count, each=_SORTED)]
    counts = np.zeros((len(runs), size), np.int64)
    for i, (start, stop) in enumerate(pieces(count, each=_SORTED)):
        part = values[start:stop]
        at = pivots.searchsorted(part)
        equal = pivots[np.minimum(at, len(pivots) - 1)] == part
        codes[start:stop] = 2 * at + equal
        counts[i] = np.bincount(codes[start:stop], minlength=size)
    starts = np.cumsum(counts.sum(0)) - counts.sum(0)
    places = starts + np.cumsum(counts, 0) - counts
    out = np.empty(count, np.int64)
    for i, (start, stop) in enumerate(pieces(count, each=_SORTED)):
        local = np.argsort(codes[start:stop], kind="stable")
        within = np.arange(stop - start) - np.repeat(np.cumsum(counts[i]) - counts[i], counts[i])
        out[np.repeat(places[i], counts[i]) + within] = local + start
    edges = [*starts.tolist(), count]
    for bucket in range(0, size, 2):
        start, stop = edges[bucket], edges[bucket + 1]
        if stop - start < 2:
            continue
        own = out[start:stop]
        part = taken(values, own)
        if len(part) > PIECE and len(part) < count // 2 and depth < 3:
            out[start:stop] = taken(own, _bucketed(part, depth + 1))
            continue
        look(_SORTED * len(part))
        out[start:stop] = own[np.argsort(part, kind="stable")]
    return out


def _sorted(values: Ints) -> Ints:
    if len(values) <= PIECE:
        if _SORTED * len(values) > SMALL:
            look(_SORTED * len(values))
        out = values.copy()
        out.sort()
        return out
    return taken(values, order_of(values))


def _new(ordered: Ints) -> npt.NDArray[np.bool_]:
    """Return where a sorted array has a value for the first time."""
    new = np.empty(len(ordered), np.bool_)
    new[:1] = True
    if len(ordered) <= SMALL:
        np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
        return new
    for start, stop in pieces(len(ordered) - 1):
        np.not_equal(
            ordered[start + 1 : stop + 1], ordered[start:stop], out=new[start + 1 : stop + 1]
        )
    return new


def uniques(values: Ints) -> Ints:
    """Return the distinct integers, ascending."""
    if len(values) < 2:
        return values
    ordered = _sorted(values)
    keep = _new(ordered)
    return ordered if keep.all() else taken(ordered, keep)


def numbered(values: Ints) -> tuple[Ints, Ints]:
    """Return the distinct integers, ascending, and for each of ``values`` its number among them."""
    if not len(values):
        return values, np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if _dense(low, high, len(values)):
        there = np.zeros(high - low + 1, np.bool_)
        if len(values) <= SMALL:
            offsets = values.astype(np.int64, copy=False) - low
            there[offsets] = True
            number = there.cumsum() - 1
            return (there.nonzero()[0] + low).astype(values.dtype, copy=False), number[offsets]
        for start, stop in pieces(len(values)):
            there[values[start:stop].astype(np.int64, copy=False) - low] = True
        number = np.cumsum(there) - 1
        distinct = (positions_of(there) + low).astype(values.dtype, copy=False)
        numbers = np.empty(len(values), np.int64)
        for start, stop in pieces(len(values)):
            numbers[start:stop] = number[values[start:stop].astype(np.int64, copy=False) - low]
        return distinct, numbers
    order = order_of(values)
    ordered = taken(values, order)
    new = _new(ordered)
    numbers = np.empty(len(values), np.int64)
    number = np.cumsum(new) - 1
    for start, stop in pieces(len(values)):
        numbers[order[start:stop]] = number[start:stop]
    return taken(ordered, new), numbers


def firsts(values: Ints) -> tuple[Ints, Ints]:
    """Return the distinct integers, ascending, and for each the position of one that is equal."""
    if not len(values):
        return values, np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if _dense(low, high, len(values)):
        place = np.full(high - low + 1, -1, np.int64)
        for start, stop in pieces(len(values)):
            slots = values[start:stop].astype(np.int64, copy=False) - low
            place[slots] = np.arange(start, stop)
        found = positions_of(place >= 0)
        return (found + low).astype(values.dtype, copy=False), taken(place, found)
    order = order_of(values)
    ordered = taken(values, order)
    new = _new(ordered)
    return taken(ordered, new), taken(order, new)


def member(values: Ints, among: Ints) -> npt.NDArray[np.bool_]:
    """Return where ``values`` are one of ``among``; both are integers."""
    if not len(values) or not len(among):
        return np.zeros(len(values), np.bool_)
    low, high = int(among.min()), int(among.max())
    dense = _dense(low, high, len(values) + len(among))
    if len(values) <= SMALL and len(among) <= SMALL:
        if not dense:
            return _within(values, np.sort(among))
        known = np.zeros(high - low + 1, np.bool_)
        known[among.astype(np.int64, copy=False) - low] = True
        return _marked(values, known, low, high)
    if dense:
        known = np.zeros(high - low + 1, np.bool_)
        for start, stop in pieces(len(among)):
            known[among[start:stop].astype(np.int64, copy=False) - low] = True
    else:
        ordered = _sorted(among)
    out = np.empty(len(values), np.bool_)
    for start, stop in pieces(len(values)):
        part = values[start:stop]
        out[start:stop] = _marked(part, known, low, high) if dense else _within(part, ordered)
    return out


def _marked(
    values: Ints, known: npt.NDArray[np.bool_], low: int, high: int
) -> npt.NDArray[np.bool_]:
    """Return where values are marked in a table of all integers between two."""
    inside = (values >= low) & (values <= high)
    found: npt.NDArray[np.bool_] = known[np.where(inside, values - low, 0)] & inside
    return found


def _within(values: Ints, ordered: Ints) -> npt.NDArray[np.bool_]:
    """Return where values are among sorted ones."""
    at = np.minimum(ordered.searchsorted(values), len(ordered) - 1)
    found: npt.NDArray[np.bool_] = ordered[at] == values
    return found
