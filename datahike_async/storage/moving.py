"""Moving: nodes of one store written anew for another, where those lie in another layout.

Leaves stay as they are; a node above them names addresses, so it is encoded again once those below
it have theirs. Hashes, which say nothing of places, stay. Where a node goes follows from what it
is: a key from its old address, a pack from all that is in it. So what was written before by
somebody who was ended half way is found again.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Iterable
from hashlib import blake2b
from typing import Final
from uuid import UUID

from datahike_async.errors import CorruptData, DatahikeError
from datahike_async.index.source import Address
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import in_thread
from datahike_async.storage.keys import node_key, pack_key
from datahike_async.storage.nodes.layout import Layout, layout_of, pack_bytes
from datahike_async.storage.nodes.sinks import packed
from datahike_async.storage.nodes.store import read_raw
from datahike_async.storage.survey import Node, Seen, Stop, wrong_bytes

__all__ = ["Moving", "alike"]

_WAVE: Final = 64
"""Nodes that are held at once."""

Write = tuple[str, bytes]


def alike(source: Seen, target: Seen) -> dict[Address, Address]:
    """Return where the nodes of checkpoints that both stores have lie in the one and the other.

    A checkpoint has the same trees in both, so they are gone over side by side.
    """
    out: dict[Address, Address] = {}
    todo: list[tuple[Address, Address]] = []
    for id_, stop in target.stops.items():
        mine = source.stops.get(id_)
        if mine is None:
            continue
        theirs = {root.name: root.addresses for root in stop.roots}
        for root in mine.roots:
            todo += zip(root.addresses, theirs.get(root.name, ()), strict=False)
    while todo:
        old, new = todo.pop()
        if old in out:
            continue
        out[old] = new
        pair = source.nodes.get(old), target.nodes.get(new)
        if pair[0] is not None and pair[1] is not None and pair[0].children and pair[1].children:
            todo += zip(pair[0].children, pair[1].children, strict=True)
    return out


class Moving:
    """Moves nodes from ``source``, of which ``seen`` is known, to a store like ``target``.

    ``places`` says where those are that have been moved.
    """

    def __init__(
        self, source: Store, seen: Seen, target: Store, places: dict[Address, Address]
    ) -> None:
        self.places = places
        self._source = source
        self._seen = seen
        most = pack_bytes(target.capabilities)
        packs = layout_of(target.capabilities) is Layout.PACKS
        self._sink: _Packs | _Keys = _Packs(most) if packs else _Keys()

    async def writes(self, stop: Stop) -> AsyncGenerator[list[Write], None]:
        """Move the nodes of a checkpoint that have not been moved; iterate over what that writes.

        Raises CorruptData ``:node-not-found`` where one is not there (any more).
        """
        for level in await in_thread(self._levels, stop):
            for start in range(0, len(level), _WAVE):
                found = await read_raw(self._source, level[start : start + _WAVE])
                yield await in_thread(self._take, found)
            # Those above name these, so they need to have their places.
            yield self._sink.finish(self.places)

    def _levels(self, stop: Stop) -> list[list[Address]]:
        """Return the nodes of a checkpoint that have not been moved, the lower ones first."""
        todo = [address for root in stop.roots for address in root.addresses]
        levels: list[list[Address]] = []
        met: set[Address] = set()
        while todo:
            level = [at for at in dict.fromkeys(todo) if at not in self.places and at not in met]
            met.update(level)
            levels.append(level)
            nodes = [self._seen.nodes[at] for at in level if at in self._seen.nodes]
            todo = [child for node in nodes for child in node.children or ()]
        return levels[::-1]

    def _take(self, found: Iterable[tuple[Address, bytes | Exception | None]]) -> list[Write]:
        out: list[Write] = []
        for address, data in found:
            if isinstance(data, Exception):
                raise data
            wrong = wrong_bytes(address, data)
            if data is None or wrong:
                raise CorruptData(
                    f"The node at {address.offset} of {address.blob} {wrong}.",
                    error=":node-not-found" if data is None else None,
                    blob=address.blob,
                )
            out += self._sink.put(
                address, self._moved(self._seen.nodes[address], data), self.places
            )
        return out

    def _moved(self, node: Node, data: bytes) -> bytes:
        if node.children is None:
            return data
        try:
            decoded = node.factory.decode(data)
        except DatahikeError as error:
            raise CorruptData(f"A node is damaged: {error}") from error
        return node.factory.moved(decoded, [self.places[child] for child in node.children])


def _id(data: bytes) -> UUID:
    return UUID(bytes=blake2b(data, digest_size=16).digest())


class _Keys:
    """One key a node, made of where it was."""

    def put(self, old: Address, data: bytes, places: dict[Address, Address]) -> list[Write]:
        key = node_key(_id(f"{old.blob} {old.offset} {old.crc}".encode()), 0)
        places[old] = Address(key, 0, len(data), zlib.crc32(data), old.hash)
        return [(key, data)]

    def finish(self, places: dict[Address, Address]) -> list[Write]:
        return []


class _Packs:
    """Many nodes a pack, named by all that is in it: a node has its place once that is closed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: list[bytes] = []
        self._index: list[tuple[int, int, int]] = []
        self._olds: list[Address] = []
        self._size = 0

    def put(self, old: Address, data: bytes, places: dict[Address, Address]) -> list[Write]:
        out: list[Write] = []
        if self._size and self._size + len(data) > self._most:
            out = self.finish(places)
        self._index.append((self._size, len(data), zlib.crc32(data)))
        self._parts.append(data)
        self._olds.append(old)
        self._size += len(data)
        return out

    def finish(self, places: dict[Address, Address]) -> list[Write]:
        if not self._size:
            return []
        data = packed(self._parts, self._index)
        key = pack_key(_id(data), 0)
        for old, part in zip(self._olds, self._index, strict=True):
            places[old] = Address(key, *part, old.hash)
        self._parts, self._index, self._olds, self._size = [], [], [], 0
        return [(key, data)]
