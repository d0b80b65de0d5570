"""Audit: whether commits are what their ids say, from the newest one back through their parents.

For databases whose commits are hashes (``storage.hashes``). Of each commit the id is made again of
its parents and its record, of each checkpoint the hash that ties it to its commit, and those of the
roots' own nodes. What is below the roots, and whether the log leads to it, ``storage.verify`` says.
Writes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from datahike_async.errors import CorruptData, DatahikeError, SnapshotExpired
from datahike_async.index.registry import index_factory
from datahike_async.index.source import Address
from datahike_async.konserve.errors import KonserveError
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import in_thread
from datahike_async.pausing import pause
from datahike_async.storage.branches.finding import Line, find_commit
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.branches.walk import Past, Place
from datahike_async.storage.hashes import hashed_id
from datahike_async.storage.keys import checkpoint_key
from datahike_async.storage.log.checkpoint import Checkpoint, decode_checkpoint
from datahike_async.storage.log.records import decode_record, entries_of, tx_of_commit
from datahike_async.storage.nodes.store import read_raw
from datahike_async.storage.survey import is_forged, wrong_bytes
from datahike_async.storage.translate import translate
from datahike_async.storage.verify import Finding

__all__ = ["Audited", "audit_from"]


@dataclass(slots=True)
class Audited:
    """What was found: of how many commits the ids are right, what is wrong, and what is not there.

    ``met`` are the ids that were looked at; ``ended``, that some of the past was collected, or has
    gone with its branch; ``limited``, that as many were looked at as were asked for.
    """

    commits: int = 0
    mismatches: list[Finding] = field(default_factory=list)
    missing: list[Finding] = field(default_factory=list)
    met: set[UUID] = field(default_factory=set)
    ended: bool = False
    limited: bool = False

    def mismatch(self, place: str, message: str) -> None:
        """Note what contradicts its hash."""
        self.mismatches.append(Finding("mismatch", place, message))


class _Step(NamedTuple):
    """A commit as a record says it is."""

    id: UUID
    parents: tuple[UUID, ...]
    publication: UUID
    tx: int
    entry: bytes
    said: bool


async def audit_from(store: Store, own: Line, place: Place, *, limit: int | None = None) -> Audited:
    """Look at the commit at a place and at all that it was made on, at most ``limit`` commits.

    ``own`` is the newest of its branch. Raises konserve's errors where the store cannot be read.
    """
    return await _Audit(store, own, limit).run(place)


class _Audit:
    def __init__(self, store: Store, own: Line, limit: int | None) -> None:
        self._store = store
        self._own = own
        self._limit = limit
        self._past = Past(store)
        self._out = Audited()
        self._checked: set[UUID] = set()
        self._roots: set[Address] = set()
        self._waiting: deque[UUID] = deque()

    async def run(self, place: Place) -> Audited:
        out = self._out
        await self._line(place)
        while self._waiting and not out.limited:
            commit = self._waiting.popleft()
            if commit not in out.met:
                await self._parent(commit)
        return out

    async def _parent(self, commit: UUID) -> None:
        """Look at a commit that others were made on, on whatever branch it is."""
        try:
            registry = await read_registry(self._store)
            origin = await find_commit(self._store, self._past, registry, self._own, commit)
        except SnapshotExpired:
            self._out.ended = True
        except CorruptData as error:
            await self._unreadable(f"commit {commit}", error, tx_of_commit(commit))
        else:
            if origin is None:
                self._out.ended = True  # that of a branch that was merged, and deleted
            else:
                await self._line(origin.place)

    async def _line(self, place: Place) -> None:
        """Go back from a place, checkpoint by checkpoint."""
        base: Checkpoint = place.base
        encoded: Sequence[bytes] = place.encoded
        await self._records((base.commit.id,), encoded, f"the log of :{base.branch}")
        while not self._out.limited and base.id not in self._checked:
            self._checked.add(base.id)
            await self._checkpoint(base)
            before: Checkpoint | None = None
            pointer = base.back[0] if base.back else None
            key = checkpoint_key(base.id)
            try:
                if pointer is not None:
                    before = await self._past.checkpoint(pointer.id)
                encoded = await self._past.between(before, base)
            except (CorruptData, KonserveError) as error:
                await self._unreadable(key, error, base.tx - 1 if pointer is None else pointer.tx)
                return
            if before is not None and before.pointer != pointer:
                said = f"{key} names {pointer}, and that is {before.pointer}"
                self._out.mismatch(checkpoint_key(before.id), said)
            under = () if before is None else (before.commit.id,)
            newest = await self._records(under, encoded, f"the log before {key}")
            self._joins(base, newest, before)
            if before is None:
                return
            base = before
            await pause()

    def _joins(self, base: Checkpoint, newest: UUID | None, before: Checkpoint | None) -> None:
        """Compare the commit of a checkpoint with the newest of the log up to it."""
        out, key = self._out, checkpoint_key(base.id)
        if newest is None and before is None:
            if base.commit.id != base.value_id():
                said = f"the first commit is {base.commit.id}, and neither log nor trees say so"
                out.mismatch(key, said)
            elif base.commit.id not in out.met:
                out.met.add(base.commit.id)
                out.commits += 1
            self._waiting += base.commit.parents
        elif base.commit.id != (newest or (before and before.commit.id)):
            out.mismatch(key, f"it is of commit {base.commit.id}, and the log ends with {newest}")

    async def _unreadable(self, place: str, error: Exception, tx: int) -> None:
        """Note what could not be read, which is no fault where it has been collected."""
        if isinstance(error, KonserveError):
            error = translate(error)
        if not isinstance(error, CorruptData):
            raise error
        if error.error != ":node-not-found":
            self._out.mismatches.append(Finding("corrupt", place, str(error)))
            return
        floors = (await read_registry(self._store)).floors.values()
        if any(tx < floor.tx for floor in floors):
            self._out.ended = True
        else:
            self._out.missing.append(Finding("missing", place, str(error)))

    # -- commits -------------------------------------------------------------------------------

    async def _records(
        self, under: tuple[UUID, ...], encoded: Sequence[bytes], where: str
    ) -> UUID | None:
        """Look at records, the oldest first, on top of a commit; return the id of their newest."""
        if not encoded:
            return None
        try:
            steps = await in_thread(_steps, under, encoded, where)
            await in_thread(self._ids, steps, where)
        except DatahikeError as error:
            if not isinstance(error, CorruptData):
                raise
            self._out.mismatches.append(Finding("corrupt", where, str(error)))
            return None
        return steps[-1].id

    def _ids(self, steps: Sequence[_Step], where: str) -> None:
        out = self._out
        for step in reversed(steps):
            if self._limit is not None and out.commits >= self._limit:
                out.limited = True
                return
            made = hashed_id(step.tx, step.parents, step.publication, step.entry)
            if step.id != made or not step.said:
                said = f"what the log says of commit {step.id} is that of {made}"
                out.mismatch(where, said)
            elif step.id not in out.met:
                out.commits += 1
            out.met.add(step.id)
            self._waiting += step.parents[1:]

    # -- checkpoints ---------------------------------------------------------------------------

    async def _checkpoint(self, base: Checkpoint) -> None:
        """Look at a checkpoint, at what lies under its key, and at the nodes of its roots."""
        out, key = self._out, checkpoint_key(base.id)
        try:
            if base.hash != base.binding():
                out.mismatch(key, "what it holds does not have the hash that it says")
            if base.tx != tx_of_commit(base.commit.id):
                out.mismatch(key, f"it is at transaction {base.tx}, and of {base.commit.id}")
            data = await self._store.bget(key)
            if data is None:
                out.missing.append(Finding("missing", key, "the checkpoint is not in the store"))
            else:
                stored = decode_checkpoint(data, key)
                if (stored.id, stored.hash) != (base.id, base.hash):
                    out.mismatch(key, f"it holds {stored.id}, and not what a head says of it")
        except (CorruptData, KonserveError) as error:
            await self._unreadable(key, error, base.tx)
        except (KeyError, TypeError, ValueError) as error:
            out.mismatch(key, f"it names no trees: {error!r}")
            return
        await self._tops(base)

    async def _tops(self, base: Checkpoint) -> None:
        factory = index_factory(base.config["index"])
        roots = base.trees["roots"].values()
        tops = {top.child.address for root in roots for top in factory.tops(root)}
        new = sorted(tops - self._roots)
        self._roots |= tops
        for address, data in await read_raw(self._store, new):
            where = f"the root at {address.offset} of {address.blob}"
            if isinstance(data, Exception):
                await self._unreadable(where, data, base.tx)
                continue
            wrong = wrong_bytes(address, data)
            if data is None:
                error = CorruptData("it is not in the store", error=":node-not-found")
                await self._unreadable(where, error, base.tx)
            elif wrong:
                self._out.mismatches.append(Finding("corrupt", where, f"it {wrong}"))
            else:
                try:
                    forged = not address.hash or is_forged(
                        address, factory, data, factory.decode(data)
                    )
                except DatahikeError as error:
                    self._out.mismatches.append(Finding("corrupt", where, str(error)))
                    continue
                if forged:
                    said = f"{checkpoint_key(base.id)} says another hash of it"
                    self._out.mismatch(where, said)


def _steps(under: tuple[UUID, ...], encoded: Sequence[bytes], where: str) -> list[_Step]:
    return list(_commits(under, encoded, where))


def _commits(under: tuple[UUID, ...], encoded: Sequence[bytes], where: str) -> Iterator[_Step]:
    for data in encoded:
        record = decode_record(data, where)
        under = (*under, *record.parents)
        for id_, entry, bytes_ in zip(
            record.commits, record.entries, entries_of(data), strict=True
        ):
            yield _Step(id_, under, record.publication, entry.tx, bytes_, bool(record.ids))
            under = (id_,)
