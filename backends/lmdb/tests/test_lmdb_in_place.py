"""What LMDB decodes in its map outlives the pages it was decoded from."""

from __future__ import annotations

import threading
import zlib
from functools import cache

import anyio
import numpy as np
import pytest
from datahike_async_lmdb import LmdbBackend

import datahike_async as d
from datahike_async.index.source import Address
from datahike_async.konserve import Assoc, create_store, release_store
from datahike_async.konserve.blob import Write
from datahike_async.storage.nodes.store import NodeStore

pytestmark = pytest.mark.anyio

COUNT = 50
SIZE = 3000


@cache
def bytes_of(i, age=0):
    return bytes((i * 7 + age * 13 + k) % 251 for k in range(SIZE))


class Node:
    nbytes = SIZE

    def __init__(self, of):
        self.of = of


async def put(store, age=0):
    items = [Assoc(f"node {i}", bytes_of(i, age), binary=True) for i in range(COUNT)]
    await store.multi_assoc(items)


async def overwrite(store, times=6):
    """Write other bytes in place of all that there is, until its pages are used again."""
    for age in range(1, times):
        await put(store, age)


@pytest.mark.parametrize(
    ("decode", "sound"),
    [
        (bytes, True),
        (lambda data: np.frombuffer(data, np.uint8).astype(np.int64), True),
        (lambda data: np.frombuffer(data, np.uint8), False),
        (lambda data: np.frombuffer(data, "<i8").astype(np.int64, copy=False), False),
    ],
)
async def test_nodes_outlive_their_pages(config, decode, sound):
    store = await create_store(config)
    try:
        await put(store)
        addresses = [Address(f"node {i}", 0, SIZE, zlib.crc32(bytes_of(i))) for i in range(COUNT)]
        source = NodeStore(store, lambda data: Node(decode(data)), 1 << 30)
        await source.fetch(addresses)
        nodes = [source.get(address).of for address in addresses]

        def whole():
            return all(bytes(decode(bytes_of(i))) == bytes(n) for i, n in enumerate(nodes))

        assert whole()
        await overwrite(store)
        # One that looks into the map sees what was written there since.
        assert whole() == sound
    finally:
        nodes = None
        await release_store(store)


async def test_a_database_outlives_its_pages(config):
    """All that was read stays what it was while others write over the pages it was read from."""
    query = "[:find ?e ?a ?v ?t :where [?e ?a ?v ?t]]"
    values = ["text", 7, 2.5, True, -(2**40)]
    store = {"store": config, "schema_flexibility": "read"}
    async with d.connect(store, create=True) as conn:
        for start in range(0, 1500, 500):
            await conn.transact(
                [
                    {":db/id": i + 1, ":number": i, ":text": f"t {i % 31}", ":any": values[i % 5]}
                    for i in range(start, start + 500)
                ]
            )
        await d.compact(conn)
    async with d.connect(store) as conn:
        then = conn.db()
        # The index gives what its nodes have, the query what columns were made of them.
        wanted = [repr(list(await then.datoms(index))) for index in (":eavt", ":aevt")]
        rows = set(map(repr, await d.q(query, then)))
        # Everything is removed, and the room is used again by what comes then.
        blobs = await LmdbBackend().connect(config)
        names = [name async for page in blobs.names() for name in page]
        for age in range(4):
            await blobs.write_many([Write(name, bytes([age]) * SIZE) for name in names])
        await blobs.close()
        assert [repr(list(await then.datoms(index))) for index in (":eavt", ":aevt")] == wanted
        assert set(map(repr, await d.q(query, then))) == rows


async def test_a_decoder_runs_beside_the_loop_and_a_map_that_grows_waits_for_it(config):
    config = {**config, "map-size": 1 << 20}
    store = await create_store(config)
    decoding, go_on = threading.Event(), threading.Event()
    done = []

    def slowly(key, data):
        decoding.set()
        assert go_on.wait(20)
        # The map it lies in must still be there.
        return bytes(data)

    async def read():
        found = await store.multi_decode(["k"], slowly)
        done.append(found["k"])

    async def write():
        await store.bassoc("large", bytes(4 << 20))
        done.append("written")

    try:
        await store.bassoc("k", b"value")
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.to_thread.run_sync(decoding.wait)
            group.start_soon(write)
            await anyio.sleep(0.1)
            seen = list(done)
            go_on.set()
        assert seen == []
        assert set(done) == {b"value", "written"}
    finally:
        await release_store(store)
