"""How long loading a million datoms keeps the other tasks of its event loop waiting.

A task ticks every millisecond beside it; what counts is the longest gap between two ticks.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio

import datahike_async as d
from benchmarks.measure import Figure
from benchmarks.stalls import BACKENDS, longest_gap
from datahike_async.transactor.limits import Limits

__all__ = ["measure", "run"]

BAR = 50.0
MANY, SOME, BATCH, SMALL = 200_000, 40_000, 5_000, 500
NEVER = Limits(flush_rows=2**40, flush_bytes=2**60, flush_journal_bytes=2**60, close_rows=2**40)
TYPES = {
    "name": "string",
    "last": "string",
    "sex": "keyword",
    "age": "long",
    "salary": "double",
    "since": "instant",
}
SCHEMA = [
    {
        ":db/ident": f":{name}",
        ":db/valueType": f":db.type/{kind}",
        ":db/cardinality": ":db.cardinality/one",
    }
    for name, kind in TYPES.items()
]
UNIQUE = {
    ":db/ident": ":id",
    ":db/valueType": ":db.type/long",
    ":db/cardinality": ":db.cardinality/one",
    ":db/unique": ":db.unique/identity",
}
START = datetime(2026, 1, 1, tzinfo=UTC)
SEXES = (d.kw("male"), d.kw("female"))


def people(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Return maps of six attributes."""
    return [
        {
            ":name": f"name {i % 1000}",
            ":last": f"last {i}",
            ":sex": SEXES[i % 2],
            ":age": i % 100,
            ":salary": float(i % 777),
            ":since": START + timedelta(seconds=i),
        }
        for i in range(first, first + count)
    ]


def changes(count: int) -> dict[str, list[Any]]:
    """Return changes of each of so many people that have an ``:id``, to be made in this order."""
    after = people(count, 1)
    ids = [[":id", i] for i in range(count)]
    return {
        "upserts": [{":id": i, **m} for i, m in enumerate(after)],
        "compared and set": [
            [":db/cas", ref, ":age", m[":age"], m[":age"] + 1]
            for ref, m in zip(ids, after, strict=True)
        ],
        "added to lookup refs": [[":db/add", ref, ":age", -1] for ref in ids],
        "retracted": [[":db/retract", ref, ":age", -1] for ref in ids],
        "entities retracted": [[":db.fn/retractEntity", ref] for ref in ids],
    }


def text(maps: list[dict[str, Any]]) -> str:
    """Return transaction data as EDN text."""
    return "[" + " ".join(f'{{:name "{m[":name"]}" :age {m[":age"]}}}' for m in maps) + "]"


class _Gaps:
    """What was measured: the name, the longest gap in ms, the seconds that it all took."""

    def __init__(self) -> None:
        self.found: list[tuple[str, float, float]] = []

    async def of(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        gc.collect()
        start = time.perf_counter()
        gap, answer = await longest_gap(call)
        self.found.append((name, gap, time.perf_counter() - start))
        return answer


async def _batches(conn: Any, size: int) -> None:
    for first in range(0, SOME, size):
        await conn.transact(people(size, first))


async def _measure(folder: str) -> list[tuple[str, float, float]]:
    gaps = _Gaps()
    count = iter(range(100))

    async def fresh(limits: Limits | None = None) -> Any:
        config = {"store": {"backend": "file", "path": str(Path(folder) / str(next(count)))}}
        await d.create_database(config)
        return d.connect(config, limits=limits), config

    connecting, _ = await fresh()
    async with connecting as conn:
        await conn.transact(SCHEMA)
        maps = people(MANY)
        report = await gaps.of(f"{MANY:,} maps at once", lambda: conn.transact(maps))

        async def read(report: Any = report) -> None:
            assert len(report.tx_data) == 6 * MANY + 1

        await gaps.of("the length of its report", read)
        del maps, report, read
        await gaps.of("closing after it", conn.release)
    for size in (BATCH, SMALL):
        connecting, _ = await fresh()
        async with connecting as conn:
            await conn.transact(SCHEMA)
            await gaps.of(f"{SOME:,} maps by {size:,}", lambda conn=conn, n=size: _batches(conn, n))
            await gaps.of("closing after them", conn.release)
    connecting, _ = await fresh()
    async with connecting as conn:
        await conn.transact([*SCHEMA, UNIQUE])
        maps = [{":id": i, **m} for i, m in enumerate(people(SOME))]
        await gaps.of(f"{SOME:,} maps with an identity", lambda: conn.transact(maps))
        await gaps.of("the same again", lambda: conn.transact(maps))
        words = text(maps)
        await gaps.of(f"{len(words) >> 20} MB of text", lambda: conn.transact(words))
        items: Iterator[Any] = iter(maps)
        await gaps.of("an iterator", lambda: conn.transact(items))
    connecting, config = await fresh(Limits(close_rows=1))
    async with connecting as conn:
        await conn.transact([*SCHEMA, UNIQUE])
        await conn.transact([{":id": i, **m} for i, m in enumerate(people(SOME))])
    async with d.connect(config) as conn:
        # What is changed lies in the trees.
        for name, data in changes(SOME).items():
            await gaps.of(f"{SOME:,} {name}", lambda data=data: conn.transact(data))
    connecting, config = await fresh(NEVER)
    async with connecting as conn:
        await conn.transact(SCHEMA)
        await _batches(conn, SMALL)

    async def opened() -> Any:
        connecting = d.connect(config, limits=Limits(close_rows=1, flush_rows=2**40))
        return connecting, await connecting.__aenter__()

    connecting, conn = await gaps.of(f"opening, replaying {SOME:,} maps", opened)
    await conn.transact([{":age": 1}])
    await gaps.of("closing, flushing them", lambda: connecting.__aexit__(None, None, None))
    db = await d.empty_db(schema_flexibility="write").db_with(SCHEMA)
    maps = people(SOME)
    await gaps.of("with_", lambda: db.with_(maps))
    return gaps.found


def measure() -> list[Figure]:
    """Return the longest gap of each event loop in each kind of work, and how long that took."""
    out = []
    for backend in BACKENDS:
        with tempfile.TemporaryDirectory() as folder:
            for name, gap, seconds in anyio.run(_measure, folder, backend=backend):
                out.append(Figure(f"{backend}: {name}", "ms", gap, BAR))
                out.append(Figure(f"{backend}: {name}, all in all", "s", seconds))
    return out


def run() -> int:
    """Print the longest gaps; return 1 where the bar is missed."""
    missed = 0
    for figure in measure():
        bar = ""
        if figure.bar is not None:
            late = figure.value > figure.bar
            missed |= late
            bar = f"  bar {figure.bar:g}{'  MISSED' if late else ''}"
        print(f"{figure.name:55} {figure.value:10.2f} {figure.unit}{bar}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(run())
