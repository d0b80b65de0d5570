"""Append logs: a head that names the newest element, elements that name the one before.

An element is written before the head that names it, so a reader never meets a gap, and a writer
that lost the race for the head leaves an element that nobody names.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from datahike_async.konserve.blob import ABSENT, UNCHANGED, BlobStore
from datahike_async.konserve.encoding import Encoding
from datahike_async.konserve.envelope import APPEND_LOG, ELEMENT
from datahike_async.konserve.errors import NotAnAppendLog, RevisionMismatch, shown
from datahike_async.konserve.locks import KeyLocks
from datahike_async.konserve.serializers import name_of_key

__all__ = ["AppendLogs"]

_RETRIES: Final = 64


class AppendLogs:
    """The logs of one store. ``get`` reads a value of it."""

    def __init__(
        self,
        blobs: BlobStore,
        encoding: Encoding,
        locks: KeyLocks,
        get: Callable[[Any], Awaitable[Any]],
    ) -> None:
        self._blobs = blobs
        self._encoding = encoding
        self._locks = locks
        self._get = get

    async def append(self, key: Any, element: Any) -> UUID:
        """Add an element and return its id."""
        name, blobs, seal = name_of_key(key), self._blobs, self._encoding.seal
        conditional = blobs.capabilities.compares
        async with self._locks.holding(name):
            for _ in range(_RETRIES):
                head, revision = await self._head(key)
                id_ = uuid.uuid4()
                last = head["last"] if head else None
                added = seal(id_, {"previous": last, "element": element}, ELEMENT, None)
                await blobs.write(name_of_key(id_), added, None)
                fresh = {"last": id_, "count": (head["count"] if head else 0) + 1}
                data = seal(key, fresh, APPEND_LOG, None)
                try:
                    await blobs.write(name, data, revision if conditional else None)
                except RevisionMismatch:
                    await blobs.delete(name_of_key(id_))
                    continue
                return id_
        raise RevisionMismatch(
            f"Other writers kept appending to {shown(key)}; nothing was appended."
        )

    async def _head(self, key: Any) -> tuple[dict[str, Any] | None, Any]:
        blob = await self._blobs.read_latest(name_of_key(key))
        if blob is None or blob is UNCHANGED:
            return None, ABSENT
        envelope = self._encoding.open(name_of_key(key), blob.data, key)
        if envelope.kind != APPEND_LOG:
            raise NotAnAppendLog(f"The value of {shown(key)} is no append log.", key=key)
        return self._encoding.value(key, envelope), blob.revision

    async def elements(self, key: Any) -> list[Any]:
        """Return all elements, oldest first; none where there is no such log."""
        head, _ = await self._head(key)
        out = []
        id_ = head["last"] if head else None
        while id_ is not None:
            found = await self._get(id_)
            out.append(found["element"])
            id_ = found["previous"]
        return out[::-1]
