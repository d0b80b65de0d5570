"""An event loop under full load: 50 tasks, nine point reads to an update, ours and aiosqlite.

A turn is how long a task that sleeps `SLEEP` is away, so what a request waits for its turn; an
update is durable when its task goes on. SQLite has WAL with synchronous=FULL, one connection that
writes for whoever waits, and one for each of the `READERS` threads that read.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

import aiosqlite
import anyio

import datahike_async as d
from benchmarks.analytics import data
from benchmarks.analytics.plan import POINT
from benchmarks.measure import Timing, calibration

TASKS: Final = 50
UPDATES: Final = 0.1
READERS: Final = 2
SLEEP: Final = 0.001
SECONDS: Final = 4.0
WARM: Final = 1.0

Operation = Callable[[int], Awaitable[object]]


class Turns(NamedTuple):
    """What was seen in a run, in milliseconds."""

    turn_p50: float
    turn_p99: float
    operation: float
    """The time a run took for each operation, of all tasks together."""


async def loaded(size: int, read: Operation, update: Operation, seconds: float) -> Turns:
    """Run `TASKS` tasks that read and update random people, and a task that counts turns."""
    turns: list[float] = []
    done = 0
    start = time.perf_counter() + WARM
    end = start + seconds

    async def work(seed: int) -> None:
        nonlocal done
        rng = random.Random(seed)
        while (now := time.perf_counter()) < end:
            what = update if rng.random() < UPDATES else read
            await what(rng.randrange(1, size + 1) + data.FIRST_ID)
            done += now >= start

    async def tick() -> None:
        last = time.perf_counter()
        while last < end:
            await anyio.sleep(SLEEP)
            now = time.perf_counter()
            if now >= start:
                turns.append((now - last) * 1e3)
            last = now

    async with anyio.create_task_group() as group:
        for seed in range(TASKS):
            group.start_soon(work, seed)
        group.start_soon(tick)
    turns.sort()
    return Turns(turns[len(turns) // 2], turns[len(turns) * 99 // 100], seconds * 1e3 / done)


async def ours(folder: Path, size: int, seconds: float) -> Turns:
    """Return the turns of our loop, on files."""
    names = (":id", ":name", ":age")
    attributes = [{":db/ident": name, **data.PEOPLE_SCHEMA[name]} for name in names]
    people = data.people(size)
    table = data.Table("person", people.e, {name: people.columns[name] for name in names})
    config = {"store": {"backend": "file", "path": str(folder / "db")}}
    async with d.connect(config, create=True) as conn:
        await conn.transact(attributes)
        await conn.transact(table.maps())
        ages = itertools.count()

        async def read(id_: int) -> object:
            return await d.q(POINT, conn.db(), id_)

        async def update(id_: int) -> object:
            return await conn.transact([{":id": id_, ":age": next(ages) % 100}])

        return await loaded(size, read, update, seconds)


async def sqlite(folder: Path, size: int, seconds: float) -> Turns:
    """Return the turns of a loop with aiosqlite."""
    path = folder / "people.db"
    writer = await aiosqlite.connect(path)
    await writer.execute("pragma journal_mode=wal")
    await writer.execute("pragma synchronous=full")
    await writer.execute("create table person(id integer primary key, name text, age integer)")
    columns = data.people(size).columns
    rows = zip(columns[":id"].tolist(), columns[":name"], columns[":age"].tolist(), strict=True)
    await writer.executemany("insert into person values (?, ?, ?)", rows)
    await writer.commit()
    readers = [await aiosqlite.connect(path) for _ in range(READERS)]
    turn, ages, lock = itertools.cycle(readers), itertools.count(), anyio.Lock()

    async def read(id_: int) -> object:
        found = await next(turn).execute_fetchall("select age from person where id = ?", (id_,))
        return next(iter(found))[0]

    async def update(id_: int) -> object:
        async with lock:
            await writer.execute("update person set age = ? where id = ?", (next(ages) % 100, id_))
            await writer.commit()
        return None

    found = await loaded(size, read, update, seconds)
    for connection in (writer, *readers):
        await connection.close()
    return found


async def measured(size: int) -> dict[str, dict[str, Timing]]:
    """Return side → what was seen (turn p50, turn p99, operation) → milliseconds."""
    out: dict[str, dict[str, Timing]] = {}
    for side, run in (("ours", ours), ("SQLite", sqlite)):
        before = calibration()
        with tempfile.TemporaryDirectory() as folder:
            found = await run(Path(folder), size, SECONDS)
        loop = max(before, calibration())
        out[side] = {
            name.replace("_", " "): Timing(ms, loop) for name, ms in found._asdict().items()
        }
    return out
