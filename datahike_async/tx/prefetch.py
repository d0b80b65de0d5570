"""What a large transaction will look up in the trees, read in one pass over each index.

It is guessed from the items, without an error for any of them: what was not thought of is looked up
when it is needed, and what is not needed was read in vain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.errors import TransactionError
from datahike_async.snapshot.known import Known
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.tx.forms import MOST_LEVELS
from datahike_async.values.datom import Datom
from datahike_async.values.schema import Attr
from datahike_async.values.types import typed_key

__all__ = ["PART", "prefetch"]

PART: Final = 1 << 13
"""Items for which is read at once; more would be much memory, and hardly faster."""

_DB_ID: Final = frozenset({Keyword("db/id"), ":db/id"})
_LISTS: Final = (list, tuple, set, frozenset)
# Forms by the position of their attribute and value; with 0 the whole entity is meant.
_FORMS: Final = {
    spelling: form
    for names, form in (
        (("db/add", "db/retract", "db/cas", "db.fn/cas"), 2),
        (("db/retractAttribute", "db.fn/retractAttribute"), 2),
        (("db/retractEntity", "db.fn/retractEntity"), 0),
    )
    for name in names
    for spelling in (f":{name}", Keyword(name))
}

# An entity: its id, or an attribute and the typed key of its unique value.
_Ref = int | tuple[int, Any]


class _Shape(NamedTuple):
    """What maps with the same keys have in common."""

    ids: tuple[Any, ...]
    single: tuple[int, ...]
    unique: tuple[tuple[Any, Attr], ...]
    many: tuple[tuple[Any, Attr], ...]
    nested: tuple[Any, ...]


def prefetch(base: Snapshot, items: Iterable[Any]) -> Known:
    """Return what the trees hold of what ``items`` name. Raises NodeMiss for all of it."""
    wanted = _Wanted(base)
    for item in items:
        if isinstance(item, Mapping):
            wanted.entity_map(item, MOST_LEVELS)
        elif isinstance(item, Datom):
            wanted.fact(item.e, item.a, item.v)
        elif isinstance(item, (list, tuple)) and len(item) > 1:
            wanted.vector(item)
    return wanted.read()


class _Wanted:
    """What items name: unique values, facts of entities, whole entities."""

    def __init__(self, base: Snapshot) -> None:
        self._base = base
        self._known = Known(base.trees)
        self._by_key = base.schema.by_key
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._values: dict[int, dict[Any, Any]] = {}
        # Attributes of cardinality one -> the entities of which they are asked for.
        self._single: dict[tuple[int, ...], list[_Ref]] = {}
        self._many: dict[int, list[tuple[_Ref, Any]]] = {}
        self._whole: list[_Ref] = []

    # -- going over the items ------------------------------------------------------------------

    def entity_map(self, item: Mapping[Any, Any], levels: int) -> None:
        if not levels:
            return
        keys = tuple(item)
        shape = self._shapes.get(keys)
        if shape is None:
            shape = self._shapes[keys] = self._shape(keys)
        refs: list[_Ref] = []
        for key in shape.ids:
            self._add_ref(refs, item[key])
        for key, attr in shape.unique:
            value = item[key]
            for one in value if attr.many and isinstance(value, _LISTS) else (value,):
                found = self._unique(attr, one)
                if found is not None:
                    refs.append(found)
        for key in shape.nested:
            value = item[key]
            for one in value if isinstance(value, _LISTS) else (value,):
                if isinstance(one, Mapping):
                    self.entity_map(one, levels - 1)
                else:
                    self._ref(one)
            self._ref(value)
        if not refs:
            return
        if shape.single:
            self._single.setdefault(shape.single, []).extend(refs)
        for key, attr in shape.many:
            value = item[key]
            for one in value if isinstance(value, _LISTS) else (value,):
                self._add_datom(refs, attr, one)

    def _shape(self, keys: tuple[Any, ...]) -> _Shape:
        ids: list[Any] = []
        nested: list[Any] = []
        single, unique, many = [], [], []
        composites = self._base.schema.composites
        for key in keys:
            attr = self._by_key.get(key)
            if attr is None:
                (ids if key in _DB_ID else nested).append(key)
                continue
            if attr.is_ref:
                nested.append(key)
            elif attr.unique is not None:
                unique.append((key, attr))
            if attr.many:
                many.append((key, attr))
            else:
                single.append(attr.id)
            for composite in composites.get(attr.ident, ()):
                single.append(composite.id)
                parts = (self._by_key.get(name) for name in composite.tuple_attrs)
                single += [part.id for part in parts if part is not None]
        return _Shape(
            tuple(ids), tuple(dict.fromkeys(single)), tuple(unique), tuple(many), tuple(nested)
        )

    def vector(self, item: Any) -> None:
        head = item[0]
        place = _FORMS.get(head) if isinstance(head, (str, Keyword)) else None
        if place == 0:
            self._add_ref(self._whole, item[1])
        elif place is not None and len(item) > place:
            self.fact(item[1], item[place], *item[place + 1 : place + 2])

    def fact(self, e: Any, key: Any, value: Any = None) -> None:
        """Ask for what there is of an entity, an attribute, and with many values one of them."""
        refs: list[_Ref] = []
        self._add_ref(refs, e)
        attr = self._by_key.get(key) if isinstance(key, (str, Keyword)) else None
        if attr is None:
            return
        if attr.is_ref:
            self._ref(value)
        elif attr.unique is not None and value is not None:
            self._unique(attr, value)
        if not refs:
            return
        if attr.many and value is not None:
            self._add_datom(refs, attr, value)
        else:
            self._single.setdefault((attr.id,), []).extend(refs)

    def _add_ref(self, refs: list[_Ref], ref: Any) -> None:
        found = self._ref(ref)
        if found is not None:
            refs.append(found)

    def _ref(self, ref: Any) -> _Ref | None:
        """Note a lookup ref; return which entity is named, None where it cannot be in the trees."""
        if type(ref) is int:
            return ref if ref > 0 and self._base.trees.may_have(ref) else None
        if isinstance(ref, (list, tuple)) and len(ref) == 2 and isinstance(ref[0], (str, Keyword)):
            attr = self._by_key.get(ref[0])
            return None if attr is None or attr.unique is None else self._unique(attr, ref[1])
        return None

    def _unique(self, attr: Attr, value: Any) -> tuple[int, Any] | None:
        if attr.is_ref or not attr.indexed:
            return None
        try:
            value = attr.coerce(value, attr.ident)
        except TransactionError:
            return None  # the ordinary path says what is wrong, where it comes to it
        key = typed_key(value)
        self._values.setdefault(attr.id, {})[key] = value
        return attr.id, key

    def _add_datom(self, refs: list[_Ref], attr: Attr, value: Any) -> None:
        if attr.is_ref:
            known = self._ref(value)
        else:
            try:
                known = attr.coerce(value, attr.ident)
            except TransactionError:
                return
        if known is not None:
            self._many.setdefault(attr.id, []).extend((ref, known) for ref in refs)

    # -- reading -------------------------------------------------------------------------------

    def read(self) -> Known:
        known = self._known
        for a, values in self._values.items():
            known.read_values(a, values)
        facts: dict[int, set[int]] = {}
        for single, refs in self._single.items():
            entities = self._entities(refs)
            for a in single:
                facts.setdefault(a, set()).update(entities)
        known.read_facts(facts)
        for a, asked in self._many.items():
            self._read_datoms(a, asked)
        if self._whole:
            self._read_whole()
        known.check()
        return known

    def _entities(self, refs: Iterable[_Ref]) -> set[int]:
        """Return the entities that are meant, of those that may be in the trees."""
        mem, may_have = self._base.mem, self._base.trees.may_have
        out: set[int] = set()
        for ref in refs:
            if type(ref) is int:
                out.add(ref)
                continue
            a, key = ref  # type: ignore[misc]
            out.update(self._known.of_value(a, key) or ())
            # The newest holders of a value may be older entities.
            for row in mem.of_value(a, key):
                e = mem.e[row]
                if may_have(e):
                    out.add(e)
        return out

    def _read_datoms(self, a: int, asked: Iterable[tuple[_Ref, Any]]) -> None:
        is_ref = self._base.schema.attrs[a].is_ref
        wanted: dict[tuple[int, Any], Any] = {}
        for ref, value in asked:
            for v in self._entities([value]) if is_ref else (value,):
                key = typed_key(v)
                for e in self._entities([ref]):
                    wanted[e, key] = v
        if wanted:
            self._known.read_datoms(a, wanted)

    def _read_whole(self) -> None:
        """Read entities that are retracted, their components, and who refers to any of them."""
        known, attrs = self._known, self._base.schema.attrs
        components = [attr.id for attr in attrs if attr.component]
        left = self._entities(self._whole)
        seen: set[int] = set()
        while left:
            seen |= left
            rows = known.read_entities(left)
            if rows is None:
                return
            below = np.flatnonzero(np.isin(rows.a, components))
            left = {*rows.v.take(below).tolist()} - seen if len(below) else set()
        if not seen:
            return
        wanted = {e: e for e in seen}
        for attr in attrs:
            if attr.is_ref:
                known.read_values(attr.id, wanted)
                sources = {(s, e): e for e in seen for s in known.of_value(attr.id, e) or ()}
                if sources:
                    known.read_datoms(attr.id, sources)
