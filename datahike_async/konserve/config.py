"""Store configurations: plain dicts with string keys, checked."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final
from uuid import UUID

from datahike_async.konserve.compressors import compressor_id
from datahike_async.konserve.errors import StoreConfigError, shown
from datahike_async.konserve.registry import Backend, backend

__all__ = ["checked"]

_COMMON: Final = frozenset({"backend", "id", "compressor", "max-unfolded-bytes", "read-only"})


def _plain(key: Any) -> str:
    return _text(key, "A key").replace("_", "-")


def _text(name: Any, what: str) -> str:
    text = getattr(name, "text", name)
    if not isinstance(text, str):
        raise StoreConfigError(
            f"{what} of a store configuration is a string or a keyword, not {shown(name)}."
        )
    return text.removeprefix(":")


def checked(config: Mapping[Any, Any]) -> tuple[dict[str, Any], Backend]:
    """Return a configuration with plain keys, and its backend.

    Raises StoreConfigError naming the nearest key, the missing one, or the bad value;
    UnknownBackend.
    """
    if not isinstance(config, Mapping):
        raise StoreConfigError(
            f"A store configuration is a map, and not of the type {type(config).__name__}."
        )
    plain = {_plain(k): v for k, v in config.items()}
    if "backend" not in plain:
        raise StoreConfigError('A store configuration needs a "backend", such as "file".')
    plain["backend"] = _text(plain["backend"], "The backend")
    made = backend(plain["backend"])
    known = _COMMON | made.keys
    for key in plain:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}."
            raise StoreConfigError(
                f"Unknown key {key!r} in the configuration of the {plain['backend']} store; {hint}",
                key=key,
            )
    plain["id"] = _id(plain.get("id"))
    if plain["id"] is None:
        del plain["id"]
    if "compressor" in plain:
        compressor_id(plain["compressor"])
    most = plain.get("max-unfolded-bytes", 0)
    if type(most) is not int or most < 0:
        raise StoreConfigError(
            f'"max-unfolded-bytes" is a number of bytes, at least 0, not {shown(most)}.',
            key="max-unfolded-bytes",
        )
    if type(plain.get("read-only", False)) is not bool:
        raise StoreConfigError(
            f'"read-only" is true or false, not {shown(plain["read-only"])}.', key="read-only"
        )
    return plain, made


def _id(value: Any) -> UUID | None:
    if value is None or isinstance(value, UUID):
        return value
    try:
        return UUID(value if isinstance(value, str) else "")
    except ValueError:
        raise StoreConfigError(
            f"The id of a store is a UUID, not {shown(value)}.", error=":invalid-id-type"
        ) from None
