"""What belongs to an event loop, and threads that nobody leaves behind when he is cancelled."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from datahike_async.hosting import _COMPUTING, on_loop, run_in_thread
from datahike_async.konserve import OutcomeUnknown
from datahike_async.konserve.base import gather
from datahike_async.konserve.loops import Home, Signal, is_interruption, outlast, start, surely
from datahike_async.konserve.threads import (
    STORING,
    Threads,
    acquire_in_thread,
    await_on_loop,
    check_cancelled,
    in_thread,
)


class Door:
    """A call that says when it is in a thread, and ends when it is let."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.open = threading.Event()
        self.calls = 0
        self.over = False

    def call(self) -> Door:
        self.calls += 1
        self.inside.set()
        assert self.open.wait(10)
        self.over = True
        return self

    async def entered(self) -> None:
        while not self.inside.is_set():
            await asyncio.sleep(0.001)


async def natively_cancelled(door: Door, call: Callable[[], Any], times: int = 1) -> None:
    """Run ``call`` in a task that is cancelled while its thread is at the door."""
    task = asyncio.create_task(call())
    await door.entered()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.005)
        assert not task.done()
    door.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert door.over


@pytest.mark.parametrize("times", [1, 3])
def test_a_task_that_is_cancelled_waits_for_its_thread(times: int) -> None:
    door = Door()
    asyncio.run(natively_cancelled(door, lambda: in_thread(door.call), times))


@pytest.mark.parametrize("times", [1, 3])
def test_what_a_cancelled_task_opened_in_a_thread_is_closed(times: int) -> None:
    door, closed = Door(), []

    async def main() -> None:
        await natively_cancelled(door, lambda: acquire_in_thread(door.call, closed.append), times)

    asyncio.run(main())
    assert closed == [door]


def test_a_call_that_was_cancelled_before_it_began_is_not_made() -> None:
    door, behind = Door(), Door()
    behind.open.set()
    one = Threads("one", 1)

    async def main() -> None:
        first = asyncio.create_task(in_thread(door.call, threads=one))
        await door.entered()
        second = asyncio.create_task(in_thread(behind.call, threads=one))
        surely = asyncio.create_task(in_thread(behind.call, surely=True, threads=one))
        await asyncio.sleep(0.01)
        second.cancel()
        surely.cancel()
        await asyncio.sleep(0.01)
        door.open.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
        with pytest.raises(asyncio.CancelledError):
            await surely

    asyncio.run(main())
    assert behind.calls == 1, "the one that is to be made surely"


def test_a_thread_sees_that_nobody_waits_for_it_any_more() -> None:
    inside, seen = threading.Event(), []

    def call() -> None:
        inside.set()
        while not seen:
            try:
                check_cancelled()
            except asyncio.CancelledError:
                seen.append(True)

    async def main() -> None:
        task = asyncio.create_task(in_thread(call))
        while not inside.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen

    asyncio.run(main())


@pytest.mark.anyio
async def test_a_cancelled_scope_waits_for_the_thread_and_gets_its_result() -> None:
    door = Door()
    results: list[Door] = []
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            while not door.inside.is_set():
                await anyio.sleep(0.001)
            scope.cancel()
            door.open.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            results.append(await acquire_in_thread(door.call, lambda door: None))
    assert results == [door]


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


@pytest.mark.anyio
async def test_what_a_thread_was_working_on_is_let_go_of_when_it_fails() -> None:
    """At once, and not when the garbage collector comes by: it may be much."""

    class Work:
        pass

    left: list[weakref.ref[Work]] = []

    def call() -> None:
        work = Work()
        left.append(weakref.ref(work))
        raise ValueError("of the call")

    gc.disable()
    try:
        try:
            await in_thread(call)
        except ValueError as error:
            assert str(error) == "of the call"
        await anyio.sleep(0.01)
        assert left[0]() is None
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_calls_are_made_though_the_application_has_used_up_its_threads() -> None:
    door = Door()
    limiter = anyio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, door.call)
            await anyio.sleep(0.01)
            try:
                with anyio.fail_after(5):
                    assert await in_thread(lambda: 5) == 5
            finally:
                door.open.set()
    finally:
        limiter.total_tokens = before


@pytest.mark.anyio
async def test_what_is_computed_in_threads_does_not_keep_what_it_reads_from_having_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for threads in (STORING, _COMPUTING):
        monkeypatch.setattr(threads, "_pools", weakref.WeakKeyDictionary())
        monkeypatch.setattr(threads, "most", 1)
        monkeypatch.setattr(threads.limiter, "total_tokens", 1)

    async def read() -> int:
        # Given up where there is no thread for it, or the test would never end.
        with anyio.move_on_after(5):
            return await in_thread(lambda: 5)
        return 0

    async def computed() -> int:
        return await on_loop(read())

    assert await run_in_thread(computed) == 5


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


@pytest.mark.anyio
async def test_a_call_of_a_task_that_is_cancelled_already_is_not_made() -> None:
    made: list[bool] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await in_thread(lambda: made.append(True))
    assert scope.cancelled_caught
    assert not made


def test_no_thread_waits_outside_of_calls_for_a_task() -> None:
    with pytest.raises(RuntimeError):
        check_cancelled()


def test_the_threads_of_a_loop_end_with_it() -> None:
    threads = Threads("short", 2)
    names: set[str] = set()

    async def main() -> None:
        await in_thread(lambda: names.add(threading.current_thread().name), threads=threads)

    for _ in range(3):
        asyncio.run(main())
    gc.collect()
    for thread in [t for t in threading.enumerate() if t.name in names]:
        thread.join(5)
        assert not thread.is_alive()


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


@pytest.fixture
def no_more_threads() -> Iterator[Callable[[], int]]:
    """Leave no room for the stacks of more threads, once it is called."""
    before = threading.stack_size()
    try:
        yield lambda: threading.stack_size(1 << 46)
    finally:
        threading.stack_size(before)


def test_a_call_for_which_there_was_no_thread_is_not_made_later(
    no_more_threads: Callable[[], int],
) -> None:
    first, second = Door(), Door()
    second.open.set()
    threads = Threads("of this test", 2)

    async def main() -> None:
        task = asyncio.create_task(in_thread(first.call, threads=threads))
        await first.entered()
        no_more_threads()
        with pytest.raises(RuntimeError, match="thread"):
            await in_thread(second.call, threads=threads)
        first.open.set()
        await task
        threads.pool(asyncio.get_running_loop()).end()

    asyncio.run(main())
    assert not second.calls


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


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_to_be_made_surely_is_made_where_there_is_no_thread_for_it(
    no_more_threads: Callable[[], int], backend: str
) -> None:
    made: list[int] = []

    async def main() -> None:
        no_more_threads()
        await in_thread(made.append, 5, surely=True, threads=Threads("of this test", 1))

    # A loop of its own: trio as pytest's guest needs a thread for each of its waits.
    anyio.run(main, backend=backend)
    assert made == [5]


BUSY = """
    import asyncio, threading, time
    from datahike_async.konserve.threads import in_thread

    inside = threading.Event()

    def write():
        inside.set()
        time.sleep(0.3)
        print("written", flush=True)

    async def main():
        task = asyncio.create_task(in_thread(write))
        while not inside.is_set():
            await asyncio.sleep(0.001)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(main())
"""


def test_a_process_that_ends_waits_for_what_its_threads_are_doing() -> None:
    program = [sys.executable, "-c", textwrap.dedent(BUSY)]
    ended = subprocess.run(program, timeout=30, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "written\n")


AFTERWARDS = """
    import asyncio, atexit

    loop = asyncio.new_event_loop()

    def call():
        return in_thread(str, "made", surely=True)

    @atexit.register
    def last():  # after the handler of whatever is imported later
        print(loop.run_until_complete(call()), flush=True)

    from datahike_async.konserve.threads import in_thread

    loop.run_until_complete(call())
"""


def test_a_call_is_made_though_the_threads_have_ended_with_the_process() -> None:
    program = [sys.executable, "-c", textwrap.dedent(AFTERWARDS)]
    ended = subprocess.run(program, timeout=30, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "made\n"), ended.stderr


FORKED = """
    import asyncio, os
    from datahike_async.konserve.threads import in_thread

    loop = asyncio.new_event_loop()
    loop.run_until_complete(in_thread(str, "here"))
    child = os.fork()
    made = loop.run_until_complete(in_thread(str, "there" if child == 0 else "here again"))
    if child:
        os.waitpid(child, 0)
    print(made, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    program = [sys.executable, "-c", textwrap.dedent(FORKED)]
    ended = subprocess.run(program, timeout=30, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "there\nhere again\n"), ended.stderr


def test_a_pool_has_no_more_threads_than_calls_at_a_time() -> None:
    threads = Threads("few", 3)
    names: list[set[str]] = [set(), set()]

    def call(of: int) -> None:
        names[of].add(threading.current_thread().name)
        time.sleep(0.001)

    async def main() -> None:
        for _ in range(20):
            await in_thread(call, 0, threads=threads)
        await asyncio.gather(*(in_thread(call, 1, threads=threads) for _ in range(20)))

    asyncio.run(main())
    assert [len(found) for found in names] == [1, 3]


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
