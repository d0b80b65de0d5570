"""Where the synchronous pieces of a query or pull run: here while they are little, or in a thread.

Whatever goes over many values looks at the clock (``looks``); a Watch is what those looks ask. It
raises where the time is over or the call was cancelled. And where a piece turns out to be more than
the event loop should wait for, it raises Elsewhere: what was done of it is dropped, and it begins
anew in a worker thread that the host lends. So nobody has to know beforehand how long it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Final, TypeVar

from datahike_async.collector import spare
from datahike_async.cores import apart
from datahike_async.looks import PIECE, looking
from datahike_async.query.limits.budget import Meter
from datahike_async.query.limits.host import LARGE, Host

__all__ = ["HERE", "Elsewhere", "Watch"]

T = TypeVar("T")

HERE: Final = 2 * LARGE
"""What a piece may count for on the event loop: a few milliseconds of work."""

# Seconds from one pause to the next; small queries end before the first.
_STRETCH: Final = 0.0005


class Elsewhere(BaseException):
    """A piece of work is too much for the event loop.

    No Exception, so that nobody takes it for a failure of what was called.
    """


class Watch:
    """Runs pieces of one query or pull, on its budget; ``inside`` is a worker thread just now."""

    __slots__ = ("_done", "_since", "_token", "host", "inside", "meter", "movable", "turn")

    def __init__(self, meter: Meter, host: Host | None) -> None:
        """Without a host nothing pauses, and no thread is used."""
        self.meter = meter
        self.host = host
        self.inside = False
        # When to think of the others again.
        self.turn = perf_counter() + _STRETCH
        # Whether what runs now may begin anew elsewhere, and what it has counted for.
        self.movable = False
        self._done = 0
        self._since = 0

    def __enter__(self) -> None:
        """Be asked by every look in this context until the block is left."""
        self._token = looking.set(self.look)

    def __exit__(self, *_: object) -> None:
        looking.reset(self._token)

    def look(self, count: int) -> None:
        """Raise where what runs now is not to go on."""
        self._since += count
        if self._since < PIECE:
            return
        since, self._since = self._since, 0
        self.meter.time()
        if self.inside:
            assert self.host is not None
            self.host.check()
            spare()
        elif self.movable and self.host is not None:
            self._done += since
            if self._done > HERE:
                raise Elsewhere

    async def pause(self) -> None:
        """Give others a turn; raise where the time is over or the call was cancelled."""
        self.turn = perf_counter() + _STRETCH
        self.meter.time()
        if self.host is not None:
            if self.inside:
                self.host.check()
            else:
                await self.host.pause()

    async def run(self, rows: int, call: Callable[..., T], *args: Any) -> T:
        """Return ``call(*args)``, made in a worker thread where it is over many rows.

        It may be called twice, so it changes nothing before it is done.
        """
        if self.host is None or self.inside:
            return call(*args)
        if rows < LARGE:
            before = self.begin()
            try:
                return call(*args)
            except Elsewhere:
                pass
            finally:
                self.movable = before

        async def made() -> T:
            return call(*args)

        return await self.in_thread(made)

    def begin(self) -> bool:
        """Begin a piece that may begin anew elsewhere; return what ``movable`` was before."""
        before, self.movable, self._done, self._since = self.movable, True, 0, 0
        return before

    async def in_thread(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what a coroutine gives that needs no event loop, made in a worker thread."""
        assert self.host is not None
        self.inside = True
        try:
            return await self.host.in_thread(lambda: _alone(make))
        finally:
            self.inside = False


async def _alone(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with apart():
        return await make()
