"""Laws of bytes: empty ones, ranges of them, too many of them, and damaged ones."""

from __future__ import annotations

import threading
from typing import Final

import pytest

from datahike_async.konserve.blob import Blob, Write
from datahike_async.konserve.envelope import BINARY, EDN, Envelope, seal
from datahike_async.konserve.errors import (
    BadArgument,
    CorruptValue,
    UnsupportedEncoding,
    UnsupportedOperation,
)
from datahike_async.konserve.serializers import name_of_key
from datahike_async.konserve.store import Store
from datahike_async.konserve.testing.laws.common import Laws
from datahike_async.konserve.testing.promises import IN_PLACE, RANGED_READS, promised

__all__ = ["BinaryLaws"]

NAME: Final = "ab" * 16
OTHER: Final = "cd" * 16
TRIED: Final = 1 << 24
"""A declared limit beyond this many bytes is believed: a test should not send so much."""


class BinaryLaws(Laws):
    """Bytes under names."""

    async def test_bytes_come_back_whole_and_in_part(self, store: Store) -> None:
        data = bytes(range(256)) * 64
        await store.bassoc("b", data)
        assert await store.bget("b") == data
        assert await store.bget("b", 10, 300) == data[10:300]
        assert await store.bget("b", 16_000) == data[16_000:]
        assert await store.bget("b", 0, 0) == b""
        await store.bassoc("empty", b"")
        assert await store.bget("empty") == b""
        with pytest.raises(TypeError):
            await store.bassoc("b", "text")  # type: ignore[arg-type]
        await store.assoc("e", 1)
        with pytest.raises(TypeError):
            await store.bget("e")

    @promised(RANGED_READS)
    async def test_a_range_ends_where_the_bytes_end(self, store: Store) -> None:
        data = bytes(range(100))
        revision = await store.blobs.write(NAME, data)
        for start, end in (
            (0, None),
            (0, 1),
            (0, 100),
            (1, 99),
            (40, 40),
            (99, None),
            (99, 100),
            # at the end and past it
            (90, 101),
            (0, 10_000),
            (100, None),
            (100, 200),
            (150, None),
            (150, 200),
        ):
            found = await store.blobs.read(NAME, start, end)
            assert found == Blob(data[start:end], revision), (start, end)
        assert await store.blobs.read(OTHER, 10, 20) is None

    @promised(IN_PLACE)
    async def test_bytes_are_decoded_where_they_lie(self, store: Store) -> None:
        data, threads = bytes(range(256)) * 64, set()

        def decode(key: str, lying: memoryview) -> tuple[str, bytes]:
            threads.add(threading.get_ident())
            return key, bytes(lying)

        await store.bassoc("b", data)
        await store.bassoc("empty", b"")
        found = await store.multi_decode(["b", "missing", "empty"], decode)
        assert found == {"b": ("b", data), "empty": ("empty", b"")}
        assert threading.get_ident() not in threads, "decoding takes time, which a loop has not"
        with pytest.raises(ZeroDivisionError):
            await store.multi_decode(["b"], lambda key, lying: 1 // 0)
        await store.assoc("e", 1)
        with pytest.raises(BadArgument):
            await store.multi_decode(["e"], decode)
        await store.blobs.write(name_of_key("b"), b"damaged")
        with pytest.raises(CorruptValue):
            await store.multi_decode(["b"], decode)

    async def test_no_bytes_are_not_nothing(self, store: Store) -> None:
        revision = await store.blobs.write(NAME, b"")
        (also,) = await store.blobs.write_many([Write(OTHER, b"")])
        assert await store.blobs.read(NAME) == Blob(b"", revision)
        assert await store.blobs.read(NAME, 0, 10) == Blob(b"", revision)
        assert await store.blobs.read_latest(NAME) == Blob(b"", revision)
        assert await store.blobs.read_many([NAME, OTHER]) == {
            NAME: Blob(b"", revision),
            OTHER: Blob(b"", also),
        }
        assert await store.blobs.delete(NAME)
        assert await store.blobs.read(NAME) is None

    async def test_what_is_longer_than_declared_is_refused_and_what_is_not_is_taken(
        self, store: Store
    ) -> None:
        declared = store.capabilities.max_value_bytes
        tried = TRIED // 8 if declared is None or declared > TRIED else declared
        revision = await store.blobs.write(NAME, bytes(tried))
        if tried == declared:
            with pytest.raises(UnsupportedOperation):
                await store.blobs.write(NAME, bytes(tried + 1))
            with pytest.raises(UnsupportedOperation):
                await store.blobs.write_many([Write(NAME, bytes(tried + 1))])
        assert await store.blobs.read_latest(NAME) == Blob(bytes(tried), revision)

    async def test_damaged_bytes_are_never_returned(self, store: Store) -> None:
        packed = store.serializer.serialize({"key": "k", "type": "edn", "last-write": 1})
        good = seal(Envelope(EDN, 1, 0, store.serializer.serialize([1, 2, 3]), packed))
        name = name_of_key("k")
        for at in range(len(good)):
            bad = bytearray(good)
            bad[at] ^= 0x41
            await store.blobs.write(name, bytes(bad))
            with pytest.raises((CorruptValue, UnsupportedEncoding)):
                await store.get("k")
        for length in range(len(good)):
            await store.blobs.write(name, good[:length])
            with pytest.raises(CorruptValue):
                await store.get("k")
        binary = seal(Envelope(BINARY, 1, 0, b"abc", packed))
        await store.blobs.write(name, binary[:-1] + b"\0")
        with pytest.raises(CorruptValue):
            await store.bget("k")
