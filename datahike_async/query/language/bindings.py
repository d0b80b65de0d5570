"""Binding forms, and the symbols that strings of a query given as data stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.looks import STEP, tally
from datahike_async.query.language.ast import (
    BLANK,
    BindCollection,
    BindIgnore,
    Binding,
    BindRelation,
    BindScalar,
    BindTuple,
    is_var,
)
from datahike_async.query.language.text import term_text

__all__ = ["DOTS", "forward_of", "parse_binding", "symbols", "unquoted"]

DOTS: Final = Symbol("...")
_MOST_LEVELS: Final = 128
_MARKS: Final = ("_", "...", ".")
_QUOTE: Final = Symbol("quote")


def forward_of(name: Keyword) -> Keyword | None:
    """Return the attribute whose reverse ``:ns/_attr`` is, or None for one that is none."""
    if name.name[0] != "_" or len(name.name) == 1:
        return None
    text = name.name[1:]
    return Keyword(f"{name.namespace}/{text}" if name.namespace else text)


def unquoted(form: Any) -> Any:
    """Return what ``'form`` or ``(quote form)`` quotes: nothing here is evaluated without it."""
    while type(form) is tuple and len(form) == 2:
        head, quoted = form
        # What is neither, an array for instance, may not be comparable.
        if type(head) not in (str, Symbol) or head not in (_QUOTE, "quote"):
            break
        form = quoted
    return form


def symbols(form: Any, levels: int = _MOST_LEVELS) -> Any:
    """Turn the strings of a query given as Python data into the symbols they stand for.

    Raises QueryError for data that is nested too deeply, or contains itself.
    """
    if not levels:
        raise QueryError(
            f"A query or rule is nested deeper than {_MOST_LEVELS} levels.", error=":parser/query"
        )
    if type(form) is str:
        if (form[:1] == "?" and len(form) > 1) or form[:1] in ("$", "%") or form in _MARKS:
            return Symbol(form)
        return form
    if type(form) is list or type(form) is tuple:
        tally(STEP * len(form))
    if type(form) is list:
        return [symbols(x, levels - 1) for x in form]
    if type(form) is tuple:
        head = form[0] if form else None
        rest = tuple(symbols(x, levels - 1) for x in form)
        if type(head) is str and type(rest[0]) is str and rest[0][:1] not in (":", ""):
            rest = (Symbol(rest[0]), *rest[1:])
        return rest
    if isinstance(form, (np.ndarray, np.generic)):
        # Neither compares as a constant does.
        return symbols(form.tolist(), levels)
    if isinstance(form, Mapping):
        return {k: symbols(v, levels - 1) for k, v in form.items()}
    return form


def parse_binding(form: Any, section: str = "binding") -> Binding:
    """Parse ``?x``, ``_``, ``[?a ?b]``, ``[?x ...]`` or ``[[?a ?b]]``."""
    if form is BLANK:
        return BindIgnore()
    if type(form) is Symbol and form.text not in _MARKS:
        if section != "in" and not is_var(form):
            raise QueryError(
                f"Cannot bind to {shown(form)}; expected a variable.",
                error=f":parser/{section}",
                form=form,
            )
        return BindScalar(form)
    if isinstance(form, (list, tuple)) and form:
        if len(form) == 2 and form[1] is DOTS:
            return BindCollection(parse_binding(form[0], section))
        if len(form) == 1 and isinstance(form[0], (list, tuple)) and form[0]:
            return BindRelation(tuple(parse_binding(x, section) for x in form[0]))
        return BindTuple(tuple(parse_binding(x, section) for x in form))
    raise QueryError(
        f"Cannot parse binding {term_text(form)}; expected ?x, _, [?a ?b], [?x ...] or [[?a ?b]].",
        error=f":parser/{section}",
        form=form,
    )
