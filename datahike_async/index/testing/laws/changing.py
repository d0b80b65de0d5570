"""Laws of merging, of taking out for good, and of what two indexes do not share."""

from __future__ import annotations

from random import Random

from datahike_async.index.columns import Rows
from datahike_async.index.protocol import Order
from datahike_async.index.sums import in_order
from datahike_async.index.testing.cold import Cold
from datahike_async.index.testing.laws.common import EACH, Laws, many, present
from datahike_async.index.testing.model import VALUES, Fact, Model, facts_of

__all__ = ["ChangingLaws"]


class ChangingLaws(Laws):
    """What is merged is there, what is removed is not, and what was there before stays readable."""

    @EACH
    def test_any_batches(self, order: Order, temporal: bool) -> None:
        for seed in range(self.examples):
            random = Random(seed)
            index, model = self.empty(order, temporal), Model(order, temporal)
            history = []
            for t in range(6):
                history.append((index, model))
                # Few entities: many values of one, across the borders of nodes.
                size = random.choice((1, 5, 120))
                adds, removes = model.batch(random, t, size, spread=random.choice((4, 60)))
                sure = random.random() < 0.5
                if sure:
                    adds, removes = model.surely(adds, removes)
                index = index.merge(model.runs(adds), model.runs(removes), sure=sure)
                model = model.merge(adds, removes)
                model.check(index, lambda call: call())
            for old, was in history:
                was.check(old, lambda call: call())

    @EACH
    def test_runs_of_one_attribute_are_as_one(self, order: Order, temporal: bool) -> None:
        for seed in range(self.examples):
            random = Random(seed)
            index, model = self.empty(order, temporal), Model(order, temporal)
            for t in range(12):
                batch = model.batch(random, t, random.choice((5, 40)), spread=60)
                adds, removes = model.surely(*batch)
                cut = random.choice((1, 3, 8))
                sides = [
                    [piece for run in model.runs(side) for piece in _pieces(run, cut)]
                    for side in (adds, removes)
                ]
                index = index.merge(*sides, sure=True)
                model = model.merge(adds, removes)
                model.check(index, lambda call: call())

    @present
    def test_a_current_fact_is_found_whatever_its_transaction(self, order: Order) -> None:
        def facts(t: int) -> list[Fact]:
            return [Fact(e, 0, e % 7, t) for e in range(90)]

        index, model = self.made(order, False, facts(50))
        for t in (1, 99):
            assert len(index.merge([], model.runs(facts(t)))) == 0
            replaced = index.merge(model.runs(facts(t)), [])
            assert len(replaced) == 90
            assert {fact[3] for fact in facts_of(replaced.slice())} == {t}

    @present
    def test_an_interval_is_another_one_if_it_began_or_ended_otherwise(self, order: Order) -> None:
        facts = [Fact(e, 0, e % 3, t, u) for e in range(30) for t in (1, 2) for u in (5, 6)]
        index, model = self.made(order, True, facts)
        assert len(index) == len(facts)
        gone = [f for f in facts if (f.t, f.until) == (1, 6)]
        index, model = index.merge([], model.runs(gone)), model.merge([], gone)
        model.check(index, lambda call: call())
        assert len(index) == 90

    @EACH
    def test_what_is_not_there_is_not_removed(self, order: Order, temporal: bool) -> None:
        index, model = self.grown(order, temporal)
        until = 9 if temporal else None
        strangers = [Fact(e, a, "no such", 1, until) for e in (0, 5, 5000) for a in (0, 3, 9)]
        model.check(index.merge([], model.runs(strangers)), lambda call: call())

    @EACH
    def test_all_of_it_can_be_removed_and_come_again(self, order: Order, temporal: bool) -> None:
        index, model = self.grown(order, temporal)
        random, facts = Random(6), model.facts
        random.shuffle(facts)
        while facts:
            part, facts = facts[:150], facts[150:]
            index, model = index.merge([], model.runs(part), sure=True), model.merge([], part)
            model.check(index, lambda call: call())
        assert len(index) == 0
        again = many(temporal)
        model = model.merge(again, [])
        index = index.merge(model.runs(again), [], sure=True)
        model.check(index, lambda call: call())

    @EACH
    def test_values_of_every_kind_lie_side_by_side(self, order: Order, temporal: bool) -> None:
        until = 9 if temporal else None
        facts = [Fact(e, e % 2, v, 1, until) for e in range(40) for v in VALUES]
        index, model = self.made(order, temporal, facts)
        gone = facts[::3]
        index, model = index.merge([], model.runs(gone)), model.merge([], gone)
        model.check(index, lambda call: call())
        random = Random(7)
        for _ in range(2 * self.examples):
            lower, upper = model.bounds(random)
            assert facts_of(index.slice(lower, upper)) == model.said(lower, upper)

    @EACH
    def test_nothing_of_what_is_erased_is_left(self, order: Order, temporal: bool) -> None:
        index, model = self.made(order, temporal, many(temporal))
        until = 9 if temporal else None
        secret = [Fact(e, 1, "secret", 6, until) for e in range(0, 900, 45)]
        deep = [fact for fact in model.facts if fact.v == "v7"]
        index = index.merge(model.runs(secret), [])
        model = model.merge(secret, [])
        # Some came lately, some lie deep, and some of both were removed as others are.
        past = [*secret[3:5], *deep[1:3]]
        index, model = index.merge([], model.runs(past)), model.merge([], past)
        gone = [fact for fact in (*secret, *deep) if fact not in past]
        assert gone
        cold = Cold(self.factory.decode)
        index = index.erased(model.runs(gone), model.runs(past))
        model = model.merge([], gone)
        model.check(index, lambda call: call())
        _, root = index.flush(cold)
        for child, node, below in self.walk(root, cold.stored):
            runs = [run for runs in self.factory.buffered(node) for run in runs]
            if not below:
                runs.append(self.factory.rows(node))
            assert not {"secret", "v7"} & {v for run in runs for v in run.v.tolist()}, child
            assert "secret" not in str([each.key for each in below])

    @EACH
    def test_two_indexes_are_apart_by_what_only_one_has(self, order: Order, temporal: bool) -> None:
        left, model, cold, root = self.stored(order, temporal)
        random = Random(8)
        adds, removes = model.batch(random, 9, 20, spread=900)
        other = model.merge(adds, removes)
        right = cold.call(lambda: left.merge(model.runs(adds), model.runs(removes)))
        flushed = cold.call(lambda: right.flush(cold))[0]
        further = [Fact(450, 1, "new", 10, 11 if temporal else None)]
        later = cold.call(lambda: flushed.merge(model.runs(further), []))
        again = self.restored(order, temporal, root, cold)
        pairs = [
            (again, model, left, model),
            (left, model, right, other),
            (right, other, left, model),
            (left, model, flushed, other),
            (left, model, later, other.merge(further, [])),
            (left, model, self.empty(order, temporal), Model(order, temporal)),
        ]
        for one, ones, two, twos in pairs:
            runs = cold.call(lambda: one.apart(two))  # noqa: B023
            for side, mine, yours in zip(runs, (ones, twos), (twos, ones), strict=True):
                found, all_of_it = facts_of(side), mine.said()
                assert set(found) <= set(all_of_it)
                assert set(all_of_it) - set(yours.said()) <= set(found)
                assert all(in_order(run, order) for run in side)

    @present
    def test_what_two_indexes_share_is_left_out(self, order: Order) -> None:
        left, model = self.made(order, False, many(False))
        cold = Cold(self.factory.decode)
        left, _ = left.flush(cold)
        right = cold.call(lambda: left.merge(model.runs([Fact(450, 1, "new", 9)]), []))
        runs = cold.call(lambda: left.apart(right))
        assert sum(len(run) for side in runs for run in side) < len(model) // 2
        assert cold.call(lambda: left.apart(left)) == ([], [])


def _pieces(run: Rows, rows: int) -> list[Rows]:
    """Return a run as several, one after another, of so many rows."""
    return [run.slice(i, min(i + rows, len(run))) for i in range(0, len(run), rows)]
