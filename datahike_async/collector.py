"""The garbage collector while much is made that is no garbage.

A full collection looks into every container of the process, and holds the interpreter meanwhile: no
other thread runs, the event loop's among them, for a tenth of a second a million containers. What
starts one is that many have come to live, which a large transaction's data do. So what lives
already is set aside while such work runs (``gc.freeze``, which moves it all in one step), and comes
back afterwards. New garbage is collected all the time, and old garbage a little later: what lives
comes back for a full collection after a while, too, where such work overlaps without an end.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["set_aside", "spare"]

# Taken again where a flush that its event loop left behind is collected, and left, in the middle.
_lock = threading.RLock()
_LONGEST: Final = 30.0
"""Seconds, after which what was set aside is looked into once, though a block is still open."""

_depth = 0
_ours = False
# When the first was set aside; and how many full collections there had been when all came back,
# where the next one is waited for.
_since = 0.0
_awaited: int | None = None


@contextmanager
def set_aside() -> Iterator[None]:
    """Spare what lives already from collections inside the block; blocks of threads may overlap.

    Does nothing where the application froze objects of its own: they could not be told from ours
    afterwards.
    """
    global _depth, _ours, _since, _awaited
    with _lock:
        _depth += 1
        if _depth == 1:
            _ours = not gc.get_freeze_count()
            _since, _awaited = time.monotonic(), None
        if _ours:
            _freeze()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth and _ours:
                gc.unfreeze()


def spare() -> None:
    """Set aside what has come to live since, where a block is open that does."""
    if _depth:
        with _lock:
            if _depth and _ours:
                _freeze()


def _freeze() -> None:
    """Set aside what lives, garbage among it, unless it is time for a full collection."""
    global _since, _awaited
    if _awaited is None and time.monotonic() - _since > _LONGEST:
        gc.unfreeze()
        _awaited = _full_collections()
    if _awaited is not None:
        if _full_collections() == _awaited:
            return
        _since, _awaited = time.monotonic(), None
    if _depth:
        gc.freeze()


def _full_collections() -> int:
    return int(gc.get_stats()[2]["collections"])


def _after_fork() -> None:
    """Begin anew in a forked child, where the threads that were in a block never leave it."""
    global _depth, _lock
    _lock = threading.RLock()
    if _depth and _ours:
        gc.unfreeze()
    _depth = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
