"""Event loops: which one runs, tasks that belong to it, and what must not be left half way.

With ``threads`` the only module that knows asyncio and trio apart. What differs: anyio has no
task without a group, and no shield against asyncio's ``Task.cancel()``, which interrupts one wait
of a task, whatever scope it is in, and at the end of ``asyncio.run`` one wait of every task.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import sys
import threading
from asyncio.tasks import _unregister_task
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

import anyio

__all__ = [
    "Every",
    "Home",
    "Signal",
    "abandon_closed",
    "is_cancellation",
    "is_interruption",
    "is_of_another",
    "outlast",
    "running_loop",
    "start",
    "surely",
]

T = TypeVar("T")

_log = logging.getLogger("datahike_async.konserve.loops")

_tasks: Final[dict[asyncio.Task[None], Callable[[], None] | None]] = {}
"""asyncio itself holds its tasks weakly. Each with what is called where its loop was closed."""


def _on_asyncio() -> bool:
    return anyio.get_cancelled_exc_class() is asyncio.CancelledError


def running_loop() -> Any:
    """Return the loop that runs in this thread, or None."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_trio_token()
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Home:
    """The event loop, thread and process that something was made in, and belongs to."""

    def __init__(self) -> None:
        self._loop = running_loop()
        self._thread = threading.get_ident()
        self._pid = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process, with copies of its objects."""
        return os.getpid() != self._pid

    def is_running(self) -> bool:
        """Whether a loop runs in this thread, be it this one or another."""
        return running_loop() is not None

    def elsewhere(self, *, waiting: bool = True) -> str | None:
        """Say where we are instead of at home, for a message; None at home.

        What does not wait needs no loop that runs, only the right thread.
        """
        running = running_loop()
        if os.getpid() != self._pid:
            return f"in process {os.getpid()}, forked from {self._pid}, where it was opened"
        if running is self._loop:
            return None
        if threading.get_ident() != self._thread:
            return "in another thread than the one it was opened in"
        if running is None:
            return "where no event loop runs" if waiting else None
        return "on another event loop than the one it was opened on"

    def call_soon(self, call: Callable[[], None]) -> bool:
        """Have the loop make a call, from any thread; say whether there still is a loop."""
        try:
            if isinstance(self._loop, asyncio.AbstractEventLoop):
                self._loop.call_soon_threadsafe(call)
            else:
                self._loop.run_sync_soon(call)
        except RuntimeError:
            # Closed; trio's RunFinishedError is one, too.
            return False
        return True


class Signal:
    """Something that happens once, for which one task of the running loop waits.

    What ``anyio.Event`` is for any number of tasks, which costs several times as much to make, to
    wait for and to set: every commit waits for two.
    """

    __slots__ = ("_has_come", "_waiter")

    def __init__(self) -> None:
        self._has_come = False
        self._waiter: asyncio.Future[None] | anyio.Event | None = None

    def is_set(self) -> bool:
        """Say whether it has happened."""
        return self._has_come

    def set(self) -> None:
        """Say that it has happened; once more does no harm."""
        self._has_come = True
        waiter = self._waiter
        if waiter is None:
            return
        if isinstance(waiter, asyncio.Future):
            if not waiter.done():
                waiter.set_result(None)
        else:
            waiter.set()

    async def wait(self) -> None:
        """Wait until it happens; not at all where it has."""
        if self._has_come:
            return
        loop = running_loop()
        if isinstance(loop, asyncio.AbstractEventLoop):
            self._waiter = future = loop.create_future()
            await future
        else:
            self._waiter = event = anyio.Event()
            await event.wait()


def is_cancellation(error: BaseException) -> bool:
    """Say whether an error is the cancellation of a task.

    For what is tried often: to ask after an error costs nothing where there is none.
    """
    return isinstance(error, anyio.get_cancelled_exc_class())


def is_interruption() -> bool:
    """Say whether a cancellation that was caught has interrupted one wait, and no more.

    That is what asyncio's ``Task.cancel()`` does, and the end of its loop: one may go on waiting.
    After the cancellation of a scope every further wait would raise again.
    """
    return anyio.current_effective_deadline() != -math.inf


def is_of_another() -> bool:
    """Say whether a cancellation that was caught is that of another task, which was awaited."""
    if not _on_asyncio():
        return False
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


# -- tasks of the loop -------------------------------------------------------------------------


def start(
    main: Callable[[], Coroutine[Any, Any, None]],
    name: str,
    *,
    context: contextvars.Context | None = None,
    ending: Callable[[], None] | None = None,
    seconds: float = 0.0,
    unbegun: Callable[[], None] | None = None,
    abandoned: Callable[[], None] | None = None,
) -> None:
    """Run ``main`` in a task that belongs to the running loop, whoever started it may end before.

    It runs in an empty context unless one is given; what it raises is logged. The end of the loop
    cancels it: on asyncio by an interruption (see ``is_interruption``); on trio, with ``ending``,
    that is called, and ``main`` is cancelled once ``seconds`` have passed. The loop waits for it.

    asyncio may also cancel it before its first step; then nothing of ``main`` runs, no ``finally``
    either, and ``unbegun`` is called: somebody may be waiting for what ``main`` does at its end.

    An asyncio loop may also be closed without an end; then nothing of ``main`` runs any more, and
    ``abandoned`` is called some time later.
    """
    context = contextvars.Context() if context is None else context
    if _on_asyncio():
        abandon_closed()
        begun: list[bool] = []

        async def run() -> None:
            begun.append(True)
            await _contained(main, name)

        def ended(task: asyncio.Task[None]) -> None:
            _tasks.pop(task, None)
            if not begun and unbegun is not None:
                unbegun()

        task = asyncio.get_running_loop().create_task(run(), name=name, context=context)
        _tasks[task] = abandoned
        task.add_done_callback(ended)
    else:
        from trio.lowlevel import spawn_system_task

        spawn_system_task(_on_trio, main, name, ending, seconds, name=name, context=context)


class Every:
    """A task that makes a call every so many seconds, until that returns False, or it is stopped.

    ``call`` raises nothing. The task is one of the running loop's; see ``start``.
    """

    def __init__(self, seconds: float, call: Callable[[], Awaitable[bool]], name: str) -> None:
        self._seconds = seconds
        self._call = call
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        start(self._run, name, unbegun=self._ended.set)

    async def stop(self) -> None:
        """End it, also in the midst of a call."""
        self._scope.cancel()
        await self._ended.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                while True:
                    await anyio.sleep(self._seconds)
                    if not await self._call():
                        return
        finally:
            self._ended.set()


def abandon_closed() -> None:
    """Let go of the tasks of loops that were closed under them."""
    # As a list: tasks of loops in other threads come and go meanwhile.
    for task in list(_tasks):
        abandoned = _tasks.pop(task, None) if task.get_loop().is_closed() else None
        if abandoned is not None:
            abandoned()


async def _contained(main: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    try:
        await main()
    except asyncio.CancelledError:
        return
    except Exception:
        _log.exception("%s failed", name)


async def _on_trio(
    main: Callable[[], Coroutine[Any, Any, None]],
    name: str,
    ending: Callable[[], None] | None,
    seconds: float,
) -> None:
    import trio

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            # The loop ends, unless it is ``main`` that has ended.
            if not ended:
                shield.deadline = trio.current_time() + seconds
                assert ending is not None
                ending()

    ended = False
    shield = trio.CancelScope(shield=ending is not None)
    async with trio.open_nursery() as nursery:
        if ending is not None:
            nursery.start_soon(watch)
        with shield:
            try:
                await main()
            except trio.Cancelled:
                raise
            except BaseException:
                # An error that left a system task would end the whole run, as an internal one.
                _log.exception("%s failed", name)
        ended = True
        nursery.cancel_scope.cancel()


# -- what must not be left half way --------------------------------------------------------------


async def outlast(wait: Callable[[], Awaitable[object]]) -> None:
    """Wait for something that is sure to come, also when cancelled; raise that afterwards."""
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while True:
            try:
                await wait()
                break
            except anyio.get_cancelled_exc_class() as error:
                if not is_interruption():
                    raise
                cancelled = error
    if cancelled is not None:
        raise cancelled


async def surely(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Await a call to its end, however often the caller is cancelled; raise that afterwards.

    For closing what is open. On asyncio it gets a task of its own, for a shield is none there; one
    that nobody finds among all tasks, for who cancels those would interrupt it, or meet it before
    its first step.
    """
    if not _on_asyncio():
        with anyio.CancelScope(shield=True):
            return await call()
    task = asyncio.get_running_loop().create_task(call())
    # Whoever writes tasks of his own is given this one by asyncio ("Extending asyncio").
    _unregister_task(task)
    await outlast(partial(asyncio.wait, [task]))
    return task.result()
