"""Which transactions are large, and may run in a worker thread to keep the event loop free."""

from __future__ import annotations

from typing import Any, Final

from datahike_async.edn.types import Keyword

__all__ = ["LARGE", "runs_anywhere"]

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
