"""What a growing relation has had: telling the new rows of a round from the known ones.

Knows columns and relations; used by recursion alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.index.arrays import firsts, numbered
from datahike_async.index.columns import I64, INT, Column
from datahike_async.query.relation import Relation, codes
from datahike_async.values.types import typed_key

__all__ = ["Seen"]


class Seen:
    """The rows that a growing relation has had, to tell what is new of what comes.

    Rows are kept as integers, sorted in runs of growing size, so that adding a little to a lot
    costs little.
    """

    __slots__ = ("_codes", "_ids", "_runs", "_variables")

    def __init__(self, variables: Sequence[Symbol]) -> None:
        self._variables = tuple(variables)
        self._codes: list[dict[Any, int]] = [{} for _ in variables]
        self._ids: dict[Any, int] = {}
        self._runs: list[I64] = []

    def add(self, relation: Relation) -> Relation:
        """Return the rows of ``relation`` that were not there yet, each once, and keep them."""
        if not relation.count:
            return relation
        keys = self._keys(relation)
        keys, first = firsts(keys)
        new = np.ones(len(keys), np.bool_)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            new &= run[at] != keys
        keys, first = keys[new], first[new]
        if len(keys):
            self._runs.append(keys)
            while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
                last = self._runs.pop()
                self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
        return relation if len(keys) == relation.count else relation.take(first)

    def _keys(self, relation: Relation) -> I64:
        columns = [relation.columns[v] for v in self._variables]
        parts = [_numbers(c, known) for c, known in zip(columns, self._codes, strict=True)]
        if len(parts) == 1:
            return parts[0]
        if len(parts) == 2:
            return parts[0] << 32 | parts[1]
        add = self._ids.setdefault
        rows = zip(*(p.tolist() for p in parts), strict=True)
        return np.fromiter((add(row, len(self._ids)) for row in rows), np.int64, relation.count)


def _numbers(column: Column, known: dict[Any, int]) -> I64:
    """Return a number for each value, the same for the same value at every call."""
    add = known.setdefault
    if column.kind == INT:
        values, inverse = numbered(column.data)
        keys: Iterable[Any] = values.tolist()
    else:
        local, _ = codes(column)
        _, first, inverse = np.unique(local, return_index=True, return_inverse=True)
        values = first
        keys = map(typed_key, column.take(first).tolist())
    numbers = np.fromiter((add(k, len(known)) for k in keys), np.int64, len(values))
    return np.asarray(numbers[inverse])
