"""Aggregates part by part: of rows that come in parts, a row a group is kept.

What is kept of a group stands for its rows so far: it comes before those of the next part, and is
summed or compared with them as one more row. So sums of doubles are added in the order of the rows,
as they are where all rows are there at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from datahike_async.edn.types import Symbol
from datahike_async.functions import lookup_function
from datahike_async.index.columns import INT, Column
from datahike_async.query.builtins.aggregates import Groups, aggregate
from datahike_async.query.language.ast import Aggregate, Pull
from datahike_async.query.limits.budget import Meter
from datahike_async.query.relations.relation import Relation, column_of, group_codes

__all__ = ["Folding"]

_KEPT: Final = {"count": (), "sum": ("sum",), "avg": ("sum",), "min": ("min",), "max": ("max",)}
"""What is kept of the values of each aggregate that can be made part by part."""


class Folding:
    """The groups of what the parts so far have given."""

    def __init__(self, elements: Sequence[Any], wanted: Sequence[Symbol], meter: Meter) -> None:
        self._elements = elements
        self._wanted = frozenset(wanted)
        self._meter = meter
        # The values that groups have in common, what is kept of their rows, and how many there are.
        self._by: list[Column] = []
        self._kept: dict[tuple[str, Symbol], Column] = {}
        self._sizes: Column | None = None

    @classmethod
    def of(
        cls,
        elements: Sequence[Any],
        wanted: Sequence[Symbol],
        given: Mapping[Any, Any],
        meter: Meter,
    ) -> Folding | None:
        """Return a folding for elements of a find spec; None where they are not made in parts."""
        aggregates = [e for e in elements if isinstance(e, Aggregate)]
        for element in aggregates:
            name = element.function
            if len(element.args) > 1 or name in given or not isinstance(name, Symbol):
                return None
            if name.text not in _KEPT or lookup_function(name) is not None:
                return None
        return cls(elements, wanted, meter) if aggregates else None

    @property
    def used(self) -> bool:
        """Whether anything was added."""
        return self._sizes is not None

    def takes(self, apart: Sequence[Symbol]) -> bool:
        """Whether rows of parts that differ in these differ in what is wanted."""
        return bool(apart) and self._wanted.issuperset(apart)

    def add(self, relation: Relation) -> None:
        """Take the distinct rows of a part; raise QueryCanceled where there are too many groups."""
        by = [relation.columns[v] for v in self._groups_by()]
        kept = {key: relation.columns[key[1]] for key in self._wants()}
        sizes = Column(INT, np.ones(relation.count, np.int64))
        if self._sizes is not None:
            by = [Column.concat(pair) for pair in zip(self._by, by, strict=True)]
            kept = {key: Column.concat([self._kept[key], column]) for key, column in kept.items()}
            sizes = Column.concat([self._sizes, sizes])
        groups = Groups(*group_codes(by, len(sizes)))
        self._by = [column.take(groups.first).compact() for column in by]
        self._kept = {key: _made(key[0], column, groups).compact() for key, column in kept.items()}
        self._sizes = _made("sum", sizes, groups)
        whole = (*self._by, *self._kept.values(), self._sizes)
        self._meter.rows(groups.count, len(whole))
        self._meter.holds(sum(column.nbytes for column in whole))

    def _groups_by(self) -> list[Symbol]:
        elements = (e.variable if isinstance(e, Pull) else e for e in self._elements)
        return [e for e in elements if not isinstance(e, Aggregate)]

    def _wants(self) -> list[tuple[str, Symbol]]:
        pairs = {
            (what, e.args[0]): None
            for e in self._elements
            if isinstance(e, Aggregate)
            for what in _KEPT[e.function.text]
        }
        return list(pairs)

    def columns(self) -> tuple[list[Column], int]:
        """Return a column an element, and the number of groups."""
        assert self._sizes is not None
        out: list[Column] = []
        by = iter(self._by)
        for element in self._elements:
            if not isinstance(element, Aggregate):
                out.append(next(by))
                continue
            name, variable = element.function.text, element.args[0]
            if name == "count":
                out.append(self._sizes)
            elif name == "avg":
                out.append(_averages(self._kept["sum", variable], self._sizes))
            else:
                out.append(self._kept[name, variable])
        return out, len(self._sizes)


def _made(name: str, column: Column, groups: Groups) -> Column:
    made = aggregate(Symbol(name), (), column, groups)
    assert isinstance(made, Column)
    return made


def _averages(sums: Column, sizes: Column) -> Column:
    return column_of([float(s) / n for s, n in zip(sums.tolist(), sizes.tolist(), strict=True)])
