"""Sweep: going through a store by the names of its blobs, and removing those that nobody needs.

Names are hashes of keys, so a collector goes forward: it lists all names, crosses out those of the
keys that live, and looks at what is left, a few bytes of each, before it removes anything. Memory
is bounded by the names: about a hundred bytes a blob.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from anyio.lowlevel import checkpoint as pause

from datahike_async.konserve.base import gather, listing
from datahike_async.konserve.blob import Revision
from datahike_async.konserve.envelope import HEADER, Envelope, read_header
from datahike_async.konserve.errors import CorruptValue, RevisionMismatch, UnsupportedEncoding
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import Store

__all__ = ["Found", "Names", "list_names", "look", "remove", "remove_as_found"]

_FIRST: Final = 1024
"""Bytes that hold all of most small blobs."""
_AT_ONCE: Final = 16
_SLICE: Final = 64
_PAGE: Final = 10_000


class Found(NamedTuple):
    """What lies under a name: its key, its size and its revision.

    ``written`` is when it was, in ms since 1970 by the clock of whoever wrote it; 0 where unknown.
    """

    name: str
    key: Any
    size: int
    revision: Revision
    written: int = 0


class Names:
    """Names that were listed, until they are crossed out."""

    def __init__(self) -> None:
        # In the order that they were listed in: what is done with them is then the same each time.
        self._names: dict[bytes, None] = {}
        self.listed = 0

    def __len__(self) -> int:
        return len(self._names)

    def add(self, names: Iterable[str]) -> None:
        """Take in names."""
        before = len(self._names)
        self._names.update(dict.fromkeys(map(bytes.fromhex, names)))
        self.listed += len(self._names) - before

    def keep(self, keys: Iterable[Any]) -> None:
        """Cross out the names of keys."""
        for key in keys:
            self._names.pop(bytes.fromhex(name_of_key(key)), None)

    def slices(self, size: int = _SLICE) -> Iterator[Sequence[str]]:
        """Iterate over what is left, some at a time."""
        left = list(self._names)
        for start in range(0, len(left), size):
            yield [name.hex() for name in left[start : start + size]]


async def list_names(store: Store) -> Names:
    """List the names of all blobs, reading none of them."""
    names = Names()
    async with listing(store.blobs.names()) as pages:
        async for page in pages:
            for start in range(0, len(page), _PAGE):
                names.add(page[start : start + _PAGE])
                await pause()
    return names


async def look(store: Store, names: Sequence[str]) -> list[Found]:
    """Say what lies under names, by the beginning and the end of each blob.

    Left out is what is gone, and what is no value of a key that this store can read. The name is a
    hash of the key, so a key that is told is the right one, whatever else of a blob is damaged.
    """

    async def one(name: str) -> Found | None:
        first = await store.blobs.read(name, 0, _FIRST)
        if first is None:
            return None
        try:
            header = read_header(first.data)
            at = HEADER + header.value_length
            size = at + header.meta_length
            meta = first.data[at:size]
            if len(meta) < header.meta_length:
                rest = await store.blobs.read(name, at, size)
                if rest is None or rest.revision != first.revision:
                    return None
                meta = rest.data
            envelope = Envelope(
                header.kind, header.serializer, header.compressor, b"", meta, header.encryptor
            )
            described = store.encoding.described(name, envelope)
            key, written = described.get("key"), described.get("last-write")
            if name_of_key(key) != name:
                return None
        except (CorruptValue, UnsupportedEncoding, ValueError):
            return None  # nothing is removed by what cannot be read
        return Found(name, key, size, first.revision, written if type(written) is int else 0)

    return [found for found in await gather(one, names, _AT_ONCE) if found is not None]


async def remove(store: Store, names: Sequence[str]) -> int:
    """Remove blobs by their names, whatever they are by now; return how many were there."""
    return sum(await store.blobs.delete_many(names)) if names else 0


async def remove_as_found(store: Store, found: Found) -> bool:
    """Remove a blob if it is still as it was found. False where it is not."""
    try:
        return await store.blobs.delete(found.name, found.revision)
    except RevisionMismatch:
        return False
