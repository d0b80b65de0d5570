"""How long a query over a million datoms keeps the other tasks of its event loop waiting.

A task ticks every millisecond beside the query; what counts is the longest gap between two ticks.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

import datahike_async as d
from benchmarks.data import chains, entities, graph_entities, people, schema
from benchmarks.measure import Figure
from benchmarks.plan import CLOSURE, QUERIES, RULES

BACKENDS = ("asyncio", "trio")
BAR, AIM = 10.0, 5.0
AGAIN = 5
SLEEP = 0.001
JOIN = "[:find ?e ?e1 :where [?e :salary ?s] [?e1 :salary ?s]]"


async def longest_gap(call: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """Return the longest gap between ticks in milliseconds while ``call`` runs, and its answer.

    Of a gap in which this process hardly ran, because others had the machine, only the processor
    time it did use counts, and the millisecond it slept.
    """
    longest, running = 0.0, True
    last = (time.perf_counter(), time.process_time())

    async def tick() -> None:
        nonlocal longest, last
        while running:
            await anyio.sleep(SLEEP)
            now = (time.perf_counter(), time.process_time())
            longest = max(longest, min(now[0] - last[0], now[1] - last[1] + SLEEP))
            last = now

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        await anyio.sleep(0.01)
        longest = 0.0
        answer = await call()
        # The gap that is under way when the query ends counts too.
        await anyio.sleep(0.003)
        running = False
    return longest * 1e3, answer


async def _measure(people_count: int) -> list[tuple[str, float, float]]:
    """Return of each query its name, its first longest gap and the longest of those after it."""
    empty = d.empty_db(schema(), schema_flexibility="write")
    big = await empty.db_with(entities(people(people_count)))
    graph = await empty.db_with(graph_entities(chains(25, people_count // 50)))
    gc.collect()

    async def idle() -> None:
        await anyio.sleep(0.3)

    def ask(query: str, db: Any, *inputs: Any) -> Callable[[], Awaitable[Any]]:
        async def call() -> Any:
            return await d.q(query, db, *inputs)

        return call

    async def drained() -> Any:
        rows = 0
        for chunk in (await d.q(QUERIES["qpred1"], big)).chunks():
            rows += len(chunk)
            await anyio.lowlevel.checkpoint()
        return range(rows)

    calls = {
        "nothing": idle,
        "big q4": ask(QUERIES["q4"], big),
        "big qpred1, by chunks": drained,
        "value join, 600,000 rows": ask(JOIN, big),
        "group over 1 M datoms": ask(QUERIES["group"], big),
        "rule over 100,000 edges": ask(CLOSURE, graph, RULES),
        "every datom": ask("[:find ?e ?a ?v :where [?e ?a ?v]]", big),
    }
    found = []
    for name, call in calls.items():
        gaps = []
        for _ in range(1 + AGAIN):
            gap, answer = await longest_gap(call)
            gaps.append(gap)
            del answer
        found.append((name, gaps[0], max(gaps[1:])))
    return found


def measure() -> list[Figure]:
    """Return the longest gaps of each event loop's first run of each query, and of those after."""
    out = []
    for backend in BACKENDS:
        for name, *gaps in anyio.run(_measure, 200_000, backend=backend):
            bars = () if name == "nothing" else (BAR, AIM)
            for when, gap in zip(("first", "again"), gaps, strict=True):
                out.append(Figure(f"longest gap, {backend}: {name}, {when}", "ms", gap, *bars))
    return out
