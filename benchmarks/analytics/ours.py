"""The wide workloads on this database, over values in memory that `init_db` made."""

from __future__ import annotations

import gc
from typing import Any

import datahike_async as d
from benchmarks.analytics import data
from benchmarks.analytics.peer import ONCE
from benchmarks.analytics.plan import Sizes, plan
from benchmarks.measure import Timing, digest, timed
from benchmarks.peers import Workload
from benchmarks.report import Measured


def database(name: str, count: int) -> d.Database:
    """Return the data of a workload as a database value, with history as databases have it."""
    facts, schema = data.facts(name, count), data.SCHEMAS[name]
    return d.init_db(facts, schema, schema_flexibility="write", keep_history=True)


async def measured(sizes: Sizes) -> dict[str, Measured]:
    """Return what each query took; every answer is taken as a list of its rows."""
    out: dict[str, Measured] = {}
    made, db = "", None
    for work in plan(sizes):
        if work.data != made:
            made, db = work.data, None
            db = database(made, getattr(sizes, made))
            gc.collect()
        out[work.name] = await one(work, db)
    return out


async def answer(work: Workload, db: Any) -> list[Any]:
    """Return the rows of a workload's answer."""
    if work.kind == "pull many":
        return [(found,) for found in await db.pull_many(work.query, work.ids)]
    return list(await d.q(work.query, db, *work.inputs))


async def one(work: Workload, db: Any) -> Measured:
    """Return what a workload took, and the digest of its answer."""

    async def call() -> list[Any]:
        return await answer(work, db)

    timing: Timing = await timed(call, samples=min(work.samples, 7), **ONCE)  # type: ignore[arg-type]
    return Measured(timing.ms, None, digest(await call(), ordered=work.ordered), [timing])
