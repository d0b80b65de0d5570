"""Having a branch be what another one is, if it is still what it was."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final
from uuid import UUID

from datahike_async.env import Env
from datahike_async.konserve.errors import RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.snapshot.ids import LEAST
from datahike_async.storage.branches.branching import (
    MovedOn,
    list_branch,
    replace_head,
    with_ids,
)
from datahike_async.storage.branches.finding import head_place
from datahike_async.storage.branches.head import Head, Recent
from datahike_async.storage.branches.read import BranchState
from datahike_async.storage.branches.registry import Listed, read_registry
from datahike_async.storage.branches.ring import EMPTY
from datahike_async.storage.flush import write_blobs
from datahike_async.storage.log.tail import Tail

__all__ = ["move_branch"]

_ATTEMPTS: Final = 20


async def move_branch(
    store: Store, name: str, source: str, at: UUID, store_id: UUID, env: Env
) -> UUID | None:
    """Have branch ``name``, whose newest commit is ``at``, be what branch ``source`` is.

    One compare-and-set of its head: it is the one or the other. Whoever writes to it is told so,
    for it is another branch of its name; returns by which publication the one before was made. Its
    new entities get ids of a new block. Raises RevisionMismatch, and nothing is done, where the
    branch has moved on.
    """
    before: UUID | None = None
    for _ in range(_ATTEMPTS):
        registry = await read_registry(store)
        place = await head_place(store, source, store_id)
        if place is None:
            raise RevisionMismatch(f"Branch :{source} is not there any more.")
        publication = env.new_uuid()
        base = replace(place.base, branch=name, born=publication)
        base = with_ids(base, registry.block(LEAST))
        tail, segments = await Tail(place.encoded).bounded(env.new_uuid)
        await write_blobs(store, segments)
        head = Head(base, 1, registry.epoch, Recent(publication.bytes), EMPTY, tail.stored())
        try:
            over = partial(_over, head, (at, place.commit.id))
            found, written = await replace_head(store, name, over)
        except MovedOn:
            continue
        if not written:
            raise RevisionMismatch(f"Branch :{name} is not there any more.")
        before = before or found
        listed = Listed(env.now(), place.commit.id, publication)
        if await list_branch(store, name, env, listed, registry.floors.get(source)):
            return before
    raise RevisionMismatch(f"Collections kept beginning; branch :{name} may be as it was.")


def _over(head: Head, known: tuple[UUID, ...], state: BranchState) -> Head:
    """Return the head to write over that of a branch, if its newest commit is a known one."""
    name = head.base.branch
    if state.commit.id not in known:
        raise RevisionMismatch(f"Branch :{name} has moved on, and is as it was.")
    if state.head.epoch > head.epoch:
        raise MovedOn
    return replace(head, generation=state.generation + 1)
