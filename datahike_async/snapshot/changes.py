"""Many facts changed together: what there is of them compared, and rows written, in columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import uniques
from datahike_async.index.columns import I64
from datahike_async.index.memtable import SPAN, STOP
from datahike_async.index.objects import object_array
from datahike_async.snapshot.draft import Draft
from datahike_async.values.schema import Attr
from datahike_async.values.types import typed_keys

__all__ = ["Change", "change_many"]

_Objects = npt.NDArray[np.object_]
_NOTHING: Final = -2
_IN_TREES: Final = -1


class Change(NamedTuple):
    """Facts of one attribute that are stated, or with ``asserts`` False taken back.

    Where ``expected`` keys are given, a fact is taken back only if that is its value; it has to be
    with ``required``.
    """

    attr: Attr
    items: I64
    values: list[Any]
    keys: Sequence[Any]
    asserts: bool = True
    expected: Sequence[Any] | None = None
    required: bool = False


class _Present:
    """What there is of facts before: the row (as ``Snapshot.facts`` tells it), value, key, t."""

    def __init__(self, count: int) -> None:
        self.row = np.full(count, _NOTHING, np.int64)
        self.v = np.empty(count, np.object_)
        self.key = np.empty(count, np.object_)
        self.t = np.zeros(count, np.int64)


def change_many(
    draft: Draft,
    changes: Sequence[Change],
    order: I64,
    eids: I64,
    give_ids: Callable[[], I64],
) -> bool:
    """Carry out changes on a draft; False where they have to be carried out one by one.

    Nothing was done then. ``order`` sorts the facts of all changes as they are to be written,
    ``eids`` are the entities of their items, -1 for new ones, to which ``give_ids`` gives their ids
    when nothing is in doubt. The caller has checked values and uniqueness.
    """
    items = np.concatenate([change.items for change in changes])[order]
    count = len(order)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    # A new entity is known by its item.
    entities = np.where(eids[items] < 0, -1 - items, eids[items])
    attributes = np.empty(count, np.int32)
    values, keys = np.empty(count, np.object_), np.empty(count, np.object_)
    present = _Present(count)
    asserted = np.empty(count, np.bool_)
    retracted = np.empty(count, np.bool_)
    single = np.empty(count, np.bool_)
    at = 0
    for change in changes:
        attr = change.attr
        own = place[at : at + len(change.items)]
        at += len(change.items)
        attributes[own] = attr.id
        single[own] = not attr.many
        values[own] = stated = object_array(change.values)
        keys[own] = stated if change.keys is change.values else object_array(change.keys)
        if not _find(draft, change, entities[own].tolist(), own, present):
            return False
        there = present.row[own] != _NOTHING
        same = there & (present.key[own] == keys[own])
        if change.expected is not None:
            matches = there & (present.key[own] == object_array(change.expected))
            if change.required and not matches.all():
                return False
            there = matches
        new = ~same if change.asserts else np.zeros(len(own), np.bool_)
        old = there & new if change.asserts else there
        if attr.unique is not None and old.any():
            # Whoever names the value before it would name nobody now.
            return False
        asserted[own], retracted[own] = new, old
    if not _distinct(entities, attributes, keys, single):
        return False
    eids = give_ids()
    draft.mem.change_many(
        eids[items],
        attributes,
        (present.row, present.v, present.key, present.t),
        (values, keys),
        retracted,
        asserted,
        draft.tx,
        draft.schema.attrs,
    )
    return True


def _distinct(
    entities: I64, attributes: npt.NDArray[np.int32], keys: _Objects, single: npt.NDArray[np.bool_]
) -> bool:
    """Whether no fact is spoken of twice."""
    pairs = (entities << SPAN | attributes)[single]
    if len(uniques(pairs)) != len(pairs):
        return False
    if single.all():
        return True
    many = ~single
    columns = entities[many].tolist(), attributes[many].tolist(), keys[many].tolist()
    return len(set(zip(*columns, strict=True))) == int(many.sum())


def _find(draft: Draft, change: Change, entities: list[int], own: I64, present: _Present) -> bool:
    """Enter what there is of the facts of a change; False where one has several values."""
    if max(entities, default=-1) < 0:
        return True
    a = change.attr.id
    known, mem = draft.known, draft.mem
    assert known is not None
    found: list[tuple[int, int, Any, int]] = []
    if change.attr.many:
        facts = zip(entities, change.values, change.keys, strict=True)
        for i, (e, v, key) in enumerate(facts):
            fact = draft.fact(e, a, v, key) if e > 0 else None
            if fact is not None:
                found.append((i, *fact))
    else:
        spans = list(map(known.facts.get(a, {}).get, entities))
        mine = mem.by_ae.get(a)
        if None not in spans and (mine is None or mine.keys().isdisjoint(entities)):
            return _from_trees(draft, spans, own, present)
        mine = mine or {}
        v, t = known.v, known.t
        for i, (e, span) in enumerate(zip(entities, spans, strict=True)):
            if e < 0:
                continue
            if span is None or e in mine:
                facts_of = draft.facts(e, a)
                if len(facts_of) > 1:
                    return False
                found += [(i, *fact) for fact in facts_of]
            elif span >> SPAN != span & STOP:
                first = span >> SPAN
                if first + 1 != span & STOP:
                    return False
                found.append((i, _IN_TREES, v[first], int(t[first])))
    if found:
        index, rows, held, times = zip(*found, strict=True)
        at = own[list(index)]
        present.row[at] = rows
        present.v[at] = object_array(held)
        present.key[at] = object_array(typed_keys(held))
        present.t[at] = times
    return True


def _from_trees(draft: Draft, spans: Sequence[Any], own: I64, present: _Present) -> bool:
    known = draft.known
    assert known is not None
    rows = np.array(spans, np.int64)
    first = rows >> SPAN
    count = (rows & STOP) - first
    if (count > 1).any():
        return False
    there = np.flatnonzero(count)
    if len(there):
        at, positions = own[there], first[there]
        held = known.v[positions]
        present.row[at] = _IN_TREES
        present.v[at] = held
        present.key[at] = _keys(held.tolist(), held)
        present.t[at] = known.t[positions]
    return True


def _keys(values: list[Any], array: _Objects | None = None) -> _Objects:
    """Return the typed keys of values, which may be had as an array too."""
    keys = typed_keys(values)
    return array if array is not None and keys is values else object_array(keys)
