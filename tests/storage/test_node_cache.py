from __future__ import annotations

import threading

from datahike_async.index.source import Address
from datahike_async.memory import Slack
from datahike_async.storage.nodes.cache import NodeCache


class Node:
    def __init__(self, nbytes: int = 100) -> None:
        self.nbytes = nbytes


def at(i: int) -> Address:
    return Address("pack/x", i, 1, 0)


def test_what_was_put_is_found() -> None:
    cache = NodeCache(1000)
    node = Node()
    cache.put(at(1), node)
    assert cache.get(at(1)) is node
    assert cache.get(at(2)) is None


def test_the_bound_holds_and_what_is_used_stays() -> None:
    cache = NodeCache(1000)
    used = Node()
    cache.put(at(0), used)
    for i in range(1, 200):
        cache.put(at(i), Node())
        assert cache.get(at(0)) is used
        assert len(cache) <= 10
    assert cache.get(at(1)) is None


def test_one_node_above_the_bound_is_kept_alone() -> None:
    cache = NodeCache(10)
    cache.put(at(1), Node(1000))
    assert cache.get(at(1)) is not None


def test_a_pin_keeps_what_is_put_with_it_until_its_block_is_left() -> None:
    cache = NodeCache(1000)
    with cache.pinned() as pin:
        first = Node()
        cache.put(at(0), first, pin)
        for i in range(1, 100):
            cache.put(at(i), Node(), pin)
        assert cache.get(at(0)) is first
        with cache.pinned() as other:
            cache.put(at(500), Node(), other)
        assert cache.get(at(1)) is not None
    for i in range(200, 300):
        cache.put(at(i), Node())
    assert cache.get(at(1)) is None


def test_what_is_put_with_a_pin_pushes_nothing_out_before_its_block_is_left() -> None:
    cache = NodeCache(1000)
    for i in range(5):
        cache.put(at(i), Node())
    with cache.pinned() as pin:
        for i in range(100, 200):
            cache.put(at(i), Node(), pin)
            cache.put(at(i), Node(), pin)
        assert all(cache.get(at(i)) is not None for i in range(5))
        assert sum(pin.sizes) == 100 * Node().nbytes
    # Then there is room for half of the bound, and the newest come in.
    assert len(cache) <= 10
    assert cache.get(at(199)) is not None
    assert cache.get(at(100)) is None


def test_what_many_pins_held_comes_in_by_as_much_as_there_is_room_for() -> None:
    cache = NodeCache(1000)
    for start in range(0, 300, 3):
        with cache.pinned() as pin:
            for i in range(3):
                cache.put(at(start + i), Node(), pin)
        assert len(cache) <= 10
        assert cache.get(at(start)) is not None


def test_a_pin_keeps_nothing_that_others_put() -> None:
    cache = NodeCache(1000)
    with cache.pinned() as mine, cache.pinned() as theirs:
        for i in range(100):
            cache.put(at(i), Node(), theirs)
        cache.put(at(200), Node())
        assert len(theirs) == 100
        assert mine == {}


def test_what_is_let_go_of_is_told() -> None:
    told: list[int] = []

    class Told(Slack):
        def add(self, size: int) -> None:
            told.append(size)

    cache = NodeCache(1000, Told(None))
    for i in range(100):
        cache.put(at(i), Node())
    # Half of the bound becomes old at a time, and as much that was old goes.
    assert told == [500] * 19


def test_threads_may_read_and_put_at_once() -> None:
    cache = NodeCache(5_000)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for i in range(5_000):
                key = at((i * 7 + seed) % 97)
                node = cache.get(key)
                if node is None:
                    with cache.pinned() as pin:
                        cache.put(key, Node(), pin)
                        assert cache.get(key) is not None
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(cache) <= 60
