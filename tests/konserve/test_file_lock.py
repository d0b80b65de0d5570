"""The lock of a folder: one at a time, whatever becomes of its files and of those who hold it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from datahike_async.konserve import StoreBusy, StoreClosed, file_lock
from datahike_async.konserve.backends.file_store import FileBlobStore
from datahike_async.konserve.file_lock import FileLock, FolderLock

NAME = "ab" * 16


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


HOLDING = """
import fcntl, os, time
folder = os.open({path!r}, os.O_RDONLY)
fcntl.flock(folder, fcntl.LOCK_EX)
open({path!r} + "/lock", "a").close()
print("locked", flush=True)
time.sleep(60)
"""
STORING = """
import os, signal, time
from datahike_async.konserve.backends.file_store import FileBlobStore
with FileBlobStore({path!r}).exclusive():
    print("locked", flush=True)
    {does}
"""


@contextmanager
def another_process(path: Path, does: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has the lock: a plain one, or one that has the store open and ``does``."""
    program = (STORING if does else HOLDING).format(path=str(path), does=does)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("removal", ["removed", "replaced", "moved away"])
def test_a_lock_file_that_vanishes_lets_no_second_writer_in(
    tmp_path: Path, folder: int, removal: str
) -> None:
    with another_process(tmp_path):
        at = tmp_path / "lock"
        if removal == "moved away":
            at.rename(tmp_path / "aside")
        else:
            at.unlink()
        if removal == "replaced":
            at.touch()
        lock = FileLock(folder, "lock", whole=True)
        assert not lock.try_acquire()
        lock.close()


def test_a_locked_file_that_was_replaced_is_locked_anew(tmp_path: Path, folder: int) -> None:
    first, second = FileLock(folder, "it"), FileLock(folder, "it")
    assert first.try_acquire()
    first.release()
    (tmp_path / "it").unlink()
    assert second.try_acquire()
    # The file that the first one has open is not the one that counts by now.
    assert not first.try_acquire()
    second.release()
    assert first.try_acquire()
    for lock in (first, second):
        lock.close()


def test_where_folders_have_no_locks_a_file_in_it_is_locked(
    tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = file_lock.fcntl.flock

    def of_files(fd: int, how: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EBADF, "as on NFS")
        flock(fd, how)

    monkeypatch.setattr(file_lock.fcntl, "flock", of_files)
    first, second = FolderLock(folder, "here"), FolderLock(folder, "here")
    with first.holding():
        with pytest.raises(StoreBusy), second.holding(0.02):
            pass
        assert (tmp_path / "lock").exists()
    with second.holding():
        pass
    first.close()
    second.close()


@pytest.mark.anyio
async def test_a_stopped_holder_is_named_once_waiting_has_lasted_long_enough(
    tmp_path: Path,
) -> None:
    with another_process(tmp_path, "os.kill(os.getpid(), signal.SIGSTOP)") as stopped:
        store = FileBlobStore(str(tmp_path), lock_seconds=0.2)
        with pytest.raises(StoreBusy) as caught:
            await store.write(NAME, b"1")
        assert f"process {stopped.pid} on host {socket.gethostname()}" in str(caught.value)
        assert caught.value.data == {"pid": stopped.pid, "host": socket.gethostname()}
        assert caught.value.retryable
        # It goes on, and so do the others; nothing of the refused write is left.
        os.kill(stopped.pid, signal.SIGCONT)
        stopped.wait(20)
        assert await store.read(NAME) is None
        await store.write(NAME, b"2")
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".new")]
        await store.close()


@pytest.mark.anyio
async def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with another_process(tmp_path) as holder:
        store = FileBlobStore(str(tmp_path))
        async with anyio.create_task_group() as group:
            group.start_soon(store.write, NAME, b"1")
            await anyio.sleep(0.05)
            assert await store.read(NAME) is None
            holder.kill()
        assert await store.read(NAME) is not None
        await store.close()


@pytest.mark.anyio
async def test_who_waits_for_a_lock_can_be_cancelled(tmp_path: Path) -> None:
    with another_process(tmp_path):
        store = FileBlobStore(str(tmp_path), lock_seconds=60)
        with anyio.fail_after(20):
            with anyio.move_on_after(0.05) as scope:
                await store.write(NAME, b"1")
            assert scope.cancelled_caught
            await store.close()
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".new", ".ksv"))]


@pytest.mark.anyio
async def test_a_store_that_is_closed_waits_for_no_lock(tmp_path: Path) -> None:
    with another_process(tmp_path):
        store = FileBlobStore(str(tmp_path), lock_seconds=60)
        caught: list[Exception] = []

        async def write() -> None:
            try:
                await store.write(NAME, b"1")
            except StoreClosed as error:
                caught.append(error)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                await anyio.sleep(0.05)
                await store.close()
        assert len(caught) == 1


def test_threads_of_one_process_wait_no_longer_than_others(folder: int) -> None:
    lock = FolderLock(folder, "here")
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.holding():
            held.set()
            assert go_on.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    with pytest.raises(StoreBusy, match=f"process {os.getpid()} "), lock.holding(0.05):
        pass
    go_on.set()
    thread.join()
    with lock.holding():
        pass
    lock.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_keeps_no_lock_of_its_parent(tmp_path: Path, folder: int) -> None:
    with another_process(tmp_path, "os.fork(); time.sleep(60)") as parent:
        time.sleep(0.2)
        children = _children(parent.pid)
        parent.kill()
        parent.wait()
        try:
            assert len(children) == 1
            assert _soon(FileLock(folder, "lock", whole=True).try_acquire)
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_lock_that_a_thread_of_the_parent_held_is_free_in_a_forked_child(tmp_path: Path) -> None:
    program = """
        import os, sys, threading
        from datahike_async.konserve.file_lock import FolderLock

        lock = FolderLock(os.open(sys.argv[1], os.O_RDONLY), "here")
        held, go_on = threading.Event(), threading.Event()

        def hold():
            with lock.holding():
                held.set()
                go_on.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(20)
        child = os.fork()
        if not child:
            with lock.holding(20):
                os._exit(5)
        go_on.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.stdout == "5\n", process.stderr


def test_a_lock_that_cannot_be_let_go_of_is_closed(
    tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written under it is written: an error would say that it was not."""
    flock = fcntl.flock

    def failing(fd: int, how: int) -> None:
        if how == fcntl.LOCK_UN:
            raise OSError(errno.EIO, "of the system")
        flock(fd, how)

    one, two = FileLock(folder, "lock", whole=True), FileLock(folder, "lock", whole=True)
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", failing)
        assert one.try_acquire()
        one.release()
    assert two.try_acquire()
    assert not one.try_acquire()
    one.close()
    two.close()


@pytest.mark.parametrize("fails", ["_is_there", "_sign"])
def test_a_lock_that_was_taken_in_vain_is_let_go_of(
    folder: int, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def failing(*args: object) -> None:
        raise OSError(errno.EIO, "of the system")

    one, two = FileLock(folder, "turn"), FileLock(folder, "turn")
    with monkeypatch.context() as patched:
        patched.setattr(FileLock, fails, failing)
        with pytest.raises(OSError, match="of the system"):
            one.try_acquire()
    assert two.try_acquire()
    one.close()
    two.close()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def _soon(attempt: Callable[[], bool]) -> bool:
    until = time.monotonic() + 5
    while not attempt():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True
