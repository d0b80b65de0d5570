"""The sorted list that an index is held to, and rows and bounds made of plain facts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.index.columns import Column, Rows
from datahike_async.index.protocol import Bound, Index, Order
from datahike_async.index.runs import sorted_rows
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key

__all__ = ["VALUES", "Fact", "Model", "Said", "columns_of", "facts_of", "looked_up", "runs_of"]

VALUES: Final[tuple[Any, ...]] = (
    *(-1, 0, 1, 2**40, 2**70, 1.0, 0.5, -0.0, float("nan"), True, False, Decimal("1.50")),
    *("", "a", "ab", "zz", "grüße", Keyword("k"), Keyword("n/k"), Symbol("s"), Char("c")),
    *(b"", b"x", UUID(int=7), UUID(int=2**127), Fraction(1, 3), (1, "x"), (True,), (1, (2,))),
    *(datetime(2026, 1, 2, tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC)),
)
"""Values of all kinds, some of which Python takes for equal."""

Said = tuple[int, int, Any, int, int | None]
"""A fact as it is compared: 1, 1.0 and True are not the same."""


class Fact(NamedTuple):
    """A datom: entity, attribute id, value, transaction; in temporal indexes when it ended."""

    e: int
    a: int
    v: Any
    t: int
    until: int | None = None

    def parts(self, order: Order) -> tuple[Any, Any, Any]:
        """Return its components as bounds of an order name them."""
        e, a, v = self.e, self.a, self.v
        return {Order.EAVT: (e, a, v), Order.AEVT: (a, e, v), Order.AVET: (a, v, e)}[order]

    def said(self) -> Said:
        """Return it as it is compared."""
        return (self.e, self.a, typed_key(self.v), self.t, self.until)


def _rows(facts: Sequence[Fact], temporal: bool) -> Rows:
    return Rows(
        np.array([f.e for f in facts], np.int64),
        np.array([f.a for f in facts], np.int32),
        Column.of([f.v for f in facts]),
        np.array([f.t for f in facts], np.int64),
        np.array([f.until for f in facts], np.int64) if temporal else None,
    )


def runs_of(facts: Iterable[Fact], order: Order, temporal: bool = False) -> list[Rows]:
    """Return facts as sorted runs, one attribute a run in AEVT and AVET."""
    groups: dict[int, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(0 if order is Order.EAVT else fact.a, []).append(fact)
    return [sorted_rows(_rows(groups[a], temporal), order) for a in sorted(groups)]


def facts_of(runs: Iterable[Rows]) -> list[Said]:
    """Return the facts of runs as they are compared."""
    return [
        (e, a, typed_key(v), t, until)
        for run in runs
        for e, a, v, t, until in zip(
            run.e.tolist(),
            run.a.tolist(),
            run.v.tolist(),
            run.t.tolist(),
            [None] * len(run) if run.until is None else run.until.tolist(),
            strict=True,
        )
    ]


def columns_of(bounds: Sequence[Bound]) -> list[Column]:
    """Return bounds as ``lookup_many`` takes them."""
    return [Column.of(column) for column in zip(*bounds, strict=True)]


def looked_up(index: Index, bounds: Sequence[Bound]) -> list[list[Said]]:
    """Return what ``lookup_many`` finds under each bound."""
    rows, stops = index.lookup_many(columns_of(bounds))
    assert len(stops) == len(bounds), "there is one stop a bound"
    assert len(rows) == (int(stops[-1]) if len(stops) else 0), "the last stop is that of the rows"
    return [facts_of([rows.slice(i, j)]) for i, j in pairwise([0, *stops.tolist()])]


class Model:
    """A sorted list of facts."""

    def __init__(self, order: Order, temporal: bool, facts: dict[Any, Fact] | None = None) -> None:
        self.order = order
        self.temporal = temporal
        self._facts = {} if facts is None else facts
        self._sorted: list[tuple[tuple[Any, ...], Said, Fact]] | None = None

    def key(self, fact: Fact) -> tuple[Any, ...]:
        """Return by what a fact is found, which sorts as the index does."""
        head = self.bound(fact.parts(self.order))
        return (*head, fact.t, fact.until) if self.temporal else head

    def bound(self, bound: Bound) -> tuple[Any, ...]:
        """Return a bound as keys are compared."""
        at = 1 if self.order is Order.AVET else 2
        return tuple(sort_key(x) if i == at else x for i, x in enumerate(bound))

    def _listed(self) -> list[tuple[tuple[Any, ...], Said, Fact]]:
        if self._sorted is None:
            keys = sorted(self._facts)
            self._sorted = [(key, self._facts[key].said(), self._facts[key]) for key in keys]
        return self._sorted

    @property
    def facts(self) -> list[Fact]:
        """The facts, ascending."""
        return [fact for _, _, fact in self._listed()]

    def __len__(self) -> int:
        return len(self._facts)

    def said(self, lower: Bound = (), upper: Bound = ()) -> list[Said]:
        """Return the facts between two bounds, as they are compared."""
        low, high, listed = self.bound(lower), self.bound(upper), self._listed()
        start = bisect_left(listed, low, key=lambda each: each[0][: len(low)])
        stop = bisect_right(listed, high, key=lambda each: each[0][: len(high)])
        return [said for _, said, _ in listed[start:stop]]

    def runs(self, facts: Iterable[Fact]) -> list[Rows]:
        """Return facts as runs for this order."""
        return runs_of(facts, self.order, self.temporal)

    def merge(self, adds: Iterable[Fact], removes: Iterable[Fact]) -> Model:
        """Return the list without ``removes`` and with ``adds``."""
        gone = {self.key(fact) for fact in removes}
        kept = {key: fact for key, fact in self._facts.items() if key not in gone}
        return Model(self.order, self.temporal, kept | {self.key(fact): fact for fact in adds})

    def unique(self, facts: Iterable[Fact]) -> list[Fact]:
        """Return facts of which none is found as another one is: the last of each."""
        return list({self.key(fact): fact for fact in facts}.values())

    def batch(self, random: Random, t: int, size: int, spread: int = 60) -> tuple[list[Fact], ...]:
        """Return facts to add and facts to remove, some of which are not there."""

        def fact() -> Fact:
            until = t + random.randrange(3) if self.temporal else None
            v = random.choice(VALUES) if random.random() < 0.7 else random.randrange(50)
            return Fact(random.randrange(1, spread), random.randrange(4), v, t, until)

        adds = self.unique(fact() for _ in range(size))
        added = set(map(self.key, adds))
        known = self.facts
        gone = random.sample(known, min(len(known), size // 3))
        strangers = [fact() for _ in range(3)]
        keep = random.random() < 0.5
        removes = self.unique(
            f for f in (*strangers, *gone) if self.key(f) not in added or (keep and f in gone)
        )
        return adds, removes

    def surely(self, adds: Iterable[Fact], removes: Iterable[Fact]) -> tuple[list[Fact], ...]:
        """Return what there is to add and to remove of facts, as ``merge`` asks for to be sure."""
        gone = {key: self._facts[key] for f in removes if (key := self.key(f)) in self._facts}
        new = [f for f in adds if (key := self.key(f)) not in self._facts or key in gone]
        return new, list(gone.values())

    def bounds(self, random: Random) -> tuple[Bound, Bound]:
        """Return two bounds of any lengths, of facts that are there and of others."""

        def bound() -> Bound:
            known = self.facts
            fact = random.choice(known) if known and random.random() < 0.7 else None
            if fact is None:
                fact = Fact(random.randrange(70), random.randrange(5), random.choice(VALUES), 0)
            return fact.parts(self.order)[: random.randrange(4)]

        lower = bound()
        return lower, lower if random.random() < 0.4 else bound()

    def check(self, index: Index, call: Callable[[Callable[[], Any]], Any]) -> None:
        """Hold all of an index to this list; ``call`` makes calls that may miss."""
        assert len(index) == len(self)
        runs = call(index.slice)
        assert facts_of(runs) == self.said()
        if self.order is not Order.EAVT:
            assert all(len(set(run.a.tolist())) == 1 for run in runs), "a run has one attribute"
