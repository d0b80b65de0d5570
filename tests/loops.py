"""Event loops in which something happens at a chosen turn, such as their end."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

Action = Callable[[], object]


class Begin(Protocol):
    """Says that the turns of the loop begin to count, and what is to happen after the last."""

    def __call__(self, action: Action | None = None) -> None:
        """Without an action every task is cancelled, as at the end of a program."""


Main = Callable[[Begin], Awaitable[None]]


class _Counter:
    """Counts turns down; ``happened`` once the action was taken."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.action: Action = lambda: None
        self.happened = False

    def turn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                self.happened = True
                self.action()


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self.counter = _Counter()
        # One that does not end fails: nobody else would stop it.
        self.call_later(100, self.stop)

    def _run_once(self) -> None:
        self.counter.turn()
        super()._run_once()  # type: ignore[misc]

    def cancel_all(self) -> None:
        for task in asyncio.all_tasks(self):
            task.cancel()


def run_asyncio(main: Main, turns: int) -> bool:
    """Run ``main``; say whether its turns were enough for the action to happen.

    A turn is one of the loop. After an end all tasks are cancelled once more, as asyncio does.
    """
    loop = _Loop()

    def begin(action: Action | None = None) -> None:
        loop.counter.action = action or loop.cancel_all
        loop.counter.left = turns

    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main(begin))  # type: ignore[arg-type]
    except asyncio.CancelledError:
        assert loop.counter.happened
    return loop.counter.happened


class _Counting(trio.abc.Instrument):
    def __init__(self) -> None:
        self.counter = _Counter()

    def after_task_step(self, task: Any) -> None:
        self.counter.turn()


def run_trio(main: Main, turns: int) -> bool:
    """Run ``main``; say whether its turns, here steps of tasks, were enough for the action."""
    counting = _Counting()

    async def run() -> None:
        def begin(action: Action | None = None) -> None:
            counting.counter.action = action or scope.cancel
            counting.counter.left = turns

        with trio.CancelScope() as scope:
            await main(begin)

    trio.run(run, instruments=[counting])
    return counting.counter.happened


RUNNERS = {"asyncio": run_asyncio, "trio": run_trio}


def held() -> list[str]:
    """Return what is open: folders and files, and sockets, pipes left out."""
    gc.collect()
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return sorted(link for link in found if link.startswith(("/tmp", "socket:")))
