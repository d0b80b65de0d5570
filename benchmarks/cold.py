"""A database whose nodes are 20 ms away: in how many waves of reads q4 is answered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import anyio

import datahike_async as d
from benchmarks.data import entities, people, schema
from benchmarks.measure import Figure
from benchmarks.plan import QUERIES
from datahike_async.konserve.backends.memory import MemoryBackend
from datahike_async.konserve.base import BlobStoreBase
from datahike_async.konserve.blob import Blob, BlobStore, Capabilities, Revision, Unchanged
from datahike_async.konserve.registry import register_backend
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from tests.servers.proxy import Record, waves

LATENCY = 0.02
PEOPLE = 20_000
WAVES = 6

_reads: list[Record] = []


class DistantStore(PassingBlobStore):
    """A memory store in which every read takes `LATENCY`, and is noted."""

    at_once = 64

    def __init__(self, blobs: BlobStore, *, remote: bool) -> None:
        super().__init__(blobs)
        self._remote = remote

    @property
    def capabilities(self) -> Capabilities:
        """As those of S3 where it says that it is ``remote``, else those of memory."""
        if not self._remote:
            return self.blobs.capabilities
        return replace(self.blobs.capabilities, remote=True, cheap_small_keys=False)

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Wait, then hand on."""
        record = Record("GET", name, "", {}, time.monotonic())
        _reads.append(record)
        await anyio.sleep(LATENCY)
        record.ended = time.monotonic()
        return await super().read(name, start, end)

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Read, and compare."""
        return await BlobStoreBase.read_latest(self, name, unless)

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Read concurrently."""
        return await BlobStoreBase.read_many(self, names)


class DistantBackend(MemoryBackend):
    """Memory stores that are far away, and say so or not."""

    def __init__(self, *, remote: bool) -> None:
        self._remote = remote

    async def create(self, config: Mapping[str, Any]) -> Any:
        """Make a store."""
        return DistantStore(await super().create(config), remote=self._remote)

    async def connect(self, config: Mapping[str, Any]) -> Any:
        """Open a store."""
        return DistantStore(await super().connect(config), remote=self._remote)


async def _measure(kind: str) -> list[Figure]:
    register_backend("distant", DistantBackend(remote=kind == "remote"))
    store = {"backend": "distant", "id": uuid4()}
    attributes = [{":db/ident": name, **rest} for name, rest in schema().items()]
    await d.create_database(store=store, initial_tx=attributes)
    async with d.connect(store=store) as conn:
        await conn.transact(entities(people(PEOPLE)))
        expected = set(await d.q(QUERIES["q4"], conn.db()))
    _reads.clear()
    async with d.connect(store=store) as conn:
        opening = waves(_reads)
        _reads.clear()
        start = time.perf_counter()
        answer = await d.q(QUERIES["q4"], conn.db())
        ms = (time.perf_counter() - start) * 1e3
        chain, reads = waves(_reads), len(_reads)
        assert set(answer) == expected
    await d.delete_database(store=store)
    name = f"cold q4, 20 ms a read, {kind} store"
    return [
        Figure(f"{name}: opening", "waves", opening),
        Figure(f"{name}: q4", "waves", chain, WAVES),
        Figure(f"{name}: q4", "reads", reads),
        Figure(f"{name}: q4", "ms", ms),
    ]


def measure() -> list[Figure]:
    """Return what was measured, on a store that says it is remote and on one that does not."""
    return [figure for kind in ("remote", "near") for figure in anyio.run(_measure, kind)]
