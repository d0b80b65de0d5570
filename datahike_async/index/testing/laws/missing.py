"""Laws of missing: what is not resident is asked for level by level, and the answer is the same."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from datahike_async.index.protocol import Index, Order
from datahike_async.index.testing.laws.common import EACH, Laws
from datahike_async.index.testing.model import columns_of, facts_of, looked_up

__all__ = ["MissingLaws"]


class MissingLaws(Laws):
    """A method that needs a node which is not resident names it, and works when called again."""

    @EACH
    def test_a_miss_names_what_is_missing_of_a_level(self, order: Order, temporal: bool) -> None:
        _, model, cold, root = self.stored(order, temporal)
        random = Random(12)
        depth = self.depth(root, cold.stored)
        assert depth > 1, "with this configuration 900 facts lie in one node: give it smaller ones"
        facts = model.facts
        bounds = [facts[i].parts(order) for i in range(0, len(facts), 40)]
        heads = list(dict.fromkeys(bound[:1] for bound in bounds))
        adds, removes = model.batch(random, 9, 60, spread=900)
        runs, gone = model.runs(adds), model.runs(removes)
        low, high = facts[len(facts) // 3].parts(order), facts[len(facts) // 2].parts(order)[:2]
        calls: list[Callable[[Index], Any]] = [
            lambda index: index.slice(),
            lambda index: index.slice(low, high),
            lambda index: index.slice(low, low),
            lambda index: index.count_slice(low, high),
            lambda index: index.lookup_many(columns_of(bounds)),
            lambda index: index.lookup_many(columns_of(heads)),
            lambda index: index.addresses(),
            lambda index: index.loosened([cold.blob]),
        ]
        if order is Order.AEVT:
            calls.append(lambda index: index.cuts((1,), (1,), 50))
        for call in calls:
            cold.forget()
            index = self.restored(order, temporal, root, cold)
            _, waves = cold.waves(lambda: call(index))  # noqa: B023
            assert 0 < waves <= depth, call
        # Where a change reads what it found before it reads further, that is another pass.
        changes: list[Callable[[Index], Any]] = [
            lambda index: index.merge(runs, gone),
            lambda index: index.erased(gone),
            lambda index: index.apart(self.empty(order, temporal)),
        ]
        for change in changes:
            cold.forget()
            index = self.restored(order, temporal, root, cold)
            _, waves = cold.waves(lambda: change(index))  # noqa: B023
            assert 0 < waves <= 2 * depth

    @EACH
    def test_answers_are_the_same_whatever_is_resident(self, order: Order, temporal: bool) -> None:
        index, model, cold, root = self.stored(order, temporal, seed=13)
        random = Random(13)

        def call(function: Callable[[], Any]) -> Any:
            cold.forget(random, 0.5)
            return cold.call(function)

        for t in range(9, 9 + self.examples):
            lower, upper = model.bounds(random)
            wanted = model.said(lower, upper)
            assert facts_of(call(lambda: index.slice(lower, upper))) == wanted  # noqa: B023
            assert facts_of(call(lambda: index.chunks(lower, upper))) == wanted  # noqa: B023
            back = call(lambda: index.chunks(lower, upper, reverse=True))  # noqa: B023
            assert facts_of(back) == wanted[::-1]
            assert call(lambda: index.count_slice(lower, upper)) == len(wanted)  # noqa: B023
            keyed = {model.bound(f.parts(order)): f.parts(order) for f in model.facts[::9]}
            bounds = [keyed[key] for key in sorted(keyed)]
            found = call(lambda: looked_up(index, bounds))  # noqa: B023
            assert found == [model.said(b, b) for b in bounds]
            adds, removes = model.batch(random, t, 40, spread=900)
            before, runs, gone = index, model.runs(adds), model.runs(removes)
            index = call(lambda: before.merge(runs, gone))  # noqa: B023
            model = model.merge(adds, removes)
            if t % 2:
                index, root = index.flush(cold)
                index = self.restored(order, temporal, root, cold)
        model.check(index, call)

    @EACH
    def test_reading_part_by_part_reads_no_more_than_it_needs(
        self, order: Order, temporal: bool
    ) -> None:
        for reverse in (False, True):
            index, model, cold, root = self.stored(order, temporal)
            chunk = cold.call(lambda: [next(index.chunks(reverse=reverse))])[0]  # noqa: B023
            wanted = model.said()[:: -1 if reverse else 1]
            assert facts_of([chunk]) == wanted[: len(chunk)]
            whole = sum(1 for _ in self.walk(root, cold.stored))
            assert len(cold.asked) < whole // 2

    @EACH
    def test_what_is_stored_is_not_held(self, order: Order, temporal: bool) -> None:
        """An index asks for stored nodes again: the cache decides what stays in memory."""
        index, model, cold, root = self.stored(order, temporal)
        fact = model.facts[len(model) // 2]
        gone, left = model.runs([fact]), model.merge([], [fact])
        for reader, was in ((index, model), (cold.call(lambda: index.merge([], gone)), left)):
            was.check(reader, cold.call)
            cold.forget()
            cold.asked.clear()
            was.check(reader, cold.call)
            # All but the top, and what the change made new.
            assert len(cold.asked) > sum(1 for _ in self.walk(root, cold.stored)) * 2 // 3
