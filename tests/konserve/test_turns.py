"""Queueing in a folder: what becomes of a turn when its holder, its waiter or its files vanish."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from datahike_async.konserve import (
    UNCHANGED,
    Appended,
    CorruptValue,
    News,
    OutOfTurn,
    RevisionMismatch,
    StoreClosed,
    StoreIOError,
)
from datahike_async.konserve.backends.file_store import FileBlobStore
from datahike_async.konserve.file_lock import FileLock
from datahike_async.konserve.turns import TURN_FILES

pytestmark = pytest.mark.anyio

NAME = "ab" * 16
HOLDING = """
import fcntl, os, time
turn = os.open({path!r} + "/turn", os.O_RDWR | os.O_CREAT)
fcntl.flock(turn, fcntl.LOCK_EX)
from datahike_async.konserve.file_lock import _signed
os.write(turn, _signed(f"{{os.getpid()}} elsewhere {name}"))
print("mine", flush=True)
time.sleep(60)
"""


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has the turn of NAME and does nothing."""
    program = HOLDING.format(path=str(path), name=NAME)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "mine\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def waiting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "konserve turns"]


async def until_nobody_waits() -> None:
    with anyio.fail_after(10):
        while waiting():
            await anyio.sleep(0.01)


async def test_whose_turn_does_not_come_goes_on_without_and_waits_no_second_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "datahike_async.konserve")
    store = FileBlobStore(str(tmp_path), lock_seconds=0.4)
    revision = await store.write(NAME, b"0")
    with another_process(tmp_path) as holder:
        with pytest.raises(OutOfTurn, match=f"{holder.pid} on host elsewhere"):
            await store.write(NAME, b"1", revision)
        async with store.turn(NAME) as turn:
            assert not turn.held
            revision = await store.write(NAME, b"1", revision)
        assert f"{holder.pid} on host elsewhere" in caplog.text
        store._turns._seconds = 60
        with anyio.fail_after(20):
            async with store.turn(NAME) as turn:
                assert not turn.held
        revision = await store.write(NAME, b"2", revision)
    # Once it has ended they queue as before.
    with anyio.fail_after(20):
        while not turn.held:
            async with store.turn(NAME) as turn:
                await anyio.sleep(0.01)
    await store.close()


async def test_the_turn_of_a_killed_process_passes_at_once(tmp_path: Path) -> None:
    store = FileBlobStore(str(tmp_path), lock_seconds=60)
    with another_process(tmp_path) as holder, anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def take() -> None:
                async with store.turn(NAME) as turn:
                    assert (turn.held, turn.waited) == (True, True)

            group.start_soon(take)
            await anyio.sleep(0.05)
            holder.kill()
    await store.close()


async def test_turn_files_that_vanish_cost_an_order_and_nothing_else(tmp_path: Path) -> None:
    one, two = FileBlobStore(str(tmp_path)), FileBlobStore(str(tmp_path))
    revision = await one.write(NAME, b"0")
    async with one.turn(NAME):
        for name in TURN_FILES:
            (tmp_path / name).unlink()
        with anyio.fail_after(20):
            async with two.turn(NAME) as turn:
                # Two have the turn now; of their writes one is refused, as ever.
                assert turn.held
                revision = await two.write(NAME, b"2", revision)
        with pytest.raises(Exception, match="revision"):
            await one.write(NAME, b"1", "stale.0")
    async with one.turn(NAME), anyio.create_task_group() as group:
        with pytest.raises(OutOfTurn):
            await two.write(NAME, b"3", revision)
        group.cancel_scope.cancel()
    await one.close()
    await two.close()


async def test_a_store_that_is_closed_leaves_no_thread_and_no_file_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    store = FileBlobStore(str(tmp_path))
    async with store.turn(NAME):
        assert len(waiting()) == 1
    await store.close()
    await until_nobody_waits()
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # the listing itself
    with pytest.raises(StoreClosed):
        async with store.turn(NAME):
            pass


async def test_a_thread_that_waits_ends_with_its_store_and_its_turn(tmp_path: Path) -> None:
    store = FileBlobStore(str(tmp_path), lock_seconds=60)
    with another_process(tmp_path) as holder:
        with anyio.move_on_after(0.05):
            async with store.turn(NAME):
                raise AssertionError("somebody else has it")
        with anyio.fail_after(20):
            await store.close()
        # It still waits: nothing can call it back. Its turn comes, and it ends.
        assert waiting()
        holder.kill()
        await until_nobody_waits()
        other = FileBlobStore(str(tmp_path))
        async with other.turn(NAME) as turn:
            assert turn.held
        await other.close()


async def test_a_store_that_is_dropped_takes_its_thread_along(tmp_path: Path) -> None:
    store = FileBlobStore(str(tmp_path))
    async with store.turn(NAME):
        pass
    store._turns.close = lambda: None  # type: ignore[method-assign]
    await store.close()
    del store
    gc.collect()
    await until_nobody_waits()


async def test_the_holder_is_named_as_this_process(tmp_path: Path) -> None:
    one, two = FileBlobStore(str(tmp_path)), FileBlobStore(str(tmp_path))
    revision = await one.write(NAME, b"0")
    async with one.turn(NAME):
        with pytest.raises(OutOfTurn, match=f"{os.getpid()} on host {socket.gethostname()}"):
            await two.write(NAME, b"1", revision)
    await one.close()
    await two.close()


async def test_a_turn_brings_what_was_appended_before_it_came(tmp_path: Path) -> None:
    one, two = FileBlobStore(str(tmp_path)), FileBlobStore(str(tmp_path))
    first = await one.write(NAME, b"0")
    news: list[News | None] = []

    async def second() -> None:
        async with two.turn(NAME, first) as turn:
            news.append(turn.news)
            assert await two.read_journal(NAME, first) == turn.news

    async with anyio.create_task_group() as group, one.turn(NAME, first) as turn:
        assert turn.news is UNCHANGED
        group.start_soon(second)
        await anyio.sleep(0.05)
        revision = await one.append(NAME, b"record", first)
    assert news == [Appended([b"record"], revision)]
    async with two.turn(NAME) as turn:
        assert turn.news is None
    await one.close()
    await two.close()


async def test_what_cannot_be_read_with_a_turn_is_left_to_who_has_it(tmp_path: Path) -> None:
    store = FileBlobStore(str(tmp_path))
    first = await store.write(NAME, b"0")
    for log in tmp_path.glob(NAME + "*"):
        log.write_bytes(b"damaged")
    async with store.turn(NAME, first) as turn:
        assert (turn.held, turn.news) == (True, None)
        with pytest.raises(CorruptValue):
            await store.read_journal(NAME, first)
    await store.close()


async def test_the_last_write_of_a_turn_passes_it_on(tmp_path: Path) -> None:
    one, two = FileBlobStore(str(tmp_path)), FileBlobStore(str(tmp_path))
    revision = await one.write(NAME, b"0")
    async with one.turn(NAME) as turn:
        turn.last()
        with pytest.raises(RevisionMismatch):
            await one.write(NAME, b"1", "stale.0")
        with pytest.raises(OutOfTurn):  # nothing was written by it yet
            await two.write(NAME, b"1", revision)
        revision = await one.write(NAME, b"1", revision)
        with anyio.fail_after(20):
            async with two.turn(NAME) as other:
                assert other.held
                with pytest.raises(OutOfTurn):
                    await one.write(NAME, b"2", revision)
    await one.close()
    await two.close()


async def test_an_error_of_any_kind_ends_one_wait_and_not_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileBlobStore(str(tmp_path), lock_seconds=60)

    def failing(*args: object) -> bool:
        raise MemoryError("of the system")

    with anyio.fail_after(20):
        with monkeypatch.context() as patched:
            patched.setattr(FileLock, "try_acquire", failing)
            with pytest.raises(StoreIOError, match="of the system"):
                async with store.turn(NAME):
                    pass
        async with store.turn(NAME) as turn:
            assert turn.held
    await store.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_where_there_is_no_thread_to_wait_in_there_is_no_turn_and_nothing_stays_open(
    tmp_path: Path, backend: str
) -> None:
    async def main() -> None:
        store = FileBlobStore(str(tmp_path))
        before, size = set(os.listdir("/proc/self/fd")), threading.stack_size()
        threading.stack_size(1 << 46)  # there is no room for so large a stack
        try:
            for _ in range(2):
                with pytest.raises(StoreIOError, match="thread"):
                    async with store.turn(NAME):
                        pass
        finally:
            threading.stack_size(size)
        assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # the listing itself
        async with store.turn(NAME) as turn:
            assert turn.held
        await store.close()

    # A loop of its own: trio as pytest's guest needs a thread for each of its waits.
    anyio.run(main, backend=backend)


async def test_a_name_that_has_no_utf_8_is_queued_for_all_the_same(tmp_path: Path) -> None:
    store = FileBlobStore(str(tmp_path))
    async with store.turn("\ud800") as turn:
        assert turn.held
    await store.close()


def test_a_turn_that_comes_once_the_loop_is_closed_goes_to_the_next(tmp_path: Path) -> None:
    stores: list[FileBlobStore] = []
    tasks: list[asyncio.Task[None]] = []

    async def wait() -> None:
        stores.append(FileBlobStore(str(tmp_path), lock_seconds=60))
        async with stores[0].turn(NAME):
            raise AssertionError("somebody else has it")

    async def begin() -> None:
        tasks.append(asyncio.create_task(wait()))
        while not waiting():
            await asyncio.sleep(0.001)

    async def take() -> None:
        other = FileBlobStore(str(tmp_path))
        async with other.turn(NAME) as turn:
            assert turn.held
        await other.close()

    with another_process(tmp_path) as holder:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        loop.close()
        holder.kill()
        anyio.run(take)
    stores[0].close_now()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
