"""A collection on object stores, beside a writer and with a copy in front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

import datahike_async as d
from datahike_async.transactor.limits import Limits
from tests.collection.garbage import numbers, settled
from tests.stores import Servers, on_loops, store_on

pytestmark = pytest.mark.anyio

SMALL = Limits(flush_rows=40, flush_bytes=2_000, close_rows=10**9)


@pytest.mark.parametrize(("anyio_backend", "name"), on_loops(["s3-moto", "tiered-memory-s3"]))
async def test_a_collection_beside_a_writer(name: str, tmp_path: Path, servers: Servers) -> None:
    config: dict[str, Any] = {
        "store": store_on(name, tmp_path, servers),
        "schema_flexibility": "read",
        "keep_history": False,
    }
    async with d.connect(config, create=True, limits=SMALL) as conn:
        freed = 0
        for round_ in range(2):
            async with anyio.create_task_group() as tasks:

                async def write(first: int) -> None:
                    for n in range(first, first + 60):
                        await conn.transact([{":n": n, ":text": "x" * 100}])

                tasks.start_soon(write, 60 * round_)
                await anyio.sleep(0.2)
                freed += (await d.gc_storage(conn, retain={"commits": 5})).freed
        await settled(conn)
        freed += (await d.gc_storage(conn, retain={"commits": 5})).freed
        assert freed > 5
        assert (await d.gc_storage(conn, retain={"commits": 5}, dry_run=True)).freed <= 2
        assert await numbers(conn.db()) == list(range(120))
        assert (await d.verify(conn, deep=True)).ok
    async with d.connect(config) as conn:
        assert await numbers(conn.db()) == list(range(120))
