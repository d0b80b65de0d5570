"""kill -9 at random moments: what the process had acknowledged is there when it is opened again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import datahike_async as d

pytestmark = pytest.mark.anyio

WRITER = """
import sys, anyio
import datahike_async as d
from datahike_async.transactor.transactor import Limits

async def main(path, first):
    limits = Limits(flush_rows=200, flush_journal_bytes=20_000)
    async with d.connect(store={"backend": "file", "path": path}, limits=limits) as conn:
        async def client(k):
            n = first + k
            while True:
                data = [{":n": n, ":twin": n}]
                if n % 97 == 0:
                    data += [{":filler": n} for _ in range(1200)]
                print("try", n, flush=True)
                await conn.transact(data)
                print("ack", n, flush=True)
                n += 4
        print("open", flush=True)
        async with anyio.create_task_group() as tasks:
            for k in range(4):
                tasks.start_soon(client, k)

anyio.run(main, sys.argv[1], int(sys.argv[2]), backend=sys.argv[3])
"""


def one_life(path: str, first: int, backend: str, seconds: float) -> tuple[set[int], set[int]]:
    """Run a writer, kill it, and return what it tried and what was acknowledged to it."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path, str(first), backend],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "open\n"
    time.sleep(seconds)
    writer.kill()
    said = writer.stdout.read().split("\n")
    writer.wait()
    writer.stdout.close()
    tried, acknowledged = set(), set()
    # The last line may be cut off.
    for line in said[:-1]:
        verb, _, number = line.partition(" ")
        (tried if verb == "try" else acknowledged).add(int(number))
    return tried, acknowledged


async def test_killed_writers_lose_nothing_they_acknowledged(
    tmp_path: Path, anyio_backend: str
) -> None:
    store: dict[str, Any] = {"backend": "file", "path": str(tmp_path / "db"), "id": uuid4()}
    await d.create_database(store=store, schema_flexibility="read")
    rng = random.Random(anyio_backend)
    tried: set[int] = set()
    acknowledged: set[int] = set()
    for life in range(6):
        more = await anyio.to_thread.run_sync(
            one_life, store["path"], life * 100_000 + 1, anyio_backend, rng.uniform(0.02, 0.3)
        )
        tried |= more[0]
        acknowledged |= more[1]
        async with d.connect(store=store) as conn:
            db = conn.db()
            found = [x.v for x in await db.datoms("aevt", ":n")]
            recovered = set(found)
            assert len(found) == len(recovered)
            assert acknowledged <= recovered <= tried
            assert sorted(x.v for x in await db.datoms("aevt", ":twin")) == sorted(found)
            filler = [x.v for x in await db.datoms("aevt", ":filler")]
            assert {n: filler.count(n) for n in set(filler)} == {
                n: 1200 for n in recovered if n % 97 == 0
            }
    assert len(acknowledged) > 50
