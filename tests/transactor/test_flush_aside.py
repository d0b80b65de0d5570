"""A flush stands aside for commits: what its thread looks at, how often, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d
from datahike_async.storage import flush
from datahike_async.storage.nodes.sinks import Sink
from datahike_async.transactor.limits import Limits

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param == "memory":
        return {"backend": "memory", "id": uuid4()}
    return {"backend": "file", "path": str(tmp_path / "db")}


NEVER = Limits(flush_rows=10**9, flush_journal_bytes=10**9, close_rows=10**9)


async def test_a_flush_looks_before_each_node_whether_a_commit_is_under_way(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    nodes: list[Any] = []
    put = Sink.put

    def counted(self: Sink, data: bytes, node: Any) -> Any:
        nodes.append(node)
        return put(self, data, node)

    monkeypatch.setattr(flush._Aside, "__call__", lambda self, count: looks.append(count))
    monkeypatch.setattr(Sink, "put", counted)
    async with d.connect(store=store, create=True, schema_flexibility="read", limits=NEVER) as conn:
        await conn.transact([{":db/id": 1 + i, ":n": i, ":m": -i} for i in range(3000)])
        flushing = conn._transactor.flushing

        async def at_rest() -> None:
            # So many at once have a flush begin by itself, to merge them.
            with anyio.fail_after(20):
                while not flushing.at_rest or conn.db().snapshot.trees.due:
                    await anyio.sleep(0.001)

        await at_rest()
        looks.clear()
        nodes.clear()
        for i in range(300):
            await conn.transact([[":db/add", 1 + 10 * i, ":n", -i]])
        await at_rest()
        flushing.written(await conn._transactor.branch.prepare_flush())
    # Once where it is merged and once where it is written.
    assert len(looks) >= 2 * len(nodes) > 20


async def test_a_commit_hurries_until_it_is_answered(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    async with d.connect(store=store, create=True, schema_flexibility="read") as conn:
        branch = conn._transactor.branch
        blobs: Any = branch.store.blobs
        for name in ("append", "write"):
            if not hasattr(blobs, name):
                continue
            call = getattr(blobs, name)

            async def noted(*arguments: Any, _call: Any = call) -> Any:
                seen.append(branch.committing)
                return await _call(*arguments)

            monkeypatch.setattr(blobs, name, noted)
        await conn.transact([{":n": 1}])
        with anyio.fail_after(5):
            while branch.committing:
                await anyio.sleep(0.001)
        with pytest.raises(d.TransactionError):
            await conn.transact([[":db/add"]])
        await anyio.sleep(0.001)
        assert not branch.committing
    assert True in seen


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_flush_stands_aside_no_longer_than_it_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, slept = [0.0], [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        slept[0] += seconds

    monkeypatch.setattr(flush, "perf_counter", lambda: now[0])
    monkeypatch.setattr(flush, "sleep", sleep)
    always, never = flush._Aside(lambda: True), flush._Aside(lambda: False)
    worked = 0.0
    for _ in range(1000):
        never(1)
        assert slept == [0.0]
    for _ in range(1000):
        always(1)
        now[0] += 0.0001
        worked += 0.0001
    assert 0.5 * worked < slept[0] <= 1.3 * worked
