"""What the laws share: the factory under test, the six kinds of index, and ways to make one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

import pytest

from datahike_async.index.codec import pack, unpack
from datahike_async.index.protocol import Child, Index, IndexFactory, Order
from datahike_async.index.source import Address
from datahike_async.index.testing.cold import Cold
from datahike_async.index.testing.model import Fact, Model

__all__ = ["EACH", "Laws", "Walked", "many", "present"]

EACH: Final = pytest.mark.parametrize(
    ("order", "temporal"),
    [(order, temporal) for order in Order for temporal in (False, True)],
    ids=[f"{prefix}{order.value}" for order in Order for prefix in ("", "temporal-")],
)
present: Final = pytest.mark.parametrize("order", Order, ids=[order.value for order in Order])

MANY: Final = 900


def many(temporal: bool, count: int = MANY) -> list[Fact]:
    """Return so many facts of three attributes that small nodes lie in several levels."""
    ends = (lambda e: 5 + e % 3) if temporal else (lambda _: None)
    return [
        Fact(e, e % 3, e * 7 % 100 if e % 3 else f"v{e % 50}", 1, ends(e)) for e in range(count)
    ]


class Walked(NamedTuple):
    """A node that is reached from a root: what is said of it, itself, and those below it."""

    child: Child
    node: Any
    below: Sequence[Child]


class Laws:
    """The index under test, and ways to make one."""

    factory: IndexFactory
    """What makes the indexes under test."""
    config: Mapping[str, Any] = {}
    """An ``:index-config`` with small nodes: 900 facts should lie in three levels or more."""
    examples: int = 3
    """So many times what is random is done anew."""

    _kept: dict[tuple[Any, ...], Any]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # What many laws begin with is made once.
        cls._kept = {}

    def checked(self) -> Mapping[str, Any]:
        """Return the configuration, completed."""
        return self.factory.check_config(self.config)

    def empty(self, order: Order, temporal: bool) -> Index:
        """Return an index without facts."""
        return self.factory.empty(order, temporal, self.checked())

    def made(self, order: Order, temporal: bool, facts: Sequence[Fact]) -> tuple[Index, Model]:
        """Return an index of facts, and the list that it is held to."""
        model = Model(order, temporal).merge(facts, [])
        return self.empty(order, temporal).merge(model.runs(model.facts), []), model

    def grown(self, order: Order, temporal: bool, seed: int = 0) -> tuple[Index, Model]:
        """Return an index of many facts, changed several times since: nothing is stored."""
        kept = self._kept.get((order, temporal, seed))
        if kept is not None:
            return kept  # type: ignore[no-any-return]
        random = Random(seed)
        index, model = self.made(order, temporal, many(temporal))
        for t in range(2, 6):
            adds, removes = model.batch(random, t, 60, spread=900)
            index = index.merge(model.runs(adds), model.runs(removes))
            model = model.merge(adds, removes)
        self._kept[order, temporal, seed] = index, model
        return index, model

    def stored(
        self, order: Order, temporal: bool, seed: int = 0
    ) -> tuple[Index, Model, Cold, Mapping[str, Any]]:
        """Return an index restored from a store of which nothing is resident; its root, too.

        It was flushed several times, so that it is made of nodes of different ages.
        """
        cold = Cold(self.factory.decode)
        kept = self._kept.get(("stored", order, temporal, seed))
        if kept is not None:
            stored, model, root = kept
            cold.stored.update(stored)
            return self.restored(order, temporal, root, cold), model, cold, root
        random = Random(seed)
        index, model = self.made(order, temporal, many(temporal))
        for t in range(2, 6):
            index, _ = index.flush(cold)
            adds, removes = model.batch(random, t, 60, spread=900)
            before = index
            index = cold.call(lambda: before.merge(model.runs(adds), model.runs(removes)))  # noqa: B023
            model = model.merge(adds, removes)
        _, root = index.flush(cold)
        self._kept["stored", order, temporal, seed] = dict(cold.stored), model, root
        cold.forget()
        cold.asked.clear()
        return self.restored(order, temporal, root, cold), model, cold, root

    def restored(self, order: Order, temporal: bool, root: Mapping[str, Any], cold: Cold) -> Index:
        """Return the index of a root that was written and read."""
        return self.factory.restore(order, temporal, unpack(pack(dict(root))), cold)

    def walk(self, root: Mapping[str, Any], stored: Mapping[Address, bytes]) -> Iterator[Walked]:
        """Iterate over the nodes that a root reaches, each before those below it."""
        top = self.factory.top(root)
        waiting = [] if top is None else [top]
        while waiting:
            child = waiting.pop()
            node = self.factory.decode(stored[child.address])
            below = self.factory.below(node)
            yield Walked(child, node, below)
            waiting += reversed(below)

    def depth(self, root: Mapping[str, Any], stored: Mapping[Address, bytes]) -> int:
        """Return how many levels of nodes a root reaches."""
        level = [] if (top := self.factory.top(root)) is None else [top]
        depth = 0
        while level:
            nodes = [self.factory.decode(stored[child.address]) for child in level]
            level = [child for node in nodes for child in self.factory.below(node)]
            depth += 1
        return depth
