"""Trees of the persistent set: what is shared, what stays balanced, what is held and asked for.

That what is merged is there the public suite says (``test_index_suite``).
"""

from __future__ import annotations

from itertools import islice
from random import Random

import numpy as np
import pytest

from datahike_async.edn import Keyword
from datahike_async.errors import ConfigError
from datahike_async.index.columns import Column, Rows
from datahike_async.index.dictionary import Dictionary
from datahike_async.index.persistent_set import scan, tree
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.persistent_set.node import Branch, Leaf, decode, first_key
from datahike_async.index.protocol import Order
from datahike_async.index.testing import Cold, Fact, Model, facts_of, runs_of

FACTORY = PersistentSetFactory()
TINY = {"branching-factor": 4}
NODES = 4


@pytest.fixture(autouse=True)
def small_branches(monkeypatch):
    monkeypatch.setattr(tree, "_BRANCH", NODES)


def built(order, runs, config=TINY):
    return FACTORY.empty(order, False, config).merge(runs, [])


def facts(count):
    return [Fact(e, 0, e, 1) for e in range(count)]


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
def test_the_tree_keeps_its_laws_whatever_is_merged(order, temporal):
    for seed in range(6):
        random, index = Random(seed), FACTORY.empty(order, temporal, TINY)
        model = Model(order, temporal)
        for t in range(8):
            adds, removes = model.batch(
                random, t, random.choice([1, 5, 80]), random.choice([4, 60])
            )
            index = index.merge(model.runs(adds), model.runs(removes))
            model = model.merge(adds, removes)
            check_tree(index)
            assert facts_of(index.slice()) == model.said()


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
    index = built(order, runs_of(facts(400), order))
    after = index.merge(runs_of([Fact(200, 0, 200, 2)], order), [])
    before = {id(leaf) for leaf in leaves_of(index)}
    assert len([leaf for leaf in leaves_of(after) if id(leaf) not in before]) <= 1


@pytest.mark.parametrize("order", Order)
def test_a_batch_that_changes_nothing_is_the_same_index(order):
    index = built(order, runs_of(facts(99), order))
    strangers = [Fact(5, 0, 6, 1), Fact(500, 0, 5, 1), Fact(5, 3, 5, 1)]
    assert index.merge([], []) is index
    assert index.merge([], runs_of(strangers, order)) is index


@pytest.mark.parametrize("order", Order)
def test_a_tree_that_shrinks_stays_filled_and_gets_lower(order, monkeypatch):
    monkeypatch.setattr(tree, "_BRANCH", 8)
    left = facts(4000)
    index = built(order, runs_of(left, order), {"branching-factor": 32})
    assert index._root.level == 3
    Random(1).shuffle(left)

    def check(node):
        if isinstance(node, Branch):
            sizes = node.counts if node.level == 1 else [len(n.keys) for n in node.nodes]
            # Less than a fourth full, and a neighbour to join: that may not be.
            assert len(sizes) == 1 or min(sizes) >= (8 if node.level == 1 else 2)
            for child in node.nodes:
                check(child)

    while len(left) > 40:
        index = index.merge([], runs_of(left[:90], order))
        left = left[90:]
        check(index._root)
    assert facts_of(index.slice()) == facts_of(runs_of(left, order))
    assert isinstance(index._root, Leaf) or index._root.level == 1


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("width", [256, 8], ids=["one branch", "three levels of branches"])
def test_a_scan_asks_for_more_ahead_the_further_it_gets(reverse, width, monkeypatch):
    monkeypatch.setattr(tree, "_BRANCH", width)
    cold = Cold(decode)
    index = built(Order.EAVT, runs_of(facts(3000), Order.EAVT), {"branching-factor": 16})
    _, record = index.flush(cold)
    leaves = sum(type(decode(data)) is Leaf for data in cold.stored.values())
    height = index._root.level
    assert leaves > 180
    assert (height > 2) is (width == 8)

    def scanned(count):
        cold.forget()
        cold.asked.clear()
        index = FACTORY.restore(Order.EAVT, False, record, cold)
        return cold.waves(lambda: list(islice(index.chunks(reverse=reverse), count)))

    rows, count = scanned(None)
    assert len(rows) == leaves
    assert len(cold.asked) == len(set(cold.asked)) == len(cold.stored)
    # The leaves that were passed double from one wave to the next.
    assert count <= leaves.bit_length() + 1 + 3 * height
    for passed in (1, 2, 5, 40):
        scanned(passed)
        read = [address for address in cold.asked if type(decode(cold.stored[address])) is Leaf]
        assert passed <= len(read) <= 2 * passed
    monkeypatch.setattr(scan, "AHEAD_BYTES", 300)
    _, more = scanned(None)
    assert count < more
    assert max(map(len, waves_of(cold, lambda: scanned(None)))) * 20 < leaves


def waves_of(cold, call):
    """Return the waves that a call reads in."""
    out = []
    load = cold.load

    def noted(addresses):
        out.append(list(addresses))
        return load(addresses)

    cold.load = noted
    try:
        call()
    finally:
        cold.load = load
    return out


def test_leaves_share_the_dictionary_of_their_run_and_answer_for_a_part_of_it():
    dictionary, codes = Dictionary.encode([f"value {i}" for i in range(5000)])
    count = len(codes)
    run = Rows(
        np.arange(count, dtype=np.int64),
        np.zeros(count, np.int32),
        Column(5, codes, dictionary),
        np.ones(count, np.int64),
    )
    index = built(Order.AEVT, [run], {"branching-factor": 512})
    leaves = leaves_of(index)
    assert len(leaves) == 10
    assert all(leaf.rows.v.dictionary is dictionary for leaf in leaves)
    assert sum(leaf.nbytes for leaf in leaves) < 2 * run.nbytes
    # Known values make no new dictionary; what a small leaf takes from a huge one is its own.
    same = Column.concat([run.v, Column.of(["value 3", "value 9"])])
    assert same.dictionary is dictionary
    assert run.slice(0, 5).owned().v.dictionary is not dictionary
    assert run.slice(0, 5).owned().e.base is None
    assert facts_of([run.slice(0, 5).owned()]) == facts_of([run.slice(0, 5)])


def test_a_flushed_leaf_does_not_hold_on_to_the_run_it_was_cut_from():
    class Keeping(Cold):
        def put(self, data, node):
            address = super().put(data, node)
            self.resident[address] = node
            return address

    keeping = Keeping(decode)
    index = built(Order.EAVT, runs_of(facts(100), Order.EAVT))
    clean, _ = index.flush(keeping)
    leaves = [node for node in keeping.resident.values() if isinstance(node, Leaf)]
    assert all(leaf.rows.e.base is None for leaf in leaves)
    assert facts_of(clean.slice()) == facts_of(index.slice())


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
    cold = Cold(decode)
    stored, _ = built(order, runs_of(facts(300), order)).flush(cold)
    gone = [Fact(e, 0, e, 1) for e in (3, 4, 5, 6, 150, 299)]
    # Those that are not there have their leaves read, and stay as they are.
    strangers = [Fact(9, 0, 10, 1), Fact(80, 0, 81, 1), Fact(200, 0, 201, 1)]
    after = cold.call(lambda: stored.merge([], runs_of([*gone, *strangers], order)))

    def check(node):
        if isinstance(node, Branch):
            for child, address in zip(node.nodes, node.addresses, strict=True):
                assert (child is None) == (address is not None)
                check(child)

    check(after._root)
    assert len(facts_of(cold.call(after.slice))) == 294
