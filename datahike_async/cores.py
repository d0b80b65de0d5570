"""More than one core for long work on arrays: who handles it has its pieces handled by helpers too.

NumPy lets go of the interpreter while it works on an array. So a worker thread that goes over many
numbers in pieces, none of which needs another, shares them with the threads of other cores. The
event loop's own thread never does, work on few numbers neither, and on one core nobody. Knows
neither what is worked on nor event loops.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import Final

from datahike_async.looks import PIECE, pieces
from datahike_async.memory import said_by_groups

__all__ = ["apart", "cores", "in_pieces"]

_apart: Final[ContextVar[bool]] = ContextVar("apart", default=False)

# Numbers of NumPy's from which on helpers are asked: less is done before they have begun.
_WORTH: Final = 16 * PIECE
# More helpers than this find no work, since memory is what they wait for.
_MOST: Final = 3

_PLACES: Final = (("", "cpu.max"), ("cpu", "cpu/cpu.cfs_quota_us"))
_PERIOD: Final = "cpu.cfs_period_us"


def cores(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may use: those it is bound to, and its groups' quota."""
    here = getattr(os, "sched_getaffinity", None)
    found = len(here(0)) if here is not None else os.cpu_count() or 1
    for path, text in said_by_groups(_PLACES, groups, root):
        quota, _, period = text.partition(" ")
        if not period:
            try:
                period = path.with_name(_PERIOD).read_text("ascii").strip()
            except (OSError, UnicodeDecodeError):
                continue
        if quota.isdigit() and period.isdigit() and int(period):
            found = min(found, max(int(quota) // int(period), 1))
    return found


@contextmanager
def apart() -> Iterator[None]:
    """Say that what runs in this block, in this context, keeps no event loop waiting."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def in_pieces(
    count: int, work: Callable[[int, int], object], *, each: int = 1, size: int = 0
) -> None:
    """Call ``work(start, stop)`` for the pieces that ``count`` values are handled in (``looks``).

    Pieces are handled in any order, and several at a time where that is worth it; each writes where
    no other one does. What the first failure raises is raised when none is being worked on.
    """
    left = pieces(count, each=each, size=size)
    helpers = _HELPERS if count * each >= _WORTH and _apart.get() else 0
    if not helpers:
        for start, stop in left:
            work(start, stop)
        return
    shared, lock, failed = iter(left), Lock(), False

    def share() -> None:
        nonlocal failed
        try:
            while not failed:
                # A look is taken with the piece: by whoever runs this work, not by its helpers.
                with lock:
                    piece = next(shared, None)
                if piece is None:
                    return
                work(*piece)
        except BaseException:
            failed = True
            raise

    asked = [_pool().submit(share) for _ in range(helpers)]
    try:
        share()
    finally:
        # One that has not begun is not waited for.
        begun = [one for one in asked if not one.cancel()]
        errors = [error for one in begun if (error := one.exception()) is not None]
    if errors:
        raise errors[0]


_threads: list[ThreadPoolExecutor] = []
_making: Final = Lock()


def _pool() -> ThreadPoolExecutor:
    """Return the threads of the other cores, which begin when they are first needed."""
    with _making:
        if not _threads:
            _threads.append(ThreadPoolExecutor(max(_HELPERS, 1), "datahike-core"))
        return _threads[0]


# Looked up once, when this is imported: reading a file would hold up an event loop.
_HELPERS: int = min(cores() - 1, _MOST)

if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads.
    os.register_at_fork(after_in_child=_threads.clear)
