"""Opened: what belongs to a store and is open once for all its branches of an event loop.

The store, the nodes in memory, what was read of the past of its branches, and what collections
have seen of its pins. Knows who shares it by their number alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import anyio

from datahike_async.config import Config
from datahike_async.index.registry import index_factory
from datahike_async.konserve.base import close_now
from datahike_async.konserve.opening import connect_store, release_store
from datahike_async.konserve.store import Store
from datahike_async.memory import memory_of
from datahike_async.storage.branches.create import NODE_BYTES
from datahike_async.storage.branches.expiry import Expiry
from datahike_async.storage.branches.pins import Watch
from datahike_async.storage.branches.walk import Past
from datahike_async.storage.nodes.store import NodeStore

__all__ = ["Opened"]

_log = logging.getLogger("datahike_async.storage")


class Opened:
    """A store that is open for whoever has a share in it; the last one who leaves closes it.

    ``watch`` is what collections have seen of pins, ``past`` what was read of commits.
    """

    store: Store
    past: Past

    def __init__(self) -> None:
        self.watch = Watch()
        self._opening = anyio.Lock()
        self._shares = 0
        self._closed = False
        self._sources: dict[str, NodeStore] = {}
        self._config: Config | None = None

    @property
    def closed(self) -> bool:
        """Whether nobody can take a share any more."""
        return self._closed

    async def share(self, config: Mapping[str, Any]) -> bool:
        """Take a share, and open the store where it is not; say whether it was open already.

        Whoever is cancelled, or to whom an error is raised, has none. Raises konserve's errors.
        """
        self._shares += 1
        try:
            async with self._opening:
                if hasattr(self, "store"):
                    return True
                # A head has to be there: reading it tells whether the store is.
                self.store = await connect_store(config, verify=False)
                self.past = Past(self.store)
                return False
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.leave()
            raise

    async def leave(self) -> None:
        """Give a share back. What goes wrong in closing is logged."""
        self._shares -= 1
        if self._shares or self._closed or not hasattr(self, "store"):
            return
        self._closed = True
        try:
            await release_store(self.store)
        except Exception:
            _log.exception("releasing a store")

    def abandon(self) -> None:
        """Close the store without an event loop."""
        if not self._closed:
            self._closed = True
            close_now(self.store.blobs)

    def source(self, config: Config) -> NodeStore:
        """Return where the nodes of a branch come from: their memory is that of all branches.

        Raises ConfigError where ``config`` gives it another size than who opened the store.
        """
        if self._config is None:
            self._config = config
        else:
            config.check_same(self._config, {"store-cache-size", "memory-limit"})
        found = self._sources.get(config.index)
        if found is None:
            factory = index_factory(config.index)
            memory = memory_of(config.memory_limit)
            limit = config.store_cache_size * NODE_BYTES
            found = NodeStore(self.store, factory.decode, limit, memory)
            found.explain = Expiry(self.store, factory, found).why_missing
            self._sources[config.index] = found
        return found
