"""The standard workloads, ours beside DataScript on node, one after the other in one run."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

import datahike_async as d
from benchmarks.data import ATTRIBUTES, TYPES, graphs, people, write_for_node
from datahike_async.tables import table

HERE = Path(__file__).parent

QUERIES = {
    "q1": '[:find ?e :where [?e :name "Ivan"]]',
    "q2": '[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a]]',
    "q3": '[:find ?e ?a :where [?e :name "Ivan"] [?e :age ?a] [?e :sex "male"]]',
    "q4": '[:find ?e ?l ?a :where [?e :name "Ivan"] [?e :last-name ?l] [?e :age ?a]'
    ' [?e :sex "male"]]',
    "qpred1": "[:find ?e ?s :where [?e :salary ?s] [(> ?s 50000)]]",
    "qpred2": "[:find ?e ?s :in $ ?min :where [?e :salary ?s] [(> ?s ?min)]]",
    "group": "[:find ?n (avg ?s) (count ?e) :where [?e :name ?n] [?e :salary ?s]]",
}
RULES = """[[(follows ?x ?y) [?x :follows ?y]]
            [(follows ?x ?y) [?x :follows ?t] (follows ?t ?y)]]"""

# What the issue asks for: ratio to DataScript, lazily and built as a set of tuples.
BARS = {
    **dict.fromkeys(("q1", "q2", "q3", "q4", "qpred1", "qpred2"), (20.0, 10.0)),
    "add-all": (5.0, None),
    "add-5": (1.0, None),
}


def schema() -> dict[str, Any]:
    """Return the schema of the workloads."""
    out: dict[str, Any] = {
        f":{name}": {
            ":db/valueType": f":db.type/{kind}",
            ":db/cardinality": ":db.cardinality/one",
        }
        for name, kind in zip(ATTRIBUTES, TYPES, strict=True)
    }
    out[":follows"] = {
        ":db/valueType": ":db.type/ref",
        ":db/cardinality": ":db.cardinality/many",
    }
    return out


async def timed(
    call: Callable[[], Awaitable[Any]], *, samples: int = 9, warm: float = 0.3
) -> float:
    """Return the median milliseconds of a call, after warming up."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < warm or count < 2:
        await call()
        count += 1
    each = (time.perf_counter() - start) / count
    repeats = max(1, int(0.1 / each))
    found = []
    for _ in range(samples):
        start = time.perf_counter()
        for _ in range(repeats):
            await call()
        found.append((time.perf_counter() - start) / repeats * 1e3)
    return statistics.median(found)


async def ours(rows: list[list[Any]]) -> dict[str, float]:
    """Return workload → median milliseconds; sets of tuples under "NAME as a set"."""
    out: dict[str, float] = {}
    keys = [":db/id", *(f":{a}" for a in ATTRIBUTES)]
    entities = [dict(zip(keys, row, strict=True)) for row in rows]
    empty = d.empty_db(schema(), schema_flexibility="write")

    async def add_all() -> None:
        await empty.db_with(entities)

    async def add_5() -> None:
        db = empty
        for entity in entities:
            db = await db.db_with([entity])

    out["add-all"] = await timed(add_all, samples=5)
    out["add-5"] = await timed(add_5, samples=3, warm=0.1)
    db = await empty.db_with(entities)
    for name, query in QUERIES.items():
        inputs = (50000,) if name == "qpred2" else ()

        async def lazy(query: str = query, inputs: Any = inputs) -> Any:
            return await d.q(query, db, *inputs)

        async def whole(query: str = query, inputs: Any = inputs) -> Any:
            return set(await d.q(query, db, *inputs))

        out[name] = await timed(lazy)
        out[f"{name} as a set"] = await timed(whole)
    for name, edges in graphs().items():
        graph = await empty.db_with([[":db/add", a, ":follows", b] for a, b in edges])

        async def closure(graph: Any = graph) -> Any:
            return await d.q("[:find ?e ?e2 :in $ % :where (follows ?e ?e2)]", graph, RULES)

        out[f"rules {name}"] = await timed(closure, samples=5)
    ids = [row[0] for row in rows[:1000]]

    async def pull() -> Any:
        return await db.pull_many("[:name :last-name :age]", ids)

    out["pull of 1,000"] = await timed(pull)
    return out


def datascript(count: int) -> dict[str, Any] | None:
    """Run the same on node; None where node or npm is missing."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("node or npm is not installed: DataScript is left out.")
        return None
    if not (HERE / "node_modules").exists():
        subprocess.run(["npm", "install", "--silent", "--no-audit"], cwd=HERE, check=True)
    with tempfile.TemporaryDirectory() as folder:
        write_for_node(Path(folder), count)
        command = ["node", "--max-old-space-size=6000", "datascript.js", folder]
        done = subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run(count: int = 20_000) -> int:
    """Print one table; return 1 where a bar is missed."""
    peer = datascript(count)
    mine = anyio.run(ours, people(count))
    rows, missed = [], []
    for name, theirs in (peer["ms"] if peer else dict.fromkeys(mine, 0.0)).items():
        ms = mine[name]
        whole = mine.get(f"{name} as a set")
        lazy_bar, set_bar = BARS.get(name, (None, None))
        ratio = theirs / ms
        set_ratio = theirs / whole if whole else None
        if peer and ((lazy_bar and ratio < lazy_bar) or (set_bar and (set_ratio or 0) < set_bar)):
            missed.append(name)
        rows.append(
            (
                name,
                f"{theirs:.2f}",
                f"{ms:.3f}",
                f"{ratio:.1f}x",
                f"{whole:.3f}" if whole else "",
                f"{set_ratio:.1f}x" if set_ratio else "",
                f"{lazy_bar:g}x" + (f" / {set_bar:g}x" if set_bar else "") if lazy_bar else "",
            )
        )
    if peer:
        print(f"{count} people; DataScript {peer['version']} on node {peer['node']}; median ms")
    print(table(("workload", "DataScript", "ours", "ratio", "as a set", "ratio", "bar"), rows))
    print("Missed: " + ", ".join(missed) if missed else "Every bar is met.")
    return 1 if missed else 0
