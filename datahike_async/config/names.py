"""Names of options in all their spellings, and errors that name them but give no secrets away."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from datahike_async.edn import Keyword, Symbol
from datahike_async.errors import ConfigError, shown
from datahike_async.konserve.redaction import public

# Option → attribute. The text of the option is Datahike's, without colon and question mark.
FIELDS: Final = {
    "store": "store",
    "initial-tx": "initial_tx",
    "keep-history": "keep_history",
    "schema-flexibility": "schema_flexibility",
    "attribute-refs": "attribute_refs",
    "index": "index",
    "index-config": "index_config",
    "branch": "branch",
    "name": "name",
    "store-cache-size": "store_cache_size",
    "search-cache-size": "search_cache_size",
    "memory-limit": "memory_limit",
    "slow-query-ms": "slow_query_ms",
    "crypto-hash": "crypto_hash",
    "commit-graph": "commit_graph",
    "fuse-index-roots": "fuse_index_roots",
    "writer": "writer",
    "remote-peer": "remote_peer",
    "online-gc": "online_gc",
    "allow-index-backfill": "allow_index_backfill",
    "allow-unsafe-config": "allow_unsafe_config",
    "value-caps": "value_caps",
    "read-only": "read_only",
    "gc": "gc",
}

STORED: Final = (
    "keep-history",
    "schema-flexibility",
    "attribute-refs",
    "index",
    "index-config",
    "crypto-hash",
    "commit-graph",
    "fuse-index-roots",
)
"""Fixed when a database is created: kept with it, adopted and compared when it is opened."""

QUESTION: Final = frozenset(
    {
        "keep-history",
        "attribute-refs",
        "crypto-hash",
        "commit-graph",
        "fuse-index-roots",
        "allow-index-backfill",
        "read-only",
    }
)

_MAY_HOLD_SECRETS: Final = frozenset({"store", "remote-peer"})
"""Of what these are given only that is shown which the backend of a store names."""

MOST_LEVELS: Final = 16
"""So deep may the maps of a config be nested."""


def text_of(key: Any) -> str:
    """Return the text of a keyword, symbol or string key, without its colon."""
    if isinstance(key, (Keyword, Symbol)):
        return key.text
    if not isinstance(key, str):
        raise ConfigError(f"A config key is a keyword or a string, not {shown(key)}.")
    return key.removeprefix(":")


def name_of(key: Any) -> str:
    """Return the name of an option in any spelling: ``:keep-history?``, ``keep_history``."""
    return text_of(key).removesuffix("?").replace("_", "-")


def option(key: str) -> str:
    """Return an option as Datahike spells it."""
    return ":" + key + ("?" if key in QUESTION else "")


def named(options: Mapping[Any, Any]) -> dict[str, Any]:
    """Return options by name; raise ConfigError on an unknown or repeated one."""
    out: dict[str, Any] = {}
    for key, value in options.items():
        name = name_of(key)
        if name not in FIELDS:
            raise unknown_key("Config", key, [option(k) for k in FIELDS])
        if name in out:
            raise ConfigError(f"The config has {option(name)} twice.", key=option(name))
        out[name] = value
    return out


def unknown_key(what: str, key: Any, known: list[str], **data: Any) -> ConfigError:
    """Return the error for an unknown key; it names the nearest of ``known``."""
    near = get_close_matches(":" + name_of(key), known, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(known)
    return ConfigError(f"{what} has no key {shown(key)}; {hint}", key=str(key), **data)


def bad_value(key: str, value: Any, expected: str, **data: Any) -> ConfigError:
    """Return the error for a value of an option that is not what was ``expected``."""
    if key in _MAY_HOLD_SECRETS:
        value = public(value) if isinstance(value, Mapping) else kind_of(value)
    text = value if key in _MAY_HOLD_SECRETS and isinstance(value, str) else shown(value)
    return ConfigError(
        f"Bad value {text} at {option(key)}: expected {expected}.",
        key=option(key),
        value=value,
        **data,
    )


def kind_of(value: Any) -> str:
    """Return what a value is, for an error that may not show it."""
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "aeiou" else f"a {name}"


def keyword_in(key: str, value: Any, *choices: str) -> str:
    """Return the text of a keyword that must be one of ``choices``."""
    text = text_of(value) if isinstance(value, (Keyword, str)) else None
    if text not in choices:
        raise bad_value(key, value, "one of " + ", ".join(":" + c for c in choices))
    return text


def as_bool(key: str, value: Any) -> bool:
    """Return a value that must be a bool."""
    if type(value) is not bool:
        raise bad_value(key, value, "true or false")
    return value


def as_count(key: str, value: Any, least: int = 0) -> int:
    """Return a value that must be an int of at least ``least``."""
    if type(value) is not int or value < least:
        raise bad_value(key, value, f"an int of at least {least}")
    return value


def refused(key: str, why: str) -> ConfigError:
    """Return the error for an option that is known and not supported."""
    return ConfigError(f"{option(key)} is not supported yet: {why}", key=option(key))
