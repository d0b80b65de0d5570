"""Read a branch from its store: the head, what lies beside it, and the snapshot they amount to.

Recovery is this and nothing else: restore the trees lazily, replay the records since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from anyio.to_thread import run_sync

from datahike_async.errors import CorruptData, DatabaseNotFound
from datahike_async.index.memtable import Memtable
from datahike_async.index.protocol import IndexFactory
from datahike_async.index.source import NodeMiss
from datahike_async.konserve.blob import UNCHANGED, Revision, Unchanged
from datahike_async.konserve.store import Store
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.trees import Trees
from datahike_async.storage.codec import Record, decode_record
from datahike_async.storage.head import Head, Recent, decode_head
from datahike_async.storage.layout import head_key
from datahike_async.storage.node_store import NodeStore
from datahike_async.tx.apply import replay
from datahike_async.values.schema import Schema

__all__ = ["BranchState", "extend", "missing_branch", "read_branch", "reread_branch", "restore"]

_INLINE_BYTES: Final = 32 * 1024
_INLINE_ENTRIES: Final = 32
"""What is decoded and replayed on the event loop; more goes to a worker thread."""


@dataclass(frozen=True, slots=True)
class BranchState:
    """A branch as it lies in the store, journal included.

    ``generation``, ``commit`` and ``recent`` count the journal in; ``records`` are all records
    that the trees do not hold, encoded and decoded, oldest first.
    """

    head: Head
    revision: Revision
    generation: int
    commit: UUID
    recent: Recent
    encoded: tuple[bytes, ...]
    records: tuple[Record, ...]


async def read_branch(store: Store, branch: str, store_id: UUID | None) -> BranchState | None:
    """Read a branch's head and journal, or return None where there is no such branch.

    Raises konserve's errors; CorruptData, UnsupportedFormat and ConfigError as ``decode_head``.
    """
    state = await reread_branch(store, branch, store_id, None)
    return None if state is UNCHANGED else state


async def reread_branch(
    store: Store, branch: str, store_id: UUID | None, unless: Revision | None
) -> BranchState | Unchanged | None:
    """Read a branch as ``read_branch`` does; UNCHANGED if its revision is ``unless``.

    One conditional read.
    """
    key = head_key(branch)
    journal: Sequence[bytes] = ()
    if store.capabilities.journal:
        found = await store.journal(key, unless=unless)
        if found is None or found is UNCHANGED:
            return found
        data, journal, revision = found
    else:
        data, revision = await store.get(key, with_revision=True, unless=unless)
        if data is None or data is UNCHANGED:
            return data
    size = len(data) if isinstance(data, bytes) else 0
    if size + sum(map(len, journal)) > _INLINE_BYTES:
        return await run_sync(_decoded, key, data, journal, revision, store_id)
    return _decoded(key, data, journal, revision, store_id)


def _decoded(
    key: str, data: Any, journal: Sequence[bytes], revision: Revision, store_id: UUID | None
) -> BranchState:
    head = decode_head(data, key, store_id)
    records = [decode_record(r, f"The tail of {key}") for r in head.tail]
    generation, commit, recent = head.generation, head.commit, head.recent
    for encoded in journal:
        record = decode_record(encoded, f"The journal of {key}")
        if record.generation != generation + 1:
            raise CorruptData(
                f"The journal of {key} goes from generation {generation} to {record.generation}; "
                "what lies between is missing.",
                place=key,
            )
        generation, commit = record.generation, record.commit
        recent = recent.after(commit)
        records.append(record)
    return BranchState(
        head, revision, generation, commit, recent, (*head.tail, *journal), tuple(records)
    )


def missing_branch(branch: str) -> DatabaseNotFound:
    """Return the error for a branch that is not there."""
    return DatabaseNotFound(
        f"Database does not exist: the store is there, but has no branch :{branch}. Create it "
        "with create_database.",
        error=":db-does-not-exist",
        branch=branch,
    )


async def restore(
    state: BranchState, factory: IndexFactory, source: NodeStore, owner: object | None
) -> tuple[Snapshot, datetime | None]:
    """Return the snapshot of a branch and the instant of its newest transaction."""
    base = state.head.base
    trees = Trees.restore(factory, base.config["index-config"], base.trees, source)
    mem = Memtable()
    mem.owner = owner
    schema = Schema.from_data(base.schema)
    snapshot = Snapshot(schema, trees, mem, 0, 0, trees.max_eid, trees.max_tx)
    snapshot, instant = await extend(snapshot, state.records, source, owner)
    return snapshot, instant or base.instant


async def extend(
    snapshot: Snapshot, records: Sequence[Record], source: NodeStore, owner: object | None
) -> tuple[Snapshot, datetime | None]:
    """Return the snapshot after further records, and the instant of the newest, if there is one."""
    entries = [entry for record in records for entry in record.entries]
    at = 0

    def go() -> None:
        nonlocal snapshot, at
        while at < len(entries):
            entry = entries[at]
            snapshot = replay(
                snapshot, entry.operations, entry.new_attrs, entry.tx, entry.max_eid, owner
            )
            at += 1

    with source.pinned():
        while True:
            try:
                if len(entries) - at < _INLINE_ENTRIES:
                    go()
                else:
                    await run_sync(go)
                break
            except NodeMiss as miss:
                await miss.source.fetch(miss.addresses)
    return snapshot, entries[-1].instant if entries else None
