"""Segments: many items of a large transaction carried out together, in columns.

What one item after another would do is the same where the items of a segment have nothing to do
with one another: no fact is stated twice, no unique value is given away that
another one could name.
Then present values are compared and rows written by attribute instead of by fact. A segment that is
not so, or has anything unusual in it, is left to the ordinary path, before anything was done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.errors import TransactionError
from datahike_async.index.arrays import uniques
from datahike_async.index.columns import I64
from datahike_async.snapshot.changes import Change, change_many
from datahike_async.snapshot.ids import TX0, UsedUp, are_near
from datahike_async.tx.checks import coerced
from datahike_async.tx.entities import CURRENT_TX, is_tempid
from datahike_async.tx.transaction import Transaction
from datahike_async.values.schema import KEPT_FOR_US, SCHEMA_PROPERTIES, Attr
from datahike_async.values.types import typed_keys

__all__ = ["segments"]

SEGMENT: Final = 1024
"""Items of a segment: no single step may take long."""

_LEAST: Final = 16
_DB_ID: Final = frozenset({Keyword("db/id"), ":db/id"})
_LISTS: Final = frozenset({list, tuple, set, frozenset})
_KEY_BITS: Final = 16
_ADD, _RETRACT, _CAS = range(3)
_FORMS: Final = {
    spelling: kind
    for name, kind in (
        ("db/add", _ADD),
        ("db/retract", _RETRACT),
        ("db/cas", _CAS),
        ("db.fn/cas", _CAS),
    )
    for spelling in (f":{name}", Keyword(name))
}


class _Unusual(Exception):
    """The segment is for the ordinary path."""


def segments(run: Transaction, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Carry out segments of ``items``; yield those that the ordinary path has to take."""
    start = 0
    while start < len(items):
        kind = _kind(items[start])
        stop = start + 1
        most = min(len(items), start + SEGMENT)
        while stop < most and _kind(items[stop]) is kind:
            stop += 1
        part = items[start:stop]
        start = stop
        if kind is None or len(part) < _LEAST or not _taken(run, kind, part):
            yield part


def _kind(item: Any) -> type | None:
    kind = type(item)
    if kind is dict:
        return dict
    if (kind is list or kind is tuple) and item and type(item[0]) in (str, Keyword):
        return list if item[0] in _FORMS else None
    return None


def _taken(run: Transaction, kind: type, items: Sequence[Any]) -> bool:
    entities = run.entities
    if entities.doubtful or entities.void or run.draft.known is None:
        return False
    segment = _Maps(run, items) if kind is dict else _Vectors(run, items)
    try:
        return segment.carry_out()
    except _Unusual:
        return False


class _Part(NamedTuple):
    """Facts of one attribute: the item of each, where in it, and its value."""

    attr: Attr
    items: I64
    place: int
    values: list[Any]
    kind: int = _ADD
    expected: list[Any] | None = None


class _Segment:
    """Items under way. What it does to the draft and to entity ids comes at the very end."""

    def __init__(self, run: Transaction, items: Sequence[Any]) -> None:
        self.draft = run.draft
        self.entities = run.entities
        self.items = items
        self.eids = np.full(len(items), -1, np.int64)
        self.parts: list[_Part] = []

    def ready(self, key: Any, kind: int = _ADD) -> Attr:
        """Return an attribute whose facts need a type check and no more."""
        schema = self.draft.schema
        try:
            attr = schema.by_key.get(key)
        except TypeError:
            raise _Unusual from None
        if (
            attr is None
            or not schema.takes_data(attr)
            or attr.system
            or attr.preds
            or attr.max_length is not None
            or attr.tuple_attrs
            or attr.tuple_type is not None
            or attr.tuple_types
            or attr.value_type.name in ("tuple", "float-array", "double-array")
            or attr.ident in schema.composites
            or attr.ident in SCHEMA_PROPERTIES
            or attr.ident in KEPT_FOR_US
            or (attr.unique is not None and (attr.many or attr.is_ref or kind != _ADD))
        ):
            raise _Unusual
        return attr

    def canonical(self, attr: Attr, values: list[Any]) -> list[Any]:
        """Return the values as they are stored."""
        if attr.is_ref:
            return self.named(values)
        try:
            return coerced(attr, values)
        except TransactionError:
            raise _Unusual from None

    def named(self, refs: list[Any]) -> list[int]:
        """Return the known entities that ids and lookup refs name."""
        types = set(map(type, refs))
        near = partial(are_near, ids=self.draft.trees.ids, top=self.draft.max_eid)
        if types == {int}:
            if not near(refs):
                raise _Unusual
            return refs
        by_key = self.draft.schema.by_key
        out = []
        for ref in refs:
            if type(ref) is int:
                out.append(ref)
                continue
            if type(ref) not in (list, tuple) or len(ref) != 2:
                raise _Unusual
            key, value = ref
            attr = by_key.get(key) if isinstance(key, (str, Keyword)) else None
            if attr is None or attr.unique is None or attr.is_ref or value is None:
                raise _Unusual
            (value,) = self.canonical(attr, [value])
            found = self.draft.lookup(attr.id, value)
            if len(found) != 1 or found[0] >= TX0:
                raise _Unusual
            out.append(found[0])
        if not near(out):
            raise _Unusual
        return out

    def holders(self, attr: Attr, values: list[Any]) -> I64:
        """Return who has each of unique values, -1 for nobody."""
        draft, a = self.draft, attr.id
        keys = typed_keys(values)
        mine = draft.mem.by_av.get(a)
        assert draft.known is not None
        if mine is None or mine.keys().isdisjoint(keys):
            held = draft.known.holders(a, keys)
            if held is not None:
                if held and max(held) >= TX0:
                    raise _Unusual
                return np.array(held, np.int64)
        lookup = draft.lookup
        out = []
        for value in values:
            found = lookup(a, value)
            if not found:
                out.append(-1)
            elif len(found) == 1 and found[0] < TX0:
                out.append(found[0])
            else:
                raise _Unusual
        return np.array(out, np.int64)

    def change(self, eids: Callable[[], I64]) -> bool:
        """Carry the facts out; ``eids`` gives new entities their ids once nothing is in doubt."""
        parts = self.parts
        if not parts:
            raise _Unusual
        # As one item after the other, and its attributes, would write them.
        order = np.argsort(
            np.concatenate([part.items << _KEY_BITS | part.place for part in parts]), kind="stable"
        )
        changes = [
            Change(
                part.attr,
                part.items,
                part.values,
                typed_keys(part.values),
                part.kind != _RETRACT,
                None if part.expected is None else typed_keys(part.expected),
                part.kind == _CAS,
            )
            for part in parts
        ]
        return change_many(self.draft, changes, order, self.eids, eids)


class _Maps(_Segment):
    """Entity maps."""

    def carry_out(self) -> bool:
        shapes: dict[tuple[Any, ...], list[int]] = {}
        items = self.items
        for i, item in enumerate(items):
            shapes.setdefault(tuple(item), []).append(i)
        if len(shapes) * _LEAST > len(items):
            return False
        self._refs: dict[int, Any] = {}
        self._unique: dict[int, set[Any]] = {}
        owned: list[tuple[I64, I64]] = []
        for keys, members in shapes.items():
            self._shape(keys, members, owned)
        for at, owners in owned:
            # A unique value that somebody else has is an error, for the ordinary path to tell.
            if ((owners >= 0) & (owners != self.eids[at])).any():
                return False
        known = self.eids[self.eids >= 0]
        if len(uniques(known)) != len(known):
            return False
        return self.change(self._give_ids)

    def _shape(
        self, keys: tuple[Any, ...], members: list[int], owned: list[tuple[I64, I64]]
    ) -> None:
        items = self.items
        at = np.array(members, np.int64)
        ids = [key for key in keys if key in _DB_ID]
        if len(ids) > 1 or len(ids) == len(keys) or len(keys) >= 1 << _KEY_BITS:
            raise _Unusual
        if ids:
            self._named([items[i][ids[0]] for i in members], at)
        seen = set()
        for place, key in enumerate(keys):
            if key in _DB_ID:
                continue
            attr = self.ready(key)
            if attr.id in seen:
                raise _Unusual
            seen.add(attr.id)
            column = [items[i][key] for i in members]
            if attr.many:
                self._many(attr, at, place, column)
                continue
            values = self.canonical(attr, column)
            self.parts.append(_Part(attr, at, place, values))
            if attr.unique is not None:
                self._owned(attr, at, values, owned)

    def _many(self, attr: Attr, at: I64, place: int, column: list[Any]) -> None:
        if attr.is_ref and not {*map(type, column)} <= {list, set, frozenset}:
            # A vector may be a lookup ref.
            raise _Unusual
        flat: list[Any] = []
        counts = []
        for value in column:
            if type(value) in _LISTS:
                if attr.is_ref and len(value) == 2 and type(value) is list:
                    first = value[0]
                    if isinstance(first, (str, Keyword)):
                        raise _Unusual
                flat += value
                counts.append(len(value))
            elif isinstance(value, (list, tuple, set, frozenset)):
                raise _Unusual
            else:
                flat.append(value)
                counts.append(1)
        if flat:
            values = self.canonical(attr, flat)
            self.parts.append(_Part(attr, np.repeat(at, counts), place, values))

    def _named(self, refs: list[Any], at: I64) -> None:
        types = set(map(type, refs))
        if types <= {int, str} and all(is_tempid(ref) for ref in refs):
            self._refs.update(zip(at.tolist(), refs, strict=True))
            return
        self.eids[at] = self.named(refs)

    def _owned(self, attr: Attr, at: I64, values: list[Any], owned: list[tuple[I64, I64]]) -> None:
        owners = self.holders(attr, values)
        stated = self._unique.setdefault(attr.id, set())
        before = len(stated)
        stated.update(typed_keys(values))
        if len(stated) != before + len(values):
            raise _Unusual
        owned.append((at, owners))
        if attr.unique == "identity":
            found = owners >= 0
            mine = self.eids[at]
            self.eids[at] = np.where(found & (mine < 0), owners, mine)

    def _give_ids(self) -> I64:
        refs, entities, eids = self._refs, self.entities, self.eids
        ids = entities.ids
        if refs:
            # One that has an id already, or comes twice, may have facts of its own.
            if len(set(refs.values())) != len(refs) or not CURRENT_TX.isdisjoint(refs.values()):
                raise _Unusual
            if any(ref in ids for ref in refs.values()):
                raise _Unusual
        fresh = int((eids < 0).sum())
        if self.draft.max_eid + fresh >= self.draft.trees.ids.stop:
            raise UsedUp(entities.made + fresh)
        out = eids.copy()
        if not refs:
            entities.made += fresh
            first = self.draft.max_eid + 1
            out[eids < 0] = np.arange(first, first + fresh)
            self.draft.max_eid += fresh
            return out
        for i, eid in enumerate(eids.tolist()):
            ref = refs.get(i)
            if ref is not None:
                out[i] = entities.tempid(ref) if eid < 0 else entities.assign(ref, eid)
            elif eid < 0:
                out[i] = entities.new()
        return out


class _Vectors(_Segment):
    """Vectors that add, retract, or compare and set single facts."""

    def carry_out(self) -> bool:
        items = self.items
        groups: dict[tuple[int, Any, int], list[int]] = {}
        for i, item in enumerate(items):
            if len(item) < 3 or type(item[2]) not in (str, Keyword):
                return False
            groups.setdefault((_FORMS[item[0]], item[2], len(item)), []).append(i)
        if len(groups) * _LEAST > len(items):
            return False
        unique: dict[int, set[Any]] = {}
        for (kind, key, size), members in groups.items():
            attr = self.ready(key, kind)
            at = np.array(members, np.int64)
            eids = self.named([items[i][1] for i in members])
            self.eids[at] = eids
            values: list[Any] = [None] * len(members)
            expected: list[Any] | None = None
            if kind == _ADD and size == 4:
                values = self.canonical(attr, [items[i][3] for i in members])
            elif kind == _RETRACT and size == 4:
                expected = self.canonical(attr, [items[i][3] for i in members])
            elif kind == _CAS and size == 5 and not attr.many:
                expected = self.canonical(attr, [items[i][3] for i in members])
                values = self.canonical(attr, [items[i][4] for i in members])
            elif not (kind == _RETRACT and size == 3 and not attr.many):
                return False
            if attr.unique is not None:
                owners = self.holders(attr, values)
                if ((owners >= 0) & (owners != self.eids[at])).any():
                    return False
                stated = unique.setdefault(attr.id, set())
                before = len(stated)
                stated.update(typed_keys(values))
                if len(stated) != before + len(values):
                    return False
            if attr.many and expected is not None:
                values = expected
            self.parts.append(_Part(attr, at, 0, values, kind, expected))
        return self.change(lambda: self.eids)
