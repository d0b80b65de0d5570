"""Event loops of asyncio and trio in which nobody waits: time passes when nothing else can happen.

Whenever no task can go on, the loop asks ``idle`` of a world, which lets something happen: a store
call lands, somebody is cancelled, or time passes, up to the next deadline. Threads are not waited
for: what would run in one runs at once.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Protocol

import trio
from trio._core import _run as trio_run
from trio.testing import wait_all_tasks_blocked

from datahike_async import pausing
from datahike_async.konserve import threads
from datahike_async.storage import flush

__all__ = ["BACKENDS", "Gate", "Stuck", "run"]

BACKENDS = ("asyncio", "trio")


class Stuck(AssertionError):
    """Everybody waits for something that nobody will do."""


class World(Protocol):
    """What happens where no task can go on."""

    def idle(self, deadline: float | None, now: float) -> float:
        """Let something happen, and return to when the clock is to be set, ``now`` at least."""
        ...


class Gate:
    """Where a task waits until it is given a result or an error."""

    def __init__(self, backend: str) -> None:
        self._future: Any = None
        self._event: Any = None
        self._result: Any = None
        self._error: BaseException | None = None
        if backend == "asyncio":
            self._future = asyncio.get_running_loop().create_future()
        else:
            self._event = trio.Event()

    async def wait(self) -> Any:
        if self._future is not None:
            await self._future
        else:
            await self._event.wait()
        if self._error is not None:
            raise self._error
        return self._result

    def open(self, result: Any = None, error: BaseException | None = None) -> None:
        self._result, self._error = result, error
        if self._event is not None:
            self._event.set()
        elif not self._future.done():
            self._future.set_result(None)


class _Selector(selectors.SelectSelector):
    """Selects nothing: there is nothing outside."""

    loop: _Loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self.loop.nothing_to_do()
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, world: World) -> None:
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self
        self._world = world
        self._now = 1000.0
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._now

    def nothing_to_do(self) -> None:
        waiting: list[Any] = self._scheduled  # type: ignore[attr-defined]
        self._now = self._world.idle(waiting[0]._when if waiting else None, self._now)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_soon(callback, *args, context=context)


class _Clock(trio.abc.Clock):
    def __init__(self) -> None:
        self.now = 1000.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0 if deadline <= self.now else 999_999_999.0


def _run_asyncio(main: Callable[[], Awaitable[None]], world: World) -> None:
    with asyncio.Runner(loop_factory=lambda: _Loop(world)) as runner:
        runner.run(main())  # type: ignore[arg-type]


def _run_trio(main: Callable[[], Awaitable[None]], world: World, seed: int) -> None:
    clock = _Clock()

    async def turn() -> None:
        while True:
            await wait_all_tasks_blocked()
            runner = trio_run.GLOBAL_RUN_CONTEXT.runner
            deadline = runner.deadlines.next_deadline()
            clock.now = world.idle(None if deadline == float("inf") else deadline, clock.now)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn)
            await main()
            nursery.cancel_scope.cancel()

    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r = random.Random(seed)
    try:
        trio.run(run, clock=clock)
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]


def run(backend: str, main: Callable[[], Awaitable[None]], world: World, seed: int) -> None:
    """Run ``main`` on a loop in which what happens is up to a world and a seed."""
    with _no_threads(), _no_stopwatches():
        if backend == "asyncio":
            _run_asyncio(main, world)
        else:
            _run_trio(main, world, seed)


async def _at_once(call: Callable[..., Any], *args: Any, **_: Any) -> Any:
    before = threads._present.call
    threads._present.call = SimpleNamespace(given_up=False)  # type: ignore[assignment]
    try:
        return call(*args)
    finally:
        threads._present.call = before


@contextmanager
def _no_threads() -> Iterator[None]:
    real = threads.in_thread
    users = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("datahike_async") and getattr(module, "in_thread", None) is real
    ]
    for module in users:
        module.in_thread = _at_once  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in users:
            module.in_thread = real  # type: ignore[attr-defined]


@contextmanager
def _no_stopwatches() -> Iterator[None]:
    """Have who gives way after some time do so after some looks: how fast it is, is no chance."""
    looks = itertools.count()

    def passed() -> float:
        return next(looks) * 1e-4

    real, slept = pausing.perf_counter, flush.sleep
    pausing.perf_counter = flush.perf_counter = passed  # type: ignore[attr-defined]
    flush.sleep = lambda _: None  # type: ignore[attr-defined]
    pausing._slice.until = 0.0
    try:
        yield
    finally:
        pausing.perf_counter = flush.perf_counter = real  # type: ignore[attr-defined]
        flush.sleep = slept  # type: ignore[attr-defined]
        pausing._slice.until = 0.0
