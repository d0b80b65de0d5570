"""Making a branch of a commit, and deleting one.

A branch is a copied head: a checkpoint, and the records on top of it. Nothing else is copied, so it
costs the same whatever the database holds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from datahike_async.env import Env
from datahike_async.errors import (
    BadInput,
    DatabaseNotFound,
    DatahikeError,
    NameNotFound,
    NameTaken,
    shown,
)
from datahike_async.konserve.blob import ABSENT, Expected
from datahike_async.konserve.errors import OutcomeUnknown, RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.snapshot.ids import LEAST, MAIN
from datahike_async.storage.branches.fence import fence_head
from datahike_async.storage.branches.head import Head, Recent
from datahike_async.storage.branches.origin import Origin
from datahike_async.storage.branches.read import (
    BranchState,
    is_live,
    read_branch,
    read_head,
    write_head,
)
from datahike_async.storage.branches.registry import (
    Floor,
    Listed,
    Registry,
    change_registry,
    known_registry,
    read_registry,
)
from datahike_async.storage.branches.retained import floor_at
from datahike_async.storage.branches.ring import EMPTY
from datahike_async.storage.flush import write_blobs
from datahike_async.storage.keys import head_key
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.tail import Tail

__all__ = [
    "MovedOn",
    "begin_branch",
    "both_in_use",
    "end_branch",
    "is_listed",
    "is_there",
    "list_branch",
    "main_branch",
    "neither",
    "replace_branch",
    "replace_head",
    "unknown_branch",
    "with_ids",
]

_ATTEMPTS: Final = 20
_PATIENT: Final = 100
"""More than the publications in a row after which a lone writer lets others in between."""


class MovedOn(Exception):
    """A collection has begun meanwhile; what was ``before`` is replaced already, if anything."""

    def __init__(self, before: UUID | None = None) -> None:
        super().__init__("a collection has begun")
        self.before = before


async def begin_branch(
    store: Store, name: str, find: Callable[[Registry], Awaitable[Origin]], env: Env
) -> None:
    """Make a branch of what ``find`` finds, as far as the registry it is given keeps it.

    Its head first, then the registry, at the epoch that was read before: where a collection began
    in between, what it was made of may be gone, and all is done again.

    Raises NameTaken ``:branch-already-exists``; konserve's errors; what ``find`` raises.
    """
    if store.capabilities.compares and await _at_once(store, name, find, env):
        return
    for _ in range(_ATTEMPTS):
        registry = await read_registry(store)
        there, revision = await read_head(store, name)
        if is_there(there, name, registry):
            if name in registry.branches:
                raise _exists(name)
            # Somebody has begun this branch, and perhaps was ended half way: it is there now.
            await list_branch(store, name, env)
            continue
        origin = await find(registry)
        if await _begun(store, name, registry, origin, there, revision, env):
            return
    raise RevisionMismatch(f"Others kept changing branch :{name}; nothing was made.")


async def _at_once(
    store: Store, name: str, find: Callable[[Registry], Awaitable[Origin]], env: Env
) -> bool:
    """Make a branch without reading whether it is there; False where that is to be read.

    Both writes show whether all was as it was taken to be: the head is written where there is none,
    the registry over what this process knows of it.
    """
    known = known_registry(store)
    registry = known or await read_registry(store)
    if name in registry.branches:
        return False
    try:
        origin = await find(registry)
    except DatahikeError:
        if known is None:
            raise
        return False  # what is known may be old
    return await _begun(store, name, registry, origin, None, ABSENT, env)


async def _begun(
    store: Store,
    name: str,
    registry: Registry,
    origin: Origin,
    there: Head | None,
    revision: Expected,
    env: Env,
) -> bool:
    """Make a branch of an origin over what is there; False where a collection has begun since."""
    place = origin.place
    publication = env.new_uuid()
    base = replace(place.base, branch=name, born=publication)
    base = with_ids(base, registry.block(LEAST))
    tail, segments = await Tail(place.encoded).bounded(env.new_uuid)
    head = Head(base, 1, registry.epoch, Recent(publication.bytes), EMPTY, tail.stored())
    await write_blobs(store, segments)
    made = await _first(store, name, head, there, revision)
    listed = Listed(env.now(), place.commit.id, publication)
    just = (registry, head) if made else None
    done = await list_branch(store, name, env, listed, origin.floor, just)
    if done and not made:
        raise _exists(name)
    return done


def is_there(head: Head | None, name: str, registry: Registry) -> bool:
    """Say whether there is a branch, or somebody is about to list one.

    One that is not listed, and was begun before the last collection, never will be.
    """
    if not is_live(head):
        return False
    listed = registry.branches.get(name)
    same = listed is not None and listed.publication == head.base.born
    return same or head.epoch >= registry.epoch


async def _first(
    store: Store, name: str, head: Head, there: Head | None, revision: Expected
) -> bool:
    """Write the first head of a branch; return False where there is one already.

    ``there`` is what was read, with its ``revision``. What is left of a deleted branch, or of one
    that was never listed, is replaced; no head of it is like any before.
    """
    born = head.base.born
    for _ in range(_ATTEMPTS):
        if there is not None:
            head = replace(head, generation=there.generation + 1)
        try:
            await write_head(store, head, revision)
        except (RevisionMismatch, OutcomeUnknown):
            there, revision = await read_head(store, name)
            if there is not None and there.base.born == born:
                return True
            if is_live(there):
                return False
        else:
            return True
    raise RevisionMismatch(f"Others kept changing branch :{name}; nothing was made.")


async def end_branch(store: Store, name: str, env: Env, *, at: UUID | None = None) -> UUID | None:
    """Delete a branch: whoever writes to it is told so, and its commits stay until collected.

    Returns by which publication it was made; None where others have deleted it meanwhile. ``at``:
    only while this commit is its newest one, else RevisionMismatch is raised.

    Raises BadInput ``:cannot-delete-main-db-branch``, NameNotFound ``:branch-does-not-exist``.
    """
    registry = await read_registry(store)
    if name == registry.main:
        raise main_branch(name)

    def tomb(state: BranchState) -> Head:
        if at not in (None, state.commit.id):
            raise RevisionMismatch(f"Branch :{name} has moved on, and was not deleted.")
        return replace(
            state.head,
            generation=state.generation + 1,
            recent=Recent(env.new_uuid().bytes),
            ring=EMPTY,
            tail=(),
            deleted=True,
        )

    born, _ = await replace_head(store, name, tomb)
    if born is None and name not in registry.branches:
        raise unknown_branch(name, registry)
    await list_branch(store, name, env)
    return born


async def replace_branch(
    store: Store, name: str, base: Checkpoint, epoch: int, env: Env
) -> UUID | None:
    """Have a branch be what a checkpoint says, whatever it was; it is made where there is none.

    Returns by which publication the branch was made that it replaces, if any. Whoever writes to
    that one is told so: this is another branch of its name. Raises MovedOn where a collection has
    begun since the ``epoch`` in which all that the checkpoint needs was kept.
    """
    head = Head(base, 1, epoch, Recent(base.born.bytes), EMPTY, ())

    def over(state: BranchState) -> Head:
        if state.head.epoch > epoch:
            raise MovedOn
        return replace(head, generation=state.generation + 1)

    before: UUID | None = None
    in_place = False
    for _ in range(_ATTEMPTS):
        found, written = await replace_head(store, name, over)
        before = found or before
        in_place = written
        if not written:
            # There is none, or none any more. Ours may be what others have deleted by now.
            there, revision = await read_head(store, name)
            written = there is not None and there.base.born == base.born
            written = written or await _first(store, name, head, there, revision)
        if written:
            break
    else:
        raise RevisionMismatch(f"Others kept making and deleting branch :{name}; it is theirs.")
    listed = Listed(env.now(), None, base.born)
    floor = floor_at(base) if epoch else None
    if await list_branch(store, name, env, listed, floor, in_place=in_place):
        return before
    raise MovedOn(before)


async def replace_head(
    store: Store, name: str, make: Callable[[BranchState], Head]
) -> tuple[UUID | None, bool]:
    """Write another head over that of a branch, whoever writes to it at the same time.

    Returns by which publication the branch was made (None where there was none), and whether the
    head was written: it is not where there is no branch, or none any more. One that is to be
    deleted is not looked for under its name again once it has gone.
    """
    born: UUID | None = None
    turns = store.capabilities.turns
    for _ in range(_PATIENT):
        # Whoever writes to it all the time would be faster each time.
        async with store.turn(head_key(name)) if turns else nullcontext():
            try:
                state = await read_branch(store, name, None)
            except DatabaseNotFound:
                state = None  # somebody has begun to delete it, perhaps this call
            if state is None:
                return born, False
            head = make(state)
            if state.head.base.born == head.base.born and not head.deleted:
                return born, True  # no answer came, but it was written
            if head.deleted and born not in (None, state.head.base.born):
                return born, False  # another one has its name, since that was deleted
            born = state.head.base.born
            try:
                await write_head(store, head, state.revision)
                return born, True
            except (RevisionMismatch, OutcomeUnknown):
                continue
    raise RevisionMismatch(f"Others kept writing to branch :{name}; it is as it was.")


async def list_branch(
    store: Store,
    name: str,
    env: Env,
    mine: Listed | None = None,
    floor: Floor | None = None,
    just: tuple[Registry, Head] | None = None,
    *,
    in_place: bool = False,
) -> bool:
    """List a branch if there is one, as ``mine`` if that is it, and none otherwise.

    Gives a branch that was not listed its block of entity ids.

    Done after a head came or went. Of those who do so at once the last lists what is there in the
    end, and not what it has made or deleted itself. A head that was begun before the last
    collection is not listed any more, or was removed by that, and False is returned. ``floor`` is
    from where on its past is kept; ``just`` the head that was written a moment ago, and the
    registry that it was made by, which are not read first. ``in_place`` says that ``mine`` was
    written over the head of a branch: a collection that has begun since comes to it, and keeps it.
    """
    refused = False
    known, wrote = just or (None, None)

    async def as_it_is(registry: Registry) -> Registry | None:
        nonlocal refused, wrote
        refused = False
        revision: Expected = None
        head, wrote = wrote, None
        if head is None or registry is not known:
            head, revision = await read_head(store, name)
        listed = registry.branches.get(name)
        if not is_live(head):
            # Without a head that was there a moment ago, a collection has removed it.
            refused = head is None and mine is not None
            return None if listed is None else registry.without(name)
        born = head.base.born
        if listed is not None and listed.publication == born:
            return None
        is_mine = mine is not None and mine.publication == born
        if head.epoch < registry.epoch:
            refused = (is_mine and not in_place) or listed is None
            if not refused:
                # A collection keeps what is listed: it has this head to be told of the epoch.
                await fence_head(store, name, registry.epoch, env)
                raise RevisionMismatch("The head is another one now.")
            return None
        block = head.base.ids
        if block.start != registry.next_id:
            # Others took it. Nobody opens this branch before it is listed, so none of it is used.
            block = registry.block(LEAST)
            base = with_ids(head.base, block)
            await write_head(
                store, replace(head, base=base, generation=head.generation + 1), revision
            )
        registry = registry.without_block(block)
        if is_mine and mine is not None:
            return registry.with_branch(name, mine, floor)
        # Whoever has made it knows what of its past is kept; without that, what is sure to be.
        sure = floor_at(head.base) if registry.epoch else None
        return registry.with_branch(name, Listed(env.now(), None, born), sure)

    for _ in range(_ATTEMPTS):
        with suppress(RevisionMismatch, OutcomeUnknown):
            await change_registry(store, as_it_is, known)
            return not refused
    raise RevisionMismatch(f"Others kept changing branch :{name}; whether it is there is unknown.")


def with_ids(base: Checkpoint, block: range) -> Checkpoint:
    """Return a checkpoint where new entities get their ids of a block that is not used yet."""
    trees = {**base.trees, "max-eid": block.start - 1, "ids": [block.start, block.stop]}
    return replace(base, trees=trees).with_encoding()


async def is_listed(store: Store, head: Head) -> bool:
    """Whether a branch was not begun by somebody who was ended before he listed it.

    Else it may not be written to before it is: the ids it names may be another branch's.
    """
    born = head.base.born
    if born not in head.recent or head.base.ids.start == MAIN.start:
        return True

    def lists(registry: Registry | None) -> bool:
        listed = None if registry is None else registry.branches.get(head.base.branch)
        return listed is not None and listed.publication == born

    return lists(known_registry(store)) or lists(await read_registry(store))


def main_branch(name: str) -> BadInput:
    """Return the error for what would take the main branch away."""
    return BadInput(
        f"Branch :{name} is the main branch of its database and cannot be deleted or renamed; "
        "delete_database deletes all of it.",
        error=":cannot-delete-main-db-branch",
    )


@contextmanager
def both_in_use(old: str, new: str) -> Iterator[None]:
    """Say that both are there where the branch that was to replace another has moved on."""
    try:
        yield
    except RevisionMismatch as error:
        raise RevisionMismatch(
            f"Branch :{old} was written to while it was renamed, and so was :{new} already; both "
            "are there. Merge one into the other, and delete that."
        ) from error


def unknown_branch(name: str, registry: Registry) -> NameNotFound:
    """Return the error for a branch that a store does not have."""
    known = ", ".join(f":{one}" for one in sorted(registry.branches))
    return NameNotFound(
        f"Branch :{name} does not exist; the branches of this database are {known}.",
        error=":branch-does-not-exist",
        branch=name,
    )


def neither(of: Any, error: str = ":branch-does-not-exist", **data: Any) -> NameNotFound:
    """Return the error for what names neither a branch nor a commit; it says what would."""
    hint = "branches(conn) lists the branches, tags(conn) the commits that have a name"
    if isinstance(of, str):
        with suppress(ValueError):
            hint = f"the id of a commit is given as a UUID: {UUID(of)!r}"
    return NameNotFound(
        f"{shown(of)} is neither a branch nor a commit of this database; {hint}.",
        error=error,
        **(data or {"branch": of}),
    )


def _exists(name: str) -> NameTaken:
    return NameTaken(
        f"Branch :{name} already exists; delete it first, or give the new one another name.",
        error=":branch-already-exists",
        branch=name,
    )
