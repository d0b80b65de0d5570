"""Opening: stores as a whole are made, opened, found, deleted and closed by their configuration."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from datahike_async.konserve.blob import BlobStore
from datahike_async.konserve.compressors import LIMIT
from datahike_async.konserve.config import checked
from datahike_async.konserve.encryptors import Encryptor
from datahike_async.konserve.errors import BadArgument, StoreConfigError, StoreDenied, shown
from datahike_async.konserve.places import place_of
from datahike_async.konserve.serializers import Serializer
from datahike_async.konserve.store import Store
from datahike_async.konserve.wrappers.readonly import ReadOnlyBlobStore

__all__ = [
    "Store",
    "connect_store",
    "create_store",
    "delete_store",
    "release_store",
    "store_exists",
    "store_place",
]


async def create_store(
    config: Mapping[Any, Any],
    *,
    serializer: Serializer | None = None,
    encryptor: Encryptor | None = None,
) -> Store:
    """Make a store and open it. Raises StoreExists, StoreConfigError, UnknownBackend."""
    plain, made = checked(config)
    if plain.get("read-only"):
        raise StoreConfigError(
            '"read-only" is for a store that is there; leave it out to create one.', key="read-only"
        )
    return _store(await made.create(plain), plain, made, serializer, encryptor)


async def connect_store(
    config: Mapping[Any, Any],
    *,
    serializer: Serializer | None = None,
    encryptor: Encryptor | None = None,
    verify: bool = True,
) -> Store:
    """Open a store that exists. Raises StoreNotFound, StoreConfigError, UnknownBackend.

    Without ``verify`` a backend may put off finding out whether it exists: it saves a request to
    whoever reads something that has to be there.
    """
    plain, made = checked(config)
    attach = None if verify else getattr(made, "attach", None)
    blobs = await (attach or made.connect)(plain)
    if plain.get("read-only"):
        blobs = ReadOnlyBlobStore(blobs, "The store was opened to be read only")
    elif getattr(blobs, "read_only", False):
        blobs = ReadOnlyBlobStore(blobs, "This process may not write where the store lies")
    return _store(blobs, plain, made, serializer, encryptor)


def _store(
    blobs: BlobStore,
    config: Mapping[str, Any],
    made: Any,
    serializer: Serializer | None,
    encryptor: Encryptor | None,
) -> Store:
    compressor = config.get("compressor", made.compressor)
    return Store(
        blobs,
        config,
        compressor=compressor,
        max_unfolded_bytes=config.get("max-unfolded-bytes", LIMIT),
        serializer=serializer,
        encryptor=encryptor,
    )


async def store_exists(config: Mapping[Any, Any]) -> bool:
    """Say whether there is a store at ``config``."""
    plain, made = checked(config)
    return await made.exists(plain)


async def store_place(config: Mapping[Any, Any]) -> Hashable:
    """Return where a store lies, by which it is found again, however its configuration is written.

    A copy of a store lies elsewhere, though it has the same id. Raises StoreConfigError,
    UnknownBackend.
    """
    plain, made = checked(config)
    return await place_of(plain, made)


async def delete_store(config: Mapping[Any, Any]) -> None:
    """Remove a store with all it holds; one that is not there is ignored."""
    plain, made = checked(config)
    if plain.get("read-only"):
        raise StoreDenied("The store is to be read only; nothing was deleted.", read_only=True)
    await made.delete(plain)


async def release_store(store: Store) -> None:
    """Close a store."""
    if not isinstance(store, Store):
        raise BadArgument(f"A store is expected, not {shown(store)}.")
    await store.release()
