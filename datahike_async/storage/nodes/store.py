"""NodeStore: the node source over a store. A hit is a dict lookup, a miss one wave of reads.

Neighbouring ranges of a pack are read as one, all reads of a wave at once, and every node is
checked against the CRC in its address before it is decoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import partial
from typing import Any, Final, NamedTuple

import anyio

from datahike_async.collector import spare
from datahike_async.errors import CorruptData, DatahikeError, WrongEventLoop
from datahike_async.index.source import Address
from datahike_async.konserve.base import gather
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.loops import Home
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import Threads, await_on_loop, check_cancelled, in_thread
from datahike_async.looks import looking
from datahike_async.memory import Memory, Slack, memory_of, trimming
from datahike_async.storage.nodes.cache import NodeCache, Pin
from datahike_async.storage.nodes.layout import PLAIN_BYTES, Layout, layout_of
from datahike_async.storage.translate import konserve_errors

__all__ = ["NodeStore", "read_raw"]

_KEYS_AT_ONCE: Final = 256
_DECODE_ON_LOOP: Final = 32 * 1024
"""Stored bytes of nodes that one wave decodes on the event loop at most: some milliseconds."""
_DECODING: Final = Threads("decoding", 2)
"""Python decodes in one thread at a time: more would stand in the event loop's way, each a turn."""


class _Habit(NamedTuple):
    """How to read packs. ``gap``: bytes between two nodes that are cheaper to read than to skip.

    So many reads as ``in_turn`` come one after another: tasks for them cost more.
    """

    gap: int
    read_bytes: int
    at_once: int
    in_turn: int


_NEAR: Final = _Habit(16 * 1024, 1024 * 1024, 16, 8)
_REMOTE: Final = _Habit(256 * 1024, 4 * 1024 * 1024, 64, 1)
"""Where a request takes as long as a megabyte: fewer and longer ones, all in one round."""


class _Read(NamedTuple):
    blob: str
    start: int
    stop: int
    addresses: list[Address]


class NodeStore:
    """Where trees get their nodes. ``decode`` is the index's; ``limit`` bounds the cache in bytes.

    A store that can lends it the bytes where they lie: it keeps none of them.

    ``memory`` are the shares of the database: its nodes' bounds the cache too.

    Belongs to the event loop it was made on; ``fetch`` may also be called from a worker thread
    that the loop started.
    """

    def __init__(
        self,
        store: Store,
        decode: Callable[[bytes | memoryview], Any],
        limit: int,
        memory: Memory | None = None,
    ) -> None:
        self.store = store
        self.decode = decode
        self.memory = memory_of(None) if memory is None else memory
        self.slack = Slack(trimming() if self.memory.limited else None)
        self.cache = NodeCache(self.memory.node_bytes(limit), self.slack)
        self.get: Callable[[Address], Any | None] = self.cache.get
        self._layout = layout_of(store.capabilities)
        self._in_place = self._layout is Layout.NODES and store.in_place
        # Nodes of so many bytes are best left uncompressed.
        self.plain_bytes = PLAIN_BYTES if self._in_place else 0
        self._habit = _REMOTE if store.capabilities.remote else _NEAR
        self._home = Home()
        # Asked what to raise where a node is missing, by who knows what there is of branches.
        self.explain: Callable[[CorruptData], Awaitable[DatahikeError]] | None = None
        self._loading: dict[Address, anyio.Event] = {}

    def unexplained(self) -> NodeStore:
        """Return a source with the same nodes in memory, which raises what it finds as it is."""
        other = copy(self)
        other.explain, other._loading = None, {}
        return other

    def pinned(self) -> AbstractContextManager[Pin]:
        """Give the block a pin: whatever is fetched with it stays resident until it is left."""
        return self.cache.pinned()

    @property
    def capacity(self) -> int:
        """Bytes of nodes that stay resident if they are read again and again."""
        return self.cache.capacity

    async def fetch(self, addresses: Sequence[Address], pin: Pin | None = None) -> None:
        """Load nodes; afterwards ``get`` finds them, with a ``pin`` until its block is left.

        Raises CorruptData naming blob and offset where the bytes are not what was written;
        WrongEventLoop away from the event loop.
        """
        if self._home.is_running():
            await self._fetch(addresses, pin)
        else:
            check_cancelled()
            await_on_loop(partial(self._fetch_for_thread, addresses, pin))

    async def _fetch_for_thread(self, addresses: Sequence[Address], pin: Pin | None) -> None:
        # In a copy of the thread's context. A query looks there whether it is to stop, which the
        # event loop cannot be asked.
        looking.set(None)
        await self._fetch(addresses, pin)

    async def _fetch(self, addresses: Sequence[Address], pin: Pin | None) -> None:
        elsewhere = self._home.elsewhere()
        if elsewhere is not None:
            raise WrongEventLoop(
                f"This database value is used {elsewhere}, and what it needs is not in memory. "
                "Open a connection here and take its value."
            )
        wanted = dict.fromkeys(addresses)
        while wanted:
            mine: list[Address] = []
            waiting: anyio.Event | None = None
            for address in list(wanted):
                node = self.get(address)
                if node is not None:
                    # Once more, so that the caller's pin has it too.
                    self.cache.put(address, node, pin)
                    del wanted[address]
                elif address in self._loading:
                    waiting = self._loading[address]
                else:
                    mine.append(address)
            if mine:
                await self._load(mine, pin)
                for address in mine:
                    del wanted[address]
            elif waiting is not None:
                # Someone else is at it; should they fail, it is our turn.
                await waiting.wait()

    async def _load(self, addresses: list[Address], pin: Pin | None) -> None:
        done = anyio.Event()
        for address in addresses:
            self._loading[address] = done
        # The whole wave counts: reads that come in together are decoded one right after the other.
        much = sum(address.length for address in addresses) > _DECODE_ON_LOOP
        try:
            with konserve_errors():
                try:
                    if self._in_place:
                        await self._read_in_place(addresses, much, pin)
                    else:
                        await self._read_all(_plan(addresses, self._habit), much, pin)
                except CorruptData as error:
                    if error.error != ":node-not-found" or self.explain is None:
                        raise
                    raise await self.explain(error) from error
        finally:
            for address in addresses:
                del self._loading[address]
            done.set()

    async def _read_all(self, reads: list[_Read], much: bool, pin: Pin | None) -> None:
        nodes = self._layout is Layout.NODES
        if len(reads) <= (1 if nodes else self._habit.in_turn):
            for read in reads:
                await self._read(read, much, pin)
            return
        if nodes:
            for start in range(0, len(reads), _KEYS_AT_ONCE):
                part = reads[start : start + _KEYS_AT_ONCE]
                found = await self.store.multi_get([read.blob for read in part])
                await self._take([(read, found.get(read.blob)) for read in part], much, pin)
            return
        failed: list[Exception] = []
        todo = iter(reads)

        async def worker() -> None:
            for read in todo:
                if failed:
                    return
                try:
                    await self._read(read, much, pin)
                except Exception as error:
                    # Kept bare: a task group would wrap it.
                    failed.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(min(len(reads), self._habit.at_once)):
                group.start_soon(worker)
        if failed:
            raise failed[0]

    async def _read(self, read: _Read, much: bool, pin: Pin | None) -> None:
        data = await self.store.bget(read.blob, read.start, read.stop)
        await self._take([(read, data)], much, pin)

    async def _read_in_place(self, addresses: list[Address], much: bool, pin: Pin | None) -> None:
        wanted: dict[str, list[Address]] = {}
        for address in addresses:
            wanted.setdefault(address.blob, []).append(address)
        blobs = list(wanted)

        def decode(blob: str, data: memoryview) -> list[Any]:
            self.slack.give_back()
            nodes = [self._decode(a, checked(a, data, 0)) for a in wanted[blob]]
            spare()
            return nodes

        for start in range(0, len(blobs), _KEYS_AT_ONCE):
            part = blobs[start : start + _KEYS_AT_ONCE]
            async with _DECODING.limiter if much else nullcontext():
                found = await self.store.multi_decode(part, decode)
            for blob in part:
                if blob not in found:
                    raise _missing(blob)
                for address, node in zip(wanted[blob], found[blob], strict=True):
                    self.cache.put(address, node, pin)

    async def _take(
        self, found: list[tuple[_Read, bytes | None]], much: bool, pin: Pin | None
    ) -> None:
        if much:
            nodes = await in_thread(self._decoded_beside, found, threads=_DECODING)
        else:
            nodes = self._decoded(found)
        for address, node in nodes:
            self.cache.put(address, node, pin)

    def _decoded_beside(self, found: list[tuple[_Read, bytes | None]]) -> list[tuple[Address, Any]]:
        self.slack.give_back()
        return self._decoded(found)

    def _decoded(self, found: list[tuple[_Read, bytes | None]]) -> list[tuple[Address, Any]]:
        nodes = []
        for read, data in found:
            if data is None:
                raise _missing(read.blob)
            nodes += [(a, self._decode(a, checked(a, data, read.start))) for a in read.addresses]
            spare()
        return nodes

    def _decode(self, address: Address, data: bytes | memoryview) -> Any:
        try:
            return self.decode(data)
        except CorruptData as error:
            raise _corrupt(address, str(error)) from error


def checked(address: Address, data: bytes | memoryview, start: int) -> bytes | memoryview:
    """Return the bytes of one node out of what was read from ``start`` on, if the CRC is right."""
    at = address.offset - start
    part = data[at : at + address.length]
    if len(part) != address.length:
        raise _corrupt(address, f"only {len(part)} of {address.length} bytes are there")
    if zlib.crc32(part) != address.crc:
        raise _corrupt(address, "the checksum is wrong")
    return part


def _missing(blob: str) -> CorruptData:
    return CorruptData(
        f"{blob} is not in the store, though the database refers to it.",
        error=":node-not-found",
        blob=blob,
    )


def _corrupt(address: Address, why: str) -> CorruptData:
    return CorruptData(
        f"The node at {address.offset} of {address.blob} is damaged: {why}. Restore the blob from "
        "a backup.",
        blob=address.blob,
        offset=address.offset,
    )


def _plan(addresses: Iterable[Address], habit: _Habit) -> list[_Read]:
    """Group addresses into reads: near ranges of one blob together."""
    reads: list[_Read] = []
    for address in sorted(addresses):
        stop = address.offset + address.length
        last = reads[-1] if reads else None
        if (
            last is not None
            and last.blob == address.blob
            and address.offset - last.stop <= habit.gap
            and stop - last.start <= habit.read_bytes
        ):
            last.addresses.append(address)
            reads[-1] = last._replace(stop=max(stop, last.stop))
        else:
            reads.append(_Read(address.blob, address.offset, stop, [address]))
    return reads


async def read_raw(
    store: Store, addresses: Iterable[Address]
) -> list[tuple[Address, bytes | Exception | None]]:
    """Return the bytes of nodes as they lie in a store, past the cache; None for what is not there.

    They are unchecked; where reading failed, the error stands in their place.
    """
    habit = _REMOTE if store.capabilities.remote else _NEAR
    if layout_of(store.capabilities) is Layout.NODES:
        habit = habit._replace(gap=-1)

    async def one(read: _Read) -> list[tuple[Address, bytes | Exception | None]]:
        try:
            data = await store.bget(read.blob, read.start, read.stop)
        except KonserveError as error:
            return [(address, error) for address in read.addresses]
        if data is None:
            return [(address, None) for address in read.addresses]
        return [
            (a, data[a.offset - read.start : a.offset - read.start + a.length])
            for a in read.addresses
        ]

    found = await gather(one, _plan(addresses, habit), habit.at_once)
    return [pair for part in found for pair in part]
