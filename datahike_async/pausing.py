"""Giving the event loop a turn during long work, without paying for it in short calls."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from anyio.lowlevel import checkpoint

__all__ = ["pause"]

BUDGET: Final = 0.001
"""Seconds that readers may keep the event loop between two turns for the others."""

_last = 0.0


async def pause() -> None:
    """Let other tasks run, and notice a cancellation, if the last such turn is a while ago."""
    global _last
    if perf_counter() - _last < BUDGET:
        return
    await checkpoint()
    _last = perf_counter()
