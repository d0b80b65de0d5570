"""Pools: worker threads for one kind of call, as many as there are calls at a time.

A commit to a file is one hop to a thread and back, and most of what one costs is what its pool does
beside the call. That of ``concurrent.futures`` makes a future with a condition for each call, and
is busy for a while after its answer is there. Here the answer is the last thing that a thread does
before it waits again. Knows threads, and nothing of event loops.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from queue import SimpleQueue
from typing import Final, Protocol

__all__ = ["Pool", "Work"]


class Work(Protocol):
    """Something to be done in a thread."""

    def run(self) -> None:
        """Do it. Raises nothing."""
        ...

    def tell(self) -> None:
        """Say that it is done. Raises nothing."""
        ...


class _Shared:
    """What a pool and its threads have in common; these hold no more of it."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[Work | None] = SimpleQueue()
        self.lock = threading.Lock()
        # Threads that wait, or are about to: as many calls find one.
        self.idle = 0
        self.threads: set[threading.Thread] = set()

    def end(self) -> None:
        # Without the lock: the garbage collector may call this where a thread of ours has it.
        for _ in tuple(self.threads):
            self.queue.put(None)


class Pool:
    """At most so many threads, which begin when they are needed and end with the pool."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._renew()
        _all.add(self)

    def _renew(self) -> None:
        self._shared = _Shared()
        self._end = weakref.finalize(self, self._shared.end)
        self._end.atexit = False

    def end(self) -> set[threading.Thread]:
        """Have the threads end once nothing waits for them any more; return them.

        Whatever is asked for later has new ones.
        """
        shared = self._shared
        threads = set(shared.threads)
        self.forget()
        shared.end()
        return threads

    def forget(self) -> None:
        """Have new threads from now on: those that there were are in another process."""
        self._end.detach()
        self._renew()

    def submit(self, work: Work) -> None:
        """Have a thread do something, in the order in which it is asked for.

        Raises RuntimeError where one is needed and none can be had; then it is not done.
        """
        shared = self._shared
        with shared.lock:
            if shared.idle:
                shared.idle -= 1
            elif len(shared.threads) < self._most:
                self._begin()
            shared.queue.put(work)

    def _begin(self) -> None:
        threads = self._shared.threads
        name = f"{self._name}_{len(threads)}"
        # A daemon, so that nothing waits for it before those who are told that the process ends.
        thread = threading.Thread(target=_serve, args=(self._shared,), name=name, daemon=True)
        thread.start()
        threads.add(thread)


def _serve(shared: _Shared) -> None:
    queue, lock = shared.queue, shared.lock
    while (work := queue.get()) is not None:
        work.run()
        with lock:
            # Before it is told: whoever hears of it may have the next call at once.
            shared.idle += 1
        work.tell()
        del work
    shared.threads.discard(threading.current_thread())


def _end_all() -> None:
    """Have all threads end with the process, which waits for what they are doing."""
    for pool in list(_all):
        for thread in pool.end():
            thread.join()


def _forget_all() -> None:
    for pool in list(_all):
        pool.forget()


_all: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()
atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads, and what another one had locked stays so.
    os.register_at_fork(after_in_child=_forget_all)
