"""What the parts of an attribute give, which are carried out one after the other, put together.

A conjunction finds what it finds of each part of the rows of one pattern. So of an attribute for
which memory has no room a part is read at a time, and only what the whole conjunction leaves of it
is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from datahike_async.edn.types import Symbol
from datahike_async.index.columns import Column
from datahike_async.query.limits.budget import Meter
from datahike_async.query.relations.joins import union
from datahike_async.query.relations.relation import Relation
from datahike_async.query.running.trace import Ran

__all__ = ["Fold", "Gathered", "together"]

# Rows that are gathered are made distinct when there are so many more of them.
_GROWN: Final = 2
_FEW: Final = 1 << 12


class Fold(Protocol):
    """Takes the rows of each part, and keeps less of them."""

    def takes(self, apart: Sequence[Symbol]) -> bool:
        """Whether it takes rows of which no two parts have one with equal values of these."""
        ...

    def add(self, relation: Relation) -> None:
        """Take the distinct rows of a part."""
        ...


class Gathered:
    """The distinct rows of all parts so far."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._parts: list[Relation] = []
        self._distinct = 0

    def takes(self, _: Sequence[Symbol]) -> bool:
        """Whether it takes rows: any."""
        return True

    def add(self, relation: Relation) -> None:
        """Take the distinct rows of a part; raise QueryCanceled where they are too many."""
        columns = {v: c.compact() for v, c in relation.columns.items()}
        self._parts.append(Relation(columns, relation.count))
        count = sum(part.count for part in self._parts)
        if count > _GROWN * self._distinct + _FEW:
            self._merge()
        self._meter.rows(sum(part.count for part in self._parts), len(columns))
        self._meter.holds(sum(part.nbytes for part in self._parts))

    def _merge(self) -> None:
        if len(self._parts) > 1:
            self._parts = [union(self._parts, list(self._parts[0].columns))]
        self._distinct = self._parts[0].count

    def relation(self, names: Iterable[Symbol]) -> Relation:
        """Return all rows; ``names`` are the columns where there are none."""
        if not self._parts:
            return Relation({v: Column.of([]) for v in names}, 0)
        self._merge()
        return self._parts[0]


def together(traces: Iterable[Sequence[Ran]]) -> list[Ran]:
    """Return what each clause did in all parts."""
    out: dict[tuple[int, int], Ran] = {}
    for trace in traces:
        for ran in trace:
            whole = out.setdefault((id(ran.clause), ran.depth), ran)
            if whole is not ran:
                whole.add(ran)
    return list(out.values())
