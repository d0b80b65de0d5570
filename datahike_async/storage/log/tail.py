"""The tail: the records of what was committed since the trees of a head were written.

A record lies in the head itself, or in the journal beside it, or in a *segment*: a blob of its own
that the head names. Records go to segments where a head would become long, so that a large value
is sent once and not with every small commit after it. A flush puts the tail's records into the
log, where segments stay what they are and are named again: a segment that a head has named is
never removed here.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple
from uuid import UUID

from datahike_async.index.source import Address
from datahike_async.konserve.threads import in_thread
from datahike_async.storage.keys import segment_key
from datahike_async.storage.log.records import encode_segment

__all__ = ["IN_THREAD", "TAIL_BYTES", "Segment", "Tail"]

TAIL_BYTES: Final = 32 * 1024
"""Bytes of records in one head."""
IN_THREAD: Final = 256 * 1024
"""Bytes whose encoding would hold up the event loop."""


class Segment(NamedTuple):
    """Encoded records, oldest first, and where they lie together."""

    address: Address
    records: tuple[bytes, ...]


class Tail:
    """Encoded records, oldest first; ``items`` are single ones and segments of several.

    ``bytes`` counts all records, ``inline`` those that lie in no segment.
    """

    __slots__ = ("_named", "bytes", "inline", "items")

    def __init__(self, items: Iterable[bytes | Segment] = ()) -> None:
        self.items: list[bytes | Segment] = list(items)
        # Behind these there are only single records.
        self._named = max(
            (i for i, x in enumerate(self.items, 1) if isinstance(x, Segment)), default=0
        )
        self.inline = sum(len(x) for x in self.items if isinstance(x, bytes))
        self.bytes = self.inline + sum(
            len(record) for x in self.items if isinstance(x, Segment) for record in x.records
        )

    @property
    def records(self) -> list[bytes]:
        """All records."""
        return list(chain.from_iterable(_records(item) for item in self.items))

    @property
    def segments(self) -> Mapping[Address, Segment]:
        """The segments by address."""
        return {x.address: x for x in self.items if isinstance(x, Segment)}

    def stored(self) -> tuple[bytes | Address, ...]:
        """Return what a head says of each item: the record, or where it lies."""
        # Every commit on a store without journals asks for it: no step for each single record.
        named = [x.address if isinstance(x, Segment) else x for x in self.items[: self._named]]
        return (*named, *self.items[self._named :])  # type: ignore[arg-type]  # no segments

    def append(self, record: bytes) -> None:
        """Add a record."""
        self.items.append(record)
        self.inline += len(record)
        self.bytes += len(record)

    def plus(self, record: bytes) -> Tail:
        """Return a tail with one record more."""
        # Every commit asks for one: nothing is counted again.
        longer = Tail.__new__(Tail)
        longer.items = [*self.items, record]
        longer._named = self._named
        longer.inline = self.inline + len(record)
        longer.bytes = self.bytes + len(record)
        return longer

    def after(self, count: int) -> Tail:
        """Return a tail without the first ``count`` records."""
        rest: list[bytes | Segment] = []
        for item in self.items:
            records = _records(item)
            if count <= 0:
                rest.append(item)
            else:
                # Of a segment that lies on the border the rest is single again.
                rest += records[count:]
                count -= len(records)
        return Tail(rest)

    async def bounded(self, new_id: Callable[[], UUID]) -> tuple[Tail, list[tuple[str, bytes]]]:
        """Return the tail as a head may carry it, and the segments to write before that, by key.

        Where single records take more than ``TAIL_BYTES``, all of them go to segments: a large
        one to its own, neighbours to one.
        """
        if self.inline <= TAIL_BYTES:
            return self, []
        items: list[bytes | Segment] = []
        writes: list[tuple[str, bytes]] = []
        for group in _groups(self.items):
            if isinstance(group, Segment):
                items.append(group)
                continue
            if sum(map(len, group)) > IN_THREAD:
                data = await in_thread(encode_segment, None, group)
            else:
                data = encode_segment(None, group)
            key = segment_key(new_id())
            items.append(Segment(Address(key, 0, len(data), zlib.crc32(data)), tuple(group)))
            writes.append((key, data))
        return Tail(items), writes


def _records(item: bytes | Segment) -> Sequence[bytes]:
    return (item,) if isinstance(item, bytes) else item.records


def _groups(items: Iterable[bytes | Segment]) -> list[Segment | list[bytes]]:
    groups: list[Segment | list[bytes]] = []
    open_: list[bytes] | None = None
    for item in items:
        if isinstance(item, Segment):
            groups.append(item)
            open_ = None
        elif len(item) > TAIL_BYTES:
            groups.append([item])
            open_ = None
        elif open_ is None:
            groups.append(open_ := [item])
        else:
            open_.append(item)
    return groups
