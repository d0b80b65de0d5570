"""The registry: which branches and tags a store has. Changed by compare-and-set, and seldom.

A branch is there once it is listed here; its head comes before that, and goes after.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary

from datahike_async.errors import CorruptData, TransactionError, UnsupportedFormat
from datahike_async.index.codec import pack, unpack
from datahike_async.konserve.blob import ABSENT, Expected
from datahike_async.konserve.errors import OutcomeUnknown, RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.snapshot.ids import BLOCKS
from datahike_async.storage.keys import BRANCHES
from datahike_async.storage.log.checkpoint import FORMAT, check_format

__all__ = [
    "Floor",
    "Listed",
    "Registry",
    "Tagged",
    "change_registry",
    "first_registry",
    "known_registry",
    "read_registry",
    "take_block",
    "thin_packs",
]

_MAGIC: Final = "datahike-async/branches"
_ATTEMPTS: Final = 20
_LARGEST: Final = 1 << 20
"""A block of more ids is taken by a transaction alone that needs them."""

_latest: Final[WeakKeyDictionary[Store, tuple[Registry, Expected]]] = WeakKeyDictionary()
"""The registry of each store that is open, as it was read or written last."""


class Listed(NamedTuple):
    """A branch: when it was made, of which commit (None: not known), by which publication."""

    created: datetime
    commit: UUID | None
    publication: UUID


class Tagged(NamedTuple):
    """A tag: when it was made, of which commit, by which publication; under whose key it lies."""

    created: datetime
    commit: UUID
    publication: UUID


class Floor(NamedTuple):
    """The oldest commit that a branch keeps: the last of a checkpoint, and its transaction."""

    checkpoint: UUID
    tx: int
    commit: UUID


@dataclass(frozen=True, slots=True)
class Registry:
    """The branches and tags of a store by name. ``main`` is the first one, which is never deleted.

    ``next_id`` is the first entity id that no branch has in its block. ``epoch`` counts
    collections, and ``floors`` says what the last one has kept of a branch: of one that is not
    named there, all. ``collected`` is when it began, ``thin`` the packs of which little is left, as
    collection ``thin_of`` has found. ``extra`` is what a newer version put there: it is carried on.
    """

    main: str
    branches: Mapping[str, Listed]
    next_id: int = BLOCKS.start
    tags: Mapping[str, Tagged] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 0
    floors: Mapping[str, Floor] = field(default_factory=dict)
    collected: datetime | None = None
    thin: tuple[str, ...] = ()
    thin_of: int = 0

    def with_branch(self, name: str, listed: Listed, floor: Floor | None = None) -> Registry:
        """Return the registry with one branch more, which has a past from a floor on."""
        floors = {n: f for n, f in self.floors.items() if n != name}
        if floor is not None:
            floors[name] = floor
        return replace(self, branches={**self.branches, name: listed}, floors=floors)

    def without(self, name: str) -> Registry:
        """Return the registry without a branch."""
        return replace(
            self,
            branches={n: b for n, b in self.branches.items() if n != name},
            floors={n: f for n, f in self.floors.items() if n != name},
        )

    def block(self, size: int, least: int = 1) -> range:
        """Return a block of ``size`` ids that no branch has, of fewer where there are no more.

        Raises TransactionError where there are not so many as ``least``.
        """
        block = range(self.next_id, min(self.next_id + size, BLOCKS.stop))
        if len(block) < least:
            raise TransactionError(
                f"The branches of this store have used the ids of {len(BLOCKS)} entities; only "
                f"{len(block)} are left, and {least} are needed.",
                error=":entity-id/syntax",
            )
        return block

    def without_block(self, block: range) -> Registry:
        """Return the registry once a block is handed out that it gave."""
        return replace(self, next_id=block.stop)


_COLLECTING: Final = frozenset({"epoch", "floors", "collected", "thin", "thin-of"})
_NAMES: Final = frozenset({"main", "branches", "next-id", "tags"}) | _COLLECTING


def _encoded(registry: Registry) -> bytes:
    fields = {
        **registry.extra,
        "main": registry.main,
        "branches": {name: list(listed) for name, listed in registry.branches.items()},
        "next-id": registry.next_id,
        "tags": {name: list(tag) for name, tag in registry.tags.items()},
    }
    if registry.epoch:
        # Before the first collection there is nothing to say.
        fields["epoch"] = registry.epoch
        fields["floors"] = {name: list(floor) for name, floor in registry.floors.items()}
        fields["collected"] = registry.collected
        fields["thin"] = list(registry.thin)
        fields["thin-of"] = registry.thin_of
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
            fields["next-id"],
            {name: Tagged(*tag) for name, tag in fields["tags"].items()},
            {name: value for name, value in fields.items() if name not in _NAMES},
            epoch=fields.get("epoch", 0),
            floors={name: Floor(*floor) for name, floor in fields.get("floors", {}).items()},
            collected=fields.get("collected"),
            thin=tuple(fields.get("thin", ())),
            thin_of=fields.get("thin-of", 0),
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


def known_registry(store: Store) -> Registry | None:
    """Return the registry as this process has read or written it last, if it has.

    What it lists may be gone by now, and more be there.
    """
    known = _latest.get(store)
    return None if known is None else known[0]


async def thin_packs(store: Store, epoch: int) -> tuple[str, ...]:
    """Return the packs of which the collection of an epoch, or a later one, has left little.

    It says so once it is done: until then, the registry is read each time; then no more.
    """
    known = known_registry(store)
    if known is None or known.thin_of < epoch:
        known = await read_registry(store)
    return known.thin


async def _read(store: Store) -> tuple[Registry, Expected]:
    data, revision = await store.get(BRANCHES, with_revision=True)
    _latest[store] = registry, _ = _decoded(data), revision
    return registry, revision


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
    store: Store,
    change: Callable[[Registry], Awaitable[Registry | None]],
    known: Registry | None = None,
) -> Registry:
    """Change the branches, of whatever they are by then; None from ``change`` leaves them.

    ``change`` may run again where others were faster, or no answer came. What it reads is newer
    than the registry that it is given, and what it returns is written over that one alone. Where
    that is ``known`` it is not read first: the write shows whether it is as it was.
    """
    for _ in range(_ATTEMPTS):
        now, revision = _latest.get(store, (None, None))
        if known is None or now is not known or not store.capabilities.compares:
            now, revision = await _read(store)
        known = None
        made = await change(now)
        if made is None:
            return now
        try:
            await _write(store, made, revision)
        except (RevisionMismatch, OutcomeUnknown):
            continue
        return made
    raise RevisionMismatch("Others kept changing the branches of this store; nothing was changed.")


async def take_block(store: Store, last: range, count: int) -> range:
    """Take a block of entity ids for a branch that has used up its ``last`` one.

    For ``count`` new entities at least, and larger from one to the next, so that a branch takes few
    whatever it grows to. Raises TransactionError where there are none.
    """
    taken = range(0)

    async def change(now: Registry) -> Registry:
        nonlocal taken
        taken = now.block(max(min(2 * len(last), _LARGEST), 2 * count), count)
        return now.without_block(taken)

    await change_registry(store, change)
    return taken


async def _write(store: Store, registry: Registry, expected: Expected) -> None:
    _latest.pop(store, None)
    revision = await store.assoc(
        BRANCHES,
        _encoded(registry),
        expected_revision=expected if store.capabilities.compares else None,
    )
    _latest[store] = registry, revision
