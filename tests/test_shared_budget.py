"""What many tasks take of one turn of the event loop is counted together, and shared in order."""

from __future__ import annotations

from collections import Counter
from functools import partial
from uuid import uuid4

import anyio
import pytest
from anyio.lowlevel import checkpoint

import datahike_async as d
from datahike_async import pausing
from datahike_async.env import Env
from datahike_async.transactor.limits import Limits

pytestmark = pytest.mark.anyio

TASKS = 50
WORK = pausing.BUDGET / 5


class Clock:
    """Stands still but for the work that is said to be done."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pausing, "perf_counter", made)
    monkeypatch.setattr(pausing._slice, "until", 0.0)
    return made


async def test_many_readers_hold_up_a_turn_no_longer_than_few_do(clock: Clock) -> None:
    done: Counter[int] = Counter()
    turns: list[float] = []

    async def reader(number: int) -> None:
        while len(turns) < 400:
            clock.now += WORK
            done[number] += 1
            await pausing.pause()

    async def ticker() -> None:
        before = clock.now
        while len(turns) < 400:
            await checkpoint()
            turns.append(clock.now - before)
            before = clock.now

    async with anyio.create_task_group() as group:
        for number in range(TASKS):
            group.start_soon(reader, number)
        group.start_soon(ticker)
    # The first work of each is done before anybody asks.
    late = sorted(turns[5:])
    assert late[len(late) // 2] <= 2 * pausing.BUDGET
    assert late[-1] <= 6 * pausing.BUDGET
    # First come, first served: nobody is passed over.
    assert len(done) == TASKS
    assert max(done.values()) <= min(done.values()) + 6


async def test_readers_of_another_event_loop_use_up_their_own(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0

    async def counted() -> None:
        nonlocal turns
        turns += 1
        await checkpoint()

    async def read() -> None:
        await pausing.pause()

    monkeypatch.setattr(pausing, "checkpoint", counted)
    # Now they have a slice, and no time goes by.
    await anyio.to_thread.run_sync(partial(anyio.run, read))
    assert turns == 1
    await pausing.pause()
    assert turns == 2


async def test_a_reader_that_is_cancelled_in_the_queue_leaves_it_to_the_others(
    clock: Clock,
) -> None:
    finished = []

    async def reader(number: int) -> None:
        for _ in range(10):
            clock.now += 1.0
            await pausing.pause()
        finished.append(number)

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(reader, number)
        async with anyio.create_task_group() as others:
            for number in range(6, 12):
                others.start_soon(reader, number)
            await checkpoint()
            others.cancel_scope.cancel()
    assert sorted(finished) == list(range(6))


async def test_a_writer_with_a_long_queue_lets_others_in_between() -> None:
    turns = 0
    seen: list[int] = []

    async def note(db: d.Database) -> list[object]:
        seen.append(turns)
        return []

    async def ticker() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    config = {"store": {"backend": "memory", "id": str(uuid4())}}
    await d.create_database(config)
    # Every look at this clock is a millisecond after the one before.
    limits = Limits(group_seconds=1.0)
    async with (
        d.connect(config, env=Env.seeded(1), limits=limits) as conn,
        anyio.create_task_group() as group,
    ):
        async with anyio.create_task_group() as senders:
            for _ in range(20):
                senders.start_soon(conn.transact, [[":db.fn/call", note]])
            group.start_soon(ticker)
        group.cancel_scope.cancel()
    assert len(seen) == 20
    # trio takes tasks in any order: between two steps of one, another has had at least one.
    assert all(later > earlier for earlier, later in zip(seen, seen[2:], strict=False))
    await d.delete_database(config)
