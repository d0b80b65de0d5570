"""Receiving: the store that a copy is made in: what it has, whether it may be, and its heads.

A copy is known by its heads, each of which says of which commit it is one: whoever writes to it
changes the commit, and leaves that. Until a first copy is whole a claim says that it is being made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from uuid import UUID

from datahike_async.env import Env
from datahike_async.errors import ConfigError, DatabaseExists, DatabaseNotFound, SnapshotExpired
from datahike_async.konserve.blob import ABSENT, Expected
from datahike_async.konserve.errors import KonserveError, OutcomeUnknown, RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.branching import end_branch
from datahike_async.storage.branches.head import Head
from datahike_async.storage.branches.read import (
    BranchState,
    is_live,
    read_branch,
    read_head,
    write_head,
)
from datahike_async.storage.branches.registry import (
    Floor,
    Registry,
    change_registry,
    first_registry,
    read_registry,
)
from datahike_async.storage.branches.ring import EMPTY
from datahike_async.storage.branches.walk import Past
from datahike_async.storage.creating import has_lapsed, holds_other_data
from datahike_async.storage.keys import BRANCHES, CREATING
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import tx_of_commit
from datahike_async.storage.survey import Seen, Stop

__all__ = ["Copying", "Gone", "Receiver"]

_COPIED: Final = "copied"
"""Under which a head of a copy says of which commit it is one: who writes to it changes that."""

Moved = Callable[[Checkpoint, Stop], Checkpoint]
Written = Callable[[Iterable[tuple[str, bytes]]], Awaitable[None]]


class Gone(Exception):
    """Something that the heads named is not there any more, or the target has changed meanwhile."""


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


class Receiver:
    """The target of one attempt. ``registry`` and ``there`` are what it has, before and meanwhile.

    ``seen`` is what the source has, once that is known; ``moved`` returns a checkpoint as it is to
    lie in the target, and ``write`` writes blobs there.
    """

    def __init__(self, job: Copying, moved: Moved, write: Written) -> None:
        self.registry: Registry | None = None
        self.there: dict[str, BranchState] = {}
        self.seen = Seen()
        self._job = job
        self._target = job.target
        self._moved = moved
        self._write = write

    async def look(self, mine: Registry) -> None:
        """Find out what the target has. Raises DatabaseExists, ConfigError where it may not be."""
        target = self._target
        if await target.exists(BRANCHES):
            registry = await read_registry(target)
            main = await _state(target, registry.main)
            if main is not None:
                self.registry = registry
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
                self.there[name] = state
        main = self.there[registry.main]
        theirs = await _state(self._job.source, mine.main)
        same = theirs is not None and theirs.head.base.born == main.head.base.born
        if job.fresh or not same or registry.main != mine.main:
            raise DatabaseExists(
                "The target holds a database already"
                + (", which a restore does not overwrite" if job.fresh else ", and no copy of this")
                + ("" if job.fresh else " as its main branch was made (or forced, or rebased) last")
                + ". Give the copy a store of its own, or delete that database first.",
                error=":db-already-exists",
            )
        if main.head.base.store != job.id:
            raise ConfigError(
                f"The copy in the target has the id {main.head.base.store}, not {job.id}; leave "
                "the id out.",
                error=":store-identity-mismatch",
            )
        for name, state in self.there.items():
            if state.head.extra.get(_COPIED) != state.commit.id:
                raise DatabaseExists(
                    f"Branch :{name} of the target was written to since it was copied, or never "
                    "was a copy; what was written there would be lost. Give another store.",
                    error=":backup/diverged",
                    branch=name,
                )
        if job.basis is not None:
            at = {name: state.commit.id for name, state in self.there.items()}
            wrong = sorted(name for name, commit in job.basis.items() if at.get(name) != commit)
            if wrong:
                raise DatabaseExists(
                    f"Branch :{wrong[0]} of the target is not at the commit that since names. "
                    "Leave since out to copy whatever the target lacks.",
                    error=":backup/basis-mismatch",
                    branch=wrong[0],
                )

    async def check_line(self) -> None:
        """Raise DatabaseExists where the target is ahead of the source, or beside it."""
        past = Past(self._job.source)
        for name, there in self.there.items():
            here = self.seen.branches.get(name)
            if here is None or here.head.base.born != there.head.base.born:
                continue
            if here.commit.id == there.commit.id:
                continue
            try:
                found = await past.find(here.head.base, here.tail.records, there.commit.id)
            except SnapshotExpired:
                continue  # Nobody has written to the target since it was a copy of this.
            if found is None and not self._begins_after(here, there.commit.id):
                raise DatabaseExists(
                    f"The commit of branch :{name} in the target is not in the past of this one: "
                    "one of the two was set back. Give the copy a store of its own.",
                    error=":backup/diverged",
                    branch=name,
                )

    def _begins_after(self, here: BranchState, commit: UUID) -> bool:
        """Say whether the past of a branch begins after a commit: a purge has begun it anew."""
        stop = self.seen.stops.get(here.head.base.id)
        while stop is not None and stop.before in self.seen.stops:
            stop = self.seen.stops[stop.before]
        return stop is not None and stop.tx > tx_of_commit(commit)

    async def claim(self) -> None:
        """Say in the target that a copy is being made, so that nobody creates a database there."""
        said = {"copy": self.seen.branches[self._main()].head.base.store, "id": self._job.id}
        found, revision = await self._target.get(CREATING, with_revision=True)
        if found is None or not isinstance(found, dict) or found.get("copy") is None:
            if isinstance(found, dict) and not has_lapsed(found):
                raise Gone("a database is being created in the target")
            await self._say(said, revision)
        elif found != said:
            raise ConfigError(
                f"The target holds a copy of the database {found['copy']} (as {found['id']}) that "
                "was begun and not finished. Finish that one, or remove it with delete_database.",
                error=":backup/incomplete",
            )

    def _main(self) -> str:
        registry = self.seen.registry
        assert registry is not None
        names = self.seen.branches
        return registry.main if registry.main in names else next(iter(sorted(names)))

    async def _say(self, said: Mapping[str, Any], revision: Expected) -> None:
        expected = revision if self._target.capabilities.compares else None
        try:
            await self._target.assoc(CREATING, said, expected_revision=expected)
        except (RevisionMismatch, OutcomeUnknown) as error:
            raise Gone(f"the target: {error}") from error

    async def same_epoch(self, now: Registry) -> None:
        """Start over where a collection has begun in the target: it knows nothing of this copy."""
        if self.registry is not None and now.epoch != self.registry.epoch:
            raise Gone("a collection has begun in the target")

    # -- heads ---------------------------------------------------------------------------------

    async def publish(self, mine: Registry) -> None:
        """Publish heads, the main branch's last where there is none, and the registry."""
        target, main = self._target, mine.main
        others = sorted(self.seen.branches.keys() - {main})
        if self.registry is not None:
            # Before heads come that lead to what the source has no more.
            await change_registry(target, partial(self._raised, mine))
        for name in others:
            await self._head(name)
        if self.registry is None:
            await first_registry(target, main, mine.branches[main])
            await change_registry(target, _to(mine))
            await self._head(main)
            await self._unclaim()
            return
        await self._head(main)
        await change_registry(target, partial(self._listed, mine))
        if self._job.branches is None:
            for name in sorted(self.registry.branches.keys() - mine.branches.keys()):
                there = self.there.get(name)
                try:
                    at = None if there is None else there.commit.id
                    await end_branch(target, name, self._job.env, at=at)
                except RevisionMismatch as error:
                    raise Gone(f"branch :{name} of the target was written to") from error

    async def _head(self, name: str) -> None:
        """Publish the head of a branch, over the one that was looked at."""
        job, target = self._job, self._target
        state = self.seen.branches[name]
        there, revision = self.there.get(name), ABSENT
        expected: Expected = revision
        generation = state.generation
        if there is not None:
            ours, theirs = state.head.base, there.head.base
            known = (theirs.id, theirs.born, there.commit.id)
            if known == (ours.id, ours.born, state.commit.id):
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
            self._moved(state.head.base, self.seen.stops[state.head.base.id]), store=job.id
        )
        registry = self.registry or self.seen.registry
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
                raise Gone(f"the head of :{name} in the target: {error}") from error
            if found.commit.id != state.commit.id:
                raise Gone(f"another copy is being made into the target: {error}") from error

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

    async def _raised(self, mine: Registry, now: Registry) -> Registry | None:
        """Return the registry of the target with the floors that its branches will have.

        What the source has let go of is in the target, unless that was behind it: then there is a
        gap, and the past begins where that of the source does.
        """
        await self.same_epoch(now)
        floors = dict(now.floors)
        for name in mine.branches:
            floor = self._floor(name, mine, now)
            if floor is not None:
                floors[name] = floor
        if floors == now.floors:
            return None
        # Where there are floors there was a collection.
        epoch, collected = max(now.epoch, 1), now.collected or mine.collected
        if self.registry is not None:
            self.registry = replace(self.registry, epoch=epoch)
        return replace(now, floors=floors, epoch=epoch, collected=collected)

    def _floor(self, name: str, mine: Registry, now: Registry) -> Floor | None:
        """Return where the past of a branch of the target is to begin; None for all of it."""
        theirs, there = mine.floors.get(name), self.there.get(name)
        if there is None or self._is_new(name):
            return theirs
        known = [now.floors.get(name)]
        if theirs is not None and theirs.tx > there.head.base.tx:
            known.append(theirs)
        return max((floor for floor in known if floor), key=lambda floor: floor.tx, default=None)

    async def _listed(self, mine: Registry, now: Registry) -> Registry | None:
        """Return the registry of the target with what was copied, beside what is there."""
        await self.same_epoch(now)
        whole = self._job.branches is None
        floors = {
            name: floor
            for name, floor in now.floors.items()
            if name in mine.floors or not self._is_new(name)
        }
        made = replace(
            now,
            branches={**now.branches, **mine.branches},
            next_id=max(now.next_id, mine.next_id),
            tags=mine.tags if whole else now.tags,
            floors=floors,
        )
        return None if made == now else made

    def _is_new(self, name: str) -> bool:
        """Say whether a branch that was copied is another one than the target had, if any."""
        there, seen = self.there.get(name), self.seen.branches.get(name)
        if seen is None:
            return False
        return there is None or there.head.base.born != seen.head.base.born

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
