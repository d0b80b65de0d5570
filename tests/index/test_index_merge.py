"""Merging: against a sorted list, what is shared, what stays balanced, what is read first."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahike_async.edn import Keyword
from datahike_async.errors import ConfigError
from datahike_async.index.columns import Column, Rows
from datahike_async.index.dictionary import Dictionary
from datahike_async.index.persistent_set import tree
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.persistent_set.node import Branch, Leaf, decode, first_key
from datahike_async.index.protocol import Order
from datahike_async.index.runs import sorted_rows
from datahike_async.index.source import Address, NodeMiss
from datahike_async.values.order import sort_key
from datahike_async.values.types import typed_key

FACTORY = PersistentSetFactory()
TINY = {"branching-factor": 4}
NODES = 4

values = st.one_of(
    st.integers(-2, 2),
    st.sampled_from(
        [1.0, float("nan"), -0.0, True, False, "a", "b", "ab", Keyword("k"), b"x", 2**70, (1, "x")]
    ),
)


@pytest.fixture(autouse=True)
def small_branches(monkeypatch):
    monkeypatch.setattr(tree, "_BRANCH", NODES)


def rows_of(facts, temporal=False):
    return Rows(
        np.array([f[0] for f in facts], np.int64),
        np.array([f[1] for f in facts], np.int32),
        Column.of([f[2] for f in facts]),
        np.array([f[3] for f in facts], np.int64),
        np.array([f[4] for f in facts], np.int64) if temporal else None,
    )


def runs_of(facts, order, temporal=False):
    groups = {}
    for fact in facts:
        groups.setdefault(0 if order is Order.EAVT else fact[1], []).append(fact)
    return [sorted_rows(rows_of(groups[a], temporal), order) for a in sorted(groups)]


def key(fact, order, temporal=False):
    e, a, v, t, *until = *fact[:2], sort_key(fact[2]), *fact[3:]
    head = {Order.EAVT: (e, a, v), Order.AEVT: (a, e, v), Order.AVET: (a, v, e)}[order]
    return (*head, t, *until) if temporal else head


def flat(runs):
    return [
        (e, a, typed_key(v), t, u)
        for r in runs
        for e, a, v, t, u in zip(
            r.e.tolist(),
            r.a.tolist(),
            r.v.tolist(),
            r.t.tolist(),
            [None] * len(r) if r.until is None else r.until.tolist(),
            strict=True,
        )
    ]


def expected(model):
    return [(e, a, typed_key(v), t, u) for _, (e, a, v, t, u) in sorted(model.items())]


def check_tree(index):
    """The laws of the tree: one depth, true keys and counts, no node too large or empty."""

    def walk(node):
        if isinstance(node, Leaf):
            # Two more: intervals that differ in their end alone (there are three) stay together.
            assert 0 < len(node.rows) <= TINY["branching-factor"] * 3 // 2 + 2 * index.temporal
            if index.order is not Order.EAVT:
                assert len(set(node.rows.a.tolist())) == 1
            return 0, first_key(node.rows, index.order), len(node.rows)
        assert 0 < len(node.keys) <= NODES
        below = [walk(child) for child in node.nodes]
        assert {level for level, _, _ in below} == {node.level - 1}
        assert [k for _, k, _ in below] == node.keys
        assert [n for _, _, n in below] == node.counts
        return node.level, node.keys[0], sum(node.counts)

    if index._root is not None:
        assert walk(index._root)[2] == len(index)
        assert isinstance(index._root, Leaf) or len(index._root.keys) > 1


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("order", Order)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_batches(order, temporal, data):
    # Few entities and attributes: many values of one, across the borders of leaves.
    facts = st.tuples(st.integers(1, 4), st.integers(0, 1), values, st.integers(1, 5))
    sizes = st.sampled_from([1, 3, 40])
    index, model, history = FACTORY.empty(order, temporal, TINY), {}, []
    for _ in range(data.draw(st.integers(1, 5))):
        history.append((index, expected(model)))
        drawn = data.draw(st.lists(facts, max_size=data.draw(sizes)))
        drawn = [(*f, data.draw(st.integers(6, 8)) if temporal else None) for f in drawn]
        adds = {key(f, order, temporal): f for f in drawn}
        picks = data.draw(st.lists(st.integers(0, 99), max_size=data.draw(sizes)))
        known = sorted(model)
        gone = {known[p % len(known)] for p in picks} if known else set()
        if not data.draw(st.booleans()):
            gone -= adds.keys()
        strangers = data.draw(st.lists(facts, max_size=3))
        removes = {k: model[k] for k in gone} | {
            key(f, order, temporal): f
            for f in ((*f, 6 if temporal else None) for f in strangers)
            if key(f, order, temporal) not in adds
        }
        index = index.merge(
            runs_of(adds.values(), order, temporal), runs_of(removes.values(), order, temporal)
        )
        model = {k: f for k, f in model.items() if k not in removes} | adds
        assert flat(index.slice()) == expected(model)
        check_tree(index)
    for old, was in history:
        assert flat(old.slice()) == was


@pytest.mark.parametrize("t", [1, 99])
@pytest.mark.parametrize("order", Order)
def test_a_current_fact_is_found_whatever_its_transaction(order, t):
    def facts(t):
        return runs_of([(e, 0, e % 7, t) for e in range(90)], order)

    index = FACTORY.build(order, False, TINY, facts(50))
    assert len(index.merge([], facts(t))) == 0
    replaced = index.merge(facts(t), [])
    assert len(replaced) == 90
    assert {f[3] for f in flat(replaced.slice())} == {t}


def leaves_of(index):
    def walk(node):
        if isinstance(node, Leaf):
            yield node
        else:
            for child in node.nodes:
                yield from walk(child)

    return list(walk(index._root))


@pytest.mark.parametrize("order", Order)
def test_what_is_not_touched_is_shared(order):
    index = FACTORY.build(order, False, TINY, runs_of([(e, 0, e, 1) for e in range(400)], order))
    after = index.merge(runs_of([(200, 0, 200, 2)], order), [])
    before = {id(leaf) for leaf in leaves_of(index)}
    assert len([leaf for leaf in leaves_of(after) if id(leaf) not in before]) <= 1


@pytest.mark.parametrize("order", Order)
def test_a_batch_that_changes_nothing_is_the_same_index(order):
    index = FACTORY.build(order, False, TINY, runs_of([(e, 0, e, 1) for e in range(99)], order))
    assert index.merge([], []) is index
    assert index.merge([], runs_of([(5, 0, 6, 1), (500, 0, 5, 1), (5, 3, 5, 1)], order)) is index


@pytest.mark.parametrize("order", Order)
def test_a_tree_that_shrinks_stays_filled_and_gets_lower(order, monkeypatch):
    monkeypatch.setattr(tree, "_BRANCH", 8)
    facts = [(e, 0, e, 1) for e in range(4000)]
    index = FACTORY.build(order, False, {"branching-factor": 32}, runs_of(facts, order))
    assert index._root.level == 3
    random.Random(1).shuffle(facts)

    def check(node):
        if isinstance(node, Branch):
            sizes = node.counts if node.level == 1 else [len(n.keys) for n in node.nodes]
            # Less than a fourth full, and a neighbour to join: that may not be.
            assert len(sizes) == 1 or min(sizes) >= (8 if node.level == 1 else 2)
            for child in node.nodes:
                check(child)

    while len(facts) > 40:
        index = index.merge([], runs_of(facts[:90], order))
        facts = facts[90:]
        check(index._root)
    assert flat(index.slice()) == expected({key(f, order): (*f, None) for f in facts})
    assert isinstance(index._root, Leaf) or index._root.level == 1


class Cold:
    """Stored nodes, of which those that were asked for are resident."""

    def __init__(self):
        self.bytes, self.nodes, self.source = {}, {}, self

    def put(self, data, node):
        address = Address("p", len(self.bytes), len(data), zlib.crc32(data))
        self.bytes[address] = data
        return address

    def get(self, address):
        return self.nodes.get(address)

    def load(self, addresses):
        for address in addresses:
            assert address not in self.nodes, "a node that is resident was asked for"
            self.nodes[address] = decode(self.bytes[address])


def waves(cold, call):
    count = 0
    while True:
        try:
            return call(), count
        except NodeMiss as miss:
            assert len(set(miss.addresses)) == len(miss.addresses)
            cold.load(miss.addresses)
            count += 1


@pytest.mark.parametrize("order", Order)
def test_a_miss_names_all_nodes_of_a_level(order):
    facts = [(e, e % 3, e, 1) for e in range(500)]
    cold = Cold()
    stored, record = FACTORY.build(order, False, TINY, runs_of(facts, order)).flush(cold)
    depth = waves(cold, stored._top_node)[0].level + 1

    def cold_index():
        cold.nodes.clear()
        return FACTORY.restore(order, False, record, cold)

    adds = runs_of([(e, e % 3, e, 2) for e in range(0, 500, 9)], order)
    index = cold_index()
    merged, count = waves(cold, lambda: index.merge(adds, []))
    assert count <= depth
    assert len(waves(cold, merged.slice)[0]) >= 1
    index = cold_index()
    bounds = Column.of(sorted({key(f, order)[0] for f in facts[::50]}))
    _, count = waves(cold, lambda: index.lookup_many([bounds]))
    assert count <= depth
    index = cold_index()
    assert waves(cold, lambda: index.count_slice((1,), (2,)))[1] <= depth
    index = cold_index()
    assert waves(cold, lambda: flat(index.slice()))[1] == depth
    index = cold_index()
    named, _ = waves(cold, lambda: list(index.addresses()))
    assert sorted(named) == sorted(cold.bytes)


@pytest.mark.parametrize("reverse", [False, True])
def test_chunks_ask_for_a_few_nodes_at_once(reverse, monkeypatch):
    monkeypatch.setattr(tree, "_BRANCH", 256)
    facts = [(e, 0, e, 1) for e in range(400)]
    cold = Cold()
    _, record = FACTORY.build(Order.EAVT, False, TINY, runs_of(facts, Order.EAVT)).flush(cold)
    index = FACTORY.restore(Order.EAVT, False, record, cold)
    out, count = waves(cold, lambda: flat(index.chunks(reverse=reverse)))
    assert [f[0] for f in out] == [f[0] for f in facts][:: -1 if reverse else 1]
    assert count <= 1 + -(-len(cold.bytes) // 10)
    index, cold.nodes = FACTORY.restore(Order.EAVT, False, record, cold), {}
    next(waves(cold, lambda: iter([next(index.chunks(reverse=reverse))]))[0])
    assert len(cold.nodes) < 30


def test_bounds_that_python_takes_for_equal_are_not():
    facts = [(i, 0, v, 1) for i, v in enumerate([1, 1.0, True, (1,), (True,), (1.0,)])]
    index = FACTORY.build(Order.AVET, False, TINY, runs_of(facts, Order.AVET))
    for e, _, v, _ in facts:
        assert [f[0] for f in flat(index.slice((0, v), (0, v)))] == [e]
    assert {f[0] for f in flat(index.slice((0, True), (0, 1.0)))} == {0, 1, 2}
    assert {f[0] for f in flat(index.slice((0, (True,)), (0, (1.0,))))} == {3, 4, 5}
    assert index.count_slice((0, 1), (0, 1.0)) == 2
    assert flat(index.slice((0, 1.0), (0, 1))) == []


def test_leaves_share_the_dictionary_of_their_run_and_answer_for_a_part_of_it():
    dictionary, codes = Dictionary.encode([f"value {i}" for i in range(5000)])
    count = len(codes)
    run = Rows(
        np.arange(count, dtype=np.int64),
        np.zeros(count, np.int32),
        Column(5, codes, dictionary),
        np.ones(count, np.int64),
    )
    index = FACTORY.build(Order.AEVT, False, {"branching-factor": 512}, [run])
    leaves = leaves_of(index)
    assert len(leaves) == 10
    assert all(leaf.rows.v.dictionary is dictionary for leaf in leaves)
    assert sum(leaf.nbytes for leaf in leaves) < 2 * 64 * count
    # Known values make no new dictionary; what a small leaf takes from a huge one is its own.
    same = Column.concat([run.v, Column.of(["value 3", "value 9"])])
    assert same.dictionary is dictionary
    assert run.slice(0, 5).owned().v.dictionary is not dictionary
    assert run.slice(0, 5).owned().e.base is None
    assert flat([run.slice(0, 5).owned()]) == flat([run.slice(0, 5)])


def test_a_flushed_leaf_does_not_hold_on_to_the_run_it_was_cut_from():
    class Keeping(Cold):
        def put(self, data, node):
            address = super().put(data, node)
            self.nodes[address] = node
            return address

    keeping = Keeping()
    index = FACTORY.build(
        Order.EAVT, False, TINY, runs_of([(e, 0, "v", 1) for e in range(100)], Order.EAVT)
    )
    clean, _ = index.flush(keeping)
    leaves = [node for node in keeping.nodes.values() if isinstance(node, Leaf)]
    assert all(leaf.rows.e.base is None for leaf in leaves)
    assert flat(clean.slice()) == flat(index.slice())


@pytest.mark.parametrize("bad", [3, 2**21, "512", True, None])
def test_a_leaf_size_that_is_none_is_refused(bad):
    with pytest.raises(ConfigError, match="branching-factor"):
        FACTORY.check_config({":branching-factor": bad})


def test_diff_buffers_are_refused():
    with pytest.raises(ConfigError, match="diff"):
        FACTORY.check_config({":diff-buf-size": 256})
    assert FACTORY.check_config({Keyword("diff-buf-size"): 0})["branching-factor"] == 512


@pytest.mark.parametrize("order", Order)
def test_a_merge_pins_no_stored_node(order):
    cold = Cold()
    stored, _ = FACTORY.build(
        order, False, TINY, runs_of([(e, 0, e, 1) for e in range(300)], order)
    ).flush(cold)
    gone = [(e, 0, e, 1) for e in (3, 4, 5, 6, 150, 299)]
    # Those that are not there have their leaves read, and stay as they are.
    removes = runs_of([*gone, (9, 0, 10, 1), (80, 0, 81, 1), (200, 0, 201, 1)], order)
    after, _ = waves(cold, lambda: stored.merge([], removes))

    def check(node):
        if isinstance(node, Branch):
            for child, address in zip(node.nodes, node.addresses, strict=True):
                assert (child is None) == (address is not None)
                check(child)

    check(after._root)
    assert len(waves(cold, lambda: flat(after.slice()))[0]) == 294
