"""Laws of reading: order, bounds, counts, estimates, cuts, and many lookups at once."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from datahike_async.index.protocol import Order
from datahike_async.index.testing.laws.common import EACH, Laws, many, present
from datahike_async.index.testing.model import Fact, facts_of, looked_up

__all__ = ["ReadingLaws"]


class ReadingLaws(Laws):
    """What is read is what a sorted list would give."""

    def test_an_empty_index_has_nothing(self) -> None:
        for order in Order:
            index = self.empty(order, False)
            assert (index.order, index.temporal, len(index)) == (order, False, 0)
            assert facts_of(index.slice()) == []
            assert list(index.chunks()) == []
            assert index.count_slice((1,), (2,)) == 0
            assert index.estimate() == (0, True)
            assert looked_up(index, [(1, 1), (2, 1)]) == [[], []]
            assert list(index.addresses()) == []
            assert index.at_depth(0) is index.at_depth(1) is None
            assert index.source is None

    @EACH
    def test_facts_come_in_order_whatever_their_values(self, order: Order, temporal: bool) -> None:
        index, model = self.grown(order, temporal)
        model.check(index, lambda call: call())

    @EACH
    def test_bounds_take_in_what_begins_with_them(self, order: Order, temporal: bool) -> None:
        index, model = self.grown(order, temporal)
        random = Random(1)
        for _ in range(12 * self.examples):
            lower, upper = model.bounds(random)
            wanted = model.said(lower, upper)
            assert facts_of(index.slice(lower, upper)) == wanted
            assert index.count_slice(lower, upper) == len(wanted)

    @EACH
    def test_chunks_come_both_ways(self, order: Order, temporal: bool) -> None:
        index, model = self.grown(order, temporal)
        random = Random(2)
        bounds = [model.bounds(random) for _ in range(4 * self.examples)]
        for lower, upper in [((), ()), *bounds]:
            wanted = model.said(lower, upper)
            assert facts_of(index.chunks(lower, upper)) == wanted
            assert facts_of(index.chunks(lower, upper, reverse=True)) == wanted[::-1]

    @present
    def test_chunks_are_parts(self, order: Order) -> None:
        index, _ = self.made(order, False, many(False))
        chunks = list(index.chunks())
        assert len(chunks) > 5, "all of it in a few chunks is no reading part by part"
        assert all(len(chunk) for chunk in chunks)
        if order is not Order.EAVT:
            assert all(len(set(chunk.a.tolist())) == 1 for chunk in chunks)

    def test_bounds_that_python_takes_for_equal_are_not(self) -> None:
        values = [1, 1.0, True, (1,), (True,), (1.0,)]
        index, _ = self.made(Order.AVET, False, [Fact(i, 0, v, 1) for i, v in enumerate(values)])
        for e, v in enumerate(values):
            assert [f[0] for f in facts_of(index.slice((0, v), (0, v)))] == [e]
            assert index.count_slice((0, v), (0, v)) == 1
        assert {f[0] for f in facts_of(index.slice((0, True), (0, 1.0)))} == {0, 1, 2}
        assert {f[0] for f in facts_of(index.slice((0, (True,)), (0, (1.0,))))} == {3, 4, 5}
        assert index.count_slice((0, 1), (0, 1.0)) == 2
        assert facts_of(index.slice((0, 1.0), (0, 1))) == []

    @EACH
    def test_an_estimate_that_is_sure_is_exact(self, order: Order, temporal: bool) -> None:
        index, model = self.grown(order, temporal)
        random = Random(3)
        for _ in range(4 * self.examples):
            lower, upper = model.bounds(random)
            count, sure = index.estimate(lower, upper)
            assert 0 <= count <= len(model)
            assert not sure or count == len(model.said(lower, upper))
        assert index.estimate() == (len(model), True)

    @EACH
    def test_an_estimate_reads_nothing(self, order: Order, temporal: bool) -> None:
        index, model, cold, _ = self.stored(order, temporal)
        random = Random(4)
        for _ in range(4 * self.examples):
            lower, upper = model.bounds(random)
            count, sure = index.estimate(lower, upper)
            assert not cold.asked
            assert 0 <= count <= len(model)
            assert not sure or count == len(model.said(lower, upper))
        cold.call(index.slice)
        assert index.estimate()[0] == len(model)

    def test_cuts_part_an_attribute_evenly(self) -> None:
        facts = [Fact(e, 1, e % 9, 1) for e in range(2000)]
        others = [Fact(e, a, 0, 1) for e in range(100) for a in (0, 2)]
        index, model = self.made(Order.AEVT, False, [*facts, *others])
        for rows in (150, 500):
            cuts = index.cuts((1,), (1,), rows)
            assert cuts == sorted(set(cuts))
            edges = [0, *cuts, 2000]
            assert all(0 < j - i <= 3 * rows for i, j in pairwise(edges)), cuts
            assert len(cuts) <= 4 * 2000 // rows
        assert index.cuts((1,), (1,), 10**6) == []
        cuts = index.cuts((1, 500), (1, 1499), 150)
        assert all(500 <= e < 1500 for e in cuts)
        assert len(model) == 2200

    def test_cuts_name_an_entity_of_many_rows_once(self) -> None:
        facts = [Fact(e, 1, v, 1) for e in (3, 5, 9) for v in range(600)]
        index, _ = self.made(Order.AEVT, False, facts)
        cuts = index.cuts((1,), (1,), 100)
        assert cuts == sorted(set(cuts))
        assert {5, 9} <= set(cuts) <= {3, 5, 9}

    def test_cuts_read_no_leaves(self) -> None:
        index, _, cold, root = self.stored(Order.AEVT, False)
        cold.call(lambda: index.cuts((1,), (1,), 100))
        leaves = {each.child.address for each in self.walk(root, cold.stored) if not each.below}
        assert not leaves & set(cold.asked)

    @EACH
    def test_many_are_looked_up_as_one_by_one(self, order: Order, temporal: bool) -> None:
        index, model = self.grown(order, temporal)
        random = Random(5)
        for size in (1, 2, 3):
            for count in (1, 5, 200):
                known = random.sample(model.facts, min(count, len(model)))
                others, _ = model.batch(random, 9, count // 2)
                parts = [f.parts(order)[:size] for f in (*known, *others)]
                keyed = {model.bound(part): part for part in parts}
                bounds = [keyed[key] for key in sorted(keyed)]
                assert looked_up(index, bounds) == [model.said(b, b) for b in bounds]

    @present
    def test_a_bound_may_have_rows_in_many_nodes(self, order: Order) -> None:
        facts = [
            Fact(e, a, v, 1) for e in range(1, 40) for a in range(3) for v in (e % 5, f"s{e % 7}")
        ]
        index, model = self.made(order, False, facts)
        for size in (1, 2, 3):
            keyed = {model.bound(f.parts(order)[:size]): f.parts(order)[:size] for f in facts}
            bounds = [keyed[key] for key in sorted(keyed)]
            assert looked_up(index, bounds) == [model.said(b, b) for b in bounds]

    @present
    def test_a_fact_has_as_many_rows_as_intervals(self, order: Order) -> None:
        facts = [Fact(e, 0, e % 3, t, t + 1) for e in range(60) for t in range(1, 2 + (e % 5 == 0))]
        index, model = self.made(order, True, facts)
        keyed = {model.bound(f.parts(order)): f.parts(order) for f in facts}
        bounds = [keyed[key] for key in sorted(keyed)]
        assert looked_up(index, bounds) == [model.said(b, b) for b in bounds]

    def test_bounds_of_the_attribute_after_find_nothing_of_the_one_before(self) -> None:
        facts = [Fact(1, 0, v, 0) for v in range(5)] + [Fact(1, 1, 0, 0)]
        index, model = self.made(Order.AEVT, False, facts)
        bounds = [(a, 1, v) for a in (0, 1) for v in range(5)]
        assert looked_up(index, bounds) == [model.said(b, b) for b in bounds]
