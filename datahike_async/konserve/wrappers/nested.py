"""Configurations within configurations, and what wrappers share in opening them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from datahike_async.konserve.blob import BlobStore
from datahike_async.konserve.config import checked
from datahike_async.konserve.errors import StoreConfigError
from datahike_async.konserve.places import place_of
from datahike_async.konserve.registry import Backend

__all__ = ["Nested", "WrapperBackend", "nested", "text"]


class Nested(NamedTuple):
    """A store that another one is made of: its configuration and its backend."""

    config: dict[str, Any]
    backend: Backend

    async def create(self) -> BlobStore:
        """Make it."""
        return await self.backend.create(self.config)

    async def connect(self) -> BlobStore:
        """Open it."""
        return await self.backend.connect(self.config)

    async def attach(self) -> BlobStore:
        """Open it, perhaps without finding out whether it exists."""
        attach = getattr(self.backend, "attach", None) or self.backend.connect
        return await attach(self.config)

    async def exists(self) -> bool:
        """Say whether it is there."""
        return await self.backend.exists(self.config)

    async def delete(self) -> None:
        """Remove it."""
        await self.backend.delete(self.config)

    async def place(self) -> Hashable:
        """Return where it lies."""
        return await place_of(self.config, self.backend)


def nested(config: Mapping[str, Any], key: str) -> Nested:
    """Return the store under ``key``; it takes over the id of the whole, and that it is only read.

    But for a frontend: that is a cache, which reading fills.

    Raises StoreConfigError where it is missing or has another id.
    """
    inner = config.get(key)
    if not isinstance(inner, Mapping):
        raise StoreConfigError(
            f'The {config["backend"]} store needs "{key}", the configuration of a store, not '
            f"{type(inner).__name__}.",
            key=key,
        )
    plain, backend = checked(inner)
    outer: UUID | None = config.get("id")
    if outer is not None and plain.setdefault("id", outer) != outer:
        raise StoreConfigError(
            f'The id of "{key}" is {plain["id"]}, that of the {config["backend"]} store {outer}; '
            "they must be the same. Leave the inner one out.",
            error=":store-identity-mismatch",
        )
    if config.get("read-only") and key != "frontend-config":
        plain["read-only"] = True
    return Nested(plain, backend)


def text(config: Mapping[str, Any], key: str, default: str, known: tuple[str, ...]) -> str:
    """Return a setting that is one of a few words. Raises StoreConfigError."""
    value = config.get(key, default)
    found = str(getattr(value, "text", value)).removeprefix(":")
    if found not in known:
        raise StoreConfigError(
            f'"{key}" is one of {", ".join(known)}, not {value!r}.', key=key, value=value
        )
    return found


class WrapperBackend:
    """A backend of stores that wrap one other store, given as ``config``."""

    keys: frozenset[str] = frozenset({"config"})
    public = keys
    compressor = "zstd"

    def wrap(self, blobs: BlobStore, config: Mapping[str, Any]) -> BlobStore:
        """Return the store around ``blobs``."""
        raise NotImplementedError

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise StoreConfigError where a setting is wrong."""

    async def create(self, config: Mapping[str, Any]) -> BlobStore:
        """Make the store behind."""
        self.check(config)
        return self.wrap(await nested(config, "config").create(), config)

    async def connect(self, config: Mapping[str, Any]) -> BlobStore:
        """Open the store behind."""
        self.check(config)
        return self.wrap(await nested(config, "config").connect(), config)

    async def attach(self, config: Mapping[str, Any]) -> BlobStore:
        """Open the store behind; whether it exists may show later."""
        self.check(config)
        return self.wrap(await nested(config, "config").attach(), config)

    async def place(self, config: Mapping[str, Any]) -> Hashable:
        """Return where the store behind lies."""
        return await nested(config, "config").place()

    async def exists(self, config: Mapping[str, Any]) -> bool:
        """Say whether the store behind is there."""
        return await nested(config, "config").exists()

    async def delete(self, config: Mapping[str, Any]) -> None:
        """Remove the store behind."""
        await nested(config, "config").delete()
