"""Joins of relations: natural joins, semi-joins and unions, on keys that tell types apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Symbol
from datahike_async.index.arrays import joined, member, numbered, order_of, searched, taken
from datahike_async.index.columns import EMPTY_I64, I64, Column
from datahike_async.looks import PIECE, look, pieces
from datahike_async.query.relations.relation import Relation, distinct, shared_codes

if TYPE_CHECKING:
    from datahike_async.query.limits.budget import Meter

__all__ = ["followed", "join", "matching", "pairs_of", "product_where", "semi", "union", "without"]

# Tables of keys are made for so many rows at most: that takes one call, which nothing can stop.
_DENSE: Final = 1 << 19

# Told how many rows a join is about to make; raises where they are too many.
Count = Callable[[int], None] | None


def match(left: npt.NDArray[Any], right: npt.NDArray[Any], count: Count = None) -> tuple[I64, I64]:
    """Return the positions (in left, in right) of all pairs of equal keys.

    ``count`` is told how many there will be before they are made, and may refuse.
    """
    if not len(left) or not len(right):
        return EMPTY_I64, EMPTY_I64
    low, high = int(right.min()), int(right.max())
    span = high - low + 1
    if span <= 8 * (len(left) + len(right)) + 1024 and len(left) + len(right) <= _DENSE:
        return _match_dense(left, right, low, span, count)
    order = order_of(right)
    ordered = taken(right, order)
    start = searched(ordered, left, "left")
    stop = searched(ordered, left, "right")
    return pairs_of(start, stop, order, count)


def _match_dense(
    left: npt.NDArray[Any], right: npt.NDArray[Any], low: int, span: int, count: Count
) -> tuple[I64, I64]:
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
    return pairs_of(begin[at], begin[at + 1], order, count)


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
    there = _within(start, counts, total)
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
    return origin.repeat(counts), ends[_within(start, counts, total)]


def _within(start: I64, counts: I64, total: int) -> I64:
    """Return start[i], start[i] + 1, … for each i, as many as counts[i], all in a row."""
    there = np.arange(total)
    there += (start + counts - counts.cumsum()).repeat(counts)
    return there


def _many_pairs(start: I64, counts: I64, total: int, order: I64 | None) -> tuple[I64, I64]:
    """Make pairs piece by piece; a piece may begin and end amid those of one row."""
    here, there = np.empty(total, np.int64), np.empty(total, np.int64)
    ends = np.cumsum(counts)
    for low, high in pieces(total):
        first, last = np.searchsorted(ends, [low, high - 1], "right").tolist()
        rows = slice(first, last + 1)
        begins = ends[rows] - counts[rows]
        within = np.minimum(ends[rows], high) - np.maximum(begins, low)
        here[low:high] = np.repeat(np.arange(first, last + 1), within)
        at = np.arange(low, high) + np.repeat(start[rows] - begins, within)
        there[low:high] = at if order is None else order[at]
    return here, there


def _keys(left: Relation, right: Relation, shared: list[Symbol]) -> Any:
    if len(shared) == 1:
        return shared_codes(left.columns[shared[0]], right.columns[shared[0]])
    whole: tuple[Any, Any] | None = None
    for variable in shared:
        found = shared_codes(left.columns[variable], right.columns[variable])
        if found is None:
            return None
        both = joined([found[0], found[1]])
        unique, both = numbered(both)
        a, b = both[: len(left)], both[len(left) :]
        if whole is None:
            whole = (a, b)
            continue
        merged = joined([whole[0], whole[1]]) * len(unique) + both
        merged = numbered(merged)[1]
        whole = (merged[: len(left)], merged[len(left) :])
    return whole


def join(left: Relation, right: Relation, meter: Meter | None = None) -> Relation:
    """Return the natural join; without a shared variable, every pair of rows.

    Raises QueryError where the result would go over the budget of ``meter``.
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
    else:
        keys = _keys(left, right, shared)
        if keys is None:
            return _empty(left, right)
        if right.count > 4 * left.count:
            there, here = match(keys[1], keys[0], count)
        else:
            here, there = match(keys[0], keys[1], count)
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
    columns = {v: Column.concat([r.columns[v] for r in relations]) for v in variables}
    return distinct(Relation(columns, sum(r.count for r in relations)))
