"""Bytes of the transaction log: entries (one transaction) and records (one publication).

A record is what a commit makes durable: its generation, its commit id and the entries of the
transactions that share it. Records lie in the journal beside the head, in the tail inside the
head, or in log segments. Knows nothing of stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

Operation = tuple[int, int, Any, int, bool]


class Entry(NamedTuple):
    """One transaction as the log keeps it; ``operations`` as ``tx.apply.replay`` takes them."""

    tx: int
    instant: datetime
    max_eid: int
    new_attrs: list[Keyword]
    operations: list[Operation]


class Record(NamedTuple):
    """One publication of transactions."""

    generation: int
    commit: UUID
    entries: list[Entry]


def encode_entry(applied: Applied) -> bytes:
    """Encode a transaction that was applied."""
    if not applied.bulk:
        operations = applied.logged()
        if len(operations) < _COLUMNS_FROM:
            return _encode_plain(applied, operations)
    e, a, v, t, added = applied.columns()
    rows = Rows(np.array(e, np.int64), np.array(a, np.int32), Column.of(v), np.array(t, np.int64))
    columns = seal([encode_rows(rows), np.packbits(np.array(added, np.bool_)).tobytes()])
    attrs = applied.new_attrs
    return pack([applied.tx, applied.instant, applied.after.max_eid, attrs, columns])


def _encode_plain(applied: Applied, operations: Sequence[Operation]) -> bytes:
    tx = applied.tx
    flat: list[Any] = []
    add = flat.extend
    for e, a, v, t, added in operations:
        # The transaction goes without saying; a retraction is told by the sign of the attribute.
        if t == tx:
            add((e, a if added else ~a, v))
        else:
            add(((e, t), a if added else ~a, v))
    return pack([tx, applied.instant, applied.after.max_eid, applied.new_attrs, flat])


def encode_record(generation: int, commit: UUID, entries: Sequence[bytes]) -> bytes:
    """Encode a publication of encoded entries."""
    return pack([_RECORD_FORMAT, generation, commit.bytes, list(entries)])


def _decode_entry(data: bytes) -> Entry:
    tx, instant, max_eid, new_attrs, stored = unpack(data)
    operations: list[Operation]
    if isinstance(stored, bytes):
        columns, bits = unseal(stored)
        rows = decode_rows(columns)
        added = np.unpackbits(np.frombuffer(bits, np.uint8), count=len(rows)).astype(bool)
        operations = list(
            zip(
                rows.e.tolist(),
                rows.a.tolist(),
                rows.v.tolist(),
                rows.t.tolist(),
                added.tolist(),
                strict=True,
            )
        )
    else:
        operations = []
        for i in range(0, len(stored), 3):
            e, a, v = stored[i : i + 3]
            t = tx
            if type(e) is tuple:
                e, t = e
            operations.append((e, a, v, t, True) if a >= 0 else (e, ~a, v, t, False))
    return Entry(tx, instant, max_eid, new_attrs, operations)


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
    return seal([previous, [list(x) if isinstance(x, Address) else x for x in items]])


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
