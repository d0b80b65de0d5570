"""Copying a database from one store into another: backups, restores and moves are all this.

What the heads of the source name is surveyed and what the target lacks of it is written there; the
heads come last, by compare-and-set. So a copy that was ended half way is no database, and the same
copy goes on where it stopped. Where nodes lie in another layout they are written anew
(``moving``), and checkpoints with them; all else goes as it is.

Writers of the source go on. What a collection there removes meanwhile shows as missing, and the
copy starts over with what the heads name then; it keeps what it has written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final
from uuid import UUID

import anyio

from datahike_async.env import Env
from datahike_async.errors import (
    ConfigError,
    CorruptData,
    DatabaseExists,
    DatabaseNotFound,
    SnapshotExpired,
    StorageError,
)
from datahike_async.index.source import Address
from datahike_async.konserve.base import gather, listing
from datahike_async.konserve.blob import ABSENT, Expected
from datahike_async.konserve.errors import KonserveError, OutcomeUnknown, RevisionMismatch
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.branching import end_branch, unknown_branch
from datahike_async.storage.branches.head import Head, decode_head, encode_head
from datahike_async.storage.branches.read import (
    BranchState,
    is_live,
    read_branch,
    read_head,
    write_head,
)
from datahike_async.storage.branches.registry import (
    Registry,
    change_registry,
    first_registry,
    read_registry,
)
from datahike_async.storage.branches.ring import EMPTY
from datahike_async.storage.branches.walk import Past
from datahike_async.storage.creating import has_lapsed, holds_other_data
from datahike_async.storage.flush import write_blobs
from datahike_async.storage.keys import BRANCHES, CREATING, checkpoint_key, head_key, tag_key
from datahike_async.storage.log.checkpoint import Checkpoint, decode_checkpoint
from datahike_async.storage.moving import Moving, alike
from datahike_async.storage.nodes.layout import Layout, layout_of
from datahike_async.storage.survey import Seen, Stop, Survey

__all__ = ["Copied", "Copying", "copy_store"]

_ATTEMPTS: Final = 5
_PAUSE: Final = 0.05
_NODES: Final = 256
_PACKS: Final = 8
"""Blobs that are on their way together, small ones or of some MB."""
_AT_ONCE: Final = 8
_COPIED: Final = "copied"
"""Under which a head of a copy says of which commit it is one: who writes to it changes that."""


class _Gone(Exception):
    """Something that the heads named is not there any more, or the target has changed meanwhile."""


@dataclass(slots=True)
class Copied:
    """What a copy has written and found: ``commits`` by branch; ``kept`` blobs were there."""

    commits: dict[str, UUID] = field(default_factory=dict)
    blobs: int = 0
    bytes: int = 0
    kept: int = 0
    rewritten: bool = False


@dataclass(frozen=True, slots=True)
class Copying:
    """What is to be copied, and how: ``branches`` are all where it is None.

    ``fresh``: the target must have no database. ``basis`` are commits that the branches of the
    target have to be at, if it is given.
    """

    source: Store
    target: Store
    id: UUID
    env: Env
    branches: Collection[str] | None = None
    fresh: bool = False
    basis: Mapping[str, UUID] | None = None
    progress: Callable[[int, int], object] | None = None


async def copy_store(job: Copying) -> Copied:
    """Copy a database into a store, which holds none, or an earlier copy of this one.

    Raises DatabaseExists where the target holds another database, or a copy that was written to;
    ConfigError where it holds other data; CorruptData where the source is damaged; konserve's
    errors.
    """
    done = Copied()
    for attempt in range(_ATTEMPTS):
        try:
            await _Copy(job, done).run()
        except _Gone as gone:
            if attempt == _ATTEMPTS - 1:
                failed = StorageError(
                    f"The copy was overtaken {_ATTEMPTS} times ({gone}); nothing of it is shown "
                    "yet. Run it again: it goes on where it stopped."
                )
                failed.retryable = True
                raise failed from gone
            await anyio.sleep(_PAUSE * 2**attempt)
        else:
            return done
    raise AssertionError("the last attempt returns or raises")


def _raise(kind: str, place: str, message: str) -> None:
    if kind == "missing":
        raise _Gone(f"{place} is missing from the source: {message}")
    raise CorruptData(
        f"{place} is damaged ({kind}): {message} Nothing was copied of it.", place=place
    )


def _damaged(kind: str, place: str, message: str) -> None:
    raise CorruptData(
        f"The copy in the target is damaged: {place} is {kind}. {message} Delete it; copy anew.",
        place=place,
    )


class _Copy:
    """One attempt."""

    def __init__(self, job: Copying, done: Copied) -> None:
        self._job = job
        self._source, self._target = job.source, job.target
        self._done = done
        self._there: dict[str, BranchState] = {}
        self._registry: Registry | None = None
        self._names: set[str] = set()
        self._seen = Seen()
        self._places: dict[Address, Address] | None = None
        self._count = self._of = 0

    async def run(self) -> None:
        done = self._done
        mine = await self._selected()
        await self._look_at_target(mine)
        self._seen = await self._surveyed(mine)
        await self._check_line()
        if self._registry is None:
            await self._claim()
        self._names = await _names(self._target)
        if layout_of(self._source.capabilities) is layout_of(self._target.capabilities):
            await self._copy(sorted(self._seen.blobs - self._heads()))
        else:
            done.rewritten = True
            await self._rewrite()
        if self._registry is not None:
            await self._same_epoch(await read_registry(self._target))
        await self._publish(mine)
        done.commits = {name: state.commit.id for name, state in self._seen.branches.items()}

    async def _same_epoch(self, now: Registry) -> None:
        """Start over where a collection has begun in the target: it knows nothing of this copy."""
        if self._registry is not None and now.epoch != self._registry.epoch:
            raise _Gone("a collection has begun in the target")

    def _heads(self) -> set[str]:
        return {BRANCHES, *map(head_key, self._seen.branches)}

    # -- what there is -------------------------------------------------------------------------

    async def _selected(self) -> Registry:
        """Return the registry of the source, with the branches that are to be copied alone."""
        job = self._job
        if not await self._source.exists(BRANCHES):
            raise DatabaseNotFound(
                "The store to be copied holds no database.", error=":db-does-not-exist"
            )
        registry = await read_registry(self._source)
        if job.branches is None:
            return registry
        for name in job.branches:
            if name not in registry.branches:
                raise unknown_branch(name, registry)
        chosen = {name: registry.branches[name] for name in sorted(job.branches)}
        main = registry.main if registry.main in chosen else next(iter(chosen))
        floors = {name: at for name, at in registry.floors.items() if name in chosen}
        return replace(registry, main=main, branches=chosen, floors=floors, tags={})

    async def _look_at_target(self, mine: Registry) -> None:
        """Find out what the target has. Raises DatabaseExists, ConfigError where it may not be."""
        target = self._target
        if await target.exists(BRANCHES):
            registry = await read_registry(target)
            main = await _state(target, registry.main)
            if main is not None:
                self._registry = registry
                await self._of_this_one(registry, mine)
                return
        if await holds_other_data(target):
            raise ConfigError(
                "The store that is to hold the copy holds other data. Give the copy a store of its "
                "own.",
                error=":config/invalid",
            )

    async def _of_this_one(self, registry: Registry, mine: Registry) -> None:
        job = self._job
        for name in sorted(registry.branches):
            state = await _state(self._target, name)
            if state is not None:
                self._there[name] = state
        main = self._there[registry.main]
        theirs = await _state(self._source, mine.main)
        same = theirs is not None and theirs.head.base.born == main.head.base.born
        if job.fresh or not same or registry.main != mine.main:
            raise DatabaseExists(
                "The target holds a database already"
                + (", which a restore does not overwrite" if job.fresh else ", and no copy of this")
                + ". Give the copy a store of its own, or delete that database first.",
                error=":db-already-exists",
            )
        if main.head.base.store != job.id:
            raise ConfigError(
                f"The copy in the target has the id {main.head.base.store}, not {job.id}; leave "
                "the id out.",
                error=":store-identity-mismatch",
            )
        for name, state in self._there.items():
            if state.head.extra.get(_COPIED) != state.commit.id:
                raise DatabaseExists(
                    f"Branch :{name} of the target was written to since it was copied, or never "
                    "was a copy; what was written there would be lost. Give another store.",
                    error=":backup/diverged",
                    branch=name,
                )
        if job.basis is not None:
            at = {name: state.commit.id for name, state in self._there.items()}
            wrong = sorted(name for name, commit in job.basis.items() if at.get(name) != commit)
            if wrong:
                raise DatabaseExists(
                    f"Branch :{wrong[0]} of the target is not at the commit that since names. "
                    "Leave since out to copy whatever the target lacks.",
                    error=":backup/basis-mismatch",
                    branch=wrong[0],
                )

    async def _surveyed(self, mine: Registry) -> Seen:
        survey = Survey(self._source, _raise)
        try:
            if self._job.branches is None:
                return await survey.run(pins=False)
            return await survey.run(sorted(mine.branches))
        except KonserveError:
            raise
        except CorruptData as error:
            if "is not in the store" in str(error):
                raise _Gone(str(error)) from error
            raise

    async def _check_line(self) -> None:
        """Raise DatabaseExists where the target is ahead of the source, or beside it."""
        past = Past(self._source)
        for name, there in self._there.items():
            here = self._seen.branches.get(name)
            if here is None or here.head.base.born != there.head.base.born:
                continue
            if here.commit.id == there.commit.id:
                continue
            try:
                found = await past.find(here.head.base, here.tail.records, there.commit.id)
            except SnapshotExpired:
                continue  # Nobody has written to the target since it was a copy of this.
            if found is None:
                raise DatabaseExists(
                    f"The commit of branch :{name} in the target is not in the past of this one: "
                    "one of the two was set back. Give the copy a store of its own.",
                    error=":backup/diverged",
                    branch=name,
                )

    async def _claim(self) -> None:
        """Say in the target that a copy is being made, so that nobody creates a database there."""
        said = {"copy": self._seen.branches[self._main()].head.base.store, "id": self._job.id}
        found, revision = await self._target.get(CREATING, with_revision=True)
        if found is None or not isinstance(found, dict) or found.get("copy") is None:
            if isinstance(found, dict) and not has_lapsed(found):
                raise _Gone("a database is being created in the target")
            await self._say(said, revision)
        elif found != said:
            raise ConfigError(
                f"The target holds a copy of the database {found['copy']} (as {found['id']}) that "
                "was begun and not finished. Finish that one, or remove it with delete_database.",
                error=":backup/incomplete",
            )

    def _main(self) -> str:
        registry = self._seen.registry
        assert registry is not None
        names = self._seen.branches
        return registry.main if registry.main in names else next(iter(sorted(names)))

    async def _say(self, said: Mapping[str, Any], revision: Expected) -> None:
        expected = revision if self._target.capabilities.compares else None
        try:
            await self._target.assoc(CREATING, said, expected_revision=expected)
        except (RevisionMismatch, OutcomeUnknown) as error:
            raise _Gone(f"the target: {error}") from error

    # -- blobs ---------------------------------------------------------------------------------

    async def _copy(self, keys: list[str]) -> None:
        """Copy blobs as they are, those that the target lacks."""
        lacking = [key for key in keys if name_of_key(key) not in self._names]
        self._done.kept += len(keys) - len(lacking)
        self._of += len(lacking)
        step = _NODES if layout_of(self._source.capabilities) is Layout.NODES else _PACKS
        for start in range(0, len(lacking), step):
            found = await gather(self._read, lacking[start : start + step], _AT_ONCE)
            await self._write(found)
            self._tell(len(found))

    async def _read(self, key: str) -> tuple[str, bytes]:
        data = await self._source.bget(key)
        if data is None:
            raise _Gone(f"{key} is missing from the source")
        return key, data

    async def _write(self, writes: Iterable[tuple[str, bytes]]) -> None:
        new = [(key, data) for key, data in writes if name_of_key(key) not in self._names]
        await write_blobs(self._target, new)
        self._names.update(name_of_key(key) for key, _ in new)
        self._done.blobs += len(new)
        self._done.bytes += sum(len(data) for _, data in new)

    def _tell(self, count: int) -> None:
        """Tell whoever waits that so much more is done."""
        self._count += count
        if self._job.progress is not None and count:
            self._job.progress(self._count, self._of)

    async def _rewrite(self) -> None:
        """Write nodes and checkpoints anew, and copy the log."""
        seen = self._seen
        theirs = Seen()
        if self._there:
            theirs = await Survey(self._target, _damaged).run(sorted(self._there))
        moving = Moving(self._source, seen, self._target, alike(seen, theirs))
        self._places = moving.places
        self._of = len(seen.nodes.keys() - moving.places.keys())
        await self._copy(sorted({address.blob for address in seen.segments}))
        for stop in sorted(seen.stops.values(), key=lambda stop: (stop.tx, stop.depth, stop.id)):
            if stop.id in theirs.stops:
                continue
            async with aclosing(moving.writes(stop)) as parts:
                before = len(moving.places)
                async for writes in parts:
                    await self._write(writes)
                    self._tell(len(moving.places) - before)
                    before = len(moving.places)
            key = checkpoint_key(stop.id)
            if key in seen.blobs:
                await write_blobs(self._target, [(key, await self._checkpoint(stop))])
                self._done.blobs += 1
        for tagged in () if seen.registry is None else seen.registry.tags.values():
            await self._tag(tag_key(tagged.publication))

    async def _tag(self, key: str) -> None:
        """Write the head that a tag is, with the nodes where they lie now."""
        if key not in self._seen.blobs or name_of_key(key) in self._names:
            return
        _, data = await self._read(key)
        head = decode_head(data, key, None)
        base = self._moved(head.base, self._seen.stops[head.base.id])
        await self._write([(key, encode_head(replace(head, base=base)))])

    async def _checkpoint(self, stop: Stop) -> bytes:
        key, data = await self._read(checkpoint_key(stop.id))
        return self._moved(decode_checkpoint(data, key), stop).encoded

    def _moved(self, base: Checkpoint, stop: Stop) -> Checkpoint:
        """Return a checkpoint that names the nodes where they lie now."""
        places = self._places
        if places is None:
            return base
        roots = dict(base.trees["roots"])
        for root in stop.roots:
            if root.top is not None:
                roots[root.name] = stop.factory.rooted(roots[root.name], places[root.top.address])
        return replace(base, trees={**base.trees, "roots": roots}).with_encoding()

    # -- heads ---------------------------------------------------------------------------------

    async def _publish(self, mine: Registry) -> None:
        """Publish heads, the main branch's last where there is none, and the registry."""
        target, main = self._target, mine.main
        others = sorted(self._seen.branches.keys() - {main})
        for name in others:
            await self._head(name)
        if self._registry is None:
            await first_registry(target, main, mine.branches[main])
            await change_registry(target, _to(mine))
            await self._head(main)
            await self._unclaim()
            return
        await self._head(main)
        await change_registry(target, partial(self._listed, mine))
        if self._job.branches is None:
            for name in sorted(self._registry.branches.keys() - mine.branches.keys()):
                await end_branch(target, name, self._job.env)

    async def _head(self, name: str) -> None:
        """Publish the head of a branch, over the one that was looked at."""
        job, target = self._job, self._target
        state = self._seen.branches[name]
        there, revision = self._there.get(name), ABSENT
        expected: Expected = revision
        generation = state.generation
        if there is not None:
            if there.commit.id == state.commit.id and there.head.base.id == state.head.base.id:
                return
            expected, generation = there.revision, max(generation, there.generation + 1)
        else:
            left, expected = await read_head(target, name)
            if is_live(left) and left.extra.get(_COPIED) != state.commit.id:
                expected = await self._own(left, name)
            if left is not None:
                generation = max(generation, left.generation + 1)
        tail, segments = await state.tail.bounded(job.env.new_uuid)
        await self._write(segments)
        base = replace(
            self._moved(state.head.base, self._seen.stops[state.head.base.id]), store=job.id
        )
        registry = self._registry or self._seen.registry
        epoch = state.head.epoch if registry is None else registry.epoch
        head = Head(
            base.with_encoding(),
            generation,
            epoch,
            state.recent,
            EMPTY,
            tail.stored(),
            {**state.head.extra, _COPIED: state.commit.id},
        )
        try:
            await write_head(target, head, expected)
        except (RevisionMismatch, OutcomeUnknown) as error:
            found = await _state(target, name)
            if found is None or found.head.extra.get(_COPIED) != found.commit.id:
                raise _Gone(f"the head of :{name} in the target: {error}") from error
            if found.commit.id != state.commit.id:
                raise _Gone(f"another copy is being made into the target: {error}") from error

    async def _own(self, left: Head, name: str) -> Expected:
        """Return the revision of a head that an earlier attempt has left; raise for another's."""
        found = await _state(self._target, name)
        if found is None or found.head.extra.get(_COPIED) != found.commit.id:
            raise DatabaseExists(
                f"The target has a branch :{name} of another database. Give the copy a store of "
                "its own.",
                error=":db-already-exists",
            )
        return found.revision

    async def _listed(self, mine: Registry, now: Registry) -> Registry | None:
        """Return the registry of the target with what was copied, beside what is there."""
        await self._same_epoch(now)
        floors = dict(now.floors)
        for name in mine.branches:
            there, floor = self._there.get(name), mine.floors.get(name)
            seen = self._seen.branches.get(name)
            if there is None or seen is None or there.head.base.born != seen.head.base.born:
                floors.pop(name, None)
            elif floor is None or floor.tx <= there.head.base.tx:
                continue  # what the source has let go of is in the target
            if floor is not None:
                floors[name] = floor
        made = replace(
            now,
            branches={**now.branches, **mine.branches},
            next_id=max(now.next_id, mine.next_id),
            tags=mine.tags if self._job.branches is None else now.tags,
            floors=floors,
            # Where there are floors there was a collection.
            epoch=max(now.epoch, mine.epoch) if floors else now.epoch,
            collected=now.collected or mine.collected,
        )
        return None if made == now else made

    async def _unclaim(self) -> None:
        try:
            await self._target.dissoc(CREATING)
        except KonserveError:
            return  # beside a head nobody looks at it


def _to(mine: Registry) -> Callable[[Registry], Any]:
    async def change(now: Registry) -> Registry | None:
        return None if now == mine else mine

    return change


async def _state(store: Store, name: str) -> BranchState | None:
    try:
        return await read_branch(store, name, None)
    except DatabaseNotFound:
        return None


async def _names(store: Store) -> set[str]:
    names: set[str] = set()
    async with listing(store.blobs.names()) as pages:
        async for page in pages:
            names.update(page)
    return names
