"""Pull: nested maps of an entity's attributes, for one entity or for thousands at once.

A pull goes down level by level, reading every attribute of all entities of a level at once (in
columns where they are many), and then comes back up assembling maps. So a level costs one wave of
reads, and depth costs no stack. Knows views and patterns, nothing of queries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from datahike_async.edn.types import Keyword
from datahike_async.errors import QueryError, shown
from datahike_async.index.source import NodeMiss, resolve
from datahike_async.query.pull_map import EntityMap, copied
from datahike_async.query.pull_parse import DB_ID, AttrSpec, Spec, parse_pattern, xform_of
from datahike_async.query.pull_read import ALL, COLUMNS_FROM, SMALL, Reader, merged
from datahike_async.snapshot.snapshot import EMAX
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr

__all__ = ["MAX_MAPS", "EntityMap", "pull", "pull_many"]

# Entities entered by recursion, and maps copied because two parents share them, in one pull.
MAX_MAPS: Final = 200_000
_MAX_COPIES: Final = 2_000_000
_CHUNK: Final = 1024
_NONE: Final[dict[int, list[Any]]] = {}

_EVERYTHING: Final = Spec((), wildcard=True, db_id=True)
_NO_ENTITIES: Final[frozenset[int]] = frozenset()

# How the values of an attribute turn into what the map shows.
_VALUES, _IDS, _NESTED, _ENTERED, _ONES = range(5)

# An entity in a group: its id, or in a recursion that may meet an entity again (id, entities
# entered on the way, depths).
_Job = int | tuple[int, frozenset[int], tuple[tuple[int, int], ...]]


class _MetAgainError(Exception):
    """A recursion that was thought to be a tree has met an entity on two levels."""


async def pull(view: View, pattern: Any, eid: Any) -> EntityMap | None:
    """Return what ``pattern`` names of one entity, or None where it has nothing of it.

    ``eid`` is an id, an ident or a lookup ref. Raises QueryError ``:parser/pull`` for a bad
    pattern and ``:pull/too-large`` where a recursion meets more than ``MAX_MAPS`` entities.
    """
    spec = parse_pattern(pattern)
    refs = (eid,)
    try:
        return _pulled(view, spec, refs)[0]
    except NodeMiss as miss:
        return (await resolve(miss, _pulled, view, spec, refs))[0]


async def pull_many(
    view: View,
    pattern: Any,
    eids: Iterable[Any],
    *,
    pause: Callable[[], Awaitable[None]] | None = None,
) -> list[EntityMap | None]:
    """Return one result an entity, in the order of ``eids``; see :func:`pull`.

    ``pause`` is awaited after every thousand or so.
    """
    spec = parse_pattern(pattern)
    refs = eids if isinstance(eids, (list, tuple)) else _listed(eids)
    out: list[EntityMap | None] = []
    for start in range(0, len(refs), _CHUNK):
        part = refs[start : start + _CHUNK]
        try:
            out += _pulled(view, spec, part)
        except NodeMiss as miss:
            out += await resolve(miss, _pulled, view, spec, part)
        if pause is not None and start + _CHUNK < len(refs):
            await pause()
    return out


def _listed(eids: Any) -> list[Any]:
    if isinstance(eids, (str, bytes, Keyword, Mapping)) or not isinstance(eids, Iterable):
        raise QueryError(
            f"pull_many takes a list of entity ids, lookup refs or idents, not {shown(eids)}.",
            error=":entity-id/syntax",
            entity_id=eids,
        )
    return list(eids)


def _pulled(view: View, spec: Spec, refs: Sequence[Any]) -> list[EntityMap | None]:
    ids = [r if type(r) is int and 0 <= r <= EMAX else view.entid(r) for r in refs]
    try:
        maps = _Pull(view, tree=spec.recursions == 1).run(spec, ids)
    except _MetAgainError:
        maps = _Pull(view, tree=False).run(spec, ids)
    if len(maps) == len(ids):
        return [maps.get(i) for i in ids]
    seen: set[int | None] = set()
    out = []
    for i in ids:
        found = maps.get(i)
        # An entity that was asked for twice gives two maps, not one map twice.
        out.append(copied(found)[0] if found is not None and i in seen else found)
        seen.add(i)
    return out


class _Group:
    """The entities of one level that are pulled with one pattern."""

    __slots__ = ("asked", "depth", "maps", "plain", "shown", "spec", "steps")

    def __init__(self, spec: Spec, jobs: Iterable[_Job], *, plain: bool, depth: int = 0) -> None:
        self.spec = spec
        self.maps: dict[Any, Any] = dict.fromkeys(jobs)  # job -> EntityMap, None where empty
        self.plain = plain
        # How often a recursion was entered to get here, where the group is plain.
        self.depth = depth
        # (spec, many?, how, job or entity -> values, group of the nested maps)
        self.steps: list[tuple[AttrSpec, bool, int, Any, _Group | None]] = []
        # How many maps the groups above want, and those that one of them has been given.
        self.asked = 0
        self.shown: set[Any] = set()


class _Pull:
    """One pull. Synchronous; begins anew after a miss.

    With ``tree`` a recursion takes it that no entity is met on two levels, and is told otherwise by
    _MetAgainError: then who was entered on the way needs no keeping.
    """

    def __init__(self, view: View, *, tree: bool) -> None:
        self.view = view
        self.tree = tree
        self.met: set[int] = set()
        self.reader = Reader(view)
        self.schema = view.schema
        self.groups: list[_Group] = []
        self.entered = 0
        self.copies = 0

    def run(self, spec: Spec, ids: Sequence[int | None]) -> dict[Any, EntityMap | None]:
        """Return entity → map, or None where there is nothing of ``spec``."""
        root = _Group(spec, (i for i in ids if i is not None), plain=True)
        level = [root]
        while level:
            below: dict[Any, _Group] = {}
            for group in level:
                self.read(group, below)
            self.groups += level
            level = list(below.values())
        for group in reversed(self.groups):
            self.assemble(group)
        return root.maps

    # -- down: what each level reads -------------------------------------------------------------

    def read(self, group: _Group, below: dict[Any, _Group]) -> None:
        """Read the attributes of a group and enter the groups below it."""
        spec = group.spec
        jobs = group.maps
        ids: list[int] = list(jobs) if group.plain else list(dict.fromkeys(job[0] for job in jobs))
        if not ids:
            return
        by_key = self.schema.by_key
        known: dict[int, dict[int, list[Any]]] | None = None
        if spec.wildcard:
            self.read_all(group, ids, below)
        elif len(ids) < COLUMNS_FROM and len(spec.attrs) > 1 and self.is_cheaper_whole(spec, ids):
            known = self.reader.whole(ids, SMALL)
        misses: list[NodeMiss] = []
        for attr_spec in spec.attrs:
            if spec.wildcard and not attr_spec.reverse:
                continue
            attr = by_key.get(attr_spec.name)
            values: dict[int, list[Any]] = _NONE
            if attr is None:
                pass
            elif known is not None and not attr_spec.reverse:
                values = known.get(attr.id, _NONE)
            else:
                try:
                    ones = None
                    if group.plain and not attr_spec.reverse and not attr.is_ref:
                        ones = self.reader.ones(attr, ids)
                    if ones is not None:
                        group.steps.append((attr_spec, False, _ONES, ones, None))
                        continue
                    values = self.reader.values(attr, attr_spec.reverse, ids)
                except NodeMiss as miss:
                    misses.append(miss)
            if not misses:
                self.step(group, attr_spec, attr, values, below)
        if misses:
            raise merged(misses)

    def is_cheaper_whole(self, spec: Spec, ids: list[int]) -> bool:
        """Whether all of a few entities is read faster than their columns, if those are there."""
        if len(ids) == 1:
            return True
        attrs = [self.schema.by_key.get(s.name) for s in spec.attrs if not s.reverse]
        return not all(attr is None or self.reader.at_hand(attr) for attr in attrs)

    def read_all(self, group: _Group, ids: list[int], below: dict[Any, _Group]) -> None:
        """Read every attribute that the entities have; the pattern's specs say how to show them."""
        attrs = self.schema.attrs
        found: dict[int, dict[int, list[Any]]] = {}
        if len(ids) < COLUMNS_FROM:
            found = self.reader.whole(ids, ALL) or {}
        else:
            misses: list[NodeMiss] = []
            for a in self.view.attr_ids():
                try:
                    values = self.reader.values(attrs[a], False, ids)
                except NodeMiss as miss:
                    misses.append(miss)
                    continue
                if values:
                    found[a] = values
            if misses:
                raise merged(misses)
        given = {s.name: s for s in group.spec.attrs if not s.reverse}
        for a, values in found.items():
            attr = attrs[a]
            spec = given.get(attr.ident)
            if spec is None:
                spec = AttrSpec(attr.ident, False, attr.ident)
            self.step(group, spec, attr, values, below)

    def step(
        self,
        group: _Group,
        spec: AttrSpec,
        attr: Attr | None,
        values: dict[int, list[Any]],
        below: dict[Any, _Group],
    ) -> None:
        """Note how the values of one attribute are shown, and which entities that needs."""
        many = attr is not None and (not attr.component if spec.reverse else attr.many)
        if spec.limit is not None and many:
            limit = spec.limit
            values = {i: v if len(v) <= limit else v[:limit] for i, v in values.items()}
        if not values or attr is None or not attr.is_ref:
            group.steps.append((spec, many, _VALUES, values, None))
        elif spec.recursion is not None:
            self.enter(group, spec, many, values, below)
        elif spec.sub is not None:
            child = _child(below, spec.sub, plain=True)
            self.want(child, values)
            group.steps.append((spec, many, _NESTED, values, child))
        elif attr.component and not spec.reverse:
            self.enter_components(group, spec, many, values, below)
        else:
            group.steps.append((spec, many, _IDS, values, None))

    # -- recursion -------------------------------------------------------------------------------

    def enter(
        self,
        group: _Group,
        spec: AttrSpec,
        many: bool,
        values: dict[int, list[Any]],
        below: dict[Any, _Group],
    ) -> None:
        """Pull the same pattern for the targets, but for those entered on the way to here."""
        key, most = id(spec), spec.recursion
        if self.tree and group.plain:
            if most is not None and 0 <= most == group.depth:
                group.steps.append((spec, many, _ENTERED, dict.fromkeys(values), None))
                return
            child = _child(below, group.spec, plain=True, depth=group.depth + 1)
            self.met.update(group.maps)
            self.want(child, values)
            if not self.met.isdisjoint(child.maps):
                raise _MetAgainError
            self.count(child.asked, spec)
            group.steps.append((spec, many, _ENTERED, values, child))
            return
        child = _child(below, group.spec, plain=False)
        links: dict[Any, Any] = {}
        for job in group.maps:
            eid, seen, depths = (job, _NO_ENTITIES, ()) if group.plain else job
            targets = values.get(eid)
            if targets is None:
                continue
            if most is not None and most >= 0:
                known = dict(depths)
                depth = known.get(key, 0)
                if depth == most:
                    links[job] = None
                    continue
                depths = tuple(sorted({**known, key: depth + 1}.items()))
            entered = [
                (t, seen | {t}, depths) if t not in seen else EntityMap({DB_ID: t}) for t in targets
            ]
            links[job] = entered
            child.maps.update(dict.fromkeys(j for j in entered if type(j) is tuple))
            self.count(len(targets), spec)
        group.steps.append((spec, many, _ENTERED, links, child))

    def enter_components(
        self,
        group: _Group,
        spec: AttrSpec,
        many: bool,
        values: dict[int, list[Any]],
        below: dict[Any, _Group],
    ) -> None:
        """Pull everything of components, but for entities that they are part of."""
        child = _child(below, _EVERYTHING, plain=False)
        links: dict[Any, Any] = {}
        for job in group.maps:
            eid, seen, _ = (job, _NO_ENTITIES, ()) if group.plain else job
            targets = values.get(eid)
            if targets is None:
                continue
            within = seen | {eid}
            entered = [
                (t, within, ()) if t not in within else EntityMap({DB_ID: t}) for t in targets
            ]
            links[job] = entered
            child.maps.update(dict.fromkeys(j for j in entered if type(j) is tuple))
            self.count(len(targets), spec)
        group.steps.append((spec, many, _ENTERED, links, child))

    def want(self, child: _Group, values: dict[int, list[Any]]) -> None:
        """Enter all values, which are entities, into the group below."""
        targets = list(chain.from_iterable(values.values()))
        child.asked += len(targets)
        child.maps.update(dict.fromkeys(targets))

    def count(self, more: int, spec: AttrSpec) -> None:
        self.entered += more
        if self.entered > MAX_MAPS:
            raise _too_large(spec, f"goes over more than {MAX_MAPS} entities")

    # -- up: maps --------------------------------------------------------------------------------

    def assemble(self, group: _Group) -> None:
        """Make the maps of a group whose nested groups are done."""
        spec = group.spec
        db_id = spec.db_id_key if spec.db_id else None
        plain = group.plain
        maps: dict[Any, Any]
        if db_id is None:
            maps = {job: EntityMap() for job in group.maps}
        else:
            maps = {job: EntityMap({db_id: job if plain else job[0]}) for job in group.maps}
        group.maps = maps
        for attr_spec, many, how, values, child in group.steps:
            self.show(group, attr_spec, many, how, values, child)
        if db_id is None:
            for job, made in maps.items():
                if not made:
                    maps[job] = None
            return
        for job, made in maps.items():
            eid = job if plain else job[0]
            # Components are shown by their id even where they have nothing else.
            if len(made) == 1 and spec is not _EVERYTHING and not self.exists(eid):
                maps[job] = None

    def show(
        self,
        group: _Group,
        spec: AttrSpec,
        many: bool,
        how: int,
        values: Any,
        child: _Group | None,
    ) -> None:
        """Enter one attribute into the maps of a group."""
        key, plain = spec.key, group.plain
        xform = None if spec.xform is None else xform_of(spec.xform)
        default = spec.has_default
        if how == _ONES:
            _show_ones(group.maps, spec, values, xform)
            return
        simple = plain and many and how == _ENTERED and xform is None and not default
        if simple and child is not None and child.asked == len(child.maps):
            # Each entity below has one parent: its map is handed over as it is.
            maps, below = group.maps, child.maps
            for job, found in values.items():
                maps[job][key] = [m for t in found if (m := below[t]) is not None]
            return
        for job, made in group.maps.items():
            found = values.get(job if plain or how == _ENTERED else job[0])
            if found is None:
                if default and job not in values:
                    made[key] = spec.default
                continue
            if how == _VALUES:
                value = found[0] if not many else found if plain else list(found)
            elif how == _IDS:
                value = [EntityMap({DB_ID: t}) for t in (found if many else found[:1])]
            else:
                assert child is not None
                value = [
                    shown
                    for t in found
                    if (shown := t if type(t) is EntityMap else self.taken(child, t, spec))
                    is not None
                ]
            if how != _VALUES and not many:
                if not value:
                    continue
                value = value[0]
            made[key] = value if xform is None else _transformed(xform, spec, value)

    def taken(self, group: _Group, job: Any, spec: AttrSpec) -> EntityMap | None:
        """Return a finished map; a second parent gets a copy of its own."""
        found: EntityMap | None = group.maps[job]
        if found is None:
            return None
        if job not in group.shown:
            group.shown.add(job)
            return found
        out, count = copied(found)
        self.copies += count
        if self.copies > _MAX_COPIES:
            raise _too_large(spec, f"repeats more than {_MAX_COPIES} maps")
        return out

    def exists(self, eid: int) -> bool:
        return len(self.view.entity(eid)) > 0


def _child(below: dict[Any, _Group], spec: Spec, *, plain: bool, depth: int = 0) -> _Group:
    """Return the group of the next level for a pattern."""
    key = (id(spec), plain, depth)
    found = below.get(key)
    if found is None:
        found = below[key] = _Group(spec, (), plain=plain, depth=depth)
    return found


def _show_ones(
    maps: dict[int, EntityMap],
    spec: AttrSpec,
    ones: tuple[list[int], list[Any]],
    xform: Callable[[Any], Any] | None,
) -> None:
    """Enter the one value that each entity has of an attribute."""
    key = spec.key
    ids, values = ones
    if xform is not None:
        values = [_transformed(xform, spec, v) for v in values]
    if len(ids) == len(maps):
        for made, value in zip(maps.values(), values, strict=True):
            made[key] = value
        return
    for i, value in zip(ids, values, strict=True):
        maps[i][key] = value
    if spec.has_default:
        for i in maps.keys() - set(ids):
            maps[i][key] = spec.default


def _transformed(xform: Callable[[Any], Any], spec: AttrSpec, value: Any) -> Any:
    try:
        return xform(value)
    except QueryError:
        raise
    except Exception as error:
        raise QueryError(
            f"The :xform of {shown(spec.key)} failed on {shown(value)}: {type(error).__name__}: "
            f"{error}",
            error=":pull/xform",
            attribute=spec.name,
        ) from error


def _too_large(spec: AttrSpec, what: str) -> QueryError:
    return QueryError(
        f"The pull of {shown(spec.key)} {what} along the paths of the graph; give the recursion a "
        "depth, such as {:friend 3}, or a :limit, or ask for the reachable entities with a rule.",
        error=":pull/too-large",
        attribute=spec.name,
    )
