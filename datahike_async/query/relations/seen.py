"""What a growing relation has had: telling the new rows of a round from the known ones.

Knows columns and relations; used by recursion alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.index.arrays import firsts, joined, member, numbered, taken, uniques
from datahike_async.index.columns import I64, INT, Column
from datahike_async.looks import walked
from datahike_async.query.relations.relation import Relation, codes
from datahike_async.values.types import typed_key

__all__ = ["Seen"]


class Seen:
    """The rows that a growing relation has had, to tell what is new of what comes; a value.

    Rows are kept as integers, sorted in runs of growing size, so that adding a little to a lot
    costs little.
    """

    __slots__ = ("_codes", "_ids", "_runs", "_variables")

    def __init__(self, variables: Sequence[Symbol]) -> None:
        self._variables = tuple(variables)
        self._codes: list[dict[Any, int]] = [{} for _ in variables]
        self._ids: dict[Any, int] = {}
        self._runs: list[I64] = []

    def added(self, relation: Relation) -> tuple[Seen, Relation]:
        """Return what has had the rows of ``relation`` too, and those that are new, each once."""
        if not relation.count:
            return self, relation
        keys = self._keys(relation)
        keys, first = firsts(keys)
        new = np.ones(len(keys), np.bool_)
        for run in self._runs:
            new &= ~member(keys, run)
        keys, first = taken(keys, new), taken(first, new)
        runs = list(self._runs)
        if len(keys):
            runs.append(keys)
            while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
                last = runs.pop()
                runs[-1] = uniques(joined([runs[-1], last]))
        out = Seen(self._variables)
        # A number that was given to a value is no row yet: these are shared.
        out._codes, out._ids, out._runs = self._codes, self._ids, runs
        return out, relation if len(keys) == relation.count else relation.take(first)

    def _keys(self, relation: Relation) -> I64:
        columns = [relation.columns[v] for v in self._variables]
        parts = [_numbers(c, known) for c, known in zip(columns, self._codes, strict=True)]
        if len(parts) == 1:
            return parts[0]
        if len(parts) == 2:
            return parts[0] << 32 | parts[1]
        add = self._ids.setdefault
        rows = walked(zip(*(p.tolist() for p in parts), strict=True), each=8, count=relation.count)
        return np.fromiter((add(row, len(self._ids)) for row in rows), np.int64, relation.count)


def _numbers(column: Column, known: dict[Any, int]) -> I64:
    """Return a number for each value, the same for the same value at every call."""
    add = known.setdefault
    if column.kind == INT:
        values, inverse = numbered(column.data)
        keys: Iterable[Any] = values.tolist()
    else:
        local, _ = codes(column)
        values, inverse = numbered(local)
        keys = map(typed_key, column.take(firsts(local)[1]).tolist())
    each = walked(keys, each=4)
    numbers = np.fromiter((add(k, len(known)) for k in each), np.int64, len(values))
    return taken(numbers, inverse)
