"""Blobs in an LMDB environment.

LMDB allows one write transaction at a time among all processes, so a compare-and-set is a read and
a write inside one. Revisions are numbers from a counter in the same environment, so they never
repeat, not even for a name that was removed in between. Reads are transactions of their own, which
wait for no writer.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Any, Final, TypeVar
from uuid import UUID

import lmdb

from datahike_async.konserve import (
    ABSENT,
    UNCHANGED,
    Blob,
    BlobStoreBase,
    Capabilities,
    ConditionalDomain,
    Expected,
    News,
    Revision,
    StoreClosed,
    StoreNotFound,
    Turn,
    Write,
    in_thread,
    require_revision,
)
from datahike_async.konserve.base import refuse_forked
from datahike_async.konserve.file_lock import LOCK_SECONDS
from datahike_async.konserve.turns import Turns
from datahike_async_lmdb.environment import BLOBS, META, Shared, committing, reading, table

__all__ = ["DELETED", "MARKER", "LmdbBlobStore"]

T = TypeVar("T")

MARKER: Final = b"konserve-lmdb"
DELETED: Final = b"deleted"
_COUNTER: Final = b"revision"
_REVISION: Final = struct.Struct(">Q")
_PAGE: Final = 1000

_CAPABILITIES: Final = Capabilities(
    conditional=ConditionalDomain.MACHINE,
    atomic_multi=True,
    turns=True,
    in_place=True,
    cheap_small_keys=True,
)


class LmdbBlobStore(BlobStoreBase):
    """Blobs in one LMDB environment, which the store lets go of when it is closed."""

    def __init__(
        self,
        shared: Shared,
        lock_seconds: float = LOCK_SECONDS,
        map_size: int = 0,
        *,
        identity: UUID | None = None,
    ) -> None:
        self.identity = identity
        self.read_only = shared.read_only
        self._shared = shared
        self._pid = os.getpid()
        self._lock_seconds = lock_seconds
        self._map_size = map_size
        self._turns = Turns(shared.folder, shared.path, lock_seconds)
        for name in BLOBS, META:
            shared.call(table, shared, name, lock_seconds)
        # Guards the count of calls under way, which closing waits for.
        self._state = threading.Condition()
        self._active = 0
        self._closed = False
        self._released = False

    @property
    def capabilities(self) -> Capabilities:
        """What this store promises."""
        return _CAPABILITIES

    @property
    def _environment(self) -> Any:
        return self._shared.environment

    @property
    def _blobs(self) -> Any:
        return self._shared.tables[BLOBS]

    @property
    def _meta(self) -> Any:
        return self._shared.tables[META]

    async def _hop(self, call: Callable[..., T], *args: Any) -> T:
        self._refuse_closed()
        return await in_thread(self._counted, call, args)

    async def _writing_hop(self, call: Callable[..., T], *args: Any) -> T:
        self._refuse_closed()
        return await in_thread(self._counted, call, args, True)

    def _refuse_closed(self) -> None:
        refuse_forked(self._pid)
        if self._closed:
            raise StoreClosed("This store was released; connect to it again.")

    def _counted(self, call: Callable[..., T], args: tuple[Any, ...], writing: bool = False) -> T:
        self._refuse_closed()
        with self._state:
            self._refuse_closed()
            self._active += 1
        try:
            if writing:
                self._shared.allow_writing(self._map_size, self._lock_seconds)
            return self._shared.call(call, *args)
        finally:
            with self._state:
                self._active -= 1
                self._state.notify_all()

    def _reading(self, *, buffers: bool = False) -> AbstractContextManager[Any]:
        shared, seconds = self._shared, self._lock_seconds
        return reading(shared, self._environment, self._blobs, seconds, buffers=buffers)

    @contextmanager
    def _writing(self, names: Sequence[str]) -> Iterator[Any]:
        """Run a write transaction with conditions on these names."""
        first = self._turns.passing(names[0]) if names else None
        with committing(
            self._shared, self._environment, self._blobs, self._lock_seconds, first
        ) as txn:
            if txn.get(MARKER, DELETED, db=self._meta) == DELETED:
                # Its files may have lost their names: what is written would be lost too.
                raise StoreNotFound(f"The store at {self._shared.path!r} was deleted.")
            yield txn

    # -- reading -------------------------------------------------------------------------------

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Return bytes and revision, or None."""
        return await self._hop(self._read, name, start, end)

    def _read(self, name: str, start: int, end: int | None) -> Blob | None:
        with self._reading(buffers=True) as txn:
            return self._blob(txn, name, start, end)

    def _blob(
        self, txn: lmdb.Transaction, name: str, start: int = 0, end: int | None = None
    ) -> Blob | None:
        found = txn.get(name.encode())
        if found is None:
            return None
        stop = None if end is None else end + _REVISION.size
        data = bytes(found[start + _REVISION.size : stop])
        return Blob(data, str(_REVISION.unpack_from(found)[0]))

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Return those that exist, as they were at one moment."""
        return await self._hop(self._read_many, names)

    def _read_many(self, names: Sequence[str]) -> dict[str, Blob]:
        with self._reading(buffers=True) as txn:
            found = {name: self._blob(txn, name) for name in names}
        return {name: blob for name, blob in found.items() if blob is not None}

    async def read_in_place(
        self, names: Sequence[str], decode: Callable[[str, memoryview], T]
    ) -> Mapping[str, T]:
        """Decode what exists inside a transaction, in the map, as it was at one moment."""
        return await self._hop(self._read_in_place, names, decode)

    def _read_in_place(
        self, names: Sequence[str], decode: Callable[[str, memoryview], T]
    ) -> dict[str, T]:
        made = {}
        with self._reading(buffers=True) as txn:
            for name in names:
                found = txn.get(name.encode())
                if found is not None:
                    # Released at once: the pages belong to others once the transaction is over.
                    with memoryview(found)[_REVISION.size :] as data:
                        made[name] = decode(name, data)
        return made

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Iterate over pages of names."""
        after = b""
        while True:
            page = await self._hop(self._names, after)
            if page:
                yield page
            if len(page) < _PAGE:
                return
            after = page[-1].encode() + b"\0"

    def _names(self, start: bytes) -> list[str]:
        with self._reading() as txn, txn.cursor() as cursor:
            out: list[str] = []
            if cursor.set_range(start):
                for key in cursor.iternext(keys=True, values=False):
                    out.append(bytes(key).decode())
                    if len(out) == _PAGE:
                        break
            return out

    # -- writing -------------------------------------------------------------------------------

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Replace the bytes of a name."""
        return (await self._writing_hop(self._write_many, [Write(name, data, expected)]))[0]

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write all or nothing."""
        return await self._writing_hop(self._write_many, writes)

    def _write_many(self, writes: Sequence[Write]) -> list[Revision]:
        with self._writing([w.name for w in writes if w.expected is not None]) as txn:
            revision = _REVISION.unpack(txn.get(_COUNTER, bytes(8), db=self._meta))[0]
            for write in writes:
                self._check(txn, write.name, write.expected)
            revisions = []
            for write in writes:
                revision += 1
                txn.put(write.name.encode(), _REVISION.pack(revision) + write.data)
                revisions.append(str(revision))
            txn.put(_COUNTER, _REVISION.pack(revision), db=self._meta)
        return revisions

    def _check(self, txn: lmdb.Transaction, name: str, expected: Expected) -> None:
        if expected is None:
            return
        found = txn.get(name.encode())
        revision = None if found is None else str(_REVISION.unpack_from(found)[0])
        require_revision(name, expected, revision)

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Remove a name."""
        return (await self._writing_hop(self._delete_many, [name], expected))[0]

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Remove names, all or none."""
        return await self._writing_hop(self._delete_many, names, None)

    def _delete_many(self, names: Sequence[str], expected: Expected) -> list[bool]:
        with self._writing([] if expected is None else names) as txn:
            for name in names:
                self._check(txn, name, expected)
            return [bool(txn.delete(name.encode())) for name in names]

    def turn(self, name: str, since: Revision | None = None) -> AbstractAsyncContextManager[Turn]:
        """Wait until it is the caller's turn to write a name, among all processes."""
        self._refuse_closed()
        if since is None:
            return self._turns.turn(name)
        return self._turns.turn(name, lambda: self._counted(self._news, (name, since)))

    def _news(self, name: str, since: Revision) -> News:
        found = self._read(name, 0, None)
        if found is None:
            return ABSENT
        return UNCHANGED if found.revision == since else found

    async def close(self) -> None:
        """Let go of the environment once no call is under way."""
        if not self._closed:
            self._closed = True
            await in_thread(self.close_now, surely=True)

    def close_now(self) -> None:
        """Let go of the environment, in the present thread."""
        if os.getpid() != self._pid:
            return  # it is the parent's
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: not self._active)
            released, self._released = self._released, True
        if not released:
            self._turns.close()
            self._shared.release()
