"""How an index gets at nodes that are not in memory, without knowing storage or an event loop.

Index code is synchronous. Where it needs nodes that are not resident it raises
:class:`NodeMiss` with every address it can name; :func:`resolve` fetches them concurrently through
the :class:`NodeSource` it was handed and calls again. So the path on which all is resident never
awaits, and a miss costs one wave of reads a level of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar

__all__ = ["Address", "NodeMiss", "NodeSink", "NodeSource", "fetch", "fetched", "resolve"]

T = TypeVar("T")


class Address(NamedTuple):
    """Where a stored node lies: ``length`` bytes at ``offset`` of a blob, with their CRC-32."""

    blob: str
    offset: int
    length: int
    crc: int


class NodeSource(Protocol):
    """Resident nodes, and a way to fetch the others."""

    def get(self, address: Address) -> Any | None:
        """Return the decoded node if it is resident, else None."""
        ...

    async def fetch(self, addresses: Sequence[Address]) -> None:
        """Load and decode nodes, concurrently; afterwards ``get`` finds them."""
        ...

    def pinned(self) -> AbstractContextManager[object]:
        """Keep whatever is fetched inside the block resident until it is left."""
        ...


class NodeSink(Protocol):
    """Where a flush writes nodes, children before parents. ``source`` will find them again."""

    @property
    def source(self) -> NodeSource:
        """The source that the flushed index reads from."""
        ...

    def put(self, data: bytes, node: Any) -> Address:
        """Take an encoded node, keep ``node`` for the cache, and return its address."""
        ...


class NodeMiss(Exception):
    """Nodes at ``addresses`` are needed and not resident."""

    def __init__(self, source: NodeSource, addresses: Sequence[Address]) -> None:
        super().__init__(f"{len(addresses)} nodes are not resident")
        self.source = source
        self.addresses = addresses


fetched: ContextVar[list[int] | None] = ContextVar("fetched", default=None)
"""Where someone counts: a list, to which the number of nodes of every wave is appended."""


async def fetch(miss: NodeMiss) -> None:
    """Fetch what ``miss`` names: one wave."""
    waves = fetched.get()
    if waves is not None:
        waves.append(len(miss.addresses))
    await miss.source.fetch(miss.addresses)


async def resolve(miss: NodeMiss, call: Callable[..., T], *args: Any) -> T:
    """Fetch what ``miss`` names and repeat ``call`` until it misses no more."""
    with miss.source.pinned():
        while True:
            await fetch(miss)
            try:
                return call(*args)
            except NodeMiss as again:
                miss = again
