"""A wave of nodes is decoded where it holds up nobody."""

from __future__ import annotations

import threading
import time
import zlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from datahike_async.index.source import Address
from datahike_async.konserve import create_store, release_store
from datahike_async.storage.nodes.layout import Layout, layout_of
from datahike_async.storage.nodes.store import NodeStore

pytestmark = pytest.mark.anyio

NODE = 1024
APART = 40 * NODE
"""So far apart that each is a read of its own."""


@pytest.mark.parametrize("backend", ["memory", "file"])
async def test_a_wave_that_takes_long_to_decode_is_decoded_in_threads(
    backend: str, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"backend": backend, "id": uuid4()}
    if backend == "file":
        config["path"] = str(tmp_path / "store")
    store = await create_store(config)
    try:
        decoded_in: list[int] = []
        running: set[int] = set()
        of_the_loop = threading.get_ident()
        most = 0

        def decode(data: bytes) -> Any:
            nonlocal most
            me = threading.get_ident()
            decoded_in.append(me)
            running.add(me)
            most = max(most, len(running))
            if me != of_the_loop:
                time.sleep(0.001)
            running.discard(me)
            return Node()

        source = NodeStore(store, decode, 1_000_000)
        node = bytes(range(256)) * (NODE // 256)
        addresses = []
        if layout_of(store.capabilities) is Layout.NODES:
            for n in range(100):
                await store.bassoc(f"node {n}", node)
                addresses.append(Address(f"node {n}", 0, NODE, zlib.crc32(node)))
        else:
            await store.bassoc("pack", (node + bytes(APART - NODE)) * 100)
            addresses = [Address("pack", APART * n, NODE, zlib.crc32(node)) for n in range(100)]

        await source.fetch(addresses[:10])
        assert set(decoded_in) == {threading.get_ident()}
        assert len(decoded_in) == 10
        decoded_in.clear()
        await source.fetch(addresses)
        assert threading.get_ident() not in decoded_in
        assert len(decoded_in) == 90
        # Each that runs takes its turn before the event loop gets its own.
        assert 1 <= most <= 2
    finally:
        await release_store(store)


class Node:
    nbytes = NODE
