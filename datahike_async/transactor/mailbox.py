"""Mailbox: a bounded queue with many senders and one reader, all on one event loop.

A deque and signals instead of a memory stream: a message costs well under a microsecond, and the
reader may take everything that is there without a checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from datahike_async.konserve.loops import Signal

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """At most ``limit`` messages wait; a sender that finds it full waits for room.

    ``queue`` are those that wait, the oldest first: to be looked at.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.queue: deque[T] = deque()
        self._reader: Signal | None = None
        self._senders: deque[Signal] = deque()
        # Senders who were let through and have not put their message in yet.
        self._admitted = 0

    def __len__(self) -> int:
        return len(self.queue)

    @property
    def busy(self) -> bool:
        """Whether there are messages, or senders who are about to put one in."""
        return bool(self.queue or self._admitted or self._senders)

    def put_nowait(self, message: T) -> bool:
        """Put a message in and wake the reader; False where the mailbox is full."""
        # Those who wait come first, or a stream of newcomers would starve them.
        if self._senders or len(self.queue) + self._admitted >= self.limit:
            return False
        self.queue.append(message)
        self.wake()
        return True

    async def room(self) -> None:
        """Wait until it is this caller's turn to try again. Cancelling it forgets the caller.

        Then call ``put_after_room`` or ``give_up_room``: the reader waits for it.
        """
        turn = Signal()
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
        self.queue.append(message)
        self.wake()

    def give_up_room(self) -> None:
        """Let go of the place of a sender whom ``room`` let through and who has nothing to send."""
        self._admitted -= 1
        self._admit()
        self.wake()

    def take(self) -> T:
        """Return the oldest message. Raises IndexError where there is none."""
        message = self.queue.popleft()
        if self._senders:
            self._admit()
        return message

    def drain(self) -> Iterator[T]:
        """Take out everything, letting every waiting sender through."""
        while self.queue:
            yield self.queue.popleft()
        while self._senders:
            self._admitted += 1
            self._senders.popleft().set()

    def _admit(self) -> None:
        if self._senders and len(self.queue) + self._admitted < self.limit:
            self._admitted += 1
            self._senders.popleft().set()

    def wake(self) -> None:
        """Wake the reader."""
        reader = self._reader
        if reader is not None:
            self._reader = None
            reader.set()

    async def wait(self) -> None:
        """Wait until there may be something to do: a message, or a call of ``wake``."""
        self._reader = message = Signal()
        await message.wait()
