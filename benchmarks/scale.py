"""What grows with data: ``dev.py bench scale [--quick] [--refs] [--limit] [--datoms 1,3,10]``.

People with a unique id are loaded into files in transactions of 5,000 maps, and asked by a new
process; with ``--refs`` again with two lookup refs each to random people before them, with
``--limit`` again with a note each, by a process whose memory is limited. Sizes are
millions of datoms, beside 100,000. A time is held to its bar as on a machine whose fixed loop takes
`LOOP_MS`, and to at most `FLAT` times that of the smallest size where it says so.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import numpy as np

import datahike_async as d
from benchmarks.analytics import data
from benchmarks.analytics.plan import LOOP_MS, POINT
from benchmarks.analytics.views import past
from benchmarks.measure import calibration, timed
from benchmarks.report import machine
from datahike_async.tables import table

BATCH: Final = 5_000
FLAT: Final = 1.5
SMALLEST: Final = 0.1
REFS: Final = (":boss", ":spouse")
Q4: Final = (
    '[:find ?e ?l ?a :where [?e :name "Ivan"] [?e :last-name ?l] [?e :age ?a] [?e :sex "male"]]'
)
GROUP: Final = "[:find ?n (sum ?s) :with ?e :where [?e :name ?n] [?e :salary ?s]]"
ENTITIES: Final = "[:find ?e ?a ?v :in $ [?i ...] :where [?e :id ?i] [?e ?a ?v]]"


# What a process may use, and the addresses that it may have: of these its libraries take a part.
LIMIT: Final = 512 * 2**20
ADDRESSES: Final = 2 * LIMIT
LIMITED: Final = {
    "q4": Q4,
    "group": GROUP,
    "group of notes": "[:find ?n (count ?e) (min ?t) :where [?e :name ?n] [?e :note ?t]]",
    "prefix": "[:find (count ?e) . :where [?e :note ?t]"
    ' [(clojure.string/starts-with? ?t "note 01")]]',
    "pattern": '[:find (count ?e) . :where [?e :note ?t] [(re-find "77 .* [A-Z]" ?t)]]',
    "by attribute": "[:find ?a (count ?e) :where [?e ?a]]",
}
TOO_MUCH: Final = "[:find ?e ?a ?v :where [?e ?a ?v]]"


class Bar(NamedTuple):
    """What a figure may be at most, at any size; ``flat``: and against the smallest size."""

    most: float | None = None
    flat: bool = False


BARS: Final = {
    "load, µs a datom": Bar(2.5, flat=True),
    "load with refs, µs a datom": Bar(15, flat=True),
    "load with refs, slowest transaction, ms": Bar(500),
    "q4, ms": Bar(5),
    "point query, ms": Bar(flat=True),
    "entities by id, ms": Bar(4),
    "point query as of, first, ms": Bar(8),
    "point query as of, ms": Bar(0.15, flat=True),
    "point query in history, ms": Bar(0.3, flat=True),
    "point query since, ms": Bar(0.3, flat=True),
    "limited, peak MB": Bar(LIMIT / 2**20),
}


def batches(count: int, *, refs: bool) -> Iterator[list[dict[str, Any]]]:
    """Yield the people in maps; ``refs`` are lookup refs to people of earlier transactions."""
    people = data.people(count)
    columns = {name: c for name, c in people.columns.items() if name not in REFS}
    plain = data.Table("person", people.e, columns)
    rng = np.random.default_rng(5)
    for first in range(0, count, BATCH):
        maps = plain.maps(first, first + BATCH)
        if refs and first:
            for name in REFS:
                to = (rng.integers(1, first + 1, len(maps)) + data.FIRST_ID).tolist()
                for entity, id_ in zip(maps, to, strict=True):
                    entity[name] = [":id", id_]
        yield maps


def rss() -> float:
    """Return the most memory that this process had, in MB.

    Where the kernel tells it of the program alone, not of the process it was started from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(peak.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def used(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def load(folder: Path, count: int, *, refs: bool) -> dict[str, float]:
    """Load ``count`` people and return what it took; with ``refs`` those without do not count."""
    name = "load with refs" if refs else "load"
    attributes = [{":db/ident": ident, **rest} for ident, rest in data.PEOPLE_SCHEMA.items()]
    seconds: list[float] = []
    stored = datoms = 0
    async with d.connect({"store": _store(folder)}, create=True) as conn:
        await conn.transact(attributes)
        for number, maps in enumerate(batches(count, refs=refs)):
            size = sum(map(len, maps))
            stored += size
            start = time.perf_counter()
            await conn.transact(maps)
            if number or not refs:
                datoms += size
                seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    closing = time.perf_counter() - start  # it flushes
    return {
        f"{name}, µs a datom": (sum(seconds) + closing) / datoms * 1e6,
        f"{name}, slowest transaction, ms": max(seconds) * 1e3,
        f"{name}, bytes on disk a datom": used(folder) / stored,
        f"{name}, peak MB": rss(),
    }


async def ask(folder: Path, count: int) -> dict[str, float]:
    """Open what was loaded, and return what the first and later queries took."""
    out: dict[str, float] = {}
    hundred = (np.random.default_rng(1).permutation(count)[:100] + 1 + data.FIRST_ID).tolist()

    async def first(name: str, call: Callable[[], Awaitable[Any]]) -> None:
        start = time.perf_counter()
        await call()
        out[f"{name}, ms"] = (time.perf_counter() - start) * 1e3

    start = time.perf_counter()
    async with d.connect({"store": _store(folder)}) as conn:
        db: Any = conn.db()
        out["opening, ms"] = (time.perf_counter() - start) * 1e3
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "point query": lambda: d.q(POINT, db, hundred[0]),
            "q4": lambda: d.q(Q4, db),
            "group": lambda: d.q(GROUP, db),
            "entities by id": lambda: d.q(ENTITIES, db, hundred),
        }
        for name, call in calls.items():
            await first(f"{name}, cold", call)
        for name, call in calls.items():
            timing = await timed(call, samples=5, warm=0.2, target=0.05, attempts=2)
            out[f"{name}, ms"] = timing.ms
        for name, timing in (await past(db, count)).items():
            out.setdefault(f"{name}, ms", timing.ms)
        out["queries, peak MB"] = rss()
    return out


async def load_notes(folder: Path, count: int) -> dict[str, float]:
    """Load ``count`` people with a string each that no one else has."""
    note = {":db/ident": ":note", **data.attribute("string")}
    attributes = [{":db/ident": ident, **rest} for ident, rest in data.PEOPLE_SCHEMA.items()]
    async with d.connect({"store": _store(folder)}, create=True) as conn:
        await conn.transact([*attributes, note])
        number = 0
        for maps in batches(count, refs=False):
            for entity in maps:
                entity[":note"] = f"note {number * 7919 % count:07} of {entity[':city']}"
                number += 1
            await conn.transact(maps)
    return {}


async def ask_limited(folder: Path, _: int) -> dict[str, float]:
    """Ask with little memory; what cannot be answered is to be an error that says so."""
    out: dict[str, float] = {}
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    async with d.connect({"store": _store(folder)}, memory_limit=LIMIT) as conn:
        db: Any = conn.db()
        for name, query in LIMITED.items():
            start = time.perf_counter()
            await d.q(query, db)
            out[f"limited, {name}, ms"] = (time.perf_counter() - start) * 1e3
        stopped: Any = None
        try:
            await d.q(TOO_MUCH, db)
        except d.QueryCanceled as error:
            stopped = error.data
        assert stopped is None or stopped[":clause"] == "[?e ?a ?v]", stopped
    out["limited, peak MB"] = rss()
    return out


def _store(folder: Path) -> dict[str, Any]:
    return {"backend": "file", "path": str(folder / "db")}


_LIMITED_STEPS: Final = {"notes": load_notes, "limited": ask_limited}


async def _child(what: str, folder: Path, count: int) -> dict[str, float]:
    before = calibration()
    if what in _LIMITED_STEPS:
        return await _LIMITED_STEPS[what](folder, count)
    found = await (
        ask(folder, count) if what == "ask" else load(folder, count, refs=what == "refs")
    )
    found[f"fixed loop, {what}, ms"] = min(before, calibration())
    return found


def _in_new_process(what: str, folder: Path, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", what, str(folder), str(count)]
    # Of each thread's memory glibc sets addresses aside, which count against their limit.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"} if what == "limited" else None
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measured(millions: float, *, refs: bool, limit: bool) -> dict[str, float]:
    """Return the figures of one size, each step in a process of its own."""
    attributes = len(data.PEOPLE_SCHEMA) - len(REFS)
    count = int(millions * 1e6 / attributes)
    with tempfile.TemporaryDirectory() as folder:
        out = _in_new_process("load", Path(folder), count)
        out |= _in_new_process("ask", Path(folder), count)
    if refs:
        with tempfile.TemporaryDirectory() as folder:
            out |= _in_new_process("refs", Path(folder), int(millions * 1e6 / (attributes + 2)))
    if limit:
        with tempfile.TemporaryDirectory() as folder:
            for step in ("notes", "limited"):
                out |= _in_new_process(step, Path(folder), int(millions * 1e6 / (attributes + 1)))
    return out


def _slow(name: str, size: dict[str, float]) -> float:
    """Return how many times `LOOP_MS` the fixed loop took in the process of a figure."""
    step = "refs" if "with refs" in name else "load" if name.startswith("load") else "ask"
    return max(1.0, size[f"fixed loop, {step}, ms"] / LOOP_MS)


def verdict(name: str, figures: list[float], slow: list[float]) -> tuple[str, str, str]:
    """Return the ratio of the largest size to the smallest, the bar, and whether it is met.

    Times are as on a machine whose fixed loop takes `LOOP_MS`: ``slow`` is how slow it was at each.
    """
    bar = BARS.get(name)
    values = figures
    if bar:
        values = [value / times for value, times in zip(figures, slow, strict=True)]
    ratio = values[-1] / values[0] if values[0] else 1.0
    if bar is None:
        return f"{ratio:.2g}x", "", ""
    parts, missed = [], False
    if bar.most is not None:
        parts.append(f"at most {bar.most:g}")
        missed |= max(values) > bar.most
    if bar.flat:
        parts.append(f"flat to {FLAT:g}x")
        missed |= max(values) > FLAT * values[0]
    return f"{ratio:.2g}x", ", ".join(parts), "missed" if missed else "met"


def run(*options: str) -> int:
    """Print one table, a column a size; return 1 where a bar is missed."""
    quick = "--quick" in options
    millions = [0.3] if quick else [1.0, 3.0, 10.0]
    if "--datoms" in options:
        millions = [float(n) for n in options[options.index("--datoms") + 1].split(",")]
    sizes = [SMALLEST, *millions]
    print(machine(), flush=True)
    wanted = {"refs": "--refs" in options, "limit": "--limit" in options}
    found = [measured(size, **wanted) for size in sizes]
    rows, missed = [], []
    for name in found[0]:
        values = [size[name] for size in found]
        judged = verdict(name, values, [_slow(name, size) for size in found])
        rows.append([name, *(f"{value:.3g}" for value in values), *judged])
        if judged[-1] == "missed":
            missed.append(name)
    heads = [f"{size:g} M" for size in sizes]
    print(table(["datoms", *heads, "last to first", "bar", ""], rows))
    print(f"Figures that have a bar are judged as with a fixed loop of {LOOP_MS:g} ms.")
    print("Missed: " + "; ".join(missed) if missed else "Every bar is met.")
    return 1 if missed else 0


if __name__ == "__main__":
    print(json.dumps(anyio.run(_child, sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
