"""What a growing relation has had: telling the new rows of a round from the known ones.

Knows columns and relations; used by recursion alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.index.arrays import firsts, joined, member, numbered, taken, uniques
from datahike_async.index.columns import I64, INT, Column
from datahike_async.looks import walked
from datahike_async.query.relations.relation import Relation, codes
from datahike_async.values.types import typed_key

__all__ = ["Seen"]

# The bits of an integer that is not negative, and the fewest that a column may have of them.
_WHOLE: Final = 63
_LEAST: Final = 8


class Seen:
    """The rows that a growing relation has had, to tell what is new of what comes; a value.

    Rows are kept as integers, sorted in runs of growing size, so that adding a little to a lot
    costs little. Such an integer is made of a number for each column, where these fit into it.
    """

    __slots__ = ("_bits", "_codes", "_ids", "_packed", "_runs", "_variables")

    def __init__(self, variables: Sequence[Symbol]) -> None:
        self._variables = tuple(variables)
        self._codes: list[dict[Any, int]] = [{} for _ in variables]
        self._ids: dict[Any, int] = {}
        self._runs: list[I64] = []
        # How many bits a column has, and whether rows fit; they are numbered as they come else.
        self._bits = _WHOLE // max(len(variables), 1)
        self._packed = self._bits >= _LEAST

    def added(self, relation: Relation) -> tuple[Seen, Relation]:
        """Return what has had the rows of ``relation`` too, and those that are new, each once."""
        if not relation.count:
            return self, relation
        columns = [relation.columns[v] for v in self._variables]
        half = 1 << max(self._bits - 1, 0)
        parts = [_numbers(c, known, half) for c, known in zip(columns, self._codes, strict=True)]
        packed = self._packed and all(len(known) <= half for known in self._codes)
        keys = self._together(parts) if packed else self._counted(parts)
        runs = list(self._runs)
        if self._packed and not packed:
            runs = [uniques(self._counted(self._apart(run))) for run in runs]
        keys, first = firsts(keys)
        new = np.ones(len(keys), np.bool_)
        for run in runs:
            new &= ~member(keys, run)
        keys, first = taken(keys, new), taken(first, new)
        if len(keys):
            runs.append(keys)
            while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
                last = runs.pop()
                runs[-1] = uniques(joined([runs[-1], last]))
        out = Seen(self._variables)
        # A number that was given to a value is no row yet: these are shared.
        out._codes, out._ids, out._runs, out._packed = self._codes, self._ids, runs, packed
        return out, relation if len(keys) == relation.count else relation.take(first)

    def _together(self, parts: Sequence[I64]) -> I64:
        """Return one integer for each row of numbers that fit into it."""
        keys = parts[0]
        for part in parts[1:]:
            keys = keys << self._bits | part
        return keys

    def _apart(self, keys: I64) -> list[I64]:
        """Return the numbers of which keys were made."""
        last, mask = len(self._variables) - 1, (1 << self._bits) - 1
        return [keys >> self._bits * (last - i) & mask for i in range(last + 1)]

    def _counted(self, parts: Sequence[I64]) -> I64:
        """Return one integer for each row of numbers, the same at every call."""
        add, count = self._ids.setdefault, len(parts[0])
        rows = walked(zip(*(p.tolist() for p in parts), strict=True), each=8, count=count)
        return np.fromiter((add(row, len(self._ids)) for row in rows), np.int64, count)


def _numbers(column: Column, known: dict[Any, int], half: int) -> I64:
    """Return a number for each value, the same for the same value at every call.

    Integers from 0 to ``half`` are numbers themselves, and all others have greater ones.
    """
    add = known.setdefault
    if column.kind == INT:
        if int(column.data.min()) >= 0 and int(column.data.max()) < half:
            return column.data.astype(np.int64, copy=False)
        values, inverse = numbered(column.data)
        keys: Iterable[Any] = values.tolist()
    else:
        local, _ = codes(column)
        values, inverse = numbered(local)
        keys = map(typed_key, column.take(firsts(local)[1]).tolist())
    numbers = np.fromiter(
        (
            k if type(k) is int and 0 <= k < half else half + add(k, len(known))
            for k in walked(keys, each=4, count=len(values))
        ),
        np.int64,
        len(values),
    )
    return taken(numbers, inverse)
