"""Rows to JSON, a chunk of columns at a time: what is alike in a column is converted once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from datahike_async.index.columns import BOOL, CODED, FLOAT, INT, Column
from datahike_async.values.json_form import EXACT, jsonable

__all__ = ["json_chunks", "json_rows"]


def json_rows(columns: Sequence[Column], start: int, stop: int) -> list[list[Any]]:
    """Return the rows from ``start`` to ``stop`` as lists of what JSON has."""
    cut = [_forms(column.slice(start, stop)) for column in columns]
    return list(map(list, zip(*cut, strict=True)))


def _forms(column: Column) -> list[Any]:
    data = column.data
    if not len(data) or column.kind == BOOL:
        return column.tolist()
    if column.kind == INT and int(data.min()) >= -EXACT and int(data.max()) <= EXACT:
        return column.tolist()
    if column.kind == FLOAT and bool(np.isfinite(data).all()):
        return column.tolist()
    if column.kind == CODED:
        assert column.dictionary is not None
        used, places = np.unique(data, return_inverse=True)
        forms = [jsonable(value) for value in column.dictionary.values_of(used)]
        return [forms[place] for place in places.tolist()]
    return [jsonable(value) for value in column.tolist()]


def json_chunks(parts: Iterator[list[Any]]) -> Iterator[str]:
    """Yield the text of one JSON array whose elements come in parts."""
    before = "["
    for part in parts:
        text = json.dumps(part, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if len(text) > 2:
            yield before + text[1:-1]
            before = ","
    yield "]" if before == "," else "[]"
