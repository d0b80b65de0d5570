"""Levels against a sorted list: in every state of merging, in memory and stored, cold and warm."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest

from datahike_async.edn import Keyword
from datahike_async.index.columns import Column, Rows
from datahike_async.index.levels import merging, signed, streams
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.levels.filters import Filter, Making, hash_of, hashes_of, hashes_of_bounds
from datahike_async.index.levels.merging import Merging
from datahike_async.index.levels.policy import MOST, due
from datahike_async.index.mixed import Mixed, joined_rows
from datahike_async.index.persistent_set import tree
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.persistent_set.node import Leaf
from datahike_async.index.protocol import Order
from datahike_async.index.runs import sorted_rows
from datahike_async.index.source import NodeMiss, resolve
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key
from tests.disk import Disk

FACTORY = LevelsFactory(PersistentSetFactory())
CONFIG = FACTORY.check_config({"branching-factor": 8})
POOL = [0, 1, -5, 1.0, 0.0, True, "a", "zz", Keyword("k"), 2**70, b"x", "long" * 5]


@pytest.fixture(autouse=True)
def small_branches(monkeypatch):
    monkeypatch.setattr(tree, "_BRANCH", 4)
    monkeypatch.setattr(merging, "_AMONG", 32)
    monkeypatch.setattr(merging, "_LEAST", 2)
    monkeypatch.setattr(merging, "_READ", 16)


class Model:
    """Levels and the plain rows that they should hold: (e, a, v, t), or with ``until``."""

    def __init__(self, order, temporal, rng):
        self.order, self.temporal, self.rng = order, temporal, rng
        self.disk = Disk(rng.random(), FACTORY.decode)
        self.levels = FACTORY.empty(order, temporal, CONFIG)
        self.rows = {}
        self.t = 0

    def key(self, row):
        return (self.bound(row[:3]), *((row[3:]) if self.temporal else ()))

    def bound(self, parts):
        at = 1 if self.order is Order.AVET else 2
        e, a, v = parts
        parts = {Order.EAVT: (e, a, v), Order.AEVT: (a, e, v), Order.AVET: (a, v, e)}[self.order]
        return tuple(sort_key(x) if i == at else x for i, x in enumerate(parts))

    def runs(self, rows):
        groups = {}
        for row in rows:
            groups.setdefault(0 if self.order is Order.EAVT else row[1], []).append(row)
        return [sorted_rows(self.columns(groups[a]), self.order) for a in sorted(groups)]

    def columns(self, rows):
        e, a, v, t, *until = zip(*rows, strict=True)
        return Rows(
            np.array(e, np.int64),
            np.array(a, np.int32),
            Column.of(list(v)),
            np.array(t, np.int64),
            np.array(until[0], np.int64) if until else None,
        )

    def fact(self):
        # Numbers alone in one attribute: columns of one kind are another path.
        a = self.rng.randrange(4)
        v = self.rng.randrange(9) if a == 0 else self.rng.choice(POOL)
        return self.rng.randrange(1, 40), a, v

    async def change(self, count):
        """Add and remove rows; some are there already, and are said again at another time."""
        self.t += 1
        adds, removes = {}, {}
        for _ in range(count):
            row = (*self.fact(), self.t, *([self.t + 1] if self.temporal else []))
            key = self.key(row)
            if key in self.rows:
                removes[key] = self.rows[key]
            adds[key] = row
        known = sorted(self.rows)
        for key in self.rng.sample(known, min(len(known), count // 2)):
            if not self.temporal and key not in adds:
                removes[key] = self.rows[key]
        self.rows = {k: r for k, r in self.rows.items() if k not in removes} | adds
        plus, minus = self.runs(adds.values()), self.runs(removes.values())
        below = not self.levels.runs and self.rng.random() < 0.3
        call = self.levels.merge_below if below else self.levels.merge
        self.levels = await reading(call, plus, minus)

    async def flush(self):
        self.levels, record = self.levels.flush(self.disk)
        if self.rng.random() < 0.7:
            self.levels = FACTORY.restore(self.order, self.temporal, record, self.disk)
            self.disk.nodes.clear()
        named = [top.child.address for top in FACTORY.tops(record)]
        assert set(named) <= set(self.disk.bytes)
        same = {at: at for at in self.disk.bytes}
        assert FACTORY.rooted(record, same) == record

    async def merge_runs(self):
        runs = self.levels.runs
        if not runs:
            return
        first = self.rng.choice([-1, *range(len(runs))])
        merge = Merging(self.levels, first)
        while await reading(merge.step):
            if self.rng.random() < 0.5:
                merge.write(self.disk)
        self.levels = merge.done()
        assert len(self.levels.runs) == max(first, 0) + (first >= 0)

    async def erase(self):
        known = sorted(self.rows)
        if not known or self.temporal:
            return
        gone = {self.rows[key][0] for key in self.rng.sample(known, min(len(known), 3))}
        entities = Column.of(sorted(gone))
        if self.order is not Order.EAVT:
            return
        all_ = await reading(self.levels.everything, [entities])
        keep = {k: r for k, r in self.rows.items() if r[0] not in gone or r[1] == 0}
        back = [r for r in keep.values() if r[0] in gone]
        once = {(*r[:2], typed_key(r[2])): r for run in all_ for r in flat([run], plain=True)}
        rows = self.runs(once.values())
        self.levels = await reading(self.levels.without, rows, self.runs(back))
        self.rows = keep
        left = await reading(self.levels.everything, [entities])
        assert sorted(flat(left), key=str) == sorted(self.shown(back), key=str)

    def shown(self, rows):
        return [(r[0], r[1], typed_key(r[2]), *r[3:]) for r in rows]

    def expected(self, lower=(), upper=()):
        lo, hi = self.cut(lower), self.cut(upper)
        return self.shown(
            row
            for key, row in sorted(self.rows.items())
            if (not lo or key[0][: len(lo)] >= lo) and (not hi or key[0][: len(hi)] <= hi)
        )

    def cut(self, bound):
        at = 1 if self.order is Order.AVET else 2
        return tuple(sort_key(x) if i == at else x for i, x in enumerate(bound))

    def components(self, row):
        e, a, v = row[:3]
        return {Order.EAVT: (e, a, v), Order.AEVT: (a, e, v), Order.AVET: (a, v, e)}[self.order]

    async def check(self):
        levels, wanted = self.levels, self.expected()
        assert len(levels) == len(wanted)
        runs = await reading(levels.slice)
        assert flat(runs) == wanted
        if self.order is not Order.EAVT:
            assert all(len(set(run.a.tolist())) == 1 for run in runs)
        assert await reading(lambda: flat(levels.chunks())) == wanted
        assert await reading(lambda: flat(levels.chunks(reverse=True))) == wanted[::-1]
        for _ in range(6):
            lower = self.components(self.fact())[: self.rng.randrange(4)]
            upper = self.components(self.fact())[: self.rng.randrange(4)]
            if self.rng.random() < 0.6:
                upper = lower
            wanted = self.expected(lower, upper)
            assert flat(await reading(levels.slice, lower, upper)) == wanted
            assert await reading(levels.count_slice, lower, upper) == len(wanted)
            count, sure = levels.estimate(lower, upper)
            assert count == len(wanted) or not sure
            if lower is upper and len(wanted) < 2:
                assert flat(await reading(levels.single, lower)) == wanted
            chunks = await reading(lambda lo=lower, up=upper: flat(levels.chunks(lo, up)))
            assert chunks == wanted
        asked = [*list(self.rows.values())[:9], *(self.fact() for _ in range(9))]
        for size in (1, 2, 3):
            keyed = {self.cut(b): b for r in asked for b in [self.components(r)[:size]]}
            bounds = [keyed[k] for k in sorted(keyed)]
            columns = [Column.of(column) for column in zip(*bounds, strict=True)]
            rows, stops = await reading(levels.lookup_many, columns)
            found = [flat([rows.slice(i, j)]) for i, j in pairwise([0, *stops.tolist()])]
            assert found == [self.expected(b, b) for b in bounds]


def flat(runs, *, plain=False):
    return [
        (e, a, v if plain else typed_key(v), t, *([] if r.until is None else [u]))
        for r in runs
        for e, a, v, t, u in zip(
            r.e.tolist(),
            r.a.tolist(),
            r.v.tolist(),
            r.t.tolist(),
            r.t.tolist() if r.until is None else r.until.tolist(),
            strict=True,
        )
    ]


async def reading(call, *args):
    try:
        return call(*args)
    except NodeMiss as miss:
        return await resolve(miss, call, *args)


async def go_through(order, temporal, seed):
    rng = random.Random(seed)
    model = Model(order, temporal, rng)
    for _ in range(14):
        step = rng.choice([model.change] * 4 + [model.flush, model.merge_runs, model.erase])
        before, rows = model.levels, model.rows
        await (step(rng.randrange(1, 60)) if step == model.change else step())
        await model.check()
        only = await reading(model.levels.apart, before)
        for side, own, other in ((0, model.rows, rows), (1, rows, model.rows)):
            apart = {k: r for k, r in own.items() if other.get(k) != r}
            assert set(model.shown(apart.values())) <= set(flat(only[side]))
            assert set(flat(only[side])) <= set(model.shown(own.values()))


@pytest.mark.anyio
@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 9))]
)
async def test_every_state_of_merging_holds_the_same(order, temporal, seed):
    await go_through(order, temporal, seed)


@pytest.mark.anyio
async def test_rows_far_apart_are_merged_into_a_base_few_leaves_at_a_time(monkeypatch):
    monkeypatch.setattr(merging, "_AMONG", 256)
    monkeypatch.setattr(merging, "_READ", 10_000)
    disk = Disk(1, FACTORY.decode)
    below = rows_of(range(4_000), 1)
    levels = FACTORY.empty(Order.EAVT, False, CONFIG).merge_below([below], [], sure=True)
    levels = levels.merge([rows_of(range(1_000_000, 1_000_010), 2)], []).flush(disk)[0]
    # One in ten gets another value: nearly each lies in a leaf of its own.
    chosen = range(0, 4_000, 10)
    gone = rows_of(chosen, 1)
    levels = levels.merge([rows_of(chosen, 3)], [gone]).flush(disk)[0]
    merge, most, more = Merging(levels, -1), 0, True
    while more:
        disk.nodes.clear()
        more = await reading(merge.step)
        most = max(most, sum(len(n.rows) for n in disk.nodes.values() if isinstance(n, Leaf)))
        merge.write(disk)
    done = merge.done()
    # Those among which the rows of a step lie, those of the edges, and what the runs have.
    assert most < 256 + 8 * 8 + 810
    assert len(done) == 4_010
    assert [t for run in await reading(done.slice) for t in run.t.tolist()] == [
        *(3 if e % 10 == 0 else 1 for e in range(4_000)),
        *[2] * 10,
    ]


@pytest.mark.anyio
async def test_what_was_never_stored_is_merged_without_all_that_came_with_it(monkeypatch):
    monkeypatch.setattr(merging, "_READ", 8192)
    config = FACTORY.check_config({})
    e = np.arange(6_000)
    by_attribute = [
        Rows(e, np.full(6_000, 40 + a, np.int32), Column.of([kind(i) for i in e.tolist()]), e * 0)
        for a, kind in enumerate([int, float, str, lambda i: f"note {i}"])
    ]
    run = sorted_rows(joined_rows(by_attribute), Order.EAVT)
    below = rows_of(range(10_000, 20_000), 1)
    levels = FACTORY.empty(Order.EAVT, False, config).merge_below([below], [])
    merge = Merging(levels.merge([run], []), -1)
    assert merge.step()
    mixed = [rows.v for rows in merge._base.chunks() if isinstance(rows.v, Mixed)]
    assert mixed
    # What was joined for a step, and not the 24,000 values that the run came with.
    assert max(sum(map(len, each.parts)) for each in mixed) < 8192 + 1000
    while merge.step():
        pass
    assert len(merge.done()) == 34_000


def rows_of(entities, t):
    e = np.array(entities, np.int64)
    return Rows(e, np.full(len(e), 40, np.int32), Column.of([t] * len(e)), np.full(len(e), t))


VALUES = [*POOL, -0.0, float("nan"), 2**63, None, ("a", 1), datetime(2026, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize("order", Order)
def test_a_filter_has_all_that_it_was_made_of_however_it_is_asked(order):
    rows = [(e, a, v) for e in range(5, 9) for a in range(2) for v in VALUES]
    one = np.arange(len(rows))
    columns = [Column.of([row[i] for row in rows]) for i in range(3)]
    made = Rows(columns[0].data, columns[1].data.astype(np.int32), columns[2], one)
    found = Filter.decode(Filter.of(hashes_of(made, order)).encode())
    bounds = {Order.EAVT: [0, 1, 2], Order.AEVT: [1, 0, 2], Order.AVET: [1, 2, 0]}[order]
    many = hashes_of_bounds([columns[i] for i in bounds], order)
    assert found.may_have_many(many).all()
    for row, hashed in zip(rows, many.tolist(), strict=True):
        assert hash_of(tuple(row[i] for i in bounds), order) == hashed
    strangers = [hash_of((a, e + 10_000, 1), order) for e in range(300) for a in (0, 1)]
    if order is Order.AEVT:
        assert found.may_have_many(np.array(strangers, np.uint64)).sum() < len(strangers) // 2


@pytest.mark.parametrize("base", [0, 100_000, 10_000_000])
def test_runs_stay_few_and_rows_are_written_a_few_times(base):
    runs, written, came = [], 0, 0
    for _ in range(400):
        runs.append(6_000)
        came += 6_000
        first = due(base, runs)
        if first is None:
            written += runs[-1]
        elif first < 0:
            written += base + sum(runs)
            base, runs = base + sum(runs) // 4, []
        else:
            written += sum(runs[first:])
            runs[first:] = [sum(runs[first:])]
        assert len(runs) <= MOST
        assert sum(runs) <= max(base, 6_000)
    assert written < 6 * came


def test_merged_runs_are_taken_over_into_the_same_base_alone(monkeypatch):
    addresses = tree.PersistentSet.addresses

    def upside_down(self):
        # An index may name them in any order: these two have their last leaf in common.
        yield from reversed(list(addresses(self)))

    monkeypatch.setattr(tree.PersistentSet, "addresses", upside_down)
    disk = Disk(1, FACTORY.decode)
    disk.pins = 1

    def stored(levels):
        levels = levels.flush(disk)[0]
        disk.nodes = {at: FACTORY.decode(data) for at, data in disk.bytes.items()}
        return levels

    empty = FACTORY.empty(Order.EAVT, False, CONFIG)
    before = stored(empty.merge_below([rows_of(range(100, 160), 1)], []))
    other = before.merge_below([rows_of([1], 2)], [])
    assert before.taking_over(before, before) is not None
    assert other.taking_over(before, before) is None
    assert stored(other).taking_over(before, before) is None


@pytest.mark.anyio
@pytest.mark.parametrize("fault", ["filter", "cancelling", "parts"])
async def test_what_is_planted_is_found(fault, monkeypatch):
    if fault == "filter":
        monkeypatch.setattr(Making, "add", lambda self, hashes: None)
    elif fault == "cancelling":
        monkeypatch.setattr(
            signed, "_kept", lambda p, m: (np.ones(len(p), bool), np.ones(len(m), bool))
        )
        monkeypatch.setattr(signed, "_FEW", -1)
    else:
        monkeypatch.setattr(
            streams, "_cut", lambda waiting, pivot, key, *, reverse=False: (waiting, [])
        )
    found = 0
    for seed in range(4):
        with suppress(Exception):
            await go_through(Order.EAVT, False, seed)
            continue
        found += 1
    assert found
