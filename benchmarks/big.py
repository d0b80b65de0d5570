"""A database many times as large as its memory: ``dev.py bench big [--datoms 30]``.

A process whose addresses are limited, as by ``ulimit -v``, loads people with history into files,
updates them, asks, merges all runs, collects, and asks again. Printed is for each step the most
memory it had, what it has at the end, and the longest gap of a ticker beside it. ``--datoms`` are
millions, ``--limit 512`` is ``:memory-limit`` in MiB; the bar of the peak is twice that.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import numpy as np

import datahike_async as d
from benchmarks.analytics.data import CITIES, FIRST_ID, LAST_NAMES, NAMES, attribute
from benchmarks.report import machine
from benchmarks.scale import GROUP, LIMITED, Q4, used
from benchmarks.stalls import longest_gap
from datahike_async.tables import table

__all__ = ["SCHEMA", "measured", "run"]

DATOMS: Final = 30.0
LIMIT: Final = 512
BAR: Final = 2
"""How many times its limit a process may have in memory."""
SPARE: Final = 2**30
"""Addresses beside that: threads and libraries set aside some that they do not use."""
BLOCK: Final = 1 << 18
"""People that are made at a time."""
UPDATES: Final = 0.002
"""Updates, as a share of the datoms."""
EACH: Final = 100
"""Updates of one transaction."""
POINTS: Final = 200
POINT: Final = "[:find ?n ?s :in $ ?i :where [?e :id ?i] [?e :name ?n] [?e :salary ?s]]"
PAST: Final = "[:find ?s ?t :in $ ?i :where [?e :id ?i] [?e :salary ?s ?t]]"
SUM: Final = "[:find (sum ?s) . :with ?e :where [?e :salary ?s]]"

SCHEMA: Final = {
    ":id": attribute("long", unique="identity"),
    ":name": attribute("string"),
    ":last-name": attribute("string"),
    ":city": attribute("string"),
    ":sex": attribute("string"),
    ":age": attribute("long"),
    ":salary": attribute("long", index=True),
    ":note": attribute("string"),
}
"""One that is unique, one that is indexed, and one whose values come once each."""


def blocks(count: int) -> Iterator[dict[str, Any]]:
    """Yield ``count`` people in columns, some at a time: what is not in memory whole."""
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        rng = np.random.default_rng(first)
        number = np.arange(first + 1, first + size + 1)
        yield {
            "id": number + FIRST_ID,
            "name": np.array(NAMES)[rng.integers(0, len(NAMES), size)],
            "last-name": np.array(LAST_NAMES)[rng.integers(0, len(LAST_NAMES), size)],
            "city": np.array(CITIES)[rng.integers(0, len(CITIES), size)],
            "sex": np.array(["male", "female"])[rng.integers(0, 2, size)],
            "age": rng.integers(0, 100, size),
            "salary": rng.integers(0, 100_000, size),
            "note": [f"note {n * 7919 % count:07} of one" for n in number.tolist()],
        }


class _Steps:
    """What each step took."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    async def take(self, name: str, call: Callable[[], Awaitable[Any]], of: int = 1) -> Any:
        """Make a call, ``of`` times what is told of, and note memory, time and gaps."""
        # The kernel counts the most from here on.
        _forget_peak()
        start = time.perf_counter()
        gap, answer = await longest_gap(call)
        row = {
            "step": name,
            "seconds": time.perf_counter() - start,
            "of": of,
            "peak": status("VmHWM"),
            "left": status("VmRSS"),
            "addresses": status("VmPeak"),
            "gap": gap,
        }
        self.rows.append(row)
        print(
            f"{name}: {row['seconds']:.1f} s, peak {row['peak']:.0f}, left {row['left']:.0f}, "
            f"addresses {row['addresses']:.0f} MB, gap {gap:.0f} ms",
            file=sys.stderr,
            flush=True,
        )
        return answer


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def status(name: str) -> float:
    """Return what the kernel says of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024


async def _child(folder: Path, count: int, limit: int) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (limit * BAR + SPARE, limit * BAR + SPARE))
    config = {"store": {"backend": "file", "path": str(folder / "db")}}
    attributes = [{":db/ident": ident, **rest} for ident, rest in SCHEMA.items()]
    steps = _Steps()
    rng = random.Random(7)
    updates = int(count * len(SCHEMA) * UPDATES)
    people = [rng.randrange(count) + 1 + FIRST_ID for _ in range(POINTS)]
    async with d.connect(config, create=True, initial_tx=attributes, memory_limit=limit) as conn:

        async def load() -> None:
            made = blocks(count)
            while (block := await anyio.to_thread.run_sync(next, made, None)) is not None:
                await d.load(conn, block)

        async def update() -> None:
            for _ in range(0, updates, EACH):
                await conn.transact(
                    [
                        {
                            ":id": rng.randrange(count) + 1 + FIRST_ID,
                            ":salary": rng.randrange(100_000),
                            ":age": rng.randrange(100),
                        }
                        for _ in range(EACH)
                    ]
                )

        async def ask(db: Any, *, queries: dict[str, str], when: str) -> None:
            async def points(query: str) -> None:
                for person in people:
                    await d.q(query, db, person)

            await steps.take(f"point queries{when}", lambda: points(POINT), POINTS)
            for name, query in queries.items():
                await steps.take(f"{name}{when}", lambda query=query: d.q(query, db))
            if not when:
                await steps.take(
                    "point queries in history",
                    lambda: _each(people, lambda p: d.q(PAST, db.history(), p)),
                    POINTS,
                )

        all_of_it = {**LIMITED, "sum": SUM}
        some_of_it = {"q4": Q4, "group": GROUP, "sum": SUM}
        await steps.take("load", load, count * len(SCHEMA))
        loaded = conn.db().max_tx
        first = await d.q(SUM, conn.db())
        await ask(conn.db(), queries=all_of_it, when=" after loading")
        await steps.take("updates", update, updates)
        await ask(conn.db(), queries=all_of_it, when="")
        await ask(conn.db().as_of(loaded), queries=some_of_it, when=" as of then")
        await steps.take("compact", lambda: d.compact(conn))
        await ask(conn.db(), queries=some_of_it, when=" after compacting")
        await ask(conn.db().as_of(loaded), queries=some_of_it, when=" as of then, compacted")
        assert await d.q(SUM, conn.db().as_of(loaded)) == first
        await steps.take("collection", lambda: d.gc_storage(conn))
        disk = used(folder)

    async def again() -> None:
        async with d.connect(config, memory_limit=limit) as conn:
            assert await d.q("[:find (count ?e) . :where [?e :id]]", conn.db()) == count
            assert await d.q(SUM, conn.db().as_of(loaded)) == first

    await steps.take("opening, and asking again", again)
    return {"steps": steps.rows, "disk": disk, "datoms": count * len(SCHEMA), "updates": updates}


async def _each(people: list[int], call: Callable[[int], Awaitable[Any]]) -> None:
    for person in people:
        await call(person)


def measured(datoms: float, limit: int) -> dict[str, Any]:
    """Return what a new process found; ``datoms`` in millions, ``limit`` in MiB."""
    count = int(datoms * 1e6 / len(SCHEMA))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.big", folder, str(count), str(limit * 2**20)]
        # Of each thread's memory glibc sets addresses aside, which count against their limit.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run(*options: str) -> int:
    """Print one table, a row a step; return 1 where the peak is above its bar."""

    def given(name: str, usual: float) -> float:
        return float(options[options.index(name) + 1]) if name in options else usual

    limit = int(given("--limit", LIMIT))
    print(machine(), flush=True)
    found = measured(given("--datoms", DATOMS), limit)
    rows = [
        [
            one["step"],
            f"{one['seconds']:.1f}",
            f"{one['seconds'] / one['of'] * 1e6:.3g}" if one["of"] > 1 else "",
            *(f"{one[name]:.0f}" for name in ("peak", "left", "addresses", "gap")),
        ]
        for one in found["steps"]
    ]
    heads = ["step", "seconds", "µs each", "peak MB", "left MB", "addresses MB", "longest gap ms"]
    print(table(heads, rows))
    peak = max(one["peak"] for one in found["steps"])
    print(f"{found['datoms']:,} datoms, {found['updates']:,} updates, {found['disk'] / 1e6:.0f} MB")
    print(f"Peak {peak:.0f} MB, with a limit of {limit} MiB: at most {limit * BAR}.")
    return int(peak > limit * BAR)


if __name__ == "__main__":
    print(json.dumps(anyio.run(_child, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
