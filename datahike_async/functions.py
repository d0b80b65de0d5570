"""User functions by name: callable from query text and as transaction functions.

Text reaches only what was registered here or is built in; nothing is imported or evaluated by
name. The registry is process-wide, as Datahike's resolvable symbols are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import ArgumentError, shown

__all__ = ["lookup_function", "register_function", "unregister_function"]

_functions: dict[str, Callable[..., Any]] = {}


def register_function(
    name: str | Symbol | Keyword, function: Callable[..., Any]
) -> Callable[..., Any]:
    """Make ``function`` callable as ``name`` from queries and transactions; return it.

    ``name`` is a symbol such as ``my.app/discount``. In a query the function is called with the
    values of its arguments; as a transaction function (``[:db.fn/call my.app/f …]``) with the
    database value first, and returns transaction data. It may be a coroutine function. Registering
    a name again replaces it. ::

        d.register_function("my.app/initial", lambda name: name[0])
        query = "[:find [?i ...] :where [_ :person/name ?n] [(my.app/initial ?n) ?i]]"
        assert sorted(await d.q(query, db)) == ["A", "B"]
        d.unregister_function("my.app/initial")
    """
    text = _text(name)
    if not callable(function):
        raise ArgumentError(
            f"{shown(function)} is not callable; pass a function to register as {text}."
        )
    _functions[text] = function
    return function


def unregister_function(name: str | Symbol | Keyword) -> None:
    """Forget ``name``; a name that is not registered is ignored."""
    _functions.pop(_text(name), None)


def lookup_function(name: str | Symbol | Keyword) -> Callable[..., Any] | None:
    """Return the function registered under ``name``, or None."""
    return _functions.get(name.text if type(name) is Symbol else _text(name))


def _text(name: str | Symbol | Keyword) -> str:
    if isinstance(name, str):
        return name.removeprefix(":")
    if not isinstance(name, (Symbol, Keyword)):
        raise ArgumentError(f"The name of a function is a symbol or a string, not {shown(name)}.")
    return name.text
