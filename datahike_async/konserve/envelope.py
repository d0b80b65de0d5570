"""The envelope of a stored value: what it is, how it was encoded, and a checksum over all of it.

::

    0   magic "KV"        2   version          3   kind (edn, binary, append-log, its element)
    4   serializer        5   compressor       6   encryptor     7   a spare byte
    8   length of value   16  length of meta   20  CRC-32 of all else
    24  value … meta

The value comes first so that a range of a binary one is a range of the blob (in clear: what is
encrypted is read whole). The meta is kept uncompressed, so that listing keys decodes little.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from datahike_async.konserve.errors import BadArgument, CorruptValue, UnsupportedEncoding

__all__ = [
    "APPEND_LOG",
    "BINARY",
    "EDN",
    "ELEMENT",
    "HEADER",
    "Envelope",
    "binary_part",
    "read_header",
    "seal",
    "unseal",
]

EDN: Final = 0
BINARY: Final = 1
APPEND_LOG: Final = 2
ELEMENT: Final = 3
KINDS: Final = {
    EDN: "edn",
    BINARY: "binary",
    APPEND_LOG: "append-log",
    ELEMENT: "append-log-element",
}

_VERSION: Final = 1
_HEAD: Final = struct.Struct(">2sBBBBBBQI")
_LENGTH: Final = struct.Struct(">Q")
_LENGTH_AT: Final = 8
_ENCRYPTOR_AT: Final = 6
_KNOWN: Final = 4
_BINARY: Final = bytes((*b"KV", _VERSION, BINARY))
_CRC: Final = struct.Struct(">I")
HEADER: Final = _HEAD.size + _CRC.size


class Envelope(NamedTuple):
    """The parts of a stored value, still serialized. ``encryptor`` is 0 where it is in clear."""

    kind: int
    serializer: int
    compressor: int
    value: bytes
    meta: bytes
    encryptor: int = 0


class Header(NamedTuple):
    """The fields of an envelope's header."""

    kind: int
    serializer: int
    compressor: int
    encryptor: int
    value_length: int
    meta_length: int
    crc: int


def seal(envelope: Envelope) -> bytes:
    """Return the bytes of an envelope."""
    value, meta = envelope.value, envelope.meta
    head = _HEAD.pack(
        b"KV",
        _VERSION,
        envelope.kind,
        envelope.serializer,
        envelope.compressor,
        envelope.encryptor,
        0,
        len(value),
        len(meta),
    )
    crc = zlib.crc32(meta, zlib.crc32(value, zlib.crc32(head)))
    return b"".join((head, _CRC.pack(crc), value, meta))


def read_header(data: bytes | memoryview) -> Header:
    """Return the header. Raises CorruptValue or UnsupportedEncoding."""
    if len(data) < HEADER:
        raise CorruptValue(f"A stored value has {len(data)} bytes, less than an envelope.")
    magic, version, kind, serializer, compressor, encryptor, _, value, meta = _HEAD.unpack_from(
        data
    )
    if magic != b"KV" or version == 0:
        raise CorruptValue("Stored bytes are no envelope of ours.")
    if version > _VERSION:
        raise UnsupportedEncoding(
            f"A stored value has format {version}; this version reads up to {_VERSION}."
        )
    (crc,) = _CRC.unpack_from(data, _HEAD.size)
    if kind not in KINDS:
        raise CorruptValue(f"A stored value is of an unknown kind ({kind}).")
    return Header(kind, serializer, compressor, encryptor, value, meta, crc)


def binary_part(data: memoryview) -> memoryview:
    """Return where a binary value in clear lies in its envelope, checking neither.

    Raises CorruptValue, UnsupportedEncoding, and BadArgument where the value is another.
    """
    if len(data) < HEADER or data[:_KNOWN] != _BINARY or data[_ENCRYPTOR_AT]:
        if read_header(data).encryptor:
            raise UnsupportedEncoding("A stored value is encrypted.")
        raise BadArgument("A stored value is not binary.")
    length = _LENGTH.unpack_from(data, _LENGTH_AT)[0]
    return data[HEADER : HEADER + length]


def unseal(data: bytes) -> Envelope:
    """Return the parts of an envelope, its checksum verified.

    Raises CorruptValue or UnsupportedEncoding.
    """
    try:
        header = read_header(data)
    except UnsupportedEncoding as newer:
        # Unless it is whole but for the number of the version.
        try:
            unseal(data[:2] + bytes([_VERSION]) + data[3:])
        except CorruptValue:
            raise newer from None
        raise CorruptValue("The version of a stored value is damaged.") from None
    stop = HEADER + header.value_length
    if len(data) != stop + header.meta_length:
        raise CorruptValue(
            f"A stored value has {len(data)} bytes where {stop + header.meta_length} belong."
        )
    if zlib.crc32(memoryview(data)[HEADER:], zlib.crc32(data[: _HEAD.size])) != header.crc:
        raise CorruptValue("The checksum of a stored value does not match its bytes.")
    return Envelope(
        header.kind,
        header.serializer,
        header.compressor,
        data[HEADER:stop],
        data[stop:],
        header.encryptor,
    )
