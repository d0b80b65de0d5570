"""Turns: writers of one name, in any number of processes, queue in a folder for who is next.

Compare-and-set alone keeps many writers safe, and lets the fastest win each time. So who lost waits
for a turn, and while somebody has one the conditional writes of others to that name are refused.
A turn is order and no more: whether a write happens still is decided by its condition, and where a
turn does not come in time its holder goes on without.

The queue is two locks: whoever has the first waits for the second, which is the turn. One that
gave its turn up finds the first lock taken, by the next in the queue; the system wakes those who
wait for it in the order in which they came, and frees both of whoever has died.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio

from datahike_async.konserve.blob import News, Turn
from datahike_async.konserve.errors import OutOfTurn, StoreClosed, StoreIOError
from datahike_async.konserve.file_lock import FileLock
from datahike_async.konserve.loops import Home

__all__ = ["TURN_FILES", "Turns"]

_log = logging.getLogger("datahike_async.konserve")

_NEXT: Final = "turn.next"
_TURN: Final = "turn"
TURN_FILES: Final = (_TURN, _NEXT)
"""The files in which writers queue. Whoever removes them mixes up an order, and loses nothing."""


class Turns:
    """The queue of a folder, as one open store on one event loop sees it.

    A turn is waited for ``seconds``, in a thread of the store's own.
    """

    def __init__(self, folder: int, path: str, seconds: float) -> None:
        self._folder = folder
        self._path = path
        self._seconds = seconds
        # For conditional writes of this store that are made without a turn, one at a time.
        self._passing = FileLock(folder, _TURN)
        # Tasks of this store queue here, one of them in the folder.
        self._line = anyio.Lock(fast_acquire=True)
        self._queue: _Queue | None = None
        self._mine = False
        self._last = False
        self._late: _Wait | None = None
        self._closed = False

    def passing(self, name: str) -> _Passing:
        """Have a turn for the moment of one conditional write, in which nobody else gets one.

        A context manager. Enter it where no other thread of the store does. Raises OutOfTurn where
        another store has the turn of this name.
        """
        return _Passing(self, name)

    def pass_in(self, name: str) -> bool | None:
        """Begin that moment; see ``pass_out``."""
        # Of those who have waited in vain nobody waits again: what they wait for may be stopped.
        if self._mine or self._is_late():
            return None
        try:
            shared = self._passing.try_share()
        except OSError:
            # No order can be kept here, and none is needed: what is wrong shows in the write.
            return False
        if not shared:
            holder = self._passing.holder()
            if holder[2:] == [name]:
                raise OutOfTurn(f"Process {holder[0]} on host {holder[1]} has the turn of {name}.")
        return shared

    def pass_out(self, shared: bool | None, *, written: bool) -> None:
        """End that moment, which ``pass_in`` began with ``shared``: None, where it had a turn."""
        if shared:
            self._passing.release()
        elif shared is None and written and self._last and self._queue is not None:
            self._mine = self._last = False
            self._queue.leave()

    @asynccontextmanager
    async def turn(self, name: str, look: Callable[[], News] | None = None) -> AsyncIterator[Turn]:
        """Wait until it is this task's turn to write ``name``, and have it inside the block.

        ``look`` says what is there. It is called as soon as the turn has come, in the thread that
        waited for it: to start another one takes longer than most publications.

        Raises StoreIOError, StoreClosed.
        """
        async with self._line:
            if self._closed:
                raise StoreClosed("This store was released; connect to it again.")
            queue = self._queue
            if queue is None:
                try:
                    queue = self._queue = _Queue(self._folder)
                except (OSError, RuntimeError) as error:  # there are no more files, or threads
                    raise _failed(self._path, error) from error
                weakref.finalize(self, queue.close)
            wait = await self._wait(queue, _Wait(name, look))
            try:
                self._mine = wait.taken
                yield Turn(wait.taken, wait.waited, self._will_leave, wait.news)
            finally:
                self._mine = self._last = False
                if wait.taken:
                    queue.leave()

    def _will_leave(self) -> None:
        self._last = self._mine

    async def _wait(self, queue: _Queue, wait: _Wait) -> _Wait:
        if self._is_late():
            return wait
        queue.enter(wait)
        try:
            with anyio.move_on_after(self._seconds):
                await wait.done.wait()
        except BaseException:
            if not wait.give_up() and wait.taken:
                queue.leave()
            raise
        if wait.give_up():
            self._late = wait
            who = " on host ".join(queue.holder()[:2]) or "unknown"
            _log.info(
                "a turn was waited for in vain: path=%s seconds=%g process=%s",
                self._path,
                self._seconds,
                who,
            )
        elif wait.error is not None:
            raise _failed(self._path, wait.error) from wait.error
        return wait

    def _is_late(self) -> bool:
        """Whether a turn was waited for in vain and has not come since."""
        return self._late is not None and not self._late.over

    def close(self) -> None:
        """Leave the queue for good."""
        self._closed = True
        self._passing.close()
        if self._queue is not None:
            self._queue.close()


class _Passing:
    """The moment of one conditional write."""

    # No generator: every commit enters one.
    __slots__ = ("_name", "_shared", "_turns")

    def __init__(self, turns: Turns, name: str) -> None:
        self._turns = turns
        self._name = name
        self._shared: bool | None = None

    def __enter__(self) -> None:
        self._shared = self._turns.pass_in(self._name)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._turns.pass_out(self._shared, written=error is None)


class _Wait:
    """One task's wait for a turn. What becomes of it is decided once, by its thread or its task."""

    def __init__(self, name: str, look: Callable[[], News] | None) -> None:
        self.name = name
        self.news: News | None = None
        self._look = look
        self.done = anyio.Event()
        self.waited = False
        self.error: Exception | None = None
        self.over = False
        """Whether its thread is through with it."""
        self.taken = False
        self._home = Home()
        self._lock = threading.Lock()
        self._decided = False

    def look(self) -> None:
        """See, in the thread that has the turn, what is there."""
        if self._look is not None and not self._decided:
            # What is wrong shows to the task, which then looks itself.
            with suppress(Exception):
                self.news = self._look()

    def decide(self, taken: bool) -> bool:
        """Say, in the thread, that waiting has ended; False where nobody waits any more."""
        with self._lock:
            if self._decided:
                return False
            self._decided = True
            self.taken = taken
        return self._home.call_soon(self.done.set)

    def give_up(self) -> bool:
        """Say, in the task, that nobody waits any more; False where waiting has ended."""
        with self._lock:
            if self._decided:
                return False
            self._decided = True
            return True


class _Queue:
    """The thread that waits for locks, which it owns: it may outlast its store by one wait.

    It is a daemon, so that a process can end while the holder of a turn is stopped.
    """

    def __init__(self, folder: int) -> None:
        self._folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        self._next = FileLock(self._folder, _NEXT)
        self._turn = FileLock(self._folder, _TURN)
        self._waits: queue.SimpleQueue[_Wait | None] = queue.SimpleQueue()
        try:
            threading.Thread(target=self._run, name="konserve turns", daemon=True).start()
        except BaseException:
            os.close(self._folder)
            raise

    def enter(self, wait: _Wait) -> None:
        """Queue up."""
        self._waits.put(wait)

    def leave(self) -> None:
        """Give the turn up."""
        self._turn.release()

    def holder(self) -> list[str]:
        """Return process and host of the one whose turn it is."""
        return self._turn.holder()

    def close(self) -> None:
        """End the thread, once it waits no more."""
        self._waits.put(None)

    def _run(self) -> None:
        try:
            while (wait := self._waits.get()) is not None:
                try:
                    self._take(wait)
                except Exception as error:
                    wait.error = error
                    wait.decide(False)
                else:
                    wait.look()
                    if not wait.decide(True):
                        self._turn.release()
                finally:
                    wait.over = True
                del wait
        finally:
            self._next.close()
            self._turn.close()
            with suppress(OSError):
                os.close(self._folder)

    def _take(self, wait: _Wait) -> None:
        if not self._next.try_acquire(wait.name):
            wait.waited = True
            self._next.wait(wait.name)
        try:
            if not self._turn.try_acquire(wait.name):
                wait.waited = True
                self._turn.wait(wait.name)
        finally:
            self._next.release()


def _failed(path: str, error: Exception) -> StoreIOError:
    number = error.errno if isinstance(error, OSError) else None
    return StoreIOError(f"Queueing for a turn at {path!r} failed: {error}", errno=number)
