"""What a merge comes to, on plain sets of datoms: written from the rules, not from the code.

A state is a set of facts under the ids of its branch, and what it calls entities that are one. To
compare states all ids are put into classes of what is one, and each is replaced by the least of its
class; then everything is said on sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Fact = tuple[int, str, Any]
Found = tuple[str, int, str | None]

ONE = {":key", ":code", ":l", ":r", ":n", ":max", ":sum", ":ref", ":own"}
MANY = {":tag", ":all", ":refs"}
REFS = {":ref", ":refs", ":own"}
IDENTITY = {":key", ":own", ":pair"}
UNIQUE = {":code"} | IDENTITY
STRATEGIES = {":max": "max", ":sum": "sum", ":all": "both"}


class Refused(Exception):
    """The transaction is not right."""


@dataclass(frozen=True)
class State:
    """The facts of a state; ``names`` says of ids of entities that are one what it calls them."""

    facts: frozenset[Fact] = frozenset()
    names: Mapping[int, int] = field(default_factory=dict)

    def entities(self) -> set[int]:
        return {e for e, _, _ in self.facts}

    def changed(self, ops: Iterable[tuple[Any, ...]]) -> State:
        """Return the state after operations: add, retract, or retract an entity."""
        facts, names = set(self.facts), self.names
        for op, e, *rest in ops:
            if op == "gone":
                # Nobody is called by the names of what is not there.
                names = {i: name for i, name in names.items() if name != e}
                facts = {(x, a, v) for x, a, v in facts if x != e and not (a in REFS and v == e)}
                continue
            a, v = rest
            if op == "retract":
                facts.discard((e, a, v))
                require_unique(facts)
                continue
            if a in UNIQUE and any((b, w) == (a, v) and x != e for x, b, w in facts):
                raise Refused(a)
            if a in ONE:
                facts = {(x, b, w) for x, b, w in facts if (x, b) != (e, a)}
            facts.add((e, a, v))
            require_unique(facts)
        return State(frozenset(facts), names)


def pairs(facts: Iterable[Fact]) -> set[Fact]:
    """Return the composite tuples that follow."""
    parts: dict[int, dict[str, Any]] = {}
    for e, a, v in facts:
        if a in (":l", ":r"):
            parts.setdefault(e, {})[a] = v
    return {(e, ":pair", (own.get(":l"), own.get(":r"))) for e, own in parts.items()}


def require_unique(facts: Iterable[Fact]) -> None:
    facts = set(facts)
    held = [(a, v) for _, a, v in facts | pairs(facts) if a in UNIQUE]
    if len(held) != len(set(held)):
        raise Refused("unique")


@dataclass
class Outcome:
    """What a merge comes to: conflicts (kind, entity, attribute), or the state and what it did.

    ``refused`` says that the conflicts are those of the result, of which only one is told.
    """

    conflicts: set[Found]
    state: State | None = None
    classes: Mapping[int, int] = field(default_factory=dict)
    same: Mapping[int, int] = field(default_factory=dict)
    refused: bool = False


class Classes:
    """Ids in classes of what is one."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {}

    def __call__(self, i: int) -> int:
        while i in self.of and self.of[i] != i:
            i = self.of[i]
        return i

    def join(self, i: int, j: int) -> None:
        i, j = sorted((self(i), self(j)))
        self.of[j] = i

    def take(self, state: State) -> None:
        for other, name in state.names.items():
            self.join(other, name)

    def facts(self, facts: Iterable[Fact]) -> set[Fact]:
        return {(self(e), a, self(v) if a in REFS else v) for e, a, v in facts}


def merged(
    base: State,
    ours: State,
    theirs: State,
    *,
    on_conflict: str = "abort",
    unify: bool = True,
) -> Outcome:
    """Return what merging theirs into ours comes to."""
    classes = Classes()
    for state in (base, ours, theirs):
        classes.take(state)
    conflicts: set[Found] = set()
    called: dict[int, set[int]] = {}
    for e in ours.entities():
        called.setdefault(classes(e), set()).add(e)
    conflicts |= {("identity", min(ids), None) for ids in called.values() if len(ids) > 1}
    same: dict[int, int] = {}
    if unify:
        conflicts |= _unified(classes, base, ours, theirs, same)
    old, here, there = (classes.facts(state.facts) for state in (base, ours, theirs))
    conflicts |= _claims(old, here, there, unify)
    return _result(classes, conflicts, same, (base, ours, theirs), (old, here, there), on_conflict)


def _entities(facts: Iterable[Fact]) -> set[int]:
    return {e for e, _, _ in facts}


def _unified(
    classes: Classes, base: State, ours: State, theirs: State, same: dict[int, int]
) -> set[Found]:
    """Join new entities that have one identity, until there are no more or it is in doubt."""
    while True:
        old, here, there = (classes.facts(state.facts) for state in (base, ours, theirs))
        mine, other = (_entities(side) - _entities(old) for side in (here, there))
        held = {(a, v): e for e, a, v in here | pairs(here) if a in IDENTITY and e in mine}
        twins = {
            (x, held[a, v])
            for x, a, v in there | pairs(there)
            if x in other and held.get((a, v), x) != x
        }
        wrong = {
            ("identity", h, None)
            for x, h in twins
            if len([pair for pair in twins if x in pair or h in pair]) > 1
            or x in same.values()
            or h in same.values()
        }
        if wrong or not twins:
            return wrong
        for x, h in twins:
            classes.join(x, h)
        same |= dict(twins)
        for x in same:
            same[x] = classes(x)


def _claims(old: set[Fact], here: set[Fact], there: set[Fact], unify: bool) -> set[Found]:
    """Return the unique values that both claim, of which no identity makes one."""
    mine, other = (_entities(side) - _entities(old) for side in (here, there))
    holders = {(a, v): h for h, a, v in here if a in UNIQUE}
    out: set[Found] = set()
    for x, a, v in there - old:
        h = holders.get((a, v), x)
        twins = unify and a in IDENTITY and h in mine and x in other
        if x != h and not twins and (h, a, v) not in old - there:
            out.add(("unique", h, a))
    return out


def _result(
    classes: Classes,
    conflicts: set[Found],
    same: Mapping[int, int],
    states: tuple[State, State, State],
    facts: tuple[set[Fact], set[Fact], set[Fact]],
    on_conflict: str,
) -> Outcome:
    old, here, there = facts
    was, mine, other = map(_entities, facts)
    lost = was - mine - other  # gone on both sides: nothing to say
    skipped: set[int] = set()
    for e in was - lost:
        if e not in mine and {f for f in there - old if f[0] == e}:
            skipped.add(e)
        if e not in other and {f for f in here - old if f[0] == e}:
            skipped.add(e)
    conflicts |= {("entity", e, None) for e in skipped}
    removed = (was & mine) - other - skipped
    for p, a, y in there - old:
        if a in REFS and y in (was & other) - mine - skipped and p not in skipped:
            conflicts.add(("reference", p, a))
    for p, a, y in here:
        kept = p not in removed | skipped and (p, a, y) not in there | old
        if a in REFS and y in removed and kept:
            conflicts.add(("reference", p, a))
    result = {f for f in here if f[0] not in removed}
    keys = {(e, a) for e, a, _ in old ^ there} - {
        (e, a) for e, a, _ in old ^ there if e in removed | skipped | (was - mine)
    }
    for e, a in keys:
        b, o, t = ({v for x, c, v in side if (x, c) == (e, a)} for side in facts)
        found = _key(a, b, o, t, on_conflict)
        if isinstance(found, str):
            conflicts.add((found, e, a))
        else:
            result = {f for f in result if f[:2] != (e, a)} | {(e, a, v) for v in found}
    names = _names(classes, states)
    if conflicts:
        return Outcome(conflicts, classes=_flat(classes))
    local = {classes(i): name for i, name in names.items()}
    final = frozenset(
        (local.get(e, e), a, local.get(v, v) if a in REFS else v) for e, a, v in result
    )
    try:
        require_unique(final)
    except Refused:
        return Outcome({("unique", 0, None)}, classes=_flat(classes), refused=True)
    ours = states[1]
    kept = {e for e, _, _ in final} | set(ours.names.values())
    kept -= {local.get(e, e) for e in removed}
    names = {i: name for i, name in names.items() if name in kept}
    return Outcome(set(), State(final, names), _flat(classes), same)


def _key(a: str, b: set[Any], o: set[Any], t: set[Any], on_conflict: str) -> set[Any] | str:
    """Return the values that a key comes to, or the kind of the conflict."""
    if a in MANY:
        if a in STRATEGIES and b not in (o, t) and o != t:
            return o | t
        return (o | (t - b)) - (b - t)
    if o == t or b == t:
        return o
    if o == b:
        return t
    strategy = STRATEGIES.get(a)
    if strategy == "max":
        return {max(o | t)}
    if strategy == "sum":
        return {sum(o | set()) + sum(t | set()) - sum(b | set())}
    if on_conflict == "abort":
        return "value" if o and t else "deleted"
    return o if on_conflict == "ours" else t


def _names(classes: Classes, states: tuple[State, State, State]) -> dict[int, int]:
    """Return what ours calls what is one: by its own name, else by theirs."""
    base, ours, theirs = states
    by_class: dict[int, set[int]] = {}
    for i in set(classes.of) | set(classes.of.values()):
        by_class.setdefault(classes(i), set()).add(i)
    out: dict[int, int] = {}
    for ids in by_class.values():
        if len(ids) < 2:
            continue
        for state in (ours, base, theirs):
            known = {state.names[i] for i in ids if i in state.names} or ids & state.entities()
            if known:
                out |= dict.fromkeys(ids, min(known))
                break
    return out


def _flat(classes: Classes) -> dict[int, int]:
    return {i: classes(i) for i in set(classes.of) | set(classes.of.values())}
