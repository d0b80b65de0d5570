"""What few stored bytes may unfold to: a bound that is held before memory is taken."""

from __future__ import annotations

import threading
import tracemalloc
import uuid
from functools import partial

import pytest
import zstandard

from datahike_async.errors import CorruptData
from datahike_async.index import codec
from datahike_async.konserve import CorruptValue, Store, StoreConfigError, create_store, encoding
from datahike_async.konserve.compressors import decompress
from datahike_async.konserve.envelope import EDN, Envelope, seal, unseal
from datahike_async.konserve.serializers import name_of_key

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


def zeros(size: int) -> bytes:
    """Return a frame that unfolds to zeros, a MiB at a time as some are too many for memory."""
    whole = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    parts = [whole.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*parts, whole.flush()])


@pytest.fixture
async def store():
    made = await create_store({"backend": "memory", "id": uuid.uuid4(), "compressor": "zstd"})
    yield made
    await made.release()


def of_many(store: Store):
    return lambda key: store.multi_get([key])


async def plant(store: Store, key: str, frame: bytes) -> None:
    await store.blobs.write(name_of_key(key), seal(Envelope(EDN, 1, 2, frame, b"\x80")))


async def test_few_bytes_that_claim_gigabytes_are_refused_before_memory_is_taken(store):
    frame = zeros(1024 * MIB)
    assert len(frame) < 58_000
    await plant(store, "bomb", frame)
    tracemalloc.start()
    try:
        for read in (store.get, partial(store.get, with_revision=True), of_many(store)):
            with pytest.raises(CorruptValue, match=r"'bomb'.*1073741824.*max-unfolded-bytes"):
                await read("bomb")
        with pytest.raises(CorruptData, match="claim to unfold to 1073741824"):
            codec.unseal(bytes((1, 1)) + frame)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


async def test_a_frame_that_lies_about_its_size_or_does_not_tell_it_is_corrupt(store):
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    honest = zstandard.ZstdCompressor().compress(bytes(1000))
    assert honest[4:7] == b"\x60\xe8\x02"  # what follows its magic: the size, less 256
    for frame in (silent, honest.replace(b"\x60\xe8\x02", b"\x60\xe8\x01"), honest[:-2], b"junk"):
        await plant(store, "k", frame)
        with pytest.raises(CorruptValue, match="'k'"):
            await store.get("k")
        with pytest.raises(CorruptData):
            codec.unseal(bytes((1, 1)) + frame)


async def test_whatever_is_stored_is_readable_however_well_it_would_compress(store):
    for size in (3 * MIB, 5 * MIB, 12 * MIB):
        await store.assoc("k", bytes(size))
        assert await store.get("k") == bytes(size)
        blob = await store.blobs.read(name_of_key("k"))
        assert unseal(blob.data).compressor == (2 if size < 4 * MIB else 0)
        assert codec.unseal(codec.seal([bytes(size)])) == [bytes(size)]
    mixed = [i * i for i in range(700_000)] + ["once more"] * 200_000
    await store.assoc("k", mixed)
    assert await store.get("k") == mixed


async def test_the_bound_is_an_option_of_the_store():
    config = {"backend": "memory", "id": uuid.uuid4(), "compressor": "zstd"}
    large = await create_store({**config, "max-unfolded-bytes": 16 * MIB})
    await large.assoc("k", bytes(12 * MIB))
    blob = await large.blobs.read(name_of_key("k"))
    assert len(blob.data) < MIB
    assert await large.get("k") == bytes(12 * MIB)
    with pytest.raises(CorruptValue, match="max-unfolded-bytes"):
        await Store(large.blobs).get("k")
    for bad in (-1, "4", 1.5, True):
        with pytest.raises(StoreConfigError, match="max-unfolded-bytes"):
            await create_store({**config, "max-unfolded-bytes": bad})


async def test_large_values_are_decompressed_beside_the_event_loop(store, monkeypatch):
    threads: list[int] = []

    def watched(data, used, limit):
        if used:
            threads.append(threading.get_ident())
        return decompress(data, used, limit)

    monkeypatch.setattr(encoding, "decompress", watched)
    here = threading.get_ident()
    for size, beside in ((1000, False), (3 * MIB, True)):
        await store.assoc("k", bytes(size))
        for read in (store.get, partial(store.get, with_revision=True), of_many(store)):
            threads.clear()
            await read("k")
            assert threads
            assert all((one != here) is beside for one in threads)
