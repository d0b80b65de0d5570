"""The event loop as the query engine sees it: turns for others, and worker threads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from datahike_async.konserve.threads import Threads, await_on_loop, check_cancelled, in_thread
from datahike_async.pausing import pause

__all__ = ["HOST", "on_loop", "run_in_thread"]

T = TypeVar("T")

# What is computed may wait for what is read.
_COMPUTING: Final = Threads("computing", 40)


async def run_in_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end in a worker thread.

    It may await nothing but what completes without an event loop: what goes through ``on_loop``,
    and ``NodeStore.fetch``, which sees to that by itself.
    """

    def drive() -> T:
        call = make()
        try:
            call.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        call.close()
        raise RuntimeError("what runs in a worker thread waited for the event loop")

    return await in_thread(drive, threads=_COMPUTING)


async def on_loop(call: Awaitable[T]) -> T:
    """Have the event loop, which waits for this worker thread, await ``call`` for it."""

    async def awaited() -> T:
        return await call

    return await_on_loop(awaited)


class _Host:
    """The running event loop, whichever it is."""

    async def pause(self) -> None:
        """Let other tasks run if the last such turn is a while ago."""
        await pause()

    async def in_thread(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine to its end in a worker thread."""
        return await run_in_thread(make)

    def check(self) -> None:
        """Raise the cancellation of the task that waits for this thread."""
        check_cancelled()


HOST: Final = _Host()
