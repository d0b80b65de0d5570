"""What the query engine asks of the program around it; nothing here knows an event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

__all__ = ["LARGE", "Host"]

T = TypeVar("T")

LARGE = 150_000
"""Rows from which a step is carried out in a worker thread: some two milliseconds of work."""


class Host(Protocol):
    """Gives the event loop its turns, and lends worker threads."""

    async def pause(self) -> None:
        """Let other tasks run if the last such turn is a while ago; notice a cancellation."""
        ...

    async def in_thread(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine to its end in a worker thread.

        It may await nothing but what completes without an event loop, and :meth:`check`.
        """
        ...

    def check(self) -> None:
        """Raise, in a worker thread, where the task that waits for it has been cancelled."""
        ...
