"""Calling functions by name, row by row; what works on whole columns is in ``vector``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np

from datahike_async.collector import set_aside
from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryCanceled, QueryError, shown
from datahike_async.functions import lookup_function
from datahike_async.index.arrays import uniques
from datahike_async.index.columns import CODED, Column
from datahike_async.planned import FUNCTIONS, planned
from datahike_async.query.builtins.size import GROWING, MAX_MADE, size_of
from datahike_async.query.builtins.supply import Supplied, Supply, TooSlow
from datahike_async.query.builtins.table import BUILTINS, truthy
from datahike_async.query.limits.budget import Meter
from datahike_async.query.limits.host import LARGE
from datahike_async.query.limits.watch import Elsewhere, Watch

__all__ = ["call_rows", "check_arity", "is_async", "named_function"]


def named_function(name: Symbol) -> Callable[..., Any]:
    """Return the function that a symbol names in a query.

    Raises QueryError ``:query/where`` naming the nearest known one.
    """
    text = name.text.removeprefix("clojure.core/")
    found = lookup_function(name) or BUILTINS.get(text)
    if found is not None:
        return found
    if text in FUNCTIONS:
        hint = f"{planned(text)}"
    else:
        near = get_close_matches(text, BUILTINS, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        hint += "Python functions are made known with register_function."
    raise QueryError(
        f"Unknown predicate/function '{name}'. {hint}", error=":query/where", function=name
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
    supply: Supply | None = None,
    watch: Watch | None = None,
    meter: Meter | None = None,
) -> list[Any]:
    """Return the result of ``function`` for every row.

    ``args`` are Columns or constants. A predicate that gets values of the wrong type says no; a
    function that raises stops the query with an error naming it. ``pause`` is awaited now and then.
    ``supply`` is what built-in functions are handed. Where they, or patterns, use up their turn on
    the event loop, the call that was under way begins anew, and others follow, where the ``watch``
    has them made.
    """
    columns = [a for a in args if isinstance(a, Column)]
    builtin = function in _BUILTIN_FUNCTIONS
    if builtin and function not in _IMPURE and len(columns) == 1 and columns[0].kind == CODED:
        codes = columns[0].data
        used = uniques(codes)
        if 2 * len(used) < count:
            # One call for every different value, not for every row.
            at = next(i for i, a in enumerate(args) if isinstance(a, Column))
            each = Column(CODED, used, columns[0].dictionary)
            some = [*args[:at], each, *args[at + 1 :]]
            found = await call_rows(
                function,
                name,
                some,
                len(used),
                predicate=predicate,
                pause=pause,
                supply=supply,
                watch=watch,
                meter=meter,
            )
            return [found[i] for i in np.searchsorted(used, codes).tolist()]
    check_arity(function, name, len(args))
    calls = _Calls(function, name, predicate=predicate, builtin=builtin, supply=supply, meter=meter)
    # Each argument is put down once a row, and long calls are many.
    size = max(_CHUNK // (1 + len(args) // _FEW), 1)
    for start in range(0, count, size):
        stop = min(start + size, count)
        lists = [
            a.slice(start, stop).tolist() if isinstance(a, Column) else [a] * (stop - start)
            for a in args
        ]
        rows = list(zip(*lists, strict=True)) if lists else [()] * (stop - start)
        if not builtin and is_async(function):
            await calls.awaited(rows)
        elif not builtin or watch is None:
            calls.made(rows)
        else:
            if supply is not None:
                supply.here()
            before = watch.begin()
            try:
                calls.made(rows)
            except (TooSlow, Elsewhere):
                if supply is not None:
                    supply.elsewhere()
                others = partial(calls.spared, rows[len(calls.out) - start :])
                await watch.run(LARGE, others)
            finally:
                watch.movable = before
        if pause is not None:
            await pause()
    return calls.out


class _Calls:
    """Calls of one function, row after row; ``out`` are the results so far."""

    __slots__ = ("_builtin", "_function", "_made", "_meter", "_name", "_predicate", "out")

    def __init__(
        self,
        function: Callable[..., Any],
        name: Any,
        *,
        predicate: bool,
        builtin: bool,
        supply: Supply | None,
        meter: Meter | None,
    ) -> None:
        if isinstance(function, Supplied):
            function = function.handed(Supply() if supply is None else supply)
        self._function = function
        self._name = name
        self._predicate = predicate
        self._builtin = builtin
        self._made = 0
        self._meter = meter
        self.out: list[Any] = []

    def made(self, rows: Sequence[tuple[Any, ...]]) -> None:
        function, out = self._function, self.out
        for row in rows:
            try:
                result = function(*row)
            except Exception as error:
                result = self._failed(row, error)
            out.append(self._checked(row, result))

    def spared(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Make calls that may make many containers, of which none is garbage."""
        with set_aside():
            self.made(rows)

    async def awaited(self, rows: Sequence[tuple[Any, ...]]) -> None:
        for row in rows:
            try:
                result = await self._function(*row)
            except Exception as error:
                result = self._failed(row, error)
            self.out.append(truthy(result) if self._predicate else result)

    def _checked(self, row: Any, result: Any) -> Any:
        if self._predicate:
            return truthy(result)
        if self._builtin and type(result) in GROWING:
            try:
                size = size_of(result)
            except ValueError as error:
                self._failed(row, error)
            self._made += size
            if self._meter is not None:
                self._meter.made(size)
            if self._made > MAX_MADE:
                raise QueryCanceled(
                    f"The query was stopped: the results of {self._name} need more than their "
                    f"budget of {MAX_MADE:,} bytes over all rows.",
                    budget="results",
                    limit=MAX_MADE,
                )
        return result

    def _failed(self, row: Any, error: Exception) -> bool:
        """Return the answer of a predicate that cannot say; raise for everything else."""
        if isinstance(error, (QueryError, QueryCanceled, TooSlow)):
            raise error
        if self._predicate and self._builtin and isinstance(error, (TypeError, AttributeError)):
            return False
        args = " ".join(map(shown, row))
        raise QueryError(
            f"The function {self._name} failed on ({self._name} {args}): "
            f"{type(error).__name__}: {error}",
            error=":query/where",
            function=self._name,
        ) from error


_BUILTIN_FUNCTIONS: Final = frozenset(BUILTINS.values())
_IMPURE: Final = frozenset(
    BUILTINS[name] for name in ("rand", "rand-int", "rand-nth", "random-uuid", "shuffle")
)
_CHUNK: Final = 1024
_FEW: Final = 16


@lru_cache(1024)
def _takes(function: Callable[..., Any]) -> tuple[int, float]:
    """Return how many arguments a function needs and takes; what it does not say is no limit."""
    least, most = 0, 0.0
    if isinstance(function, Supplied):
        function = function.handed(Supply())
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


def check_arity(function: Callable[..., Any], name: Any, count: int) -> None:
    """Raise QueryError where a function does not take ``count`` arguments."""
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
