"""Aggregates: vectorised over groups where the column's kind allows, else value by value."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.errors import QueryError
from datahike_async.functions import lookup_function
from datahike_async.index.columns import CODED, FLOAT, INSTANT, INT, I64, Column
from datahike_async.query.relation import group_codes
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key

__all__ = ["aggregate"]


def _number_check(name: str, values: Sequence[Any]) -> None:
    for v in values:
        if isinstance(v, bool) or not isinstance(v, (int, float, Decimal)):
            raise QueryError(
                f"({name} …) takes numbers; {v!r} is a {type(v).__name__}.", error=":query/where"
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


def aggregate(name: Any, args: Sequence[Any], column: Column, groups: I64, count: int) -> Column:
    """Return one value a group. ``groups`` numbers every row in [0, count), none of them empty.

    ``args`` are the constants before the variable. Raises QueryError for an unknown aggregate.
    """
    text = name.text if isinstance(name, Symbol) else None
    if text is not None and not args:
        fast = _vectorised(text, column, groups, count)
        if fast is not None:
            return fast
    function = _function(name, args)
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    parts = np.split(order, cuts)
    try:
        return Column.of([_stored(function(column.take(part).tolist())) for part in parts])
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
            raise QueryError(f"({text} {n!r} …) takes a number of values.", error=":parser/find")
        return lambda values: _COUNTED[text](n, values)
    found = lookup_function(name)
    if found is None:
        known = ", ".join(sorted((*_SIMPLE, *_COUNTED)))
        raise QueryError(
            f"Unknown aggregate {text!r}; known are {known}, and what register_function names.",
            error=":query/where",
        )
    return lambda values: found(*args, values)


def _vectorised(name: str, column: Column, groups: I64, count: int) -> Column | None:
    if name == "count":
        return Column(INT, np.bincount(groups, minlength=count))
    if name == "count-distinct":
        both, _ = group_codes([Column(INT, groups), column], len(column))
        unique = np.unique(both, return_index=True)[1]
        return Column(INT, np.bincount(groups[unique], minlength=count))
    kind, data = column.kind, column.data
    if kind in (INT, FLOAT) and name in ("sum", "avg"):
        if kind == INT:
            top = int(np.abs(data).max()) if len(data) else 0
            if top * len(data) >= 2**62:
                return None
        order = np.argsort(groups, kind="stable")
        starts = np.searchsorted(groups[order], np.arange(count))
        sums = np.add.reduceat(data[order], starts)
        if name == "sum":
            return Column(kind, sums)
        return Column(FLOAT, sums / np.bincount(groups, minlength=count))
    if name in ("min", "max") and kind in (INT, INSTANT, CODED):
        ranks = column.ranks()
        order = np.argsort(groups, kind="stable")
        starts = np.searchsorted(groups[order], np.arange(count))
        pick = np.minimum if name == "min" else np.maximum
        best = pick.reduceat(ranks[order], starts)
        if kind != CODED:
            return Column(kind, best)
        assert column.dictionary is not None
        codes = np.empty(len(column.dictionary), np.int32)
        codes[column.dictionary.ranks] = np.arange(len(codes), dtype=np.int32)
        return Column(CODED, codes[best], column.dictionary)
    return None
