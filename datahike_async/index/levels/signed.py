"""Signed sums of rows: what was added less what was removed, in whatever order it is summed up.

A row is what it says and when: (e, a, v, t), with ``until`` in the past. Rows that were added and
removed cancel out, what is left is put into the rows below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.index.columns import BOOL, I64, INSTANT, INT, Column, Rows
from datahike_async.index.mixed import joined_rows
from datahike_async.index.packing import packed, sorting
from datahike_async.index.persistent_set.node import row_key
from datahike_async.index.protocol import Order
from datahike_async.index.runs import changed, sorted_rows
from datahike_async.values.order import sort_key

__all__ = ["by_attribute", "cancelled", "net", "summed"]

_Mask = npt.NDArray[np.bool_]

_FEW: Final = 64
"""Rows that are summed up in Python faster than as columns."""

_MUCH: Final = 8
"""A change is much of what it changes from one row in so many on."""

# Kinds whose data are equal where their values are.
_DIRECT: Final = frozenset({INT, INSTANT, BOOL})


def summed(
    base: Iterable[Rows],
    adds: Iterable[Rows],
    removes: Iterable[Rows],
    order: Order,
    temporal: bool,
) -> list[Rows]:
    """Return sorted runs of a base with others added and removed; of one attribute but in EAVT."""
    base, adds, removes = list(base), list(adds), list(removes)
    if not removes and (not adds or (not base and len(adds) == 1)):
        return base or adds
    if len(base) == len(removes) == 1 and len(adds) < 2 and _are_one(base[0], removes[0]):
        # What an entity had, and has no more: most looks at what a run speaks of.
        return adds
    if sum(map(len, (*base, *adds, *removes))) <= _FEW:
        return _few([*base, *adds], removes, order)
    out = []
    for rows, new, gone in by_attribute(order, base, adds, removes):
        if sum(map(len, (*new, *gone))) * _MUCH > sum(map(len, rows)):
            # What is below is looked through and sorted anew faster than places are found in it.
            both, _ = cancelled([*rows, *new], gone, order)
            if both is not None:
                out.append(both)
            continue
        plus, minus = cancelled(new, gone, order)
        below = joined_rows(rows) if rows else None
        if below is None:
            made = plus
        else:
            sides = [[] if side is None else [side] for side in (plus, minus)]
            made = changed(below, sides[0], sides[1], order, temporal)
        if made is not None and len(made):
            out.append(made)
    return out


def _are_one(left: Rows, right: Rows) -> bool:
    """Whether both are the same one row."""
    if not len(left) == len(right) == 1 or left.tx(0) != right.tx(0):
        return False
    return _key(left, 0, Order.EAVT) == _key(right, 0, Order.EAVT)


def _few(there: list[Rows], removes: list[Rows], order: Order) -> list[Rows]:
    """Return the sum of few rows: what a look at an entity or a value finds, in Python."""
    gone: dict[Any, int] = {}
    for rows in removes:
        for i in range(len(rows)):
            key = _key(rows, i, order)
            gone[key] = gone.get(key, 0) + 1
    left = []
    for n, rows in enumerate(there):
        for i in range(len(rows)):
            key = _key(rows, i, order)
            if gone.get(key):
                gone[key] -= 1
            else:
                left.append((key, n, i))
    left.sort()
    # Rows that stand side by side stay together.
    out: list[list[Rows]] = []
    start = 0
    for at, (_, n, i) in enumerate(left):
        last = at + 1 == len(left)
        if not last and left[at + 1][1:] == (n, i + 1):
            continue
        first = left[start][2]
        piece = there[n]
        if first or i + 1 < len(piece):
            piece = piece.slice(first, i + 1)
        if out and (order is Order.EAVT or out[-1][0].a[0] == piece.a[0]):
            out[-1].append(piece)
        else:
            out.append([piece])
        start = at + 1
    return [Rows.concat(pieces) for pieces in out]


def _key(rows: Rows, i: int, order: Order) -> tuple[Any, ...]:
    key = row_key(rows, i, order)
    return key if rows.until is None else (*key, int(rows.until[i]))


def net(
    adds: Iterable[Rows], removes: Iterable[Rows], order: Order
) -> tuple[list[Rows], list[Rows]]:
    """Return what is added and what is removed in all, as sorted runs."""
    plus, minus = [], []
    for new, gone in by_attribute(order, adds, removes):
        one, other = cancelled(new, gone, order)
        plus += [one] if one else []
        minus += [other] if other else []
    return plus, minus


def by_attribute(order: Order, *sides: Iterable[Rows]) -> list[tuple[list[Rows], ...]]:
    """Return the runs of each attribute, side by side; in EAVT all of them as they are."""
    if order is Order.EAVT:
        return [tuple([run for run in side if len(run)] for side in sides)]
    found: dict[int, tuple[list[Rows], ...]] = {}
    for i, side in enumerate(sides):
        for run in side:
            if len(run):
                a = int(run.a[0])
                if a not in found:
                    found[a] = tuple([] for _ in sides)
                found[a][i].append(run)
    return [found[a] for a in sorted(found)]


def cancelled(
    adds: Sequence[Rows], removes: Sequence[Rows], order: Order
) -> tuple[Rows | None, Rows | None]:
    """Return as one sorted run each what is left of rows that are added and removed."""
    sides = [[run for run in side if len(run)] for side in (adds, removes)]
    plus, minus = (joined_rows(side) if side else None for side in sides)
    if plus is not None and minus is not None:
        keep_plus, keep_minus = _kept(plus, minus)
        plus, minus = _taken(plus, keep_plus), _taken(minus, keep_minus)
    return _sorted(plus, len(sides[0]), order), _sorted(minus, len(sides[1]), order)


def _sorted(rows: Rows | None, runs: int, order: Order) -> Rows | None:
    """Return rows in order; those of one run are."""
    return rows if rows is None or runs < 2 else sorted_rows(rows, order)


def _taken(rows: Rows, keep: _Mask) -> Rows | None:
    if keep.all():
        return rows
    return rows.take(keep) if keep.any() else None


def _kept(plus: Rows, minus: Rows) -> tuple[_Mask, _Mask]:
    """Return which rows of either side have no counterpart on the other."""
    masks = np.ones(len(plus), np.bool_), np.ones(len(minus), np.bool_)
    # The side comes last: of two alike the first is added, the second removed.
    side = np.zeros(len(plus) + len(minus), np.int64)
    side[len(plus) :] = 1
    numbers = [
        np.concatenate([_i64(left), _i64(right)])
        for left, right in zip(_numbers(plus), _numbers(minus), strict=True)
    ]
    numbers = packed(numbers)
    order = sorting([*numbers, side])
    same = np.ones(len(order) - 1, np.bool_)
    for column in numbers:
        taken = column[order]
        same &= taken[1:] == taken[:-1]
    if not same.any():
        return masks
    edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    pairs = stops - starts == 1
    left, right = order[starts[pairs]], order[starts[pairs] + 1] - len(plus)
    crossing = (left < len(plus)) & (right >= 0)
    left, right = left[crossing], right[crossing]
    equal = _equal(plus.v.take(left), minus.v.take(right))
    masks[0][left[equal]] = masks[1][right[equal]] = False
    for start, stop in zip(starts[~pairs].tolist(), stops[~pairs].tolist(), strict=True):
        group = order[start : stop + 1].tolist()
        _cancel(
            [i for i in group if i < len(plus)],
            [i - len(plus) for i in group if i >= len(plus)],
            (plus, minus),
            masks,
        )
    return masks


def _numbers(rows: Rows) -> list[Any]:
    numbers = [rows.e, rows.a, rows.t]
    return numbers if rows.until is None else [*numbers, rows.until]


def _i64(data: npt.NDArray[Any]) -> I64:
    return data.astype(np.int64, copy=False)


def _equal(left: Column, right: Column) -> _Mask:
    if left.kind == right.kind and left.kind in _DIRECT:
        return np.asarray(left.data == right.data)
    out = np.empty(len(left), np.bool_)
    for i, (x, y) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        out[i] = x is y or (x == y if type(x) is type(y) is str else sort_key(x) == sort_key(y))
    return out


def _cancel(
    plus: list[int], minus: list[int], rows: tuple[Rows, Rows], masks: tuple[_Mask, _Mask]
) -> None:
    """Cancel rows of one entity, attribute and time by their values."""
    if not plus or not minus:
        return
    gone = Counter(sort_key(rows[1].v.value(i)) for i in minus)
    met: Counter[Any] = Counter()
    for i in plus:
        key = sort_key(rows[0].v.value(i))
        if gone[key]:
            gone[key] -= 1
            met[key] += 1
            masks[0][i] = False
    for i in minus:
        key = sort_key(rows[1].v.value(i))
        if met[key]:
            met[key] -= 1
            masks[1][i] = False
