"""Which entity of one state is which of another.

Two branches that each made an entity of the same unique identity have one entity with two ids.
Where they are merged, one id stays, and ``[stays :db.merge/also other]`` says so. Ids are asked for
many at a time: a pass over an index each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from datahike_async.index.arrays import uniques
from datahike_async.index.columns import I64, INT, Column
from datahike_async.looks import walked
from datahike_async.snapshot.views import View
from datahike_async.values.schema import MERGE_ALSO, Attr

__all__ = [
    "Elements",
    "aliases",
    "array",
    "elements_of",
    "names_in",
    "names_of",
    "present",
    "references",
    "renamed",
    "survivors",
]


def array(ids: Iterable[int]) -> I64:
    """Return distinct ids, ascending."""
    return uniques(np.fromiter(ids, np.int64))


def present(view: View, ids: I64) -> set[int]:
    """Return those of distinct, ascending ids of which a state has datoms beside their names."""
    if not len(ids):
        return set()
    rows, also = view.snapshot.all_of_entities(ids), _also(view)
    found = rows.e if also is None else rows.e[rows.a != also.id]
    return set(uniques(found).tolist())


def _also(view: View) -> Attr | None:
    found = view.schema.by_key.get(MERGE_ALSO)
    return found if found is not None and view.count_attr(found.id) else None


def survivors(view: View, ids: I64) -> dict[int, int]:
    """Return what a state calls the entities that have one of these ids elsewhere."""
    also = _also(view)
    if also is None or not len(ids):
        return {}
    rows = view.snapshot.of_values(also.id, Column(INT, ids))
    return dict(zip(rows.v.tolist(), rows.e.tolist(), strict=True))


def aliases(view: View, ids: I64) -> dict[int, list[int]]:
    """Return the ids that entities of a state have elsewhere."""
    also = _also(view)
    out: dict[int, list[int]] = {}
    if also is not None and len(ids):
        rows = view.of_entities(also.id, ids)
        for e, v in walked(zip(rows.e.tolist(), rows.v.tolist(), strict=True), count=len(rows)):
            out.setdefault(e, []).append(v)
    return out


class Names(NamedTuple):
    """What a state calls entities that have several ids: ``called``, by one of these.

    That is none where it knows none of them, and several where it has several entities. ``alive``
    are those of which it has datoms.
    """

    called: dict[int, set[int]]
    alive: set[int]

    def of(self, one: int) -> set[int]:
        """Return what an entity is called."""
        found = self.called.get(one)
        if found is not None:
            return found
        return {one} if one in self.alive else set()


def names_in(view: View, known: Mapping[int, Iterable[int]]) -> Names:
    """Return what a state calls the entity that has one of several ids elsewhere."""
    ids = array(x for several in known.values() for x in several)
    found = survivors(view, ids)
    there = present(view, array([*ids.tolist(), *found.values()]) if found else ids)
    out = Names({}, set())
    for one, several in known.items():
        called = {found.get(x, x) for x in several if x in found or x in there}
        out.called[one] = called & there or called
        if not called.isdisjoint(there):
            out.alive.add(one)
    return out


def names_of(view: View, ids: I64, known: Mapping[int, Iterable[int]]) -> Names:
    """Return what a state calls entities of which few, the ``known`` ones, have several ids.

    Of the others ``called`` has those alone that the state calls otherwise.
    """
    several = np.fromiter(known, np.int64)
    plain = ids[~np.isin(ids, several)]
    found = survivors(view, plain)
    out = names_in(view, {**known, **{x: (x,) for x in found}})
    rest = plain[~np.isin(plain, array(found))] if found else plain
    return Names(out.called, out.alive | present(view, rest))


# Which elements of a tuple are references; True says that the value itself is one.
Elements = tuple[int, ...] | bool


def elements_of(attr: Attr, view: View) -> Elements:
    """Return where values of an attribute hold references."""
    if attr.is_ref:
        return True
    if attr.tuple_attrs:
        parts = [view.schema.by_key.get(name) for name in attr.tuple_attrs]
        return tuple(i for i, part in enumerate(parts) if part is not None and part.is_ref)
    ref = "db.type/ref"
    if attr.tuple_types:
        return tuple(i for i, name in enumerate(attr.tuple_types) if name.text == ref)
    if attr.tuple_type is not None and attr.tuple_type.text == ref:
        return tuple(range(8))
    return ()


def references(value: Any, where: Elements) -> list[int]:
    """Return the ids that a value refers to."""
    if where is True:
        return [value]
    return [value[i] for i in where or () if i < len(value) and value[i] is not None]


def renamed(value: Any, where: Elements, ids: Mapping[int, int]) -> Any:
    """Return a value with the ids that it refers to replaced."""
    if where is True:
        return ids.get(value, value)
    if not where or not ids:
        return value
    return tuple(ids.get(x, x) if i in where and x is not None else x for i, x in enumerate(value))
