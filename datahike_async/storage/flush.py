"""Flush: merge a snapshot's memtable into the trees and make their new nodes durable.

Nothing is published here: a flush that fails, or whose result nobody uses, leaves only blobs that
no head names.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple
from uuid import UUID

import anyio

from datahike_async.collector import set_aside
from datahike_async.index.source import Address, NodeMiss
from datahike_async.konserve.errors import OutcomeUnknown, StoreIOError
from datahike_async.konserve.store import Assoc, Store
from datahike_async.konserve.threads import in_thread
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.storage.codec import encode_segment
from datahike_async.storage.layout import Layout
from datahike_async.storage.node_store import NodeStore
from datahike_async.storage.pack import make_sink

__all__ = ["Flushed", "flush", "write_blobs"]

_ATTEMPTS: Final = 4
_MUCH_ROWS: Final = 1 << 18
_MUCH_BYTES: Final = 4 << 20
"""From these on what lives is spared by the garbage collector meanwhile."""


class Flushed(NamedTuple):
    """A flush whose nodes are durable. ``trees`` hold all of ``snapshot``.

    ``record`` restores them; ``log`` is the address of the segment with the records that went in.
    """

    snapshot: Snapshot
    trees: Trees
    record: dict[str, Any]
    log: list[Any] | None


async def flush(
    snapshot: Snapshot,
    records: Sequence[bytes | Address],
    log: list[Any] | None,
    *,
    store: Store,
    source: NodeStore,
    layout: Layout,
    id: UUID,
) -> Flushed:
    """Write what ``snapshot`` needs to be read from trees alone, and its records as a segment.

    ``records`` may also be where they lie in segments already, which are then named again. ``log``
    is the address of the segment before. Computes in a worker thread; other tasks may go on
    appending to the memtable. Raises konserve's errors, and CorruptData from reading nodes.
    """
    sink = make_sink(layout, source, id)

    def absorb() -> Trees:
        mem = snapshot.mem
        trees = snapshot.trees
        ids = (snapshot.max_eid, snapshot.max_tx)
        if not snapshot.n and (trees.max_eid, trees.max_tx) == ids:
            return trees
        # Also without rows: a transaction may have used up an id and changed nothing.
        return trees.absorb(mem, snapshot.n, snapshot.m, snapshot.schema, *ids)

    def build(trees: Trees) -> Flushed:
        clean, record = trees.flush(sink)
        segment = log
        if records:
            segment = list(sink.put_part(encode_segment(log, records)))
        sink.finish()
        return Flushed(snapshot, clean, record, segment)

    size = sum(len(r) for r in records if isinstance(r, bytes))
    much = size >= _MUCH_BYTES or snapshot.n >= _MUCH_ROWS
    # Until they are durable, nodes live in the cache alone and must not fall out of it.
    with source.pinned(), set_aside() if much else nullcontext():
        while True:
            try:
                trees = await in_thread(absorb)
                break
            except NodeMiss as miss:
                await miss.source.fetch(miss.addresses)
        flushed = await in_thread(build, trees)
        await write_blobs(store, sink.writes)
        return flushed


async def write_blobs(store: Store, writes: Sequence[tuple[str, bytes]]) -> None:
    """Make blobs durable that nothing names yet, in any order.

    So an unknown outcome is no riddle: the same bytes are written again, and in the end it is an
    error of which one may say that nothing happened.
    """
    items = [Assoc(key, data, binary=True) for key, data in writes]
    for attempt in range(_ATTEMPTS if items else 0):
        try:
            await store.multi_assoc(items, ordered=False)
            return
        except OutcomeUnknown as error:
            if attempt == _ATTEMPTS - 1:
                failed = StoreIOError(f"Blobs could not be written: {error}")
                failed.retryable = True
                raise failed from error
            await anyio.sleep(0.01 * 4**attempt)


def address_of(stored: Sequence[Any]) -> Address:
    """Return the address that a record holds as a list."""
    return Address(*stored)
