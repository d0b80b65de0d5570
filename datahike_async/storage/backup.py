"""Copying a database from one store into another: backups, restores and moves are all this.

What the heads of the source name is surveyed and what the target lacks of it is written there; the
heads come last, by compare-and-set. So a copy that was ended half way is no database, and the same
copy goes on where it stopped. Where nodes lie in another layout they are written anew
(``moving``), and checkpoints with them; all else goes as it is.

Writers of the source go on. What a collection there removes meanwhile shows as missing, and the
copy starts over with what the heads name then; it keeps what it has written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import anyio

from datahike_async.collector import set_aside
from datahike_async.errors import (
    CorruptData,
    DatabaseNotFound,
    StorageError,
)
from datahike_async.index.source import Address
from datahike_async.konserve.base import gather, listing
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import in_thread
from datahike_async.storage.branches.branching import unknown_branch
from datahike_async.storage.branches.head import decode_head, encode_head
from datahike_async.storage.branches.registry import (
    Registry,
    read_registry,
)
from datahike_async.storage.flush import write_blobs
from datahike_async.storage.keys import BRANCHES, checkpoint_key, head_key, tag_key
from datahike_async.storage.log.checkpoint import Checkpoint, decode_checkpoint
from datahike_async.storage.moving import Moving, alike
from datahike_async.storage.nodes.layout import Layout, layout_of
from datahike_async.storage.receiving import Copying, Gone, Receiver
from datahike_async.storage.survey import Seen, Stop, Survey

__all__ = ["Copied", "Copying", "copy_store"]

_ATTEMPTS: Final = 5
_PAUSE: Final = 0.05
_NODES: Final = 64
_PACKS: Final = 8
"""Blobs that are on their way together, small ones or of some MB."""
_AT_ONCE: Final = 8


@dataclass(slots=True)
class Copied:
    """What a copy has written and found: ``commits`` by branch; ``kept`` blobs were there."""

    commits: dict[str, UUID] = field(default_factory=dict)
    blobs: int = 0
    bytes: int = 0
    kept: int = 0
    rewritten: bool = False


async def copy_store(job: Copying) -> Copied:
    """Copy a database into a store, which holds none, or an earlier copy of this one.

    Raises DatabaseExists where the target holds another database, or a copy that was written to;
    ConfigError where it holds other data; CorruptData where the source is damaged; konserve's
    errors.
    """
    done = Copied()
    for attempt in range(_ATTEMPTS):
        try:
            with set_aside():
                await _Copy(job, done).run()
        except Gone as gone:
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
        raise Gone(f"{place} is missing from the source: {message}")
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
        self._receiver = Receiver(job, self._moved, self._write)
        self._names: set[str] = set()
        self._seen = Seen()
        self._places: dict[Address, Address] | None = None
        self._count = self._of = 0

    async def run(self) -> None:
        done, receiver = self._done, self._receiver
        mine = await self._selected()
        await receiver.look(mine)
        self._seen = await self._surveyed(mine)
        # As it was when what it names was looked through: collections may have raised floors since.
        assert self._seen.registry is not None
        mine = self._chosen(self._seen.registry)
        receiver.seen = self._seen
        await receiver.check_line()
        if receiver.registry is None:
            await receiver.claim()
        self._names = await _names(self._target)
        if layout_of(self._source.capabilities) is layout_of(self._target.capabilities):
            await self._copy(self._seen.blobs - self._heads())
        else:
            done.rewritten = True
            await self._rewrite()
        await receiver.publish(mine)
        done.commits = {name: state.commit.id for name, state in self._seen.branches.items()}

    def _heads(self) -> set[str]:
        return {BRANCHES, *map(head_key, self._seen.branches)}

    # -- what there is -------------------------------------------------------------------------

    async def _selected(self) -> Registry:
        """Return the registry of the source, with the branches that are to be copied alone."""
        if not await self._source.exists(BRANCHES):
            raise DatabaseNotFound(
                "The store to be copied holds no database.", error=":db-does-not-exist"
            )
        return self._chosen(await read_registry(self._source))

    def _chosen(self, registry: Registry) -> Registry:
        wanted = self._job.branches
        if wanted is None:
            return registry
        for name in wanted:
            if name not in registry.branches:
                raise unknown_branch(name, registry)
        chosen = {name: registry.branches[name] for name in sorted(wanted)}
        main = registry.main if registry.main in chosen else next(iter(chosen))
        floors = {name: at for name, at in registry.floors.items() if name in chosen}
        return replace(registry, main=main, branches=chosen, floors=floors, tags={})

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
                raise Gone(str(error)) from error
            raise

    # -- blobs ---------------------------------------------------------------------------------

    async def _copy(self, keys: Collection[str]) -> None:
        """Copy blobs as they are, those that the target lacks."""
        lacking = await in_thread(self._lacking, keys)
        self._done.kept += len(keys) - len(lacking)
        self._of += len(lacking)
        step = _NODES if layout_of(self._source.capabilities) is Layout.NODES else _PACKS
        for start in range(0, len(lacking), step):
            found = await gather(self._read, lacking[start : start + step], _AT_ONCE)
            await self._write(found)
            self._tell(len(found))

    def _lacking(self, keys: Collection[str]) -> list[str]:
        return sorted(key for key in keys if name_of_key(key) not in self._names)

    async def _read(self, key: str) -> tuple[str, bytes]:
        data = await self._source.bget(key)
        if data is None:
            raise Gone(f"{key} is missing from the source")
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
        if self._receiver.there:
            theirs = await Survey(self._target, _damaged).run(sorted(self._receiver.there))
        known = await in_thread(alike, seen, theirs)
        moving = Moving(self._source, seen, self._target, known)
        self._places = moving.places
        self._of = len(seen.nodes.keys() - moving.places.keys())
        await self._copy({address.blob for address in seen.segments})
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
            roots[root.name] = stop.factory.rooted(roots[root.name], places)
        return replace(base, trees={**base.trees, "roots": roots}).with_encoding()


async def _names(store: Store) -> set[str]:
    names: set[str] = set()
    async with listing(store.blobs.names()) as pages:
        async for page in pages:
            names.update(page)
    return names
