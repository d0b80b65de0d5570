"""How an index gets at nodes that are not in memory, without knowing storage or an event loop.

Index code is synchronous. Where it needs nodes that are not resident it raises
:class:`NodeMiss` with every address it can name; :func:`read` and :class:`Reading` fetch them
concurrently through the :class:`NodeSource` it was handed, and call again. So the path on which
all is resident never awaits, and a miss costs one wave of reads a level of the tree.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar

__all__ = [
    "Address",
    "NodeMiss",
    "NodeSink",
    "NodeSource",
    "Reading",
    "fetched",
    "read",
    "resolve",
]

T = TypeVar("T")


class Address(NamedTuple):
    """Where a stored node lies: ``length`` bytes at ``offset`` of a blob, with their CRC-32.

    ``hash`` says what it and all below it hold, in a database with ``:crypto-hash?``; else it is
    empty, and not stored.
    """

    blob: str
    offset: int
    length: int
    crc: int
    hash: bytes = b""

    def to_data(self) -> list[Any]:
        """Return it as it is stored; ``Address(*data)`` is the way back."""
        return list(self if self.hash else self[:4])


class NodeSource(Protocol):
    """Resident nodes, and a way to fetch the others."""

    def get(self, address: Address) -> Any | None:
        """Return the decoded node if it is resident, else None."""
        ...

    async def fetch(self, addresses: Sequence[Address], pin: Any = None) -> None:
        """Load and decode nodes, concurrently; afterwards ``get`` finds them.

        With a ``pin``, which a block of `pinned` was given, until that block is left.
        """
        ...

    def pinned(self) -> AbstractContextManager[Any]:
        """Give the block a pin: whatever is fetched with it stays resident until it is left."""
        ...

    @property
    def capacity(self) -> int:
        """Bytes of nodes (their ``nbytes``) that stay resident if they are read again and again."""
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


class Reading:
    """Fetches what calls miss, and holds it until the block is left.

    What was fetched for one call must not fall out of the cache before the last one is made.
    """

    __slots__ = ("_blocks", "_pins")

    def __init__(self) -> None:
        # Most transactions miss nothing: then nothing is made.
        self._blocks: ExitStack | None = None
        self._pins: tuple[tuple[NodeSource, Any], ...] = ()

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *error: object) -> None:
        if self._blocks is not None:
            self._blocks.close()

    def _pin(self, source: NodeSource) -> Any:
        for known, pin in self._pins:
            if known is source:
                return pin
        if self._blocks is None:
            self._blocks = ExitStack()
        pin = self._blocks.enter_context(source.pinned())
        self._pins += ((source, pin),)
        return pin

    async def fetch(self, miss: NodeMiss) -> None:
        """Fetch what ``miss`` names: one wave."""
        # Its traceback holds on to all nodes that were looked at, and in a circle to itself; so
        # does that of a miss before it.
        miss.__traceback__ = miss.__context__ = None
        pin = self._pin(miss.source)
        waves = fetched.get()
        if waves is not None:
            waves.append(len(miss.addresses))
        await miss.source.fetch(miss.addresses, pin)

    async def call(
        self, function: Callable[..., T], *args: Any, run: Callable[..., Awaitable[T]] | None = None
    ) -> T:
        """Return ``function(*args)``, made again until it misses no more.

        ``run`` makes the call, in a thread for instance; without it, it is made here.
        """
        while True:
            try:
                return function(*args) if run is None else await run(function, *args)
            except NodeMiss as missed:
                miss = missed
            await self.fetch(miss)


async def read(call: Callable[..., T], *args: Any) -> T:
    """Return ``call(*args)``, fetching what it misses: awaits on a miss alone."""
    try:
        return call(*args)
    except NodeMiss as missed:
        miss = missed
    return await resolve(miss, call, *args)


async def resolve(miss: NodeMiss, call: Callable[..., T], *args: Any) -> T:
    """Fetch what ``miss`` names and repeat ``call`` until it misses no more."""
    with Reading() as reading:
        await reading.fetch(miss)
        return await reading.call(call, *args)
