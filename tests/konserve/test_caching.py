"""Caching stores: the bound."""

from __future__ import annotations

import pytest

from datahike_async.konserve.wrappers.caching import CachingBlobStore
from tests.konserve.watched import NAME, Watched, memory

pytestmark = pytest.mark.anyio


async def test_the_cache_keeps_to_its_bytes() -> None:
    back = Watched(memory())
    store = CachingBlobStore(back, 10_000)
    for i in range(50):
        await store.write(f"{i:032x}", bytes([i]) * 1000)
        assert (await store.read(f"{i:032x}")).data == bytes([i]) * 1000
        await store.read(f"{i:032x}", 10, 20)
        assert store.cached_bytes <= 10_000
    back.calls.clear()
    await store.read(f"{49:032x}")
    await store.read(f"{0:032x}")
    assert back.calls == ["read"]
    # What is larger than all of it is read through.
    await store.write(NAME, b"x" * 20_000)
    assert len((await store.read(NAME)).data) == 20_000
    assert store.cached_bytes <= 10_000
    await store.close()
    assert store.cached_bytes == 0
