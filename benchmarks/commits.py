"""Durable commits of a web application's size, beside SQLite through aiosqlite, in one run."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiosqlite
import anyio

import datahike_async as d
from datahike_async.tables import table
from datahike_async.transactor.limits import Limits

SECONDS = 4.0
SCHEMA = """
[{:db/ident :uid :db/valueType :db.type/long :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :name :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :age :db/valueType :db.type/long :db/cardinality :db.cardinality/one}]
"""


def disk(folder: Path, count: int = 400) -> float:
    """Return how many times a second the disk appends 4 KiB and syncs."""
    fd = os.open(folder / "probe", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    start = time.perf_counter()
    for _ in range(count):
        os.write(fd, b"x" * 4096)
        os.fdatasync(fd)
    seconds = time.perf_counter() - start
    os.close(fd)
    return count / seconds


async def rate(clients: int, commit: Callable[[int], Awaitable[Any]]) -> float:
    """Return commits a second of so many concurrent tasks."""
    done = 0
    start = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal done
        i = 0
        while time.perf_counter() - start < SECONDS:
            await commit(number * 1_000_000 + i)
            i += 1
            done += 1

    async with anyio.create_task_group() as group:
        for number in range(1, clients + 1):
            group.start_soon(client, number)
    return done / (time.perf_counter() - start)


async def datahike(folder: Path, clients: int, backend: str = "file") -> float:
    """Return our commits a second."""
    config = {"store": {"backend": backend, "path": str(folder)}}
    await d.create_database(config)
    async with d.connect(config) as conn:
        await conn.transact(SCHEMA)
        return await rate(
            clients,
            lambda i: conn.transact([{":uid": i, ":name": "Ivan", ":age": 3}]),
        )


async def sqlite(path: Path, clients: int) -> float:
    """Return SQLite's commits a second: WAL, synchronous=FULL, one connection a task."""
    setup = await aiosqlite.connect(path)
    await setup.execute("PRAGMA journal_mode=WAL")
    await setup.execute("CREATE TABLE person (uid INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
    await setup.commit()
    connections = {}
    for number in range(1, clients + 1):
        connection = await aiosqlite.connect(path, timeout=60)
        await connection.execute("PRAGMA synchronous=FULL")
        connections[number] = connection

    async def commit(i: int) -> None:
        connection = connections[i // 1_000_000]
        await connection.execute("INSERT OR REPLACE INTO person VALUES (?, ?, ?)", (i, "Ivan", 3))
        await connection.commit()

    found = await rate(clients, commit)
    for connection in [*connections.values(), setup]:
        await connection.close()
    return found


async def refreshing(folder: Path) -> list[tuple[int, float]]:
    """Return the ms of a ``sync()`` after one foreign commit, by the records since the flush."""
    config = {"store": {"backend": "file", "path": str(folder)}}
    limits = Limits(flush_rows=10**9, flush_journal_bytes=10**9, close_rows=10**9)
    await d.create_database(config)
    orders: queue.Queue[int] = queue.Queue()
    obeyed: queue.Queue[int] = queue.Queue()

    async def write() -> None:
        async with d.connect(config, limits=limits) as conn:
            await conn.transact(SCHEMA)
            done = 0
            while count := await anyio.to_thread.run_sync(orders.get):
                for _ in range(count):
                    done += 1
                    await conn.transact([{":uid": done, ":name": "Ivan", ":age": 3}])
                obeyed.put(done)

    # An event loop of its own has a writer of its own, as another process has.
    writer = threading.Thread(target=anyio.run, args=(write,))
    writer.start()
    found = []
    try:
        async with d.connect(config, limits=limits) as conn:

            async def commit(count: int) -> int:
                orders.put(count)
                return await anyio.to_thread.run_sync(obeyed.get)

            for more in (1, 3500):
                at = await commit(more)
                await conn.sync()
                times = []
                for _ in range(15):
                    at = await commit(1)
                    start = time.perf_counter()
                    await conn.sync()
                    times.append((time.perf_counter() - start) * 1e3)
                found.append((at, sorted(times)[7]))
    finally:
        orders.put(0)
        await anyio.to_thread.run_sync(writer.join)
    return found


async def measure(folder: Path) -> int:
    """Print one table; return 1 where a bar is missed."""
    syncs = await anyio.to_thread.run_sync(disk, folder)
    rows = []
    for clients in (1, 32):
        ours = await datahike(folder / f"d{clients}", clients)
        theirs = await sqlite(folder / f"s{clients}.db", clients)
        rows.append((clients, round(ours), round(theirs), f"{ours / theirs:.1f}x"))
    print(f"The disk alone: {syncs:.0f} appends with fdatasync a second.")
    print(table(("tasks", "datahike-async/s", "aiosqlite/s", "ratio"), rows))
    one = 1500 * syncs / 5000
    met = rows[0][1] >= one and rows[1][1] >= 6000 and rows[1][1] >= 1.3 * rows[1][2]
    print(
        f"Bars: 1 task {one:.0f}/s (1,500 where the disk does 5,000), 32 tasks 6,000/s and 1.3x: "
        + ("met." if met else "missed.")
    )
    (few, first), (many, last) = await refreshing(folder / "refreshed")
    level = last <= 3 * first + 0.5
    print(
        f"sync() after one foreign commit: {first:.1f} ms at {few} records in the log, "
        f"{last:.1f} ms at {many}: {'level' if level else 'it grows, missed'}."
    )
    return 0 if met and level else 1


def run(folder: str | None = None) -> int:
    """Measure in a temporary folder, or in ``folder``."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        return anyio.run(measure, Path(name))
