"""Clauses without references: ids in the place of constants, companions in that of variables.

Works on clauses and rules for databases of known schemas; reads no data. What it is told of
constants and inputs ``references`` finds out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.looks import STEP, tally
from datahike_async.query.language.ast import DEFAULT_SOURCE, Clause, RuleBranch, RuleCall, is_var
from datahike_async.query.language.places import Place, Walk, in_caller, is_reference, walked
from datahike_async.query.language.ruleset import RuleSet
from datahike_async.snapshot.views import View
from datahike_async.values.types import typed_key

__all__ = ["AS_ATTRIBUTE", "Constant", "Reading", "Readings", "Use", "companion", "rewritten"]

# As what a place reads its term: an entity of a source, or an attribute.
Reading = Symbol
AS_ATTRIBUTE: Final = Symbol("attribute")
# A constant where it is read.
Constant = tuple[Reading, Any]
# A rule on a source, with the arguments that are known to name attributes of references.
Node = tuple[Symbol, Symbol, tuple[tuple[int, Any], ...]]


class Readings:
    """How the sources of one run read places."""

    def __init__(self, views: Mapping[Symbol, View], consts: Mapping[Symbol, Any]) -> None:
        self.views = views
        self.consts = consts

    def reading(self, place: Place | None, attrs: Mapping[Symbol, Any]) -> Reading | None:
        """Return as what a place reads its term; ``attrs`` are variables that name attributes."""
        if place is None:
            return None
        if place.source is None:
            return AS_ATTRIBUTE
        view = self.views.get(place.source)
        if view is None:
            return None
        key = place.attribute
        if key is None:
            return place.source
        if is_var(key):
            key = attrs.get(key)
        if not isinstance(key, (Keyword, str)):
            return None
        attr = view.schema.by_key.get(key)
        return place.source if attr is not None and attr.is_ref else None

    def key(self, attributes: Sequence[Symbol], carried: Mapping[Symbol, Sequence[Reading]]) -> Any:
        """Return what rewriting depends on beside the ids of constants.

        ``attributes`` are the variables that name attributes, ``carried`` those that hold
        references.
        """
        named = (self.consts.get(v) for v in attributes)
        return (
            tuple((name, id(view.schema)) for name, view in self.views.items()),
            tuple(key if isinstance(key, (Keyword, str)) else None for key in named),
            tuple((v, *readings) for v, readings in carried.items()),
        )


def companion(variable: Symbol, reading: Reading) -> Symbol:
    """Return the variable that holds what another one's references stand for."""
    # Without a slash, before which a name has its namespace.
    return Symbol(f"{variable.text}@{reading.text.replace('/', '|')}")


class Use:
    """The constants of a query that are references in databases of certain schemas."""

    __slots__ = ("constants", "keys", "made", "nodes", "owners")

    def __init__(self, where: Sequence[Clause], rules: RuleSet, readings: Readings) -> None:
        constants: dict[Any, Constant] = {}
        # For each rule that is called the rules it calls; and those that hold constants.
        calls: dict[Node, set[Node]] = {}
        holding: set[Node] = set()

        def look(clauses: Sequence[Clause], node: Node | None, scope: _Scope) -> set[Node]:
            found = _Constants(rules, readings, scope)
            walked(clauses, found)
            constants.update(found.constants)
            if found.constants and node is not None:
                holding.add(node)
            return found.called

        todo = look(where, None, _Scope(DEFAULT_SOURCE, readings.consts))
        while todo:
            node = todo.pop()
            if node in calls:
                continue
            calls[node] = set()
            for branch in rules.branches.get(node[0], ()):
                calls[node] |= look(branch.clauses, node, _Scope.of(node, branch))
            todo |= calls[node]
        # The rules that have to be written anew: they reach a constant.
        callers: dict[Node, list[Node]] = {}
        for node, called in calls.items():
            for other in called:
                callers.setdefault(other, []).append(node)
        self.nodes: set[Node] = set()
        reached = list(holding)
        while reached:
            node = reached.pop()
            if node not in self.nodes:
                self.nodes.add(node)
                reached += callers.get(node, ())
        self.keys = list(constants)
        self.constants = list(constants.values())
        self.made: dict[Any, tuple[Sequence[Clause], RuleSet]] = {}
        # Kept so that the ids of schemas stay their own.
        self.owners = [view.schema for view in readings.views.values()]


class _Scope(NamedTuple):
    """The source that ``$`` is, and which variables name attributes."""

    source: Symbol
    attrs: Mapping[Symbol, Any]

    @classmethod
    def of(cls, node: Node, branch: RuleBranch) -> _Scope:
        """Return the scope of a rule's body."""
        return cls(node[1], {branch.head[i]: key for i, key in node[2]})

    def place(self, place: Place | None) -> Place | None:
        """Return a place with the source that it has outside of rules."""
        if place is not None and place.source is DEFAULT_SOURCE:
            return Place(self.source, place.attribute)
        return place

    def within(self, head: Sequence[Symbol]) -> _Scope:
        """Return the scope of a clause that shares ``head`` alone."""
        return _Scope(self.source, {v: self.attrs[v] for v in head if v in self.attrs})


def _node(clause: RuleCall, rules: RuleSet, scope: _Scope) -> Node:
    """Return which rule, on which source, a call means."""
    known = []
    for i in rules.attribute_arguments(clause.name):
        arg: Any = clause.args[i] if i < len(clause.args) else None
        if is_var(arg):
            arg = scope.attrs.get(arg)
        if isinstance(arg, (Keyword, str)):
            known.append((i, arg))
    source = scope.source if clause.source is DEFAULT_SOURCE else clause.source
    return clause.name, source, tuple(known)


class _Constants(Walk):
    """Finds the constants that are references, and the rules that are called."""

    def __init__(self, rules: RuleSet, readings: Readings, scope: _Scope) -> None:
        self.rules = rules
        self.readings = readings
        self.scope = scope
        self.constants: dict[Any, Constant] = {}
        self.called: set[Node] = set()

    def term(self, term: Any, place: Place | None) -> Any:
        if is_var(term):
            return term
        reading = self.readings.reading(self.scope.place(place), self.scope.attrs)
        if reading is not None and is_reference(term, attribute=reading is AS_ATTRIBUTE):
            self.constants[reading, typed_key(term)] = (reading, term)
        return term

    def call(self, clause: RuleCall) -> RuleCall:
        self.called.add(_node(clause, self.rules, self.scope))
        for arg, places in zip(clause.args, self.rules.places(clause.name), strict=False):
            if not is_var(arg) and is_reference(arg):
                tally(STEP * len(places))
                for place in places:
                    self.term(arg, in_caller(place, clause))
        return clause

    def within(self, head: Sequence[Symbol]) -> Walk:
        inside = _Constants(self.rules, self.readings, self.scope.within(head))
        inside.constants, inside.called = self.constants, self.called
        return inside


def rewritten(
    use: Use,
    rules: RuleSet,
    readings: Readings,
    ids: Mapping[Any, Any],
    where: Sequence[Clause],
    carried: Mapping[Symbol, Sequence[Reading]],
) -> tuple[Sequence[Clause], RuleSet]:
    """Return clauses and rules without references.

    ``ids`` are what the constants of ``use`` stand for, by reading and key; ``carried`` are the
    variables that have companions.
    """
    return _Rewriting(use, rules, readings, ids).run(where, carried)


# A rule that is written anew: which, and which arguments have companions, read as what.
_Variant = tuple[Node, tuple[tuple[int, Reading], ...]]


class _Rewriting:
    """Writes a query's clauses, and the rules that it needs, without references."""

    def __init__(
        self, use: Use, rules: RuleSet, readings: Readings, ids: Mapping[Any, Any]
    ) -> None:
        self.nodes = use.nodes
        self.rules = rules
        self.readings = readings
        self.ids = ids
        self.names: dict[_Variant, Symbol] = {}
        self.todo: list[_Variant] = []

    def run(
        self, where: Sequence[Clause], carried: Mapping[Symbol, Sequence[Reading]]
    ) -> tuple[Sequence[Clause], RuleSet]:
        """Return the clauses and the rules; ``carried`` are the variables with companions."""
        companions = {v: {r: companion(v, r) for r in found} for v, found in carried.items()}
        scope = _Scope(DEFAULT_SOURCE, self.readings.consts)
        clauses = walked(where, _Rewrite(self, scope, companions))
        made: dict[Symbol, tuple[RuleBranch, ...]] = {}
        while self.todo:
            variant = self.todo.pop()
            node, extra = variant
            made[self.names[variant]] = tuple(
                self.branch(self.names[variant], branch, node, extra)
                for branch in self.rules.branches[node[0]]
            )
        if not made:
            return clauses, self.rules
        return clauses, RuleSet({**self.rules.branches, **made})

    def name(self, node: Node, extra: tuple[tuple[int, Reading], ...]) -> Symbol:
        """Return the name of a rule that is written anew."""
        found = self.names.get((node, extra))
        if found is None:
            found = self.names[node, extra] = Symbol(f"{node[0].text}@{len(self.names)}")
            self.todo.append((node, extra))
        return found

    def branch(
        self, name: Symbol, branch: RuleBranch, node: Node, extra: Sequence[tuple[int, Reading]]
    ) -> RuleBranch:
        companions: dict[Symbol, dict[Reading, Symbol]] = {}
        more = []
        for i, reading in extra:
            # By number: a head may have one variable twice.
            more.append(companion(Symbol(f"{branch.head[i].text}@{i}"), reading))
            companions.setdefault(branch.head[i], {})[reading] = more[-1]
        walk = _Rewrite(self, _Scope.of(node, branch), companions)
        clauses = walked(branch.clauses, walk)
        return RuleBranch(name, branch.required, (*branch.variables, *more), clauses)


class _Rewrite(Walk):
    """Puts ids in the place of constants, and companions in the place of variables."""

    def __init__(
        self,
        job: _Rewriting,
        scope: _Scope,
        companions: Mapping[Symbol, Mapping[Reading, Symbol]],
    ) -> None:
        self.job = job
        self.scope = scope
        self.companions = companions

    def term(self, term: Any, place: Place | None) -> Any:
        reading = self.job.readings.reading(self.scope.place(place), self.scope.attrs)
        return term if reading is None else self.read(term, reading)

    def read(self, term: Any, reading: Reading) -> Any:
        """Return what a term is where it is read so; the same term where it is no reference."""
        if is_var(term):
            own = self.companions.get(term)
            return term if own is None else own.get(reading, term)
        if is_reference(term, attribute=reading is AS_ATTRIBUTE):
            return self.job.ids[reading, typed_key(term)]
        return term

    def call(self, clause: RuleCall) -> RuleCall:
        rules = self.job.rules
        places = rules.places(clause.name)
        if len(places) != len(clause.args):
            return clause  # the call itself says what is wrong
        args: list[Any] = []
        extra: list[tuple[int, Reading, Any]] = []
        for i, (arg, own) in enumerate(zip(clause.args, places, strict=True)):
            if not (arg in self.companions if is_var(arg) else is_reference(arg)):
                args.append(arg)
                continue
            tally(STEP * len(own))
            found = {
                self.job.readings.reading(
                    self.scope.place(in_caller(place, clause)), self.scope.attrs
                )
                for place in own
            }
            read = {
                r: made for r in found if r is not None and (made := self.read(arg, r)) is not arg
            }
            if len(found) == 1 and read:
                args.append(*read.values())
                continue
            args.append(arg)
            extra += [(i, r, read[r]) for r in sorted(read, key=repr)]
        node = _node(clause, rules, self.scope)
        if not extra and node not in self.job.nodes:
            return replace(clause, args=tuple(args))
        name = self.job.name(node, tuple((i, r) for i, r, _ in extra))
        return replace(clause, name=name, args=(*args, *(made for _, _, made in extra)))

    def within(self, head: Sequence[Symbol]) -> Walk:
        companions = {v: own for v, own in self.companions.items() if v in head}
        return _Rewrite(self.job, self.scope.within(head), companions)

    def head(self, variables: tuple[Symbol, ...]) -> tuple[Symbol, ...]:
        more = [c for v in variables for c in self.companions.get(v, {}).values()]
        return (*variables, *dict.fromkeys(more))
