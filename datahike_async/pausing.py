"""Giving the event loop its turns during long work, without paying for it in short calls.

What readers take of one turn of the event loop is counted together: many tasks that each took a
little would hold up all others for the sum. A reader whose slice is used up stands in a queue, from
which few go on in a turn, the first come first.
"""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Final

import anyio
from anyio.lowlevel import RunVar, checkpoint

__all__ = ["BUDGET", "of_the_writer", "pause"]

BUDGET: Final = 0.0005
"""Seconds that readers together, or the writer, may keep the event loop in one of its turns.

Where readers wait for theirs the writer takes half of it: else a turn would be both together.
"""

_AT_ONCE: Final = 2
_SLICE: Final = BUDGET / _AT_ONCE

# One for each event loop, and as many permits as readers go on in a turn.
_queue: Final[RunVar[anyio.Semaphore]] = RunVar("datahike_async.pausing.queue")


class _Slice(threading.local):
    """When what the readers of this thread's event loop may take is used up."""

    until = 0.0


_slice: Final = _Slice()


def of_the_writer() -> float:
    """Return the seconds that the writer may keep the event loop in its present turn."""
    try:
        waiting = not _queue.get().value
    except LookupError:
        return BUDGET
    return BUDGET / 2 if waiting else BUDGET


async def pause() -> None:
    """Let other tasks run, and notice a cancellation, if this turn's share is used up."""
    if perf_counter() < _slice.until:
        return
    try:
        queue = _queue.get()
    except LookupError:
        queue = anyio.Semaphore(_AT_ONCE, fast_acquire=True)
        _queue.set(queue)
    alone = queue.value == _AT_ONCE
    waited = not queue.value
    async with queue:
        if not waited:
            await checkpoint()
    _slice.until = perf_counter() + (BUDGET if alone else _SLICE)
