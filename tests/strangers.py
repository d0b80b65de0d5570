"""Connections of one process that behave as if each had a process of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from datahike_async import connection as d
from datahike_async.transactor import sharing


@contextmanager
def as_a_stranger() -> Iterator[None]:
    """Let connections that are opened inside the block share no writer with those outside."""
    mine = sharing._registry()
    sharing._registries.set(sharing._Registry())
    try:
        yield
    finally:
        sharing._registries.set(mine)


class Strangers:
    """Connections that do not share a writer, as if each were a process of its own."""

    def __init__(self, store: Mapping[str, Any], **options: Any) -> None:
        self._opening = d.connect(store=dict(store), **options)
        self._registry = sharing._Registry()

    async def __aenter__(self) -> d.Connection:
        mine = sharing._registry()
        sharing._registries.set(self._registry)
        try:
            return await self._opening.__aenter__()
        finally:
            sharing._registries.set(mine)

    async def __aexit__(self, *error: Any) -> None:
        await self._opening.__aexit__(*error)
