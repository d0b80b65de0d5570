"""Run a large transaction in a worker thread, so that the event loop stays free meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import anyio.to_thread

from datahike_async.edn.types import Keyword

__all__ = ["LARGE", "run_in_thread", "runs_anywhere"]

T = TypeVar("T")

LARGE: Final = 1024
"""Items from which a transaction is run in a worker thread."""

_PLAIN: Final = frozenset(
    {
        *(":db/" + op for op in ("add", "retract", "retractEntity", "retractAttribute")),
        *(Keyword("db/" + op) for op in ("add", "retract", "retractEntity", "retractAttribute")),
    }
)


def runs_anywhere(items: list[Any]) -> bool:
    """Whether no item calls a transaction function, which may want the event loop."""
    for item in items:
        kind = type(item)
        if kind is dict:
            continue
        if (kind is list or kind is tuple) and item:
            name = item[0]
            if type(name) in (str, Keyword) and name in _PLAIN:
                continue
        return False
    return True


async def run_in_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end in a worker thread.

    It may await nothing but what completes without an event loop (``NodeStore.fetch`` sees to
    that by itself).
    """

    def drive() -> T:
        call = make()
        try:
            call.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        call.close()
        raise RuntimeError("a transaction that calls no function waited for the event loop")

    return await anyio.to_thread.run_sync(drive)
