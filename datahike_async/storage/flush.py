"""Flush: merge a snapshot's memtable into the trees and make their new nodes durable.

Nothing is published here: a flush that fails, or whose result nobody uses, leaves only blobs that
no head names.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from time import perf_counter, sleep
from typing import Any, Final, NamedTuple
from uuid import UUID

import anyio

from datahike_async.collector import set_aside
from datahike_async.index.source import Address, Reading
from datahike_async.konserve.errors import OutcomeUnknown, StoreIOError
from datahike_async.konserve.store import Assoc, Store
from datahike_async.konserve.threads import in_thread
from datahike_async.looks import looking
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.storage.keys import checkpoint_key, segment_key
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import encode_segment
from datahike_async.storage.nodes.layout import Layout
from datahike_async.storage.nodes.sinks import make_sink
from datahike_async.storage.nodes.store import NodeStore

__all__ = ["Flushed", "flush", "write_blobs"]

_ATTEMPTS: Final = 4
_MUCH_ROWS: Final = 1 << 15
_MUCH_BYTES: Final = 4 << 20
"""From these on what lives is spared by the garbage collector meanwhile."""
_ROW_BYTES: Final = 32
_AT_WORK: Final = 0.0005
"""Seconds of work between two looks whether the event loop hurries."""
_ASIDE: Final = 0.0005
"""Seconds that it has then: half of the time, where it always does."""
_STEP: Final = 0.0001
_MANY_ROWS: Final = 4096
"""Of fewer rows most of what is written are the leaves around them."""


class Flushed(NamedTuple):
    """A flush whose nodes are durable. ``trees`` hold all of ``snapshot``.

    ``base`` is the checkpoint that names them, durable as well; ``bytes`` is how much the nodes
    and the log take.
    """

    snapshot: Snapshot
    trees: Trees
    base: Checkpoint
    bytes: int

    @property
    def spread(self) -> float:
        """How many times what is usual was written for each row: 1 where they lie together.

        Rows that lie far apart rewrite a leaf each; the more of them go in at once, the fewer.
        """
        return max(self.bytes / (_ROW_BYTES * max(self.snapshot.n, _MANY_ROWS)), 1.0)


class _Aside:
    """Lets others run between looks at the clock, where they hurry.

    A thread that computes keeps the interpreter for 5 ms each time somebody else has let go of it,
    which a commit does at each call of the system: ten times.
    """

    def __init__(self, hurries: Callable[[], bool]) -> None:
        self._hurries = hurries
        self._next = 0.0

    def __call__(self, count: int) -> None:
        now = perf_counter()
        if now < self._next:
            return
        until = now + _ASIDE
        while self._hurries() and perf_counter() < until:
            sleep(_STEP)
        self._next = perf_counter() + _AT_WORK


async def flush(
    snapshot: Snapshot,
    records: Sequence[bytes | Address],
    log: Sequence[Any] | None,
    *,
    store: Store,
    source: NodeStore,
    layout: Layout,
    id: UUID,
    checkpoint: Callable[[Mapping[str, Any], Sequence[Any] | None], Checkpoint],
    thin: Collection[str] = (),
    hurries: Callable[[], bool] = bool,
    hashed: bool = False,
) -> Flushed:
    """Write what ``snapshot`` needs to be read from trees alone, and its records as a segment.

    ``records`` may also be where they lie in segments already, which are then named again. ``log``
    is the address of the segment before, ``id`` that of the flush, never used before. The
    ``checkpoint`` is made of the record of the trees and of the address of the newest segment.
    What lies in the packs of ``thin`` is written again, so that those can go. With ``hashed`` the
    addresses of nodes have their hashes.
    Computes in a worker thread, which stands aside for a moment where the event loop ``hurries``;
    other tasks may go on appending to the memtable. Raises konserve's errors, and CorruptData from
    reading nodes.
    """
    sink = make_sink(layout, source, id, snapshot.trees.factory if hashed else None)
    aside = _Aside(hurries)

    def absorb() -> Trees:
        looking.set(aside)
        mem = snapshot.mem
        trees = snapshot.trees
        ids = (snapshot.max_eid, snapshot.max_tx)
        # Also without rows: a transaction may have used up an id and changed nothing.
        if snapshot.n or (trees.max_eid, trees.max_tx) != ids:
            trees = trees.absorb(mem, snapshot.n, snapshot.m, snapshot.schema, *ids)
        return trees.loosened(thin) if thin else trees

    def build(trees: Trees) -> Flushed:
        looking.set(aside)
        clean, record = trees.flush(sink)
        writes = sink.finish()
        segment, size = log, sink.bytes
        if records:
            data = encode_segment(log, records, snapshot.max_tx)
            segment = Address(segment_key(id), 0, len(data), zlib.crc32(data)).to_data()
            writes.append((segment_key(id), data))
            size += len(data)
        base = checkpoint(record, segment)
        writes.append((checkpoint_key(id), base.encoded))
        return Flushed(snapshot, clean, base, size)

    size = sum(len(r) for r in records if isinstance(r, bytes))
    much = size >= _MUCH_BYTES or snapshot.n >= _MUCH_ROWS
    # Until they are durable, nodes live in the cache alone and must not fall out of it.
    with Reading(source) as reading, set_aside() if much else nullcontext():
        trees = await reading.call(absorb, run=in_thread)
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
