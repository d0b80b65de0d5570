"""Writers at a store without turns, far away: newcomers get in, and little is run twice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import anyio
import pytest
import trio
from trio.testing import MockClock

import datahike_async as d
from datahike_async.env import Env
from datahike_async.konserve import register_backend
from datahike_async.konserve.backends.memory import MemoryBackend, MemoryBlobStore
from datahike_async.konserve.blob import (
    Blob,
    Capabilities,
    ConditionalDomain,
    Expected,
    Revision,
    Unchanged,
    Write,
)
from tests.strangers import Strangers

ONE_WAY = 0.03
BACK = 0.002


class Distant(MemoryBlobStore):
    """Every request takes a while to get there."""

    @property
    def capabilities(self) -> Capabilities:
        """As an object store has them."""
        return Capabilities(conditional=ConditionalDomain.GLOBAL, remote=True)

    async def read_latest(
        self, name: str, unless: Revision | None = None
    ) -> Blob | Unchanged | None:
        """Return what there is when the request arrives."""
        await anyio.sleep(ONE_WAY)
        found = await super().read_latest(name, unless)
        await anyio.sleep(BACK)
        return found

    async def write_many(self, writes: Any, *, ordered: bool = True) -> Any:
        """Write once the request has arrived."""
        await anyio.sleep(ONE_WAY)
        try:
            return await super().write_many(writes, ordered=ordered)
        finally:
            await anyio.sleep(BACK)

    async def write(self, name: str, data: bytes, expected: Expected = None) -> Revision:
        """Write one."""
        revision: Revision = (await self.write_many([Write(name, data, expected)]))[0]
        return revision


class DistantBackend(MemoryBackend):
    """Memory stores that are far away."""

    async def create(self, config: Mapping[str, Any]) -> MemoryBlobStore:
        """Make one."""
        return Distant((await super().create(config))._open())

    async def connect(self, config: Mapping[str, Any]) -> MemoryBlobStore:
        """Open one."""
        return Distant((await super().connect(config))._open())


@pytest.fixture(autouse=True)
def distant() -> None:
    register_backend("distant", DistantBackend())


class Found:
    """How many commits each writer made, and over all: re-runs and the longest wait."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.reruns = 0
        self.longest = 0.0


def run(late: list[float], seconds: float, seed: int) -> Found:
    """Have writers that begin so late commit until the end, in virtual time."""
    chance = random.Random(seed)
    found = Found()

    async def main() -> None:
        env = Env(monotonic=trio.current_time, random=chance.random)
        store = {"backend": "distant", "id": uuid4()}
        await d.create_database(store=store, schema_flexibility="read")
        end = trio.current_time() + seconds + 1

        async def writer(number: int, after: float) -> None:
            count = 0
            async with Strangers(store, env=env) as conn:
                await trio.sleep_until(end - seconds + after)
                while (before := trio.current_time()) < end:
                    await conn.transact([{":writer": number, ":n": count}])
                    count += 1
                    found.longest = max(found.longest, trio.current_time() - before)
                    # An application has something to do in between.
                    await trio.sleep(chance.uniform(0.001, 0.006))
                order = conn._transactor.order
                found.counts.append(count)
                found.reruns += order.reruns

        async with trio.open_nursery() as nursery:
            for number, after in enumerate(late):
                nursery.start_soon(writer, number, after)
        async with d.connect(store=store) as conn:
            rows = await conn.db().q("[:find ?w ?n (count ?e) :where [?e :writer ?w] [?e :n ?n]]")
            assert len(rows) == sum(found.counts)
            assert {count for *_, count in rows} == {1}

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_two_that_begin_together_share_from_the_beginning(seed: int) -> None:
    found = run([0, 0], 8, seed)
    assert min(found.counts) * 3 > max(found.counts) * 2
    assert found.reruns < 0.1 * sum(found.counts)


@pytest.mark.parametrize("seed", range(5))
def test_a_newcomer_gets_in_between_the_publications_of_a_writer_that_never_pauses(
    seed: int,
) -> None:
    found = run([0, 5], 9, seed)
    # Each gap that the busy one leaves is met.
    assert found.reruns <= 6
    assert found.longest < 2.5


def test_eight_that_begin_together_run_little_twice() -> None:
    found = run([0] * 8, 30, 1)
    assert min(found.counts) * 3 > sum(found.counts) / 8
    assert found.reruns < 0.2 * sum(found.counts)
