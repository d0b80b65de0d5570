"""The parsed query: plain immutable records.

A clause says what it consists of: which variables it needs and gives, and what is inside. So what
goes through clauses need not know their kinds, and a new kind is told here, where it is parsed and
written (``where``, ``text``), estimated (``planning/plan``) and carried out (``running/engine``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from datahike_async.edn.types import Symbol

__all__ = [
    "BLANK",
    "DEFAULT_SOURCE",
    "Aggregate",
    "BindCollection",
    "BindIgnore",
    "BindRelation",
    "BindScalar",
    "BindTuple",
    "Binding",
    "Clause",
    "Find",
    "Function",
    "Not",
    "Or",
    "Pattern",
    "Predicate",
    "Pull",
    "Query",
    "RuleBranch",
    "RuleCall",
    "is_var",
    "nested",
    "variables_in",
]

BLANK: Final = Symbol("_")
DEFAULT_SOURCE: Final = Symbol("$")


def is_var(term: Any) -> bool:
    """Whether a term is a variable such as ``?e``."""
    return type(term) is Symbol and term.name[0] == "?"


# -- bindings ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BindScalar:
    """``?x``, or in ``:in`` also ``$``, ``%`` and plain symbols."""

    name: Symbol

    @property
    def variables(self) -> tuple[Symbol, ...]:
        """What a binding binds, from left to right."""
        return (self.name,)


@dataclass(frozen=True, slots=True)
class BindIgnore:
    """``_``."""

    @property
    def variables(self) -> tuple[Symbol, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class BindTuple:
    """``[?a ?b]``."""

    items: tuple[Binding, ...]

    @property
    def variables(self) -> tuple[Symbol, ...]:
        """What its items bind."""
        return tuple([v for item in self.items for v in item.variables])


@dataclass(frozen=True, slots=True)
class BindCollection:
    """``[?x ...]``."""

    item: Binding

    @property
    def variables(self) -> tuple[Symbol, ...]:
        """What each element binds."""
        return self.item.variables


@dataclass(frozen=True, slots=True)
class BindRelation:
    """``[[?a ?b]]``."""

    items: tuple[Binding, ...]

    @property
    def variables(self) -> tuple[Symbol, ...]:
        """What each row binds."""
        return tuple([v for item in self.items for v in item.variables])


Binding = BindScalar | BindIgnore | BindTuple | BindCollection | BindRelation


# -- where -------------------------------------------------------------------------------------

Names = Callable[[tuple[Symbol, ...]], tuple[Symbol, ...]]


class _Clause:
    """What a clause says of itself where it is not said otherwise: it needs and holds nothing."""

    __slots__ = ()

    @property
    def inputs(self) -> tuple[Symbol, ...]:
        """The variables that need values before the clause can run, whatever is inside."""
        return ()

    @property
    def gives(self) -> tuple[Symbol, ...]:
        """The variables that the clause gives values to, besides those of what is inside."""
        return ()

    @property
    def filters(self) -> bool:
        """Whether the clause only takes rows away."""
        return False

    @property
    def children(self) -> tuple[tuple[Clause, ...], ...]:
        """The conjunctions inside."""
        return ()

    @property
    def head(self) -> tuple[Symbol, ...] | None:
        """The variables that are the same inside and outside; None where all are."""
        return None

    def around(
        self, children: Sequence[tuple[Clause, ...]], names: Names = lambda names: names
    ) -> Self:
        """Return the clause around other conjunctions, with ``names`` for those in its head."""
        return self

    def reading_from(self, source: Symbol) -> Self:
        """Return the clause reading from ``source`` where it reads from ``$``."""
        return self.around([tuple([c.reading_from(source) for c in x]) for x in self.children])


@dataclass(frozen=True, slots=True)
class Pattern(_Clause):
    """``[$src e a v tx added]``; what is left out is BLANK."""

    source: Symbol
    terms: tuple[Any, ...]

    @property
    def gives(self) -> tuple[Symbol, ...]:
        """The variables among its terms."""
        return variables_in(self.terms)

    def reading_from(self, source: Symbol) -> Self:
        """Return the pattern for the datoms of ``source``."""
        return replace(self, source=source) if self.source is DEFAULT_SOURCE else self


@dataclass(frozen=True, slots=True)
class _Call(_Clause):
    """A call of ``function``."""

    function: Any
    args: tuple[Any, ...]

    @property
    def inputs(self) -> tuple[Symbol, ...]:
        """The variables among its arguments, and the function where it is one."""
        return variables_in((self.function, *self.args))

    def reading_from(self, source: Symbol) -> Self:
        """Return the call with ``source`` for an argument ``$``."""
        return replace(self, args=tuple(source if a is DEFAULT_SOURCE else a for a in self.args))


@dataclass(frozen=True, slots=True)
class Predicate(_Call):
    """``[(f args…)]``."""

    @property
    def filters(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True, slots=True)
class Function(_Call):
    """``[(f args…) binding]``."""

    binding: Binding

    @property
    def gives(self) -> tuple[Symbol, ...]:
        """What its binding binds."""
        return self.binding.variables


@dataclass(frozen=True, slots=True)
class Not(_Clause):
    """``(not …)`` and ``(not-join [?v] …)``; ``variables`` is None for the former."""

    variables: tuple[Symbol, ...] | None
    clauses: tuple[Clause, ...]

    @property
    def filters(self) -> bool:
        """True."""
        return True

    @property
    def children(self) -> tuple[tuple[Clause, ...], ...]:
        """Its clauses."""
        return (self.clauses,)

    @property
    def head(self) -> tuple[Symbol, ...] | None:
        """The variables of a ``not-join``."""
        return self.variables

    def around(
        self, children: Sequence[tuple[Clause, ...]], names: Names = lambda names: names
    ) -> Self:
        """Return the negation of other clauses."""
        variables = None if self.variables is None else names(self.variables)
        return replace(self, variables=variables, clauses=children[0])


@dataclass(frozen=True, slots=True)
class Or(_Clause):
    """``(or …)``, ``(or-join [[?req] ?v] …)`` and ``(and …)``, which is one branch."""

    required: tuple[Symbol, ...]
    variables: tuple[Symbol, ...] | None
    branches: tuple[tuple[Clause, ...], ...]

    @property
    def inputs(self) -> tuple[Symbol, ...]:
        """The variables that an ``or-join`` requires."""
        return self.required

    @property
    def children(self) -> tuple[tuple[Clause, ...], ...]:
        """Its branches."""
        return self.branches

    @property
    def head(self) -> tuple[Symbol, ...] | None:
        """The variables of an ``or-join``."""
        return None if self.variables is None else self.required + self.variables

    def around(
        self, children: Sequence[tuple[Clause, ...]], names: Names = lambda names: names
    ) -> Self:
        """Return the union of other branches."""
        variables = None if self.variables is None else names(self.variables)
        required = names(self.required)
        return replace(self, required=required, variables=variables, branches=tuple(children))


@dataclass(frozen=True, slots=True)
class RuleCall(_Clause):
    """``($src rule args…)``; what it needs follows from the rule."""

    source: Symbol
    name: Symbol
    args: tuple[Any, ...]
    # Set by the engine in recursion: only the answers that the last round added.
    fresh: bool = False

    @property
    def gives(self) -> tuple[Symbol, ...]:
        """The variables among its arguments."""
        return variables_in(self.args)

    def reading_from(self, source: Symbol) -> Self:
        """Return the call of the rule on ``source``."""
        return replace(self, source=source) if self.source is DEFAULT_SOURCE else self


Clause = Pattern | Predicate | Function | Not | Or | RuleCall


def variables_in(terms: Iterable[Any]) -> tuple[Symbol, ...]:
    """Return the variables among terms or arguments."""
    return tuple([t for t in terms if type(t) is Symbol and t.name[0] == "?"])


def nested(clauses: Iterable[Clause]) -> Iterator[Clause]:
    """Go through clauses and all that is inside them, in the order in which they stand."""
    for clause in clauses:
        yield clause
        for inner in clause.children:
            yield from nested(inner)


@dataclass(frozen=True, slots=True)
class RuleBranch:
    """One definition of a rule: ``[(name [?req] ?x) clauses…]``."""

    name: Symbol
    required: tuple[Symbol, ...]
    variables: tuple[Symbol, ...]
    clauses: tuple[Clause, ...]

    @property
    def head(self) -> tuple[Symbol, ...]:
        """All head variables, the required ones first."""
        return self.required + self.variables


# -- find --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Aggregate:
    """``(f arg… ?x)``; the last argument is the variable that is gathered."""

    function: Any
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Pull:
    """``(pull $src ?e pattern)``."""

    source: Symbol
    variable: Symbol
    pattern: Any


@dataclass(frozen=True, slots=True)
class Find:
    """``kind`` is relation, collection, tuple or scalar."""

    kind: str
    elements: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A whole query."""

    find: Find
    with_: tuple[Symbol, ...] = ()
    ins: tuple[Binding, ...] = (BindScalar(DEFAULT_SOURCE),)
    where: tuple[Clause, ...] = ()
    # Predicates whose arguments may be aggregates.
    having: tuple[Predicate, ...] = ()
    keys: tuple[Any, ...] | None = None
    order_by: Sequence[tuple[int, bool]] = field(default=())
    limit: int | None = None
    offset: int = 0
    timeout: float | None = None
