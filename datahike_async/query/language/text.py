"""Clauses and queries as text again: for plans, statistics and errors that name a clause."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from datahike_async.edn.types import Symbol
from datahike_async.edn.writer import write
from datahike_async.errors import shown
from datahike_async.query.language.ast import (
    BLANK,
    DEFAULT_SOURCE,
    BindCollection,
    BindIgnore,
    Binding,
    BindRelation,
    BindScalar,
    Clause,
    Function,
    Not,
    Or,
    Pattern,
    Predicate,
    RuleCall,
)

__all__ = ["MAX_QUERY", "binding_text", "call_text", "clause_text", "term_text", "variable_text"]

MAX_QUERY: Final = 1_000_000
"""The most characters of a query, of rules, or of a pull pattern."""


def clause_text(clause: Clause) -> str:
    """Return a clause as it would be written in EDN."""
    if isinstance(clause, Pattern):
        terms = list(clause.terms)
        while len(terms) > 1 and terms[-1] is BLANK:
            terms.pop()
        return "[" + " ".join(_with_source(clause.source, terms)) + "]"
    if isinstance(clause, Predicate):
        return f"[{_call(clause)}]"
    if isinstance(clause, Function):
        return f"[{_call(clause)} {binding_text(clause.binding)}]"
    if isinstance(clause, RuleCall):
        return "(" + " ".join(_with_source(clause.source, [clause.name, *clause.args])) + ")"
    if isinstance(clause, Not):
        if clause.variables is None:
            return f"(not {_all(clause.clauses)})"
        return f"(not-join [{_terms(clause.variables)}] {_all(clause.clauses)})"
    return _or(clause)


def _or(clause: Or) -> str:
    branches = [clause_text(b[0]) if len(b) == 1 else f"(and {_all(b)})" for b in clause.branches]
    if clause.variables is None:
        if len(branches) == 1:
            return branches[0]
        return f"(or {' '.join(branches)})"
    required = f"[{_terms(clause.required)}] " if clause.required else ""
    return f"(or-join [{required}{_terms(clause.variables)}] {' '.join(branches)})"


def _with_source(source: Any, terms: Sequence[Any]) -> list[str]:
    texts = [term_text(term) for term in terms]
    return texts if source is DEFAULT_SOURCE else [str(source.text), *texts]


def _call(clause: Predicate | Function) -> str:
    return call_text(clause.function, clause.args)


def call_text(name: Any, args: Sequence[Any]) -> str:
    """Return the call of a function or a rule as EDN."""
    return "(" + _terms([name, *args]) + ")"


def _terms(terms: Sequence[Any]) -> str:
    return " ".join(map(term_text, terms))


def _all(clauses: Sequence[Clause]) -> str:
    return " ".join(map(clause_text, clauses))


def term_text(term: Any) -> str:
    """Return a variable or a constant as EDN; what EDN cannot say as Python shows it.

    Of a name that was made for another one, after an @, only the other.
    """
    if type(term) is Symbol:
        term = Symbol(term.text.partition("@")[0] or term.text)
    try:
        text = write(term)
    except Exception:
        text = shown(term)
    return text if len(text) <= 200 else text[:199] + "…"


@lru_cache(1024)
def variable_text(variable: Symbol) -> str:
    """Return a variable as :func:`term_text` does, found out once."""
    return term_text(variable)


def binding_text(binding: Binding) -> str:
    """Return a binding form as EDN."""
    if isinstance(binding, BindScalar):
        return str(binding.name.text)
    if isinstance(binding, BindIgnore):
        return "_"
    if isinstance(binding, BindCollection):
        return f"[{binding_text(binding.item)} ...]"
    inner = "[" + " ".join(map(binding_text, binding.items)) + "]"
    return f"[{inner}]" if isinstance(binding, BindRelation) else inner


def name_of(element: Any) -> str:
    """Return the column name of a find element."""
    if isinstance(element, Symbol):
        return element.text.removeprefix("?")
    return str(getattr(element, "function", "pull"))
