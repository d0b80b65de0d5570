"""What eight runs over a million datoms cost who reads: beside the same database, merged.

``python -m benchmarks levels [datoms]``: people with a unique id, whose salaries are changed,
one at a time, until the present has eight runs. A copy of it is compacted; both are asked in
turns, in one process. *First* is the first answer of a connection that has just been opened, so
nodes are read and columns are put together; all else is warm. Bars: what issue 12 wants, as
ratios of the two.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio

import datahike_async as d
from benchmarks.data import entities, people, schema
from benchmarks.plan import QUERIES
from datahike_async.index.protocol import Order
from datahike_async.tables import table
from datahike_async.transactor.limits import Limits

__all__ = ["run"]

DATOMS: Final = 1_000_000
RUNS: Final = 8
FLUSH: Final = 4096
SHARE: Final = 4
"""The runs have at least the base's rows divided by this; at twice as many they are merged."""
POINTS: Final = 200
MANY: Final = 2_000
FIRSTS: Final = 5
SAMPLES: Final = 7
BAR: Final = 1.3

POINT: Final = "[:find ?s . :in $ ?u :where [?e :uid ?u] [?e :salary ?s]]"
LOOKUPS: Final = "[:find ?e ?s :in $ [?u ...] :where [?e :uid ?u] [?e :salary ?s]]"
ALL: Final = "[:find ?s :in $ ?u :where [?e :uid ?u] [?e :salary ?s]]"
VALUES: Final = "[:find ?e :in $ ?s :where [?e :salary ?s]]"
SCAN: Final = "[:find (sum ?s) . :with ?e :where [?e :salary ?s]]"
STILL: Final = "[:find (sum ?a) . :with ?e :where [?e :age ?a]]"
EVENTS: Final = "[:find (count ?s) . :with ?e ?t ?op :where [?e :salary ?s ?t ?op]]"
STANDARD: Final = {f"q{i}": name for i, name in enumerate(("q1", "q2", "q3", "q4", "qpred1"), 1)}

Call = Callable[[Any], Awaitable[Any]]


def _config(folder: Path) -> dict[str, Any]:
    return {"store": {"backend": "file", "path": str(folder / "db")}}


async def _made(folder: Path, datoms: int) -> tuple[int, list[int], list[int]]:
    """Make the database; return a transaction half way, and ids of who changed and who did not."""
    count = datoms // 6
    rng = random.Random(5)
    attributes = [{":db/ident": a, **rest} for a, rest in schema(uid=True).items()]
    for attribute in attributes:
        if attribute[":db/ident"] == ":salary":
            attribute[":db/index"] = True
    maps = entities(people(count), uid=True)
    # One in ten never changes.
    changing = [m[":uid"] for m in maps if m[":uid"] % 10]
    touched: dict[int, None] = {}
    half = 0
    # A flush is made at each closing, and as many whatever the size.
    limits = Limits(2**40, 2**60, 2**60, close_rows=1)
    each = max(FLUSH * datoms // DATOMS, 128)
    async with d.connect(_config(folder), create=True, limits=limits) as conn:
        await conn.transact(attributes)
        for first in range(0, len(maps), 50_000):
            await conn.transact(maps[first : first + 50_000])
        await d.compact(conn)
    while True:
        async with d.connect(_config(folder), limits=limits) as conn:
            runs = conn.db().snapshot.trees.current[Order.EAVT].runs
            rows = sum(map(len, runs))
            if not half and rows * SHARE * 2 > datoms:
                half = conn.db().max_tx
            if rows * SHARE > datoms and len(runs) == RUNS:
                break
            some = [rng.choice(changing) for _ in range(each)]
            touched.update(dict.fromkeys(some))
            await conn.transact_many(
                [[{":db/id": e, ":salary": rng.randrange(100_000)}] for e in some]
            )
    still = [m[":uid"] for m in maps if not m[":uid"] % 10]
    return half, *(rng.sample(ids, min(MANY, len(ids))) for ids in (list(touched), still))


@asynccontextmanager
async def _opened(folder: Path) -> AsyncIterator[Any]:
    async with d.connect(_config(folder)) as conn:
        yield conn.db()


def _each(query: str, inputs: list[Any], view: Callable[[Any], Any]) -> Call:
    async def call(db: Any) -> list[Any]:
        seen = view(db)
        return [await d.q(query, seen, one) for one in inputs]

    return call


def _once(query: str, *inputs: Any, view: Callable[[Any], Any] = lambda db: db) -> Call:
    async def call(db: Any) -> Any:
        found = await d.q(query, view(db), *inputs)
        return found if isinstance(found, (int, float)) else len(found)

    return call


def _calls(half: int, changed: list[int], still: list[int]) -> dict[str, tuple[Call, float | None]]:
    """Return what is asked, and the most that it may take of what it takes when merged."""
    views: dict[str, Callable[[Any], Any]] = {
        "": lambda db: db,
        " as of": lambda db: db.as_of(half),
        " in history": lambda db: db.history(),
        " since": lambda db: db.since(half),
    }
    out: dict[str, tuple[Call, float | None]] = {}
    for name, view in views.items():
        bar = BAR if name in (" as of", " in history") else None
        who = {"changed": changed, "unchanged": still}
        if name == " since":  # no one's id is in it
            out["scan since"] = (_once(SCAN, view=view), bar)
            continue
        query = ALL if name == " in history" else POINT
        for kind, ids in who.items():
            some = ids[:POINTS]
            out[f"point query{name}, {kind}"] = (_each(query, some, view), bar or BAR)
            out[f"look-up of {len(ids):,}{name}, {kind}"] = (
                _once(LOOKUPS, ids, view=view),
                bar or BAR,
            )
        out[f"scan{name}"] = (_once(SCAN, view=view), bar or BAR)
        out[f"scan of what never changed{name}"] = (_once(STILL, view=view), bar or BAR)
    out["values"] = (_each(VALUES, list(range(0, 100_000, 500)), lambda db: db), BAR)
    out["events of history"] = (_once(EVENTS, view=views[" in history"]), BAR)
    for name, query in STANDARD.items():
        out[name] = (_once(QUERIES[query]), BAR)
    return out


async def _first(folder: Path, call: Call) -> tuple[float, Any]:
    async with _opened(folder) as db:
        start = time.perf_counter()
        answer = await call(db)
        return (time.perf_counter() - start) * 1e3, answer


async def _warm(db: Any, call: Call) -> float:
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < 0.03:
        await call(db)
        count += 1
    return (time.perf_counter() - start) * 1e3 / count


async def _measure(folder: Path, datoms: int) -> int:
    half, changed, still = await _made(folder / "runs", datoms)
    both = [folder / "runs", folder / "merged"]
    shutil.copytree(*both)
    async with d.connect(_config(both[1])) as conn:
        await d.compact(conn)
    async with _opened(both[0]) as db, _opened(both[1]) as merged:
        for name, of in (("with runs", db), ("merged", merged)):
            trees = of.snapshot.trees
            sizes = [list(map(len, trees.side(past=past)[Order.EAVT].runs)) for past in (0, 1)]
            bases = [len(trees.side(past=past)[Order.EAVT].base) for past in (0, 1)]
            print(f"{name}: runs of the present {sizes[0]}, of the past {sizes[1]}, over {bases}")
    rows, missed = [], []
    for name, (call, bar) in _calls(half, changed, still).items():
        firsts: list[list[float]] = [[], []]
        for _ in range(FIRSTS):
            answers = []
            for side, taken in zip(both, firsts, strict=True):
                ms, answer = await _first(side, call)
                taken.append(ms)
                answers.append(answer)
            assert answers[0] == answers[1], name
        warms: list[list[float]] = [[], []]
        async with _opened(both[0]) as db, _opened(both[1]) as merged:
            for _ in range(SAMPLES + 1):
                for of, taken in zip((db, merged), warms, strict=True):
                    taken.append(await _warm(of, call))
        first, warm = [min(x) for x in firsts], [min(x[1:]) for x in warms]
        ratios = first[0] / first[1], warm[0] / warm[1]
        late = [bar is not None and ratio > bar for ratio in ratios]
        times = zip(("first", "warm"), late, strict=True)
        missed += [f"{name}, {what}" for what, is_late in times if is_late]
        figures = [f"{x:.3g}" for x in (*first, ratios[0], *warm, ratios[1])]
        rows.append([name, *figures, f"{bar or ''}"])
        print(*rows[-1], sep=" | ", flush=True)
    heads = ["", "first, runs", "merged", "ratio", "warm, runs", "merged", "ratio", "bar"]
    print(table(heads, rows))
    print("Missed: " + "; ".join(missed) if missed else "Every bar is met.")
    return 1 if missed else 0


def run(*words: str) -> int:
    """Make the database, ask it, and print one table in ms; return 1 where a bar is missed."""
    datoms = int(float(words[0])) if words else DATOMS
    with tempfile.TemporaryDirectory() as folder:
        return anyio.run(partial(_measure, Path(folder), datoms))
