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
from benchmarks.plan import QUERIES
from datahike_async.konserve.backends.memory import MemoryBackend
from datahike_async.konserve.blob import Blob, Capabilities, Revision, Unchanged
from datahike_async.konserve.registry import register_backend
from datahike_async.konserve.wrappers.passing import PassingBlobStore
from tests.servers.proxy import Record, waves

LATENCY = 0.02
PEOPLE = 20_000

_reads: list[Record] = []


class DistantStore(PassingBlobStore):
    """A memory store in which every read takes `LATENCY`, and is noted."""

    @property
    def capabilities(self) -> Capabilities:
        """Those of a store behind a network, as one of this latency is."""
        return replace(self.blobs.capabilities, remote=True, cheap_small_keys=False)

    async def _travel(self, what: str) -> None:
        record = Record("GET", what, "", {}, time.monotonic())
        _reads.append(record)
        await anyio.sleep(LATENCY)
        record.ended = time.monotonic()

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Blob | None:
        """Wait, then hand on."""
        await self._travel(name)
        return await super().read(name, start, end)

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Wait, then hand on."""
        await self._travel(name)
        return await super().read_latest(name, unless)

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Blob]:
        """Wait once, then hand on."""
        await self._travel(f"{len(names)} names")
        return await super().read_many(names)


class DistantBackend(MemoryBackend):
    """Memory stores that are far away."""

    async def create(self, config: Mapping[str, Any]) -> Any:
        """Make a store."""
        return DistantStore(await super().create(config))

    async def connect(self, config: Mapping[str, Any]) -> Any:
        """Open a store."""
        return DistantStore(await super().connect(config))


async def _measure() -> list[tuple[str, str, float, float, float | None]]:
    register_backend("distant", DistantBackend())
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
    free = float("inf")
    return [
        ("opening, reads of 20 ms", "waves", opening, free, None),
        ("cold q4, reads of 20 ms", "waves", chain, 6, None),
        ("cold q4, reads of 20 ms: reads", "reads", reads, free, None),
        ("cold q4, reads of 20 ms: time", "ms", ms, free, None),
    ]


def measure() -> list[tuple[str, str, float, float, float | None]]:
    """Return name, unit, figure, bar and aim of each thing measured."""
    return anyio.run(_measure)
