"""The garbage collector while much is made that is no garbage.

A full collection looks into every container of the process, and holds the interpreter meanwhile: no
other thread runs, the event loop's among them, for a tenth of a second a million containers. What
starts one is that many have come to live, which a large transaction's data do. So what lives
already is set aside while such work runs (``gc.freeze``, which moves it all in one step), and comes
back afterwards. New garbage is collected all the time, and old garbage a little later.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["set_aside", "spare"]

_lock = threading.Lock()
_depth = 0
_ours = False


@contextmanager
def set_aside() -> Iterator[None]:
    """Spare what lives already from collections inside the block; blocks of threads may overlap.

    Does nothing where the application froze objects of its own: they could not be told from ours
    afterwards.
    """
    global _depth, _ours
    with _lock:
        _depth += 1
        if _depth == 1:
            _ours = not gc.get_freeze_count()
        if _ours:
            gc.freeze()
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
                gc.freeze()
