"""What a branch keeps: walking its checkpoints back to the floor, and finding a new floor.

A floor is the last commit of a checkpoint: the checkpoint has to be kept for the commits after it
anyway, so a floor between two would save nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from datahike_async.config.collecting import Retention
from datahike_async.errors import CorruptData, SnapshotExpired
from datahike_async.index.source import Address
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.read import BranchState
from datahike_async.storage.branches.registry import Floor, Registry
from datahike_async.storage.keys import checkpoint_key
from datahike_async.storage.log.checkpoint import Checkpoint, Pointer, decode_checkpoint
from datahike_async.storage.log.reader import fetch_segment
from datahike_async.storage.log.records import SegmentParts, entries_of

__all__ = ["expired", "find_floor", "floor_at", "floor_of", "one_before", "segments_between"]


def floor_at(base: Checkpoint) -> Floor:
    """Return the floor that a checkpoint is."""
    return Floor(base.id, base.tx, base.commit.id)


def floor_of(registry: Registry, name: str, base: Checkpoint) -> Floor | None:
    """Return from where on the past of a branch is kept, whose head has this checkpoint.

    Where a registry does not list this one, but another of its name, all that is sure is the head.
    """
    listed = registry.branches.get(name)
    if listed is not None and listed.publication == base.born:
        return registry.floors.get(name)
    return floor_at(base) if registry.epoch else None


async def one_before(store: Store, base: Checkpoint, floor: Floor | None) -> Checkpoint | None:
    """Return the checkpoint before one; None where that is below the floor, or there is none.

    Raises CorruptData where it is missing.
    """
    if not base.back or (floor is not None and base.id == floor.checkpoint):
        return None
    pointer = base.back[0]
    if floor is not None and pointer.tx < floor.tx:
        return None
    return await _read_checkpoint(store, pointer)


async def _read_checkpoint(store: Store, pointer: Pointer) -> Checkpoint:
    """Return a checkpoint. Raises CorruptData where it is missing."""
    key = checkpoint_key(pointer.id)
    data = await store.bget(key)
    if data is None:
        raise CorruptData(
            f"{key} is not in the store, though the database refers to it.",
            error=":node-not-found",
            place=key,
        )
    return decode_checkpoint(data, key)


async def segments_between(
    store: Store, base: Checkpoint, before: Checkpoint
) -> list[tuple[Address, SegmentParts]]:
    """Return the log from one checkpoint back to the one before it, newest first."""
    out = []
    at = None if base.log is None else Address(*base.log)
    stop = None if before.log is None else Address(*before.log)
    while at is not None and at != stop:
        parts = await fetch_segment(store, at, checkpoint_key(base.id))
        out.append((at, parts))
        at = parts.previous
    return out


async def find_floor(
    store: Store, state: BranchState, old: Floor | None, keep: Retention, now: datetime
) -> Floor | None:
    """Return the floor of a branch by what is to be kept; never below its old one.

    None where all is. Reads the checkpoints that are kept and, to count commits, their logs.
    """
    if keep.everything:
        return old
    count = sum(len(record.entries) for record in state.records)
    base = state.head.base
    while not _is_enough(base, count, keep, now):
        before = await one_before(store, base, old)
        if before is None:
            return None if old is None else _highest(old, base)
        if keep.commits is not None and count < keep.commits:
            for _, parts in await segments_between(store, base, before):
                count += await _commits(store, parts, base)
        base = before
    return _highest(old, base)


def _highest(old: Floor | None, base: Checkpoint) -> Floor | None:
    """Return the floor that a checkpoint is, or the old one where that is not below it.

    A head may be below its floor while a copy of a database that was collected is brought up to
    date: the floor is raised before the head comes.
    """
    return old if old is not None and old.tx >= base.tx else floor_at(base)


def _is_enough(base: Checkpoint, count: int, keep: Retention, now: datetime) -> bool:
    """Whether nothing before a checkpoint is to be kept; ``count`` commits come after it."""
    if keep.commits is not None and count + 1 < keep.commits:
        return False
    # Instants may be ahead of the clock: who keeps none for its age does not look at it.
    if keep.seconds and not _is_before(base, now - timedelta(seconds=keep.seconds)):
        return False
    return keep.before is None or _is_before(base, keep.before)


def _is_before(base: Checkpoint, point: int | datetime) -> bool:
    if isinstance(point, datetime):
        return base.instant is None or base.instant <= point
    return base.tx <= point


async def _commits(store: Store, parts: SegmentParts, base: Checkpoint) -> int:
    count = 0
    for item in parts.items:
        if isinstance(item, bytes):
            count += len(entries_of(item))
        else:
            below = await fetch_segment(store, item, checkpoint_key(base.id))
            count += await _commits(store, below, base)
    return count


def expired(what: str, commit: UUID | None = None) -> SnapshotExpired:
    """Return the error for what a collection has removed."""
    said = {} if commit is None else {"commit": commit}
    return SnapshotExpired(
        f"{what} was removed by a collection of garbage. Take a new value (await conn.sync()); one "
        "that is needed for longer is kept by pin(conn, commit).",
        error=":snapshot/expired",
        **said,
    )
