"""Threads of event loops: blocking calls, none of which is left behind when a task is cancelled.

Knows asyncio and trio apart, as ``loops`` does. What differs: trio waits for a thread whatever
happens; asyncio's ``Task.cancel()`` interrupts any wait, and anyio's threads for asyncio do not
outlast that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar, cast

import anyio
import anyio.from_thread
from anyio.lowlevel import RunVar, checkpoint_if_cancelled
from anyio.to_thread import run_sync

from datahike_async.konserve.loops import is_interruption, running_loop
from datahike_async.konserve.pool import Pool

__all__ = [
    "STORING",
    "Threads",
    "acquire_in_thread",
    "await_on_loop",
    "check_cancelled",
    "in_thread",
]

T = TypeVar("T")
U = TypeVar("U")

_LOOK_EVERY: Final = 0.5
"""Seconds after which a thread that waits for a loop looks whether there still is one."""


class _Made(Generic[T]):
    """A call that is made in a thread, and what came of it."""

    def __init__(self, call: Callable[..., T], args: tuple[Any, ...]) -> None:
        self._call = call
        self._args = args
        self._given: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call, in the thread. What it raises is for ``result``.

        A future that raised it would hold it and be held by its traceback: all that was being
        worked on would live until the garbage collector finds it, and stops the loop to free it.
        """
        try:
            self._given = self._call(*self._args)
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """Return what the call has returned, or raise what it raised."""
        error, self._error = self._error, None
        if error is None:
            return cast("T", self._given)
        try:
            raise error
        finally:
            del error


class _Present(threading.local):
    """The call that is being made in this thread, for a task of asyncio."""

    call: _Call[Any] | None = None


_present: Final = _Present()


class _Call(_Made[T]):
    """A call for a task of asyncio, which either never begins or is seen to its end."""

    def __init__(
        self, call: Callable[..., T], args: tuple[Any, ...], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._call = contextvars.copy_context().run
        self._args = (call, *args)
        self._given = self._error = None
        self.loop = loop
        self.given_up = False
        """Whether nobody wants what comes of it any more."""
        self.over: asyncio.Future[None] = loop.create_future()
        """Done once it has ended. Whoever is cancelled while he awaits it calls ``end``."""
        self._begun = threading.Lock()
        self._ended = False
        self._awaited: asyncio.Task[Any] | None = None

    def run(self) -> None:
        """Make the call, in the thread, unless it was kept from beginning."""
        if not self._begun.acquire(blocking=False):
            return
        _present.call = self
        try:
            super().run()
        finally:
            _present.call = None

    def tell(self) -> None:
        """Say, in the thread, that it has ended."""
        try:
            self.loop.call_soon_threadsafe(self._end)
        except RuntimeError:
            return  # the loop is closed: nobody waits

    def _end(self) -> None:
        self._ended = True
        if not self.over.done():
            self.over.set_result(None)

    @property
    def was_cancelled(self) -> bool:
        """Whether the call has ended because it was given up."""
        return isinstance(self._error, asyncio.CancelledError)

    def give_up(self) -> None:
        """Tell the thread that nobody wants what comes of the call."""
        self.given_up = True
        if self._awaited is not None:
            self._awaited.cancel()

    async def end(self) -> bool:
        """Keep it from beginning, or wait for its end; say whether it was made."""
        if self._begun.acquire(blocking=False):
            return False
        with anyio.CancelScope(shield=True):
            while not self._ended:
                self.over = self.loop.create_future()
                try:
                    await self.over
                except asyncio.CancelledError:
                    continue
        return True

    def on_loop(self, make: Callable[[], Coroutine[Any, Any, U]]) -> U:
        """Await something on the loop, in its thread, while this thread waits for its end."""
        answer: concurrent.futures.Future[U] = concurrent.futures.Future()
        over = threading.Event()
        answer.add_done_callback(lambda _: over.set())

        def begin() -> None:
            try:
                self._awaited = task = self.loop.create_task(make())
            except BaseException as error:
                answer.set_exception(error)
                return
            task.add_done_callback(ended)
            if self.given_up:
                task.cancel()

        def ended(task: asyncio.Task[U]) -> None:
            self._awaited = None
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is None:
                answer.set_result(task.result())
            else:
                answer.set_exception(error)

        try:
            self.loop.call_soon_threadsafe(begin)
        except RuntimeError:
            self.given_up = True
            raise asyncio.CancelledError from None
        while not over.wait(_LOOK_EVERY):
            if _runs_no_more(self.loop):
                self.given_up = True
                raise asyncio.CancelledError
        return answer.result()


def _runs_no_more(loop: asyncio.AbstractEventLoop) -> bool:
    """Say whether nothing that is left to a loop will be done.

    One that stands still may go on, as in notebooks, until the process ends; that waits for the
    threads of pools first, and would do so for ever.
    """
    ending: bool = getattr(threading, "_SHUTTING_DOWN", False)
    return loop.is_closed() or (ending and not loop.is_running())


class Threads:
    """So many worker threads at once of each event loop, for calls of one kind.

    Not those that an application uses, all of which it may keep waiting for the database. And a
    call that waits for another one is of another kind, or all of a kind could wait for ever.
    """

    def __init__(self, kind: str, most: int) -> None:
        self.most = most
        self._kind = kind
        self._limiters: RunVar[anyio.CapacityLimiter] = RunVar(f"datahike_async.threads.{kind}")
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def limiter(self) -> anyio.CapacityLimiter:
        """What limits those of trio that this event loop uses."""
        try:
            return self._limiters.get()
        except LookupError:
            made = anyio.CapacityLimiter(self.most)
            self._limiters.set(made)
            return made

    def pool(self, loop: asyncio.AbstractEventLoop) -> Pool:
        """Return those of a loop of asyncio; they end with it."""
        made = self._pools.get(loop)
        if made is None:
            # As a list: loops of other threads may come meanwhile.
            for old in [ref() for ref in self._pools.keyrefs()]:
                if old is not None and old.is_closed():
                    left = self._pools.pop(old, None)
                    if left is not None:
                        left.end()
            made = self._pools[loop] = Pool(self.most, f"datahike_async {self._kind}")
        return made


STORING: Final = Threads("storing", 40)
"""Threads of stores: what runs there waits for the disk, and for no other thread of a loop."""


async def in_thread(
    call: Callable[..., T], *args: Any, surely: bool = False, threads: Threads = STORING
) -> T:
    """Make a call in a worker thread; come back when it has ended, or has never begun.

    Cancelling waits for the call, in which ``check_cancelled`` then raises, and returns what comes
    of it; where asyncio's ``Task.cancel()`` did it, that is lost and CancelledError raised.
    With ``surely`` the call is made however often the task is cancelled, and where no thread can be
    had for it right here: for what must not stay open.
    """
    loop = running_loop()
    if not isinstance(loop, asyncio.AbstractEventLoop):
        made = _Made(call, args)
        try:
            with anyio.CancelScope(shield=surely):
                await run_sync(made.run, limiter=threads.limiter)
        except RuntimeError:
            if not surely:
                raise
            made.run()
        return made.result()
    if surely:
        with anyio.CancelScope(shield=True):
            return await _surely_made(call, args, loop, threads)
    await checkpoint_if_cancelled()
    one = _Call(call, args, loop)
    try:
        # anyio's own way takes twice as long, and does not wait for a thread after a cancellation.
        threads.pool(loop).submit(one)
        await one.over
    except asyncio.CancelledError:
        of_a_scope = not is_interruption()
        one.give_up()
        if not await one.end() or not of_a_scope or one.was_cancelled:
            raise
        # Nothing is lost: a scope raises it again where the task waits next.
    return one.result()


async def _surely_made(
    call: Callable[..., T], args: tuple[Any, ...], loop: asyncio.AbstractEventLoop, threads: Threads
) -> T:
    cancelled: BaseException | None = None
    while True:
        one = _Call(call, args, loop)
        try:
            threads.pool(loop).submit(one)
            await one.over
        except asyncio.CancelledError as error:
            if await one.end():
                raise
            cancelled = error
            continue
        except RuntimeError:  # there is no thread
            here = _Made(call, args)
            here.run()
            result = here.result()
            break
        result = one.result()
        break
    if cancelled is not None:
        raise cancelled
    return result


def check_cancelled() -> None:
    """Raise, in a worker thread, the cancellation of the task that waits for it.

    Raises RuntimeError in other threads.
    """
    call = _present.call
    if call is None:
        anyio.from_thread.check_cancelled()
    elif call.given_up:
        raise asyncio.CancelledError


def await_on_loop(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Have the event loop that waits for this worker thread await something for it.

    It is cancelled with the task that waits, and where its loop was closed. Raises RuntimeError in
    other threads.
    """
    call = _present.call
    return anyio.from_thread.run(make) if call is None else call.on_loop(make)


async def acquire_in_thread(
    acquire: Callable[..., T], release: Callable[[T], object], *args: Any
) -> T:
    """Open something in a worker thread, and close it again if the caller was cancelled meanwhile.

    For whatever must not be lost: a file, a lock, a connection.
    """
    made: list[T] = []

    def call() -> T:
        made.append(acquire(*args))
        return made[0]

    try:
        return await in_thread(call)
    except BaseException:
        if made:
            await in_thread(release, made.pop(), surely=True)
        raise
