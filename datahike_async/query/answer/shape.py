"""The shape of a query for logs: its text without the constants in it, which are users' data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from datahike_async.edn.reader import read
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.edn.writer import write

__all__ = ["shape"]

_CONSTANT: Final = Symbol("…")
_LONGEST: Final = 10_000
_SHOWN: Final = 500
_NAME: Final = re.compile(r"[:?$%][\w.*+!?<>=/-]*|_|\.|\.\.\.")


def shape(query: Any) -> str:
    """Return a query as EDN text, each constant replaced by an ellipsis, cut to 500 characters.

    Variables, attributes and names of functions stay. Never fails: what is no query is said to be
    none.
    """
    try:
        text = isinstance(query, str)
        if text:
            if len(query) > _LONGEST:
                return f"a query of {len(query)} characters"
            query = read(query)
        made = write(_without_constants(query, text))
    except Exception:
        return "no query"
    return made if len(made) <= _SHOWN else made[: _SHOWN - 1] + "…"


def _without_constants(form: Any, text: bool) -> Any:
    if isinstance(form, (Keyword, Symbol)):
        return form
    if isinstance(form, str):
        if text or not _NAME.fullmatch(form):
            return _CONSTANT
        # In Python data these are the names that they would be in text.
        return Keyword(form) if form[0] == ":" else Symbol(form)
    if isinstance(form, list):
        return [_without_constants(one, text) for one in form]
    if isinstance(form, tuple):
        return tuple(_without_constants(one, text) for one in form)
    if isinstance(form, Mapping):
        pairs = form.items()
        return {_without_constants(k, text): _without_constants(v, text) for k, v in pairs}
    return _CONSTANT
