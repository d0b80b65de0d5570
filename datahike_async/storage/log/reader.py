"""Reading the log from a store."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from datahike_async.errors import CorruptData
from datahike_async.index.source import Address
from datahike_async.konserve.base import gather
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import in_thread
from datahike_async.storage.log.records import SegmentParts, decode_segment
from datahike_async.storage.log.tail import IN_THREAD, Segment, Tail

__all__ = ["fetch_segment", "fetch_segments"]

_AT_ONCE: Final = 16


async def fetch_segments(
    store: Store, stored: Sequence[bytes | Address], held: Tail | None, where: str
) -> Tail:
    """Return the tail that the head at ``where`` says it has; what ``held`` has is not read again.

    All segments are read at once. Raises CorruptData naming the one that is missing or damaged.
    """
    known = {} if held is None else dict(held.segments)
    missing = [x for x in stored if isinstance(x, Address) and x not in known]

    async def fetch(address: Address) -> Segment:
        parts = await fetch_segment(store, address, where)
        return Segment(address, tuple(x for x in parts.items if isinstance(x, bytes)))

    if missing:
        for segment in await gather(fetch, missing, _AT_ONCE):
            known[segment.address] = segment
    return Tail(x if isinstance(x, bytes) else known[x] for x in stored)


async def fetch_segment(store: Store, address: Address, where: str) -> SegmentParts:
    """Return a segment that is named at ``where``.

    Raises CorruptData where it is missing or damaged.
    """
    data = await store.bget(address.blob)
    if data is not None and len(data) > IN_THREAD:
        return await in_thread(_checked, address, data, where)
    return _checked(address, data, where)


def _checked(address: Address, data: bytes | None, where: str) -> SegmentParts:
    why = None
    if data is None:
        why = "is not in the store"
    elif len(data) != address.length:
        why = f"is damaged: it has {len(data)} bytes and should have {address.length}"
    elif zlib.crc32(data) != address.crc:
        why = "is damaged: its checksum is wrong"
    if why is not None or data is None:
        raise CorruptData(
            f"{address.blob}, a segment of the log that {where} names, {why}. Restore it from a "
            "backup.",
            error=":node-not-found" if data is None else None,
            blob=address.blob,
            place=where,
        )
    return decode_segment(data, address.blob)
