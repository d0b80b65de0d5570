"""Attributes that memory has no room for: read part by part, of which only what is wanted is kept.

Where memory is limited (``Memory``), an attribute is put together and kept only if it takes at most
half of the share of columns. Of any other a part is read at a time: the datoms of a range of
entities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from datahike_async.index.arrays import member
from datahike_async.index.columns import CODED, I64, OBJECT, Column, Rows
from datahike_async.index.protocol import Order
from datahike_async.index.source import NodeMiss, Reading, read
from datahike_async.query.limits.budget import Meter
from datahike_async.query.reading.known import possible
from datahike_async.query.reading.stats import Stats
from datahike_async.query.relations.relation import codes, shared_codes
from datahike_async.snapshot.ids import EMAX
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr

__all__ = [
    "fits",
    "fits_surely",
    "has_room",
    "has_room_for_all",
    "is_much",
    "of_entities",
    "of_values",
    "ranges",
    "rows_within",
    "selected",
]

# An attribute may take this part of the share: another lies beside it, and half of it is copied.
_ROOM: Final = 2
# So many parts of the share a row of a part takes: objects and copies take a few hundred bytes.
_PART: Final = 2048
_LEAST: Final = 256
_MOST: Final = 1 << 17
# Parts of which the nodes are read in one wave, once some have been: they are held meanwhile.
_AHEAD: Final = 4
# Bytes of a row beside its value, and of a value of each kind. A value that a dictionary has takes
# its object, its place in the list, and one in a table of hashes. Packed it takes less afterwards.
_ROW: Final = 12
_NUMBER: Final = 8
_CODE: Final = 4
_IN_DICTIONARY: Final = 142
_OBJECT: Final = 56
# A query's share has room for so many attributes of what it knows.
_MUCH: Final = 8
# Leaves that are looked at to tell how many different values there are.
_SAMPLED: Final = 4
_NUMBERS: Final = frozenset({"long", "ref", "double", "float", "boolean", "instant"})


async def fits(view: View, attr: Attr) -> bool:
    """Whether there is room for the columns of an attribute, or they are at hand already."""
    if fits_surely(view, attr):
        return True
    room, count = view.snapshot.trees.memory.columns // _ROOM, _count(view, attr)
    if attr.value_type.name in _NUMBERS or count * (_ROW + _CODE) > room:
        return False
    return count * (_ROW + await _width(view, attr)) <= room


async def is_much(view: View, attr: Attr, rows: int) -> bool:
    """Whether so many rows of an attribute are a good part of what a query may hold."""
    memory = view.snapshot.trees.memory
    if memory.query is None:
        return False
    number = attr.value_type.name in _NUMBERS
    width = _NUMBER if number else await _width(view, attr)
    return rows * (_ROW + width) * _MUCH > memory.query


def fits_surely(view: View, attr: Attr) -> bool:
    """Whether the same can be told without reading anything."""
    if not view.snapshot.trees.memory.limited or view.cached(attr.id) is not None:
        return True
    number = attr.value_type.name in _NUMBERS
    return has_room(view, _count(view, attr), _NUMBER if number else _IN_DICTIONARY)


def has_room_for_all(view: View) -> bool:
    """Whether there is room for every attribute at once: then nobody need ask for one."""
    snapshot = view.snapshot
    temporal = snapshot.trees.temporal
    past = len(temporal[Order.AEVT]) if view.past and temporal is not None else 0
    return has_room(view, len(snapshot.trees) + snapshot.n + past)


def has_room(view: View, rows: float, width: float = _IN_DICTIONARY) -> bool:
    """Whether there is room for so many rows; a value takes ``width`` bytes at most."""
    memory = view.snapshot.trees.memory
    return not memory.limited or rows * (_ROW + width) <= memory.columns // _ROOM


def _count(view: View, attr: Attr) -> int:
    snapshot = view.snapshot
    count = snapshot.rough_count(attr.id)
    temporal = snapshot.trees.temporal
    if view.past and temporal is not None:
        count += temporal[Order.AEVT].estimate((attr.id,), (attr.id,))[0]
    return count


async def _width(view: View, attr: Attr) -> float:
    """Return about how many bytes a value of an attribute takes."""
    trees = view.snapshot.trees
    found = trees.widths.get(attr.id)
    if found is None:
        runs = await read(_leaves, view, attr.id)
        found = trees.widths[attr.id] = _width_of(runs, Stats(view).count(attr))
    return found


def _leaves(view: View, a: int) -> list[Rows]:
    """Return some leaves of an attribute, evenly spaced."""
    index = view.snapshot.trees.current[Order.AEVT]
    cuts = [0, *index.cuts((a,), (a,), max(view.snapshot.rough_count(a) // _SAMPLED, 1))]
    runs = (next(index.chunks((a, e), (a,)), None) for e in cuts)
    return [run for run in runs if run is not None]


def _width_of(runs: list[Rows], count: float) -> float:
    column = Column.concat([run.v for run in runs])
    if not len(column):
        return _IN_DICTIONARY
    if column.kind == OBJECT:
        return _OBJECT
    if column.kind != CODED:
        return _NUMBER
    # Whatever comes once in the sample may come once in all: no more are different than that says.
    _, often = np.unique(codes(column)[0], return_counts=True)
    once = int((often == 1).sum())
    different = once * max(count / len(column), 1.0) + len(often) - once
    return _CODE + _IN_DICTIONARY * min(different / max(count, 1.0), 1.0)


def _part_rows(view: View) -> int:
    """Return how many rows a part has, about."""
    return min(max(view.snapshot.trees.memory.columns // _PART, _LEAST), _MOST)


async def ranges(view: View, a: int, low: int = 0, high: int = EMAX) -> list[tuple[int, int]]:
    """Return ranges of entities, first and last, that part what an attribute has of a range."""
    rows, snapshot = _part_rows(view), view.snapshot
    cuts = set(await read(snapshot.trees.current[Order.AEVT].cuts, (a, low), (a, high), rows))
    temporal = snapshot.trees.temporal
    if view.past and temporal is not None:
        cuts |= set(await read(temporal[Order.AEVT].cuts, (a, low), (a, high), rows))
    edges = [low, *sorted(e for e in cuts if low < e <= high), high + 1]
    return [(first, end - 1) for first, end in pairwise(edges)]


def _part(view: View, a: int, limits: Sequence[tuple[int, int]]) -> list[Rows]:
    """Return what the first of some ranges has; what it misses is named with what others do."""
    first, last = limits[0]
    try:
        return view.slice(Order.AEVT, (a, first), (a, last))
    except NodeMiss as miss:
        source, missing = miss.source, dict.fromkeys(miss.addresses)
    for first, last in limits[1:]:
        try:
            view.slice(Order.AEVT, (a, first), (a, last))
        except NodeMiss as miss:
            if miss.source is source:
                missing.update(dict.fromkeys(miss.addresses))
    raise NodeMiss(source, list(missing))


def _no_larger(runs: list[Rows], rows: int) -> Iterator[Rows]:
    """Cut what a range has: of one entity there may be very many datoms."""
    for run in runs:
        for start in range(0, len(run), rows):
            yield run if len(run) <= rows else run.slice(start, min(start + rows, len(run)))


async def selected(
    view: View,
    a: int,
    keep: Callable[[Rows], Any],
    meter: Meter | None,
    low: int = 0,
    high: int = EMAX,
) -> Rows:
    """Return the datoms of an attribute that are kept, in AEVT order.

    ``keep`` returns a mask of a part, or None for all of it. Raises QueryCanceled where they take
    more than the query's share.
    """
    found: list[Rows] = []
    size = 0
    limits = await ranges(view, a, low, high)
    ahead = 1
    while limits:
        group, limits = limits[:ahead], limits[ahead:]
        with Reading() as reading:
            for i in range(len(group)):
                runs = await reading.call(_part, view, a, group[i:])
                for part in _no_larger(runs, 2 * _part_rows(view)):
                    mask = keep(part)
                    if mask is not None and not mask.all():
                        part = _alone(part.take(np.flatnonzero(mask)))
                    if len(part):
                        found.append(part)
                        size += part.nbytes
                        if meter is not None:
                            meter.holds(size)
        ahead = min(2 * ahead, _AHEAD)
    return Rows.concat(found, packed=True)


async def of_entities(view: View, a: int, entities: I64, meter: Meter | None) -> Rows:
    """Return the datoms of an attribute that entities have, which ascend, in AEVT order."""
    entities = possible(entities)
    if not len(entities):
        return Rows.concat([])
    ends = int(entities[0]), int(entities[-1])
    return await selected(view, a, lambda part: member(part.e, entities), meter, *ends)


async def of_values(view: View, a: int, values: Column, meter: Meter | None) -> Rows:
    """Return the datoms of an attribute that have one of some values, in AEVT order."""

    def among(part: Rows) -> Any:
        keys = shared_codes(part.v, values)
        return np.zeros(len(part), np.bool_) if keys is None else member(*keys)

    return await selected(view, a, among, meter)


def _alone(rows: Rows) -> Rows:
    """Return rows that hold on to no values but their own."""
    v = rows.v.compact()
    return rows if v is rows.v else Rows(rows.e, rows.a, v, rows.t, rows.until, rows.added)


def rows_within(view: View, a: int, low: int, high: int) -> int:
    """Return about how many datoms of an attribute a range of entities has."""
    return view.snapshot.trees.current[Order.AEVT].estimate((a, low), (a, high))[0]
