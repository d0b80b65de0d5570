"""The fence: telling a branch that a collection has begun, by its head.

A writer that was writing what nothing names yet learns of it from its next compare-and-set, and
writes it anew: what it has written is not published any more. Nothing else of the branch changes.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Final, NamedTuple

from datahike_async.env import Env
from datahike_async.errors import DatabaseNotFound
from datahike_async.index.source import Address
from datahike_async.konserve.errors import OutcomeUnknown, OutOfTurn, RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.read import is_live, read_branch, read_head, write_head
from datahike_async.storage.flush import write_blobs
from datahike_async.storage.keys import head_key
from datahike_async.storage.log.checkpoint import Checkpoint

__all__ = ["Fenced", "fence_head"]

_PATIENT: Final = 200
"""More than the publications in a row after which a lone writer lets others in between."""


class Fenced(NamedTuple):
    """What a head names: a checkpoint, and the records since or where they lie."""

    base: Checkpoint
    tail: tuple[bytes | Address, ...]
    deleted: bool


async def fence_head(store: Store, name: str, epoch: int, env: Env) -> Fenced | None:
    """Write an epoch into the head of a branch, and return what it names from then on.

    None where there is none. That of a deleted branch stays as it is. The records that lie in a
    journal beside the head are put into the new one, or into segments that it names. Raises
    RevisionMismatch where others kept being faster.
    """
    turns = store.capabilities.turns
    for _ in range(_PATIENT):
        # Whoever writes to it all the time would be faster each time.
        async with store.turn(head_key(name)) if turns else nullcontext():
            try:
                state = await read_branch(store, name, None)
            except DatabaseNotFound:
                head, _ = await read_head(store, name)
                if is_live(head):
                    continue  # another of its name was made meanwhile
                return None if head is None else Fenced(head.base, (), True)
            if state is None:
                return None
            if state.head.epoch >= epoch:
                return Fenced(state.head.base, state.head.tail, False)
            tail, segments = await state.tail.bounded(env.new_uuid)
            await write_blobs(store, segments)
            head = replace(
                state.head,
                epoch=epoch,
                generation=state.generation + 1,
                recent=state.recent.after(env.new_uuid()),
                tail=tail.stored(),
            )
            try:
                await write_head(store, head, state.revision)
            except (RevisionMismatch, OutcomeUnknown, OutOfTurn):
                continue
            return Fenced(head.base, head.tail, False)
    raise RevisionMismatch(f"Others kept writing to branch :{name}; nothing was collected.")
