"""Calling functions by name, row by row; what works on whole columns is in ``vector``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.functions import lookup_function
from datahike_async.index.arrays import uniques
from datahike_async.index.columns import CODED, Column
from datahike_async.query.builtins import BUILTINS, truthy

__all__ = ["call_rows", "is_async", "named_function"]


def named_function(name: Symbol) -> Callable[..., Any]:
    """Return the function that a symbol names in a query.

    Raises QueryError ``:query/where`` naming the nearest known one.
    """
    text = name.text.removeprefix("clojure.core/")
    found = lookup_function(name) or BUILTINS.get(text)
    if found is not None:
        return found
    near = get_close_matches(text, BUILTINS, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise QueryError(
        f"Unknown predicate/function '{name}'.{hint} Python functions are made known with "
        "register_function.",
        error=":query/where",
        function=name,
    )


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` gives an awaitable."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - looks at the method, does not call it
    )


async def call_rows(
    function: Callable[..., Any],
    name: Any,
    args: Sequence[Any],
    count: int,
    *,
    predicate: bool,
    pause: Callable[[], Awaitable[None]] | None = None,
) -> list[Any]:
    """Return the result of ``function`` for every row.

    ``args`` are Columns or constants. A predicate that gets values of the wrong type says no; a
    function that raises stops the query with an error naming it. ``pause`` is awaited now and then.
    """
    builtin = function in _BUILTIN_FUNCTIONS
    columns = [a for a in args if isinstance(a, Column)]
    if builtin and function not in _IMPURE and len(columns) == 1 and columns[0].kind == CODED:
        codes = columns[0].data
        used = uniques(codes)
        if 2 * len(used) < count:
            # One call for every different value, not for every row.
            at = next(i for i, a in enumerate(args) if isinstance(a, Column))
            each = Column(CODED, used, columns[0].dictionary)
            some = [*args[:at], each, *args[at + 1 :]]
            found = await call_rows(function, name, some, len(used), predicate=predicate)
            return [found[i] for i in np.searchsorted(used, codes).tolist()]
    _check_arity(function, name, len(args))
    out: list[Any] = []
    wait = is_async(function)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        lists = [
            a.slice(start, stop).tolist() if isinstance(a, Column) else [a] * (stop - start)
            for a in args
        ]
        rows: Any = zip(*lists, strict=True) if lists else ((),) * (stop - start)
        for row in rows:
            try:
                result = function(*row)
                if wait:
                    result = await result
            except QueryError:
                raise
            except (TypeError, AttributeError) as error:
                if predicate and builtin:
                    out.append(False)
                    continue
                raise _failed(name, row, error) from error
            except Exception as error:
                raise _failed(name, row, error) from error
            out.append(truthy(result) if predicate else result)
        if pause is not None:
            await pause()
    return out


_BUILTIN_FUNCTIONS: Final = frozenset(BUILTINS.values())
_IMPURE: Final = frozenset(f for name, f in BUILTINS.items() if name.startswith("rand"))
_CHUNK: Final = 1024


@lru_cache(1024)
def _takes(function: Callable[..., Any]) -> tuple[int, float]:
    """Return how many arguments a function needs and takes; what it does not say is no limit."""
    least, most = 0, 0.0
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0, math.inf
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            most = math.inf
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            most += 1
            least += p.default is p.empty
    return least, most


def _check_arity(function: Callable[..., Any], name: Any, count: int) -> None:
    try:
        least, most = _takes(function)
    except TypeError:  # it has no hash
        return
    if least <= count <= most:
        return
    takes = f"{least}" if least == most else f"at least {least}"
    if least < most < math.inf:
        takes = f"{least} to {most:.0f}"
    raise QueryError(
        f"The function {name} takes {takes} {'argument' if takes == '1' else 'arguments'}; it was "
        f"given {count}.",
        error=":query/where",
        function=name,
    )


def _failed(name: Any, row: Any, error: Exception) -> QueryError:
    args = " ".join(map(shown, row))
    return QueryError(
        f"The function {name} failed on ({name} {args}): {type(error).__name__}: {error}",
        error=":query/where",
        function=name,
    )
