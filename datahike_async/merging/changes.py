"""What theirs has changed since the base, in the ids of ours.

Only theirs is compared with the base, at a cost that follows the difference. Each call fetches what
it needs and may be made again after NodeMiss: what it leaves behind it leaves at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from datahike_async.collector import spare
from datahike_async.edn.types import Keyword
from datahike_async.index.columns import Column, Rows
from datahike_async.looks import walked
from datahike_async.merging.names import (
    Elements,
    aliases,
    array,
    elements_of,
    names_in,
    names_of,
    present,
    references,
    renamed,
    survivors,
)
from datahike_async.merging.report import Conflict
from datahike_async.snapshot.difference import difference
from datahike_async.snapshot.views import View
from datahike_async.values.schema import MERGE_ALSO, Attr
from datahike_async.values.types import typed_key

__all__ = ["Changes", "Key", "Value"]


class Value(NamedTuple):
    """A value, and the transaction that asserted it."""

    v: Any
    t: int


# For the many that have none: nothing is ever put in here.
_NOTHING: Final[dict[Any, Value]] = {}


class Key:
    """What theirs took away and gave at one attribute of one entity, by typed key."""

    __slots__ = ("gone", "new")

    def __init__(self) -> None:
        self.gone = self.new = _NOTHING

    def put(self, v: Any, t: int, *, gone: bool) -> None:
        """Note a value that was taken away or given."""
        if gone:
            if self.gone is _NOTHING:
                self.gone = {}
            self.gone[typed_key(v)] = Value(v, t)
        else:
            if self.new is _NOTHING:
                self.new = {}
            self.new[typed_key(v)] = Value(v, t)


class _Run:
    """Rows of one attribute, and where its values hold references."""

    __slots__ = ("attr", "rows", "where")

    def __init__(self, attr: Attr, rows: Rows, where: Elements) -> None:
        self.attr = attr
        self.rows = rows
        self.where = where

    def __iter__(self) -> Iterator[tuple[int, Any, int]]:
        rows = self.rows
        columns = (rows.e.tolist(), rows.v.tolist(), rows.t.tolist())
        return iter(walked(zip(*columns, strict=True), count=len(rows)))

    def ids(self) -> Iterator[int]:
        """Go through the entities, and what they refer to."""
        yield from self.rows.e.tolist()
        if self.where:
            for value in walked(self.rows.v.tolist()):
                yield from references(value, self.where)


class Changes:
    """What theirs has changed since the base.

    ``keys`` are, by attribute and entity of ours, what was taken away and what was given; composite
    tuples and the names of entities are not among them. ``ours_of`` says what ours calls an entity
    that theirs calls otherwise, ``theirs_of`` the other way round. ``old`` are the entities, as
    theirs calls them, that the base has, ``here`` those that ours has, ``there`` those that theirs
    has. ``same`` are those of ``ours_of`` that became known now, ``also`` the names that ours is
    to take over, by entity of ours.
    """

    def __init__(self, base: View, ours: View, theirs: View, *, unify: bool = True) -> None:
        self.base, self.ours, self.theirs = base, ours, theirs
        self.conflicts: list[Conflict] = []
        self.keys: dict[Keyword, dict[int, Key]] = {}
        self.ours_of: dict[int, int] = {}
        self.theirs_of: dict[int, int] = {}
        self.old: set[int] = set()
        self.here: set[int] = set()
        self.there: set[int] = set()
        self.same: dict[int, int] = {}
        self.also: dict[int, set[int]] = {}
        self._unify = unify
        self._gone: list[_Run] = []
        self._new: list[_Run] = []
        # What theirs calls what the base calls otherwise.
        self._of_base: dict[int, int] = {}
        self._composites = {
            attr.ident
            for view in (base, ours, theirs)
            for attr in view.schema.attrs
            if attr.tuple_attrs
        }

    def compare(self) -> None:
        """Find out what differs. Raises NodeMiss."""
        gone, new = difference(self.base, self.theirs, names=True)
        self._gone, self._new = _runs(gone, self.base), _runs(new, self.theirs)

    # -- who is who ----------------------------------------------------------------------------

    def name(self) -> None:
        """Find out what ours calls the entities. Raises NodeMiss."""
        base, ours, theirs = self.base, self.ours, self.theirs
        gone = array(_ids(self._gone))
        of_base = survivors(theirs, gone)
        elsewhere = aliases(base, gone)
        if elsewhere:
            # Theirs is older than the base, where that is undone, and knew other names.
            for one, called in names_in(theirs, elsewhere).called.items():
                if one not in of_base and called and one not in present(theirs, array([one])):
                    of_base[one] = min(called)
        ids = array([*_ids(self._new), *(of_base.get(x, x) for x in gone.tolist())])
        known: dict[int, set[int]] = {}
        for x, names in aliases(theirs, ids).items():
            known[x] = {x, *names}
        for old, x in of_base.items():
            known.setdefault(x, {x}).add(old)
        in_ours, in_base = names_of(ours, ids, known), names_of(base, ids, known)
        conflicts: list[Conflict] = []
        ours_of: dict[int, int] = {}
        for x in in_ours.called.keys() | in_base.called.keys():
            called = in_ours.of(x)
            if len(called) > 1:
                listed = ", ".join(map(str, sorted(called)))
                why = f"theirs takes the entities {listed} of ours for one"
                conflicts.append(Conflict("identity", min(called), None, theirs=x, why=why))
            # What ours has no more it called as the base did.
            found = called or in_base.of(x)
            if found and (len(found) > 1 or x not in found):
                ours_of[x] = min(found)
        self._of_base, self.ours_of, self.conflicts = of_base, ours_of, conflicts
        self.old, self.here = in_base.alive, in_ours.alive
        self.there = present(theirs, ids)

    def identify(self) -> None:
        """Find the new entities that ours has made, too, by unique identity. Raises NodeMiss."""
        ours_of, same = dict(self.ours_of), dict[int, int]()
        conflicts: dict[Any, Conflict] = {}
        claimed: list[tuple[int, Attr, Any, int]] = []
        rows = list(self._unique_rows())
        gone = self._unique_gone()
        waiting: dict[int, list[int]] = {}
        for i, (_, _, v, where) in enumerate(rows):
            for x in references(v, where):
                if x not in self.old and x not in self.here:
                    waiting.setdefault(x, []).append(i)
        at: Iterable[int] = range(len(rows))
        while at:
            claims: dict[int, dict[int, Any]] = {}
            for x, attr, v, h in self._held([rows[i] for i in at], ours_of, gone):
                if self._is_twin(x, attr) and h not in self._old_here:
                    claims.setdefault(x, {})[h] = (attr, v)
                else:
                    claimed.append((x, attr, v, h))
            new = self._agreed(claims, ours_of, same, conflicts)
            at = sorted({i for x in new for i in waiting.get(x, ())})
        for x, attr, v, h in claimed:
            # Which tuples there will be shows when they are made of their parts.
            if ours_of.get(x, x) != h and not attr.tuple_attrs:
                conflicts[attr.ident, h, typed_key(v)] = _claimed(x, attr, v, h)
        names = aliases(self.theirs, array(same))
        self.also = {h: {x, *names.get(x, ())} - {h} for x, h in same.items()}
        self.ours_of, self.same = ours_of, same
        self.conflicts += conflicts.values()

    def _unique_rows(self) -> Iterator[tuple[int, Attr, Any, Elements]]:
        """Go through the unique values that theirs gave to entities, as theirs calls them."""
        of_base = self._of_base
        # What the base says under other names is nothing new.
        known = {
            (run.attr.ident, of_base.get(e, e), typed_key(renamed(v, run.where, of_base)))
            for run in self._gone
            if of_base and run.attr.unique
            for e, v, _ in run
        }
        for run in self._new:
            attr = self.ours.schema.by_key.get(run.attr.ident)
            if attr is not None and attr.unique and attr.value_type is run.attr.value_type:
                for x, v, _ in run:
                    if not known or (attr.ident, x, typed_key(v)) not in known:
                        yield x, attr, v, run.where

    def _unique_gone(self) -> set[tuple[Keyword, int, Any]]:
        """Return the unique values that theirs took from their entities, as ours calls them."""
        return {
            (run.attr.ident, self._here(e, base=True), typed_key(self._value(v, run.where, True)))
            for run in self._gone
            if run.attr.unique
            for e, v, _ in run
        }

    def _held(
        self,
        rows: list[tuple[int, Attr, Any, Elements]],
        ours_of: Mapping[int, int],
        gone: set[tuple[Keyword, int, Any]],
    ) -> list[tuple[int, Attr, Any, int]]:
        """Return the rows whose value another entity of ours has, and will have, with that."""
        by_attr: dict[Attr, dict[Any, tuple[Any, list[int]]]] = {}
        for x, attr, v, where in rows:
            v = renamed(v, where, ours_of)
            by_attr.setdefault(attr, {}).setdefault(typed_key(v), (v, []))[1].append(x)
        out = []
        for attr, wanted in by_attr.items():
            values = Column.of([v for v, _ in wanted.values()])
            found = self.ours.snapshot.of_values(attr.id, values)
            for h, v in zip(found.e.tolist(), found.v.tolist(), strict=True):
                key = typed_key(v)
                if key in wanted and (attr.ident, h, key) not in gone:
                    out += [(x, attr, v, h) for x in wanted[key][1] if ours_of.get(x, x) != h]
        twins = {h for *_, h in out}
        names = aliases(self.ours, array(twins))
        known = {h: {h, *names.get(h, ())} for h in twins}
        self._old_here = names_in(self.base, known).alive
        self._theirs_too = present(self.theirs, array(twins))
        return out

    def _is_twin(self, x: int, attr: Attr) -> bool:
        return (
            self._unify and attr.unique == "identity" and x not in self.old and x not in self.here
        )

    def _agreed(
        self,
        claims: Mapping[int, Mapping[int, Any]],
        ours_of: dict[int, int],
        same: dict[int, int],
        conflicts: dict[Any, Conflict],
    ) -> list[int]:
        """Take over which new entities are the same where there is no doubt; return those."""
        taken = {h: x for x, h in same.items()}
        by_twin: dict[int, set[int]] = {}
        for x, found in claims.items():
            for h in found:
                by_twin.setdefault(h, set()).add(x)
        new = []
        for x, found in claims.items():
            for h, (attr, v) in found.items():
                if (
                    len(found) > 1
                    or len(by_twin[h]) > 1
                    or same.get(x, h) != h
                    or taken.get(h, x) != x
                    or h in self._theirs_too
                ):
                    known = conflicts.get(("identity", h))
                    if known is not None and str(known.attribute) <= str(attr.ident):
                        continue
                    why = f"entity {x} of theirs and entity {h} of ours are one, and are not"
                    conflicts["identity", h] = Conflict(
                        "identity", h, attr.ident, ours=v, theirs=v, why=why
                    )
                else:
                    ours_of[x] = same[x] = h
                    new.append(x)
        return new

    # -- what changed --------------------------------------------------------------------------

    def _here(self, e: int, *, base: bool) -> int:
        if base:
            e = self._of_base.get(e, e)
        return self.ours_of.get(e, e)

    def _value(self, v: Any, where: Elements, base: bool) -> Any:
        if base:
            v = renamed(v, where, self._of_base)
        return renamed(v, where, self.ours_of)

    def gather(self) -> None:
        """Fill ``keys`` and ``also``. Raises NodeMiss."""
        keys: dict[Keyword, dict[int, Key]] = {}
        also = {h: set(names) for h, names in self.also.items()}
        for runs, base in ((self._gone, True), (self._new, False)):
            for run in runs:
                ident = run.attr.ident
                if ident is MERGE_ALSO:
                    if not base:
                        for e, v, _ in run:
                            here = self._here(e, base=False)
                            also.setdefault(here, set()).update({v, e} - {here})
                    continue
                if ident in self._composites:
                    continue
                by_e = keys.setdefault(ident, {})
                where = run.where
                for e, v, t in run:
                    here = self._here(e, base=base)
                    key = by_e.get(here)
                    if key is None:
                        key = by_e[here] = Key()
                    key.put(self._value(v, where, base), t, gone=base)
                spare()
        if self._of_base or self.ours_of:
            _cancel(keys)
        known = aliases(self.ours, array(also))
        self.also = {
            h: left for h, names in also.items() if (left := names.difference(known.get(h, ())))
        }
        self.keys = keys
        self.theirs_of = {h: x for x, h in self.ours_of.items()}


def _runs(rows: Iterable[Rows], view: View) -> list[_Run]:
    out = []
    for run in rows:
        attr = view.schema.attrs[int(run.a[0])]
        out.append(_Run(attr, run, elements_of(attr, view)))
    return out


def _ids(runs: Iterable[_Run]) -> Iterator[int]:
    for run in runs:
        yield from run.ids()


def _cancel(keys: dict[Keyword, dict[int, Key]]) -> None:
    """Drop what is gone and new at once: the same, under other names."""
    for by_e in keys.values():
        for e, key in list(by_e.items()):
            for both in key.gone.keys() & key.new.keys():
                del key.gone[both], key.new[both]
            if not key.gone and not key.new:
                del by_e[e]


def _claimed(x: int, attr: Attr, v: Any, h: int) -> Conflict:
    why = f"entity {h} of ours has the value, and entity {x} of theirs"
    return Conflict("unique", h, attr.ident, ours=v, theirs=v, why=why)
