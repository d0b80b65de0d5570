"""Runs of rows: sorting them, finding rows in them, taking rows out and putting new ones in.

Works on :class:`Rows` alone; a run of AEVT or AVET has one attribute.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import member, uniques
from datahike_async.index.columns import (
    BOOL,
    CODED,
    EMPTY_I64,
    I64,
    INSTANT,
    INT,
    OBJECT,
    Column,
    Rows,
)
from datahike_async.index.mixed import joined_rows
from datahike_async.index.objects import ordered
from datahike_async.index.packing import sorting
from datahike_async.index.protocol import Order
from datahike_async.index.splice import is_few, spliced
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key

__all__ = [
    "changed",
    "distinct",
    "merged",
    "primary",
    "put_in",
    "sort_positions",
    "sorted_rows",
    "without",
]

_Mask = npt.NDArray[np.bool_]

# Of so many strings one is looked for: then it pays to make them all Python's.
_TEXTS: Final = 64

# Kinds whose data compare as their values do.
_DIRECT: Final = frozenset({INT, INSTANT, BOOL})


def without(rows: Rows, gone: Iterable[tuple[int, int, Any]]) -> Rows:
    """Return ``rows`` without the datoms (e, attribute id, value key) in ``gone``."""
    keys = set(gone)
    if not keys or not len(rows):
        return rows
    entities = np.fromiter({e for e, _, _ in keys}, np.int64)
    candidates = np.flatnonzero(member(rows.e, entities))
    if not len(candidates):
        return rows
    keep = np.ones(len(rows), np.bool_)
    for i in candidates.tolist():
        if (int(rows.e[i]), int(rows.a[i]), typed_key(rows.v.value(i))) in keys:
            keep[i] = False
    return rows.take(keep)


def merged(base: Rows, added: Rows, order: Order) -> Rows:
    """Return both as one run in ``order``."""
    if not len(added):
        return base
    return sorted_rows(Rows.concat([base, added]) if len(base) else added, order)


def sorted_rows(rows: Rows, order: Order) -> Rows:
    """Return ``rows`` in ``order``."""
    if len(rows) < 2:
        return rows
    return rows.take(sort_positions(rows, order))


def sort_positions(rows: Rows, order: Order) -> I64:
    """Return the positions that put ``rows`` in ``order``, then by t, retractions first.

    Intervals that began with one transaction are put in the order of their ends.
    """
    last = [key for key in (rows.until, rows.added) if key is not None]
    if order is Order.AVET:
        if rows.v.kind == OBJECT:
            return _by_python(rows, order)
        return sorting([rows.a, rows.v.ranks(), rows.e, rows.t, *last])
    # Most facts are single-valued: sort by the integers, and look at values only where those tie.
    first = primary(rows, order)
    positions = np.argsort(first, kind="stable")
    ordered = first[positions]
    ties = ordered[1:] == ordered[:-1]
    if not ties.any():
        return positions
    if rows.v.kind == OBJECT:
        return _break_ties(rows, positions, ties)
    return sorting([first, rows.v.ranks(), rows.t, *last])


def primary(rows: Rows, order: Order) -> I64:
    """Return entity and attribute as one integer that sorts in EAVT or AEVT."""
    if order is Order.EAVT:
        return rows.e << 32 | rows.a
    return rows.a.astype(np.int64) << 32 | rows.e


def _tail_key(rows: Rows, i: int) -> tuple[Any, ...]:
    added = True if rows.added is None else bool(rows.added[i])
    return (sort_key(rows.v.value(i)), rows.tx(i), added, _end(rows, i))


def _end(rows: Rows, i: int) -> int:
    return 0 if rows.until is None else int(rows.until[i])


def _break_ties(rows: Rows, positions: I64, ties: Any) -> I64:
    out = positions.copy()
    edges = np.flatnonzero(np.diff(np.concatenate(([False], ties, [False])).astype(np.int8)))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        tied = positions[start : stop + 1]
        out[start : stop + 1] = tied[ordered([_tail_key(rows, i) for i in tied.tolist()])]
    return out


def _by_python(rows: Rows, order: Order) -> I64:
    def key(i: int) -> tuple[Any, ...]:
        value, *rest = _tail_key(rows, i)
        e, a = int(rows.e[i]), int(rows.a[i])
        if order is Order.AVET:
            return (a, value, e, *rest)
        return (e, a, value, *rest) if order is Order.EAVT else (a, e, value, *rest)

    return np.array(ordered([key(i) for i in range(len(rows))]), np.int64)


def position_of(rows: Rows, v: Any) -> Any:
    """Return a mask of the rows whose value is ``v``, type included."""
    column = rows.v
    if column.kind == CODED:
        assert column.dictionary is not None
        code = column.dictionary.code(v)
        return column.data == code if code is not None else np.zeros(len(rows), np.bool_)
    if column.kind == INT and type(v) is int:
        return column.data == v
    key = typed_key(v)
    return np.fromiter((typed_key(x) == key for x in column.tolist()), np.bool_, len(rows))


# -- changing a sorted run -----------------------------------------------------------------------


def changed(
    base: Rows, adds: Sequence[Rows], removes: Sequence[Rows], order: Order, temporal: bool
) -> Rows:
    """Return ``base`` without ``removes`` and with ``adds``; the same object if nothing changes.

    All are sorted in ``order``, in AEVT and AVET of one attribute. A row is found by (e, a, v),
    with ``temporal`` by (e, a, v, t, until); an added row replaces the one that is found.
    """
    added = None
    if adds:
        added = adds[0] if len(adds) == 1 else sorted_rows(joined_rows(adds), order)
    if not len(base):
        return base if added is None else added
    if is_few(base, added, sum(map(len, removes)) + (0 if added is None else len(added))):
        return _spliced(base, added, removes, order, temporal)
    keep = np.ones(len(base), np.bool_)
    for run in removes:
        _forget(base, run, keep, order, temporal)
    if added is None:
        return base if keep.all() else base.take(keep)
    if len(added) * 4 > len(base):
        _forget(base, added, keep, order, temporal)
        kept = base if keep.all() else base.take(keep)
        return sorted_rows(joined_rows([kept, added]), order) if len(kept) else added
    at, found = places(base, added, order, temporal)
    keep[at[found]] = False
    both = joined_rows([base, added])
    n, k = len(base), len(added)
    # Kept rows and new ones side by side: a new row comes before the base row at its place.
    positions = np.insert(np.arange(n), at, np.arange(n, n + k))
    if not keep.all():
        positions = positions[np.insert(keep, at, np.ones(k, np.bool_))]
    return both.take(positions)


def _spliced(
    base: Rows, added: Rows | None, removes: Sequence[Rows], order: Order, temporal: bool
) -> Rows:
    at, gone = EMPTY_I64, []
    for run in removes:
        place, found = places(base, run, order, temporal)
        gone.append(place[found])
    if added is not None:
        at, found = places(base, added, order, temporal)
        gone.append(at[found])
    leaving = uniques(np.concatenate(gone)) if gone else EMPTY_I64
    if added is None and not len(leaving):
        return base
    return spliced(base, leaving, at, added)


def put_in(base: Rows, added: Rows, order: Order) -> Rows:
    """Return rows of a history with further ones, which are sorted: each in its place by time."""
    if not len(base):
        return added
    if not len(added):
        return base
    if not is_few(base, added, len(added)):
        return sorted_rows(joined_rows([base, added]), order)
    # A run of AEVT has one attribute.
    bare = order is Order.AEVT
    keys, wanted = (base.e, added.e) if bare else (primary(base, order), primary(added, order))
    at, end = keys.searchsorted(wanted), keys.searchsorted(wanted, "right")
    for i in np.flatnonzero(end > at).tolist():
        stop, tail = int(end[i]), _tail_key(added, i)
        at[i] = bisect_right(range(stop), tail, int(at[i]), stop, key=lambda j: _tail_key(base, j))
    return spliced(base, EMPTY_I64, at, added)


def distinct(rows: Rows, *, facts: bool = False) -> Rows:
    """Return sorted rows of the past, each datom once; the same object if none comes twice.

    ``facts``: each fact once, as the newest of its transactions asserted it.
    """
    same = (rows.e[1:] == rows.e[:-1]) & (rows.a[1:] == rows.a[:-1])
    if not facts:
        same &= rows.t[1:] == rows.t[:-1]
        if rows.added is not None:
            same &= rows.added[1:] == rows.added[:-1]
    at = np.flatnonzero(same)
    if not len(at):
        return rows
    if rows.v.kind in _DIRECT or rows.v.kind == CODED:
        # A dictionary has no value twice.
        equal = rows.v.data[at] == rows.v.data[at + 1]
    else:
        sides = (rows.v.take(i).tolist() for i in (at, at + 1))
        pairs = zip(*sides, strict=True)
        equal = np.array([typed_key(x) == typed_key(y) for x, y in pairs], np.bool_)
    if not equal.any():
        return rows
    keep = np.ones(len(rows), np.bool_)
    keep[at[equal]] = False
    return rows.take(keep)


def _forget(base: Rows, run: Rows, keep: _Mask, order: Order, temporal: bool) -> None:
    """Clear ``keep`` at the rows of ``base`` that are in ``run``."""
    if len(run) > len(base):
        keep &= ~places(run, base, order, temporal)[1]
    else:
        at, found = places(base, run, order, temporal)
        keep[at[found]] = False


def places(base: Rows, run: Rows, order: Order, temporal: bool) -> tuple[I64, _Mask]:
    """Return where in ``base`` each row of ``run`` belongs, and whether it is there already."""
    if order is Order.AVET:
        at, end = value_ranges(base.v, run.v)
    else:
        # A run of AEVT has one attribute.
        bare = order is Order.AEVT
        keys, wanted = (base.e, run.e) if bare else (primary(base, order), primary(run, order))
        at, end = keys.searchsorted(wanted), keys.searchsorted(wanted, "right")
    found = np.zeros(len(run), np.bool_)
    many = end > at
    if order is not Order.AVET and not temporal:
        # Nearly all: one row of that entity and attribute.
        one = np.flatnonzero(end - at == 1)
        below, equal = _compared(base.v.take(at[one]), run.v.take(one))
        at[one[below]] += 1
        found[one] = equal
        many[one] = False

    if order is Order.AVET and not temporal:
        entities = memoryview(base.e)  # type: ignore[arg-type]
        spans = zip(at.tolist(), end.tolist(), run.e.tolist(), strict=True)
        for i, (low, stop, e) in enumerate(spans):
            if low < stop:
                place = bisect_left(entities, e, low, stop)
                at[i] = place
                found[i] = place < stop and entities[place] == e
        return at, found

    def rest(rows: Rows, i: int) -> tuple[Any, ...]:
        head = int(rows.e[i]) if order is Order.AVET else sort_key(rows.v.value(i))
        return (head, rows.tx(i), _end(rows, i)) if temporal else (head,)

    for i in np.flatnonzero(many).tolist():
        stop, wanted_rest = int(end[i]), rest(run, i)
        place = bisect_left(range(stop), wanted_rest, int(at[i]), stop, key=lambda j: rest(base, j))
        at[i] = place
        found[i] = place < stop and rest(base, place) == wanted_rest
    return at, found


def _compared(left: Column, right: Column) -> tuple[_Mask, _Mask]:
    """Return where ``left`` is below ``right``, and where both are one value of one type."""
    if left.kind == right.kind and left.kind in _DIRECT:
        return left.data < right.data, left.data == right.data
    below, equal = [], []
    for x, y in zip(left.tolist(), right.tolist(), strict=True):
        same = type(x) is type(y) and x is y
        x_key, y_key = ((), ()) if same else (sort_key(x), sort_key(y))
        below.append(x_key < y_key)
        equal.append(x_key == y_key)
    return np.array(below, np.bool_), np.array(equal, np.bool_)


def value_ranges(base: Column, wanted: Column) -> tuple[I64, I64]:
    """Return for each of ``wanted`` the range of ``base``, which is sorted, that has the value."""
    if base.kind == wanted.kind and base.kind in _DIRECT:
        return base.data.searchsorted(wanted.data), base.data.searchsorted(wanted.data, "right")
    if len(wanted) * _TEXTS > len(base) and is_text(base) and is_text(wanted):
        return _text_ranges(base.tolist(), wanted.tolist())
    at = np.empty(len(wanted), np.int64)
    end = np.empty(len(wanted), np.int64)
    key, prepared = value_keys(base, wanted)
    count, low, high = len(base), 0, 0
    previous: Any = None
    for i, value in enumerate(wanted.tolist()):
        if i and prepared(value) == previous:
            at[i], end[i] = low, high
            continue
        previous = prepared(value)
        # Both are sorted: the next value is not before this one.
        low = bisect_left(range(count), previous, low, count, key=key)
        high = low
        step = 1
        while high < count and key(high) == previous:
            low_known, high, step = high, high + step, step * 2
        if high > low:
            high = bisect_right(range(count), previous, low_known, min(high, count), key=key)
        at[i], end[i] = low, high
    return at, end


def is_text(column: Column) -> bool:
    """Whether all values of a column are known to be strings, which sort as they are."""
    return column.dictionary is not None and column.dictionary.is_text


def _text_ranges(base: list[str], wanted: list[str]) -> tuple[I64, I64]:
    at, end = [], []
    low, high, count, previous = 0, 0, len(base), None
    for value in wanted:
        if value != previous:
            low = high = bisect_left(base, value, high)
            if high < count and base[high] == value:
                high += 1
                if high < count and base[high] == value:
                    high = bisect_right(base, value, high)
            previous = value
        at.append(low)
        end.append(high)
    return np.array(at, np.int64), np.array(end, np.int64)


def value_keys(
    base: Column, wanted: Column | None = None
) -> tuple[Callable[[int], Any], Callable[[Any], Any]]:
    """Return what gives the key of row i of ``base``, and what gives that of a value."""
    dictionary = base.dictionary
    if dictionary is not None and is_text(base) and (wanted is None or is_text(wanted)):
        values, codes = dictionary.listed, memoryview(base.data)  # type: ignore[arg-type]
        return (lambda i: values[codes[i]]), (lambda value: value)
    return (lambda i: sort_key(base.value(i))), sort_key
