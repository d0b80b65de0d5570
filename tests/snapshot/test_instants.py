"""The transaction that an instant stands for, whatever order the instants are in."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import datahike_async as d
from datahike_async.index.memtable import Memtable
from datahike_async.index.persistent_set.tree import PersistentSet
from datahike_async.index.protocol import Order
from datahike_async.snapshot.draft import Draft
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.views import PastView, View
from datahike_async.values.schema import TX_INSTANT

START = datetime(2020, 1, 1, tzinfo=UTC)


def at(day: int) -> datetime:
    return START + timedelta(days=day)


def transacted(base: Snapshot, day: int, changed: int | None = None) -> Snapshot:
    """Return the state after a transaction of a day, which may give that to another one, too."""
    draft = Draft(base, base.max_tx + 1, base.mem.owner)
    attr = base.schema.by_key[TX_INSTANT]
    draft.add_new(draft.tx, attr, at(day))
    if changed is not None:
        draft.add(changed, attr, at(day))
    draft.max_tx = draft.tx
    return draft.commit()


def flushed(state: Snapshot) -> Snapshot:
    trees = state.trees.absorb(
        state.mem, state.n, state.m, state.schema, state.max_eid, state.max_tx
    )
    mem = Memtable()
    return Snapshot(state.schema, trees, mem, 0, 0, state.max_eid, state.max_tx)


def hi(state: Snapshot, point: datetime) -> int:
    view = View(state).as_of(point)
    assert isinstance(view, PastView)
    return view.bounds()[1]


def expected(days: dict[int, int], newest: int, day: int) -> int:
    later = [tx for tx, own in days.items() if own > day]
    found = min(later) - 1 if later else newest
    return found if any(tx <= found for tx in days) else 0


@pytest.mark.parametrize("seed", range(12))
def test_an_instant_stands_for_what_comes_before_the_first_later_one(seed: int) -> None:
    rng = random.Random(seed)
    empty = d.empty_db(keep_history=True, index_config={":branching-factor": 8})
    state, days = empty.snapshot, dict[int, int]()
    states: list[tuple[Snapshot, dict[int, int]]] = []
    for i in range(60):
        day = i if rng.random() < 0.7 else rng.randrange(70)
        changed = rng.choice([*days]) if days and rng.random() < seed % 3 / 20 else None
        state = transacted(state, day, changed)
        days = {**days, state.max_tx: day}
        if changed is not None:
            days[changed] = day
        if rng.random() < 0.2:
            state = flushed(state)
        states.append((state, days))
        for then, of in (states[-1], rng.choice(states)):
            day = rng.randrange(-1, 71)
            assert hi(then, at(day)) == expected(of, then.max_tx, day)


def test_each_instant_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    state = d.empty_db(keep_history=True).snapshot
    first = state.max_tx + 1
    for day in range(200):
        state = transacted(state, day)
    state = flushed(state)
    read: list[int] = []
    whole = PersistentSet.slice

    def counted(self: PersistentSet, *args: Any) -> Any:
        found = whole(self, *args)
        if self.order is Order.AVET:
            read.append(sum(map(len, found)))
        return found

    monkeypatch.setattr(PersistentSet, "slice", counted)
    assert hi(state, at(150)) == first + 150
    assert read == [50]
    for day in (150, 160, 199, 300, 180):
        assert hi(state, at(day)) == min(first + day, state.max_tx)
    for day in range(200, 220):
        state = transacted(state, day)
        assert hi(state, at(day - 1)) == state.max_tx - 1
    state = flushed(state)
    assert hi(state, at(210)) == first + 210
    assert read == [50]
