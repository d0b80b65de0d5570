"""Encoding: values to the bytes of a blob and back, by serializer, compressor and encryptor.

Which of them a store uses is chosen when it is opened; which of them made a value stands in its
envelope. So a store may change its mind, and old values stay readable.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from datahike_async.konserve.compressors import (
    LIMIT,
    compress,
    compressor_id,
    decompress,
    unfolded_size,
)
from datahike_async.konserve.encryptors import Encryptor
from datahike_async.konserve.envelope import BINARY, KINDS, Envelope, seal, unseal
from datahike_async.konserve.errors import BadArgument, CorruptValue, UnsupportedEncoding, shown
from datahike_async.konserve.serializers import MessagePack, Serializer, name_of_key

__all__ = ["Encoding"]

_last_write = 0


def _now_ms() -> int:
    """Return milliseconds since the epoch, strictly rising within the process."""
    global _last_write
    _last_write = max(time.time_ns() // 1_000_000, _last_write + 1)
    return _last_write


@contextmanager
def _naming(key: Any) -> Iterator[None]:
    """Name the key in an error about its value."""
    try:
        yield
    except CorruptValue as error:
        raise CorruptValue(f"The value of {shown(key)}: {error}", key=key) from error


class Encoding:
    """How one store encodes. ``serializer`` is the one it writes with.

    ``most`` is how many bytes any compressed value may unfold to (see ``compressors``).
    """

    def __init__(
        self,
        compressor: str,
        serializer: Serializer | None,
        encryptor: Encryptor | None,
        most: int = LIMIT,
    ) -> None:
        self.serializer: Serializer = serializer or MessagePack()
        self.encryptor = encryptor
        self._serializers: dict[int, Serializer] = {1: MessagePack()}
        self._serializers[self.serializer.id] = self.serializer
        self._compressor = compressor_id(compressor)
        self._most = most

    def know(self, serializers: Iterable[Serializer]) -> None:
        """Make further serializers known for reading."""
        for one in serializers:
            self._serializers[one.id] = one

    def seal(self, key: Any, value: Any, kind: int, meta: Mapping[str, Any] | None) -> bytes:
        """Return the bytes of the blob of ``key``; raise BadArgument for what cannot be stored."""
        if meta is not None and not isinstance(meta, Mapping):
            raise BadArgument(f"The meta of {shown(key)} is a map, not {shown(meta)}.")
        described = {"key": key, "type": KINDS[kind], "last-write": _now_ms(), **(meta or {})}
        if kind == BINARY:
            if not isinstance(value, (bytes, bytearray, memoryview)):
                raise BadArgument(f"The binary value of {shown(key)} is bytes, not {shown(value)}.")
            data, used = bytes(value), 0
        else:
            data, used = compress(self.serializer.serialize(value), self._compressor, self._most)
        packed = self._serializers[1].serialize(described)
        cipher = self.encryptor
        if cipher is None:
            return seal(Envelope(kind, self.serializer.id, used, data, packed))
        name = name_of_key(key)
        data, packed = cipher.encrypt(data, name, "value"), cipher.encrypt(packed, name, "meta")
        return seal(Envelope(kind, self.serializer.id, used, data, packed, cipher.id))

    def open(self, name: str, data: bytes, key: Any = None) -> Envelope:
        """Return the parts of a blob, checked and decrypted; ``key`` is named in an error.

        Raises CorruptValue, UnsupportedEncoding.
        """
        with _naming(name if key is None else key):
            envelope = unseal(data)
            return envelope if envelope.encryptor == 0 else self._decrypted(name, envelope)

    def _decrypted(self, name: str, envelope: Envelope) -> Envelope:
        cipher = self.encryptor
        if cipher is None or cipher.id != envelope.encryptor:
            raise UnsupportedEncoding(
                f"A stored value was encrypted by encryptor {envelope.encryptor}, which this store "
                "was not given."
            )
        return envelope._replace(
            value=cipher.decrypt(envelope.value, name, "value"),
            meta=cipher.decrypt(envelope.meta, name, "meta"),
        )

    def size(self, key: Any, envelope: Envelope) -> int:
        """Return the bytes of the value, unfolded. Raises CorruptValue, UnsupportedEncoding."""
        with _naming(key):
            return unfolded_size(envelope.value, envelope.compressor)

    def unfolded(self, key: Any, envelope: Envelope) -> Envelope:
        """Return the envelope, its value no longer compressed. Raises as ``value`` does."""
        with _naming(key):
            value = decompress(envelope.value, envelope.compressor, self._most)
        return envelope._replace(value=value, compressor=0)

    def value(self, key: Any, envelope: Envelope) -> Any:
        """Return the value. Raises CorruptValue, UnsupportedEncoding."""
        if envelope.kind == BINARY:
            return envelope.value
        serializer = self._serializers.get(envelope.serializer)
        if serializer is None:
            raise UnsupportedEncoding(
                f"The value of {shown(key)} was written by serializer {envelope.serializer}, which "
                "is not known here."
            )
        return serializer.deserialize(self.unfolded(key, envelope).value)

    def meta(self, envelope: Envelope) -> dict[str, Any]:
        """Return the meta."""
        return dict(self._serializers[1].deserialize(envelope.meta))

    def described(self, name: str, envelope: Envelope) -> dict[str, Any]:
        """Return the meta of an envelope whose value was not read, and was not checked.

        Raises CorruptValue, UnsupportedEncoding.
        """
        meta = envelope.meta
        if envelope.encryptor:
            cipher = self.encryptor
            if cipher is None or cipher.id != envelope.encryptor:
                raise UnsupportedEncoding(f"{name} was encrypted by an encryptor not given here.")
            meta = cipher.decrypt(meta, name, "meta")
        try:
            return dict(self._serializers[1].deserialize(meta))
        except (TypeError, ValueError) as error:
            raise CorruptValue(f"{name} has a damaged meta: {error}") from error

    def seal_record(self, name: str, record: bytes) -> bytes:
        """Return a record as the journal of ``name`` keeps it."""
        return self.encryptor.encrypt(record, name, "record") if self.encryptor else record

    def open_record(self, name: str, record: bytes) -> bytes:
        """Return a record that ``seal_record`` made."""
        return self.encryptor.decrypt(record, name, "record") if self.encryptor else record
