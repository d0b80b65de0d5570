"""Flush: merge a snapshot's memtable into the trees and make their new nodes durable.

Nothing is published here: a flush that fails, or whose result nobody uses, leaves only blobs that
no head names.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from enum import Enum
from time import perf_counter, sleep
from typing import Any, Final, NamedTuple
from uuid import UUID

import anyio

from datahike_async.collector import set_aside
from datahike_async.index.codec import left_plain
from datahike_async.index.levels.levels import Levels
from datahike_async.index.levels.merging import Merging
from datahike_async.index.levels.policy import MOST
from datahike_async.index.protocol import Order
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
from datahike_async.storage.nodes.sinks import Sink, make_sink
from datahike_async.storage.nodes.store import NodeStore

__all__ = ["Flushed", "Merge", "flush", "write_blobs"]

_ATTEMPTS: Final = 4
_MUCH_ROWS: Final = 1 << 15
_MUCH_BYTES: Final = 4 << 20
"""From these on what lives is spared by the garbage collector meanwhile."""
_AT_WORK: Final = 0.0005
"""Seconds of work between two looks whether the event loop hurries."""
_ASIDE: Final = 0.0005
"""Seconds that it has then: half of the time, where it always does."""
_STEP: Final = 0.0001
_MERGED_ROWS: Final = 1 << 17
"""Rows that are merged, those of the base too, before they are written and let go."""
_PART: Final = 16
"""Runs are merged at once into bases of at most so many times the rows that come."""


class Merge(Enum):
    """Which runs a flush merges: those that are due; of them those that are little beside what
    comes, or where there are too many; none; or all.
    """

    DUE = "due"
    LITTLE = "little"
    MANY = "many"
    NONE = "none"
    ALL = "all"


class Flushed(NamedTuple):
    """A flush whose nodes are durable. ``trees`` hold all of ``snapshot``.

    ``base`` is the checkpoint that names them, durable as well; ``bytes`` is how much the nodes
    and the log take.
    """

    snapshot: Snapshot
    trees: Trees
    base: Checkpoint
    bytes: int


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
    merging: Merge = Merge.DUE,
    over: Trees | None = None,
) -> Flushed:
    """Write what ``snapshot`` needs to be read from trees alone, and its records as a segment.

    ``records`` may also be where they lie in segments already, which are then named again. ``log``
    is the address of the segment before, ``id`` that of the flush, never used before. The
    ``checkpoint`` is made of the record of the trees and of the address of the newest segment.
    What lies in the packs of ``thin`` is written again, so that those can go. With ``hashed`` the
    addresses of nodes have their hashes. ``merging`` says which runs are merged. ``over`` are trees
    that hold the same as those of the snapshot, to go on from in their place.
    Computes in a worker thread, which stands aside for a moment where the event loop ``hurries``;
    other tasks may go on appending to the memtable. Raises konserve's errors, and CorruptData from
    reading nodes.
    """
    sink = make_sink(layout, source, id, snapshot.trees.factory if hashed else None)
    aside = _Aside(hurries)

    def absorb() -> Trees:
        looking.set(aside)
        mem = snapshot.mem
        trees = snapshot.trees if over is None else over
        ids = (snapshot.max_eid, snapshot.max_tx)
        # Also without rows: a transaction may have used up an id and changed nothing.
        if snapshot.n or (trees.max_eid, trees.max_tx) != ids:
            trees = trees.absorb(mem, snapshot.n, snapshot.m, snapshot.schema, *ids)
        return trees

    def build(trees: Trees) -> Flushed:
        looking.set(aside)
        source.slack.give_back()
        with left_plain(source.plain_bytes):
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
    with set_aside() if much else nullcontext():
        with Reading() as reading:
            trees: Trees = await reading.call(absorb, run=in_thread)
        # What merges write is durable, and let go, before the rest is made.
        for past, first in _wanted(trees, snapshot.n, merging):
            runs = trees.side(past=past)[Order.EAVT].runs[max(first, 0) :]
            # A full collection stops the event loop for longer than all that merging does.
            with set_aside() if sum(map(len, runs)) >= _MUCH_ROWS else nullcontext():
                trees = await _merged(trees, first, sink, store, aside, past=past)
        # Until they are durable, nodes live in the cache alone and must not fall out of it.
        with Reading() as reading, sink.holding():
            if thin:
                trees = await reading.call(trees.loosened, thin, run=in_thread)
            flushed = await in_thread(build, trees)
            await write_blobs(store, sink.writes)
            return flushed


def _wanted(trees: Trees, rows: int, merging: Merge) -> Sequence[tuple[bool, int]]:
    """Return which runs to merge: whether of the past, and the first of them, -1: all below."""
    sides = (False, True) if trees.keep_history else (False,)
    if merging is Merge.ALL:
        return [(past, -1) for past in sides if trees.side(past=past)[Order.EAVT].runs]
    if merging is Merge.NONE:
        return ()
    if merging is Merge.DUE:
        return trees.due
    # A commit waits for it, or who closes: what is much is left for the next flush.
    out = []
    for past, first in trees.due:
        index = trees.side(past=past)[Order.EAVT]
        little = merging is Merge.LITTLE and (first >= 0 or len(index.base) <= _PART * rows)
        if little or len(index.runs) > MOST:
            out.append((past, first))
    return out


async def _merged(
    trees: Trees, first: int, sink: Sink, store: Store, aside: _Aside, *, past: bool
) -> Trees:
    """Return trees with runs merged. What is much is written on the way, and let go."""
    out: dict[Order, Levels] = {}

    def some(merge: Merging) -> bool:
        looking.set(aside)
        return merge.some(_MERGED_ROWS)

    def taken() -> Sequence[tuple[str, bytes]]:
        sink.source.slack.give_back()
        return sink.take()

    def write(merge: Merging) -> None:
        with left_plain(sink.source.plain_bytes):
            merge.write(sink)

    for order, index in trees.side(past=past).items():
        merge = Merging(index, first)
        more = True
        while more:
            with Reading() as reading, sink.holding():
                more = await reading.call(some, merge, run=in_thread)
                if merge.waiting >= _MERGED_ROWS:
                    await in_thread(write, merge)
                    await write_blobs(store, await in_thread(taken))
        out[order] = merge.done()
    return trees.with_side(out, past=past)


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
