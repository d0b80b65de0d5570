"""A call that stays in its thread until it is let go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest


class Door:
    """A call that says when it is in a thread, and ends when it is let."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.open = threading.Event()
        self.calls = 0
        self.over = False

    def call(self) -> Door:
        self.calls += 1
        self.inside.set()
        assert self.open.wait(10)
        self.over = True
        return self

    async def entered(self) -> None:
        while not self.inside.is_set():
            await asyncio.sleep(0.001)


async def natively_cancelled(door: Door, call: Callable[[], Any], times: int = 1) -> None:
    """Run ``call`` in a task that is cancelled while its thread is at the door."""
    task = asyncio.create_task(call())
    await door.entered()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.005)
        assert not task.done()
    door.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert door.over
