"""Loads and transactions, ours beside DataScript on node, one after the other in one run."""

from __future__ import annotations

import time

import anyio

import datahike_async as d
from benchmarks import writing
from benchmarks.data import entities, people, schema
from benchmarks.measure import timed
from benchmarks.peers import Workload, datascript
from datahike_async.tables import table

PLAN = [
    Workload("add-all", "people", "load", samples=5),
    Workload("add-5", "people", "load", samples=3, warm=1500),
]
BARS = {"add-all": 5.0, "add-5": 1.0}
"""Ratios to DataScript."""


async def ours(count: int) -> dict[str, float]:
    """Return workload → median milliseconds."""
    maps = entities(people(count))
    empty = d.empty_db(schema(), schema_flexibility="write")

    async def add_all() -> None:
        await empty.db_with(maps)

    async def add_5() -> None:
        db = empty
        for entity in maps:
            db = await db.db_with([entity])

    return {
        "add-all": (await timed(add_all, samples=5)).ms,
        "add-5": (await timed(add_5, samples=3, warm=0.1)).ms,
    }


async def changed(count: int) -> list[tuple[str, str]]:
    """Return how many changes a second one transaction makes, of ``count`` known entities."""
    empty = d.empty_db(schema_flexibility="write", keep_history=True)
    db = await empty.db_with([*writing.SCHEMA, writing.UNIQUE])
    db = await db.db_with([{":id": i, **m} for i, m in enumerate(writing.people(count))])
    found = []
    for name, data in writing.changes(count).items():
        start = time.process_time()
        db = await db.db_with(data)
        found.append((name, f"{count / (time.process_time() - start):,.0f}"))
    return found


def run(count: int = 20_000) -> int:
    """Print one table; return 1 where a bar is missed."""
    peer = datascript(PLAN, count)
    mine = anyio.run(ours, count)
    rows, missed = [], []
    for name, ms in mine.items():
        row = [name, "", f"{ms:.3f}", "", f"{BARS[name]:g}x"]
        if peer:
            theirs = peer["results"][name]["ms"]
            row[1], row[3] = f"{theirs:.2f}", f"{theirs / ms:.1f}x"
            if theirs / ms < BARS[name]:
                missed.append(name)
        rows.append(row)
    if peer:
        print(f"{count} people; DataScript {peer['version']} on node {peer['node']}; median ms")
    print(table(("workload", "DataScript", "ours", "ratio", "bar"), rows))
    print(table(("in one transaction", "a second"), anyio.run(changed, count)))
    print("Missed: " + ", ".join(missed) if missed else "Every bar is met.")
    return 1 if missed else 0
