"""One store that keeps writes back, for all its handles of an event loop.

What one handle has taken and not yet sent, the others must see; so they share what does the
keeping back. The last handle that is closed ends it.
"""

from __future__ import annotations

from collections.abc import Hashable

import anyio
from anyio.lowlevel import RunVar

from datahike_async.konserve.blob import BlobStore
from datahike_async.konserve.errors import StoreClosed
from datahike_async.konserve.loops import surely
from datahike_async.konserve.wrappers.passing import PassingBlobStore

__all__ = ["Handle", "forget", "share"]


class _Shared:
    """A store and how many handles it has; ``lock`` guards its end."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self.handles = 0
        self.lock = anyio.Lock()


_all: RunVar[dict[Hashable, _Shared]] = RunVar("datahike_async.konserve.tiered")


def _live() -> dict[Hashable, _Shared]:
    try:
        return _all.get()
    except LookupError:
        made: dict[Hashable, _Shared] = {}
        _all.set(made)
        return made


class Handle(PassingBlobStore):
    """One handle of a shared store."""

    def __init__(self, key: Hashable, shared: _Shared) -> None:
        super().__init__(shared.blobs)
        self._key = key
        self._shared = shared
        self._open = True
        shared.handles += 1

    @property
    def blobs(self) -> BlobStore:
        """The store that is shared."""
        if not self._open:
            raise StoreClosed("This store was released; connect to it again.")
        return self._blobs

    async def close(self) -> None:
        """Let go of the store; the last one closes it. Raises what closing it raises."""
        async with self._shared.lock:
            if not self._open:
                return
            if self._shared.handles == 1:
                await self._blobs.close()
                if _live().get(self._key) is self._shared:
                    del _live()[self._key]
            self._open = False
            self._shared.handles -= 1


async def share(key: Hashable, fresh: BlobStore, *, new: bool = False) -> Handle:
    """Return a handle of the store under a key; ``fresh`` becomes it where there is none.

    With ``new`` it was just made, and what is known under the key is of a store that is gone.
    """
    live = _live()
    try:
        while not new and (found := live.get(key)) is not None:
            async with found.lock:
                # It may have been closed meanwhile.
                if live.get(key) is found:
                    await surely(fresh.close)
                    return Handle(key, found)
    except BaseException:
        await surely(fresh.close)
        raise
    made = live[key] = _Shared(fresh)
    return Handle(key, made)


def forget(key: Hashable) -> BlobStore | None:
    """Return the store of a key that is about to be deleted; nobody joins it any more."""
    found = _live().pop(key, None)
    return None if found is None else found.blobs
