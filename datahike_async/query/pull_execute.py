"""Pull: nested maps of an entity's attributes, for one entity or for thousands at once.

Many entities are read attribute by attribute in columns, a few by their own rows. Which datoms are
read is decided level by level, so that every level costs one wave of reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.index.columns import Rows
from datahike_async.index.source import NodeMiss, resolve
from datahike_async.query.patterns import aligned
from datahike_async.query.pull_parse import AttrSpec, Spec, parse_pattern
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr

__all__ = ["EntityMap", "pull", "pull_many"]

_DB_ID: Final = Keyword("db/id")
_COLUMNS_FROM: Final = 24


class EntityMap(dict[Any, Any]):
    """A dict whose keyword keys may also be given as strings: ``ada[":person/name"]``."""

    __slots__ = ()

    def __missing__(self, key: Any) -> Any:
        if isinstance(key, str) and key[:1] == ":":
            return dict.__getitem__(self, Keyword(key))
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        if dict.__contains__(self, key):
            return True
        return isinstance(key, str) and key[:1] == ":" and dict.__contains__(self, Keyword(key))

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value under ``key``, a keyword or its text, or ``default``."""
        return self[key] if key in self else default

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, dict):
            return NotImplemented
        if any(isinstance(k, str) and k[:1] == ":" for k in other):
            other = {
                Keyword(k) if isinstance(k, str) and k[:1] == ":" else k: v
                for k, v in other.items()
            }
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


async def pull(view: View, pattern: Any, eid: Any) -> EntityMap | None:
    """Return what ``pattern`` names of one entity, or None where it has nothing of it.

    ``eid`` is an id, an ident or a lookup ref. Raises QueryError ``:parser/pull``.
    """
    return (await pull_many(view, pattern, [eid]))[0]


async def pull_many(view: View, pattern: Any, eids: Sequence[Any]) -> list[EntityMap | None]:
    """Return one result an entity, in order; see :func:`pull`."""
    spec = parse_pattern(pattern)
    try:
        return _Pull(view).entities(spec, eids)
    except NodeMiss as miss:
        return await resolve(miss, lambda: _Pull(view).entities(spec, eids))


class _Pull:
    """One pull. Synchronous; starts anew after a miss."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.schema = view.schema

    def entities(self, spec: Spec, refs: Sequence[Any]) -> list[EntityMap | None]:
        ids = [r if type(r) is int else self.view.entid(r) for r in refs]
        known = list(dict.fromkeys(i for i in ids if i is not None))
        found = self.level(spec, known, {}, None)
        return [None if i is None else found.get(i) for i in ids]

    def level(
        self,
        spec: Spec,
        ids: list[int],
        seen: dict[AttrSpec, set[int]],
        depth: dict[AttrSpec, int] | None,
    ) -> dict[int, EntityMap]:
        """Return entity → map for those of ``ids`` that have anything of ``spec``."""
        out: dict[int, EntityMap] = {i: EntityMap() for i in ids}
        specs = self.attributes(spec, ids)
        for attr_spec in specs:
            attr = self.schema.by_key.get(attr_spec.name)
            values = self.values(attr, attr_spec, ids) if attr is not None else {}
            if values and attr is not None and attr.is_ref:
                values = self.nested(spec, attr_spec, attr, values, seen, depth or {})
            self.place(out, attr_spec, attr, values)
        if spec.db_id:
            self.add_ids(out, spec)
        return {i: found for i, found in out.items() if found}

    def attributes(self, spec: Spec, ids: list[int]) -> list[AttrSpec]:
        """Return the attributes to read: those named, and with a wildcard all there are."""
        if not spec.wildcard:
            return list(spec.attrs)
        named = {s.name for s in spec.attrs if not s.reverse}
        attrs = self.schema.attrs
        present: dict[int, None] = {}
        for i in ids:
            present.update(dict.fromkeys(self.view.entity(i).a.tolist()))
        every = [
            AttrSpec(attrs[a].ident, False, attrs[a].ident)
            for a in present
            if attrs[a].ident not in named
        ]
        return [*every, *spec.attrs]

    def values(self, attr: Attr, spec: AttrSpec, ids: list[int]) -> dict[int, list[Any]]:
        """Return entity → values of one attribute, limited."""
        limit = spec.limit
        if spec.reverse:
            if not attr.is_ref:
                return {}
            return {
                i: found if limit is None else found[:limit]
                for i in ids
                if (found := self.view.lookup(attr.id, i))
            }
        if len(ids) >= _COLUMNS_FROM and self.view.count_attr(attr.id) < 64 * len(ids):
            return self.in_columns(self.view.attr(attr.id), attr, ids, limit)
        return {
            i: found if limit is None else found[:limit]
            for i in ids
            if (found := self.view.values(i, attr.id))
        }

    def in_columns(
        self, rows: Rows, attr: Attr, ids: list[int], limit: int | None
    ) -> dict[int, list[Any]]:
        if not len(rows):
            return {}
        wanted = np.array(ids, np.int64)
        if not attr.many and not self.view.history:
            positions = aligned(rows, wanted)
            found = positions >= 0
            values = rows.v.take(positions[found]).tolist()
            return {i: [v] for i, v in zip(wanted[found].tolist(), values, strict=True)}
        start = rows.e.searchsorted(wanted, "left").tolist()
        stop = rows.e.searchsorted(wanted, "right").tolist()
        out = {}
        for i, lo, hi in zip(ids, start, stop, strict=True):
            if lo < hi:
                end = hi if limit is None else min(hi, lo + limit)
                out[i] = rows.v.slice(lo, end).tolist()
        return out

    # -- references ----------------------------------------------------------------------------

    def nested(
        self,
        spec: Spec,
        attr_spec: AttrSpec,
        attr: Attr,
        values: dict[int, list[Any]],
        seen: dict[AttrSpec, set[int]],
        depth: dict[AttrSpec, int],
    ) -> dict[int, list[Any]]:
        """Replace the entity ids among ``values`` by maps."""
        targets = list(dict.fromkeys(t for group in values.values() for t in group))
        maps: dict[int, Any]
        if attr_spec.recursion is not None:
            maps = self.recursive(spec, attr_spec, targets, seen, depth)
        elif attr_spec.sub is not None:
            maps = dict(self.level(attr_spec.sub, targets, {}, None))
        elif attr.component and not attr_spec.reverse:
            maps = self.components(targets, seen.get(_COMPONENT, set()))
        else:
            maps = {t: EntityMap({_DB_ID: t}) for t in targets}
        return {i: [maps[t] for t in group if t in maps] for i, group in values.items()}

    def recursive(
        self,
        spec: Spec,
        attr_spec: AttrSpec,
        targets: list[int],
        seen: dict[AttrSpec, set[int]],
        depth: dict[AttrSpec, int],
    ) -> dict[int, Any]:
        """Pull ``spec`` again for the targets; those entered before are named by their id."""
        entered = seen.setdefault(attr_spec, set())
        if attr_spec.recursion == -1:
            fresh = [t for t in targets if t not in entered]
            again = {t: EntityMap({_DB_ID: t}) for t in targets if t in entered}
            entered.update(fresh)
            found = self.level(spec, fresh, seen, depth) if fresh else {}
            return {**found, **again}
        left = depth.get(attr_spec, attr_spec.recursion or 0)
        if left <= 0:
            return {}
        return dict(self.level(spec, targets, seen, {**depth, attr_spec: left - 1}))

    def components(self, targets: list[int], entered: set[int]) -> dict[int, Any]:
        """Pull everything of components; a cycle among them is cut at its ids."""
        entered = entered or set()
        fresh = [t for t in targets if t not in entered]
        entered.update(fresh)
        found = self.level(_EVERYTHING, fresh, {_COMPONENT: entered}, None) if fresh else {}
        return {t: found.get(t, EntityMap({_DB_ID: t})) for t in targets}

    # -- results -------------------------------------------------------------------------------

    def place(
        self,
        out: dict[int, EntityMap],
        spec: AttrSpec,
        attr: Attr | None,
        values: dict[int, list[Any]],
    ) -> None:
        """Enter the values of one attribute into the maps."""
        many = attr is not None and (
            (spec.reverse and not attr.component) or (not spec.reverse and attr.many)
        )
        key, xform = spec.key, spec.xform
        for i, found in out.items():
            group = values.get(i)
            if group is None or (not group and not many):
                if spec.has_default:
                    found[key] = spec.default
                continue
            value = list(group) if many else group[0]
            found[key] = value if xform is None else xform(value)

    def add_ids(self, out: dict[int, EntityMap], spec: Spec) -> None:
        for i, found in out.items():
            if found or self.exists(i):
                rest = dict(found)
                found.clear()
                found[spec.db_id_key] = i
                found.update(rest)

    def exists(self, eid: int) -> bool:
        return len(self.view.entity(eid)) > 0


_COMPONENT: Final = AttrSpec(Keyword("db/isComponent"), False, None)
_EVERYTHING: Final = Spec((), True, True)
