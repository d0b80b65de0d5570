"""Bytes of the transaction log: entries (one transaction) and records (one publication).

A record is what a commit makes durable: its generation, its commit id and the entries of the
transactions that share it. Records lie in the journal beside the head, in the tail inside the
head, or in log segments. Knows nothing of stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
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
from datahike_async.index.columns import Column, Rows
from datahike_async.index.source import Address
from datahike_async.tx.apply import Applied
from datahike_async.tx.done import Columns

__all__ = [
    "Entry",
    "Record",
    "decode_items",
    "decode_record",
    "decode_segment",
    "encode_entry",
    "encode_record",
    "encode_segment",
]

_RECORD_FORMAT: Final = 2
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


class Record(NamedTuple):
    """One publication of transactions."""

    generation: int
    commit: UUID
    entries: list[Entry]


def encode_entry(applied: Applied) -> bytes:
    """Encode a transaction that was applied."""
    done = applied.done
    stored: list[Any]
    if len(done) < _COLUMNS_FROM and not applied.bulk:
        stored = _flat(applied.tx, done.operations())
    else:
        stored = [_block(done.block(i, i + BLOCK)) for i in range(0, len(done), BLOCK)]
    return pack([applied.tx, applied.instant, applied.after.max_eid, applied.new_attrs, stored])


def _block(columns: Columns) -> bytes:
    e, a, v, t, added = columns
    rows = Rows(np.array(e, np.int64), np.array(a, np.int32), Column.of(v), np.array(t, np.int64))
    return seal([encode_rows(rows), np.packbits(np.array(added, np.bool_)).tobytes()])


def _flat(tx: int, operations: Iterable[Operation]) -> list[Any]:
    flat: list[Any] = []
    add = flat.extend
    for e, a, v, t, added in operations:
        # The transaction goes without saying; a retraction is told by the sign of the attribute.
        if t == tx:
            add((e, a if added else ~a, v))
        else:
            add(((e, t), a if added else ~a, v))
    return flat


def encode_record(generation: int, commit: UUID, entries: Sequence[bytes]) -> bytes:
    """Encode a publication of encoded entries."""
    return pack([_RECORD_FORMAT, generation, commit.bytes, list(entries)])


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
        format_, generation, commit, entries = unpack(data)
        if format_ > _RECORD_FORMAT:
            raise UnsupportedFormat(
                f"{where} has log format {format_}; this version reads up to {_RECORD_FORMAT}. "
                "Upgrade datahike-async to open this database.",
                error=":db-was-written-with-newer-datahike-version",
            )
        if format_ < _RECORD_FORMAT:
            raise UnsupportedFormat(f"{where} was written before version 0.1.0 was released.")
        return Record(generation, UUID(bytes=commit), [_decode_entry(e) for e in entries])
    except UnsupportedFormat:
        raise
    except Exception as error:
        raise CorruptData(f"{where} holds no log record: {error}", place=where) from error


def encode_segment(previous: list[Any] | None, items: Sequence[bytes | Address]) -> bytes:
    """Encode a log segment: records, or where they lie in segments of their own.

    ``previous`` is where the segment before it lies; None in one that another segment names.
    """
    return seal([previous, list(items)])


def decode_segment(data: bytes, where: str) -> tuple[list[Any] | None, list[bytes | Address]]:
    """Decode a log segment: the address of the one before it, and its items, oldest first."""
    try:
        previous, items = unseal(data)
        return previous, decode_items(items)
    except (CorruptData, ValueError, TypeError) as error:
        raise CorruptData(f"{where} holds no log segment: {error}", place=where) from error


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
