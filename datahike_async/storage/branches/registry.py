"""The registry: which branches a store has. Changed by compare-and-set, and seldom.

A branch is there once it is listed here; its head comes before that, and goes after.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from datahike_async.errors import CorruptData, UnsupportedFormat
from datahike_async.index.codec import pack, unpack
from datahike_async.konserve.blob import ABSENT, Expected
from datahike_async.konserve.errors import OutcomeUnknown, RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.storage.keys import BRANCHES
from datahike_async.storage.log.checkpoint import FORMAT, check_format

__all__ = ["Listed", "Registry", "change_registry", "first_registry", "read_registry"]

_MAGIC: Final = "datahike-async/branches"
_ATTEMPTS: Final = 20


class Listed(NamedTuple):
    """A branch: when it was made, of which commit (None: not known), by which publication."""

    created: datetime
    commit: UUID | None
    publication: UUID


@dataclass(frozen=True, slots=True)
class Registry:
    """The branches of a store by name. ``main`` is the first one, which is never deleted.

    ``extra`` is what a newer version put there: it is carried on.
    """

    main: str
    branches: Mapping[str, Listed]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def with_branch(self, name: str, listed: Listed) -> Registry:
        """Return the registry with one branch more."""
        return replace(self, branches={**self.branches, name: listed})

    def without(self, name: str) -> Registry:
        """Return the registry without a branch."""
        return replace(self, branches={n: b for n, b in self.branches.items() if n != name})


_NAMES: Final = frozenset({"main", "branches"})


def _encoded(registry: Registry) -> bytes:
    fields = {
        **registry.extra,
        "main": registry.main,
        "branches": {name: list(listed) for name, listed in registry.branches.items()},
    }
    return pack([_MAGIC, FORMAT, fields])


def _decoded(data: Any) -> Registry:
    try:
        magic, version, fields = unpack(data)
        if magic != _MAGIC:
            raise ValueError("it begins otherwise")
        check_format(version, BRANCHES)
        return Registry(
            fields["main"],
            {name: Listed(*listed) for name, listed in fields["branches"].items()},
            {name: value for name, value in fields.items() if name not in _NAMES},
        )
    except UnsupportedFormat:
        raise
    except Exception as error:
        raise CorruptData(
            f"{BRANCHES} holds no registry of branches: {error!r}. Restore it from a backup.",
            place=BRANCHES,
        ) from error


async def read_registry(store: Store) -> Registry:
    """Return the branches as they are now. Raises CorruptData where there is no registry."""
    return (await _read(store))[0]


async def _read(store: Store) -> tuple[Registry, Expected]:
    data, revision = await store.get(BRANCHES, with_revision=True)
    return _decoded(data), revision


async def first_registry(store: Store, main: str, listed: Listed) -> Registry:
    """Write the registry of a store that is to have its first branch; return what is there then."""
    if not store.capabilities.compares and await store.exists(BRANCHES):
        return await read_registry(store)
    made = Registry(main, {main: listed})
    for _ in range(_ATTEMPTS):
        try:
            await _write(store, made, ABSENT)
        except RevisionMismatch:
            return await read_registry(store)
        except OutcomeUnknown as error:
            failed = error  # until it is there, or refused
        else:
            return made
    raise failed


async def change_registry(
    store: Store, change: Callable[[Registry], Awaitable[Registry | None]]
) -> Registry:
    """Change the branches, of whatever they are by then; None from ``change`` leaves them.

    ``change`` may run again where others were faster, or no answer came. What it reads is newer
    than the registry that it is given, and what it returns is written over that one alone.
    """
    for _ in range(_ATTEMPTS):
        now, revision = await _read(store)
        made = await change(now)
        if made is None:
            return now
        try:
            await _write(store, made, revision)
        except (RevisionMismatch, OutcomeUnknown):
            continue
        return made
    raise RevisionMismatch("Others kept changing the branches of this store; nothing was changed.")


async def _write(store: Store, registry: Registry, expected: Expected) -> None:
    await store.assoc(
        BRANCHES,
        _encoded(registry),
        expected_revision=expected if store.capabilities.compares else None,
    )
