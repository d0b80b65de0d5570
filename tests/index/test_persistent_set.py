"""The persistent set against a sorted list, with tiny nodes, mixed values and evicted nodes."""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahike_async.edn import Keyword
from datahike_async.errors import ConfigError, CorruptData, UnsupportedFormat
from datahike_async.index.codec import pack_values, unpack_values
from datahike_async.index.columns import Column, Rows
from datahike_async.index.persistent_set import tree
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.persistent_set.node import decode
from datahike_async.index.protocol import Order
from datahike_async.index.registry import index_factory, register_index
from datahike_async.index.runs import sorted_rows
from datahike_async.index.source import NodeMiss, resolve
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key
from tests.disk import Disk

FACTORY = PersistentSetFactory()
CONFIG = {"branching-factor": 8, "diff-buf-size": 0}


@pytest.fixture(autouse=True)
def small_branches(monkeypatch):
    monkeypatch.setattr(tree, "_BRANCH", 4)


values = (
    st.integers(-3, 3)
    | st.sampled_from([1.0, True, False, 0.5, "a", "b", Keyword("k"), b"x", 2**70])
    | st.text(max_size=2)
)
facts = st.tuples(st.integers(1, 30), st.integers(0, 3), values)
batches = st.lists(
    st.tuples(st.lists(facts, max_size=60), st.lists(st.integers(0, 500), max_size=30)),
    min_size=1,
    max_size=5,
)


def rows_of(group):
    return Rows(
        np.array([f[0] for f in group], np.int64),
        np.array([f[1] for f in group], np.int32),
        Column.of([f[2] for f in group]),
        np.array([f[3] for f in group], np.int64),
    )


def runs_of(group, order):
    if order is Order.EAVT:
        return [sorted_rows(rows_of(group), order)] if group else []
    by_attribute = {}
    for fact in group:
        by_attribute.setdefault(fact[1], []).append(fact)
    return [sorted_rows(rows_of(by_attribute[a]), order) for a in sorted(by_attribute)]


def components(fact, order):
    e, a, v = fact[:3]
    return {Order.EAVT: (e, a, v), Order.AEVT: (a, e, v), Order.AVET: (a, v, e)}[order]


def key(parts, order):
    at = 1 if order is Order.AVET else 2
    return tuple(sort_key(x) if i == at else x for i, x in enumerate(parts))


def flat(runs):
    return [
        (e, a, typed_key(v), t)
        for r in runs
        for e, a, v, t in zip(r.e.tolist(), r.a.tolist(), r.v.tolist(), r.t.tolist(), strict=True)
    ]


def apply_batch(index, model, adds, picks, t, order):
    fresh = {key(components(f, order), order): (*f, t) for f in adds}
    known = sorted(model)
    gone = {known[p % len(known)] for p in picks} if known else set()
    gone -= fresh.keys()
    # A current fact is found whatever transaction the batch says.
    removed = [(*model[k][:3], (t * 7 + i) % 5) for i, k in enumerate(sorted(gone))]
    index = index.merge(runs_of(list(fresh.values()), order), runs_of(removed, order))
    return index, {**{k: f for k, f in model.items() if k not in gone}, **fresh}


def expected(model, order, lower=(), upper=()):
    lo, hi = key(lower, order), key(upper, order)
    return [
        (f[0], f[1], typed_key(f[2]), f[3])
        for k, f in sorted(model.items())
        if (not lo or k[: len(lo)] >= lo) and (not hi or k[: len(hi)] <= hi)
    ]


@pytest.mark.parametrize("order", Order)
@settings(max_examples=60, deadline=None)
@given(batches=batches, data=st.data())
def test_against_a_sorted_list(order, batches, data):
    index, model = FACTORY.empty(order, False, CONFIG), {}
    history = []
    for i, (adds, picks) in enumerate(batches):
        t = (i * 3) % 7
        history.append((index, model))
        index, model = apply_batch(index, model, adds, picks, t, order)
        assert flat(index.slice()) == expected(model, order)
        assert len(index) == len(model)
    for old, was in history:
        assert flat(old.slice()) == expected(was, order)
    for _ in range(6):
        lower = components(data.draw(facts), order)[: data.draw(st.integers(0, 3))]
        upper = components(data.draw(facts), order)[: data.draw(st.integers(0, 3))]
        if data.draw(st.booleans()):
            upper = lower
        wanted = expected(model, order, lower, upper)
        assert flat(index.slice(lower, upper)) == wanted
        assert flat(index.chunks(lower, upper)) == wanted
        assert flat(index.chunks(lower, upper, reverse=True)) == wanted[::-1]
        assert index.count_slice(lower, upper) == len(wanted)
    # Facts that are there, and others.
    asked = [*list(model.values())[:9], *data.draw(st.lists(facts, min_size=1, max_size=20))]
    for size in (1, 2, 3):
        keyed = {key(b, order): b for f in asked for b in [components(f, order)[:size]]}
        bounds = [keyed[k] for k in sorted(keyed)]
        assert looked_up(index, bounds) == [expected(model, order, b, b) for b in bounds]


def looked_up(index, bounds):
    rows, stops = index.lookup_many([Column.of(column) for column in zip(*bounds, strict=True)])
    starts = [0, *stops.tolist()]
    return [flat([rows.slice(i, j)]) for i, j in pairwise(starts)]


@pytest.mark.parametrize("order", Order)
def test_many_bounds_in_one_leaf_and_bounds_over_many_leaves(order):
    facts = [(e, a, v, 1) for e in range(1, 40) for a in range(3) for v in (e % 5, f"s{e % 7}")]
    index = FACTORY.build(order, False, CONFIG, runs_of(facts, order))
    model = {key(components(f, order), order): f for f in facts}
    for size in (1, 2, 3):
        keyed = {key(b, order): b for f in facts for b in [components(f, order)[:size]]}
        bounds = [keyed[k] for k in sorted(keyed)]
        assert looked_up(index, bounds) == [expected(model, order, b, b) for b in bounds]


def test_bounds_of_the_attribute_after_find_nothing_of_the_one_before():
    facts = [(1, 0, v, 0) for v in range(5)] + [(1, 1, 0, 0)]
    index = FACTORY.build(Order.AEVT, False, CONFIG, runs_of(facts, Order.AEVT))
    bounds = [(a, 1, v) for a in (0, 1) for v in range(5)]
    wanted = [[(1, a, v, 0)] if (1, a, v, 0) in facts else [] for a, _, v in bounds]
    assert looked_up(index, bounds) == wanted


async def reading(call, *args):
    try:
        return call(*args)
    except NodeMiss as miss:
        return await resolve(miss, call, *args)


@pytest.mark.anyio
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("seed", range(4))
async def test_stored_trees_are_the_same(order, seed):
    rng = random.Random(seed)
    disk = Disk(seed, decode)
    pool = [0, 1, -5, 1.0, True, "a", "zz", Keyword("k"), 2**70, b"x"]
    index, model = FACTORY.empty(order, False, CONFIG), {}
    for t in range(6):
        adds = [(rng.randrange(1, 60), rng.randrange(4), rng.choice(pool)) for _ in range(80)]
        picks = [rng.randrange(500) for _ in range(30)]
        fresh = {key(components(f, order), order): (*f, t) for f in adds}
        known = sorted(model)
        gone = {known[p % len(known)] for p in picks} - fresh.keys() if known else set()
        removed = runs_of([model[k] for k in gone], order)
        index = await reading(index.merge, runs_of(list(fresh.values()), order), removed)
        model = {**{k: f for k, f in model.items() if k not in gone}, **fresh}
        index, record = index.flush(disk)
        assert all(
            a in disk.bytes for a in await reading(lambda index=index: list(index.addresses()))
        )
        restored = FACTORY.restore(order, False, record, disk)
        assert len(restored) == len(model)
        assert flat(await reading(restored.slice)) == expected(model, order)
        bound = components(adds[0], order)
        wanted = expected(model, order, bound[:1], bound[:1])
        assert flat(await reading(restored.slice, bound[:1], bound[:1])) == wanted
        assert await reading(restored.count_slice, bound[:2], bound[:1]) == len(
            expected(model, order, bound[:2], bound[:1])
        )
        before = disk.waves
        disk.nodes.clear()
        await reading(restored.slice)
        # One wave of reads a level, never one a node.
        assert disk.waves - before <= 5
        index = restored


@given(st.binary(max_size=60))
def test_decoding_trusts_nothing(data):
    with suppress(CorruptData, UnsupportedFormat):
        decode(data)


@settings(max_examples=300)
@given(st.data())
def test_decoding_damaged_nodes(data):
    disk = Disk(0, decode)
    group = [(i, 0, f"v{i % 3}", 5) for i in range(8)]
    FACTORY.empty(Order.AEVT, False, CONFIG).merge(runs_of(group, Order.AEVT), []).flush(disk)
    raw = bytearray(next(iter(disk.bytes.values())))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(CorruptData, UnsupportedFormat):
        decode(bytes(raw))


@given(st.lists(values | st.uuids() | st.lists(values, max_size=3).map(tuple), max_size=8))
def test_single_values_keep_their_type(group):
    assert list(map(typed_key, unpack_values(pack_values(group)))) == list(map(typed_key, group))


def test_the_registry_names_what_is_wrong():
    assert index_factory(":datahike.index/persistent-set") is index_factory()
    with pytest.raises(
        ConfigError, match=r"did you mean :datahike\.index/persistent-set"
    ) as caught:
        index_factory(Keyword("datahike.index/persistent-sett"))
    assert caught.value.error == ":unknown-index-type"
    with pytest.raises(ConfigError) as caught:
        index_factory("datahike.index/hitchhiker-tree")
    assert caught.value.error == ":missing-index-implementation"
    with pytest.raises(ConfigError, match="branching-facto"):
        FACTORY.check_config({":branching-facto": 4})
    register_index("my/index", FACTORY)
    assert index_factory(Keyword("my/index")) is FACTORY
