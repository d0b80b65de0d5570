"""Columns to Arrow tables, and by them to polars and pandas.

The three libraries are optional and imported when they are first asked for. What type a column
gets is written down where users read it, in ``QueryResult.to_arrow``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datahike_async.edn.writer import write
from datahike_async.errors import MissingLibrary, QueryError, shown
from datahike_async.index.columns import CODED, INSTANT, OBJECT, Column
from datahike_async.query.relations.relation import column_of
from datahike_async.values.order import sort_key
from datahike_async.values.types import DoubleArray, FloatArray
from datahike_async.values.value_set import ValueSet

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = ["arrow_table", "distinct_names", "pandas_frame", "polars_frame"]

_SEQUENCES: Final = frozenset({tuple, list, set, frozenset, FloatArray, DoubleArray})
_MOST_DIGITS: Final = 76


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return ``names`` where what repeats an earlier one is numbered: count, count_2, count_3."""
    out: dict[str, None] = {}
    for name in names:
        one, i = name, 1
        while one in out or (i > 1 and one in names):
            i += 1
            one = f"{name}_{i}"
        out[one] = None
    return list(out)


def arrow_table(names: Sequence[str], columns: Sequence[Column], what: str) -> pa.Table:
    """Return columns as a table; ``what`` was asked for, should pyarrow not be there.

    Raises MissingLibrary, and QueryError for a value that has no Arrow type and no EDN text.
    """
    arrow = _library("pyarrow", what)
    distinct = distinct_names(names)
    arrays = [_array(arrow, c, name) for name, c in zip(distinct, columns, strict=True)]
    return arrow.Table.from_arrays(arrays, names=distinct)


def polars_frame(names: Sequence[str], columns: Sequence[Column]) -> pl.DataFrame:
    """Return columns as a polars data frame. Raises what ``arrow_table`` raises."""
    polars = _library("polars", "to_polars()")
    found: pl.DataFrame = polars.from_arrow(arrow_table(names, columns, "to_polars()"))
    return found


def pandas_frame(names: Sequence[str], columns: Sequence[Column]) -> pd.DataFrame:
    """Return columns as a pandas data frame. Raises what ``arrow_table`` raises."""
    _library("pandas", "to_pandas()")
    return arrow_table(names, columns, "to_pandas()").to_pandas()


def _library(name: str, what: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingLibrary(
            f"{what} needs {name}: pip install {name}, or pip install 'datahike-async[frames]'."
        ) from error


def _array(arrow: Any, column: Column, name: str) -> Any:
    try:
        return _converted(arrow, column)
    except (TypeError, ValueError, NotImplementedError, RecursionError, OverflowError) as error:
        raise QueryError(
            f"The column {shown(name)} holds what neither Arrow nor EDN has a form for ({error}); "
            "leave it out of :find, or read the rows themselves.",
            error=":result/no-arrow-type",
            column=name,
        ) from error


def _converted(arrow: Any, column: Column) -> Any:
    if column.kind == CODED:
        return _coded(arrow, column)
    if column.kind == OBJECT:
        return _objects(arrow, column.data)
    if column.kind == INSTANT:
        return arrow.array(column.data).view(arrow.timestamp("us", tz="UTC"))
    return arrow.array(column.data)


def _coded(arrow: Any, column: Column) -> Any:
    assert column.dictionary is not None
    small = column.compact()
    assert small.dictionary is not None
    codes = arrow.array(small.data, arrow.int32())
    # Of no rows at all the type is that of the values there might have been.
    values = small.dictionary.values
    types = set(map(type, values or column.dictionary.listed[:1]))
    if types == {bytes}:
        binary = arrow.array(values, arrow.binary())
        return arrow.DictionaryArray.from_arrays(codes, binary).dictionary_decode()
    if types == {str}:
        texts = values
    elif types == {UUID}:
        texts = [str(v) for v in values]
    else:
        texts = [write(v) for v in values]
    made = arrow.DictionaryArray.from_arrays(codes, arrow.array(texts, arrow.string()))
    return made.dictionary_decode() if types == {UUID} else made


def _objects(arrow: Any, values: npt.NDArray[Any]) -> Any:
    """Return an array of values of no typed column: of one type, with None, or mixed."""
    there = np.array([v is not None for v in values], np.bool_)
    if not there.all():
        if not there.any():
            return arrow.nulls(len(values))
        found = _converted(arrow, column_of(values[there].tolist()))
        return found.take(arrow.array(np.cumsum(there) - 1, mask=~there))
    types = set(map(type, values))
    if not types:
        return arrow.nulls(0)
    kind = types.pop()
    if not types:
        made = _of_one_type(arrow, kind, values.tolist())
        if made is not None:
            return made
    return arrow.array([write(v) for v in values], arrow.string())


def _of_one_type(arrow: Any, kind: type, values: list[Any]) -> Any:
    """Return an array of values of one type, or None where only text holds them all."""
    if kind is int:
        values, kind = [*map(Decimal, values)], Decimal
    if kind is Decimal:
        return arrow.array(values) if _fits(values) else None
    if kind in (date, time):
        return arrow.array(values)
    if kind is datetime and all(v.tzinfo is None for v in values):
        return arrow.array(values, arrow.timestamp("us"))
    if kind in _SEQUENCES:
        return _lists(arrow, kind, values)
    return None


def _fits(values: list[Decimal]) -> bool:
    """Whether all are numbers, and one decimal type has digits enough for them."""
    before = after = 1
    for value in values:
        if not value.is_finite():
            return False
        _, digits, exponent = value.as_tuple()
        assert isinstance(exponent, int)
        before = max(before, len(digits) + exponent)
        after = max(after, -exponent)
    return before + after <= _MOST_DIGITS


def _lists(arrow: Any, kind: type, values: list[Any]) -> Any:
    if kind in (set, frozenset, ValueSet):
        # A set has no order; the values' own makes the same list of equal sets.
        values = [sorted(v, key=sort_key) for v in values]
    flat = list(chain.from_iterable(values))
    if len(set(map(type, flat))) > 1:
        return None
    sizes = np.fromiter(map(len, values), np.int64, len(values))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    items = _converted(arrow, column_of(flat))
    if arrow.types.is_dictionary(items.type):
        items = items.dictionary_decode()
    if kind is FloatArray:
        items = items.cast(arrow.float32())
    return arrow.ListArray.from_arrays(arrow.array(offsets), items)
