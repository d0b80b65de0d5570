"""Write hooks: functions of the user's that hear of every write of a store that succeeded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from datahike_async.konserve.paths import called, hashable

__all__ = ["Hook", "WriteHooks"]

Hook = Callable[[Mapping[str, Any]], Awaitable[None] | None]


class WriteHooks:
    """The hooks of one store by their ids; empty ones are false."""

    def __init__(self) -> None:
        self._hooks: dict[Any, Hook] = {}

    def __len__(self) -> int:
        return len(self._hooks)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._hooks)

    def add(self, id: Any, hook: Hook) -> None:
        """Have ``hook`` hear of writes; it replaces the one that has the id."""
        self._hooks[hashable(id)] = called(hook)

    def remove(self, id: Any) -> None:
        """Forget the hook of an id, if there is one."""
        self._hooks.pop(hashable(id), None)

    async def run(self, op: str, **event: Any) -> None:
        """Tell all of a write: what was called, and with what."""
        if self._hooks:
            described = {"api-op": op, **{k.replace("_", "-"): v for k, v in event.items()}}
            for hook in list(self._hooks.values()):
                result = hook(described)
                if result is not None:
                    await result
