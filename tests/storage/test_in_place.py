"""Nodes that are decoded where they lie in a store: they are the same, and keep no view of it."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import anyio
import numpy as np
import pytest

import datahike_async as d
from datahike_async import konserve
from datahike_async.index.source import Address
from datahike_async.konserve import Store, create_store, release_store
from datahike_async.konserve.registry import register_backend
from datahike_async.konserve.testing.sound import Lending, Specimens
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from datahike_async.konserve.wrappers.retrying import RetryingBlobStore
from datahike_async.storage.nodes.store import NodeStore

pytestmark = pytest.mark.anyio

T = TypeVar("T")
INDEXES = {
    "persistent-set": {"branching-factor": 64},
    "hitchhiker-tree": {"index-data-node-size": 64, "index-log-size": 100},
}
VALUES = ["text", 7, 2.5, True, "other", -(2**40), "text"]

lent: list[str] = []


class Noting(Lending):
    """Notes what it lends."""

    async def read_in_place(
        self, names: Sequence[str], decode: Callable[[str, memoryview], T]
    ) -> Mapping[str, T]:
        lent.extend(names)
        return await super().read_in_place(names, decode)


@pytest.fixture
def lending() -> dict[str, Any]:
    """Return the configuration of a store that lends its bytes, and overwrites them."""
    register_backend("lending", Specimens(Noting))
    lent.clear()
    return {"backend": "lending", "id": uuid4()}


def entity(i: int) -> dict[str, Any]:
    return {
        ":db/id": i + 1,
        ":number": i * 37 % 1009,
        ":text": f"text {i % 29}",
        ":mixed": VALUES[i % len(VALUES)],
    }


async def fill(config: dict[str, Any]) -> None:
    """Make a database with a past, and runs over its indexes."""
    async with d.connect(config, create=True) as conn:
        for start in range(0, 900, 300):
            await conn.transact([entity(i) for i in range(start, start + 300)])
        await d.compact(conn)
        await conn.transact([{":db/id": i, ":number": -i} for i in range(1, 300)])
        await d.compact(conn)
        await conn.transact([{":db/id": i, ":number": i} for i in range(100, 200)])


async def told(config: dict[str, Any]) -> list[Any]:
    """Return what is in a database and what ever was, with the type of each value."""
    query = "[:find ?e ?a ?v ?t ?added :in $ ?top :where [?e ?a ?v ?t ?added] [(< ?e ?top)]]"
    async with d.connect(config) as conn:
        now = conn.db()
        out = [sorted(map(repr, await d.q(query, db, 1000))) for db in (now, now.history())]
        return [*out, await now.pull("[*]", 500)]


@pytest.mark.parametrize("index", INDEXES)
async def test_a_database_reads_alike_where_its_bytes_are_overwritten(
    lending: dict[str, Any], index: str
) -> None:
    rest = {
        "schema_flexibility": "read",
        "index": f":datahike.index/{index}",
        "index_config": INDEXES[index],
    }
    copied = {"store": {"backend": "memory", "id": uuid4()}, **rest}
    in_place = {"store": lending, **rest}
    for config in (copied, in_place):
        await fill(config)
    lent.clear()
    wanted = await told(copied)
    assert len(wanted[0]) == 2700
    assert not lent
    assert await told(in_place) == wanted
    assert len(lent) > 50


async def nodes(store: Store, count: int = 3) -> tuple[list[Address], list[bytes]]:
    """Store some bytes as nodes, and return where they lie."""
    parts = [bytes(range(i, i + 200)) for i in range(count)]
    for i, part in enumerate(parts):
        await store.bassoc(f"node {i}", part)
    return [Address(f"node {i}", 0, 200, zlib.crc32(part)) for i, part in enumerate(parts)], parts


class Node:
    """Whatever was decoded."""

    nbytes = 200

    def __init__(self, of: Any) -> None:
        self.of = of


async def test_large_waves_of_many_tasks_are_decoded_in_two_threads_at_most(
    lending: dict[str, Any],
) -> None:
    store, waves = await create_store(lending), 6
    try:
        data = bytes(20_000)
        addresses = [Address(f"node {n}", 0, len(data), zlib.crc32(data)) for n in range(2 * waves)]
        for address in addresses:
            await store.bassoc(address.blob, data)
        running: set[int] = set()
        most = 0

        def decode(data: Any) -> Any:
            nonlocal most
            running.add(threading.get_ident())
            most = max(most, len(running))
            time.sleep(0.005)
            running.discard(threading.get_ident())
            return Node(bytes(data))

        source = NodeStore(store, decode, 1 << 30)
        async with anyio.create_task_group() as group:
            for n in range(waves):
                group.start_soon(source.fetch, addresses[2 * n : 2 * n + 2])
        assert all(source.get(address).of == data for address in addresses)
        assert most == 2
    finally:
        await release_store(store)


@pytest.mark.parametrize(
    "decode",
    [
        lambda data: Node(memoryview(data)[10:]),
        lambda data: Node(np.frombuffer(data, np.uint8)),
        lambda data: Node(np.frombuffer(data, "<i8").astype(np.int64, copy=False)),
    ],
)
async def test_a_decoder_that_keeps_a_view_is_found_out(
    lending: dict[str, Any], decode: Callable[[Any], Any]
) -> None:
    store = await create_store(lending)
    try:
        addresses, parts = await nodes(store)
        with pytest.raises(d.DatahikeError, match="still looks at the bytes"):
            await NodeStore(store, decode, 1_000_000).fetch(addresses)
        source = NodeStore(store, lambda data: Node(bytes(data)), 1_000_000)
        await source.fetch(addresses)
        assert [source.get(address).of for address in addresses] == parts
    finally:
        await release_store(store)


async def test_a_node_that_is_damaged_or_missing_is_said_to_be(lending: dict[str, Any]) -> None:
    store = await create_store(lending)
    try:
        (address, other, third), _ = await nodes(store)
        source = NodeStore(store, lambda data: Node(bytes(data)), 1_000_000)
        for wrong, error in (
            (address._replace(crc=address.crc ^ 1), "checksum"),
            (address._replace(length=300), "only 200 of 300 bytes"),
            (address._replace(blob="nowhere"), "not in the store"),
        ):
            with pytest.raises(d.CorruptData, match=error):
                await source.fetch([other, wrong])
        await store.assoc("node 2", "no bytes")
        with pytest.raises(d.DatahikeError, match="not binary"):
            await source.fetch([third])
        await source.fetch([address])
        assert source.get(address) is not None
    finally:
        await release_store(store)


class Reversing(PassingBlobStore):
    """Changes what is read, and knows nothing of reads in place."""

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Any]:
        found = await super().read_many(names)
        return {name: found[other] for name, other in zip(names, names[::-1], strict=True)}


async def test_a_wrapper_that_changes_reads_changes_reads_in_place(lending: dict[str, Any]) -> None:
    store = await create_store(lending)
    try:
        _, parts = await nodes(store)
        keys = ["node 0", "node 1", "node 2"]
        for blobs, wanted in (
            (RetryingBlobStore(store.blobs), parts),
            (Reversing(store.blobs), parts[::-1]),
        ):
            wrapped = Store(blobs)
            assert wrapped.in_place
            found = await wrapped.multi_decode(keys, lambda key, data: bytes(data))
            assert list(found.values()) == wanted
            assert list(found) == keys
    finally:
        await release_store(store)


async def test_what_is_encrypted_is_not_decoded_in_place(lending: dict[str, Any]) -> None:
    store = await create_store(lending)
    try:
        plain = Store(store.blobs)
        secret = Store(store.blobs, encryptor=Scrambling())
        await secret.bassoc("secret", b"in clear")
        assert not secret.in_place
        with pytest.raises(konserve.UnsupportedOperation):
            await secret.multi_decode(["secret"], lambda key, data: bytes(data))
        with pytest.raises(konserve.UnsupportedEncoding, match="encrypted"):
            await plain.multi_decode(["secret"], lambda key, data: bytes(data))
    finally:
        await release_store(store)


class Scrambling:
    """Turns bytes over."""

    id = 9

    def encrypt(self, data: bytes, name: str, part: str) -> bytes:
        return data[::-1]

    def decrypt(self, data: bytes, name: str, part: str) -> bytes:
        return data[::-1]
