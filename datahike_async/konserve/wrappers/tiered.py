"""Tiered: a fast frontend that may be lost, in front of a backend that is the truth.

Whatever is decided is decided by the backend: conditions, revisions, what exists. The frontend
keeps copies (``front``) of what is written or read without a condition. Within a process a read
never shows less than what was acknowledged there; what other processes overwrite may show late in
plain reads, and at once to whoever reads the latest, as everyone does who writes what he read.

Write policies: *write-through* writes to both. *write-around* writes to the backend, and reading
fills the frontend. *write-behind* keeps unconditional writes back, and writes them together before
the next thing that has an order: a conditional write, a deletion, a listing, the end, or too many
bytes. A conditional write is then durable with all that was written before it; nothing else is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, cast

import anyio

from datahike_async.konserve.base import BlobStoreBase, close_now, faults_of, listing
from datahike_async.konserve.blob import (
    UNCHANGED,
    Appended,
    Blob,
    BlobStore,
    Capabilities,
    Expected,
    Fault,
    Journal,
    JournalBlobStore,
    Revision,
    Turn,
    TurnBlobStore,
    Unchanged,
    Write,
)
from datahike_async.konserve.errors import StoreClosed, StoreConfigError
from datahike_async.konserve.locks import KeyLocks
from datahike_async.konserve.loops import surely
from datahike_async.konserve.wrappers.behind import Behind
from datahike_async.konserve.wrappers.changes import Changes
from datahike_async.konserve.wrappers.front import Front
from datahike_async.konserve.wrappers.frontend import (
    check_frontend,
    open_frontend,
    refuse_same,
    remove_frontend,
)
from datahike_async.konserve.wrappers.nested import Nested, nested, text
from datahike_async.konserve.wrappers.sharing import forget, share

__all__ = ["TieredBackend", "TieredBlobStore"]

_POLICIES: Final = ("write-through", "write-around", "write-behind")
_BEHIND_BYTES: Final = 16 * 1024 * 1024


class TieredBlobStore(BlobStoreBase):
    """A store of two; see the module. ``behind_bytes`` bounds what write-behind keeps back."""

    def __init__(
        self,
        frontend: BlobStore,
        backend: BlobStore,
        policy: str = "write-through",
        behind_bytes: int = _BEHIND_BYTES,
    ) -> None:
        self._front = Front(frontend)
        self._back = backend
        self._journals = cast(JournalBlobStore, backend)
        self._policy = policy
        self._changes = Changes()
        self._locks = KeyLocks()
        self._fetches = KeyLocks()
        self._behind = Behind(self._back, behind_bytes) if policy == "write-behind" else None
        self._closed = False
        self.identity = getattr(backend, "identity", None)
        self.read_only = getattr(backend, "read_only", False)

    @property
    def capabilities(self) -> Capabilities:
        """What the backend promises, but for reads in place, of which nothing would be kept.

        With write-behind a write alone is not durable.

        Nor are there turns then: all handles of an event loop are one writer.
        """
        promised = replace(self._back.capabilities, in_place=False)
        if self._behind is None:
            return promised
        return replace(promised, durable=False, turns=False)

    @property
    def server(self) -> str:
        """What is at the other end of the backend."""
        return self._back.server

    @property
    def keeps_back(self) -> bool:
        """Whether writes wait here."""
        return self._behind is not None

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("This store was released; connect to it again.")

    # -- reading -------------------------------------------------------------------------------

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Return a range from the frontend; what it has not is fetched whole and kept."""
        self._check_open()
        if self._behind is not None:
            waiting = self._behind.get(name)
            if waiting is not None:
                return waiting._replace(data=waiting.data[start:end])
        found = await self._front.get(name, start, end)
        if found is not None:
            return self._shown(name, found)
        # Many ranges of one blob are asked for at once: the first one fetches it for all.
        async with self._fetches.holding(name):
            found = await self._front.get(name, start, end)
            if found is not None:
                return self._shown(name, found)
            with self._changes.reading(name) as reading:
                blob = await self._back.read(name)
                if blob is None:
                    return None
                await self._keep({name: blob}, {name: reading})
        await self._sent()
        return self._shown(name, blob)._replace(data=blob.data[start:end])

    async def _sent(self) -> None:
        # What the backend said may be of a write whose revision is not recorded yet.
        if self._behind is not None:
            await self._behind.sent()

    def _shown(self, name: str, blob: Blob) -> Blob:
        """Return a blob with the revision that whoever wrote it was given."""
        if self._behind is None:
            return blob
        return blob._replace(revision=self._behind.given(name, blob.revision))

    async def _keep(self, blobs: Mapping[str, Blob], readings: Mapping[str, Any]) -> None:
        """Keep copies of what was read, unless someone has written it since."""
        async with self._holding(blobs):
            fresh = {name: blob for name, blob in blobs.items() if readings[name].fresh}
            await self._front.put(fresh)

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Ask the backend, whose answer is short where the frontend's copy is still right."""
        await self._settle()
        if unless is not None:
            changed = await self._back.read_latest(name, self._actual(unless))
            return self._shown(name, changed) if isinstance(changed, Blob) else changed
        copy = await self._front.revision(name)
        found = await self._back.read_latest(name, copy)
        if found is UNCHANGED:
            kept = await self._front.get(name)
            if kept is not None and kept.revision == copy:
                return self._shown(name, kept)
            found = await self._back.read_latest(name)
        elif copy is not None:
            async with self._holding([name]):
                if await self._front.revision(name) == copy:
                    await self._front.drop([name])
        return self._shown(name, found) if isinstance(found, Blob) else found

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Return those that exist; the backend is asked for what the frontend has not."""
        self._check_open()
        found: dict[str, Blob] = {}
        missing: list[str] = []
        for name in names:
            blob = None if self._behind is None else self._behind.get(name)
            blob = blob or await self._front.get(name)
            if blob is None:
                missing.append(name)
            else:
                found[name] = self._shown(name, blob)
        if missing:
            with self._changes.readings(missing) as readings:
                fetched = await self._back.read_many(missing)
                await self._keep(fetched, readings)
            await self._sent()
            found.update((name, self._shown(name, blob)) for name, blob in fetched.items())
        return found

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """List what the backend has."""
        await self._settle()
        async with listing(self._back.names()) as pages:
            async for page in pages:
                yield page

    async def faults(self) -> Sequence[Fault]:
        """Ask the backend: what is wrong with a copy is made good from there."""
        return await faults_of(self._back)

    # -- writing -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _holding(self, names: Any) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            # In one order for all, or two could wait for one another.
            for name in sorted(set(names)):
                await stack.enter_async_context(self._locks.holding(name))
            yield

    @asynccontextmanager
    async def _changing(self, names: Sequence[str]) -> AsyncIterator[dict[str, Blob]]:
        """Hold the names while the backend changes; copies put into the result are kept.

        Whatever fails or is cancelled, no copy survives that may be old.
        """
        kept: dict[str, Blob] = {}
        async with self._holding(names):
            self._changes.changed(names)
            try:
                yield kept
                # What was read meanwhile may be from before.
                self._changes.changed(names)
                await self._front.drop([name for name in names if name not in kept])
                await self._front.put(kept)
            except BaseException:
                self._changes.changed(names)
                with anyio.CancelScope(shield=True):
                    await self._front.drop(names)
                raise

    async def _settle(self) -> None:
        self._check_open()
        if self._behind is not None:
            await self._behind.settle()

    def _actual(self, expected: Any) -> Any:
        return expected if self._behind is None else self._behind.actual(expected)

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write to the backend, and to the frontend as the policy says."""
        self._check_open()
        if self._behind is not None and expected is None:
            return await self._behind_write(name, data)
        return (await self._through([Write(name, data, expected)], None))[0]

    async def _behind_write(self, name: str, data: bytes) -> Revision:
        assert self._behind is not None
        async with self._changing([name]):
            self._check_open()  # Or it was closed while this waited for its turn.
            revision = self._behind.put(name, data)
        if self._behind.full:
            await self._behind.settle()
        return revision

    async def write_many(
        self, writes: Sequence[Write], *, ordered: bool = True
    ) -> Sequence[Revision]:
        """Write to the backend, and to the frontend as the policy says."""
        self._check_open()
        alone = not ordered or len(writes) == 1
        if self._behind is not None and alone and all(w.expected is None for w in writes):
            return [await self._behind_write(w.name, w.data) for w in writes]
        return await self._through(writes, ordered)

    async def _through(self, writes: Sequence[Write], ordered: bool | None) -> Sequence[Revision]:
        await self._settle()
        sent = [w._replace(expected=self._actual(w.expected)) for w in writes]
        async with self._changing([w.name for w in writes]) as kept:
            if ordered is None:
                revisions: Sequence[Revision] = [await self._back.write(*sent[0])]
            else:
                revisions = await self._back.write_many(sent, ordered=ordered)
            for write, revision in zip(sent, revisions, strict=True):
                # What is written under a condition is about to change again.
                if write.expected is None and self._policy != "write-around":
                    kept[write.name] = Blob(bytes(write.data), revision)
            return revisions

    async def delete(self, name: str, expected: Expected = None) -> bool:
        """Delete from the backend and from the frontend."""
        await self._settle()
        async with self._changing([name]):
            return await self._back.delete(name, self._actual(expected))

    async def delete_many(self, names: Sequence[str]) -> Sequence[bool]:
        """Delete from the backend and from the frontend."""
        await self._settle()
        async with self._changing(names):
            return await self._back.delete_many(names)

    # -- journals ------------------------------------------------------------------------------

    async def append(self, name: str, record: bytes, expected: Revision) -> Revision:
        """Append in the backend; a copy would have the revision of before."""
        await self._settle()
        async with self._changing([name]):
            return await self._journals.append(name, record, self._actual(expected))

    async def read_journal(
        self, name: str, since: Revision | None = None
    ) -> Journal | Appended | Unchanged | None:
        """Ask the backend."""
        await self._settle()
        found = await self._journals.read_journal(name, self._actual(since))
        if self._behind is None or found is None or found is UNCHANGED:
            return found
        return found._replace(revision=self._behind.given(name, found.revision))

    async def abandon(self) -> None:
        """Let go of what was kept back, for the store is being deleted; see what is sent arrive."""
        if self._behind is not None:
            await self._behind.abandon()

    def turn(self, name: str, since: Revision | None = None) -> AbstractAsyncContextManager[Turn]:
        """Queue at the backend, where conditions hold. What is new is read as ever."""
        self._check_open()
        return cast(TurnBlobStore, self._back).turn(name)

    async def close(self) -> None:
        """Write what was kept back, and close both. Raises where it could not be written.

        Then the store is still open, and closing it can be tried again.
        """
        if self._closed:
            return
        if self._behind is not None:
            await self._behind.drain()
        self._closed = True
        with anyio.CancelScope(shield=True):
            try:
                await self._front.close()
            finally:
                await self._back.close()

    def close_now(self) -> None:
        """Close both, where they know it; what was kept back is lost."""
        self._front.close_now()
        close_now(self._back)


class TieredBackend:
    """Config: ``frontend-config``, ``backend-config``, ``write-policy``, ``read-policy``."""

    keys: frozenset[str] = frozenset(
        {"frontend-config", "backend-config", "write-policy", "read-policy", "write-behind-bytes"}
    )
    public = keys
    compressor = "zstd"

    def _parts(self, config: Mapping[str, Any]) -> tuple[Nested, Nested, str, int]:
        policy = text(config, "write-policy", "write-through", _POLICIES)
        text(config, "read-policy", "frontend-first", ("frontend-first",))
        if policy == "write-behind" and config.get("id") is None:
            raise StoreConfigError(
                'A tiered store that writes behind needs an "id", by which its handles share what '
                "waits.",
                error=":missing-id",
            )
        limit = config.get("write-behind-bytes", _BEHIND_BYTES)
        if type(limit) is not int or limit < 0:
            raise StoreConfigError(
                f'"write-behind-bytes" is a number of bytes, not {limit!r}.',
                key="write-behind-bytes",
            )
        front, back = nested(config, "frontend-config"), nested(config, "backend-config")
        return front, back, policy, limit

    async def create(self, config: Mapping[str, Any]) -> BlobStore:
        """Make the backend, and a frontend that is empty.

        Raises StoreConfigError where the frontend is a store of its own: it would be emptied.
        """
        front, back, policy, limit = self._parts(config)
        await refuse_same(front, back)
        await check_frontend(front)
        blobs = await back.create()
        try:
            # What is left of a frontend may be of another store.
            await remove_frontend(front)
            made = TieredBlobStore(await open_frontend(front), blobs, policy, limit)
        except BaseException:
            # The backend stays: others may have found it by now, and be using it.
            await surely(blobs.close)
            raise
        return await self._handed_out(made, config, new=True)

    async def connect(self, config: Mapping[str, Any]) -> BlobStore:
        """Open the backend, and the frontend; it is made where it is missing."""
        front, back, _, _ = self._parts(config)
        await refuse_same(front, back)
        return await self._around(await back.connect(), config)

    async def attach(self, config: Mapping[str, Any]) -> BlobStore:
        """Open both; whether the backend exists may show later."""
        front, back, _, _ = self._parts(config)
        await refuse_same(front, back)
        return await self._around(await back.attach(), config)

    async def _around(self, blobs: BlobStore, config: Mapping[str, Any]) -> BlobStore:
        front, _, policy, limit = self._parts(config)
        try:
            frontend = await open_frontend(front)
        except BaseException:
            await surely(blobs.close)
            raise
        made = TieredBlobStore(frontend, blobs, policy, limit)
        return await self._handed_out(made, config, new=False)

    async def _handed_out(
        self, made: TieredBlobStore, config: Mapping[str, Any], *, new: bool
    ) -> BlobStore:
        if not made.keeps_back:
            return made
        try:
            key = await self._key(config)
        except BaseException:
            await surely(made.close)
            raise
        return await share(key, made, new=new)

    async def _key(self, config: Mapping[str, Any]) -> Hashable:
        """Return what handles that share what waits have in common: a copy has another place."""
        return config["id"], await self.place(config)

    async def place(self, config: Mapping[str, Any]) -> Hashable:
        """Return where the backend lies: it is the truth."""
        return await self._parts(config)[1].place()

    async def exists(self, config: Mapping[str, Any]) -> bool:
        """Say whether the backend is there."""
        return await self._parts(config)[1].exists()

    async def delete(self, config: Mapping[str, Any]) -> None:
        """Remove backend and frontend."""
        front, back, policy, _ = self._parts(config)
        if policy == "write-behind":
            open_ = forget(await self._key(config))
            if isinstance(open_, TieredBlobStore):
                await open_.abandon()
        await back.delete()
        await remove_frontend(front)
