"""Finding a commit in the past of a branch: the checkpoint before it, and the records up to it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from uuid import UUID

from datahike_async.errors import CorruptData
from datahike_async.index.source import Address
from datahike_async.konserve.store import Store
from datahike_async.storage.branches.registry import read_registry
from datahike_async.storage.branches.retained import expired
from datahike_async.storage.keys import checkpoint_key
from datahike_async.storage.log.checkpoint import Checkpoint, decode_checkpoint
from datahike_async.storage.log.reader import fetch_segment, fetch_segments
from datahike_async.storage.log.records import (
    Commit,
    Record,
    decode_record,
    encode_record,
    entries_of,
    newest,
    tx_of_commit,
    txs_of,
)

__all__ = ["Past", "Place", "Stretch"]


# Checkpoints, and logs of flushes, that are kept.
_KEPT: Final = 256
_SEGMENTS: Final = 4


class Place(NamedTuple):
    """Where a commit is: a checkpoint, and the records on top of it that end with the commit."""

    base: Checkpoint
    encoded: tuple[bytes, ...]
    records: tuple[Record, ...]
    commit: Commit


class Stretch(NamedTuple):
    """Encoded records of the log, oldest first, up to the transaction ``upto``; None: to the end.

    ``whole`` says that they begin where they were asked for: nothing leads further back, else.
    """

    encoded: Sequence[bytes]
    upto: int | None
    whole: bool


class Past:
    """What is known of the past of a store's branches. What was read is kept: it never changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._checkpoints: dict[UUID, Checkpoint] = {}
        # What each checkpoint has on top of the one before it.
        self._records: dict[UUID, tuple[bytes, ...]] = {}

    async def find(self, base: Checkpoint, tail: Sequence[bytes], commit: UUID) -> Place | None:
        """Return where a commit is in the past of a branch; None where it is not in it.

        ``base`` is the newest checkpoint of the branch, ``tail`` the records since.

        Reads a few checkpoints, and the log of one flush. Raises CorruptData where they are gone.
        """
        found = await self.at(base, tail, tx_of_commit(commit))
        return found if found is not None and found.commit.id == commit else None

    async def at(self, base: Checkpoint, tail: Sequence[bytes], tx: int) -> Place | None:
        """Return where the commit of a transaction is in the past of a branch, as ``find`` does.

        Raises SnapshotExpired where what leads there was collected.
        """
        try:
            return await self._at(base, tail, tx)
        except CorruptData as error:
            if error.error == ":node-not-found":
                floors = (await read_registry(self._store)).floors.values()
                if any(tx < floor.tx for floor in floors):
                    raise expired(f"What was there at transaction {tx}") from error
            raise

    async def _at(self, base: Checkpoint, tail: Sequence[bytes], tx: int) -> Place | None:
        if base.tx < tx:
            return _place(base, tail, tx)
        if base.tx == tx:
            return Place(base, (), (), base.commit)
        later: Checkpoint | None = None
        while (pointer := base.towards(tx)) is not None:
            later, base = base, await self.checkpoint(pointer.id)
        if base.tx > tx:
            return None  # older than the first
        if base.tx == tx:
            return Place(base, (), (), base.commit)
        if later is None:
            return None
        return _place(base, await self.between(base, later), tx)

    async def after(self, base: Checkpoint, tail: Sequence[bytes], tx: int) -> Stretch:
        """Return the records after a transaction: up to the next checkpoint, or since the last.

        Some may hold transactions before it, too. What it costs goes by the records of one flush.
        Raises CorruptData ``:node-not-found`` where what leads there is gone.
        """
        at, later = base, None
        while at.tx > tx and (pointer := at.towards(tx)) is not None:
            later, at = at, await self.checkpoint(pointer.id)
        if at.tx > tx:
            return Stretch(_after(await self.between(None, at), tx), at.tx, whole=False)
        if later is None:
            return Stretch(_after(tail, tx), None, whole=True)
        return Stretch(_after(await self.between(at, later), tx), later.tx, whole=True)

    async def holds(self, base: Checkpoint, tail: Sequence[bytes], commit: UUID) -> bool:
        """Whether a commit is in the past of a branch, which nearly always one record says.

        Raises what ``find`` raises.
        """
        with suppress(CorruptData):  # what leads to the one before it may be gone
            found = (await self.after(base, tail, tx_of_commit(commit) - 1)).encoded
            if found and commit in decode_record(found[0], "A record of the log").commits:
                return True
        return await self.find(base, tail, commit) is not None

    async def checkpoint(self, id: UUID) -> Checkpoint:
        """Return a checkpoint. Raises CorruptData ``:node-not-found`` where it is not there."""
        found = self._checkpoints.get(id)
        if found is None:
            if len(self._checkpoints) >= _KEPT:
                self._checkpoints.clear()
            key = checkpoint_key(id)
            data = await self._store.bget(key)
            if data is None:
                raise CorruptData(
                    f"{key} is not in the store, though the database refers to it.",
                    error=":node-not-found",
                    place=key,
                )
            found = self._checkpoints[id] = decode_checkpoint(data, key)
        return found

    async def between(self, base: Checkpoint | None, later: Checkpoint) -> Sequence[bytes]:
        """Return the records between two checkpoints that follow one another, or up to the first.

        Raises CorruptData where a segment is missing or damaged.
        """
        found = self._records.get(later.id)
        if found is None:
            if len(self._records) >= _SEGMENTS:
                self._records.clear()
            parts: list[bytes] = []
            at = None if later.log is None else Address(*later.log)
            stop = None if base is None or base.log is None else Address(*base.log)
            while at is not None and at != stop:
                segment = await fetch_segment(self._store, at, checkpoint_key(later.id))
                tail = await fetch_segments(self._store, segment.items, None, at.blob)
                parts = [*tail.records, *parts]
                at = segment.previous
            found = self._records[later.id] = tuple(parts)
        return found


def _after(encoded: Sequence[bytes], tx: int) -> Sequence[bytes]:
    """Return the records from the first on that holds a transaction after one."""
    return encoded[bisect_right(encoded, tx, key=lambda data: txs_of(data)[1]) :]


def _place(base: Checkpoint, encoded: Sequence[bytes], tx: int) -> Place | None:
    """Return the place of a transaction's commit among records on top of a checkpoint."""
    records: list[Record] = []
    for i, data in enumerate(encoded):
        record = decode_record(data, f"The log after {checkpoint_key(base.id)}")
        for count, entry in enumerate(record.entries, 1):
            if entry.tx != tx:
                continue
            if count < len(record.entries):
                # Others share its publication, and are not in its past.
                record = record._replace(entries=record.entries[:count], ids=record.ids[:count])
                data = encode_record(
                    record.generation,
                    record.publication,
                    entries_of(data)[:count],
                    record.parents,
                    record.ids[:count],
                )
            records.append(record)
            whole = (*encoded[:i], data)
            return Place(base, whole, tuple(records), newest(records, base.commit))
        records.append(record)
    return None
