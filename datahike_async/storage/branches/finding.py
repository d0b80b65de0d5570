"""Finding a commit in the pasts of all branches, as far as collections have left them.

What a commit is read or branched from has to be kept by the registry that was read before it, and
still be when something new names it: whoever makes that compares the registry's epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from datahike_async.errors import CorruptData, DatabaseNotFound, SnapshotExpired
from datahike_async.konserve.store import Store
from datahike_async.snapshot.trees import Trees
from datahike_async.storage.branches.branching import is_there
from datahike_async.storage.branches.origin import Origin
from datahike_async.storage.branches.pins import pinned_place, read_pins
from datahike_async.storage.branches.read import read_branch
from datahike_async.storage.branches.registry import Floor, Registry, read_registry
from datahike_async.storage.branches.retained import expired, floor_at, floor_of
from datahike_async.storage.branches.tagging import read_tag
from datahike_async.storage.branches.walk import Past, Place
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.records import tx_of_commit

__all__ = ["Line", "find_commit", "head_place", "require_kept"]

_ATTEMPTS: Final = 5
_FIRST_TX: Final = 0x20000000


class Line(NamedTuple):
    """A branch as somebody knows it: its newest checkpoint, and the records since.

    ``epoch`` is that of the last collection that he knows to have told it that it began.
    """

    branch: str
    epoch: int
    base: Checkpoint
    tail: Sequence[bytes]


async def head_place(
    store: Store, name: str, store_id: UUID, registry: Registry | None = None
) -> Place | None:
    """Return where the newest commit of a branch is, None where there is no such branch.

    With a registry, None also where there is a head that nobody has listed, nor can list any more:
    collections know nothing of it.
    """
    try:
        state = await read_branch(store, name, store_id)
    except DatabaseNotFound:
        return None
    if state is None or not (registry is None or is_there(state.head, name, registry)):
        return None
    return Place(state.head.base, tuple(state.tail.records), state.records, state.commit)


async def find_commit(
    store: Store, past: Past, registry: Registry, own: Line, commit: UUID
) -> Origin | None:
    """Return where a commit is in the past of any branch, ``own`` first, of a tag or a pin.

    None where it is nowhere. Raises SnapshotExpired where it is older than what is kept.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return await _found(store, past, registry, own, commit)
        except (CorruptData, SnapshotExpired) as error:
            gone = error.error in (":node-not-found", ":snapshot/expired")
            now = await read_registry(store)
            if not gone or now.epoch == registry.epoch:
                raise
            if attempt == _ATTEMPTS - 1:
                raise _too_old(commit) from error
            registry = now  # a collection was faster
    raise AssertionError("the last attempt returns or raises")


async def _found(
    store: Store, past: Past, registry: Registry, own: Line, commit: UUID
) -> Origin | None:
    tx, below = tx_of_commit(commit), False
    names = sorted(registry.branches, key=lambda name: (name != own.branch, name))
    gone: SnapshotExpired | None = None
    for name in names:
        floor = registry.floors.get(name)
        if floor is not None and tx < floor.tx:
            below = True
            continue
        try:
            found = await _on_branch(store, past, registry, name, own, commit)
        except SnapshotExpired as error:
            gone = error  # another branch or a tag may keep it
            continue
        if found is not None:
            return found
    for tagged in registry.tags.values():
        place = await read_tag(store, tagged)
        # What a tag keeps begins with its checkpoint; before the first collection, all is there.
        if place is not None and (not registry.epoch or tx >= place.base.tx):
            at = await past.find(place.base, place.encoded, commit)
            if at is not None:
                return Origin(at, floor_at(place.base) if registry.epoch else None)
    if not below and gone is None:
        return None
    for id_, pin in (await read_pins(store)).items():
        if pin.commit == commit:
            place = await pinned_place(store, id_)
            return Origin(place, floor_at(place.base))
    if tx < _FIRST_TX:
        return None
    raise gone or _too_old(commit)


async def _on_branch(
    store: Store, past: Past, registry: Registry, name: str, own: Line, commit: UUID
) -> Origin | None:
    """Return where a commit is in the past of a branch, None where it is not in it."""
    floor = registry.floors.get(name)
    # Another branch may have the name by now, listed or not yet: what this one was is then kept by
    # nobody. A collection that has told this one of its epoch keeps it.
    same = name == own.branch and registry.branches[name].publication == own.base.born
    if same and own.epoch == registry.epoch and _is_kept(own.base, floor):
        place = await past.find(own.base, own.tail, commit)
        if place is not None and _is_kept(place.base, floor):
            return Origin(place, floor)
    head = await head_place(store, name, own.base.store)
    if head is None:
        return None
    floor = floor_of(registry, name, head.base)
    if floor is not None and tx_of_commit(commit) < floor.tx:
        raise _too_old(commit)
    place = await past.find(head.base, head.encoded, commit)
    return None if place is None else Origin(place, floor)


async def require_kept(
    store: Store, past: Past, registry: Registry, own: Line, trees: Trees
) -> None:
    """Raise SnapshotExpired unless trees are those of a checkpoint that a registry keeps.

    Before the first collection all are.
    """
    if not registry.epoch:
        return
    tops = [list(index.named()) for index in trees.indexes()]
    named = trees.factory.tops
    for name in sorted(registry.branches, key=lambda name: (name != own.branch, name)):
        floor = registry.floors.get(name)
        head = await head_place(store, name, own.base.store)
        if head is None or (floor is not None and trees.max_tx < floor.tx):
            continue
        place = await past.at(head.base, head.encoded, trees.max_tx)
        if place is None or place.base.tx != trees.max_tx:
            continue
        roots = place.base.trees["roots"].values()
        if [[top.child.address for top in named(root)] for root in roots] == tops:
            return
    raise expired("Something that this database value needs may be gone: what it was made of")


def _is_kept(base: Checkpoint, floor: Floor | None) -> bool:
    return floor is None or base.tx >= floor.tx


def _too_old(commit: UUID) -> SnapshotExpired:
    return expired(f"Commit {commit} is older than what is kept of this database: it", commit)
