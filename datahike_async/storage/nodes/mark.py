"""Marking: which blobs the nodes of trees lie in. Reads inner nodes alone: they name the leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from datahike_async.index.protocol import Child
from datahike_async.index.source import Address
from datahike_async.konserve.threads import in_thread
from datahike_async.storage.nodes.store import NodeStore

__all__ = ["Marking"]

_AT_ONCE: Final = 16
_ON_LOOP: Final = 256

Below = Callable[[Any], Sequence[Child]]


class Marking:
    """A walk over the nodes of many trees, which share most of them: each is met once.

    ``below`` says what is below a node (``LevelsFactory.below``), ``keep`` is told the blobs, some
    at a time. Holds the addresses of inner nodes, one for some hundred leaves.
    """

    def __init__(
        self, source: NodeStore, below: Below, keep: Callable[[Iterable[str]], None]
    ) -> None:
        self._source = source
        self._below = below
        self._keep = keep
        self._met: set[Address] = set()

    async def mark(self, tops: Iterable[Address], sizes: Counter[str] | None = None) -> None:
        """Keep the trees under some nodes. ``sizes`` counts the bytes that were not met before.

        Raises CorruptData where a node is missing or damaged.
        """
        waiting = self._fresh(tops)
        await self._note(waiting, sizes)
        while waiting:
            some, waiting = waiting[-_AT_ONCE:], waiting[:-_AT_ONCE]
            with self._source.pinned() as pin:
                await self._source.fetch(some, pin)
                nodes = [self._source.get(address) for address in some]
            for node in nodes:
                children = self._below(node)
                await self._note([child.address for child in children], sizes)
                waiting += self._fresh(child.address for child in children if not child.leaf)

    def _fresh(self, addresses: Iterable[Address]) -> list[Address]:
        fresh = [address for address in addresses if address not in self._met]
        self._met.update(fresh)
        return fresh

    async def _note(self, addresses: Sequence[Address], sizes: Counter[str] | None) -> None:
        blobs = {address.blob for address in addresses}
        if sizes is not None:
            for address in addresses:
                sizes[address.blob] += address.length
        if len(blobs) > _ON_LOOP:
            await in_thread(partial(self._keep, blobs))
        elif blobs:
            self._keep(blobs)
