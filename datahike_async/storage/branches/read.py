"""Read a branch from its store: the head, what lies beside it, and the snapshot they amount to.

Recovery is this and nothing else: restore the trees lazily, replay the records since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeGuard, TypeVar
from uuid import UUID

from datahike_async.collector import set_aside
from datahike_async.errors import CorruptData, DatabaseNotFound
from datahike_async.index.levels.factory import LevelsFactory
from datahike_async.index.memtable import Memtable
from datahike_async.index.source import Reading
from datahike_async.konserve.blob import UNCHANGED, Appended, Expected, News, Revision, Unchanged
from datahike_async.konserve.store import Store
from datahike_async.konserve.threads import in_thread
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.storage.branches.head import Head, Recent, decode_head, encode_head
from datahike_async.storage.branches.ring import EMPTY, Ring
from datahike_async.storage.keys import head_key
from datahike_async.storage.log.checkpoint import Checkpoint
from datahike_async.storage.log.reader import fetch_segments
from datahike_async.storage.log.records import Commit, Record, decode_record, newest
from datahike_async.storage.log.tail import Tail
from datahike_async.storage.nodes.store import NodeStore
from datahike_async.tx.apply import replay
from datahike_async.values.schema import Schema

__all__ = [
    "BranchState",
    "Growth",
    "Known",
    "deleted_branch",
    "extend",
    "is_live",
    "missing_branch",
    "read_branch",
    "read_head",
    "reread_branch",
    "restore",
    "restore_at",
    "write_head",
]

T = TypeVar("T")

_INLINE_BYTES: Final = 32 * 1024
_INLINE_OPERATIONS: Final = 1024
"""What is decoded and replayed on the event loop; more goes to a worker thread."""


@dataclass(frozen=True, slots=True)
class BranchState:
    """A branch as it lies in the store, journal included.

    ``generation``, ``commit`` (the newest) and ``recent`` count the journal in; ``tail`` and
    ``records`` are all records that the trees do not hold, encoded and decoded, oldest first.
    """

    head: Head
    revision: Revision
    generation: int
    commit: Commit
    recent: Recent
    tail: Tail
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Growth:
    """The records that a branch has gained on top of what a reader knows.

    The fields say what those of ``BranchState`` say; ``encoded`` and ``records`` hold the new
    records alone, so that taking it over costs by what is new. ``tail`` is the whole, where a head
    told how it lies now, and ``epoch`` that of the head; None where the records were appended to a
    journal.
    """

    revision: Revision
    generation: int
    commit: Commit
    recent: Recent
    encoded: tuple[bytes, ...]
    records: tuple[Record, ...]
    ring: Ring = EMPTY
    tail: Tail | None = None
    epoch: int | None = None

    @property
    def is_fence(self) -> bool:
        """Whether nobody has written anything: a collection has told the branch that it began."""
        return self.epoch is not None and not self.records

    def without(self, generation: int) -> Growth:
        """Return what lies beyond a generation."""
        known = sum(record.generation <= generation for record in self.records)
        return replace(self, encoded=self.encoded[known:], records=self.records[known:])


class Known(NamedTuple):
    """What a reader has of a branch, as ``BranchState`` says it; what is new is read on top.

    ``base`` is encoded; ``born`` says which branch of its name it is.
    """

    born: UUID
    revision: Revision
    generation: int
    commit: Commit
    recent: Recent
    extra: Mapping[str, Any]
    base: bytes
    tail: Tail

    def underlies(self, head: Head, tail: Tail) -> bool:
        """Say whether a head has these records, perhaps more, and nothing else that is new.

        But perhaps an epoch: whoever collects leaves all else as it is.
        """
        records = self.tail.records
        return (
            head.base.encoded == self.base
            and head.extra == self.extra
            and tail.records[: len(records)] == records
        )


async def read_branch(store: Store, branch: str, store_id: UUID | None) -> BranchState | None:
    """Read a branch's head and journal, or return None where there is no such branch.

    Raises konserve's errors; CorruptData, UnsupportedFormat and ConfigError as ``decode_head``.
    """
    state = await reread_branch(store, branch, store_id, None)
    return state if isinstance(state, BranchState) else None


async def reread_branch(
    store: Store,
    branch: str,
    store_id: UUID | None,
    known: Known | None,
    news: News | None = None,
) -> BranchState | Growth | Unchanged | None:
    """Read a branch as ``read_branch`` does, or what was added to what is known of it.

    UNCHANGED if it is as ``known`` says; Growth where others added records and left the trees as
    they are. One conditional read, or none where ``news`` is what a turn brought, and one wave for
    segments that are not known. Raises DatabaseNotFound ``:branch-does-not-exist`` where the branch
    was deleted, also where there is another of its name by now.
    """
    key = head_key(branch)
    since = None if known is None else known.revision
    journal: Sequence[bytes] = ()
    if store.capabilities.journal:
        found = await store.journal(key, since=since, news=news)
        if found is None or found is UNCHANGED:
            return found
        if isinstance(found, Appended):
            assert known is not None  # or nothing could have been appended to it
            past = (known.generation, known.commit, known.recent)
            return await _sized(found.records, _appended, key, found, *past)
        data, journal, revision = found
    else:
        data, revision = await store.get(key, with_revision=True, unless=since, news=news)
        if data is None or data is UNCHANGED:
            return data
    size = [data] if isinstance(data, bytes) else []
    head = await _sized(size, decode_head, data, key, store_id)
    if head.deleted or (known is not None and head.base.born != known.born):
        raise deleted_branch(branch)
    try:
        tail = await fetch_segments(store, head.tail, None if known is None else known.tail, key)
    except CorruptData:
        if await _is_replaced(store, key, revision):
            # By one that names other segments; those may be gone by now.
            return await reread_branch(store, branch, store_id, known)
        raise
    grows = known is not None and known.underlies(head, tail)
    under = known.commit if known is not None and grows else head.base.commit
    new = tail.records[len(known.tail.records) :] if known is not None and grows else tail.records
    records = await _sized(new, _records, key, new)
    past = (head.generation, newest(records, under), head.recent)
    grown = await _sized(journal, _appended, key, Appended(journal, revision), *past)
    for record in grown.encoded:
        tail.append(record)
    counts = (grown.generation, grown.commit, grown.recent)
    if grows:
        encoded, found_records = (*new, *grown.encoded), (*records, *grown.records)
        return Growth(revision, *counts, encoded, found_records, head.ring, tail, head.epoch)
    return BranchState(head, revision, *counts, tail, (*records, *grown.records))


async def _is_replaced(store: Store, key: str, revision: Revision) -> bool:
    if store.capabilities.journal:
        found = await store.journal(key, since=revision)
        return not (found is UNCHANGED or isinstance(found, Appended))
    data, _ = await store.get(key, with_revision=True, unless=revision)
    return data is not UNCHANGED


async def read_head(store: Store, branch: str) -> tuple[Head | None, Expected]:
    """Return the head of a branch, also what is left of a deleted one, and its revision.

    Without its journal, so that the revision is good for replacing what has none alone.
    """
    key = head_key(branch)
    data, revision = await store.get(key, with_revision=True)
    return (None if data is None else decode_head(data, key, None)), revision


async def write_head(store: Store, head: Head, expected: Expected) -> None:
    """Write the head of a branch over a revision of it, where the store can compare them."""
    revision = expected if store.capabilities.compares else None
    await store.assoc(head_key(head.base.branch), encode_head(head), expected_revision=revision)


def is_live(head: Head | None) -> TypeGuard[Head]:
    """Say whether there is a branch."""
    return head is not None and not head.deleted


async def _sized(parts: Sequence[bytes], decode: Callable[..., T], *args: Any) -> T:
    """Decode here or in a worker thread, by the size of what is decoded."""
    if sum(map(len, parts)) > _INLINE_BYTES:
        return await in_thread(decode, *args)
    return decode(*args)


def _records(key: str, encoded: Sequence[bytes]) -> tuple[Record, ...]:
    return tuple(decode_record(record, f"The tail of {key}") for record in encoded)


def _appended(key: str, new: Appended, generation: int, commit: Commit, recent: Recent) -> Growth:
    records = []
    for encoded in new.records:
        record = decode_record(encoded, f"The journal of {key}")
        if record.generation != generation + 1:
            raise CorruptData(
                f"The journal of {key} goes from generation {generation} to {record.generation}; "
                "what lies between is missing.",
                place=key,
            )
        generation, recent = record.generation, recent.after(record.publication)
        records.append(record)
    commit = newest(records, commit)
    return Growth(new.revision, generation, commit, recent, tuple(new.records), tuple(records))


def deleted_branch(branch: str) -> DatabaseNotFound:
    """Return the error for a branch that was deleted or replaced."""
    return DatabaseNotFound(
        f"Branch :{branch} does not exist as it was opened: it was deleted, or another one has its "
        "name. Connect again, if there is one.",
        error=":branch-does-not-exist",
        branch=branch,
    )


def missing_branch(branch: str) -> DatabaseNotFound:
    """Return the error for a branch that is not there."""
    return DatabaseNotFound(
        f"Database does not exist: the store is there, but has no branch :{branch}. Make the "
        "branch of another one with branch, or create the database with create_database.",
        error=":db-does-not-exist",
        branch=branch,
    )


async def restore(
    state: BranchState, factory: LevelsFactory, source: NodeStore, owner: object | None
) -> tuple[Snapshot, datetime | None]:
    """Return the snapshot of a branch and the instant of its newest transaction."""
    return await restore_at(state.head.base, state.records, factory, source, owner)


async def restore_at(
    base: Checkpoint,
    records: Sequence[Record],
    factory: LevelsFactory,
    source: NodeStore,
    owner: object | None = None,
) -> tuple[Snapshot, datetime | None]:
    """Return the snapshot of a checkpoint with records on top, and its newest instant."""
    index_config = base.config["index-config"]
    trees = Trees.restore(factory, index_config, base.trees, source, source.memory)
    mem = Memtable()
    mem.owner = owner
    schema = Schema.from_data(base.schema)
    snapshot = Snapshot(schema, trees, mem, 0, 0, trees.max_eid, trees.max_tx)
    snapshot, instant = await extend(snapshot, records, source, owner)
    return snapshot, instant or base.instant


async def extend(
    snapshot: Snapshot, records: Sequence[Record], source: NodeStore, owner: object | None
) -> tuple[Snapshot, datetime | None]:
    """Return the snapshot after further records, and the instant of the newest, if there is one."""
    entries = [entry for record in records for entry in record.entries]
    many = sum(len(entry.operations) for entry in entries) >= _INLINE_OPERATIONS
    at = 0

    def go() -> None:
        nonlocal snapshot, at
        while at < len(entries):
            entry = entries[at]
            snapshot = replay(
                snapshot, entry.operations, entry.new_attrs, entry.tx, entry.max_eid, owner
            )
            at += 1

    with Reading() as reading, set_aside() if many else nullcontext():
        await reading.call(go, run=in_thread if many else None)
    return snapshot, entries[-1].instant if entries else None
