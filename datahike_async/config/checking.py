"""Checks of single options: their type, and whether they are supported."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from datahike_async.config.collecting import gc_config
from datahike_async.config.names import (
    FIELDS,
    MOST_LEVELS,
    QUESTION,
    as_bool,
    as_count,
    bad_value,
    keyword_in,
    text_of,
)
from datahike_async.config.writer import writer_config
from datahike_async.edn import Keyword, Symbol
from datahike_async.errors import ConfigError, shown

LEAST_MEMORY: Final = 1024 * 1024
"""Bytes that ``:memory-limit`` is at least."""


def plain_store(store: Any) -> dict[str, Any]:
    """Return a store config with plain keys, checked as far as every store is alike."""
    if not isinstance(store, Mapping):
        raise bad_value("store", store, 'a dict such as {":backend" ":file", ":path" "/data/db"}')

    def plain(value: Any, levels: int = MOST_LEVELS) -> Any:
        if isinstance(value, Mapping):
            if not levels:
                raise bad_value("store", store, f"maps nested at most {MOST_LEVELS} levels deep")
            return {text_of(k): plain(v, levels - 1) for k, v in value.items()}
        return value.text if isinstance(value, (Keyword, Symbol)) else value

    out = {text_of(key): plain(value) for key, value in store.items()}
    backend = out.get("backend")
    if not isinstance(backend, str) or not backend:
        raise bad_value("store", store, "a :backend, such as :memory or :file")
    backend = out["backend"] = backend.removeprefix(":")
    if backend == "mem":
        warnings.warn("The store backend :mem is called :memory.", DeprecationWarning, stacklevel=6)
        out["backend"] = "memory"
    if backend == "indexeddb":
        raise ConfigError(
            "The :indexeddb backend exists in browsers only; use :memory, :file or another one.",
            error=":async-only-backend",
        )
    id_ = out.get("id")
    if id_ is not None and not isinstance(id_, UUID):
        try:
            out["id"] = UUID(
                (id_ if isinstance(id_, str) else "").removeprefix("#uuid").strip(' "')
            )
        except ValueError:
            raise bad_value(
                "store", store, f"a UUID as :id, not {shown(id_)}", error=":invalid-id-type"
            ) from None
    if out["backend"] == "file" and not _is_path(out.get("path")):
        raise bad_value("store", store, "a :path, a folder of its own for this database")
    return out


def _is_path(path: Any) -> bool:
    if not isinstance(path, (str, os.PathLike)):
        return False
    try:
        return bool(path) and b"\0" not in os.fsencode(path)
    except (TypeError, UnicodeEncodeError):
        return False


def _index_config(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise bad_value("index-config", value, "a dict such as {:branching-factor 512}")
    return {text_of(key): setting for key, setting in value.items()}


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a Config for options by name."""
    out: dict[str, Any] = {}
    for key, value in options.items():
        if key == "store":
            value = plain_store(value)
        elif key in QUESTION or key == "allow-unsafe-config":
            value = as_bool(key, value)
        elif key == "schema-flexibility":
            value = keyword_in(key, value, "write", "read")
        elif key in ("store-cache-size", "search-cache-size", "slow-query-ms"):
            value = as_count(key, value, 1 if key == "store-cache-size" else 0)
        elif key == "memory-limit":
            value = None if value is None else as_count(key, value, LEAST_MEMORY)
        elif key in ("index", "branch"):
            if not isinstance(value, (Keyword, str)):
                raise bad_value(key, value, "a keyword")
            value = text_of(value)
        elif key == "writer":
            value = writer_config(value)
        elif key == "gc":
            value = gc_config(value)
        elif key == "index-config":
            value = _index_config(value)
        elif key == "name" and value is not None and not isinstance(value, str):
            raise bad_value(key, value, "a string")
        out[FIELDS[key]] = value
    out.setdefault("store", {"backend": "memory"})
    out["given"] = frozenset(options)
    return out
