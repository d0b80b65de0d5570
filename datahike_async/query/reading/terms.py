"""What the constants of a data pattern may be, where the source is a database.

A number that no datom has, or a value of another type than the attribute's, finds nothing; what
could be in no datom of any database is an error, for it was meant otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import QueryError, TransactionError
from datahike_async.query.language.ast import BLANK, is_var
from datahike_async.query.language.text import term_text
from datahike_async.values.types import ANY

__all__ = ["check_terms"]


def check_terms(terms: Sequence[Any]) -> None:
    """Raise QueryError ``:search/pattern`` for a constant that its place cannot hold."""
    _, a, v, t, op = terms
    if not _free(a) and not _names_attribute(a):
        raise _bad("attribute", "a keyword such as :person/name", a)
    if not _free(v) and not isinstance(v, list):
        try:
            ANY.coerce(v)
        except TransactionError:
            raise _bad("value", "a value that an attribute can have", v) from None
    if not _free(t) and type(t) is not int:
        raise _bad("transaction ID", "a number", t)
    if not _free(op) and type(op) is not bool:
        raise _bad("added?", "true or false", op)


def _free(term: Any) -> bool:
    return term is BLANK or is_var(term)


def _names_attribute(term: Any) -> bool:
    return isinstance(term, Keyword) or (isinstance(term, str) and term[:1] == ":")


def _bad(what: str, expected: str, term: Any) -> QueryError:
    hint = ""
    if type(term) is Symbol:
        hint = f" Variables begin with a question mark: ?{term.text}."
    elif type(term) is str and what == "attribute" and term:
        hint = f" Did you mean :{term}?"
    return QueryError(
        f"Bad format for {what} in pattern, must be {expected} or a variable, not "
        f"{term_text(term)}.{hint}",
        error=":search/pattern",
    )
