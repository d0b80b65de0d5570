"""Listeners: functions that are called with the report of each commit, in order.

Each has a task and a queue of its own, so a slow one delays neither the writer nor the others, and
any of them may transact. One that is stuck costs bounded memory: of what waits for it the oldest is
dropped, which is logged, and shows as a report whose ``db_before`` is not the ``db_after`` of the
one before. What a listener raises is logged.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import anyio

from datahike_async.konserve.loops import is_of_another, outlast, start
from datahike_async.pausing import pause

__all__ = ["Listeners"]

_log = logging.getLogger("datahike_async.listeners")

_delivering: ContextVar[_Listener | None] = ContextVar("delivering", default=None)

Report = Callable[[], Any]
"""Makes a report, the same one at every call."""


def once(make: Report) -> Report:
    """Return what makes a report when it is first delivered, for all listeners."""
    made: list[Any] = []

    def report() -> Any:
        if not made:
            made.append(make())
        return made[0]

    return report


class _Listener:
    """A function and the reports that wait for it; ``idle`` is there while its task runs."""

    def __init__(self, key: Any, call: Callable[[Any], Any], limit: int) -> None:
        self.key = key
        self.idle: anyio.Event | None = None
        self._call = call
        self._limit = limit
        # As callbacks have it: what surrounded the one who wants to be called.
        self._context = copy_context()
        self._queue: deque[Report] = deque()
        self._missed = 0
        # Made with the task: who listens may do so while the loop stands still, as in notebooks.
        self._scope: anyio.CancelScope | None = None

    def put(self, report: Report) -> None:
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self._missed += 1
            if self._missed == 1:
                _log.warning(
                    "listener %r is %d reports behind; the oldest are dropped",
                    self.key,
                    self._limit,
                )
        self._queue.append(report)
        if self.idle is None:
            self.idle, self._scope = anyio.Event(), anyio.CancelScope()
            name, context = f"listener {self.key!r}", self._context.copy()
            start(self._run, name, context=context, unbegun=self._ended)

    def cancel(self) -> None:
        """Deliver nothing more, and cancel what is being delivered."""
        self._queue.clear()
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self) -> None:
        assert self.idle is not None
        assert self._scope is not None
        _delivering.set(self)
        try:
            with self._scope:
                while self._queue:
                    if self._missed:
                        _log.warning("listener %r missed %d reports", self.key, self._missed)
                        self._missed = 0
                    await self._deliver(self._queue.popleft()())
                    await pause()
        finally:
            self._ended()

    def _ended(self) -> None:
        assert self.idle is not None
        self.idle.set()
        self.idle = self._scope = None

    async def _deliver(self, report: Any) -> None:
        try:
            result = self._call(report)
            if inspect.isawaitable(result):
                await result
        except Exception:
            _log.exception("listener %r failed on transaction %s", self.key, report.tx)
        except anyio.get_cancelled_exc_class():
            if not is_of_another():
                raise
            _log.exception("listener %r was cancelled on transaction %s", self.key, report.tx)


class Listeners:
    """The listeners of one connection, by key.

    At most ``limit`` reports wait for each; the end of the connection waits so many ``seconds``.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._by_key: dict[Any, _Listener] = {}

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def add(self, key: Any, call: Callable[[Any], Any]) -> None:
        """Call a function from now on, in place of the one that had its key."""
        self._by_key[key] = _Listener(key, call, self._limit)

    def remove(self, key: Any) -> None:
        """Deliver nothing more to the listener of a key, if there is one."""
        self._by_key.pop(key, None)

    def put(self, make: Report) -> None:
        """Queue a report for each of them, made when it is first delivered."""
        report = once(make)
        for listener in self._by_key.values():
            listener.put(report)

    def is_calling(self) -> bool:
        """Say whether it is one of them that asks."""
        return _delivering.get() in self._by_key.values()

    async def finish(self) -> None:
        """Wait until everything queued is delivered, for as long as is reasonable.

        Raises nothing but a cancellation, afterwards.
        """
        # The one that is releasing its connection would wait for itself.
        others = [one for one in self._by_key.values() if one is not _delivering.get()]

        async def idle() -> None:
            with anyio.move_on_after(self._seconds):
                for listener in others:
                    if listener.idle is not None:
                        await listener.idle.wait()

        try:
            await outlast(idle)
        finally:
            for listener in others:
                if listener.idle is not None:
                    _log.warning("listener %r did not finish; it is cancelled", listener.key)
                    listener.cancel()
