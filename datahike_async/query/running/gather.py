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
from datahike_async.query.relations.joins import joined_relations, union
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
    """The distinct rows of all parts so far.

    ``apart`` are variables of which no two parts have equal values: rows with all of them differ.
    """

    def __init__(self, meter: Meter, apart: Sequence[Symbol]) -> None:
        self._meter = meter
        self._apart = apart
        self._parts: list[Relation] = []
        self._distinct = 0

    def takes(self, _: Sequence[Symbol]) -> bool:
        """Whether it takes rows: any."""
        return True

    def add(self, relation: Relation) -> None:
        """Take the distinct rows of a part; raise QueryCanceled where they are too many.

        It may be begun anew elsewhere, so nothing is changed before all is done.
        """
        columns = {v: c.compact() for v, c in relation.columns.items()}
        parts = [*self._parts, Relation(columns, relation.count)]
        count, known = sum(part.count for part in parts), self._distinct
        if not self._differ(columns) and count > _GROWN * known + _FEW:
            parts = [self._merged(parts)]
            count = known = parts[0].count
        self._meter.rows(count, len(columns))
        self._meter.holds(sum(part.nbytes for part in parts))
        self._parts, self._distinct = parts, known

    def _differ(self, variables: Iterable[Symbol]) -> bool:
        """Whether rows of two parts are never the same."""
        return bool(self._apart) and set(self._apart) <= set(variables)

    def _merged(self, parts: list[Relation]) -> Relation:
        names = list(parts[0].columns)
        if len(parts) < 2:
            return parts[0]
        return joined_relations(parts, names) if self._differ(names) else union(parts, names)

    def relation(self, names: Iterable[Symbol]) -> Relation:
        """Return all rows; ``names`` are the columns where there are none."""
        if not self._parts:
            return Relation({v: Column.of([]) for v in names}, 0)
        return self._merged(self._parts)


def together(traces: Iterable[Sequence[Ran]]) -> list[Ran]:
    """Return what each clause did in all parts."""
    out: dict[tuple[int, int], Ran] = {}
    for trace in traces:
        for ran in trace:
            whole = out.setdefault((id(ran.clause), ran.depth), ran)
            if whole is not ran:
                whole.add(ran)
    return list(out.values())
