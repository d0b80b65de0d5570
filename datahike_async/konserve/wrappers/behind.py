"""Behind: writes that were taken and not yet sent, each with a revision that stands in for its own.

A read of such a name is answered from here. Sending is concurrent and may fail or be cancelled;
then everything stays here and is sent again the next time, for none of it has a condition.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from typing import Any, Final
from uuid import uuid4

import anyio

from datahike_async.konserve.blob import Blob, BlobStore, Revision, Write

__all__ = ["Behind"]

_REMEMBERED: Final = 16_384


class Behind:
    """What waits for a store; ``full`` once it is more than ``limit`` bytes."""

    def __init__(self, blobs: BlobStore, limit: int) -> None:
        self._blobs = blobs
        self._limit = limit
        self._waiting: dict[str, Blob] = {}
        self._bytes = 0
        # Never the same again, also not in the next store of this id.
        self._prefix = f"behind-{uuid4().hex[:12]}-"
        self._numbers = count(1)
        # Revisions that were given out → those that the store gave.
        self._actual: OrderedDict[Revision, Revision] = OrderedDict()
        self._given: OrderedDict[tuple[str, Revision], Revision] = OrderedDict()
        self._sending = anyio.Lock()

    @property
    def full(self) -> bool:
        """Whether it is time to send."""
        return self._bytes > self._limit

    def get(self, name: str) -> Blob | None:
        """Return what waits under a name."""
        return self._waiting.get(name)

    def put(self, name: str, data: bytes) -> Revision:
        """Take a write and return the revision that stands in for its own."""
        old = self._waiting.get(name)
        self._bytes += len(data) - (0 if old is None else len(old.data))
        revision = f"{self._prefix}{next(self._numbers)}"
        self._waiting[name] = Blob(bytes(data), revision)
        return revision

    def actual(self, revision: Any) -> Any:
        """Return the store's revision for one that was given out; others as they are."""
        return self._actual.get(revision, revision)

    def given(self, name: str, revision: Revision) -> Revision:
        """Return the revision that was given out for one of the store's; others as they are."""
        return self._given.get((name, revision), revision)

    async def sent(self) -> None:
        """Wait for a sending that is under way; then ``given`` knows every revision it gave."""
        if self._sending.locked():
            async with self._sending:
                pass

    async def abandon(self) -> None:
        """Let go of what waits, for its store is being deleted; see what is being sent arrive."""
        self._waiting.clear()
        self._bytes = 0
        await self.sent()

    async def drain(self) -> None:
        """Send everything, also what is taken meanwhile. Raises what the store raises."""
        while self._waiting or self._sending.locked():
            await self.settle()

    async def settle(self) -> None:
        """Send everything. Raises what the store raises; nothing is lost then."""
        if not self._waiting and not self._sending.locked():
            return
        async with self._sending:
            sent = list(self._waiting.items())
            if not sent:
                return
            writes = [Write(name, blob.data) for name, blob in sent]
            revisions = await self._blobs.write_many(writes, ordered=False)
            for (name, blob), revision in zip(sent, revisions, strict=True):
                self._actual[blob.revision] = revision
                self._given[name, revision] = blob.revision
                # Unless it was written again meanwhile.
                if self._waiting.get(name) is blob:
                    del self._waiting[name]
                    self._bytes -= len(blob.data)
            for known in (self._actual, self._given):
                while len(known) > _REMEMBERED:
                    known.popitem(last=False)
