"""Settling: waiting until all that was sent so far is answered.

Counts messages; knows nothing of what they are, and who answers them.
"""

from __future__ import annotations

from collections import deque

import anyio

__all__ = ["Settling"]


class Settling:
    """How many messages were ``accepted``, how many answered, and who waits for which number."""

    def __init__(self) -> None:
        self.accepted = 0
        self._answered = 0
        self._waiting: deque[tuple[int, anyio.Event]] = deque()

    async def wait(self) -> None:
        """Wait until all that were accepted by now are answered, or for the end."""
        if self._answered < self.accepted:
            event = anyio.Event()
            self._waiting.append((self.accepted, event))
            await event.wait()

    def answered(self, count: int) -> None:
        """Note that so many more were answered."""
        self._answered += count
        while self._waiting and self._waiting[0][0] <= self._answered:
            self._waiting.popleft()[1].set()

    def end(self) -> None:
        """Note that no more are answered than those that are being answered just now."""
        while self._waiting:
            self._waiting.popleft()[1].set()
