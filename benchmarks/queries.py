"""Every bar of the query engine in one run: ours beside DataScript on node and Cozo.

Also what no peer is needed for: how long a query over a million datoms keeps other tasks waiting,
and in how many waves a query reads what is not in memory.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import anyio

import datahike_async as d
from benchmarks import cold, peers, stalls
from benchmarks.data import entities, graph_entities, graphs, people, schema
from benchmarks.measure import contents, timed
from benchmarks.peers import Workload
from benchmarks.plan import BARS, SET_BARS, plan
from benchmarks.report import Measured, compared, conclude, differences, limited

PEOPLE = 20_000
BIG = 200_000


async def database(name: str) -> d.Database:
    """Return the data of a workload."""
    uid = name == "people with uid"
    empty = d.empty_db(schema(uid=uid), schema_flexibility="write")
    if name in ("people", "people with uid"):
        return await empty.db_with(entities(people(PEOPLE), uid=uid))
    if name == "big":
        return await empty.db_with(entities(people(BIG)))
    return await empty.db_with(graph_entities(graphs()[name]))


async def ours(workloads: Sequence[Workload]) -> dict[str, Measured]:
    """Measure every workload; the data of one kind are in memory at a time."""
    out: dict[str, Measured] = {}
    made, db = "", None
    for work in workloads:
        if work.data != made:
            made, db = work.data, await database(work.data)
            gc.collect()
        out[work.name] = await _one(work, db)
    return out


async def _one(work: Workload, db: Any) -> Measured:
    async def call() -> Any:
        match work.kind:
            case "query":
                return await d.q(work.query, db, *work.inputs)
            case "point":
                return [await d.q(work.query, db, id_) for id_ in work.ids]
            case "pull":
                return await db.pull(work.query, work.ids[0])
        return await db.pull_many(work.query, work.ids)

    async def whole() -> Any:
        return set(await d.q(work.query, db, *work.inputs))

    timing = await timed(call)
    ms = timing.ms / (len(work.ids) if work.kind == "point" else 1)
    answer = await call()
    if work.kind == "point":
        answer = [(value,) for value in answer]
    as_set = await timed(whole) if work.kind == "query" else None
    timings = [timing, as_set] if as_set else [timing]
    return Measured(ms, as_set and as_set.ms, contents(answer), timings)


def run(*options: str) -> int:
    """Print one table; return 1 where a bar is missed. ``--quick`` leaves a million datoms out."""
    quick = "--quick" in options
    workloads = plan(PEOPLE, big=not quick)
    found = {"DataScript": peers.datascript(workloads, PEOPLE, BIG)}
    found["Cozo"] = peers.cozo(workloads, PEOPLE, BIG)
    mine = anyio.run(ours, workloads)
    rows = compared(mine, found, BARS, SET_BARS) + limited(cold.measure(), len(found))
    if not quick:
        rows += limited(stalls.measure(), len(found))
    return conclude(found, rows, differences(mine, found))
