"""A machine of hypothesis: merges, flushes, restores, forgetting and reads in any order."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from datahike_async.index.protocol import Index, IndexFactory, Order
from datahike_async.index.testing.cold import Cold
from datahike_async.index.testing.model import Fact, Model, facts_of, looked_up

__all__ = ["index_machine"]

_SEEDS = st.integers(0, 2**32)


def index_machine(factory: IndexFactory, config: Mapping[str, Any]) -> type[RuleBasedStateMachine]:
    """Return a machine that does anything to an index of a factory, and holds it to a list.

    ``config`` is complete, as ``check_config`` returns it.
    """

    class IndexMachine(RuleBasedStateMachine):
        index: Index
        model: Model

        @initialize(
            order=st.sampled_from(Order),
            temporal=st.booleans(),
            seed=_SEEDS,
            size=st.sampled_from((0, 20, 400)),
        )
        def begin(self, order: Order, temporal: bool, seed: int, size: int) -> None:
            self.cold = Cold(factory.decode)
            empty = Model(order, temporal)
            facts, _ = empty.batch(Random(seed), 1, size)
            self.model = empty.merge(facts, [])
            self.index = factory.empty(order, temporal, config).merge(empty.runs(facts), [])
            self.time = 1
            self.old: list[tuple[Mapping[str, Any], Model]] = []
            self.before: list[tuple[Index, Model]] = []

        @rule(
            seed=_SEEDS,
            size=st.sampled_from((1, 10, 150)),
            spread=st.sampled_from((5, 400)),
            sure=st.booleans(),
        )
        def merge(self, seed: int, size: int, spread: int, sure: bool) -> None:
            self.time += 1
            index, model = self.index, self.model
            self.before.append((index, model))
            adds, removes = model.batch(Random(seed), self.time, size, spread)
            if sure:
                adds, removes = model.surely(adds, removes)
            runs, gone = model.runs(adds), model.runs(removes)
            self.index = self.cold.call(lambda: index.merge(runs, gone, sure=sure))
            self.model = model.merge(adds, removes)
            assert len(index) == len(model), "the index that was merged into stays as it was"

        @rule(seed=_SEEDS, share=st.sampled_from((0.1, 0.9)))
        def remove_many(self, seed: int, share: float) -> None:
            facts, index, model = self.model.facts, self.index, self.model
            gone = Random(seed).sample(facts, int(len(facts) * share))
            self.index = self.cold.call(lambda: index.merge([], model.runs(gone), sure=True))
            self.model = model.merge([], gone)

        @rule(seed=_SEEDS)
        def erase(self, seed: int) -> None:
            facts, index, model = self.model.facts, self.index, self.model
            gone = Random(seed).sample(facts, min(len(facts), 5))
            self.index = self.cold.call(lambda: index.erased(model.runs(gone)))
            self.model = model.merge([], gone)

        @rule(restore=st.booleans())
        def flush(self, restore: bool) -> None:
            self.index, root = self.index.flush(self.cold)
            if restore:
                index = self.index
                self.index = factory.restore(index.order, index.temporal, root, self.cold)
            self.old.append((root, self.model))

        @rule(seed=_SEEDS, share=st.sampled_from((0.3, 1.0)))
        def forget(self, seed: int, share: float) -> None:
            self.cold.forget(Random(seed), share)

        @rule(seed=_SEEDS)
        def read_between(self, seed: int) -> None:
            random, index = Random(seed), self.index
            for _ in range(5):
                lower, upper = self.model.bounds(random)
                wanted = self.model.said(lower, upper)
                self.cold.forget(random, 0.3)
                assert facts_of(self.cold.call(lambda: index.slice(lower, upper))) == wanted  # noqa: B023
                assert self.cold.call(lambda: index.count_slice(lower, upper)) == len(wanted)  # noqa: B023
                back = random.random() < 0.5
                chunks = self.cold.call(lambda: index.chunks(lower, upper, reverse=back))  # noqa: B023
                assert facts_of(chunks) == (wanted[::-1] if back else wanted)

        @rule(seed=_SEEDS, size=st.integers(1, 3))
        def look_up(self, seed: int, size: int) -> None:
            random, index, model = Random(seed), self.index, self.model
            facts = random.sample(model.facts, min(len(model), 30))
            parts = [f.parts(model.order)[:size] for f in (*facts, Fact(3, 1, "no", 0))]
            keyed = {model.bound(part): part for part in parts}
            bounds = [keyed[key] for key in sorted(keyed)]
            self.cold.forget(random, 0.3)
            found = self.cold.call(lambda: looked_up(index, bounds))
            assert found == [model.said(b, b) for b in bounds]

        @rule()
        def read_all(self) -> None:
            self.model.check(self.index, self.cold.call)

        @rule(seed=_SEEDS)
        def look_back(self, seed: int) -> None:
            if self.old:
                root, was = Random(seed).choice(self.old)
                restored = factory.restore(was.order, was.temporal, root, self.cold)
                was.check(restored, self.cold.call)

        @rule(seed=_SEEDS)
        def look_at_one_before(self, seed: int) -> None:
            if self.before:
                index, was = Random(seed).choice(self.before)
                was.check(index, self.cold.call)

        @invariant()
        def has_as_many(self) -> None:
            if hasattr(self, "model"):
                assert len(self.index) == len(self.model)

    return IndexMachine
