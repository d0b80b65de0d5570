"""Aggregates: vectorised over groups where the column's kind allows, else value by value.

Both ways give the same but for the last bits of sums of doubles, which depend on their order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryCanceled, QueryError, shown
from datahike_async.functions import lookup_function
from datahike_async.index.arrays import firsts, numbered, taken
from datahike_async.index.columns import CODED, FLOAT, I64, INSTANT, INT, Column
from datahike_async.query.builtins.calls import is_async
from datahike_async.query.builtins.numbers import is_number
from datahike_async.query.builtins.size import MAX_ITEMS
from datahike_async.query.builtins.supply import CHANCE
from datahike_async.query.builtins.table import BUILTINS
from datahike_async.query.relations.relation import column_of, group_codes
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key
from datahike_async.values.value_set import ValueSet

__all__ = ["AGGREGATES", "Groups", "Pending", "aggregate", "function_of"]

_EXACT: Final = 2**53


class Groups:
    """Which rows belong together: a number in [0, count) for every row, none of them unused."""

    __slots__ = ("_order", "count", "first", "numbers", "sizes")

    def __init__(self, codes: I64, bound: int) -> None:
        """Number the groups of ``codes``, which lie in [0, bound)."""
        if bound == 1 and len(codes):
            self.numbers: I64 = codes
            self.sizes: I64 = np.array([len(codes)])
        elif bound <= 4 * len(codes) + 1024:
            sizes = np.bincount(codes, minlength=bound)
            used = np.flatnonzero(sizes)
            number = np.empty(bound, np.int64)
            number[used] = np.arange(len(used))
            self.numbers = taken(number, codes)
            self.sizes = sizes[used]
        else:
            values, self.numbers = numbered(codes)
            self.sizes = np.bincount(self.numbers, minlength=len(values))
        self.count = len(self.sizes)
        # A row of each group: of the writes to one slot the last one stays.
        self._order: I64 | None = None
        self.first: I64 = np.empty(self.count, np.int64)
        if self.count == 1:
            self.first[0] = 0
            return
        self.first[self.numbers[::-1]] = np.arange(len(codes) - 1, -1, -1)

    @property
    def order(self) -> I64:
        """Positions of the rows, group by group."""
        if self._order is None:
            # Numbers of 16 bits are sorted by radix, several times faster.
            numbers = self.numbers.astype(np.uint16) if self.count < 2**16 else self.numbers
            self._order = np.argsort(numbers, kind="stable")
        return self._order

    @property
    def starts(self) -> I64:
        """Where each group begins in ``order``."""
        return np.cumsum(self.sizes) - self.sizes


# -- value by value --------------------------------------------------------------------------------


def _number_check(name: str, values: Sequence[Any]) -> None:
    for v in values:
        if not is_number(v):
            raise QueryError(
                f"({name} …) takes numbers; {shown(v)} is a {type(v).__name__}.",
                error=":query/where",
            )


def _floats(name: str, values: Sequence[Any]) -> np.ndarray[Any, Any]:
    _number_check(name, values)
    return np.array([float(v) for v in values], np.float64)


def _sum(values: list[Any]) -> Any:
    _number_check("sum", values)
    # Doubles win over decimals and ratios, which Python's sum would refuse to mix.
    return sum(values) if len(set(map(type, values))) == 1 else BUILTINS["+"](*values)


def _avg(values: list[Any]) -> float:
    _number_check("avg", values)
    return float(_sum(values)) / len(values)


def _median(values: list[Any]) -> float:
    with np.errstate(all="ignore"):
        return float(np.median(_floats("median", values)))


def _variance(values: list[Any]) -> float:
    with np.errstate(all="ignore"):
        return float(_floats("variance", values).var())


def _stddev(values: list[Any]) -> float:
    with np.errstate(all="ignore"):
        return float(_floats("stddev", values).std())


def _extreme(n: int | None, values: list[Any], _: Random, *, largest: bool) -> Any:
    ordered = sorted(values, key=sort_key, reverse=largest)
    if n is None:
        return ordered[0]
    return ordered[:n] if not largest else ordered[:n][::-1]


def _rand(n: int | None, values: list[Any], rng: Random) -> Any:
    return rng.choice(values) if n is None else rng.choices(values, k=n)


def _sample(n: int | None, values: list[Any], rng: Random) -> list[Any]:
    return rng.sample(values, min(1 if n is None else n, len(values)))


_SIMPLE: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "sum": _sum,
    "avg": _avg,
    "median": _median,
    "variance": _variance,
    "stddev": _stddev,
    "distinct": ValueSet,
    "count": len,
    "count-distinct": lambda values: len({typed_key(v) for v in values}),
}
_COUNTED: Final[dict[str, Callable[[int | None, list[Any], Random], Any]]] = {
    "min": partial(_extreme, largest=False),
    "max": partial(_extreme, largest=True),
    "rand": _rand,
    "sample": _sample,
}
AGGREGATES: Final = frozenset({*_SIMPLE, *_COUNTED})


@dataclass(frozen=True, slots=True)
class Pending:
    """An aggregate that is a coroutine function, and the values of each group."""

    name: Any
    function: Callable[[list[Any]], Awaitable[Any]]
    parts: Sequence[list[Any]]

    async def made(self, pause: Callable[[], Awaitable[None]]) -> Column:
        """Return one value a group. Raises QueryError where the function raises."""
        out = []
        for part in self.parts:
            try:
                out.append(_stored(await self.function(part)))
            except Exception as error:
                raise _failed(self.name, error) from error
            await pause()
        return column_of(out)


def aggregate(
    name: Any, args: Sequence[Any], column: Column, groups: Groups, rng: Random = CHANCE
) -> Column | Pending:
    """Return one value a group.

    ``name`` is a symbol or a callable, ``args`` are the constants before the variable. Raises
    QueryError for an unknown aggregate.
    """
    text = name.text if isinstance(name, Symbol) else None
    if text is not None and not args and lookup_function(name) is None:
        fast = _vectorised(text, column, groups)
        if fast is not None:
            return fast
    function = function_of(name, args, groups.count, rng)
    values = column.take(groups.order).tolist()
    edges = [*groups.starts.tolist(), len(values)]
    parts = [values[i:j] for i, j in pairwise(edges)]
    if isinstance(function, partial) and is_async(function.func):
        return Pending(name, function, parts)
    try:
        return column_of([_stored(function(part)) for part in parts])
    except Exception as error:
        raise _failed(name, error) from error


def _failed(name: Any, error: Exception) -> Exception:
    if isinstance(error, (QueryError, QueryCanceled)):
        return error
    return QueryError(
        f"The aggregate {shown(name)} failed: {type(error).__name__}: {error}",
        error=":query/where",
    )


def _stored(value: Any) -> Any:
    return tuple(value) if type(value) is list else value


def function_of(
    name: Any, args: Sequence[Any], groups: int = 0, rng: Random = CHANCE
) -> Callable[[list[Any]], Any]:
    """Return what makes one value of a group's; a partial where it is the user's.

    Raises QueryError for an aggregate that is not there, or takes other arguments.
    """
    if not isinstance(name, Symbol):
        if not callable(name):
            raise QueryError(f"{shown(name)} is no aggregate.", error=":query/where")
        return partial(name, *args)
    found = lookup_function(name)
    if found is not None:
        return partial(found, *args)
    text = name.text
    if text in _SIMPLE and not args:
        return _SIMPLE[text]
    if text in _COUNTED and len(args) < 2:
        n = args[0] if args else None
        if n is not None and (type(n) is not int or n < 0):
            raise QueryError(
                f"({text} {shown(n)} …) takes a number of values that is an int, 0 or more.",
                error=":parser/find",
            )
        if text == "rand" and n is not None and n * groups > MAX_ITEMS:
            raise QueryCanceled(
                f"(rand {n} …) in {groups} groups would make more than {MAX_ITEMS} values.",
                budget="results",
                limit=MAX_ITEMS,
            )
        counted = _COUNTED[text]
        return lambda values: counted(n, values, rng)
    if text in AGGREGATES:
        most = "a variable, and a number before it at most" if text in _COUNTED else "one variable"
        raise QueryError(
            f"({text} …) takes {most}; it got {shown(args[0])} too.", error=":parser/find"
        )
    raise QueryError(
        f"Unknown aggregate {shown(text)}; known are {', '.join(sorted(AGGREGATES))}, and what "
        "register_function names.",
        error=":query/where",
    )


# -- on columns --------------------------------------------------------------------------------


def _vectorised(name: str, column: Column, groups: Groups) -> Column | None:
    if name == "count":
        return Column(INT, groups.sizes)
    if name == "count-distinct":
        both, _ = group_codes([Column(INT, groups.numbers), column], len(column))
        unique = firsts(both)[1]
        return Column(INT, np.bincount(groups.numbers[unique], minlength=groups.count))
    kind = column.kind
    if kind in (INT, FLOAT) and name in _OF_NUMBERS:
        with np.errstate(all="ignore"):
            return _OF_NUMBERS[name](column, groups)
    if name in ("min", "max") and kind in (INT, FLOAT, INSTANT, CODED):
        # NaN comes last in the order of values: the largest, and the smallest only if alone.
        pick = np.fmin if name == "min" else np.maximum
        data = column.data if kind == FLOAT else column.ranks()
        best = pick.reduceat(data[groups.order], groups.starts)
        if kind != CODED:
            return Column(kind, best)
        assert column.dictionary is not None
        codes = np.empty(len(column.dictionary), np.int32)
        codes[column.dictionary.ranks] = np.arange(len(codes), dtype=np.int32)
        return Column(CODED, codes[best], column.dictionary)
    return None


def _sums(column: Column, groups: Groups) -> Column:
    data = column.data
    if column.kind == FLOAT:
        return Column(FLOAT, np.bincount(groups.numbers, weights=data, minlength=groups.count))
    top = max(int(data.max()), -int(data.min())) * len(data)
    if top < _EXACT:
        # Exact in doubles, and without grouping the rows first.
        sums = np.bincount(groups.numbers, weights=data, minlength=groups.count)
        return Column(INT, sums.astype(np.int64))
    ordered = data[groups.order]
    if top < 2**63:
        return Column(INT, np.add.reduceat(ordered, groups.starts))
    # The sums of both halves fit into 64 bits.
    high = np.add.reduceat(ordered >> 32, groups.starts).tolist()
    low = np.add.reduceat(ordered & (2**32 - 1), groups.starts).tolist()
    return column_of([(h << 32) + rest for h, rest in zip(high, low, strict=True)])


def _averages(column: Column, groups: Groups) -> Column:
    sums = _sums(column, groups)
    if sums.kind in (INT, FLOAT):
        return Column(FLOAT, sums.data / groups.sizes)
    sizes = groups.sizes.tolist()
    return column_of([float(s) / n for s, n in zip(sums.tolist(), sizes, strict=True)])


def _medians(column: Column, groups: Groups) -> Column:
    data = column.data
    ordered = data[np.lexsort((data, groups.numbers))]
    starts, sizes = groups.starts, groups.sizes
    low = ordered[starts + (sizes - 1) // 2].astype(np.float64)
    high = ordered[starts + sizes // 2].astype(np.float64)
    middle = np.where(sizes % 2 == 1, low, (low + high) / 2)
    last = ordered[starts + sizes - 1].astype(np.float64)
    # NaN is sorted to the end, and whatever it stands beside has no middle.
    return Column(FLOAT, np.where(np.isnan(last), last, middle))


def _variances(column: Column, groups: Groups) -> Column:
    data, numbers = column.data.astype(np.float64), groups.numbers
    means = np.bincount(numbers, weights=data, minlength=groups.count) / groups.sizes
    off = data - means[numbers]
    squares = np.bincount(numbers, weights=off * off, minlength=groups.count)
    return Column(FLOAT, squares / groups.sizes)


def _deviations(column: Column, groups: Groups) -> Column:
    return Column(FLOAT, np.sqrt(_variances(column, groups).data))


_OF_NUMBERS: Final[dict[str, Callable[[Column, Groups], Column]]] = {
    "sum": _sums,
    "avg": _averages,
    "median": _medians,
    "variance": _variances,
    "stddev": _deviations,
}
