"""Point queries on views of the past, and scans after a write: what no peer has, or has in one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import datahike_async as d
from benchmarks.analytics import data
from benchmarks.analytics.plan import POINT
from benchmarks.measure import Timing, calibration, timed

FIRSTS: Final = 5
CHANGED: Final = 200
SCAN: Final = "[:find (sum ?m) . :with ?f :where [?f :amount ?m]]"
HISTORY: Final = "[:find ?a :in $ ?i :where [?e :id ?i] [?e :age ?a]]"
SINCE: Final = "[:find ?a . :in $ ?e :where [?e :age ?a]]"

Timings = dict[str, Timing]


async def past(db: Any, size: int) -> Timings:
    """Measure point queries on views of a database with ``size`` people; some of them change."""
    before = db.max_tx
    for age in range(100, 100 + FIRSTS):
        db = await db.db_with(_ages(size, age))
    found: dict[str, Timing] = {}
    ids = [e + data.FIRST_ID for e in _some(size)]
    entities = dict(await d.q("[:find ?i ?e :in $ [?i ...] :where [?e :id ?i]]", db, ids))

    async def first() -> Any:
        # A write gives each view a snapshot of its own: nothing is kept for it.
        changed = await db.db_with([{":id": ids[0], ":age": 99}])
        start = time.perf_counter()
        await d.q(POINT, d.as_of(changed, before), ids[0])
        return (time.perf_counter() - start) * 1e3

    loops, times = calibration(), [await first() for _ in range(FIRSTS)]
    found["point query as of, first"] = Timing(sorted(times)[FIRSTS // 2], loops)
    views = {
        "point query": db,
        "point query as of": d.as_of(db, before),
        "point query in history": d.history(db),
        "point query since": d.since(db, before),
    }
    for name, view in views.items():
        # A view of the changes alone does not know the unique ids.
        alone = name == "point query since"
        query = SINCE if alone else HISTORY if name == "point query in history" else POINT
        calls = _calls(query, view, list(entities.values()) if alone else ids)
        found[name] = await timed(calls, warm=0.2, target=0.05, attempts=2)
        found[name] = Timing(found[name].ms / len(ids), found[name].loop)
    return found


def _calls(query: str, db: Any, ids: list[int]) -> Callable[[], Awaitable[Any]]:
    async def call() -> None:
        for id_ in ids:
            value = await d.q(query, db, id_)
            if value is None or value == set():
                raise AssertionError(f"{query} finds nothing of {id_}")

    return call


def _some(size: int) -> list[int]:
    return list(range(1, size + 1, max(1, size // CHANGED)))


def _ages(size: int, age: int) -> list[dict[str, Any]]:
    return [{":id": e + data.FIRST_ID, ":age": age} for e in _some(size)]


async def scans(db: Any) -> Timings:
    """Measure a scan of an attribute, and the same as the first after a write of ten values."""

    async def scan() -> Any:
        return await d.q(SCAN, db)

    warm = await timed(scan, samples=5, warm=0.2, target=0.05, attempts=2)
    first = data.PRODUCTS + data.STORES + 1
    loops, times = calibration(), []
    for n in range(2 * FIRSTS):
        db = await db.db_with([{":db/id": first + i, ":amount": n} for i in range(10)])
        start = time.perf_counter()
        await d.q(SCAN, db)
        times.append((time.perf_counter() - start) * 1e3)
    return {"scan": warm, "scan after a write": Timing(sorted(times)[FIRSTS], loops)}
