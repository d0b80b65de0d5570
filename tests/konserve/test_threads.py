"""Calls in threads: who waits for them, what a cancelled caller leaves, threads that end."""

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

import anyio
import anyio.lowlevel
import pytest

from datahike_async.hosting import _COMPUTING, on_loop, run_in_thread
from datahike_async.konserve.threads import (
    STORING,
    Threads,
    acquire_in_thread,
    check_cancelled,
    in_thread,
)
from tests.konserve.door import Door, natively_cancelled


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
