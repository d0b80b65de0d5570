"""Workloads on Cozo: ``python cozo.py FOLDER``; the same protocol as ``datascript.js``.

One relation an attribute, each with an index by value; a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
from cozo_embedded import CozoDbPy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.measure import contents, timed

ATTRIBUTES = ("name", "last", "sex", "age", "salary")


class Cozo:
    """A database in memory."""

    def __init__(self) -> None:
        self._db = CozoDbPy("mem", "", "{}")

    def run(self, script: str, parameters: dict[str, Any] | None = None, *, read: bool) -> Any:
        return self._db.run_script(script, parameters or {}, read)["rows"]


def people(rows: list[list[Any]]) -> Cozo:
    db = Cozo()
    for i, name in enumerate(ATTRIBUTES):
        kind = "Int" if name in ("age", "salary") else "String"
        db.run(f":create {name} {{e: Int => v: {kind}}}", read=False)
        db.run(f"::index create {name}:byv {{v}}", read=False)
        pairs = [[row[0], row[i + 1]] for row in rows]
        db.run(f"?[e,v] <- $d :put {name} {{e => v}}", {"d": pairs}, read=False)
    db.run(":create uid {u: Int => e: Int}", read=False)
    pairs = [[row[0], row[0]] for row in rows]
    db.run("?[u,e] <- $d :put uid {u => e}", {"d": pairs}, read=False)
    return db


def graph(nodes: list[list[Any]]) -> Cozo:
    db = Cozo()
    db.run(":create follows {a: Int, b: Int}", read=False)
    edges = [[node[0], to] for node in nodes for to in node[1]]
    db.run("?[a,b] <- $d :put follows {a,b}", {"d": edges}, read=False)
    return db


async def main(folder: Path) -> dict[str, Any]:
    def read(name: str) -> Any:
        return json.loads((folder / f"{name}.json").read_text())

    made: dict[str, Cozo] = {}
    graphs = read("graphs")
    results: dict[str, dict[str, Any]] = {}
    for work in read("plan"):
        name, ids, script = work["data"], work["ids"], work["texts"]["Cozo"]
        name = "people" if name == "people with uid" else name
        if name not in made:
            made[name] = graph(graphs[name]) if name in graphs else people(read(name))
        db, parameters = made[name], work["parameters"]
        each = len(ids) if work["kind"] == "point" else 1

        async def call() -> Any:
            if work["kind"] == "point":  # noqa: B023 - called in this turn only
                return [db.run(script, {"u": id_}, read=True)[0] for id_ in ids]  # noqa: B023
            return db.run(script, parameters, read=True)  # noqa: B023

        timing = await timed(
            call, samples=work["samples"], warm=max(work["warm"], 1000) / 1e3, target=0.15
        )
        results[work["name"]] = {
            "ms": timing.ms / each,
            "timing": timing,
            **contents(await call()),
        }
    for found in results.values():
        found["slow"] = found.pop("timing").slow
    return {"version": version("cozo-embedded"), "results": results}


if __name__ == "__main__":
    print(json.dumps(anyio.run(main, Path(sys.argv[1]))), flush=True)
    os._exit(0)  # taking its tables down takes seconds
