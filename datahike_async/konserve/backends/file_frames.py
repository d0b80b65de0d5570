"""Frames of a log: how records lie in it, and what it means where the next one is no whole frame.

Frames lie one after another in space that was filled with zeros before::

    tag · length · CRC-32 · CRC-32 of the frame before · CRC-32 of these four and the place
    record

The tag is that of the log, so that frames can be found behind a damaged one. The CRC is that of the
record, started with that of the frame before: nothing stale can follow. Pure functions on bytes;
knows nothing of files.

An interrupted write and damage look alike: bytes that are no frame. They are told apart by what is
known to be durable, by frames behind them (there are none behind an interrupted write, for whoever
appends has synced what was there), and by sectors: a disk writes each of them whole or not at all,
over zeros.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from typing import Final, NamedTuple

__all__ = ["HEADER", "LARGEST", "Found", "Frames"]

_FIELDS: Final = struct.Struct(">IIII")
_PLACED: Final = struct.Struct(">IIIIQ")
_CHECK: Final = struct.Struct(">I")
HEADER: Final = _FIELDS.size + _CHECK.size
"""Bytes of a frame before its record. As many zeros end a log."""
LARGEST: Final = 2**32 - 1
"""Bytes of a record, as many as a frame can say."""
_SECTOR: Final = 512


class Found(NamedTuple):
    """What lies in a piece of a log.

    ``end`` is the place behind the last whole frame, ``last`` that of this frame, ``crc`` its CRC.
    ``torn`` counts the bytes from ``end`` on that an interrupted write left behind. ``damage`` says
    what is wrong at ``end`` where it is neither the end of the log nor such a rest; ``behind`` is
    then the number of whole frames found further on.
    """

    records: list[bytes]
    end: int
    last: int
    crc: int
    torn: int = 0
    damage: str = ""
    behind: int = 0


class Frames:
    """The frames of the log with this stamp. ``crc`` is what the first one has before it."""

    def __init__(self, stamp: bytes) -> None:
        self.crc = zlib.crc32(stamp)
        self._tag = zlib.crc32(b"frame" + stamp) | 1
        self._tag_bytes = _CHECK.pack(self._tag)

    def frame(self, record: bytes, at: int, before: int) -> tuple[bytes, int]:
        """Return a record as it lies at ``at``, and its CRC; ``before`` is that before it."""
        crc = zlib.crc32(record, before)
        fields = (self._tag, len(record), crc, before)
        return _FIELDS.pack(*fields) + _CHECK.pack(self._check(*fields, at)) + record, crc

    def _check(self, tag: int, length: int, crc: int, before: int, at: int) -> int:
        return zlib.crc32(_PLACED.pack(tag, length, crc, before, at), self.crc)

    def _header(self, data: bytes, i: int, at: int) -> tuple[int, int, int] | None:
        """Return length, CRC and CRC before of the header at ``data[i]``, which is place ``at``."""
        if i + HEADER > len(data):
            return None
        tag, length, crc, before = _FIELDS.unpack_from(data, i)
        (check,) = _CHECK.unpack_from(data, i + _FIELDS.size)
        if tag != self._tag or not length or check != self._check(tag, length, crc, before, at):
            return None
        return length, crc, before

    def read(self, data: bytes, at: int, before: int | None, durable: int) -> Found:
        """Read frames from ``data``, the log from ``at`` to its end.

        ``before`` is the CRC of the frame before, if it is known. Up to ``durable`` everything was
        synced once.
        """
        found = self.walk(data, at, before)
        i = found.end - at
        rest = len(data[i:].rstrip(b"\0"))
        damage, behind = self._judge(data, i, at, rest, durable)
        return found._replace(torn=0 if damage else rest, damage=damage, behind=behind)

    def walk(self, data: bytes, at: int, before: int | None = None) -> Found:
        """Read frames as ``read`` does, as far as they are whole, and judge nothing."""
        records: list[bytes] = []
        i, last, size = 0, at, len(data)
        view = memoryview(data)
        while True:
            header = self._header(data, i, at + i)
            if header is None:
                break
            length, crc, chained = header
            start = i + HEADER
            stop = start + length
            if stop > size or before not in (chained, None):
                break
            if zlib.crc32(view[start:stop], chained) != crc:
                break
            records.append(data[start:stop])
            last, before, i = at + i, crc, stop
        return Found(records, at + i, last, self.crc if before is None else before)

    def _judge(self, data: bytes, i: int, at: int, rest: int, durable: int) -> tuple[str, int]:
        end, size = at + i, len(data)
        behind = self._whole_frames(data, i + 1, at) if rest else 0
        if end < durable:
            return f"what lies up to byte {durable} was durable once", behind
        if behind:
            return "whole records follow", behind
        if i + HEADER > size and end:
            return "the file was cut off", 0
        if not rest:
            return "", 0
        header = self._header(data, i, end)
        length = 0 if header is None else header[0]
        if i + HEADER + length > size:
            return "the file was cut off", 0
        if _may_be_torn(data[i : i + HEADER + length], end):
            return "", 0
        return "its checksum does not match", 0

    def _whole_frames(self, data: bytes, i: int, at: int) -> int:
        count = 0
        view = memoryview(data)
        while (i := data.find(self._tag_bytes, i)) >= 0:
            header = self._header(data, i, at + i)
            if header is not None:
                length, crc, before = header
                stop = i + HEADER + length
                if stop <= len(data) and zlib.crc32(view[i + HEADER : stop], before) == crc:
                    count += 1
                    i = stop
                    continue
            i += 1
        return count


def _may_be_torn(data: bytes, at: int) -> bool:
    """Whether a write of these bytes at ``at`` may be an interrupted one: a sector has zeros."""
    first = _SECTOR - at % _SECTOR
    if len(data) <= first:
        # A sector comes whole or not at all.
        return not any(data)
    cuts = [0, *range(first, len(data), _SECTOR), len(data)]
    zeros = bytes(_SECTOR)
    return any(data[a:b] == zeros[: b - a] for a, b in pairwise(cuts))
