"""Config: the checked configuration of a database."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from datahike_async.config.checking import checked
from datahike_async.config.collecting import GcConfig
from datahike_async.config.names import (
    FIELDS,
    STORED,
    kind_of,
    name_of,
    named,
    option,
    refused,
)
from datahike_async.config.reading import environment, from_text
from datahike_async.config.writer import WriterConfig
from datahike_async.edn import Keyword, write
from datahike_async.errors import ConfigError, shown
from datahike_async.konserve.redaction import public

_PERSISTENT_SET: Final = "datahike.index/persistent-set"


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
    memory_limit: int | None = None
    slow_query_ms: int = 1000
    crypto_hash: bool = False
    commit_graph: bool = True
    fuse_index_roots: bool = False
    writer: WriterConfig = field(default_factory=WriterConfig)
    remote_peer: Any = None
    online_gc: Any = None
    allow_index_backfill: bool = False
    allow_unsafe_config: bool = False
    value_caps: Any = None
    read_only: bool = False
    gc: GcConfig | None = None
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
            given = {k: getattr(config, FIELDS[k]) for k in config.given}
            return _made({**given, **named(options)})
        if isinstance(config, str):
            config = from_text(config)
        if config is None:
            return _made({**environment(os.environ), **named(options)})
        if not isinstance(config, Mapping):
            raise ConfigError(
                f"A config is a dict, keyword arguments or EDN text, not {kind_of(config)}. "
                'A database in a folder is {"store": {"backend": "file", "path": …}}.'
            )
        return _made({**named(config), **named(options)})

    def stored(self) -> dict[str, Any]:
        """Return the options that are fixed at creation, by their Datahike name."""
        out = {key: getattr(self, FIELDS[key]) for key in STORED}
        out["index-config"] = dict(self.index_config)
        out["name"] = self.name
        return out

    def adopting(self, stored: Mapping[str, Any]) -> Config:
        """Return this config with what the database was created with.

        Raises ConfigError ``:config-does-not-match-stored-db`` where an option that was given
        differs, unless ``:allow-unsafe-config`` is set.
        """
        merged: dict[str, Any] = {}
        for key in (*STORED, "name"):
            if key not in stored:
                continue
            mine, theirs = getattr(self, FIELDS[key]), stored[key]
            given = key in self.given and key != "name"
            if given and not self.allow_unsafe_config and not _agrees(key, mine, theirs):
                raise _mismatch(key, mine, theirs)
            if key != "name" or "name" not in self.given:
                merged[FIELDS[key]] = theirs
        return _replace(self, merged)

    def opening(self) -> dict[str, Any]:
        """Return the store's configuration as it is to be opened."""
        return {**self.store, "read-only": True} if self.read_only else dict(self.store)

    def in_store(self, store: Mapping[str, Any]) -> Config:
        """Return this config with another ``store``."""
        return _replace(self, {"store": dict(store)})

    def check_same(self, other: Config, keys: Collection[str] = FIELDS) -> None:
        """Raise ConfigError where this config contradicts the one of open connections.

        Only in some options, where ``keys`` says which.
        """
        for key in sorted((self.given & set(keys)) - {"store", "initial-tx", "name"}):
            mine, theirs = getattr(self, FIELDS[key]), getattr(other, FIELDS[key])
            if not _agrees(key, mine, theirs):
                raise ConfigError(
                    f"Configuration does not match existing connections: {option(key)} is "
                    f"{shown(mine)} here and {shown(theirs)} there. Release them first, or leave "
                    "the option out.",
                    error=":config-does-not-match-existing-connections",
                    key=option(key),
                    value=mine,
                    existing=theirs,
                )

    def on_branch(self, name: str) -> Config:
        """Return the config of another branch of the same database."""
        return _replace(self, {"branch": name})

    def to_map(self) -> dict[Keyword, Any]:
        """Return the completed config as a dict of Datahike's keywords, secrets hidden."""
        out: dict[Keyword, Any] = {}
        for key, name in FIELDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            if key == "store":
                value = {Keyword(k): v for k, v in public(value).items()}
            elif key == "writer":
                value = {Keyword("backend"): Keyword(value.backend)}
            elif key == "gc":
                value = {Keyword("every"): value.every}
            elif key in ("schema-flexibility", "branch", "index"):
                value = Keyword(value)
            elif key == "index-config":
                value = {Keyword(k): v for k, v in value.items()}
            out[Keyword(option(key))] = value
        return out

    def __repr__(self) -> str:
        seen = {
            key: public(self.store) if key == "store" else getattr(self, FIELDS[key])
            for key in ("store", *sorted(self.given - {"store"}))
        }
        return "Config(" + ", ".join(f"{FIELDS[k]}={v!r}" for k, v in seen.items()) + ")"


def _made(options: Mapping[str, Any]) -> Config:
    made = Config(**checked(options))
    _check_supported(made)
    return made


def config_of(config: Any = None, **options: Any) -> Config:
    """Return a checked Config; see :meth:`Config.of`."""
    return Config.of(config, **options)


def _check_supported(config: Config) -> None:
    if config.attribute_refs:
        if config.schema_flexibility == "read":
            raise ConfigError(
                ":attribute-refs? true needs :schema-flexibility :write.", key=":attribute-refs?"
            )
        raise refused("attribute-refs", "attributes are kept as ids anyway; leave it out.")
    if not config.commit_graph:
        raise refused("commit-graph", "commits are always recorded, at no extra request.")
    if config.fuse_index_roots:
        raise refused("fuse-index-roots", "recent transactions lie in the head already.")
    if config.remote_peer is not None:
        raise refused("remote-peer", "connect to the store itself.")
    gc = config.online_gc
    if isinstance(gc, Mapping) and any(name_of(k) == "enabled" and v for k, v in gc.items()):
        raise refused("online-gc", "use :gc, such as {:every 60}, which collects beside writers.")
    if config.value_caps is not None and not (
        isinstance(config.value_caps, Mapping) and not config.value_caps
    ):
        raise refused("value-caps", "use :db/maxLength on the attributes.")


def _agrees(key: str, mine: Any, theirs: Any) -> bool:
    if key == "index-config":
        return all(theirs.get(k) == v for k, v in mine.items())
    return bool(mine == theirs)


def _mismatch(key: str, mine: Any, theirs: Any) -> ConfigError:
    error = ":config-does-not-match-stored-db"
    if key in ("index-config", "fuse-index-roots", "commit-graph"):
        error = ":create-time-fixed-index-config-mismatch"
    return ConfigError(
        f"Configuration does not match stored configuration: {option(key)} is {shown(mine)} here, "
        f"the database was created with {shown(theirs)}. Leave the option out to take the "
        "database's own.",
        error=error,
        key=option(key),
        value=mine,
        stored=theirs,
    )


def _replace(config: Config, changes: Mapping[str, Any]) -> Config:
    values = {name: getattr(config, name) for name in FIELDS.values()}
    return Config(**{**values, **changes}, given=config.given)


def edn(config: Config) -> str:
    """Return the completed config as EDN text, secrets hidden."""
    return write(config.to_map())
