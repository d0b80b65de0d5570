"""Config: what a database is opened with, from a dict, keyword arguments or EDN text.

A Datahike config pastes in unchanged. Unknown keys and bad values are refused here; whether the
store and the index exist is found out where they are opened. Knows nothing of either.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final
from uuid import UUID

from datahike_async.edn import Keyword, Symbol, read, write
from datahike_async.errors import ConfigError, EdnError

__all__ = ["Config", "ConfigLike", "WriterConfig", "config_of"]

ConfigLike = "Config | Mapping[Any, Any] | str | None"

_PERSISTENT_SET: Final = "datahike.index/persistent-set"

# Option → attribute. The text of the option is Datahike's, without colon and question mark.
_FIELDS: Final = {
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
    "crypto-hash": "crypto_hash",
    "commit-graph": "commit_graph",
    "fuse-index-roots": "fuse_index_roots",
    "writer": "writer",
    "remote-peer": "remote_peer",
    "online-gc": "online_gc",
    "allow-index-backfill": "allow_index_backfill",
    "allow-unsafe-config": "allow_unsafe_config",
    "value-caps": "value_caps",
}

_STORED: Final = (
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

_QUESTION: Final = frozenset(
    {
        "keep-history",
        "attribute-refs",
        "crypto-hash",
        "commit-graph",
        "fuse-index-roots",
        "allow-index-backfill",
    }
)

_WRITER_KEYS: Final = {
    "backend": "backend",
    "streaming": "streaming",
    "transaction-queue-size": "transaction_queue_size",
    "commit-queue-size": "commit_queue_size",
    "commit-wait-time": "commit_wait_time",
    "head-conflict-retries": "head_conflict_retries",
    "writer-ownership": "writer_ownership",
}

_HARMLESS: Final = frozenset({"backend", "id", "path", "compressor", "region", "bucket", "table"})


@dataclass(frozen=True, slots=True)
class WriterConfig:
    """How transactions are taken in and published.

    ``transaction_queue_size`` bounds how many may wait; ``commit_wait_time`` (ms) is how long a
    commit waits for company; ``head_conflict_retries`` how often a lost race with another process
    is run again; ``writer_ownership`` ``"shared"`` runs again, ``"exclusive"`` closes instead.
    """

    backend: str = "self"
    streaming: bool = True
    transaction_queue_size: int = 120_000
    commit_queue_size: int = 120_000
    commit_wait_time: float = 0
    head_conflict_retries: int = 10
    writer_ownership: str = "shared"


@dataclass(frozen=True, slots=True)
class Config:
    """A checked configuration; see the configuration page of the manual for each option.

    ``given`` names the options that the caller spelled out; the others are defaults, which an
    existing database overrides.
    """

    store: Mapping[str, Any]
    initial_tx: Any = None
    keep_history: bool = True
    schema_flexibility: str = "write"
    attribute_refs: bool = False
    index: str = _PERSISTENT_SET
    index_config: Mapping[str, Any] = field(default_factory=dict)
    branch: str = "db"
    name: str | None = None
    store_cache_size: int = 1000
    search_cache_size: int = 0
    crypto_hash: bool = False
    commit_graph: bool = True
    fuse_index_roots: bool = False
    writer: WriterConfig = field(default_factory=WriterConfig)
    remote_peer: Any = None
    online_gc: Any = None
    allow_index_backfill: bool = False
    allow_unsafe_config: bool = False
    value_caps: Any = None
    given: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: Any = None, **options: Any) -> Config:
        """Return the config of a Config, a dict, EDN text, or keyword arguments.

        Keyword arguments (``keep_history=False``) go over the entries of ``config``. Raises
        ConfigError naming the option and, for an unknown one, the nearest known.
        """
        if isinstance(config, Config):
            if not options:
                return config
            given = {k: getattr(config, _FIELDS[k]) for k in config.given}
            return _checked({**given, **_named(options)})
        if isinstance(config, str):
            config = _from_text(config)
        if config is None:
            return _checked({**_environment(os.environ), **_named(options)})
        if not isinstance(config, Mapping):
            raise ConfigError(
                f"A config is a dict, keyword arguments or EDN text, not {_show(config)}."
            )
        return _checked({**_named(config), **_named(options)})

    def stored(self) -> dict[str, Any]:
        """Return the options that are fixed at creation, by their Datahike name."""
        out = {key: getattr(self, _FIELDS[key]) for key in _STORED}
        out["index-config"] = dict(self.index_config)
        out["name"] = self.name
        return out

    def adopting(self, stored: Mapping[str, Any]) -> Config:
        """Return this config with what the database was created with.

        Raises ConfigError ``:config-does-not-match-stored-db`` where an option that was given
        differs, unless ``:allow-unsafe-config`` is set.
        """
        merged: dict[str, Any] = {}
        for key in (*_STORED, "name"):
            if key not in stored:
                continue
            mine, theirs = getattr(self, _FIELDS[key]), stored[key]
            given = key in self.given and key != "name"
            if given and not self.allow_unsafe_config and not _agrees(key, mine, theirs):
                raise _mismatch(key, mine, theirs)
            if key != "name" or "name" not in self.given:
                merged[_FIELDS[key]] = theirs
        return _replace(self, merged)

    def in_store(self, store: Mapping[str, Any]) -> Config:
        """Return this config with another ``store``."""
        return _replace(self, {"store": dict(store)})

    def check_same(self, other: Config) -> None:
        """Raise ConfigError where this config contradicts the one of open connections."""
        for key in sorted(self.given - {"store", "initial-tx", "name"}):
            mine, theirs = getattr(self, _FIELDS[key]), getattr(other, _FIELDS[key])
            if not _agrees(key, mine, theirs):
                raise ConfigError(
                    f"Configuration does not match existing connections: {_option(key)} is "
                    f"{_show(mine)} here and {_show(theirs)} there. Release them first, or leave "
                    "the option out.",
                    error=":config-does-not-match-existing-connections",
                    key=_option(key),
                    value=mine,
                    existing=theirs,
                )

    def to_map(self) -> dict[Keyword, Any]:
        """Return the completed config as a dict of Datahike's keywords, secrets masked."""
        out: dict[Keyword, Any] = {}
        for key, name in _FIELDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            if key == "store":
                value = {Keyword(k): v for k, v in _masked(value).items()}
            elif key == "writer":
                value = {Keyword("backend"): Keyword(value.backend)}
            elif key in ("schema-flexibility", "branch", "index"):
                value = Keyword(value)
            elif key == "index-config":
                value = {Keyword(k): v for k, v in value.items()}
            out[Keyword(_option(key))] = value
        return out

    def __repr__(self) -> str:
        shown = {
            key: _masked(self.store) if key == "store" else getattr(self, _FIELDS[key])
            for key in ("store", *sorted(self.given - {"store"}))
        }
        return "Config(" + ", ".join(f"{_FIELDS[k]}={v!r}" for k, v in shown.items()) + ")"


def config_of(config: Any = None, **options: Any) -> Config:
    """Return a checked Config; see :meth:`Config.of`."""
    return Config.of(config, **options)


# -- reading -----------------------------------------------------------------------------------


def _text(key: Any) -> str:
    if isinstance(key, (Keyword, Symbol)):
        return key.text
    if not isinstance(key, str):
        raise ConfigError(f"A config key is a keyword or a string, not {key!r}.")
    return key.removeprefix(":")


def _name(key: Any) -> str:
    return _text(key).removesuffix("?").replace("_", "-")


def _option(key: str) -> str:
    return ":" + key + ("?" if key in _QUESTION else "")


def _named(options: Mapping[Any, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in options.items():
        name = _name(key)
        if name not in _FIELDS:
            raise _unknown("Config", key, [_option(k) for k in _FIELDS])
        if name in out:
            raise ConfigError(f"The config has {_option(name)} twice.", key=_option(name))
        out[name] = value
    return out


def _unknown(what: str, key: Any, known: list[str], **data: Any) -> ConfigError:
    near = get_close_matches(":" + _name(key), known, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(known)
    return ConfigError(f"{what} has no key {key!r}; {hint}", key=str(key), **data)


def _bad(key: str, value: Any, expected: str, **data: Any) -> ConfigError:
    if isinstance(value, Mapping):
        value = _masked({str(k): v for k, v in value.items()})
    return ConfigError(
        f"Bad value {value!r} at {_option(key)}: expected {expected}.",
        key=_option(key),
        value=value,
        **data,
    )


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return repr(_masked({str(k): v for k, v in value.items()}))
    return repr(value)


def _masked(store: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in store.items():
        name = _name(key)
        if isinstance(value, Mapping):
            out[key] = _masked(value)
        elif name in _HARMLESS or value is None or isinstance(value, (bool, int, float)):
            out[key] = value
        else:
            out[key] = "***"
    return out


def _from_text(text: str) -> Any:
    if text.startswith("datahike:"):
        return _from_uri(text)
    try:
        return read(text)
    except EdnError as error:
        raise ConfigError(f"The config is no EDN: {error}") from error


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
            f"The URI form knows mem and file, not {parts.scheme!r}; give the config as a dict."
        )
    return {"store": store}


def _environment(environ: Mapping[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    backend = environ.get("DATAHIKE_STORE_BACKEND")
    details = environ.get("DATAHIKE_STORE_CONFIG")
    if backend or details:
        store = _from_text(details) if details else {}
        if not isinstance(store, Mapping):
            raise ConfigError("DATAHIKE_STORE_CONFIG is no EDN map.", key="DATAHIKE_STORE_CONFIG")
        named = {"backend": backend.removeprefix(":")} if backend else {}
        out["store"] = {**named, **{_text(key): value for key, value in store.items()}}
    for key in (
        "schema-flexibility",
        "keep-history",
        "attribute-refs",
        "index",
        "index-config",
        "initial-tx",
        "name",
        "search-cache-size",
        "store-cache-size",
    ):
        text = environ.get("DATAHIKE_" + key.upper().replace("-", "_"))
        if text is None:
            continue
        out[key] = text if key == "name" else _from_text(text)
    return out


# -- checking ----------------------------------------------------------------------------------


def _plain_store(store: Any) -> dict[str, Any]:
    if not isinstance(store, Mapping):
        raise _bad("store", store, 'a dict such as {":backend" ":file", ":path" "/data/db"}')

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {_text(k): plain(v) for k, v in value.items()}
        return value.text if isinstance(value, (Keyword, Symbol)) else value

    out = {_text(key): plain(value) for key, value in store.items()}
    backend = out.get("backend")
    if not isinstance(backend, str) or not backend:
        raise _bad("store", store, "a :backend, such as :memory or :file")
    backend = out["backend"] = backend.removeprefix(":")
    if backend == "mem":
        warnings.warn("The store backend :mem is called :memory.", DeprecationWarning, stacklevel=5)
        out["backend"] = "memory"
    if backend == "indexeddb":
        raise ConfigError(
            "The :indexeddb backend exists in browsers only; use :memory, :file or another one.",
            error=":async-only-backend",
        )
    id_ = out.get("id")
    if id_ is not None and not isinstance(id_, UUID):
        try:
            out["id"] = UUID(str(id_).removeprefix("#uuid").strip(' "'))
        except ValueError:
            raise _bad(
                "store", store, f"a UUID as :id, not {id_!r}", error=":invalid-id-type"
            ) from None
    if out["backend"] == "file" and not isinstance(out.get("path"), (str, os.PathLike)):
        raise _bad("store", store, "a :path, a folder of its own for this database")
    return out


def _keyword_in(key: str, value: Any, *choices: str) -> str:
    text = _text(value) if isinstance(value, (Keyword, str)) else None
    if text not in choices:
        raise _bad(key, value, "one of " + ", ".join(":" + c for c in choices))
    return text


def _bool(key: str, value: Any) -> bool:
    if type(value) is not bool:
        raise _bad(key, value, "true or false")
    return value


def _count(key: str, value: Any, least: int = 0) -> int:
    if type(value) is not int or value < least:
        raise _bad(key, value, f"an int of at least {least}")
    return value


def _refused(key: str, why: str) -> ConfigError:
    return ConfigError(f"{_option(key)} is not supported yet: {why}", key=_option(key))


def _writer(value: Any) -> WriterConfig:
    if isinstance(value, WriterConfig):
        return value
    if not isinstance(value, Mapping):
        raise _bad("writer", value, "a dict such as {:backend :self}")
    given: dict[str, Any] = {}
    for key, setting in value.items():
        name = _name(key)
        if name not in _WRITER_KEYS:
            backend = value.get(":backend", value.get("backend", value.get(Keyword("backend"))))
            if backend is not None and _text(backend) != "self":
                raise _refused("writer", f"the writer {backend} needs a server; use :self.")
            raise _unknown(
                "The :self writer",
                key,
                [":" + k for k in _WRITER_KEYS],
                error=":unknown-self-writer-config-keys",
            )
        given[_WRITER_KEYS[name]] = setting
    backend = _text(given.pop("backend", "self"))
    if backend != "self":
        raise _refused("writer", f"the writer :{backend} needs a server; use :self.")
    if given.get("streaming", True) is not True:
        raise ConfigError(
            ":streaming? of the :self writer must be true: several processes may share a store "
            "without it, since every commit compares the head before it replaces it.",
            error=":invalid-streaming-flag",
        )
    for key in ("transaction_queue_size", "commit_queue_size"):
        if key in given:
            _count("writer", given[key], 1)
    if "head_conflict_retries" in given:
        _count("writer", given["head_conflict_retries"])
    wait = given.get("commit_wait_time", 0)
    if type(wait) not in (int, float) or wait < 0:
        raise _bad("writer", wait, "milliseconds of at least 0 as :commit-wait-time")
    if "writer_ownership" in given:
        given["writer_ownership"] = _keyword_in(
            "writer", given["writer_ownership"], "shared", "exclusive"
        )
    return WriterConfig(**given)


def _index_config(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _bad("index-config", value, "a dict such as {:branching-factor 512}")
    return {_text(key): setting for key, setting in value.items()}


def _checked(options: Mapping[str, Any]) -> Config:
    out: dict[str, Any] = {}
    for key, value in options.items():
        if key == "store":
            value = _plain_store(value)
        elif key in _QUESTION or key == "allow-unsafe-config":
            value = _bool(key, value)
        elif key == "schema-flexibility":
            value = _keyword_in(key, value, "write", "read")
        elif key in ("store-cache-size", "search-cache-size"):
            value = _count(key, value, 1 if key == "store-cache-size" else 0)
        elif key in ("index", "branch"):
            if not isinstance(value, (Keyword, str)):
                raise _bad(key, value, "a keyword")
            value = _text(value)
        elif key == "writer":
            value = _writer(value)
        elif key == "index-config":
            value = _index_config(value)
        elif key == "name" and value is not None and not isinstance(value, str):
            raise _bad(key, value, "a string")
        out[_FIELDS[key]] = value
    out.setdefault("store", {"backend": "memory"})
    made = Config(**out, given=frozenset(options))
    _check_supported(made)
    return made


def _check_supported(config: Config) -> None:
    if config.attribute_refs:
        if config.schema_flexibility == "read":
            raise ConfigError(
                ":attribute-refs? true needs :schema-flexibility :write.", key=":attribute-refs?"
            )
        raise _refused("attribute-refs", "attributes are kept as ids anyway; leave it out.")
    if config.crypto_hash:
        raise _refused("crypto-hash", "commits have random ids; leave it out.")
    if not config.commit_graph:
        raise _refused("commit-graph", "commits are always recorded, at no extra request.")
    if config.fuse_index_roots:
        raise _refused("fuse-index-roots", "recent transactions lie in the head already.")
    if config.remote_peer is not None:
        raise _refused("remote-peer", "connect to the store itself.")
    gc = config.online_gc
    if isinstance(gc, Mapping) and any(_name(k) == "enabled" and v for k, v in gc.items()):
        raise _refused("online-gc", "collect offline.")
    if config.value_caps not in (None, {}):
        raise _refused("value-caps", "use :db/maxLength on the attributes.")


def _agrees(key: str, mine: Any, theirs: Any) -> bool:
    if key == "index-config":
        return all(theirs.get(k) == v for k, v in mine.items())
    return bool(mine == theirs)


def _mismatch(key: str, mine: Any, theirs: Any) -> ConfigError:
    error = ":config-does-not-match-stored-db"
    if key in ("index-config", "fuse-index-roots", "commit-graph"):
        error = ":create-time-fixed-index-config-mismatch"
    return ConfigError(
        f"Configuration does not match stored configuration: {_option(key)} is {_show(mine)} here, "
        f"the database was created with {_show(theirs)}. Leave the option out to take the "
        "database's own.",
        error=error,
        key=_option(key),
        value=mine,
        stored=theirs,
    )


def _replace(config: Config, changes: Mapping[str, Any]) -> Config:
    values = {name: getattr(config, name) for name in _FIELDS.values()}
    return Config(**{**values, **changes}, given=config.given)


def edn(config: Config) -> str:
    """Return the completed config as EDN text, secrets masked."""
    return write(config.to_map())
