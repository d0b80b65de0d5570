"""Append logs: a head that names the newest element, elements that name the one before.

An element is written before the head that names it, so a reader never meets a gap, and a writer
that lost the race for the head leaves an element that nobody names.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from datahike_async.konserve.blob import ABSENT, UNCHANGED
from datahike_async.konserve.envelope import APPEND_LOG, ELEMENT
from datahike_async.konserve.errors import NotAnAppendLog, RevisionMismatch, shown
from datahike_async.konserve.serializers import name_of_key

if TYPE_CHECKING:
    from datahike_async.konserve.store import Store

__all__ = ["append", "elements"]

_RETRIES: Final = 64


async def append(store: Store, key: Any, element: Any) -> UUID:
    """Add an element and return its id."""
    name = name_of_key(key)
    async with store._locks.holding(name):
        for _ in range(_RETRIES):
            head, revision = await _head(store, key)
            id_ = uuid.uuid4()
            last = head["last"] if head else None
            await store._write(id_, {"previous": last, "element": element}, ELEMENT)
            fresh = {"last": id_, "count": (head["count"] if head else 0) + 1}
            data = store.encoding.seal(key, fresh, APPEND_LOG, None)
            try:
                await store.blobs.write(name, data, revision if store._conditional else None)
            except RevisionMismatch:
                await store.blobs.delete(name_of_key(id_))
                continue
            return id_
    raise RevisionMismatch(f"Other writers kept appending to {shown(key)}; nothing was appended.")


async def _head(store: Store, key: Any) -> tuple[dict[str, Any] | None, Any]:
    blob = await store.blobs.read_latest(name_of_key(key))
    if blob is None or blob is UNCHANGED:
        return None, ABSENT
    envelope = store.encoding.open(name_of_key(key), blob.data, key)
    if envelope.kind != APPEND_LOG:
        raise NotAnAppendLog(f"The value of {shown(key)} is no append log.", key=key)
    return store.encoding.value(key, envelope), blob.revision


async def elements(store: Store, key: Any) -> list[Any]:
    """Return all elements, oldest first; none where there is no such log."""
    head, _ = await _head(store, key)
    out = []
    id_ = head["last"] if head else None
    while id_ is not None:
        found = await store.get(id_)
        out.append(found["element"])
        id_ = found["previous"]
    return out[::-1]
