"""What gathers during a flush is laid over the new trees without holding up the loop."""

from __future__ import annotations

import threading
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.index.memtable import Memtable, Rest
from datahike_async.storage import flush
from datahike_async.transactor import branch
from datahike_async.transactor.transactor import Limits

pytestmark = pytest.mark.anyio

ENTITIES = 400
LIMITS = Limits(flush_rows=2000, flush_bytes=10**9, close_rows=10**9)


async def test_what_came_during_a_flush_is_taken_over_in_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = {"backend": "memory", "id": uuid4()}
    await d.create_database(store=store, schema_flexibility="read")
    gate, held = anyio.Event(), anyio.Event()
    write_blobs = flush.write_blobs

    async def gated(*args: Any) -> None:
        held.set()
        await gate.wait()
        await write_blobs(*args)

    taken: list[tuple[bool, int]] = []
    until, loop = Rest.until, threading.get_ident()

    def noted(self: Rest, n: int) -> Memtable:
        if self.mem.ops and self.stop:  # no fork
            taken.append((threading.get_ident() == loop, n - self.stop))
        return until(self, n)

    monkeypatch.setattr(Rest, "until", noted)
    expected: dict[int, int] = {}
    async with d.connect(store=store, limits=LIMITS) as conn:

        async def write(rounds: int) -> None:
            for _ in range(rounds):
                n = len(written)
                written.append(n)
                part = [{":db/id": 1 + (37 * n + i) % ENTITIES, ":u": n} for i in range(50)]
                expected.update({item[":db/id"]: n for item in part})
                await conn.transact(part)

        written: list[int] = []
        monkeypatch.setattr(flush, "write_blobs", gated)
        await write(30)
        with anyio.fail_after(30):
            await held.wait()
        # Values that the flush has, and those that came since, are replaced.
        await write(10)
        gathered = conn.db().snapshot.n
        gate.set()
        flushing = conn._transactor.flushing
        while not flushing.at_rest:
            await anyio.sleep(0.001)
        rest = conn.db().snapshot.n
        assert 1000 < rest < gathered
        assert {x.e: x.v for x in await conn.db().datoms("aevt", ":u")} == expected
        history = await conn.db().history().datoms("aevt", ":u")
        assert sum(x.added for x in history) == 50 * len(written)
    by_loop = [count for on_loop, count in taken if on_loop]
    assert max(by_loop, default=0) < branch._FEW
    assert sum(count for on_loop, count in taken if not on_loop) >= rest - branch._FEW


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_rest_that_is_made_in_steps_is_that_made_at_once() -> None:
    mem = Memtable()
    for i in range(40):
        row = mem.assert_row(i % 7, 1, i, i, 100 + i, True)
        if i % 3 == 0:
            mem.retract_row(row - row % 2, 100 + i)
        if i % 5 == 0:
            mem.retract_base(50 + i, 2, "x", "x", 3, 100 + i, False)
    whole = mem.rest(20).until(len(mem))
    steps = mem.rest(20)
    for n in (21, 21, 33, len(mem)):
        made = steps.until(n)
    for name in Memtable.__slots__:
        if name != "_turn":
            assert getattr(made, name) == getattr(whole, name), name
