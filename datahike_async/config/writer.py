"""The ``:writer`` option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from datahike_async.config.names import (
    as_bool,
    as_count,
    bad_value,
    keyword_in,
    name_of,
    refused,
    text_of,
    unknown_key,
)
from datahike_async.edn import Keyword
from datahike_async.errors import ConfigError

_WRITER_KEYS: Final = {
    "backend": "backend",
    "streaming": "streaming",
    "transaction-queue-size": "transaction_queue_size",
    "commit-queue-size": "commit_queue_size",
    "commit-wait-time": "commit_wait_time",
    "head-conflict-retries": "head_conflict_retries",
    "writer-ownership": "writer_ownership",
    "require-fencing": "require_fencing",
    "unsafe-unfenced": "unsafe_unfenced",
}


@dataclass(frozen=True, slots=True)
class WriterConfig:
    """How transactions are taken in and published.

    ``transaction_queue_size`` bounds how many may wait; ``commit_wait_time`` (ms) is how long a
    commit waits for company; ``head_conflict_retries`` how often a lost race with another process
    is run again; ``writer_ownership`` ``"shared"`` runs again, ``"exclusive"`` closes instead;
    ``require_fencing`` writes only where the store's conditional writes keep their word, and
    ``unsafe_unfenced`` writes anywhere, for whoever is sure to be the only writer.
    """

    backend: str = "self"
    streaming: bool = True
    transaction_queue_size: int = 120_000
    commit_queue_size: int = 120_000
    commit_wait_time: float = 0
    head_conflict_retries: int = 100
    writer_ownership: str = "shared"
    require_fencing: bool = True
    unsafe_unfenced: bool = False

    @property
    def trusting(self) -> bool:
        """Whether conditional writes are not tried out."""
        return self.unsafe_unfenced or not self.require_fencing


def writer_config(value: Any) -> WriterConfig:
    """Return the checked ``:writer`` option."""
    if isinstance(value, WriterConfig):
        return value
    if not isinstance(value, Mapping):
        raise bad_value("writer", type(value), "a dict such as {:backend :self}")
    given: dict[str, Any] = {}
    for key, setting in value.items():
        name = name_of(key)
        if name not in _WRITER_KEYS:
            backend = value.get(":backend", value.get("backend", value.get(Keyword("backend"))))
            if backend is not None and text_of(backend) != "self":
                raise refused("writer", f"the writer {backend} needs a server; use :self.")
            raise unknown_key(
                "The :self writer",
                key,
                [":" + k for k in _WRITER_KEYS],
                error=":unknown-self-writer-config-keys",
            )
        given[_WRITER_KEYS[name]] = setting
    backend = text_of(given.pop("backend", "self"))
    if backend != "self":
        raise refused("writer", f"the writer :{backend} needs a server; use :self.")
    if given.get("streaming", True) is not True:
        raise ConfigError(
            ":streaming? of the :self writer must be true: several processes may share a store "
            "without it, since every commit compares the head before it replaces it.",
            error=":invalid-streaming-flag",
        )
    for key in ("transaction_queue_size", "commit_queue_size"):
        if key in given:
            as_count("writer", given[key], 1)
    if "head_conflict_retries" in given:
        as_count("writer", given["head_conflict_retries"])
    wait = given.get("commit_wait_time", 0)
    if type(wait) not in (int, float) or wait < 0:
        raise bad_value("writer", wait, "milliseconds of at least 0 as :commit-wait-time")
    for key in ("unsafe_unfenced", "require_fencing"):
        if key in given:
            as_bool("writer", given[key])
    if "writer_ownership" in given:
        given["writer_ownership"] = keyword_in(
            "writer", given["writer_ownership"], "shared", "exclusive"
        )
    return WriterConfig(**given)
