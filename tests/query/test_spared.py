"""What a query reads is let go at once, and spared by the garbage collector while it is needed."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest

import datahike_async as d
from datahike_async import collector
from datahike_async.index.source import Address, NodeMiss, read
from datahike_async.query.limits.watch import Watch
from datahike_async.query.running import engine

pytestmark = pytest.mark.anyio


class Node:
    """Something that can be referred to weakly."""


class Source:
    """A source that sees, when it is asked for nodes, whether what was looked at lives."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[Node]] = []
        self.alive: list[bool] = []

    def get(self, address: Address) -> Any:
        return None

    async def fetch(self, addresses: Sequence[Address], pin: Any = None) -> None:
        self.alive = [ref() is not None for ref in self.seen]

    def pinned(self) -> Any:
        return nullcontext()


async def test_what_was_looked_at_before_a_miss_is_let_go() -> None:
    source = Source()

    def call() -> int:
        node = Node()
        source.seen.append(weakref.ref(node))
        if len(source.seen) < 3:
            raise NodeMiss(source, [Address("pack", 0, 1, 0)])
        return len(source.seen)

    gc.disable()
    try:
        assert await read(call) == 3
        assert source.alive == [False, False]
        assert [ref() for ref in source.seen] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize(("huge", "times"), [(1, 1), (10**9, 0)])
async def test_the_collector_spares_what_lives_while_very_much_is_read(
    monkeypatch: pytest.MonkeyPatch, huge: int, times: int
) -> None:
    found: list[int] = []

    def set_aside() -> Any:
        found.append(1)
        return nullcontext()

    monkeypatch.setattr(engine, "set_aside", set_aside)
    monkeypatch.setattr(engine, "LARGE", 0)
    monkeypatch.setattr(engine, "_HUGE", huge)
    db = d.init_db([(e, ":n", e) for e in range(1, 200)])
    assert len(await d.q("[:find ?e ?a ?v :where [?e ?a ?v]]", db)) == 199
    assert len(found) == times


async def test_the_collector_spares_what_a_large_input_is_bound_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen: dict[bool, list[bool]] = {False: [], True: []}
    look = Watch.look

    def looked(self: Watch, count: int) -> None:
        frozen[self.inside].append(collector._depth > 0)
        look(self, count)

    monkeypatch.setattr(Watch, "look", looked)
    many = dict.fromkeys(range(20_000), 1)
    assert await d.q("[:find (count ?x) . :in [[?x ?y]]]", many) == 20_000
    bound = frozen[True]
    assert bound
    assert all(bound)
    assert not any(frozen[False])


def test_what_an_event_loop_left_behind_is_collected_while_others_are_set_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = collector._full_collections

    def collecting() -> int:
        gc.collect()  # as any allocation there may
        return counted()

    monkeypatch.setattr(collector, "_full_collections", collecting)
    monkeypatch.setattr(collector, "_LONGEST", 0.0)

    class Left:
        """A block that nobody leaves, in a circle with itself."""

        def __init__(self) -> None:
            self.itself = self
            self.block = collector.set_aside()
            self.inside = self.block.__enter__()

    def work() -> None:
        with collector.set_aside():
            Left()
            gc.unfreeze()
            collector.spare()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert not collector._depth
    assert not gc.get_freeze_count()
