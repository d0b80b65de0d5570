"""Places: what a term stands for where it stands, and a walk over clauses that knows it.

An entity stands first in a pattern, as the value of a reference attribute, and in what reads a
database by row; an attribute stands second in a pattern. An argument of a rule stands where its
rule puts it. Whether an attribute is a reference only a database knows: a place names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final, NamedTuple

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.looks import STEP, tally
from datahike_async.query.language.ast import (
    DEFAULT_SOURCE,
    Clause,
    Function,
    Pattern,
    Predicate,
    RuleBranch,
    RuleCall,
    is_var,
)

__all__ = [
    "ATTRIBUTE",
    "BY_ROW",
    "Constants",
    "Noting",
    "Place",
    "Places",
    "Walk",
    "in_caller",
    "is_reference",
    "rule_places",
    "walked",
]

BY_ROW: Final = frozenset({"get-else", "get-some", "missing?"})
"""Functions of a source, an entity and attributes."""


class Place(NamedTuple):
    """The place of an entity in a source, or of a value of ``attribute`` there.

    ``attribute`` is None for an entity; else a keyword or its text, a variable, or, among the
    places of a rule's argument, the number of the argument that names it.
    """

    source: Symbol | None
    attribute: Any = None


ATTRIBUTE: Final = Place(None)
"""The place of an attribute."""

# None stands for any other place, where a value is what it is.
Places = frozenset[Place | None]


def is_reference(value: Any, *, attribute: bool = False) -> bool:
    """Whether a value names an entity otherwise than by id, or an attribute by its text."""
    kind = type(value)
    if kind is str:
        return len(value) > 1 and value[0] == ":"
    return not attribute and kind in (Keyword, list, tuple)


class Walk:
    """A walk over clauses that may put other terms in their place. This one leaves all as it is."""

    def term(self, term: Any, place: Place | None) -> Any:
        """Return what to put in the place of a variable or a constant."""
        return term

    def call(self, clause: RuleCall) -> RuleCall:
        """Return what to put in the place of a rule call."""
        return clause

    def within(self, head: Sequence[Symbol]) -> Walk:
        """Return the walk of a scope that shares the variables ``head`` alone."""
        return self

    def head(self, variables: tuple[Symbol, ...]) -> tuple[Symbol, ...]:
        """Return what to put in the place of the head of a scope."""
        return variables


def walked(clauses: Sequence[Clause], walk: Walk) -> tuple[Clause, ...]:
    """Return clauses as a walk leaves them."""
    tally(STEP * len(clauses))
    return tuple(_walked(clause, walk) for clause in clauses)


def _walked(clause: Clause, walk: Walk) -> Clause:
    if isinstance(clause, Pattern):
        e, a, v, *rest = clause.terms
        named = isinstance(a, (Keyword, str)) or is_var(a)
        terms = (
            walk.term(e, Place(clause.source)),
            walk.term(a, ATTRIBUTE),
            walk.term(v, Place(clause.source, a) if named else None),
            *(walk.term(t, None) for t in rest),
        )
        return replace(clause, terms=terms)
    if isinstance(clause, (Predicate, Function)):
        source = _read_by_row(clause)
        args = tuple(
            walk.term(arg, Place(source) if i == 1 and source is not None else None)
            for i, arg in enumerate(clause.args)
        )
        return replace(clause, args=args)
    if isinstance(clause, RuleCall):
        return walk.call(clause)
    head = clause.head
    if head is None:
        return clause.around([walked(inner, walk) for inner in clause.children])
    inside = walk.within(head)
    return clause.around([walked(inner, inside) for inner in clause.children], walk.head)


def _read_by_row(clause: Predicate | Function) -> Symbol | None:
    function, args = clause.function, clause.args
    if type(function) is not Symbol or function.text not in BY_ROW or not args:
        return None
    source = args[0]
    return source if type(source) is Symbol and source.text[0] == "$" else None


# -- rules -------------------------------------------------------------------------------------


def in_caller(place: Place | None, clause: RuleCall) -> Place | None:
    """Return the place of a rule's argument as its call sees it."""
    if place is None or place.source is None:
        return place
    source = clause.source if place.source is DEFAULT_SOURCE else place.source
    attribute = place.attribute
    if type(attribute) is int:
        attribute = clause.args[attribute]
        if not isinstance(attribute, (Keyword, str)) and not is_var(attribute):
            return None
    return Place(source, attribute)


class Noting(Walk):
    """Notes the places of all variables, and the constants that may be references."""

    def __init__(
        self,
        places_of: Callable[[Symbol], Sequence[Places]],
        names: AbstractSet[Symbol] | None = None,
    ) -> None:
        """With ``names`` other variables are others than those outside, and not noted."""
        self._places_of = places_of
        self._names = names
        self.places: dict[Symbol, set[Place]] = {}
        # Variables that name the attribute of a value.
        self.attributes: dict[Symbol, None] = {}
        self.constants: list[Any] = []
        self.called: set[Symbol] = set()
        self._handed: dict[Any, list[Place]] = {}

    def term(self, term: Any, place: Place | None) -> Any:
        """Note a variable or a constant."""
        if place is not None and is_var(place.attribute):
            if not self._seen(place.attribute):
                return term
            self.attributes[place.attribute] = None
        if place is not None:
            if not is_var(term):
                if is_reference(term, attribute=place == ATTRIBUTE):
                    self.constants.append(term)
            elif self._seen(term):
                self.places.setdefault(term, set()).add(place)
        return term

    def _seen(self, variable: Symbol) -> bool:
        return self._names is None or variable in self._names

    def call(self, clause: RuleCall) -> RuleCall:
        """Note the arguments where the rule puts them."""
        self.called.add(clause.name)
        names = tuple(
            a if isinstance(a, (Keyword, str)) or is_var(a) else None for a in clause.args
        )
        for i, (arg, places) in enumerate(
            zip(clause.args, self._places_of(clause.name), strict=False)
        ):
            if not is_var(arg) and not is_reference(arg):
                continue
            key = clause.name, i, clause.source, names
            found = self._handed.get(key)
            if found is None:
                tally(STEP * len(places))
                moved = (in_caller(place, clause) for place in places)
                found = self._handed[key] = [place for place in moved if place is not None]
            for place in found:
                self.term(arg, place)
        return clause

    def within(self, head: Sequence[Symbol]) -> Walk:
        """Return what notes the variables of ``head`` alone."""
        names = {v for v in head if self._seen(v)}
        inside = Noting(self._places_of, names)
        inside.places, inside.attributes = self.places, self.attributes
        inside.constants, inside.called = self.constants, self.called
        inside._handed = self._handed
        return inside


class Constants(Walk):
    """Whether there are constants that may be references."""

    def __init__(self, places_of: Callable[[Symbol], Sequence[Places]]) -> None:
        self._places_of = places_of
        self.found = False

    def term(self, term: Any, place: Place | None) -> Any:
        """Look at a constant."""
        if place is not None and not is_var(term):
            self.found |= is_reference(term, attribute=place == ATTRIBUTE)
        return term

    def call(self, clause: RuleCall) -> RuleCall:
        """Look at the arguments that the rule takes for more than values."""
        for arg, places in zip(clause.args, self._places_of(clause.name), strict=False):
            self.found |= not is_var(arg) and is_reference(arg) and places != _ELSEWHERE
        return clause


_ELSEWHERE: Final[Places] = frozenset({None})

# An argument of a rule, by number.
_Argument = tuple[Symbol, int]


class _Flows(Walk):
    """Notes where the variables of a rule's head stand, and which calls they are handed to."""

    def __init__(self, names: AbstractSet[Symbol]) -> None:
        self.names = names
        self.found: dict[Symbol, set[Place | None]] = {}
        self.calls: list[tuple[Symbol, int, RuleCall]] = []

    def term(self, term: Any, place: Place | None) -> Any:
        if is_var(term) and term in self.names:
            self.found.setdefault(term, set()).add(place)
        return term

    def call(self, clause: RuleCall) -> RuleCall:
        handed = [(a, i, clause) for i, a in enumerate(clause.args) if is_var(a)]
        self.calls += [flow for flow in handed if flow[0] in self.names]
        return clause

    def within(self, head: Sequence[Symbol]) -> Walk:
        inside = _Flows(self.names & set(head))
        inside.found, inside.calls = self.found, self.calls
        return inside


def rule_places(
    rules: Mapping[Symbol, Sequence[RuleBranch]],
) -> dict[Symbol, tuple[Places, ...]]:
    """Return for each rule where its arguments stand, in it and in all rules that it reaches.

    A place is handed once from an argument to each that flows into it.
    """
    out: dict[_Argument, set[Place | None]] = {}
    todo: list[tuple[_Argument, Place | None]] = []
    # By the argument of a rule: what flows into it, and from which source; and the same with
    # what the calls name attributes by, for places that depend on it.
    plain: dict[_Argument, set[tuple[_Argument, Symbol]]] = {}
    named: dict[_Argument, dict[Any, None]] = {}
    for name, branches in rules.items():
        for i in range(len(branches[0].head)):
            out[name, i] = set()
        for branch in branches:
            head = branch.head
            flows = _Flows(set(head))
            walked(branch.clauses, flows)
            for variable, places in flows.found.items():
                for i in _positions(head, variable):
                    todo += [((name, i), _numbered(place, head)) for place in places]
            for variable, at, clause in flows.calls:
                callee = clause.name, at
                names = tuple(_attribute(arg, head) for arg in clause.args)
                for i in _positions(head, variable):
                    plain.setdefault(callee, set()).add(((name, i), clause.source))
                    named.setdefault(callee, {})[(name, i), clause.source, names] = None
    while todo:
        argument, place = todo.pop()
        if argument not in out or place in out[argument]:
            continue
        out[argument].add(place)
        if place is not None and type(place.attribute) is int:
            for caller, source, names in named.get(argument, ()):
                at = place.attribute
                key = names[at] if at < len(names) else None
                moved = None if key is None else Place(_outside(place.source, source), key)
                todo.append((caller, moved))
            tally(STEP * len(named.get(argument, ())))
            continue
        for caller, source in plain.get(argument, ()):
            moved = place
            if place is not None and place.source is DEFAULT_SOURCE:
                moved = Place(source, place.attribute)
            todo.append((caller, moved))
        tally(STEP * len(plain.get(argument, ())))
    return {
        name: tuple(frozenset(out[name, i]) for i in range(len(branches[0].head)))
        for name, branches in rules.items()
    }


def _positions(head: Sequence[Symbol], variable: Symbol) -> list[int]:
    return [i for i, v in enumerate(head) if v is variable]


def _outside(source: Symbol | None, called_on: Symbol) -> Symbol | None:
    return called_on if source is DEFAULT_SOURCE else source


def _attribute(arg: Any, head: Sequence[Symbol]) -> Any:
    """Return an argument that may name an attribute: a keyword, text, or the number of one."""
    if is_var(arg):
        return head.index(arg) if arg in head else None
    return arg if isinstance(arg, (Keyword, str)) else None


def _numbered(place: Place | None, head: Sequence[Symbol]) -> Place | None:
    if place is None or not is_var(place.attribute):
        return place
    # What a variable of the body names is data, which makes nothing a reference.
    return Place(place.source, head.index(place.attribute)) if place.attribute in head else None
