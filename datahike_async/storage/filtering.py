"""Filters of runs against their rows: of a row that a filter says no of nobody hears any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import numpy as np

from datahike_async.errors import CorruptData
from datahike_async.index.columns import Rows
from datahike_async.index.levels.filters import Filter, hashes_of
from datahike_async.index.source import Address
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import in_thread
from datahike_async.storage.nodes.store import read_raw
from datahike_async.storage.survey import Node, Root, Seen, wrong_bytes

__all__ = ["Filtered"]


class Filtered:
    """The filters that a survey has found, and the leaves of whose rows each of them tells."""

    def __init__(self, filters: Mapping[Address, Filter], of: Mapping[Address, set[Address]]):
        self._filters = filters
        self._of = of

    @classmethod
    async def read(cls, store: Store, seen: Seen) -> Filtered:
        """Read all filters. One that is damaged or missing is left to whoever reads its blob."""
        of, told = await in_thread(_told, seen)
        filters: dict[Address, Filter] = {}
        for address, data in await read_raw(store, sorted(told)):
            if isinstance(data, bytes) and not wrong_bytes(address, data):
                with suppress(CorruptData):
                    filters[address] = seen.nodes[address].factory.decode(data)
        return cls(filters, of)

    def missed(self, address: Address, node: Node, rows: Rows) -> int:
        """Return how many rows of a leaf a filter says no of."""
        names = self._of.get(address, set()) & self._filters.keys()
        if not names:
            return 0
        hashes = hashes_of(rows, node.order)
        seen = [self._filters[name].may_have_many(hashes) for name in names]
        return int(np.count_nonzero(~np.logical_and.reduce(seen)))


def _told(seen: Seen) -> tuple[dict[Address, set[Address]], set[Address]]:
    """Return which filters tell of each leaf, and all of them."""
    of: dict[Address, set[Address]] = {}
    met: set[tuple[Address, Address]] = set()
    for stop in seen.stops.values():
        for root in stop.roots:
            for filter_, top in _pairs(root):
                if (filter_, top) not in met:
                    met.add((filter_, top))
                    for leaf in _leaves(top, seen.nodes):
                        of.setdefault(leaf, set()).add(filter_)
    return of, {filter_ for filter_, _ in met}


def _pairs(root: Root) -> Iterator[tuple[Address, Address]]:
    """Iterate over the filters that a root names, each with the tops that it tells of."""
    filters = {top.run: top.child.address for top in root.tops if not top.sign}
    for top in root.tops:
        if top.sign and top.run in filters:
            yield filters[top.run], top.child.address


def _leaves(top: Address, nodes: Mapping[Address, Node]) -> Iterator[Address]:
    waiting = [top]
    while waiting:
        address = waiting.pop()
        node = nodes.get(address)
        if node is not None and node.children is not None:
            waiting += node.children
        else:
            yield address
