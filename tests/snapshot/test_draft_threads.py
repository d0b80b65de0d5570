"""OS threads that speculate on one value at once: each gets its own future, the value its past.

The threads run one line of the shared code at a time, in an order that a seed decides; so what
fails once fails always.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import datahike_async as d

THREADS, SEEDS = 3, 40
SHARED = ("draft.py", "memtable.py", "snapshot.py")
SCHEMA = {":name": {":db/unique": ":db.unique/identity"}, ":n": {":db/index": True}}
NAME, N = d.kw("name"), d.kw("n")


class Turns:
    """Lets one thread run at a time, and another perhaps after every line of the shared code."""

    def __init__(self, seed: int, count: int) -> None:
        self.rng = random.Random(seed)
        self.running = list(range(count))
        self.turn = [threading.Semaphore(0) for _ in range(count)]

    def trace(self, i: int) -> Any:
        def line(frame: Any, event: str, arg: Any) -> Any:
            following = self.rng.choice(self.running)
            if following != i:
                self.turn[following].release()
                self.turn[i].acquire()
            return line

        return lambda frame, *_: line if frame.f_code.co_filename.endswith(SHARED) else None

    def leave(self, i: int) -> None:
        self.running.remove(i)
        if self.running:
            self.turn[self.rng.choice(self.running)].release()


def together(seed: int, work: Callable[[int], None]) -> list[BaseException]:
    """Call ``work(i)`` in several threads that take turns, and return what went wrong."""
    turns = Turns(seed, THREADS)
    wrong: list[BaseException] = []

    def run(i: int) -> None:
        turns.turn[i].acquire()
        sys.settrace(turns.trace(i))
        try:
            work(i)
        except BaseException as error:
            wrong.append(error)
        finally:
            sys.settrace(None)
            turns.leave(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    turns.turn[0].release()
    for thread in threads:
        thread.join()
    return wrong


def now(coroutine: Any) -> Any:
    """Run a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a value in memory waited")


def facts(db: d.Database) -> list[tuple[Any, ...]]:
    return sorted(((x.e, x.a, x.v) for x in now(db.datoms("eavt"))), key=repr)


@pytest.mark.parametrize("failures", [0, 2])
def test_threads_that_speculate_on_one_value(failures):
    def work(i: int) -> None:
        data = [{":db/id": 1, ":n": i + 1}, {":name": f"name {i}"}]
        for _ in range(failures):
            with pytest.raises(d.TransactionError):
                now(base.db_with([*data, [":db/add", 1, ":name", None]]))
        after = now(base.db_with(data))
        eid = now(after.entid([":name", f"name {i}"]))
        expected = sorted(
            [(1, N, i + 1), (1, NAME, "base"), (eid, NAME, f"name {i}")],
            key=repr,
        )
        assert facts(after) == expected
        # One step further, from a value that is this thread's own.
        again = now(after.db_with([{":db/id": 1, ":n": -1 - i}]))
        assert (1, N, -1 - i) in facts(again)
        assert facts(after) == expected

    for seed in range(SEEDS):
        # A fresh tip every time: one thread may write there, the others must not.
        base = now(d.empty_db(SCHEMA).db_with([{":db/id": 1, ":name": "base", ":n": 0}]))
        before = facts(base)
        assert together(seed, work) == [], f"seed {seed}"
        assert facts(base) == before


def test_one_thread_at_a_time_writes_at_the_tip_without_a_copy():
    base = now(d.empty_db(SCHEMA).db_with([{":db/id": 1, ":n": 0}]))
    with pytest.raises(d.TransactionError):
        now(base.db_with([{":db/id": 1, ":n": 1}, [":db/add", 1, ":name", None]]))
    after = now(base.db_with([{":db/id": 1, ":n": 1}]))
    assert after.snapshot.mem is base.snapshot.mem
