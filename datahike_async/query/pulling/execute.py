"""Pull: nested maps of an entity's attributes, for one entity or for thousands at once.

A pull goes down level by level, reading every attribute of all entities of a level at once (in
columns where they are many), and then comes back up assembling maps. So a level costs one wave of
reads, and depth costs no stack. Knows views and patterns, nothing of queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Final, TypeVar

from datahike_async.collector import set_aside
from datahike_async.edn.types import Keyword
from datahike_async.errors import QueryError, shown
from datahike_async.index.source import NodeMiss, Reading
from datahike_async.looks import STEP, looking, tally, walked
from datahike_async.query.limits.budget import Meter
from datahike_async.query.limits.host import LARGE, Host
from datahike_async.query.limits.watch import Elsewhere, Watch
from datahike_async.query.pulling.assemble import (
    ENTERED,
    EVERYTHING,
    IDS,
    NESTED,
    ONES,
    VALUES,
    Assembler,
    Group,
    child_of,
    too_large,
)
from datahike_async.query.pulling.map import EntityMap, copied
from datahike_async.query.pulling.pattern import DB_ID, AttrSpec, Spec, parse_pattern
from datahike_async.query.pulling.read import ALL, COLUMNS_FROM, SMALL, Reader
from datahike_async.query.reading.fetch import merged
from datahike_async.snapshot.ids import EMAX
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr

__all__ = ["MAX_MAPS", "EntityMap", "pull", "pull_many"]

T = TypeVar("T")

# Entities entered by recursion, and maps copied because two parents share them, in one pull.
MAX_MAPS: Final = 200_000
_CHUNK: Final = 8192
# Characters of a pattern that is parsed in no time.
_SHORT: Final = 2000
_INTS: Final = frozenset({int})
# Patterns of more attributes are looked at in their midst; what reading one counts for.
_WIDE: Final = 16
_READ: Final = 8 * STEP
# From so many maps on those that are made already are spared by the garbage collector.
_SPARED: Final = 10_000
_UNBOUNDED: Final = Meter()
_NONE: Final[dict[int, list[Any]]] = {}

_NO_ENTITIES: Final[frozenset[int]] = frozenset()


@lru_cache(4096)
def _as_it_is(ident: Keyword) -> AttrSpec:
    """Return the spec of an attribute of which a wildcard alone speaks."""
    return AttrSpec(ident, False, ident)


class _MetAgainError(Exception):
    """A recursion that was thought to be a tree has met an entity on two levels."""


async def pull(view: View, pattern: Any, eid: Any, host: Host | None = None) -> EntityMap | None:
    """Return what ``pattern`` names of one entity, or None where it has nothing of it.

    ``eid`` is an id, an ident or a lookup ref. Raises QueryError ``:parser/pull`` for a bad
    pattern and ``:pull/too-large`` where a recursion meets more than ``MAX_MAPS`` entities.
    """
    watch = Watch(_UNBOUNDED, host)
    rows = 0
    token = looking.set(watch.look)
    try:
        if type(pattern) is str and len(pattern) <= _SHORT:
            spec = parse_pattern(pattern)
        else:
            spec = await _parsed(watch, pattern)
        # Most pulls are little, and what is at hand needs no more coroutines.
        watch.begin()
        try:
            known = type(eid) is int and 0 <= eid <= EMAX
            return _maps(view, spec, (eid if known else view.entid(eid),))[0]
        except NodeMiss:
            pass
        except Elsewhere:
            rows = LARGE
        return (await _read(watch, rows, _pulled, view, spec, (eid,)))[0]
    finally:
        looking.reset(token)


async def pull_many(
    view: View,
    pattern: Any,
    eids: Iterable[Any],
    *,
    host: Host | None = None,
    watch: Watch | None = None,
) -> list[EntityMap | None]:
    """Return one result an entity, in the order of ``eids``; see :func:`pull`.

    Inside of a query it is done on the query's ``watch``.
    """
    if watch is not None:
        return await _many(watch, view, pattern, eids)
    watch = Watch(_UNBOUNDED, host)
    rows = 0
    token = looking.set(watch.look)
    try:
        if (
            type(pattern) is str
            and len(pattern) <= _SHORT
            and type(eids) is list
            and len(eids) <= _CHUNK
            and _INTS.issuperset(map(type, eids))
        ):
            # As in pull: most are little.
            watch.begin()
            try:
                return _pulled(view, parse_pattern(pattern), eids)
            except NodeMiss:
                pass
            except Elsewhere:
                rows = LARGE
        return await _many(watch, view, pattern, eids, rows)
    finally:
        looking.reset(token)


async def _many(
    watch: Watch, view: View, pattern: Any, eids: Iterable[Any], rows: int = 0
) -> list[EntityMap | None]:
    if type(pattern) is str and len(pattern) <= _SHORT:
        spec = parse_pattern(pattern)
    else:
        spec = await _parsed(watch, pattern)
    refs = eids if isinstance(eids, (list, tuple)) else _listed(eids)
    read: Callable[..., list[EntityMap | None]] = _pulled
    ids: Sequence[Any] = refs
    if not _INTS.issuperset(map(type, refs)):
        # All together: what they lack is fetched in as many waves as for one of them.
        ids = await _read(watch, 0, _resolved, view, refs, spec)
        read = _maps
    if len(ids) <= _CHUNK:
        return await _read(watch, rows, read, view, spec, ids)
    out: list[EntityMap | None] = []
    for start in range(0, len(ids), _CHUNK):
        out += await _read(watch, 0, read, view, spec, ids[start : start + _CHUNK])
        await watch.pause()
    return out


async def _parsed(watch: Watch, pattern: Any) -> Spec:
    if type(pattern) is Spec:
        return pattern
    return await watch.run(0, parse_pattern, pattern)


async def _read(watch: Watch, rows: int, call: Callable[..., T], *args: Any) -> T:
    """Return ``call(*args)``, here or in a thread; what it misses is fetched first."""
    with Reading() as reading:
        return await reading.call(call, *args, run=partial(watch.run, rows))


def _listed(eids: Any) -> list[Any]:
    if isinstance(eids, (str, bytes, Keyword, Mapping)) or not isinstance(eids, Iterable):
        raise QueryError(
            f"pull_many takes a list of entity ids, lookup refs or idents, not {shown(eids)}.",
            error=":entity-id/syntax",
            entity_id=eids,
        )
    return list(eids)


def _resolved(view: View, refs: Sequence[Any], ahead: Spec | None = None) -> list[int | None]:
    """Return the entity of each ref; one miss names what all of them lack.

    Where that is something, it names what a pull ``ahead`` will read of so many entities too.
    """
    out: list[int | None] = []
    misses: list[NodeMiss] = []
    for ref in walked(refs):
        try:
            out.append(ref if type(ref) is int and 0 <= ref <= EMAX else view.entid(ref))
        except NodeMiss as miss:
            misses.append(miss)
    if misses:
        if ahead is not None:
            misses += _ahead(view, ahead, len(refs))
        raise merged(misses)
    return out


def _ahead(view: View, spec: Spec, count: int) -> list[NodeMiss]:
    """Return what is missing of the columns that a pull of ``count`` entities will look at."""
    reader, misses = Reader(view), []
    todo = [spec]
    while todo:
        for attr_spec in (one := todo.pop()).attrs:
            attr = view.schema.by_key.get(attr_spec.name)
            if attr_spec.sub is not None and attr_spec.sub is not one:
                todo.append(attr_spec.sub)
            if attr is not None:
                try:
                    reader.touch(attr, count)
                except NodeMiss as miss:
                    misses.append(miss)
    return misses


def _pulled(view: View, spec: Spec, refs: Sequence[Any]) -> list[EntityMap | None]:
    ids = refs
    if not (refs and _INTS.issuperset(map(type, refs)) and min(refs) >= 0 and max(refs) <= EMAX):
        ids = _resolved(view, refs)
    return _maps(view, spec, ids)


def _maps(view: View, spec: Spec, ids: Sequence[int | None]) -> list[EntityMap | None]:
    """Return the map of each entity; None where a ref named none."""
    try:
        maps = _Pull(view, tree=spec.recursions == 1).run(spec, ids)
    except _MetAgainError:
        maps = _Pull(view, tree=False).run(spec, ids)
    if len(maps) == len(ids):
        # Each was asked for once, and names something.
        return list(maps.values())
    seen: set[int | None] = set()
    out = []
    for i in ids:
        found = maps.get(i)
        # An entity that was asked for twice gives two maps, not one map twice.
        out.append(copied(found)[0] if found is not None and i in seen else found)
        seen.add(i)
    return out


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
        self.groups: list[Group] = []
        self.entered = 0

    def run(self, spec: Spec, ids: Sequence[int | None]) -> dict[Any, EntityMap | None]:
        """Return entity → map, or None where there is nothing of ``spec``."""
        root = Group(spec, ids, plain=True)  # type: ignore[arg-type]
        if None in root.maps:
            del root.maps[None]
        level, entered, spared = [root], 0, None
        try:
            while level:
                below: dict[Any, Group] = {}
                for group in level:
                    self.read(group, below)
                self.groups += level
                level = list(below.values())
                if self.entered - entered > _SPARED:
                    entered = self.entered
                    spared = spared or ExitStack()
                    spared.enter_context(set_aside())
        finally:
            if spared is not None:
                spared.close()
        self.assemble()
        return root.maps

    def assemble(self) -> None:
        """Make the maps, deepest groups first."""
        assembler = Assembler(self.view)
        many = 0
        for group in self.groups:
            many += len(group.maps)
        if many < _SPARED:
            for group in reversed(self.groups):
                assembler.assemble(group)
            return
        with set_aside():
            for group in reversed(self.groups):
                # What the groups below have made is spared as well.
                with set_aside():
                    assembler.assemble(group)

    # -- down: what each level reads -------------------------------------------------------------

    def read(self, group: Group, below: dict[Any, Group]) -> None:
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
        for attr_spec in spec.attrs if len(spec.attrs) <= _WIDE else walked(spec.attrs, each=_READ):
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
                        group.steps.append((attr_spec, False, ONES, ones, None))
                        continue
                    values = self.reader.values(attr, attr_spec.reverse, ids)
                except NodeMiss as miss:
                    misses.append(miss)
            if misses:
                continue
            if attr is not None and not attr.is_ref and not attr.many:
                group.steps.append((attr_spec, False, VALUES, values, None))
            else:
                self.step(group, attr_spec, attr, values, below)
        if misses:
            raise merged(misses)

    def is_cheaper_whole(self, spec: Spec, ids: list[int]) -> bool:
        """Whether all of a few entities is read faster than their columns, if those are there."""
        if len(ids) == 1:
            return True
        attrs = [self.schema.by_key.get(s.name) for s in spec.attrs if not s.reverse]
        return not all(attr is None or self.reader.at_hand(attr) for attr in attrs)

    def read_all(self, group: Group, ids: list[int], below: dict[Any, Group]) -> None:
        """Read every attribute that the entities have; the pattern's specs say how to show them."""
        attrs = self.schema.attrs
        found: dict[int, dict[int, list[Any]]] = {}
        if len(ids) < COLUMNS_FROM:
            found = self.reader.whole(ids, ALL) or {}
        else:
            misses: list[NodeMiss] = []
            for a in walked(self.view.attr_ids(), each=_READ):
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
            spec = given.get(attr.ident) or _as_it_is(attr.ident)
            self.step(group, spec, attr, values, below)

    def step(
        self,
        group: Group,
        spec: AttrSpec,
        attr: Attr | None,
        values: dict[int, list[Any]],
        below: dict[Any, Group],
    ) -> None:
        """Note how the values of one attribute are shown, and which entities that needs."""
        many = attr is not None and (not attr.component if spec.reverse else attr.many)
        if spec.limit is not None and many:
            limit = spec.limit
            values = {i: v if len(v) <= limit else v[:limit] for i, v in values.items()}
        if not values or attr is None or not attr.is_ref:
            group.steps.append((spec, many, VALUES, values, None))
        elif spec.recursion is not None:
            self.enter(group, spec, many, values, below)
        elif spec.sub is not None:
            child = child_of(below, spec.sub, plain=True)
            self.want(child, values)
            group.steps.append((spec, many, NESTED, values, child))
        elif attr.component and not spec.reverse:
            self.enter_components(group, spec, many, values, below)
        else:
            group.steps.append((spec, many, IDS, values, None))

    # -- recursion -------------------------------------------------------------------------------

    def enter(
        self,
        group: Group,
        spec: AttrSpec,
        many: bool,
        values: dict[int, list[Any]],
        below: dict[Any, Group],
    ) -> None:
        """Pull the same pattern for the targets, but for those entered on the way to here."""
        key, most = id(spec), spec.recursion
        if self.tree and group.plain:
            if most is not None and 0 <= most == group.depth:
                group.steps.append((spec, many, ENTERED, dict.fromkeys(values), None))
                return
            child = child_of(below, group.spec, plain=True, depth=group.depth + 1)
            self.met.update(group.maps)
            self.want(child, values)
            if not self.met.isdisjoint(child.maps):
                raise _MetAgainError
            self.count(child.asked, spec)
            group.steps.append((spec, many, ENTERED, values, child))
            return
        child = child_of(below, group.spec, plain=False)
        links: dict[Any, Any] = {}
        for job in walked(group.maps):
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
        group.steps.append((spec, many, ENTERED, links, child))

    def enter_components(
        self,
        group: Group,
        spec: AttrSpec,
        many: bool,
        values: dict[int, list[Any]],
        below: dict[Any, Group],
    ) -> None:
        """Pull everything of components, but for entities that they are part of."""
        child = child_of(below, EVERYTHING, plain=False)
        links: dict[Any, Any] = {}
        for job in walked(group.maps):
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
        group.steps.append((spec, many, ENTERED, links, child))

    def want(self, child: Group, values: dict[int, list[Any]]) -> None:
        """Enter all values, which are entities, into the group below."""
        targets = list(chain.from_iterable(walked(values.values(), each=4)))
        child.asked += len(targets)
        child.maps.update(dict.fromkeys(targets))

    def count(self, more: int, spec: AttrSpec) -> None:
        self.entered += more
        tally(STEP * more)
        if self.entered > MAX_MAPS:
            raise too_large(spec, f"goes over more than {MAX_MAPS} entities")
