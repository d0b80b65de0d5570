"""Makes, finds, opens and removes S3 stores.

A store has a prefix of its own, and the object ``konserve.store`` there says that it is one: its
format and id, or that it is being deleted. Its objects it knows by their names, and removes no
others.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import anyio

from datahike_async.konserve import (
    ABSENT,
    UNCHANGED,
    Blob,
    CorruptValue,
    OutcomeUnknown,
    RevisionMismatch,
    StoreConfigError,
    StoreDenied,
    StoreExists,
    StoreNotFound,
    UnsupportedEncoding,
    UnsupportedOperation,
    in_thread,
)
from datahike_async.konserve.blob import Expected, Revision
from datahike_async_s3.settings import KEYS, PUBLIC, Settings, settings_of

if TYPE_CHECKING:
    from datahike_async_s3.store import S3BlobStore

__all__ = ["S3Backend"]

_FORMAT: Final = 1
_DELETED: Final = b"konserve-s3 deleted "
"""How the marker begins of a store that is being deleted; what follows says by whom."""
_ATTEMPTS: Final = 4


async def _open(settings: Settings) -> S3BlobStore:
    def load() -> Any:
        # The driver takes a fifth of a second to import: not on the event loop.
        from datahike_async_s3 import client, errors, store

        return client, errors, store

    client, errors, store = await in_thread(load)
    with errors.translated(f"opening {settings.place}"):
        made: S3BlobStore = store.S3BlobStore(await client.open_client(settings), settings)
        return made


class S3Backend:
    """Prefixes of buckets as stores; see the README for the keys of the configuration."""

    keys: frozenset[str] = KEYS
    public: frozenset[str] = PUBLIC
    compressor = "zstd"

    async def create(self, config: Mapping[str, Any]) -> S3BlobStore:
        """Make a store. Raises StoreExists; StoreConfigError where the prefix is in use."""
        settings = settings_of(config)
        store = await _open(settings)
        store.identity = config.get("id") or uuid4()
        try:
            await self._create(store, settings, store.identity)
        except BaseException:
            await store.close()
            raise
        return store

    async def _create(self, store: S3BlobStore, settings: Settings, id_: UUID) -> None:
        from datahike_async_s3.store import MARKER

        try:
            found = await store.read_latest(MARKER)
        except StoreNotFound as error:
            if not settings.create_bucket:
                raise StoreNotFound(f"{error} Create it, or set create-bucket to true.") from error
            await _make_bucket(store, settings)
            found = None
        expected: Expected = ABSENT
        try:
            if isinstance(found, Blob):
                if not found.data.startswith(_DELETED):
                    raise RevisionMismatch("there is a store")
                # Whoever deletes it, if he is not dead, stops where the mark is not his own.
                expected = await store.write(MARKER, _mark(), found.revision)
                await _remove_all(store, expected)
            else:
                there, _ = await store.page()
                if there and MARKER not in there:
                    raise StoreConfigError(
                        f"There are other objects at {settings.place}, such as {there[0]!r}; give "
                        "the store a prefix of its own."
                    )
            await _refuse_nested(store, settings)
            made = await store.write(MARKER, f"konserve-s3 {_FORMAT} {id_}\n".encode(), expected)
            try:
                # Again: of two stores, one within the other, one must see the other.
                await _refuse_nested(store, settings)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await _unmark(store, made)
                raise
        except RevisionMismatch:
            raise StoreExists(f"S3 store already exists at {settings.place}.") from None

    async def connect(self, config: Mapping[str, Any]) -> S3BlobStore:
        """Open a store. Raises StoreNotFound; StoreConfigError where it is another store."""
        settings = settings_of(config)
        store = await _open(settings)
        try:
            found = await _id(store)
            if found is None:
                raise StoreNotFound(
                    f"S3 store does not exist at {settings.place}. Create it first."
                )
            _refuse_other(settings, config.get("id"), found)
            store.identity = found
        except BaseException:
            await store.close()
            raise
        return store

    async def attach(self, config: Mapping[str, Any]) -> S3BlobStore:
        """Open a store without a request: whether it exists shows when it is read."""
        return await _open(settings_of(config))

    async def place(self, config: Mapping[str, Any]) -> Hashable:
        """Return the server, the bucket and the prefix."""
        settings = settings_of(config)
        return settings.endpoint, settings.bucket, settings.prefix

    async def exists(self, config: Mapping[str, Any]) -> bool:
        """Say whether there is a store."""
        store = await _open(settings_of(config))
        try:
            return await _id(store) is not None
        except StoreNotFound:
            return False
        finally:
            await store.close()

    async def delete(self, config: Mapping[str, Any]) -> None:
        """Remove all objects of a store; its bucket stays, and what is not the store's."""
        settings = settings_of(config)
        store = await _open(settings)
        try:
            await _delete(store, settings, config.get("id"))
        except StoreNotFound:
            return
        finally:
            await store.close()


def _refuse_other(settings: Settings, wanted: UUID | None, found: UUID) -> None:
    if wanted is not None and wanted != found:
        raise StoreConfigError(
            f"The store at {settings.place} has the id {found}, not {wanted}: it is another store.",
            error=":store-identity-mismatch",
        )


async def _refuse_nested(store: S3BlobStore, settings: Settings) -> None:
    """Raise StoreConfigError where a store lies above or below a prefix."""
    from datahike_async_s3.store import MARKER, is_own

    parts = settings.prefix.strip("/").split("/")
    above = ["/".join(parts[:n]) + "/" for n in range(1, len(parts))]
    for prefix in above:
        try:
            nested = await store.exists_at(prefix + MARKER)
        except StoreDenied:
            # Whoever may look at nothing but a prefix of his own can have a store there.
            continue
        if nested:
            raise StoreConfigError(
                f"{settings.place} lies within the prefix {prefix!r}, where a store is, and stores "
                "do not lie in one another. Give it a prefix of its own."
            )
    there, _ = await store.page()
    other = [name for name in there if not is_own(name)]
    if other:
        raise StoreConfigError(
            f"There are other objects at {settings.place}, such as {other[0]!r}; give the store a "
            "prefix of its own."
        )


async def _id(store: S3BlobStore) -> UUID | None:
    from datahike_async_s3.store import MARKER

    found = await store.read(MARKER)
    return None if found is None else _id_in(store, found)


def _id_in(store: S3BlobStore, marker: Blob) -> UUID | None:
    """Return the id in a marker, or None for that of a store that is being deleted."""
    from datahike_async_s3.store import MARKER

    if marker.data.startswith(_DELETED):
        return None
    words = marker.data.decode("ascii", "replace").split()
    if len(words) != 3 or words[0] != "konserve-s3" or not words[1].isdigit():
        raise CorruptValue(f"The object {MARKER!r} of {store!r} is none of ours.")
    if int(words[1]) > _FORMAT:
        raise UnsupportedEncoding(
            f"{store!r} has format {words[1]}; this version reads up to {_FORMAT}."
        )
    try:
        return UUID(words[2])
    except ValueError as error:
        raise CorruptValue(f"The object {MARKER!r} of {store!r} names no id.") from error


async def _delete(store: S3BlobStore, settings: Settings, wanted: UUID | None) -> None:
    mine = await _condemned(store, settings, wanted)
    if mine is not None and await _remove_all(store, mine):
        await _unmark(store, mine)


async def _condemned(
    store: S3BlobStore, settings: Settings, wanted: UUID | None
) -> Revision | None:
    """Mark a store as one that is being deleted, and return the mark's revision; None without one.

    No store from there on, but known as the rest of one: deleting it can be repeated.
    """
    from datahike_async_s3.store import MARKER

    for attempt in range(_ATTEMPTS):
        found = await store.read_latest(MARKER)
        if not isinstance(found, Blob):
            return None
        there = _id_in(store, found)
        if there is not None:
            _refuse_other(settings, wanted, there)
        try:
            return await store.write(MARKER, _mark(), found.revision)
        except UnsupportedOperation:
            # A server that knows no conditions.
            return await store.write(MARKER, _mark())
        except (RevisionMismatch, OutcomeUnknown):
            # Another store may lie there by now; or the mark is there, and is looked at again.
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _mark() -> bytes:
    return _DELETED + uuid4().hex.encode() + b"\n"


async def _remove_all(store: S3BlobStore, mine: Revision) -> bool:
    """Remove the store's objects but the marker, as long as it is ``mine``; say whether it was."""
    from datahike_async_s3.store import MARKER, is_own

    after = None
    while True:
        page, after = await store.page(after)
        # Somebody else may have taken over, and made a store whose objects were listed just now.
        if await store.read_latest(MARKER, mine) is not UNCHANGED:
            return False
        await store.remove([name for name in page if is_own(name) and name != MARKER])
        if after is None:
            return True


async def _unmark(store: S3BlobStore, mine: Revision) -> None:
    from datahike_async_s3.store import MARKER

    for attempt in range(_ATTEMPTS):
        try:
            await store.delete(MARKER, mine)
            return
        except RevisionMismatch:
            # It is gone, or somebody else's by now.
            return
        except UnsupportedOperation:
            # A server that knows no conditional deletion.
            await store.remove([MARKER])
            return
        except OutcomeUnknown:
            if attempt == _ATTEMPTS - 1:
                raise


async def _make_bucket(store: S3BlobStore, settings: Settings) -> None:
    from datahike_async_s3.errors import translated

    where: dict[str, Any] = {}
    if settings.region not in (None, "us-east-1"):
        where["CreateBucketConfiguration"] = {"LocationConstraint": settings.region}
    with anyio.CancelScope(shield=True), translated(f"creating the bucket {settings.bucket}"):
        await store._ask("create_bucket", **where)
