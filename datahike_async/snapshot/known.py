"""Known: what the trees hold of many facts, values and entities, read in one pass over an index.

A large transaction asks for one fact and one unique value after another, and each would be a search
from the root of a tree. What it is going to ask for is read here beforehand, in the order of the
index. It holds of the trees alone: what the memtable says comes on top, as it does anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datahike_async.index.arrays import joined, order_of, uniques
from datahike_async.index.columns import EMPTY_I64, I64, INT, Column, Rows
from datahike_async.index.memtable import SPAN, STOP
from datahike_async.index.protocol import Order
from datahike_async.index.runs import sort_positions
from datahike_async.index.source import Address, NodeMiss, NodeSource
from datahike_async.snapshot.trees import Trees
from datahike_async.values.types import typed_key

__all__ = ["Known"]

_NO_FACTS: Final[Mapping[int, int]] = {}
_LOW: Final = 2**32 - 1


class Known:
    """Rows of ``trees``, and which of them are whose. A key that is not here was not asked for.

    ``facts`` maps an attribute to the rows of each entity; ``v`` and ``t`` are their columns. Rows
    that stand side by side are one integer, ``first << SPAN | stop``, as in the memtable.
    """

    __slots__ = (
        "_a",
        "_datoms",
        "_e",
        "_entities",
        "_values",
        "facts",
        "missing",
        "t",
        "trees",
        "v",
    )

    def __init__(self, trees: Trees) -> None:
        self.trees = trees
        self.facts: dict[int, dict[int, int]] = {}
        self.v: npt.NDArray[np.object_] = np.empty(0, np.object_)
        self.t: I64 = EMPTY_I64
        self._values: dict[int, dict[Any, int]] = {}
        self._e: list[int] = []
        self._datoms: dict[int, dict[tuple[int, Any], int]] = {}
        self._entities: dict[int, int] = {}
        self._a: list[int] = []
        self.missing: dict[Address, NodeSource] = {}

    # -- reading -------------------------------------------------------------------------------

    def read_values(self, a: int, wanted: Mapping[Any, Any]) -> None:
        """Read who has values of an indexed attribute; they are given under their typed keys."""
        keys = list(wanted)
        values = Column.of(list(wanted.values()))
        order = order_of(values.ranks())
        found = self._read(
            Order.AVET, [Column(INT, np.full(len(keys), a, np.int64)), values.take(order)]
        )
        if found is None:
            return
        rows, spans = found
        spans += len(self._e) << SPAN | len(self._e)
        self._e += rows.e.tolist()
        named = (keys[i] for i in order.tolist())
        self._values.setdefault(a, {}).update(zip(named, spans.tolist(), strict=True))

    def read_facts(self, wanted: Mapping[int, Iterable[int]]) -> None:
        """Read the values that entities have of attributes: attribute to entities."""
        parts = []
        for a, entities in wanted.items():
            parts.append(np.fromiter(entities, np.int64) << 32 | a)
        pairs = uniques(np.concatenate(parts)) if parts else EMPTY_I64
        if not len(pairs):
            return
        found = self._read(Order.EAVT, [Column(INT, pairs >> 32), Column(INT, pairs & _LOW)])
        if found is not None:
            self._keep_facts(pairs, *found)

    def _keep_facts(self, pairs: I64, rows: Rows, spans: I64) -> None:
        spans = self._keep(rows, spans)
        entities, attributes = pairs >> 32, pairs & _LOW
        for a in uniques(attributes).tolist():
            own = attributes == a
            self.facts.setdefault(a, {}).update(
                zip(entities[own].tolist(), spans[own].tolist(), strict=True)
            )

    def _keep(self, rows: Rows, spans: I64) -> I64:
        """Keep values and times of rows; return where spans of them lie now."""
        before = len(self.v)
        self.v = joined([self.v, rows.v.objects().data])
        self.t = joined([self.t, rows.t])
        return spans + (before << SPAN | before)

    def read_datoms(self, a: int, wanted: Mapping[tuple[int, Any], Any]) -> None:
        """Read which datoms of an attribute are there: values under entity and typed key."""
        keys = list(wanted)
        entities = np.fromiter((e for e, _ in keys), np.int64, len(keys))
        values = Column.of(list(wanted.values()))
        attributes = np.full(len(keys), a, np.int32)
        order = sort_positions(Rows(entities, attributes, values, entities), Order.EAVT)
        found = self._read(
            Order.EAVT,
            [
                Column(INT, entities[order]),
                Column(INT, attributes.astype(np.int64)),
                values.take(order),
            ],
        )
        if found is None:
            return
        rows, spans = found
        spans = self._keep(rows, spans)
        named = (keys[i] for i in order.tolist())
        self._datoms.setdefault(a, {}).update(zip(named, spans.tolist(), strict=True))

    def read_entities(self, wanted: Iterable[int]) -> Rows | None:
        """Read all that entities have, and return it; None where nodes are missing."""
        entities = uniques(np.fromiter(wanted, np.int64))
        found = self._read(Order.EAVT, [Column(INT, entities)])
        if found is None:
            return None
        rows, spans = found
        pairs = rows.e << 32 | rows.a
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        stops = np.append(starts[1:], len(rows)) if len(rows) else starts
        self._keep_facts(pairs[starts], rows, starts << SPAN | stops)
        first = starts.searchsorted(spans >> SPAN) + len(self._a)
        last = starts.searchsorted(spans & STOP) + len(self._a)
        self._a += rows.a[starts].tolist()
        self._entities.update(zip(entities.tolist(), (first << SPAN | last).tolist(), strict=True))
        return rows

    def _read(self, order: Order, bounds: list[Column]) -> tuple[Rows, I64] | None:
        """Return rows, and those of each bound; None, and note it, where nodes are missing."""
        try:
            rows, stops = self.trees.current[order].lookup_many(bounds)
        except NodeMiss as miss:
            self.missing.update(dict.fromkeys(miss.addresses, miss.source))
            return None
        starts = np.concatenate(([0], stops[:-1]))
        return rows, starts << SPAN | stops

    def check(self) -> None:
        """Raise NodeMiss for what has to be fetched, of one source."""
        # Never from a variable: what is raised holds this frame, which would hold it in turn, and
        # all that is being looked up with it, until the garbage collector came.
        for source in dict.fromkeys(self.missing.values()):
            raise NodeMiss(source, [a for a, s in self.missing.items() if s is source])

    # -- what was read -------------------------------------------------------------------------

    def of_fact(self, e: int, a: int) -> list[tuple[int, Any, int]] | None:
        """Return the (-1, value, t) that the trees hold of (e, a); None where it is unknown."""
        span = self.facts.get(a, _NO_FACTS).get(e)
        if span is None:
            return [] if e in self._entities else None
        return [(-1, self.v[i], int(self.t[i])) for i in range(span >> SPAN, span & STOP)]

    def of_datom(self, e: int, a: int, key: Any) -> list[tuple[int, Any, int]] | None:
        """Return the (-1, value, t) of one datom, if it is there; None where that is unknown."""
        span = self._datoms.get(a, {}).get((e, key))
        if span is not None:
            return [(-1, self.v[i], int(self.t[i])) for i in range(span >> SPAN, span & STOP)]
        found = self.of_fact(e, a)
        return None if found is None else [f for f in found if typed_key(f[1]) == key]

    def holders(self, a: int, keys: Sequence[Any]) -> list[int] | None:
        """Return who has each of unique values, -1 for nobody; None where one is unknown."""
        spans = list(map(self._values.get(a, {}).get, keys))
        if None in spans:
            return None
        e = self._e
        out = []
        for span in spans:
            assert span is not None
            first, stop = span >> SPAN, span & STOP
            if stop > first + 1:
                return None
            out.append(e[first] if first < stop else -1)
        return out

    def of_value(self, a: int, key: Any) -> list[int] | None:
        """Return the entities with a value of an attribute, ascending; None where unknown."""
        span = self._values.get(a, {}).get(key)
        return None if span is None else self._e[span >> SPAN : span & STOP]

    def attributes_of(self, e: int) -> list[int] | None:
        """Return the attributes of which an entity has values; None where that is unknown."""
        span = self._entities.get(e)
        return None if span is None else self._a[span >> SPAN : span & STOP]
