"""Bytes of the transaction log: entries (one transaction) and records (one publication).

A record is what one publication makes durable: its generation, its id and the entries of its
transactions, each of which is a commit. Records lie in the journal beside the head, in the tail
inside the head, or in log segments. Knows nothing of stores.

A commit's id is made of its publication's and of its transaction's, so it takes no room, and begins
with the transaction: so what is before it in the log can be told from what is behind. Where commits
are hashes (``:crypto-hash?``) records say their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np

from datahike_async.edn.types import Keyword
from datahike_async.errors import CorruptData, UnsupportedFormat
from datahike_async.index.codec import (
    decode_rows,
    encode_rows,
    pack,
    seal,
    unpack,
    unseal,
)
from datahike_async.index.columns import Rows
from datahike_async.index.source import Address
from datahike_async.storage.hashes import hashed_id
from datahike_async.storage.log.alike import folded, unfolded
from datahike_async.tx.apply import Applied
from datahike_async.tx.done import Columns

__all__ = [
    "Commit",
    "Entry",
    "Record",
    "SegmentParts",
    "commit_id",
    "commit_ids",
    "decode_items",
    "decode_record",
    "decode_segment",
    "encode_entry",
    "encode_record",
    "encode_segment",
    "entries_of",
    "last_of",
    "newest",
    "tx_of_commit",
    "txs_of",
]

_RECORD_FORMAT: Final = 3
_HASHED_FORMAT: Final = 4
"""The format of a record that says the ids of its commits."""
_FOLDED: Final = 2
"""Added to the format where the entries are folded into one string."""
_NEWEST_FORMAT: Final = _HASHED_FORMAT + _FOLDED
_FOLD_FROM: Final = 1024
_FOLD_UP_TO: Final = 1024 * 1024
"""Bytes of several entries that are folded. More would hold up the event loop."""
_SEGMENT_FORMAT: Final = 2
_COLUMNS_FROM: Final = 512
"""Operations from which an entry is stored as compressed columns instead of plain lists."""

BLOCK: Final = 8192
"""Operations that are encoded, compressed and decoded at once: a single call keeps the interpreter
from all other threads, the event loop's among them."""

Operation = tuple[int, int, Any, int, bool]


class Operations:
    """What one transaction did, to be read in order as ``tx.apply.replay`` takes it.

    Holds a list of three elements an operation, or blocks of columns; no container for each.
    """

    __slots__ = ("_blocks", "_flat", "_tx")

    def __init__(self, tx: int, flat: list[Any], blocks: Sequence[tuple[Rows, Any]] = ()) -> None:
        self._tx = tx
        self._flat = flat
        self._blocks = blocks

    def __len__(self) -> int:
        return len(self._flat) // 3 + sum(len(rows) for rows, _ in self._blocks)

    def __iter__(self) -> Iterator[Operation]:
        tx, flat = self._tx, iter(self._flat)
        for e, a, v in zip(flat, flat, flat, strict=True):
            t = tx
            if type(e) is tuple:
                e, t = e
            yield (e, a, v, t, True) if a >= 0 else (e, ~a, v, t, False)
        for rows, added in self._blocks:
            columns = (rows.e, rows.a, rows.v, rows.t, added)
            yield from zip(*(column.tolist() for column in columns), strict=True)


class Entry(NamedTuple):
    """One transaction as the log keeps it."""

    tx: int
    instant: datetime
    max_eid: int
    new_attrs: list[Keyword]
    operations: Operations


class Commit(NamedTuple):
    """A commit, and those it was made on: nearly always the one before it."""

    id: UUID
    parents: tuple[UUID, ...] = ()


class Record(NamedTuple):
    """One publication of transactions.

    ``parents`` are commits that the first of them has beside the one before it; ``ids`` those of
    its own, where they are hashes.
    """

    generation: int
    publication: UUID
    entries: list[Entry]
    parents: tuple[UUID, ...] = ()
    ids: tuple[UUID, ...] = ()

    @property
    def commit(self) -> UUID:
        """The id of its last commit."""
        return self.ids[-1] if self.ids else commit_id(self.publication, self.entries[-1].tx)

    @property
    def commits(self) -> tuple[UUID, ...]:
        """The ids of its commits."""
        if self.ids:
            return self.ids
        return tuple(commit_id(self.publication, entry.tx) for entry in self.entries)


# The bits of a UUID that say that its maker chose the others (RFC 9562, version 8).
_VERSION: Final = ~(0xF << 76 | 0x3 << 62), 0x8 << 76 | 0x2 << 62


def commit_id(publication: UUID, tx: int) -> UUID:
    """Return the id of the commit that a publication made of a transaction."""
    digest = blake2b(publication.bytes + tx.to_bytes(4, "big"), digest_size=12).digest()
    number = tx << 96 | int.from_bytes(digest, "big")
    return UUID(int=number & _VERSION[0] | _VERSION[1])


def commit_ids(
    publication: UUID,
    txs: Sequence[int],
    hashed: Sequence[bytes] | None,
    before: Sequence[UUID],
    parents: Sequence[UUID] = (),
) -> tuple[UUID, ...]:
    """Return the ids of the commits that a publication makes of transactions.

    ``hashed`` are the encoded transactions where ids are hashes of them, and of what they were made
    on: of the commit ``before``, if there is one, and further ``parents`` of the first of them.
    """
    if hashed is None:
        # Nearly always one, and a comprehension is a call.
        if len(txs) == 1:
            return (commit_id(publication, txs[0]),)
        return tuple([commit_id(publication, tx) for tx in txs])
    out: list[UUID] = []
    under = (*before, *parents)
    for tx, entry in zip(txs, hashed, strict=True):
        out.append(hashed_id(tx, under, publication, entry))
        under = (out[-1],)
    return tuple(out)


def last_of(ids: Sequence[UUID], before: UUID, parents: Sequence[UUID] = ()) -> Commit:
    """Return the last commit of a publication, on top of the commit ``before``.

    ``parents`` are further ones of its first commit.
    """
    return Commit(ids[-1], (ids[-2],) if len(ids) > 1 else (before, *parents))


def newest(records: Sequence[Record], before: Commit) -> Commit:
    """Return the last commit of records on top of the commit ``before``."""
    if not records:
        return before
    last = records[-1]
    under = records[-2].commit if len(records) > 1 else before.id
    return last_of(last.commits, under, last.parents)


def tx_of_commit(commit: UUID) -> int:
    """Return the transaction that a commit is."""
    return commit.int >> 96


def encode_entry(applied: Applied) -> bytes:
    """Encode a transaction that was applied."""
    done = applied.done
    stored: list[Any]
    if len(done) < _COLUMNS_FROM and not applied.bulk:
        stored = done.flat()
    else:
        stored = [_block(columns) for columns in done.blocks(BLOCK)]
    return pack([applied.tx, applied.instant, applied.after.max_eid, applied.new_attrs, stored])


def _block(columns: Columns) -> bytes:
    return seal([encode_rows(columns.rows), np.packbits(columns.added).tobytes()])


def encode_record(
    generation: int,
    publication: UUID,
    entries: Sequence[bytes],
    parents: Sequence[UUID] = (),
    ids: Sequence[UUID] = (),
) -> bytes:
    """Encode a publication of encoded entries; ``ids`` are those of its commits, if hashes."""
    format_ = _HASHED_FORMAT if ids else _RECORD_FORMAT
    stored: list[bytes] | bytes = list(entries)
    # A single one is compressed in blocks where it is large.
    if len(entries) > 1 and _FOLD_FROM <= sum(map(len, entries)) <= _FOLD_UP_TO:
        stored, format_ = folded(entries), format_ + _FOLDED
    fields = [format_, generation, publication.bytes, stored]
    if parents or ids:
        fields.append([parent.bytes for parent in parents])
    if ids:
        fields.append([id_.bytes for id_ in ids])
    return pack(fields)


def entries_of(data: bytes) -> list[bytes]:
    """Return the encoded entries of an encoded record."""
    return _entries(unpack(data)[3])


def txs_of(data: bytes) -> tuple[int, int]:
    """Return the first and the last transaction of an encoded record."""
    entries = entries_of(data)
    return unpack(entries[0])[0], unpack(entries[-1])[0]


def _entries(stored: list[bytes] | bytes) -> list[bytes]:
    return unfolded(stored) if isinstance(stored, bytes) else list(stored)


def _decode_entry(data: bytes) -> Entry:
    tx, instant, max_eid, new_attrs, stored = unpack(data)
    if isinstance(stored, bytes):
        stored = [stored]
    if stored and isinstance(stored[0], bytes):
        operations = Operations(tx, [], [_decode_block(block) for block in stored])
    else:
        operations = Operations(tx, stored)
        if len(stored) % 3:
            raise ValueError("an operation lacks a part")
    return Entry(tx, instant, max_eid, new_attrs, operations)


def _decode_block(block: bytes) -> tuple[Rows, Any]:
    columns, bits = unseal(block)
    rows = decode_rows(columns)
    added = np.unpackbits(np.frombuffer(bits, np.uint8), count=len(rows)).astype(bool)
    return rows, added


def decode_record(data: bytes, where: str) -> Record:
    """Decode a record; ``where`` names its place in an error.

    Raises CorruptData, or UnsupportedFormat where a newer version wrote it.
    """
    try:
        format_, generation, publication, stored, *more = unpack(data)
        if format_ > _NEWEST_FORMAT:
            raise UnsupportedFormat(
                f"{where} has log format {format_}; this version reads up to {_NEWEST_FORMAT}. "
                "Upgrade datahike-async to open this database.",
                error=":db-was-written-with-newer-datahike-version",
            )
        if format_ < _RECORD_FORMAT:
            raise UnsupportedFormat(f"{where} was written before version 0.1.0 was released.")
        entries = _entries(stored)
        parents, ids = ([tuple(UUID(bytes=id_) for id_ in ids) for ids in more] + [(), ()])[:2]
        hashed = format_ in {_HASHED_FORMAT, _HASHED_FORMAT + _FOLDED}
        if len(ids) != (len(entries) if hashed else 0):
            raise ValueError("it does not say the ids of its commits")
        return Record(
            generation, UUID(bytes=publication), [_decode_entry(e) for e in entries], parents, ids
        )
    except UnsupportedFormat:
        raise
    except Exception as error:
        raise CorruptData(f"{where} holds no log record: {error}", place=where) from error


def encode_segment(
    previous: Sequence[Any] | None, items: Sequence[bytes | Address], last: int | None = None
) -> bytes:
    """Encode a log segment: records, or where they lie in segments of their own.

    ``previous`` is where the segment before it lies; None in the first one, and in one that another
    segment or a head names. ``last`` is its newest transaction.
    """
    before = None if previous is None else list(previous)[:4]
    return seal({"format": _SEGMENT_FORMAT, "previous": before, "last": last, "items": list(items)})


class SegmentParts(NamedTuple):
    """A decoded log segment; see :func:`encode_segment`. ``items`` are oldest first."""

    previous: Address | None
    items: list[bytes | Address]
    last: int | None


def decode_segment(data: bytes, where: str) -> SegmentParts:
    """Decode a log segment.

    Raises CorruptData, or UnsupportedFormat for that of a newer version.
    """
    try:
        found = unseal(data)
        if found["format"] > _SEGMENT_FORMAT:
            raise UnsupportedFormat(
                f"{where} has log format {found['format']}; this version reads up to "
                f"{_SEGMENT_FORMAT}. Upgrade datahike-async to open this database.",
                error=":db-was-written-with-newer-datahike-version",
            )
        before = found["previous"]
        return SegmentParts(
            None if before is None else Address(*before),
            decode_items(found["items"]),
            found["last"],
        )
    except UnsupportedFormat:
        raise
    except (CorruptData, ValueError, TypeError, KeyError) as error:
        raise CorruptData(f"{where} holds no log segment: {error!r}", place=where) from error


def decode_items(items: Iterable[Any]) -> list[bytes | Address]:
    """Decode records and addresses of segments, as heads and segments hold them.

    Raises ValueError or TypeError for anything else.
    """
    out: list[bytes | Address] = []
    for item in items:
        if isinstance(item, bytes):
            out.append(item)
            continue
        blob, offset, length, crc = item
        if not isinstance(blob, str) or not all(type(n) is int for n in (offset, length, crc)):
            raise ValueError("neither a record nor where one lies")
        out.append(Address(blob, offset, length, crc))
    return out
