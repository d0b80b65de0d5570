"""The way back up of a pull: from the values that each level read to nested maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from datahike_async.errors import QueryCanceled, QueryError, shown
from datahike_async.looks import SMALL, STEP, tally, walked
from datahike_async.query.pulling.map import EntityMap, copied
from datahike_async.query.pulling.pattern import DB_ID, AttrSpec, Spec, xform_of
from datahike_async.snapshot.views import View

__all__ = [
    "ENTERED",
    "EVERYTHING",
    "IDS",
    "NESTED",
    "ONES",
    "VALUES",
    "Assembler",
    "Group",
    "Job",
    "child_of",
    "too_large",
]

# Maps copied because two parents share them, in one pull.
_MAX_COPIES: Final = 1_000_000
# So many are gone over without a look at the clock.
_FEW: Final = SMALL // STEP
EVERYTHING: Final = Spec((), wildcard=True, db_id=True)
"""The pattern that components are pulled with."""

# How the values of an attribute turn into what the map shows.
VALUES, IDS, NESTED, ENTERED, ONES = range(5)

# An entity in a group: its id, or in a recursion that may meet an entity again (id, entities
# entered on the way, depths).
Job = int | tuple[int, frozenset[int], tuple[tuple[int, int], ...]]


class Group:
    """The entities of one level that are pulled with one pattern."""

    __slots__ = ("asked", "depth", "maps", "plain", "shown", "spec", "steps")

    def __init__(self, spec: Spec, jobs: Iterable[Job], *, plain: bool, depth: int = 0) -> None:
        self.spec = spec
        self.maps: dict[Any, Any] = dict.fromkeys(jobs)  # job -> EntityMap, None where empty
        self.plain = plain
        # How often a recursion was entered to get here, where the group is plain.
        self.depth = depth
        # (spec, many?, how, job or entity -> values, group of the nested maps)
        self.steps: list[tuple[AttrSpec, bool, int, Any, Group | None]] = []
        # How many maps the groups above want, and those that one of them has been given.
        self.asked = 0
        self.shown: set[Any] = set()

    def is_flat(self) -> bool:
        """Whether the maps hold values alone, no lists and maps of which a copy needs its own."""
        return self.spec.db_id_xform is None and all(
            (how == ONES or (how == VALUES and not many))
            and spec.xform is None
            and not spec.has_default
            for spec, many, how, _, _ in self.steps
        )


def child_of(below: dict[Any, Group], spec: Spec, *, plain: bool, depth: int = 0) -> Group:
    """Return the group of the next level for a pattern."""
    key = (id(spec), plain, depth)
    found = below.get(key)
    if found is None:
        found = below[key] = Group(spec, (), plain=plain, depth=depth)
    return found


class Assembler:
    """Makes the maps of a pull, deepest groups first."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.copies = 0

    def assemble(self, group: Group) -> None:
        """Make the maps of a group whose nested groups are done."""
        spec = group.spec
        db_id = spec.db_id_key if spec.db_id else None
        plain = group.plain
        jobs = group.maps if len(group.maps) <= _FEW else walked(group.maps)
        maps: dict[Any, Any]
        if db_id is None:
            maps = {job: EntityMap() for job in jobs}
        elif spec.db_id_xform is not None:
            made_of, named = xform_of(spec.db_id_xform), AttrSpec(DB_ID, False, db_id)
            maps = {
                job: EntityMap({db_id: _transformed(made_of, named, job if plain else job[0])})
                for job in jobs
            }
        else:
            maps = {job: EntityMap({db_id: job if plain else job[0]}) for job in jobs}
        group.maps = maps
        for attr_spec, many, how, values, child in group.steps:
            self.show(group, attr_spec, many, how, values, child)
        if db_id is None:
            if not all(maps.values()):
                for job, made in walked(maps.items(), each=4):
                    if not made:
                        maps[job] = None
            return
        # Components are shown by their id even where they have nothing else.
        if spec is not EVERYTHING and 1 in map(len, maps.values()):
            for job, made in walked(maps.items(), each=4):
                if len(made) == 1 and not self.exists(job if plain else job[0]):
                    maps[job] = None

    def show(
        self,
        group: Group,
        spec: AttrSpec,
        many: bool,
        how: int,
        values: Any,
        child: Group | None,
    ) -> None:
        """Enter one attribute into the maps of a group."""
        key, plain = spec.key, group.plain
        xform = None if spec.xform is None else xform_of(spec.xform)
        if how == ONES:
            _show_ones(group.maps, spec, values, xform)
            return
        default = spec.has_default
        if child is not None and child.plain and plain and xform is None and not default:
            self.nest(group, spec, many, values, child)
            return
        jobs = group.maps.items()
        for job, made in jobs if len(jobs) <= _FEW else walked(jobs):
            found = values.get(job if plain or how == ENTERED else job[0])
            if found is None:
                if default and job not in values:
                    made[key] = spec.default
                continue
            if how == VALUES:
                value = found[0] if not many else found if plain else list(found)
            elif how == IDS:
                value = [EntityMap({DB_ID: t}) for t in (found if many else found[:1])]
            else:
                assert child is not None
                value = [
                    shown
                    for t in found
                    if (shown := t if type(t) is EntityMap else self.taken(child, t, spec))
                    is not None
                ]
            if how != VALUES and not many:
                if not value:
                    continue
                value = value[0]
            made[key] = value if xform is None else _transformed(xform, spec, value)

    def nest(
        self, group: Group, spec: AttrSpec, many: bool, values: dict[int, list[int]], child: Group
    ) -> None:
        """Enter the maps of the entities that an attribute refers to."""
        key, maps, below = spec.key, group.maps, child.maps
        # Where each entity below has one parent, its map is handed over as it is.
        once = child.asked == len(below)
        given, flat, copies = child.shown, child.is_flat(), 0
        for job, found in values.items() if len(values) <= _FEW else walked(values.items()):
            if once:
                made = [m for t in found if (m := below[t]) is not None]
            elif flat:
                made = []
                for t in found:
                    one = below[t]
                    if one is None:
                        continue
                    if t in given:
                        copies += 1
                        one = EntityMap(one)
                    else:
                        given.add(t)
                    made.append(one)
                if copies > _FEW:
                    self.count(copies, spec)
                    copies = 0
            else:
                made = [m for t in found if (m := self.taken(child, t, spec)) is not None]
            if many:
                maps[job][key] = made
            elif made:
                maps[job][key] = made[0]
        self.count(copies, spec)

    def count(self, copies: int, spec: AttrSpec) -> None:
        """Note how many maps were copied, each of little; raise QueryError for too many."""
        self.copies += copies
        tally(STEP * copies)
        if self.copies > _MAX_COPIES:
            raise too_large(spec, f"repeats more than {_MAX_COPIES} maps")

    def taken(self, group: Group, job: Any, spec: AttrSpec) -> EntityMap | None:
        """Return a finished map; a second parent gets a copy of its own."""
        found: EntityMap | None = group.maps[job]
        if found is None:
            return None
        if job not in group.shown:
            group.shown.add(job)
            return found
        out, count = copied(found, _MAX_COPIES - self.copies)
        self.copies += count
        self.count(0, spec)
        return out

    def exists(self, eid: int) -> bool:
        """Whether an entity has any datom."""
        return len(self.view.entity(eid)) > 0


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
        values = [_transformed(xform, spec, v) for v in walked(values)]
    if len(ids) == len(maps):
        pairs = zip(maps.values(), values, strict=True)
        for made, value in walked(pairs, each=4, count=len(values)):
            made[key] = value
        return
    for i, value in walked(zip(ids, values, strict=True), each=4, count=len(values)):
        maps[i][key] = value
    if spec.has_default:
        for i in maps.keys() - set(ids):
            maps[i][key] = spec.default


def _transformed(xform: Callable[[Any], Any], spec: AttrSpec, value: Any) -> Any:
    try:
        return xform(value)
    except (QueryError, QueryCanceled):
        raise
    except Exception as error:
        raise QueryError(
            f"The :xform of {shown(spec.key)} failed on {shown(value)}: {type(error).__name__}: "
            f"{error}",
            error=":pull/xform",
            attribute=spec.name,
        ) from error


def too_large(spec: AttrSpec, what: str) -> QueryError:
    """Return the error of a pull that goes on and on."""
    return QueryError(
        f"The pull of {shown(spec.key)} {what} along the paths of the graph; give the recursion a "
        "depth, such as {:friend 3}, or a :limit, or ask for the reachable entities with a rule.",
        error=":pull/too-large",
        attribute=spec.name,
    )
