"""Listeners: functions that are called with the report of each commit, in order.

They run in a task of their connection, not in the actor, so a slow one delays nobody and any of
them may transact. What they raise is logged.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import anyio

__all__ = ["Listeners"]

_log = logging.getLogger("datahike_async.listeners")

_PATIENCE: Final = 5.0
"""Seconds that a closing connection gives coroutine listeners to finish."""


class Listeners:
    """The listeners of one connection, by key."""

    def __init__(self) -> None:
        self.by_key: dict[Any, Callable[[Any], Any]] = {}
        self._queue: deque[Callable[[], Any]] = deque()
        self._wake: anyio.Event | None = None
        self._closing = False
        self._idle = anyio.Event()

    def __bool__(self) -> bool:
        return bool(self.by_key)

    def put(self, make: Callable[[], Any]) -> None:
        """Queue a report, made when it is delivered."""
        self._queue.append(make)
        self._stir()

    async def finish(self) -> None:
        """Wait until everything queued is delivered, or for as long as is reasonable."""
        self._closing = True
        self._stir()
        with anyio.move_on_after(_PATIENCE, shield=True):
            await self._idle.wait()

    def _stir(self) -> None:
        if self._wake is not None:
            self._wake.set()

    async def run(self) -> None:
        """Deliver reports until ``finish`` was called and all are delivered."""
        try:
            while True:
                while self._queue:
                    report = self._queue.popleft()()
                    for key, listener in list(self.by_key.items()):
                        await self._call(key, listener, report)
                if self._closing:
                    return
                self._wake = anyio.Event()
                await self._wake.wait()
                self._wake = None
        finally:
            self._idle.set()

    async def _call(self, key: Any, listener: Callable[[Any], Any], report: Any) -> None:
        try:
            result = listener(report)
            if inspect.isawaitable(result):
                await result
        except Exception:
            _log.exception("listener %r failed on transaction %s", key, report.tx)
