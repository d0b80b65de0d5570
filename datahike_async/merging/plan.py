"""What is to be done on ours, so that it says what both sides say; and what they do not agree on.

A plan is made in steps, each of which may be called again after NodeMiss. All reading is done
before anything is decided, so what a user gave to decide is called once for each conflict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from datahike_async.collector import spare
from datahike_async.edn.types import Keyword
from datahike_async.errors import ArgumentError, shown
from datahike_async.index.columns import INT, Column
from datahike_async.looks import walked
from datahike_async.merging.changes import Changes, Key, Value
from datahike_async.merging.items import items_of
from datahike_async.merging.names import (
    aliases,
    array,
    elements_of,
    names_in,
    references,
    renamed,
)
from datahike_async.merging.report import SETTLED, Conflict, Fact, MergeReport
from datahike_async.merging.strategies import (
    BOTH,
    LATEST,
    UNDECIDED,
    as_set,
    called,
    instants,
    strategy_of,
    winner,
)
from datahike_async.snapshot.ids import TX0
from datahike_async.snapshot.views import View
from datahike_async.values.schema import MERGE_ALSO, SCHEMA_PROPERTIES, STRATEGIES
from datahike_async.values.types import typed_key

__all__ = ["CHOICES", "Plan", "Resolve"]

CHOICES: Final = ("abort", "ours", "theirs")
Resolve = Callable[[Conflict], Any]

# Facts of an attribute with many values from which what ours has is read as columns.
_FEW: Final = 256
_DOC: Final = Keyword("db/doc")


class _Settled(NamedTuple):
    """The values that a key is to have, and what said so."""

    values: list[Any]
    by: str


class Plan:
    """A merge of theirs into ours. Call ``make``, then read ``items`` and ``report``.

    ``shared`` is the newest transaction that both have under the same id; ``unify`` says whether
    new entities of one unique identity become one. ``items`` are the transaction, ``report`` what
    it comes to, without the commits.
    """

    items: list[Any]
    report: MergeReport

    def __init__(
        self,
        base: View,
        ours: View,
        theirs: View,
        *,
        shared: int = 0,
        unify: bool = True,
        on_conflict: str = "abort",
        resolve: Resolve | None = None,
    ) -> None:
        self.base, self.ours, self.theirs = base, ours, theirs
        self.changes = Changes(base, ours, theirs, unify=unify)
        self._shared = shared
        self._on_conflict = on_conflict
        self._resolve = resolve
        self._strategies: dict[Keyword, Keyword] = {}
        self._many: dict[Keyword, bool] = {}
        self._here: dict[Keyword, dict[int, dict[Any, Value]]] = {}
        self._there: dict[Keyword, dict[int, dict[Any, Value]]] = {}
        self._when: tuple[dict[int, datetime], dict[int, datetime]] = ({}, {})
        self._removed: dict[int, list[tuple[Keyword, Any]]] = {}
        self._skipped: set[int] = set()
        self._dead: set[int] = set()
        self._given: set[int] = set()
        self._found: list[Conflict] = []
        self._added: list[Fact] = []
        self._retracted: list[Fact] = []
        self._settled: list[Conflict] = []
        self._done = 0

    def make(self) -> None:
        """Make the plan. Raises NodeMiss, and goes on where it was when it is called again."""
        steps = self._steps()
        while self._done < len(steps):
            steps[self._done]()
            self._done += 1
            spare()

    def _steps(self) -> Sequence[Callable[[], None]]:
        changes = self.changes
        return (
            changes.compare,
            changes.name,
            changes.identify,
            changes.gather,
            self._read,
            self._read_entities,
            self._read_references,
            self._read_instants,
            self._decide,
            self._write_down,
        )

    def _write_down(self) -> None:
        also = [
            Fact(e, MERGE_ALSO, name)
            for e, names in sorted(self.changes.also.items())
            if self._lives(e)
            for name in sorted(names)
        ]
        self.items = items_of([*self._added, *also], self._retracted)
        self.report = MergeReport(
            added=tuple(self._added),
            retracted=tuple(self._retracted),
            conflicts=tuple(sorted([*self.changes.conflicts, *self._found], key=_place)),
            settled=tuple(self._settled),
            same=self.changes.same,
        )

    def _lives(self, e: int) -> bool:
        """Whether an entity of ours has datoms after the merge."""
        here = self.changes.theirs_of.get(e, e) in self.changes.here
        return e in self._given or (here and e not in self._removed)

    # -- reading -------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read what ours says where theirs has changed something."""
        for ident, by_e in self.changes.keys.items():
            if ident in self._here:
                continue
            strategy = strategy_of(ident, self.base, self.ours, self.theirs)
            many, mixed = self._cardinality(ident)
            whole = mixed or (many and strategy is not None)
            here = self._values(self.ours, ident, by_e, whole=whole or not many)
            if whole:
                theirs_of = self.changes.theirs_of
                there = {theirs_of.get(e, e): key for e, key in by_e.items()}
                found = self._values(self.theirs, ident, there, whole=True)
                self._there[ident] = self._in_ours(ident, found)
            if strategy is not None:
                self._strategies[ident] = strategy
            self._many[ident] = many
            self._here[ident] = here

    def _cardinality(self, ident: Keyword) -> tuple[bool, bool]:
        """Return whether an attribute will have many values, and whether the states differ."""
        sides = [view.schema.by_key.get(ident) for view in (self.base, self.ours, self.theirs)]
        base, ours, theirs = (None if attr is None else attr.many for attr in sides)
        known = {many for many in (base, ours, theirs) if many is not None}
        if ours is None or (base is not None and ours == base and theirs is not None):
            return bool(theirs), len(known) > 1
        return ours, len(known) > 1

    def _values(
        self, view: View, ident: Keyword, by_e: dict[int, Key], *, whole: bool
    ) -> dict[int, dict[Any, Value]]:
        """Return what a state says at keys: all values, or those that theirs has changed."""
        attr = view.schema.by_key.get(ident)
        out: dict[int, dict[Any, Value]] = {}
        if attr is None:
            return out
        if not whole and sum(len(key.gone) + len(key.new) for key in by_e.values()) <= _FEW:
            for e, key in by_e.items():
                out[e] = {}
                for typed, value in (*key.gone.items(), *key.new.items()):
                    fact = view.snapshot.fact(e, attr.id, value.v, typed)
                    if fact is not None:
                        out[e][typed] = Value(fact[1], fact[2])
            return out
        rows = view.of_entities(attr.id, array(by_e))
        columns = (rows.e.tolist(), rows.v.tolist(), rows.t.tolist())
        for e, v, t in walked(zip(*columns, strict=True), count=len(rows)):
            out.setdefault(e, {})[typed_key(v)] = Value(v, t)
        return out

    def _in_ours(
        self, ident: Keyword, found: dict[int, dict[Any, Value]]
    ) -> dict[int, dict[Any, Value]]:
        ids = self.changes.ours_of
        attr = self.theirs.schema.by_key.get(ident)
        if attr is None or not ids:
            return found
        where = elements_of(attr, self.theirs)
        out: dict[int, dict[Any, Value]] = {}
        for e, values in found.items():
            mine = out[ids.get(e, e)] = {}
            for value in values.values():
                v = renamed(value.v, where, ids)
                mine[typed_key(v)] = Value(v, value.t)
        return out

    def _read_entities(self) -> None:
        """Find entities that one side retracted, and what the other did to them."""
        changes = self.changes
        theirs_of = changes.theirs_of
        said: dict[int, set[tuple[Keyword, Any]]] = {}
        given: set[int] = set()
        for ident, by_e in changes.keys.items():
            for e, key in walked(by_e.items()):
                if key.new:
                    given.add(e)
                if key.gone:
                    said.setdefault(e, set()).update((ident, typed) for typed in key.gone)
        found: list[Conflict] = []
        skipped: set[int] = set()
        for e in sorted(given):
            x = theirs_of.get(e, e)
            if x in changes.old and x not in changes.here:
                skipped.add(e)
                why = "ours retracted it, and theirs changed it"
                found.append(Conflict("entity", e, None, why=why))
        self._dead = {
            e for e in said if (x := theirs_of.get(e, e)) in changes.old and x not in changes.here
        }
        gone = {e for e in said if theirs_of.get(e, e) not in changes.there} - given
        gone = {e for e in gone if theirs_of.get(e, e) in changes.here}
        removed: dict[int, list[tuple[Keyword, Any]]] = {e: [] for e in gone}
        if gone:
            rows = self.ours.snapshot.all_of_entities(array(gone))
            attrs = self.ours.schema.attrs
            columns = (rows.e.tolist(), rows.a.tolist(), rows.v.tolist())
            for e, a, v in walked(zip(*columns, strict=True), count=len(rows)):
                attr = attrs[a]
                if attr.tuple_attrs:
                    continue
                if attr.ident is not MERGE_ALSO and (attr.ident, typed_key(v)) not in said[e]:
                    if e not in skipped:
                        why = "theirs retracted it, and ours changed it"
                        found.append(Conflict("entity", e, None, why=why))
                    skipped.add(e)
                removed[e].append((attr.ident, v))
        self._skipped, self._given = skipped, given
        self._removed = {e: facts for e, facts in removed.items() if e not in skipped}
        self._found = found

    def _read_references(self) -> None:
        """Find references to what the other side retracted, and to its transactions."""
        changes = self.changes
        found: list[Conflict] = []
        theirs_of = changes.theirs_of
        for ident, by_e in changes.keys.items():
            attr = self.theirs.schema.by_key.get(ident)
            where = () if attr is None else elements_of(attr, self.theirs)
            if not where:
                continue
            for e, key in walked(by_e.items()):
                for value in key.new.values():
                    for y in references(value.v, where):
                        found += self._lost(e, ident, y, theirs_of.get(y, y))
        found += self._still_referred()
        self._found = [c for c in self._found if c.kind == "entity"] + found

    def _lost(self, e: int, ident: Keyword, y: int, x: int) -> Iterable[Conflict]:
        """Yield the conflict that a new reference of theirs is."""
        changes = self.changes
        if y >= TX0:
            if y > self._shared:
                why = f"theirs refers to its transaction {y}, which is none of ours"
                yield Conflict("transaction", e, ident, theirs=y, why=why)
        elif {e, y} & self._skipped:
            return  # told already
        elif x in changes.old and x in changes.there and x not in changes.here:
            why = f"theirs refers to entity {y}, which ours retracted"
            yield Conflict("reference", e, ident, theirs=y, why=why)

    def _still_referred(self) -> list[Conflict]:
        """Return what ours refers to, theirs has retracted, and did not refer to any more."""
        if not self._removed:
            return []
        changes = self.changes
        targets = Column(INT, array(self._removed))
        left: list[tuple[int, Keyword, int]] = []
        for attr in self.ours.schema.attrs:
            if not attr.is_ref:
                continue
            rows = self.ours.snapshot.of_values(attr.id, targets)
            keys = changes.keys.get(attr.ident, {})
            for p, y in walked(zip(rows.e.tolist(), rows.v.tolist(), strict=True)):
                key = keys.get(p)
                known = p in self._removed or p in self._skipped
                if not known and (key is None or typed_key(y) not in key.gone):
                    left.append((p, attr.ident, y))
        if not left:
            return []
        holders = {p for p, _, _ in left}
        names = aliases(self.ours, array(holders))
        called = names_in(self.theirs, {p: {p, *names.get(p, ())} for p in holders}).called
        found = []
        for p, ident, y in left:
            attr_there = self.theirs.schema.by_key.get(ident)
            x = changes.theirs_of.get(y, y)
            dangles = attr_there is not None and any(
                self.theirs.snapshot.fact(e, attr_there.id, x, typed_key(x)) for e in called[p]
            )
            if not dangles:
                why = f"ours refers to entity {y}, which theirs retracted"
                found.append(Conflict("reference", p, ident, ours=y, why=why))
        return found

    def _read_instants(self) -> None:
        here: set[int] = set()
        there: set[int] = set()
        for ident, strategy in self._strategies.items():
            if strategy is LATEST:
                for e, key in self.changes.keys[ident].items():
                    here.update(value.t for value in self._here[ident].get(e, {}).values())
                    there.update(value.t for value in key.new.values())
        self._when = instants(self.ours, here), instants(self.theirs, there)

    # -- deciding ------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Say what becomes of each key."""
        changes = self.changes
        for ident in sorted(changes.keys, key=lambda ident: ident.text):
            for e, key in walked(sorted(changes.keys[ident].items())):
                if e in self._removed or e in self._skipped or e in self._dead:
                    continue
                here = self._here[ident].get(e, {})
                if self._many[ident]:
                    self._several(e, ident, key, here)
                else:
                    self._one(e, ident, key, here)
        for e, facts in sorted(self._removed.items()):
            self._retracted += [Fact(e, ident, v) for ident, v in facts]

    def _several(self, e: int, ident: Keyword, key: Key, here: dict[Any, Value]) -> None:
        """Decide what an attribute with many values is to hold."""
        strategy = self._strategies.get(ident)
        added = {typed: x.v for typed, x in key.new.items() if typed not in here}
        removed = {typed: here[typed].v for typed in key.gone if typed in here}
        if strategy is BOTH or (strategy is not None and strategy not in STRATEGIES):
            there = self._there[ident].get(e, {})
            base = {k: v for k, v in there.items() if k not in key.new} | key.gone
            if here.keys() != base.keys() and here.keys() != there.keys():
                if strategy is BOTH:
                    wanted = {typed: x.v for typed, x in there.items()}
                    removed = {}
                else:
                    sides = ([x.v for x in side.values()] for side in (base, here, there))
                    wanted = as_set(called(strategy, *sides), strategy)
                    removed = {k: x.v for k, x in here.items() if k not in wanted}
                    self._note(Conflict("value", e, ident), str(strategy))
                added = {k: v for k, v in wanted.items() if k not in here}
        self._added += [Fact(e, ident, v) for v in added.values()]
        self._retracted += [Fact(e, ident, v) for v in removed.values()]

    def _one(self, e: int, ident: Keyword, key: Key, here: dict[Any, Value]) -> None:
        """Decide what an attribute with one value is to hold."""
        new = key.new
        if ident in self._there:
            new = self._there[ident].get(e, {})
        if len(new) > 1 or len(here) > 1:
            mine, other = ([x.v for x in side.values()] for side in (here, new))
            self._found.append(Conflict("cardinality", e, ident, ours=mine, theirs=other))
            return
        if here.keys() == new.keys():
            return
        before = {k: v for k, v in new.items() if k not in key.new} | key.gone
        if here.keys() == before.keys():
            self._put(e, ident, here, [x.v for x in new.values()])
            return
        base, ours, theirs = _only(key.gone), _only(here), _only(new)
        kind = "value" if ours is not None and theirs is not None else "deleted"
        if ident in SCHEMA_PROPERTIES and ident is not _DOC:
            kind = "schema"
        values = [None if x is None else x.v for x in (base, ours, theirs)]
        conflict = Conflict(kind, e, ident, values[0], values[1], values[2])
        settled = self._settle(conflict, base, ours, theirs) if kind in SETTLED else None
        if settled is None:
            self._found.append(conflict)
        else:
            self._note(conflict, settled.by)
            self._put(e, ident, here, settled.values)

    def _settle(
        self, conflict: Conflict, base: Value | None, ours: Value | None, theirs: Value | None
    ) -> _Settled | None:
        assert conflict.attribute is not None
        strategy = self._strategies.get(conflict.attribute)
        if strategy is not None:
            found = winner(strategy, base, ours, theirs, self._when)
            if found is not UNDECIDED:
                return _Settled([] if found is None else [found], str(strategy))
        choice: Any = None if self._resolve is None else self._resolve(conflict)
        if choice is None:
            choice = self._on_conflict
        if isinstance(choice, list) and len(choice) < 2:
            return _Settled(choice, "resolve")
        if choice not in CHOICES:
            raise ArgumentError(
                f"resolve returned {shown(choice)}; expected 'ours', 'theirs', 'abort', a list "
                "with the value that it is to be, an empty list for none, or None to leave it to "
                "on_conflict."
            )
        if choice == "abort":
            return None
        side = ours if choice == "ours" else theirs
        return _Settled([] if side is None else [side.v], choice)

    def _note(self, conflict: Conflict, by: str) -> None:
        self._settled.append(replace(conflict, settled=by))

    def _put(self, e: int, ident: Keyword, here: dict[Any, Value], values: list[Any]) -> None:
        wanted = {typed_key(v): v for v in values}
        self._retracted += [Fact(e, ident, x.v) for k, x in here.items() if k not in wanted]
        self._added += [Fact(e, ident, v) for k, v in wanted.items() if k not in here]


def _place(conflict: Conflict) -> tuple[str, int, str]:
    return conflict.kind, conflict.entity or 0, str(conflict.attribute)


def _only(side: dict[Any, Value]) -> Value | None:
    for value in side.values():
        return value
    return None
