"""Mailbox: a bounded queue with many senders and one reader, all on one event loop.

A deque and events instead of a memory stream: a message costs well under a microsecond, and the
reader may take everything that is there without a checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

import anyio

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """At most ``limit`` messages wait; a sender that finds it full waits for room."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._queue: deque[T] = deque()
        self._reader: anyio.Event | None = None
        self._senders: deque[anyio.Event] = deque()
        # Senders who were let through and have not put their message in yet.
        self._admitted = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether there are messages, or senders who are about to put one in."""
        return bool(self._queue or self._admitted or self._senders)

    def put_nowait(self, message: T) -> bool:
        """Put a message in and wake the reader; False where the mailbox is full."""
        # Those who wait come first, or a stream of newcomers would starve them.
        if self._senders or len(self._queue) + self._admitted >= self.limit:
            return False
        self._queue.append(message)
        self.wake()
        return True

    async def room(self) -> None:
        """Wait until it is this caller's turn to try again. Cancelling it forgets the caller.

        Then call ``put_after_room`` or ``give_up_room``: the reader waits for it.
        """
        turn = anyio.Event()
        self._senders.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if not turn.is_set():
                self._senders.remove(turn)
                # The reader may be waiting for this sender.
                self.wake()
            else:
                self.give_up_room()
            raise

    def put_after_room(self, message: T) -> None:
        """Put a message in for a sender whom ``room`` let through."""
        self._admitted -= 1
        self._queue.append(message)
        self.wake()

    def give_up_room(self) -> None:
        """Let go of the place of a sender whom ``room`` let through and who has nothing to send."""
        self._admitted -= 1
        self._admit()
        self.wake()

    @property
    def first(self) -> T:
        """The oldest message, which stays. Raises IndexError where there is none."""
        return self._queue[0]

    def take(self) -> T:
        """Return the oldest message. Raises IndexError where there is none."""
        message = self._queue.popleft()
        if self._senders:
            self._admit()
        return message

    def drain(self) -> Iterator[T]:
        """Take out everything, letting every waiting sender through."""
        while self._queue:
            yield self._queue.popleft()
        while self._senders:
            self._admitted += 1
            self._senders.popleft().set()

    def _admit(self) -> None:
        if self._senders and len(self._queue) + self._admitted < self.limit:
            self._admitted += 1
            self._senders.popleft().set()

    def wake(self) -> None:
        """Wake the reader."""
        if self._reader is not None:
            self._reader.set()
            self._reader = None

    async def wait(self) -> None:
        """Wait until there may be something to do: a message, or a call of ``wake``."""
        self._reader = event = anyio.Event()
        await event.wait()
