"""Aggregates: vectorised over groups where the column's kind allows, else value by value."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError, shown
from datahike_async.functions import lookup_function
from datahike_async.index.arrays import firsts, numbered
from datahike_async.index.columns import CODED, FLOAT, I64, INSTANT, INT, Column
from datahike_async.query.relation import column_of, group_codes
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key

__all__ = ["Groups", "aggregate"]

_EXACT: Final = 2**53


class Groups:
    """Which rows belong together: a number in [0, count) for every row, none of them unused."""

    __slots__ = ("_order", "count", "first", "numbers", "sizes")

    def __init__(self, codes: I64, bound: int) -> None:
        """Number the groups of ``codes``, which lie in [0, bound)."""
        if bound <= 4 * len(codes) + 1024:
            sizes = np.bincount(codes, minlength=bound)
            used = np.flatnonzero(sizes)
            number = np.empty(bound, np.int64)
            number[used] = np.arange(len(used))
            self.numbers: I64 = number[codes]
            self.sizes: I64 = sizes[used]
        else:
            values, self.numbers = numbered(codes)
            self.sizes = np.bincount(self.numbers, minlength=len(values))
        self.count = len(self.sizes)
        # A row of each group: of the writes to one slot the last one stays.
        self.first: I64 = np.empty(self.count, np.int64)
        self.first[self.numbers[::-1]] = np.arange(len(codes) - 1, -1, -1)
        self._order: I64 | None = None

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


def _number_check(name: str, values: Sequence[Any]) -> None:
    for v in values:
        if isinstance(v, bool) or not isinstance(v, (int, float, Decimal)):
            raise QueryError(
                f"({name} …) takes numbers; {shown(v)} is a {type(v).__name__}.",
                error=":query/where",
            )


def _floats(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    return np.array([float(v) for v in values], np.float64)


def _sum(values: list[Any]) -> Any:
    _number_check("sum", values)
    return sum(values)


def _avg(values: list[Any]) -> float:
    _number_check("avg", values)
    return float(sum(values)) / len(values)


def _median(values: list[Any]) -> float:
    _number_check("median", values)
    return float(np.median(_floats(values)))


def _variance(values: list[Any]) -> float:
    _number_check("variance", values)
    return float(_floats(values).var())


def _stddev(values: list[Any]) -> float:
    _number_check("stddev", values)
    return float(_floats(values).std())


def _distinct(values: list[Any]) -> frozenset[Any]:
    return frozenset({typed_key(v): v for v in values}.values())


def _extreme(n: int | None, values: list[Any], *, largest: bool) -> Any:
    ordered = sorted(values, key=sort_key, reverse=largest)
    if n is None:
        return ordered[0]
    return ordered[:n] if not largest else ordered[:n][::-1]


def _rand(n: int | None, values: list[Any]) -> Any:
    return random.choice(values) if n is None else random.choices(values, k=n)


_SIMPLE: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "sum": _sum,
    "avg": _avg,
    "median": _median,
    "variance": _variance,
    "stddev": _stddev,
    "distinct": _distinct,
    "count": len,
    "count-distinct": lambda values: len({typed_key(v) for v in values}),
}
_COUNTED: Final[dict[str, Callable[[int | None, list[Any]], Any]]] = {
    "min": lambda n, values: _extreme(n, values, largest=False),
    "max": lambda n, values: _extreme(n, values, largest=True),
    "rand": _rand,
    "sample": lambda n, values: random.sample(values, min(n or 1, len(values))),
}


def aggregate(name: Any, args: Sequence[Any], column: Column, groups: Groups) -> Column:
    """Return one value a group.

    ``args`` are the constants before the variable. Raises QueryError for an unknown aggregate.
    """
    text = name.text if isinstance(name, Symbol) else None
    if text is not None and not args and lookup_function(name) is None:
        fast = _vectorised(text, column, groups)
        if fast is not None:
            return fast
    function = _function(name, args)
    values = column.take(groups.order).tolist()
    edges = [*groups.starts.tolist(), len(values)]
    parts = [values[i:j] for i, j in pairwise(edges)]
    try:
        return column_of([_stored(function(part)) for part in parts])
    except QueryError:
        raise
    except Exception as error:
        raise QueryError(
            f"The aggregate {name} failed: {type(error).__name__}: {error}", error=":query/where"
        ) from error


def _stored(value: Any) -> Any:
    return tuple(value) if type(value) is list else value


def _function(name: Any, args: Sequence[Any]) -> Callable[[list[Any]], Any]:
    if callable(name) and not isinstance(name, Symbol):
        return lambda values: name(*args, values)
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
        return lambda values: _COUNTED[text](n, values)
    found = lookup_function(name)
    if found is None and (text in _SIMPLE or text in _COUNTED):
        most = "a variable, and a number before it at most" if text in _COUNTED else "one variable"
        raise QueryError(
            f"({text} …) takes {most}; it got {shown(args[0])} too.", error=":parser/find"
        )
    if found is None:
        known = ", ".join(sorted((*_SIMPLE, *_COUNTED)))
        raise QueryError(
            f"Unknown aggregate {shown(text)}; known are {known}, and what register_function "
            "names.",
            error=":query/where",
        )
    return lambda values: found(*args, values)


def _vectorised(name: str, column: Column, groups: Groups) -> Column | None:
    if name == "count":
        return Column(INT, groups.sizes)
    if name == "count-distinct":
        both, _ = group_codes([Column(INT, groups.numbers), column], len(column))
        unique = firsts(both)[1]
        return Column(INT, np.bincount(groups.numbers[unique], minlength=groups.count))
    kind = column.kind
    if kind in (INT, FLOAT) and name in ("sum", "avg"):
        sums = _sums(column, groups)
        if sums is None or name == "sum":
            return None if sums is None else Column(kind, sums)
        if kind == INT and int(np.abs(sums).max()) >= _EXACT:
            return None
        return Column(FLOAT, sums / groups.sizes)
    if name in ("min", "max") and kind in (INT, INSTANT, CODED):
        pick = np.minimum if name == "min" else np.maximum
        best = pick.reduceat(column.ranks()[groups.order], groups.starts)
        if kind != CODED:
            return Column(kind, best)
        assert column.dictionary is not None
        codes = np.empty(len(column.dictionary), np.int32)
        codes[column.dictionary.ranks] = np.arange(len(codes), dtype=np.int32)
        return Column(CODED, codes[best], column.dictionary)
    return None


def _sums(column: Column, groups: Groups) -> npt.NDArray[Any] | None:
    """Return the sum of each group, or None where 64 bits might not hold one."""
    data = column.data
    if column.kind == FLOAT:
        return np.bincount(groups.numbers, weights=data, minlength=groups.count)
    top = max(int(data.max()), -int(data.min())) * len(data)
    if top < _EXACT:
        # Exact in doubles, and without grouping the rows first.
        sums = np.bincount(groups.numbers, weights=data, minlength=groups.count)
        return sums.astype(np.int64)
    if top < 2**63:
        return np.asarray(np.add.reduceat(data[groups.order], groups.starts))
    return None
