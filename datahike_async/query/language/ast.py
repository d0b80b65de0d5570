"""The parsed query: plain immutable records, no behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

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


@dataclass(frozen=True, slots=True)
class BindIgnore:
    """``_``."""


@dataclass(frozen=True, slots=True)
class BindTuple:
    """``[?a ?b]``."""

    items: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class BindCollection:
    """``[?x ...]``."""

    item: Binding


@dataclass(frozen=True, slots=True)
class BindRelation:
    """``[[?a ?b]]``."""

    items: tuple[Binding, ...]


Binding = BindScalar | BindIgnore | BindTuple | BindCollection | BindRelation


# -- where -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pattern:
    """``[$src e a v tx added]``; what is left out is BLANK."""

    source: Symbol
    terms: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Predicate:
    """``[(f args…)]``."""

    function: Any
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """``[(f args…) binding]``."""

    function: Any
    args: tuple[Any, ...]
    binding: Binding


@dataclass(frozen=True, slots=True)
class Not:
    """``(not …)`` and ``(not-join [?v] …)``; ``variables`` is None for the former."""

    variables: tuple[Symbol, ...] | None
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """``(or …)``, ``(or-join [[?req] ?v] …)`` and ``(and …)``, which is one branch."""

    required: tuple[Symbol, ...]
    variables: tuple[Symbol, ...] | None
    branches: tuple[tuple[Clause, ...], ...]


@dataclass(frozen=True, slots=True)
class RuleCall:
    """``($src rule args…)``."""

    source: Symbol
    name: Symbol
    args: tuple[Any, ...]
    # Set by the engine in recursion: only the answers that the last round added.
    fresh: bool = False


Clause = Pattern | Predicate | Function | Not | Or | RuleCall


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
