"""Event loops that end at a chosen moment, as they do when a program is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import trio

Main = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs in the loop; calls what it is given when the turns of the loop begin to count."""


class _Ending(asyncio.SelectorEventLoop):
    left: int | None = None

    def _run_once(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                self.ended = True
                for task in asyncio.all_tasks(self):
                    task.cancel()
        super()._run_once()  # type: ignore[misc]

    ended = False


def run_asyncio(main: Main, turns: int) -> bool:
    """Run ``main``, cancel every task after so many turns, and all again as the loop ends."""
    loop = _Ending()

    def begin() -> None:
        loop.left = turns

    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main(begin))  # type: ignore[arg-type]
    except asyncio.CancelledError:
        assert loop.ended
    return loop.ended


class _Counting(trio.abc.Instrument):
    def __init__(self, scope: trio.CancelScope) -> None:
        self.left: int | None = None
        self.ended = False
        self._scope = scope

    def after_task_step(self, task: Any) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                self.ended = True
                self._scope.cancel()


def run_trio(main: Main, turns: int) -> bool:
    """Run ``main``, and cancel it after so many steps of tasks; system tasks end with it."""
    scope = trio.CancelScope()
    counting = _Counting(scope)

    def begin() -> None:
        counting.left = turns

    async def run() -> None:
        with scope:
            await main(begin)

    trio.run(run, instruments=[counting])
    return counting.ended


RUNNERS = {"asyncio": run_asyncio, "trio": run_trio}
