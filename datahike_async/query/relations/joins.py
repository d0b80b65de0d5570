"""Joins of relations: natural joins, semi-joins and unions, on keys that tell types apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.cores import in_pieces
from datahike_async.edn.types import Symbol
from datahike_async.index.arrays import (
    Among,
    joined,
    member,
    numbered,
    order_of,
    searched,
    spans,
    taken,
)
from datahike_async.index.columns import EMPTY_I64, I64, Column
from datahike_async.looks import PIECE, look, pieces
from datahike_async.query.relations.relation import Relation, distinct, shared_codes

if TYPE_CHECKING:
    from datahike_async.query.limits.budget import Meter

__all__ = [
    "followed",
    "join",
    "joined_relations",
    "matching",
    "pairs_of",
    "parts_of",
    "product_where",
    "semi",
    "union",
    "without",
]

# Tables of keys are made for so many rows at most: that takes one call, which nothing can stop.
_DENSE: Final = 1 << 19
# Pair codes are less than this, so that they and what is added to them fit into 64 bits.
_CODES: Final = 2**62
# Joins of fewer rows look no table of places up.
_LOOKED_UP: Final = 1 << 12
# Pairs are tested before they are made where so many come on each row of what tests them.
_TESTED: Final = 1

# Told how many rows a join is about to make; raises where they are too many.
Count = Callable[[int], None] | None


def match(left: npt.NDArray[Any], right: npt.NDArray[Any], count: Count = None) -> tuple[I64, I64]:
    """Return the positions (in left, in right) of all pairs of equal keys.

    ``count`` is told how many there will be before they are made, and may refuse.
    """
    return pairs_of(*_ranges(left, right), count)


def _ranges(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> tuple[I64, I64, I64]:
    """Return start, stop, order: left[i] equals right[order[j]] where start[i] <= j < stop[i]."""
    if not len(left) or not len(right):
        nowhere = np.zeros(len(left), np.int64)
        return nowhere, nowhere, EMPTY_I64
    low, high = int(right.min()), int(right.max())
    span = high - low + 1
    both = len(left) + len(right)
    if span <= 8 * both + 1024 and both <= _DENSE:
        return _dense_ranges(left, right, low, span)
    order = order_of(right)
    ordered = taken(right, order)
    if span > both or high + 2 >= 2**63:
        return searched(ordered, left, "left"), searched(ordered, left, "right"), order
    # Each possible key is searched once, in order, and looked up by all rows that have it.
    begin = searched(ordered, np.arange(low, high + 2))
    start, stop = np.zeros(len(left), np.int64), np.zeros(len(left), np.int64)

    def find(i: int, j: int) -> None:
        part = left[i:j].astype(np.int64, copy=False)
        inside = (part >= low) & (part <= high)
        at = np.where(inside, part - low, 0)
        start[i:j] = begin[at]
        stop[i:j] = np.where(inside, begin[at + 1], start[i:j])

    in_pieces(len(left), find, each=2)
    return start, stop, order


def _dense_ranges(
    left: npt.NDArray[Any], right: npt.NDArray[Any], low: int, span: int
) -> tuple[I64, I64, I64]:
    """Match keys of a small range: where the pairs of each key begin is looked up, not searched."""
    look(len(left) + len(right))
    slots = right.astype(np.int64, copy=False) - low
    # One slot before and one after stand for the keys that ``right`` does not have.
    begin = np.zeros(span + 3, np.int64)
    np.cumsum(np.bincount(slots, minlength=span), out=begin[2 : span + 2])
    begin[span + 2] = begin[span + 1]
    # Numbers of 16 bits are sorted by radix.
    small = span < 2**16
    order = np.argsort(slots.astype(np.uint16), kind="stable") if small else order_of(slots)
    inside = (left >= low) & (left < low + span) if low + span < 2**63 else left >= low
    at = np.where(inside, left.astype(np.int64, copy=False) - low + 1, 0)
    return begin[at], begin[at + 1], order


def pairs_of(start: I64, stop: I64, order: I64 | None, count: Count = None) -> tuple[I64, I64]:
    """Return the pairs (i, order[j]) for which start[i] <= j < stop[i]; without order (i, j)."""
    counts = stop - start
    total = int(counts.sum())
    if count is not None:
        count(total)
    if total > PIECE:
        return _many_pairs(start, counts, total, order)
    look(total)
    if total == 0:
        return EMPTY_I64, EMPTY_I64
    there = spans(start, counts, total)
    return np.arange(len(counts)).repeat(counts), there if order is None else order[there]


def followed(origin: I64, start: I64, stop: I64, ends: I64) -> tuple[I64, I64]:
    """Return the pairs (origin[i], ends[j]) for which start[i] <= j < stop[i]."""
    counts = stop - start
    total = int(counts.sum())
    if total > PIECE:
        here, there = _many_pairs(start, counts, total, None)
        return taken(origin, here), taken(ends, there)
    look(total)
    if total == 0:
        return EMPTY_I64, EMPTY_I64
    return origin.repeat(counts), ends[spans(start, counts, total)]


def _many_pairs(start: I64, counts: I64, total: int, order: I64 | None) -> tuple[I64, I64]:
    here, there = np.empty(total, np.int64), np.empty(total, np.int64)
    pairs = _Pairs(start, counts, order)

    def make(low: int, high: int) -> None:
        here[low:high], there[low:high] = pairs.piece(low, high)

    in_pieces(total, make)
    return here, there


class _Pairs:
    """Pairs as of ``pairs_of``, made piece by piece; one may begin and end amid those of a row."""

    def __init__(self, start: I64, counts: I64, order: I64 | None) -> None:
        self.start = start
        self.counts = counts
        self.order = order
        self.ends = np.cumsum(counts)

    def piece(self, low: int, high: int) -> tuple[I64, I64]:
        """Return the pairs from one number to another."""
        first, last = np.searchsorted(self.ends, [low, high - 1], "right").tolist()
        rows = slice(first, last + 1)
        begins = self.ends[rows] - self.counts[rows]
        within = np.minimum(self.ends[rows], high) - np.maximum(begins, low)
        at = np.arange(low, high) + np.repeat(self.start[rows] - begins, within)
        here = np.repeat(np.arange(first, last + 1), within)
        return here, at if self.order is None else self.order[at]


def _keys(left: Relation, right: Relation, shared: list[Symbol]) -> tuple[Any, Any] | None:
    """Return arrays of both that are equal where all shared values are; None: never equal."""
    if len(shared) == 1:
        return shared_codes(left.columns[shared[0]], right.columns[shared[0]])
    whole: tuple[Any, Any] | None = None
    size = 1
    for variable in shared:
        found = shared_codes(left.columns[variable], right.columns[variable])
        if found is None:
            return None
        both, span = _from_zero(*found)
        if whole is None:
            whole, size = both, span
            continue
        if size * span >= _CODES:
            whole, size = _numbered(*whole)
        if size * span >= _CODES:
            both, span = _numbered(*both)
        whole = _paired(whole[0], span, both[0]), _paired(whole[1], span, both[1])
        size *= span
    return whole


def _from_zero(left: Any, right: Any) -> tuple[tuple[Any, Any], int]:
    """Return keys of both sides moved to [0, span), and span."""
    sides = [side for side in (left, right) if len(side)]
    if not sides:
        return (left, right), 1
    low = min(int(side.min()) for side in sides)
    span = max(int(side.max()) for side in sides) - low + 1
    if span >= _CODES:
        return _numbered(left, right)
    return (_moved(left, low), _moved(right, low)), span


def _numbered(left: Any, right: Any) -> tuple[tuple[Any, Any], int]:
    """Return keys of both sides as numbers among all of them, and how many there are."""
    unique, numbers = numbered(joined([left, right]))
    return (numbers[: len(left)], numbers[len(left) :]), max(len(unique), 1)


def _moved(keys: Any, low: int) -> I64:
    out = np.empty(len(keys), np.int64)
    for i, j in pieces(len(keys)):
        np.subtract(keys[i:j], low, out=out[i:j], dtype=np.int64)
    return out


def _paired(first: I64, span: int, second: I64) -> I64:
    """Return one number for each pair of numbers, of which the second is less than ``span``."""
    out = np.empty(len(first), np.int64)
    for i, j in pieces(len(first)):
        np.multiply(first[i:j], span, out=out[i:j])
        out[i:j] += second[i:j]
    return out


def _places(keys: Any, unique: Any) -> I64 | None:
    """Return where each of ``keys`` is in ``unique``, or -1.

    None where those are not distinct, or lie too far apart for a table.
    """
    low, high = int(unique.min()), int(unique.max())
    span = high - low + 1
    if span > len(keys) + len(unique) + 1024 or span >= 2**31:
        return None
    table = np.full(span, -1, np.int32)
    for i, j in pieces(len(unique)):
        table[unique[i:j].astype(np.int64, copy=False) - low] = np.arange(i, j)
    for i, j in pieces(len(unique)):
        if (table[unique[i:j].astype(np.int64, copy=False) - low] != np.arange(i, j)).any():
            return None
    out = np.empty(len(keys), np.int64)

    def find(i: int, j: int) -> None:
        part = keys[i:j].astype(np.int64, copy=False)
        if low <= int(part.min()) and int(part.max()) <= high:
            out[i:j] = table[part - low]
            return
        inside = (part >= low) & (part <= high)
        out[i:j] = np.where(inside, table[np.where(inside, part - low, 0)], -1)

    in_pieces(len(keys), find, each=2)
    return out


def parts_of(only: Relation, left: Relation, right: Relation) -> bool:
    """Whether of two columns one is of the left side alone, and one of the right side alone."""
    first, second = ((v in left.columns, v in right.columns) for v in only.columns)
    return first[0] is not first[1] and second == first[::-1]


def _looked_up(left: Relation, right: Relation, keys: Any, count: Count) -> Relation | None:
    """Join two relations of which the one with fewer rows has each key once, by a table of keys.

    The rows stay in the order of the other. None where it has a key twice, or no table is worth it.
    """
    swapped = left.count < right.count
    many, few = (right, left) if swapped else (left, right)
    at = _places(keys[1 if swapped else 0], keys[0 if swapped else 1])
    if at is None:
        return None
    found = at >= 0
    if not found.all():
        many, at = many.take(found), taken(at, found)
    if count is not None:
        count(len(at))
    columns = {v: c.take(at) for v, c in few.columns.items() if v not in many.columns}
    return Relation({**many.columns, **columns}, len(at))


def _tested(
    left: Relation,
    right: Relation,
    only: Relation,
    ranges: tuple[I64, I64, I64],
    total: int,
    count: Count,
) -> tuple[I64, I64] | None:
    """Return the pairs of a join that match a row of ``only``; no others are kept.

    ``only`` has two columns, one of either side. None where pairs of their values have no codes.
    """
    start, stop, order = ranges
    kept = 0
    codes: list[tuple[bool, Any, Any, int]] = []
    for variable, column in only.columns.items():
        mine = variable in left.columns
        keys = shared_codes((left if mine else right).columns[variable], column)
        if keys is None:
            return EMPTY_I64, EMPTY_I64
        both, span = _from_zero(*keys)
        codes.append((mine, *both, span))
    (first_mine, first, among, size), (_, second, others, span) = codes
    if size * span >= _CODES:
        return None
    known = Among(_paired(among, span, others), total)
    pairs = _Pairs(start, stop - start, order)
    found: list[tuple[int, I64, I64]] = []
    lock = Lock()

    def test(low: int, high: int) -> None:
        nonlocal kept
        here, there = pairs.piece(low, high)
        one, two = (here, there) if first_mine else (there, here)
        keep = np.flatnonzero(known.holds(first[one] * span + second[two]))
        with lock:
            found.append((low, here[keep], there[keep]))
            kept += len(keep)
        if count is not None:
            count(kept)

    in_pieces(total, test, size=2 * PIECE)
    found.sort(key=lambda part: part[0])
    return (
        joined([EMPTY_I64, *(here for _, here, _ in found)]),
        joined([EMPTY_I64, *(there for _, _, there in found)]),
    )


def join(
    left: Relation, right: Relation, meter: Meter | None = None, only: Relation | None = None
) -> Relation:
    """Return the natural join; without a shared variable, every pair of rows.

    ``only`` are two columns that a clause to come will join: where one is of either side, rows that
    match none of its rows may be left out. Raises QueryError where the result would go over the
    budget of ``meter``.
    """
    if not left.columns and left.count == 1:
        return right
    if not right.columns and right.count == 1:
        return left
    shared = [v for v in right.columns if v in left.columns]
    if not left.count or not right.count:
        return _empty(left, right)
    width = len(left.columns.keys() | right.columns.keys())
    count: Count = None if meter is None else lambda total: meter.rows(total, width)
    if not shared:
        start = np.zeros(left.count, np.int64)
        here, there = pairs_of(start, start + right.count, None, count)
    elif len(shared) == len(right.columns):
        return semi(left, right, keep=True)
    elif len(shared) == len(left.columns):
        return semi(right, left, keep=True)
    else:
        keys = _keys(left, right, shared)
        if keys is None:
            return _empty(left, right)
        if max(left.count, right.count) >= _LOOKED_UP:
            found = _looked_up(left, right, keys, count)
            if found is not None:
                return found
        if right.count > 4 * left.count:
            left, right, keys = right, left, keys[::-1]
        ranges = _ranges(*keys)
        total = int((ranges[1] - ranges[0]).sum())
        pairs = None
        if only is not None and total > PIECE and total >= _TESTED * only.count:
            if meter is not None:
                meter.rows(total)
            pairs = _tested(left, right, only, ranges, total, count)
        here, there = pairs_of(*ranges, count) if pairs is None else pairs
    columns = {v: c.take(here) for v, c in left.columns.items()}
    for v, c in right.columns.items():
        if v not in columns:
            columns[v] = c.take(there)
    return Relation(columns, len(here))


def product_where(
    left: Relation,
    right: Relation,
    variables: Sequence[Symbol],
    test: Callable[[Relation], npt.NDArray[np.bool_] | None],
    meter: Meter | None = None,
) -> Relation | None:
    """Return the pairs of rows for which a test of some of their columns holds.

    The pairs are made piece by piece. None where the test cannot say.
    """
    total = left.count * right.count
    width = len(left.columns) + len(right.columns)
    if meter is not None:
        meter.rows(total)
    mine = Relation({v: c for v, c in left.columns.items() if v in variables}, left.count)
    other = Relation({v: c for v, c in right.columns.items() if v in variables}, right.count)
    heres: list[I64] = [EMPTY_I64]
    theres: list[I64] = [EMPTY_I64]
    kept = 0
    for low, high in pieces(total, each=2):
        here, there = np.divmod(np.arange(low, high), right.count)
        columns = {v: c.take(here) for v, c in mine.columns.items()}
        columns |= {v: c.take(there) for v, c in other.columns.items()}
        mask = test(Relation(columns, high - low))
        if mask is None:
            return None
        heres.append(here[mask])
        theres.append(there[mask])
        kept += len(heres[-1])
        if meter is not None:
            meter.rows(kept, width)
    first, second = joined(heres), joined(theres)
    columns = {v: c.take(first) for v, c in left.columns.items()}
    columns |= {v: c.take(second) for v, c in right.columns.items()}
    return Relation(columns, kept)


def _empty(left: Relation, right: Relation) -> Relation:
    nothing = np.empty(0, np.int64)
    columns = {v: c.take(nothing) for v, c in {**right.columns, **left.columns}.items()}
    return Relation(columns, 0)


def semi(left: Relation, right: Relation, *, keep: bool) -> Relation:
    """Return the rows of ``left`` that match a row of ``right`` (or none, without ``keep``)."""
    shared = [v for v in right.columns if v in left.columns]
    if not shared:
        return left if bool(right.count) is keep else left.take(np.zeros(left.count, np.bool_))
    if not left.count:
        return left
    keys = _keys(left, right, shared) if right.count else None
    if keys is None:
        return left.take(np.full(left.count, not keep))
    return left.take(member(keys[0], keys[1]) if keep else ~member(keys[0], keys[1]))


def matching(left: Relation, right: Relation) -> Relation:
    """Return the rows of ``left`` that match a row of ``right``."""
    return semi(left, right, keep=True)


def without(left: Relation, right: Relation) -> Relation:
    """Return the rows of ``left`` that match no row of ``right``."""
    return semi(left, right, keep=False)


def union(relations: Sequence[Relation], variables: Sequence[Symbol]) -> Relation:
    """Return the distinct rows of relations that all have ``variables``."""
    relations = [r for r in relations if r.count]
    if not relations:
        return Relation({v: Column.of([]) for v in variables}, 0)
    if len(relations) == 1:
        only = relations[0]
        return Relation({v: only.columns[v] for v in variables}, only.count)
    return distinct(joined_relations(relations, variables))


def joined_relations(relations: Sequence[Relation], variables: Sequence[Symbol]) -> Relation:
    """Return the rows of relations that all have ``variables``, one after the other."""
    columns = {v: Column.concat([r.columns[v] for r in relations], packed=True) for v in variables}
    return Relation(columns, sum(r.count for r in relations))
