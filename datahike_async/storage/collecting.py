"""Collection of garbage: remove from a store what no branch, no pin and nothing retained names.

In this order, from any process, beside any writers and readers:

    list     the names of all blobs
    fence    the registry, in one compare-and-set: the epoch and what is retained; then read the
             pins; then a compare-and-set of the epoch into each head
    mark     from exactly those heads, back to the floors, and from the pins
    sweep    what was listed before and not marked

What a writer has listed here before the fence it cannot publish after it; what it writes after the
fence was not listed. So nothing has to be known of writers, and no clock decides what lives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final
from uuid import UUID

from anyio import sleep
from anyio.lowlevel import checkpoint as pause

from datahike_async.config.collecting import Retention
from datahike_async.edn.types import Keyword
from datahike_async.env import Env
from datahike_async.errors import (
    CorruptData,
    DatabaseNotFound,
    FencingUnsupported,
    SnapshotExpired,
    StorageError,
)
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.source import Address
from datahike_async.konserve.errors import OutcomeUnknown, RevisionMismatch
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import Store
from datahike_async.konserve.sweep import Found, Names, list_names, look, remove, remove_as_found
from datahike_async.pydantic_hooks import Json, JsonSchema
from datahike_async.storage.branches.branching import list_branch
from datahike_async.storage.branches.fence import Fenced, fence_head
from datahike_async.storage.branches.pins import (
    Pin,
    Watch,
    change_pins,
    pinned_items,
    read_pins,
)
from datahike_async.storage.branches.read import BranchState, read_branch, read_head
from datahike_async.storage.branches.registry import (
    Floor,
    Registry,
    change_registry,
    read_registry,
)
from datahike_async.storage.branches.retained import (
    find_floor,
    floor_of,
    one_before,
    segments_between,
)
from datahike_async.storage.branches.tagging import tagged_head
from datahike_async.storage.keys import (
    BRANCHES,
    CREATING,
    IMMUTABLE,
    PINS,
    PROBES,
    checkpoint_key,
    head_branch,
    head_key,
    pin_key,
    tag_key,
)
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.nodes.layout import Layout, layout_of
from datahike_async.storage.nodes.mark import Marking
from datahike_async.storage.nodes.store import NodeStore

__all__ = ["Collected", "Collection", "KeptBranch"]

_ATTEMPTS: Final = 4
_THIN: Final = 2
_THIN_BYTES: Final = 4 * 1024 * 1024
"""Of packs of which less than half is left, flushes write so much anew at a time."""
_PAUSE: Final = 0.03
_PROBE_SECONDS: Final = 3600.0
_SLICE: Final = 32
"""Blobs that are removed in one step: on files a commit waits for it."""


@dataclass(frozen=True, slots=True)
class KeptBranch(Json):
    """What is kept of a branch: from the commit ``since`` on, whose transaction is ``since_tx``.

    Both are None where all of it is. ``checkpoints`` is how many flushes can be gone back to.
    """

    since: UUID | None
    since_tx: int | None
    checkpoints: int

    json_schema: ClassVar[JsonSchema] = {"type": "object"}

    def as_json(self) -> dict[str, Any]:
        """Return its parts."""
        since = None if self.since is None else str(self.since)
        return {"since": since, "since_tx": self.since_tx, "checkpoints": self.checkpoints}


@dataclass(frozen=True, slots=True)
class Collected(Json):
    """What a collection did, or with ``dry_run`` would do.

    Of ``listed`` blobs so many were ``kept`` and ``freed``, which took ``bytes``; ``unknown`` ones
    are not the database's, and were left alone. ``epoch`` is its number, ``branches`` what is kept
    of each, ``pins`` how many commits readers keep.
    """

    epoch: int
    dry_run: bool
    listed: int
    kept: int
    freed: int
    bytes: int
    unknown: int
    pins: int
    branches: Mapping[Keyword, KeptBranch] = field(default_factory=dict)

    json_schema: ClassVar[JsonSchema] = {"type": "object"}

    def as_json(self) -> dict[str, Any]:
        """Return its parts, by their names."""
        out = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            **out,
            "branches": {str(name): one.as_json() for name, one in self.branches.items()},
        }

    def __repr__(self) -> str:
        return f"<Collected {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        freed = "could be freed" if self.dry_run else "freed"
        lines = [
            f"{self.freed} of {self.listed} blobs {freed}, {self.bytes} bytes; {self.kept} kept"
        ]
        lines += [
            f"branch {name} "
            + ("all of it" if one.since is None else f"from commit {one.since}, {one.since_tx} on")
            for name, one in sorted(self.branches.items())
        ]
        return "\n".join(lines)


class Collection:
    """One run over a store. ``keep`` says what is retained of each branch.

    ``watch`` is what earlier runs of this process have seen of pins.
    """

    def __init__(
        self,
        store: Store,
        source: NodeStore,
        factory: LevelsFactory,
        keep: Retention,
        env: Env,
        watch: Watch,
        *,
        dry_run: bool = False,
    ) -> None:
        self._store = store
        self._source = source
        self._factory = factory
        self._keep = keep
        self._env = env
        self._watch = watch
        self._dry_run = dry_run
        # What branches, tags and pins named just before the epoch began.
        self._before: dict[str, Fenced] = {}
        self._alone: dict[str, Fenced] = {}

    async def run(self) -> Collected:
        """Collect. What fails leaves only garbage behind, which the next run removes.

        Raises StorageError, konserve's errors; FencingUnsupported where the store cannot compare.
        """
        if not self._store.capabilities.compares:
            raise FencingUnsupported(
                "This store cannot compare before it writes, so no writer could be told of a "
                "collection; nothing was collected."
            )
        for attempt in range(_ATTEMPTS):
            names = await list_names(self._store)
            try:
                registry = await self._fenced()
                branches, pins = await self._mark(names, registry)
            except (CorruptData, SnapshotExpired):
                if attempt + 1 == _ATTEMPTS:
                    raise
                # Another collection, which keeps less, may have begun since, or a copy be under
                # way, whose head is there before the registry says from where on it goes.
                await sleep(_PAUSE * 4**attempt)
                continue
            return await self._sweep(names, registry, branches, pins)
        raise AssertionError("the last attempt returns or raises")

    # -- fence ---------------------------------------------------------------------------------

    async def _fenced(self) -> Registry:
        """Begin an epoch, and say what is retained from now on."""
        if self._dry_run:
            return await self._begun(await read_registry(self._store))
        return await change_registry(self._store, self._begun)

    async def _begun(self, registry: Registry) -> Registry:
        now = self._env.now()
        floors: dict[str, Floor] = {}
        self._before, self._alone = {}, {}
        for tagged in registry.tags.values():
            head = await tagged_head(self._store, tagged)
            if head is not None:
                self._alone[tag_key(tagged.publication)] = Fenced(head.base, head.tail, False)
        for id_ in await read_pins(self._store):
            await self._pinned(id_)
        for name in registry.branches:
            floor = registry.floors.get(name)
            state = await self._read(name, registry)
            if state is not None:
                self._before[name] = Fenced(state.head.base, state.head.tail, False)
                floor = floor_of(registry, name, state.head.base)
                floor = await find_floor(self._store, state, floor, self._keep, now)
            if floor is not None:
                floors[name] = floor
        return replace(registry, epoch=registry.epoch + 1, floors=floors, collected=now)

    async def _read(self, name: str, registry: Registry) -> BranchState | None:
        try:
            state = await read_branch(self._store, name, None)
        except DatabaseNotFound:
            return None
        if state is None and name == registry.main:
            raise _without_head(name)
        return state

    # -- mark ----------------------------------------------------------------------------------

    async def _mark(
        self, names: Names, registry: Registry
    ) -> tuple[dict[str, KeptBranch], dict[UUID, Pin]]:
        """Cross out what lives, and return what that is."""
        living = await self._pins()
        names.keep([BRANCHES, CREATING, PINS, *map(head_key, registry.branches)])
        lines = _Lines(self._store, names, self._factory, self._source)
        kept: dict[str, KeptBranch] = {}
        ended: list[str] = []
        fenced_heads: list[Fenced] = []
        for name in registry.branches:
            fenced = await self._fence(name, registry)
            if fenced is None or fenced.deleted:
                ended.append(name)
            else:
                fenced_heads.append(fenced)
            floor = registry.floors.get(name)
            # Whatever somebody may have branched from since the epoch began, and then deleted.
            for at in (self._before.get(name), fenced):
                if at is None:
                    continue
                count = await lines.keep(at.base, at.tail, floor)
                if not at.deleted:
                    since, tx = (None, None) if floor is None else (floor.commit, floor.tx)
                    kept[name] = KeptBranch(since, tx, count)
        for id_ in living:
            if pin_key(id_) not in self._alone:
                await self._pinned(id_)
        for key, at in self._alone.items():
            names.keep([key])
            await lines.keep_alone(at.base, at.tail)
        if not self._dry_run:
            await self._tell_thin([at.base for at in fenced_heads], registry)
            for name in ended:
                await list_branch(self._store, name, self._env)  # its deletion was ended half way
        return kept, living

    async def _fence(self, name: str, registry: Registry) -> Fenced | None:
        if self._dry_run:
            return None
        fenced = await fence_head(self._store, name, registry.epoch, self._env)
        if fenced is None and name == registry.main:
            raise _without_head(name)
        if fenced is None and name in self._before:
            # What is left of a deleted branch was removed, by another collection.
            raise SnapshotExpired(f"Branch :{name} is gone.", error=":snapshot/expired")
        return fenced

    async def _pinned(self, id_: UUID) -> None:
        try:
            base, items = await pinned_items(self._store, id_)
        except CorruptData:
            if id_ in await read_pins(self._store):
                raise
        else:
            self._alone[pin_key(id_)] = Fenced(base, tuple(items), False)

    async def _pins(self) -> dict[UUID, Pin]:
        now, monotonic = self._env.now(), self._env.monotonic()
        pins = await read_pins(self._store)
        living = self._watch.living(pins, now, monotonic)
        lapsed = pins.keys() - living.keys()
        if lapsed and not self._dry_run:
            gone = {id_: pins[id_] for id_ in lapsed}
            # One that was renewed meanwhile is none of them.
            after = await change_pins(
                self._store,
                lambda pins: {id_: pin for id_, pin in pins.items() if gone.get(id_) != pin},
            )
            living = {id_: pin for id_, pin in after.items() if id_ in pins}
        return living

    async def _tell_thin(self, bases: Sequence[Checkpoint], registry: Registry) -> None:
        """Say in the registry of which packs little is left, so that flushes write that anew."""
        if layout_of(self._store.capabilities) is not Layout.PACKS:
            return
        left: Counter[str] = Counter()
        marking = Marking(self._source, self._factory.below, lambda _: None)
        for base in bases:
            roots = base.trees["roots"].values()
            tops = [top.child.address for root in roots for top in self._factory.tops(root)]
            await marking.mark(tops, left)
        by_name = {name_of_key(pack): pack for pack in left}
        thin: list[str] = []
        size = 0
        for found in sorted(await look(self._store, list(by_name)), key=lambda x: left[x.key]):
            size += left[found.key]
            if left[found.key] * _THIN < found.size and size <= _THIN_BYTES:
                thin.append(found.key)

        async def change(now: Registry) -> Registry | None:
            said = replace(now, thin=tuple(thin), thin_of=registry.epoch)
            return None if now.epoch != registry.epoch or now == said else said

        await change_registry(self._store, change)

    # -- sweep ---------------------------------------------------------------------------------

    async def _sweep(
        self,
        names: Names,
        registry: Registry,
        branches: Mapping[str, KeptBranch],
        pins: Mapping[UUID, Pin],
    ) -> Collected:
        kept, freed, size, unknown = names.listed - len(names), 0, 0, 0
        for some in names.slices(_SLICE):
            found = await look(self._store, some)
            doomed = [one for one in found if _is(one.key, IMMUTABLE)]
            others = [one for one in found if not _is(one.key, IMMUTABLE)]
            unknown += len(some) - len(found)
            if not self._dry_run:
                await self._remove([one.name for one in doomed])
            for one in others:
                gone = await self._remove_if_dead(one, registry)
                if gone:
                    doomed.append(one)
                else:
                    unknown += gone is None
            freed += len(doomed)
            size += sum(one.size for one in doomed)
            await pause()
        return Collected(
            registry.epoch,
            self._dry_run,
            names.listed,
            kept,
            freed,
            size,
            unknown,
            len(pins),
            {Keyword(name): kept for name, kept in branches.items()},
        )

    async def _remove(self, names: list[str]) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                await remove(self._store, names)
                return
            except OutcomeUnknown:
                if attempt == _ATTEMPTS - 1:
                    raise

    async def _remove_if_dead(self, found: Found, registry: Registry) -> bool | None:
        """Remove what is not told by its name alone: say whether; None where it is not ours."""
        if _is(found.key, (PROBES,)):
            # Somebody may be trying out the store at this moment: what is gone then looks wrong.
            age = self._env.now().timestamp() - found.written / 1000
            if age < _PROBE_SECONDS:
                return False
            return self._dry_run or await remove_as_found(self._store, found)
        name = head_branch(found.key) if isinstance(found.key, str) else None
        if name is None:
            return None
        head, revision = await read_head(self._store, name)
        # Of an older epoch and not listed: nobody can list it any more. What is left of a branch
        # that was made in this one is for the next collection: it may be listed by now.
        if head is None or head.epoch >= registry.epoch:
            return False
        if self._dry_run:
            return True
        try:
            return await self._store.dissoc(found.key, expected_revision=revision)
        except (RevisionMismatch, OutcomeUnknown):
            return False


def _without_head(name: str) -> StorageError:
    return StorageError(
        f"The head of the main branch :{name} is not in the store; nothing is collected.",
        error=":branch-head-does-not-exist-in-store",
        branch=name,
    )


class _Lines:
    """Crosses out what lines of checkpoints need; what several share is gone through once."""

    def __init__(
        self, store: Store, names: Names, factory: LevelsFactory, source: NodeStore
    ) -> None:
        self._store = store
        self._names = names
        self._factory = factory
        self._marking = Marking(source, factory.below, names.keep)
        self._trees: set[UUID] = set()
        self._logs: set[UUID] = set()

    async def keep(
        self, base: Checkpoint, tail: Iterable[bytes | Address], floor: Floor | None
    ) -> int:
        """Keep a branch from its floor on; return how many checkpoints that are."""
        count = 0
        await self.keep_alone(base, tail)
        at: Checkpoint | None = base
        while at is not None:
            count += 1
            self._names.keep([checkpoint_key(at.id)])
            await self._keep_trees(at)
            before = await one_before(self._store, at, floor)
            if before is not None and at.id not in self._logs:
                self._logs.add(at.id)
                for address, parts in await segments_between(self._store, at, before):
                    self._names.keep([address.blob])
                    self._keep_items(parts.items)
            at = before
            await pause()
        return count

    async def keep_alone(self, base: Checkpoint, tail: Iterable[bytes | Address]) -> None:
        """Keep a checkpoint, its trees and the records on top of it, and nothing before."""
        self._names.keep([checkpoint_key(base.id)])
        await self._keep_trees(base)
        self._keep_items(tail)

    def _keep_items(self, items: Iterable[bytes | Address]) -> None:
        """Keep the segments among records; those hold records alone."""
        self._names.keep(item.blob for item in items if isinstance(item, Address))

    async def _keep_trees(self, base: Checkpoint) -> None:
        if base.id in self._trees:
            return
        self._trees.add(base.id)
        roots = base.trees["roots"].values()
        tops = [top.child.address for root in roots for top in self._factory.tops(root)]
        await self._marking.mark(tops)


def _is(key: Any, prefixes: tuple[str, ...]) -> bool:
    return isinstance(key, str) and key.startswith(prefixes)
