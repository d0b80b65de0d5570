"""Arrays in pieces: ordering, distinct values, numbering, membership, taking and filling.

NumPy's own ``unique`` builds a hash table, which for millions of integers takes a hundred times as
long as sorting them, and keeps the interpreter from every other thread meanwhile. These sort, or
mark what is there in a table where the integers lie close together. Whatever goes over many values
does so in pieces, with a look at the clock between them (see ``looks``): one call of NumPy over
fifty million values takes seconds, and nothing can stop it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.cores import in_pieces
from datahike_async.looks import PIECE, SMALL, look, pieces

__all__ = [
    "Among",
    "Narrow",
    "all_differ",
    "ascending",
    "between",
    "constant",
    "firsts",
    "joined",
    "member",
    "numbered",
    "order_of",
    "ordered_bits",
    "positions_of",
    "repeated",
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
# From so many sparse values on, marks say which of those looked up need no searching.
_MARKED: Final = 1 << 14
# Places in a table of marks for each value, and the places of the largest one (in bits).
_PLACES: Final = 16
_BITS: Final = 24
# What spreads integers over 64 bits.
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
# Values that say where a part of an order lies.
_SAMPLE: Final = 1 << 12


def _dense(low: int, high: int, count: int) -> bool:
    """Whether a table of all integers between two is worth its size."""
    return high - low < 16 * count + 1024


# -- pieces ----------------------------------------------------------------------------------------


def taken(data: npt.NDArray[Any], positions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return ``data[positions]``, of an index array or a mask, as a new array."""
    if len(positions) > PIECE and positions.dtype == np.bool_:
        return _kept(data, positions)
    if len(positions) <= PIECE:
        if len(positions) > SMALL:
            look(len(positions))
        out: npt.NDArray[Any] = data[positions]
        return out
    out = np.empty(len(positions), data.dtype)
    size = PIECE // 8 if data.dtype == np.object_ else PIECE
    # NumPy writes to where it should at once where it is told that all positions exist. It would
    # copy what lies apart, each time.
    direct = data.flags.c_contiguous

    def take(start: int, stop: int) -> None:
        part = positions[start:stop]
        if direct and -len(data) <= int(part.min()) and int(part.max()) < len(data):
            data.take(part, out=out[start:stop], mode="wrap")
        else:
            out[start:stop] = data[part]

    in_pieces(len(positions), take, size=size)
    return out


def _kept(data: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Return what lies where a mask of many is true: half the time of finding positions first."""
    out, at = np.empty(np.count_nonzero(mask), data.dtype), 0
    size = PIECE // 8 if data.dtype == np.object_ else PIECE
    for i, j in pieces(len(mask), size=size):
        part = data[i:j].compress(mask[i:j])
        out[at : at + len(part)] = part
        at += len(part)
    return out


def positions_of(mask: npt.NDArray[np.bool_]) -> Ints:
    """Return where a mask is true, ascending."""
    if len(mask) <= PIECE:
        return np.flatnonzero(mask)
    out, at = np.empty(np.count_nonzero(mask), np.int64), 0
    for i, j in pieces(len(mask)):
        found = np.flatnonzero(mask[i:j])
        np.add(found, i, out=out[at : at + len(found)])
        at += len(found)
    return out


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

    def search(start: int, stop: int) -> None:
        out[start:stop] = ordered.searchsorted(values[start:stop], side)  # type: ignore[call-overload]

    in_pieces(len(values), search, each=_SORTED)
    return out


def spans(start: Ints, counts: Ints, total: int) -> Ints:
    """Return start[i], start[i] + 1, … for each i, as many as counts[i]: ``total`` in a row."""
    there = np.arange(total)
    there += (start + counts - counts.cumsum()).repeat(counts)
    return there


def ordered_bits(floats: npt.NDArray[np.float64]) -> Ints:
    """Return integers ordered as doubles are: 0.0 and -0.0 are one, NaN is itself and last."""
    bits = np.where(np.isnan(floats), np.nan, floats + 0.0).view(np.int64)
    return np.where(bits < 0, bits ^ (2**63 - 1), bits)


# -- little memory ---------------------------------------------------------------------------------


class Narrow:
    """Whole numbers as what they are above the least of them, in as few bytes as that needs."""

    __slots__ = ("_least", "above")

    def __init__(self, least: int, above: npt.NDArray[Any]) -> None:
        self._least = least
        self.above = above

    def __len__(self) -> int:
        return len(self.above)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.above.nbytes

    @classmethod
    def of(cls, values: Ints) -> Narrow | Ints:
        """Return values narrowed, or themselves where that does not make them smaller."""
        least = int(values.min())
        high = int(values.max()) - least
        if high >= 2**32:
            return values
        above = np.empty(len(values), np.min_scalar_type(high))
        for i, j in pieces(len(values)):
            above[i:j] = values[i:j] - least
        return cls(least, above)

    def wide(self) -> Ints:
        """Return the numbers as they were."""
        out = np.empty(len(self.above), np.int64)
        for i, j in pieces(len(out)):
            np.add(self.above[i:j], self._least, out=out[i:j], dtype=np.int64)
        return out

    def at(self, i: int) -> int:
        """Return one of the numbers."""
        return self._least + int(self.above[i])

    def reaching(self, low: int, high: int) -> Narrow:
        """Return the same numbers so that others from ``low`` to ``high`` have room beside them."""
        if low >= self._least and high - self._least <= np.iinfo(self.above.dtype).max:
            return self
        least = min(self._least, low)
        most = max(high, self._least + int(self.above.max(initial=0)))
        above = np.empty(len(self.above), np.min_scalar_type(most - least))
        for i, j in pieces(len(above)):
            above[i:j] = self.above[i:j]
            above[i:j] += above.dtype.type(self._least - least)
        return Narrow(least, above)

    def remade(self, make: Callable[[npt.NDArray[Any], int], npt.NDArray[Any]]) -> Narrow:
        """Return what ``make`` gives of the numbers above the least of them, and of that."""
        return Narrow(self._least, make(self.above, self._least))

    def take(self, positions: npt.NDArray[Any]) -> Narrow:
        """Return those at ``positions`` (an index array or a boolean mask)."""
        return Narrow(self._least, taken(self.above, positions))

    def slice(self, start: int, stop: int) -> Narrow:
        """Return ``[start, stop)`` without copying."""
        return Narrow(self._least, self.above[start:stop])


def constant(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the same numbers, held once where they are all the same."""
    if len(values) < 2 or values[0] != values[-1]:
        return values
    if any((values[i:j] != values[0]).any() for i, j in pieces(len(values))):
        return values
    return repeated(values[:1].copy(), len(values))


def repeated(one: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
    """Return the first of some numbers ``count`` times, held once."""
    return np.ndarray((count,), np.int32, one[:1], strides=(0,)) if count else one[:0]


# -- order -----------------------------------------------------------------------------------------


def ascending(values: npt.NDArray[Any]) -> bool:
    """Whether each value is greater than the one before; looks no further than to the first not."""
    return all(
        bool((values[i:j] < values[i + 1 : j + 1]).all()) for i, j in pieces(len(values) - 1)
    )


def all_differ(values: Ints) -> bool:
    """Whether marks tell that no value comes twice: where they lie close together, in any order."""
    count = len(values)
    if count < 2:
        return True
    low, high = int(values.min()), int(values.max())
    if not count <= high - low + 1 <= _PLACES * count:
        return False
    if len(np.unique(values[:_SAMPLE])) < min(count, _SAMPLE):
        return False
    marks = np.zeros(high - low + 1, np.bool_)
    for start, stop in pieces(count):
        marks[values[start:stop] - low] = True
    return sum(int(np.count_nonzero(marks[i:j])) for i, j in pieces(len(marks))) == count


def between(values: npt.NDArray[Any], start: int, stop: int) -> tuple[Ints, int]:
    """Return where the values are that sorting puts at [start, stop), and maybe some more.

    Positions ascend; the number says how many values come before all of them. Only a part of the
    values needs sorting then. There is no NaN among them.
    """
    count = len(values)
    everything = np.arange(count), 0
    if count <= _SAMPLE or start >= stop:
        return everything
    sample = np.sort(values[np.linspace(0, count - 1, _SAMPLE).astype(np.int64)])
    spare = 2 * int(_SAMPLE**0.5)
    first, last = start * _SAMPLE // count - spare, stop * _SAMPLE // count + spare
    low = sample[first] if first >= 0 else None
    high = sample[last] if last < _SAMPLE else None
    if low is None and high is None:
        return everything
    before, found = 0, []
    for i, j in pieces(count, each=2):
        part = values[i:j]
        keep = np.ones(len(part), np.bool_) if high is None else part <= high
        if low is not None:
            less = part < low
            before += int(np.count_nonzero(less))
            keep &= ~less
        found.append(np.flatnonzero(keep) + i)
    positions = joined(found)
    if before <= start and before + len(positions) >= stop:
        return positions, before
    return everything


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
    step = max(PIECE // _SORTED, 1)
    counts = np.zeros((-(-count // step), size), np.int64)

    def place(start: int, stop: int) -> None:
        part = values[start:stop]
        at = pivots.searchsorted(part)
        equal = pivots[np.minimum(at, len(pivots) - 1)] == part
        codes[start:stop] = 2 * at + equal
        counts[start // step] = np.bincount(codes[start:stop], minlength=size)

    in_pieces(count, place, each=_SORTED, size=step * _SORTED)
    starts = np.cumsum(counts.sum(0)) - counts.sum(0)
    places = starts + np.cumsum(counts, 0) - counts
    out = np.empty(count, np.int64)

    def move(start: int, stop: int) -> None:
        i = start // step
        local = np.argsort(codes[start:stop], kind="stable")
        within = np.arange(stop - start) - np.repeat(np.cumsum(counts[i]) - counts[i], counts[i])
        out[np.repeat(places[i], counts[i]) + within] = local + start

    in_pieces(count, move, each=_SORTED, size=step * _SORTED)
    edges = [*starts.tolist(), count]
    large = []

    def order(first: int, last: int) -> None:
        for bucket in range(2 * first, 2 * last, 2):
            start, stop = edges[bucket], edges[bucket + 1]
            if PIECE < stop - start < count // 2 and depth < 3:
                large.append((start, stop))
            elif stop - start > 1:
                own = out[start:stop]
                part = taken(values, own)
                if len(part) > PIECE:
                    look(_SORTED * len(part))
                out[start:stop] = own[np.argsort(part, kind="stable")]

    # A bucket at a time: so many values are in each, about.
    in_pieces((size + 1) // 2, order, each=_SORTED * _BUCKET, size=_SORTED * _BUCKET)
    for start, stop in large:
        own = out[start:stop]
        out[start:stop] = taken(own, _bucketed(taken(values, own), depth + 1))
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


class Among:
    """A set of integers that many others are looked up in, piece by piece.

    A table where the integers lie close together. Otherwise they are sorted, and two marks for each
    (others may share them) tell most of those that are not among them.
    """

    __slots__ = ("_bits", "_high", "_known", "_low", "_marks", "_ordered")

    def __init__(self, among: Ints, count: int) -> None:
        """Take the integers, and how many others will be looked up."""
        self._low = self._high = 0
        self._known: npt.NDArray[np.bool_] | None = None
        self._marks: npt.NDArray[np.bool_] | None = None
        self._ordered: Ints = among
        if not len(among):
            return
        self._low, self._high = int(among.min()), int(among.max())
        if _dense(self._low, self._high, count + len(among)):
            self._known = np.zeros(self._high - self._low + 1, np.bool_)
            for start, stop in pieces(len(among)):
                self._known[among[start:stop].astype(np.int64, copy=False) - self._low] = True
            return
        if not ascending(among):
            self._ordered = _sorted(among)
        if len(among) >= _MARKED and count > len(among):
            self._bits = min((_PLACES * len(among)).bit_length(), _BITS)
            self._marks = np.zeros(1 << self._bits, np.bool_)
            for start, stop in pieces(len(among)):
                spread = self._spread(among[start:stop])
                self._marks[self._places(spread, 0)] = True
                self._marks[self._places(spread, 1)] = True

    def _spread(self, values: Ints) -> npt.NDArray[np.uint64]:
        spread: npt.NDArray[np.uint64] = values.astype(np.int64).view(np.uint64)
        spread *= _SPREAD
        return spread

    def _places(self, spread: npt.NDArray[np.uint64], nth: int) -> Ints:
        """Return the first or second place of values: some bits of them, spread."""
        shifted = spread << np.uint64(nth * self._bits) if nth else spread
        return (shifted >> np.uint64(64 - self._bits)).view(np.int64)

    def holds(self, values: Ints) -> npt.NDArray[np.bool_]:
        """Return which of some integers, no more than a piece, are in the set."""
        if not len(self._ordered):
            return np.zeros(len(values), np.bool_)
        if self._known is not None:
            return _marked(values, self._known, self._low, self._high)
        if self._marks is None:
            return _within(values, self._ordered)
        spread = self._spread(values)
        out = self._marks[self._places(spread, 0)]
        maybe = np.flatnonzero(out)
        out[maybe] = self._marks[self._places(spread[maybe], 1)]
        maybe = np.flatnonzero(out)
        out[maybe] = _within(values[maybe], self._ordered)
        return out


def member(values: Ints, among: Ints) -> npt.NDArray[np.bool_]:
    """Return where ``values`` are one of ``among``; both are integers."""
    if not len(values) or not len(among):
        return np.zeros(len(values), np.bool_)
    if int(values[-1]) - int(values[0]) == len(values) - 1 and ascending(values):
        return _within_run(int(values[0]), len(values), among)
    known = Among(among, len(values))
    if len(values) <= SMALL:
        return known.holds(values)
    out = np.empty(len(values), np.bool_)

    def hold(start: int, stop: int) -> None:
        out[start:stop] = known.holds(values[start:stop])

    in_pieces(len(values), hold)
    return out


def _within_run(first: int, count: int, among: Ints) -> npt.NDArray[np.bool_]:
    """Return which of ``count`` integers in a row, from ``first`` on, are one of ``among``."""
    out = np.zeros(count, np.bool_)
    for start, stop in pieces(len(among)):
        part = among[start:stop]
        inside = (part >= first) & (part <= first + count - 1)
        out[(part if inside.all() else part[inside]).astype(np.int64, copy=False) - first] = True
    return out


def _marked(
    values: Ints, known: npt.NDArray[np.bool_], low: int, high: int
) -> npt.NDArray[np.bool_]:
    """Return where values are marked in a table of all integers between two."""
    if len(values) and low <= int(values.min()) and int(values.max()) <= high:
        all_inside: npt.NDArray[np.bool_] = known[values.astype(np.int64, copy=False) - low]
        return all_inside
    inside = (values >= low) & (values <= high)
    found: npt.NDArray[np.bool_] = known[np.where(inside, values - low, 0)] & inside
    return found


def _within(values: Ints, ordered: Ints) -> npt.NDArray[np.bool_]:
    """Return where values are among sorted ones."""
    at = np.minimum(ordered.searchsorted(values), len(ordered) - 1)
    found: npt.NDArray[np.bool_] = ordered[at] == values
    return found
