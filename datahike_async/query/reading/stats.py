"""Statistics of attributes, from counts in the index and small samples: what planning goes by.

Nothing here scans: a count is the sum of a few branch nodes, and how often a value occurs is
counted in the index, or in a sample of columns that are at hand. Of a node that is not resident
its parent knows how many rows it has, which leaves an estimate.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from datahike_async.errors import DatahikeError
from datahike_async.index.columns import CODED, OBJECT, Column
from datahike_async.index.protocol import Order
from datahike_async.query.relations.relation import codes, constant_mask
from datahike_async.snapshot.views import View
from datahike_async.values.schema import Attr

__all__ = ["Stats"]

_SAMPLE: Final = 256
# Of a value that could not be looked at: one in so many datoms.
_SHARE: Final = 1 / 20


class Stats:
    """What is known of the attributes of one view. Numbers are estimates of the present state."""

    __slots__ = ("_distinct", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self._distinct: dict[int, float] = {}

    def total(self) -> float:
        """Return the number of datoms."""
        return float(len(self.view.snapshot.trees) + self.view.snapshot.n)

    def count(self, attr: Attr) -> float:
        """Return the datoms of an attribute."""
        return float(self.view.snapshot.rough_count(attr.id))

    def resident(self, attr: Attr) -> bool:
        """Whether the attribute's columns are at hand."""
        if self.view.past:
            return self.view.cached(attr.id) is not None
        return self.view.snapshot.cached(attr.id) is not None

    def values(self, attr: Attr) -> float:
        """Return the number of different values of an attribute."""
        found = self._distinct.get(attr.id)
        if found is None:
            found = self._distinct[attr.id] = max(self._values(attr), 1.0)
        return found

    def _values(self, attr: Attr) -> float:
        count = self.count(attr)
        if attr.unique:
            return count
        rows = self.view.snapshot.cached(attr.id)
        if rows is None or not len(rows):
            return count / 10
        if rows.v.kind == CODED and rows.v.dictionary is not None:
            return float(min(len(rows.v.dictionary), len(rows)))
        return _distinct_of(rows.v)

    def entities(self, attr: Attr) -> float:
        """Return the number of entities that have an attribute."""
        count = self.count(attr)
        if not attr.many:
            return count
        rows = self.view.snapshot.cached(attr.id)
        if rows is None or not len(rows):
            return max(count / 3, 1.0)
        # Rows are ordered by entity: neighbours tell how many each has.
        start = np.linspace(0, len(rows) - 2, min(_SAMPLE, len(rows) - 1)).astype(np.int64)
        if not len(start):
            return 1.0
        changes = float((rows.e[start] != rows.e[start + 1]).mean())
        return max(count * changes, 1.0)

    def matching(self, attr: Attr, value: Any) -> float:
        """Return about how many datoms of an attribute have a value."""
        count = self.count(attr)
        if attr.unique:
            return min(count, 1.0)
        rows = self.view.snapshot.cached(attr.id)
        if rows is not None and len(rows):
            column, scale = _sampled(rows.v)
            try:
                hits = int(constant_mask(column, value).sum())
            except (TypeError, DatahikeError):
                return count * _SHARE
            return max(hits * scale, 0.5 if scale == 1 else scale / 2)
        if attr.indexed:
            try:
                value = attr.coerce(value, attr.ident)
                bound = (attr.id, value)
                index = self.view.snapshot.trees.current[Order.AVET]
                found, sure = index.estimate(bound, bound)
                return float(found if sure else min(found, count * _SHARE))
            except (TypeError, DatahikeError):
                pass
        return count * _SHARE

    def between(self, attr: Attr, lower: Any, upper: Any) -> float:
        """Return about how many datoms of an indexed attribute lie between two of its values.

        None leaves a side open.
        """
        a = attr.id
        found, _ = self.view.snapshot.trees.current[Order.AVET].estimate(
            (a,) if lower is None else (a, lower), (a,) if upper is None else (a, upper)
        )
        return float(found + len(self.view.snapshot.mem.by_a.get(a, ())))


def _sampled(column: Column) -> tuple[Column, float]:
    """Return some values of a column, evenly spaced, and for how many rows each stands."""
    size = len(column)
    if size <= 4 * _SAMPLE or (column.kind not in (OBJECT,) and size <= 16 * _SAMPLE):
        return column, 1.0
    at = np.linspace(0, size - 1, 4 * _SAMPLE).astype(np.int64)
    return column.take(at), size / len(at)


def _distinct_of(column: Column) -> float:
    """Estimate the different values of a column from a sample of it."""
    sample, scale = _sampled(column)
    found, _ = codes(sample)
    _, counts = np.unique(found, return_counts=True)
    if scale == 1.0:
        return float(len(counts))
    # Values that the sample has once stand for more of their kind (Charikar and others, 2000).
    once = int((counts == 1).sum())
    return float(np.sqrt(scale) * once + (len(counts) - once))
