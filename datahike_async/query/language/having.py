"""``:having``: predicates over what a query found, after its rows were grouped.

``:having [(> (count ?e) 3)] [(!= ?name "x")]`` keeps the rows for which all predicates hold. A term
is a variable of :find, an aggregate over a variable of :find or :with (in :find or not), a scalar
of :in, or a constant. An aggregate here groups the rows as one in :find does. What is no such
predicate belongs into :where, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError
from datahike_async.query.language.ast import (
    Aggregate,
    Binding,
    BindScalar,
    Find,
    Predicate,
    Pull,
    is_var,
)
from datahike_async.query.language.text import term_text

__all__ = ["aggregates_of", "parse_having"]


def _error(message: str, form: Any) -> QueryError:
    return QueryError(message, error=":parser/having", form=form)


def parse_having(
    form: Any,
    find: Find,
    with_: Sequence[Symbol],
    ins: Sequence[Binding],
    element: Callable[[Any], Any],
) -> tuple[Predicate, ...]:
    """Parse the section; ``element`` parses an element of :find, as aggregates here are written.

    Raises QueryError ``:parser/having``.
    """
    if form is None:
        return ()
    if not isinstance(form, (list, tuple)):
        raise _error(f"Cannot parse :having {term_text(form)}; expected predicates.", form)
    given = {binding.name for binding in ins if isinstance(binding, BindScalar)}
    grouped = {e.variable if isinstance(e, Pull) else e for e in find.elements if _plain(e)}
    inside = {e.args[-1] for e in find.elements if isinstance(e, Aggregate)}
    gathered = grouped | inside | set(with_)
    out = []
    for clause in form:
        call = clause[0] if isinstance(clause, list) and len(clause) == 1 else None
        if type(call) is not tuple or not call:
            raise _error(
                f"Cannot parse {term_text(clause)} in :having; expected a predicate such as "
                "[(> (count ?e) 3)].",
                form,
            )
        function, *terms = call
        function = Symbol(function) if type(function) is str and function else function
        if type(function) is not Symbol or (is_var(function) and function not in given):
            raise _error(
                f"{term_text(function)} in :having is no predicate; expected the name of a "
                "function, or a variable of :in.",
                form,
            )
        args = []
        for term in terms:
            if type(term) is tuple:
                try:
                    term = element(term)
                except QueryError as error:
                    raise _error(f"In :having: {error}", form) from None
                if not isinstance(term, Aggregate):
                    raise _error("(pull …) has no place in :having.", form)
                if term.args[-1] not in gathered:
                    raise _error(
                        f"{term_text(term.args[-1])} in :having is in neither :find nor :with; add "
                        "it to :with, so that the rows that are gathered have it.",
                        form,
                    )
            elif is_var(term) and term not in grouped and term not in given:
                raise _error(
                    f"{term_text(term)} in :having is neither a variable of :find by itself nor a "
                    "scalar of :in; say in :where what holds for single rows.",
                    form,
                )
            elif type(term) is Symbol and term.text[0] == "$":
                raise _error(f"The source {term.text} has no place in :having; use :where.", form)
            args.append(term)
        out.append(Predicate(function, tuple(args)))
    return tuple(out)


def _plain(element: Any) -> bool:
    return not isinstance(element, Aggregate)


def aggregates_of(clauses: Sequence[Predicate]) -> list[Aggregate]:
    """Return the aggregates that predicates compare."""
    return [term for clause in clauses for term in clause.args if isinstance(term, Aggregate)]
