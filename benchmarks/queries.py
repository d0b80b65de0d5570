"""Every bar of the query engine in one run: ours beside DataScript on node and Cozo.

Also what no peer is needed for: how long a query over a million datoms keeps other tasks waiting,
and in how many waves a query reads what is not in memory.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio

import datahike_async as d
from benchmarks import cold, peers, stalls
from benchmarks.data import entities, graph_entities, graphs, people, schema
from benchmarks.measure import BUSY, Figure, Timing, contents, timed
from benchmarks.peers import Workload
from benchmarks.plan import BARS, SET_BARS, Bar, plan
from datahike_async.tables import table

PEOPLE = 20_000
BIG = 200_000
UNKNOWN = "not measured"
OURS = "ours"
DOUBT = ", machine busy"
"""The machine was busy beside one of the two figures of a ratio: measure again."""


@dataclass
class Measured:
    """One workload, ours."""

    ms: float
    whole: float | None
    """Built as a set of tuples; of relation queries only."""
    contents: dict[str, float]
    timings: list[Timing]

    @property
    def slow(self) -> float:
        """How many times its fastest the fixed loop took beside it."""
        return max(timing.slow for timing in self.timings)


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


def _differences(mine: dict[str, Measured], found: dict[str, dict[str, Any] | None]) -> list[str]:
    out = []
    for peer, answers in found.items():
        for name, theirs in (answers or {}).get("results", {}).items():
            own = mine[name].contents
            off = abs(own["sum"] - theirs["sum"]) > 1e-6 * max(1.0, abs(own["sum"]))
            if own["rows"] != theirs["rows"] or off:
                out.append(
                    f"{name}: ours has {own['rows']} rows (sum {own['sum']}), {peer}'s"
                    f" {theirs['rows']} (sum {theirs['sum']})"
                )
    return out


def _shown(ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms * 1000:.1f} µs" if ms < 0.1 else f"{ms:.3g} ms" if ms < 100 else f"{ms:.0f} ms"


def _row(
    name: str, ms: float, times: dict[str, float], busy: set[str], bar: Bar | None
) -> list[str]:
    def ratio(peer: str) -> str:
        if peer not in times:
            return ""
        found = times[peer] / ms
        return f"{found:.3g}x" if found < 1000 else f"{found:.0f}x"

    verdict = UNKNOWN if bar else ""
    if bar and bar.peer in times:
        got = times[bar.peer] / ms
        verdict = "missed" if got < bar.least else "met"
        if bar.aim is not None and got >= bar.aim:
            verdict = "met, and the aim"
        if busy & {OURS, bar.peer}:
            verdict += DOUBT
    limit = f"{bar.least:g}x {bar.peer}" if bar else ""
    aim = f"{bar.aim:g}x" if bar and bar.aim else ""
    shown = [_shown(times.get(peer)) for peer in ("DataScript", "Cozo")]
    return [name, *shown, _shown(ms), ratio("DataScript"), ratio("Cozo"), limit, aim, verdict]


def _rows(mine: dict[str, Measured], found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, own in mine.items():
        times = {
            peer: answers["results"][name]["ms"]
            for peer, answers in found.items()
            if answers and name in answers["results"]
        }
        busy = {peer for peer in times if found[peer]["results"][name]["slow"] >= BUSY}
        busy |= {OURS} if own.slow >= BUSY else set()
        rows.append(_row(name, own.ms, times, busy, BARS.get(name)))
        if own.whole is not None:
            bar = SET_BARS.get(name)
            rows.append(_row(f"{name}, as a set", own.whole, times, busy, bar))
    return rows


def _limited(figures: Sequence[Figure]) -> list[list[str]]:
    rows = []
    for name, unit, value, bar, aim in figures:
        verdict = limit = ""
        if bar is not None:
            verdict, limit = "missed" if value > bar else "met", f"at most {bar:g} {unit}"
        if aim is not None and value <= aim:
            verdict = "met, and the aim"
        aimed = f"{aim:g} {unit}" if aim is not None else ""
        rows.append([name, "", "", f"{value:.3g} {unit}", "", "", limit, aimed, verdict])
    return rows


def run(*options: str) -> int:
    """Print one table; return 1 where a bar is missed. ``--quick`` leaves a million datoms out."""
    quick = "--quick" in options
    workloads = plan(PEOPLE, big=not quick)
    found = {"DataScript": peers.datascript(workloads, PEOPLE, BIG)}
    found["Cozo"] = peers.cozo(workloads, PEOPLE, BIG)
    mine = anyio.run(ours, workloads)
    rows = _rows(mine, found) + _limited(cold.measure())
    if not quick:
        rows += _limited(stalls.measure())
    names = ["workload", "DataScript", "Cozo", "ours", "ratio", "to Cozo", "bar", "aim", ""]
    for peer, answers in found.items():
        if answers:
            print(f"{peer} {answers['version']}", end="; ")
    print("medians")
    print(table(names, rows))
    differences = _differences(mine, found)
    for difference in differences:
        print("The answers differ:", difference)
    missed, unknown, doubtful = (
        [row[0] for row in rows if part in row[-1]] for part in ("missed", UNKNOWN, DOUBT)
    )
    if doubtful:
        print("Measure again, the machine was busy: " + "; ".join(doubtful))
    if unknown:
        print("Without their peer: " + "; ".join(unknown))
    print("Missed: " + "; ".join(missed) if missed else "Every bar that was measured is met.")
    return 1 if missed or differences else 0
