"""Tags: names of commits that never move, and keep what they name.

A tag is a copied head, as a branch is: a checkpoint, and the records on top of it. It lies under a
key of its own, that of its publication, and is there once the registry names it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from datahike_async.env import Env
from datahike_async.errors import CorruptData, NameNotFound, NameTaken
from datahike_async.konserve.errors import KonserveError, RevisionMismatch
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.head import Head, Recent, decode_head, encode_head
from datahike_async.storage.branches.origin import Origin
from datahike_async.storage.branches.registry import (
    Registry,
    Tagged,
    change_registry,
    read_registry,
)
from datahike_async.storage.branches.ring import EMPTY
from datahike_async.storage.branches.walk import Place
from datahike_async.storage.flush import write_blobs
from datahike_async.storage.keys import tag_key
from datahike_async.storage.log.reader import fetch_segments
from datahike_async.storage.log.records import decode_record, newest
from datahike_async.storage.log.tail import Tail

__all__ = ["begin_tag", "end_tag", "read_tag", "tagged_head"]

_ATTEMPTS: Final = 20


async def begin_tag(
    store: Store, name: str, find: Callable[[Registry], Awaitable[Origin]], env: Env
) -> None:
    """Give what ``find`` finds a name, as far as the registry it is given keeps it.

    Where a collection has begun since, all is done again. Raises NameTaken
    ``:tag-already-exists``, and what ``find`` raises.
    """
    for _ in range(_ATTEMPTS):
        registry = await read_registry(store)
        _require_free(registry, name)
        if await _tagged(store, name, (await find(registry)).place, registry.epoch, env):
            return
    raise RevisionMismatch(f"Collections kept beginning; tag :{name} was not made.")


async def _tagged(store: Store, name: str, place: Place, epoch: int, env: Env) -> bool:
    made = Tagged(env.now(), place.commit.id, env.new_uuid())
    tail, segments = await Tail(place.encoded).bounded(env.new_uuid)
    head = Head(place.base, 1, epoch, Recent(made.publication.bytes), EMPTY, tail.stored())
    await write_blobs(store, [*segments, (tag_key(made.publication), encode_head(head))])

    async def change(now: Registry) -> Registry | None:
        if now.tags.get(name) == made:
            return None
        _require_free(now, name)
        return replace(now, tags={**now.tags, name: made}) if now.epoch == epoch else None

    return (await change_registry(store, change)).tags.get(name) == made


async def end_tag(store: Store, name: str) -> None:
    """Take a name back. Raises NameNotFound ``:tag-does-not-exist``."""
    gone: Tagged | None = None

    async def change(now: Registry) -> Registry | None:
        nonlocal gone
        found = now.tags.get(name)
        if found is None:
            if gone is None:
                raise unknown_tag(name, now)
            return None
        if gone not in (None, found):
            return None  # no answer came, but it was taken back, and another one has its name
        gone = found
        return replace(now, tags={n: tag for n, tag in now.tags.items() if n != name})

    await change_registry(store, change)
    assert gone is not None
    # Nothing names it any more; what can't be deleted now is collected.
    with suppress(KonserveError):
        await store.dissoc(tag_key(gone.publication))


async def tagged_head(store: Store, tag: Tagged) -> Head | None:
    """Return what a tag names, as a head; None where the tag was taken back meanwhile."""
    key = tag_key(tag.publication)
    data = await store.bget(key)
    if data is None:
        if tag in (await read_registry(store)).tags.values():
            raise CorruptData(f"{key} is not in the store, though a tag refers to it.", place=key)
        return None
    return decode_head(data, key, None)


async def read_tag(store: Store, tag: Tagged) -> Place | None:
    """Return where the commit of a tag is; None where the tag was taken back meanwhile."""
    head = await tagged_head(store, tag)
    if head is None:
        return None
    key = tag_key(tag.publication)
    tail = await fetch_segments(store, head.tail, None, key)
    records = tuple(decode_record(record, f"The tail of {key}") for record in tail.records)
    return Place(head.base, tuple(tail.records), records, newest(records, head.base.commit))


def _require_free(registry: Registry, name: str) -> None:
    if name in registry.tags:
        raise NameTaken(
            f"Tag :{name} already exists; take it back with untag, or choose another name.",
            error=":tag-already-exists",
            tag=name,
        )


def unknown_tag(name: str, registry: Registry) -> NameNotFound:
    """Return the error for a tag that a store does not have."""
    known = ", ".join(f":{one}" for one in sorted(registry.tags)) or "none"
    return NameNotFound(
        f"Tag :{name} does not exist; the tags of this database: {known}.",
        error=":tag-does-not-exist",
        tag=name,
    )
