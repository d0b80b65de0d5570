"""Telling what a collection has removed from what is damaged.

Where no collection ever ran, a missing node is damage. Where one did, it is damage if a branch as
it is now still needs it; else the value that needs it is older than what is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import anyio

from datahike_async.errors import CorruptData, DatabaseNotFound, DatahikeError
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.branches.registry import Registry, read_registry
from datahike_async.storage.branches.retained import expired
from datahike_async.storage.nodes.mark import Marking
from datahike_async.storage.nodes.store import NodeStore

__all__ = ["Expiry"]

_REMEMBERED: Final = 4096


class Expiry:
    """Says of the blobs of one store why they are missing.

    One look at a time, over the inner nodes of the branches as they are, most of which are in
    memory; and one look a blob: what nothing needed once it was gone, nothing ever needs again.
    """

    def __init__(self, store: Store, factory: LevelsFactory, source: NodeStore) -> None:
        self._store = store
        self._factory = factory
        self._source = source
        self._looking = anyio.Lock()
        self._gone: set[str] = set()

    async def why_missing(self, error: CorruptData) -> DatahikeError:
        """Return what to raise for a node of some value that is not in the store."""
        wanted = str(error.data.get(":blob"))
        async with self._looking:
            if wanted not in self._gone:
                if not await self._is_collected(wanted):
                    return error
                if len(self._gone) >= _REMEMBERED:
                    self._gone.clear()
                self._gone.add(wanted)
        return expired(f"{wanted}, which this database value needs,")

    async def _is_collected(self, wanted: str) -> bool:
        while True:
            registry = await read_registry(self._store)
            if not registry.epoch:
                return False
            try:
                return not await self._is_named(wanted, registry)
            except CorruptData:
                # It is damaged, unless a collection was faster.
                if (await read_registry(self._store)).epoch == registry.epoch:
                    return False

    async def _is_named(self, wanted: str, registry: Registry) -> bool:
        """Say whether a branch that a registry lists needs a blob as it is now."""
        named = False

        def note(blobs: Iterable[str]) -> None:
            nonlocal named
            named = named or wanted in set(blobs)

        # What is missing there is no reason to ask again.
        marking = Marking(self._source.unexplained(), self._factory.below, note)
        for name in registry.branches:
            try:
                state = await read_branch(self._store, name, None)
            except DatabaseNotFound:
                continue  # the branch was deleted, and what it had was collected
            if state is not None:
                roots = state.head.base.trees["roots"].values()
                tops = [top.child.address for root in roots for top in self._factory.tops(root)]
                await marking.mark(tops)
            if named:
                return True
        return False
