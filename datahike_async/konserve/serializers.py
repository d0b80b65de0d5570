"""Serializers: Python values to bytes and back, types kept; and the names of keys.

The default is msgpack with extension types. A store may be given handlers for further types and
further serializers; a value's envelope says which one wrote it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Protocol
from uuid import UUID

import msgpack

from datahike_async.konserve.errors import (
    BadArgument,
    CorruptValue,
    StoreConfigError,
    UnsupportedEncoding,
    shown,
)

__all__ = ["MessagePack", "Serializer", "name_of_key"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UUID, _INSTANT, _BIGINT, _DECIMAL, _TUPLE, _SET, _FROZENSET = 1, 2, 3, 4, 5, 6, 7
FIRST_HANDLER: Final = 32
"""Extension codes from here to 127 are free for handlers."""


class Serializer(Protocol):
    """Turns values into bytes; ``id`` (1 to 255) is written into every envelope."""

    @property
    def id(self) -> int:
        """The number that stands in the envelope."""
        ...

    def serialize(self, value: Any) -> bytes:
        """Return the bytes of a value; raise BadArgument for one it cannot hold."""
        ...

    def deserialize(self, data: bytes) -> Any:
        """Return the value; raise CorruptValue for bytes that are none."""
        ...


class MessagePack:
    """The default serializer. ``register`` adds a type under an extension code."""

    id = 1

    def __init__(self) -> None:
        self._encoders: dict[type, tuple[int, Callable[[Any], Any]]] = {}
        self._decoders: dict[int, Callable[[Any], Any]] = {}

    def register(
        self,
        kind: type,
        code: int,
        encode: Callable[[Any], Any],
        decode: Callable[[Any], Any],
    ) -> None:
        """Store values of ``kind`` as what ``encode`` returns, under code 32 to 127."""
        if type(code) is not int or not FIRST_HANDLER <= code <= 127:
            raise StoreConfigError(
                f"Handler codes go from {FIRST_HANDLER} to 127, not {shown(code)}."
            )
        if not (isinstance(kind, type) and callable(encode) and callable(decode)):  # type: ignore[redundant-expr]
            raise StoreConfigError(
                "A handler is a type, a code and two functions, not "
                f"{shown((kind, code, encode, decode))}."
            )
        self._encoders[kind] = (code, encode)
        self._decoders[code] = decode

    def serialize(self, value: Any) -> bytes:
        """Return the bytes of a value; raise BadArgument for one it cannot hold."""
        try:
            # The buffer of ``packb`` is 256 KB, which takes longer to get than a key to encode.
            packer = msgpack.Packer(default=self._default, strict_types=True, buf_size=512)
            return packer.pack(value)  # type: ignore[no-any-return]
        except BadArgument:
            raise
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            # Of text that is no Unicode, of nesting without end: what the packer says of them.
            raise BadArgument(f"{shown(value)} cannot be stored: {error}", value=value) from error

    def deserialize(self, data: bytes) -> Any:
        """Return the value; raise CorruptValue for bytes that are none."""
        try:
            return msgpack.unpackb(data, ext_hook=self._ext, strict_map_key=False)
        except (UnsupportedEncoding, CorruptValue):
            raise
        except Exception as error:
            raise CorruptValue(f"Stored bytes are no value: {error}") from error

    def _default(self, value: Any) -> Any:
        kind = type(value)
        handler = self._encoders.get(kind)
        if handler is not None:
            return msgpack.ExtType(handler[0], self.serialize(handler[1](value)))
        if kind is tuple:
            return msgpack.ExtType(_TUPLE, self.serialize(list(value)))
        if kind is UUID:
            return msgpack.ExtType(_UUID, value.bytes)
        if kind is datetime:
            if value.tzinfo is None:
                raise BadArgument(f"{shown(value)} has no time zone and cannot be stored")
            micros = (value - _EPOCH) // _MICROSECOND
            return msgpack.ExtType(_INSTANT, micros.to_bytes(8, "big", signed=True))
        if kind is int:
            size = value.bit_length() // 8 + 1
            return msgpack.ExtType(_BIGINT, value.to_bytes(size, "big", signed=True))
        if kind is Decimal:
            return msgpack.ExtType(_DECIMAL, str(value).encode())
        if kind is set or kind is frozenset:
            # Sorted bytes: equal sets are written alike, which keys depend on.
            items = b"".join(sorted(self.serialize(x) for x in value))
            count = len(value).to_bytes(4, "big")
            return msgpack.ExtType(_SET if kind is set else _FROZENSET, count + items)
        raise BadArgument(
            f"{shown(value)} of type {kind.__name__} cannot be stored; register a handler for it",
            value=value,
        )

    def _ext(self, code: int, data: bytes) -> Any:
        if code == _TUPLE:
            return tuple(self.deserialize(data))
        if code == _UUID:
            return UUID(bytes=data)
        if code == _INSTANT:
            return _EPOCH + int.from_bytes(data, "big", signed=True) * _MICROSECOND
        if code == _BIGINT:
            return int.from_bytes(data, "big", signed=True)
        if code == _DECIMAL:
            return Decimal(data.decode())
        if code in (_SET, _FROZENSET):
            unpacker = msgpack.Unpacker(ext_hook=self._ext, strict_map_key=False)
            unpacker.feed(data[4:])
            items = [unpacker.unpack() for _ in range(int.from_bytes(data[:4], "big"))]
            return set(items) if code == _SET else frozenset(items)
        decode = self._decoders.get(code)
        if decode is None:
            raise UnsupportedEncoding(
                f"A stored value has the type code {code}, for which no handler is registered."
            )
        return decode(self.deserialize(data))


def _canonical(key: Any) -> Any:
    """Return a key with its maps in the order of their keys' bytes."""
    if isinstance(key, Mapping):
        pairs = [(_canonical(k), _canonical(v)) for k, v in key.items()]
        return ("map", tuple(sorted(pairs, key=lambda p: _KEYS.serialize(p[0]))))
    if type(key) is list:
        return [_canonical(x) for x in key]
    if type(key) is tuple:
        return tuple(_canonical(x) for x in key)
    return key


_KEYS: Final = MessagePack()


def name_of_key(key: Any, serializer: Serializer | None = None) -> str:
    """Return the name of the blob that holds ``key``: 32 hex digits, equal for equal keys."""
    if type(key) is str:
        if serializer is None:
            return _name_of_text(key)
    else:
        try:
            key = _canonical(key)
        except RecursionError:
            raise BadArgument("A key is nested too deeply, or contains itself.") from None
    return _name((serializer or _KEYS).serialize(key))


@lru_cache(maxsize=64)
def _name_of_text(key: str) -> str:
    # Every commit asks for that of its head.
    return _name(_KEYS.serialize(key))


def _name(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
