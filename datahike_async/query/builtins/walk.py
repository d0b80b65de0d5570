"""Large collections in pieces: going over them, copying, sorting, and letting go of them.

One call of Python's over a million elements keeps the interpreter from every other thread, and
nothing can stop it. What is little is handled as always, and counted, for it may come often.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cmp_to_key
from itertools import islice
from typing import Any, Final, TypeVar

from datahike_async.index.arrays import order_of
from datahike_async.index.columns import OBJECT, Column
from datahike_async.index.objects import object_array
from datahike_async.looks import SMALL, STEP, pieces, tally, walked
from datahike_async.values.order import LONG, compare, sort_key

__all__ = ["check_order", "copied", "each", "in_order", "let_go", "mapped", "positions_in_order"]

T = TypeVar("T")

# So few elements take no time, however often they come.
_FEW: Final = 32
# What an element that is copied counts for.
_COPIED: Final = 4
_ORDERED: Final = 2 * STEP
_SEQUENCES: Final = (list, tuple)
_CUT: Final = (list, tuple, str, range)
_ATOMS: Final = (int, str, float)
_MOST_ORDERED: Final = 1 << 14


def each(items: Collection[T], cost: int = STEP) -> Iterable[T]:
    """Return the elements of a collection, to be gone over by code of Python's."""
    count = len(items)
    if count * cost > SMALL:
        return walked(items, each=cost)
    if count > _FEW:
        tally(count * cost)
    return items


def copied(items: Any, start: int = 0, stop: int | None = None) -> list[Any]:
    """Return the elements of a collection, or those of [start, stop) of a sequence, as a list."""
    if stop is None and not start and len(items) <= _FEW:
        return list(items)
    if isinstance(items, _CUT):
        stop = len(items) if stop is None else min(stop, len(items))
        count = max(stop - start, 0)
        if count * _COPIED > SMALL:
            out: list[Any] = []
            for i, j in pieces(count, each=_COPIED):
                out += items[start + i : start + j]
            return out
        if count > _FEW:
            tally(count * _COPIED)
        return list(items[start:stop])
    if len(items) * _COPIED <= SMALL:
        return list(items)
    out, rest = [], iter(items)
    for i, j in pieces(len(items), each=_COPIED):
        out += islice(rest, j - i)
    return out


def mapped(keys: Collection[Any], values: Collection[Any]) -> dict[Any, Any]:
    """Return the dict of keys and values that belong together."""
    if len(keys) * STEP <= SMALL:
        return dict(zip(keys, values, strict=True))
    return {k: v for k, v in walked(zip(keys, values, strict=True), each=_COPIED)}  # noqa: C416


def in_order(items: Collection[Any]) -> list[Any]:
    """Return the elements in the total order of values; those that tie stay in their order."""
    count = len(items)
    if count * _ORDERED <= SMALL and not any(map(_is_long, items)):
        if count > _FEW:
            tally(count * _ORDERED)
        return sorted(items, key=sort_key)
    known = items if isinstance(items, _SEQUENCES) else copied(items)
    return [known[i] for i in positions_in_order(known)]


def positions_in_order(items: Sequence[Any]) -> Iterable[int]:
    """Return the positions of the elements in the total order of values."""
    count = len(items)
    if any(map(_is_long, each(items, _COPIED))):
        return sorted(range(count), key=lambda i: _by_comparing(items[i]))
    if count * _ORDERED <= SMALL:
        keys = [sort_key(x) for x in each(items)]
        return sorted(range(count), key=keys.__getitem__)
    try:
        column = Column.of(items)
    except (TypeError, OverflowError):
        column = Column(OBJECT, object_array(items))
    order = order_of(column.ranks())
    return (i for start, stop in pieces(count) for i in order[start:stop].tolist())


def _is_long(value: Any) -> bool:
    if type(value) in _SEQUENCES:
        return len(value) > LONG
    if not isinstance(value, _ATOMS):
        check_order(value)
    return False


def check_order(value: Any) -> None:
    """Raise ValueError for a map or set that takes long to put in an order with others."""
    if isinstance(value, (Mapping, AbstractSet)) and len(value) > _MOST_ORDERED:
        raise ValueError(f"maps and sets of more than {_MOST_ORDERED} elements have no order")


_by_comparing: Final = cmp_to_key(compare)


def let_go(found: dict[Any, Any]) -> None:
    """Empty a dict that nobody needs any more: freeing what it holds in one call takes long."""
    while len(found) * STEP > SMALL:
        tally(SMALL)
        for _ in range(SMALL // STEP):
            found.popitem()
