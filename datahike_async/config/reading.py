"""Configs from EDN text, from a ``datahike:`` URI and from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datahike_async.config.names import text_of
from datahike_async.edn import read
from datahike_async.errors import ConfigError, EdnError, shown


def from_text(text: str) -> Any:
    """Return the config in EDN text or a ``datahike:`` URI."""
    if text.startswith("datahike:"):
        return _from_uri(text)
    try:
        return read(text)
    except EdnError as error:
        # Its words are not shown: they quote the text, and there may be a secret at that place.
        raise ConfigError(
            f"The config is no EDN: it cannot be read at line {error.line}, column {error.column}."
        ) from None


def _from_uri(uri: str) -> dict[str, Any]:
    from urllib.parse import parse_qs, urlsplit

    parts = urlsplit(uri.removeprefix("datahike:"))
    backend = "memory" if parts.scheme == "mem" else parts.scheme
    store: dict[str, Any] = {"backend": backend}
    query = {k: v[0] for k, v in parse_qs(parts.query).items()}
    if "id" in query:
        store["id"] = query["id"]
    if backend == "file":
        store["path"] = parts.netloc + parts.path
    if backend not in ("memory", "file"):
        raise ConfigError(
            f"The URI form knows mem and file, not {shown(parts.scheme)}; give the config as a "
            "dict."
        )
    return {"store": store}


def environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the options that ``DATAHIKE_…`` variables give, by name."""
    out: dict[str, Any] = {}
    backend = environ.get("DATAHIKE_STORE_BACKEND")
    details = environ.get("DATAHIKE_STORE_CONFIG")
    if backend or details:
        store = from_text(details) if details else {}
        if not isinstance(store, Mapping):
            raise ConfigError("DATAHIKE_STORE_CONFIG is no EDN map.", key="DATAHIKE_STORE_CONFIG")
        named = {"backend": backend.removeprefix(":")} if backend else {}
        out["store"] = {**named, **{text_of(key): value for key, value in store.items()}}
    for key in (
        "schema-flexibility",
        "keep-history",
        "attribute-refs",
        "index",
        "index-config",
        "initial-tx",
        "memory-limit",
        "name",
        "search-cache-size",
        "store-cache-size",
    ):
        text = environ.get("DATAHIKE_" + key.upper().replace("-", "_"))
        if text is None:
            continue
        out[key] = text if key == "name" else from_text(text)
    return out
