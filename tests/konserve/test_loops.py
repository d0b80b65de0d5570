"""What belongs to an event loop, and threads that nobody leaves behind when he is cancelled."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from datahike_async.konserve import OutcomeUnknown
from datahike_async.konserve.base import gather
from datahike_async.konserve.loops import Home, Signal, is_interruption, outlast, start, surely
from datahike_async.konserve.threads import (
    await_on_loop,
    check_cancelled,
    in_thread,
)


@pytest.mark.anyio
async def test_the_cancellation_of_a_scope_is_no_interruption() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            assert not is_interruption()
            raise
    assert is_interruption()


def test_outlasting_waits_on_and_raises_afterwards() -> None:
    async def main() -> None:
        event = anyio.Event()
        task = asyncio.create_task(outlast(event.wait))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.sleep(0.001)
        assert not task.done()
        event.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@pytest.mark.anyio
async def test_a_task_of_the_loop_outlives_who_started_it_and_may_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done = anyio.Event()

    async def work() -> None:
        await anyio.sleep(0.01)
        done.set()
        raise ValueError("of its own")

    async def starter() -> None:
        start(work, "some work")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(starter)
    with anyio.fail_after(5):
        await done.wait()
    await anyio.sleep(0.001)
    assert "some work failed" in caplog.text


@pytest.mark.anyio
async def test_home_is_the_loop_the_thread_and_the_process() -> None:
    home = Home()
    assert home.elsewhere() is None

    async def here() -> str | None:
        return home.elsewhere()

    found = await anyio.to_thread.run_sync(anyio.run, here)
    assert found is not None
    assert "another thread" in found
    assert "another thread" in (await anyio.to_thread.run_sync(home.elsewhere) or "")
    assert not home.forked


def test_a_loop_that_has_ended_is_no_home_any_more() -> None:
    async def made() -> Home:
        return Home()

    async def here(home: Home) -> str | None:
        return home.elsewhere()

    for backend in ("asyncio", "trio"):
        home = anyio.run(made, backend=backend)
        assert "another event loop" in (anyio.run(here, home, backend=backend) or "")
        assert "no event loop" in (home.elsewhere() or "")
        assert home.elsewhere(waiting=False) is None
        assert not home.call_soon(lambda: None)


@pytest.mark.parametrize("which", [0, 2])
def test_calls_at_once_of_which_one_is_cancelled_are_no_success(which: int) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def call(n: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        if len(tasks) == 3:
            tasks[which].cancel()
        await asyncio.sleep(0.01)
        return n

    async def main() -> None:
        with pytest.raises(OutcomeUnknown, match="cancelled from outside"):
            await gather(call, [1, 2, 3], 3)

    asyncio.run(main())


def test_nothing_leaves_a_system_task_of_trio(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise SystemExit("of its own")

    async def main() -> None:
        start(work, "some work")
        start(work, "more work", ending=lambda: None, seconds=1)
        await anyio.sleep(0.01)

    anyio.run(main, backend="trio")
    assert "some work failed" in caplog.text
    assert "more work failed" in caplog.text


@pytest.mark.parametrize("times", [1, 3])
def test_closing_goes_on_however_often_its_task_is_cancelled(times: int) -> None:
    closed: list[bool] = []

    async def close() -> str:
        for _ in range(5):
            await asyncio.sleep(0.002)
        closed.append(True)
        return "closed"

    async def main() -> None:
        assert await surely(close) == "closed"
        closed.clear()
        task = asyncio.create_task(surely(close))
        for _ in range(times):
            await asyncio.sleep(0.001)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed

    asyncio.run(main())


@pytest.mark.anyio
async def test_closing_goes_on_in_a_cancelled_scope_and_says_what_it_raises() -> None:
    async def close() -> None:
        await anyio.sleep(0.002)
        raise ValueError("of its own")

    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(ValueError, match="of its own"):
            await surely(close)


def test_that_a_task_of_the_loop_was_cancelled_before_its_first_step_is_told() -> None:
    told: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            told.append("ended")

    async def main() -> None:
        for steps in range(2):
            start(work, "some work", unbegun=lambda: told.append("unbegun"))
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.01)

    asyncio.run(main())
    assert told == ["unbegun", "ended"]


@pytest.mark.parametrize("turns", range(6))
def test_what_is_closed_surely_is_closed_whenever_all_tasks_are_cancelled(turns: int) -> None:
    closed: list[int] = []

    async def close() -> None:
        for step in range(3):
            await asyncio.sleep(0)
            closed.append(step)

    async def main() -> None:
        task = asyncio.create_task(surely(close))
        for _ in range(1 + turns):
            await asyncio.sleep(0)
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert closed == [0, 1, 2]


@pytest.mark.anyio
async def test_what_a_thread_awaits_on_the_loop_is_cancelled_with_the_task_that_waits_for_it() -> (
    None
):
    ended: list[str] = []

    async def wait() -> None:
        scope.cancel()
        try:
            await anyio.sleep(10)
        finally:
            ended.append("awaited")

    def call() -> None:
        try:
            await_on_loop(wait)
        finally:
            ended.append("thread")

    with anyio.CancelScope() as scope:
        await in_thread(call)
    assert scope.cancelled_caught
    assert ended == ["awaited", "thread"]


@pytest.mark.anyio
async def test_what_a_thread_awaits_on_the_loop_returns_and_raises_there() -> None:
    async def answer() -> int:
        await anyio.lowlevel.checkpoint()
        return 5

    async def fail() -> int:
        raise ValueError("on the loop")

    assert await in_thread(lambda: await_on_loop(answer)) == 5
    with pytest.raises(ValueError, match="on the loop"):
        await in_thread(lambda: await_on_loop(fail))


async def _forever() -> None:
    await asyncio.sleep(1000)


@pytest.mark.parametrize("begun", [False, True])
def test_a_thread_that_waits_for_a_loop_learns_that_it_was_closed(begun: bool) -> None:
    inside, asks, over = threading.Event(), threading.Event(), threading.Event()
    raised: list[BaseException] = []
    awaited: list[bool] = []

    async def wait() -> None:
        awaited.append(True)
        await _forever()

    def call() -> None:
        inside.set()
        asks.wait(10)
        try:
            await_on_loop(wait)
        except BaseException as error:
            raised.append(error)
        with pytest.raises(asyncio.CancelledError):
            check_cancelled()
        over.set()

    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        tasks.append(asyncio.create_task(in_thread(call)))
        while not inside.is_set():
            await asyncio.sleep(0.001)
        if begun:
            asks.set()
            while not awaited:
                await asyncio.sleep(0.001)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    asks.set()
    while not begun and not loop._ready:  # type: ignore[attr-defined]
        time.sleep(0.001)
    loop.close()
    assert over.wait(10)
    assert [type(error) for error in raised] == [asyncio.CancelledError]
    assert bool(awaited) is begun
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


LEFT = """
    import asyncio, threading
    from datahike_async.konserve.threads import await_on_loop, in_thread

    awaited = threading.Event()

    async def wait():
        awaited.set()
        await asyncio.sleep(1000)

    async def main():
        task = asyncio.create_task(in_thread(await_on_loop, wait))
        while not awaited.is_set():
            await asyncio.sleep(0.001)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(main())
"""


def test_a_process_ends_though_a_thread_waits_for_a_loop_that_stands_still() -> None:
    program = [sys.executable, "-c", textwrap.dedent(LEFT)]
    assert subprocess.run(program, timeout=30, capture_output=True).returncode == 0


@pytest.mark.anyio
async def test_what_cannot_be_begun_on_the_loop_raises_in_the_thread_that_asked_for_it() -> None:
    def make() -> Any:
        raise ValueError("of the call")

    with pytest.raises(ValueError, match="of the call"):
        await in_thread(await_on_loop, make)


def test_tasks_are_started_on_the_loops_of_several_threads_at_once() -> None:
    failed: list[BaseException] = []

    async def main() -> None:
        waits = [anyio.Event() for _ in range(200)]
        for _ in range(20):
            for wait in waits:
                start(wait.wait, "some work")
            for wait in waits:
                wait.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waits = [anyio.Event() for _ in waits]

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed


@pytest.mark.anyio
async def test_a_signal_wakes_who_waits_and_nobody_waits_for_what_has_come() -> None:
    signal, seen = Signal(), []

    async def wait() -> None:
        await signal.wait()
        seen.append(signal.is_set())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not seen
        signal.set()
        signal.set()
    await wait()
    assert seen == [True, True]


@pytest.mark.anyio
async def test_a_signal_may_come_after_its_waiter_was_cancelled() -> None:
    signal = Signal()
    with anyio.move_on_after(0.001) as scope:
        await signal.wait()
    assert scope.cancelled_caught
    signal.set()
    await signal.wait()
