"""``python3 dev.py bench analytics [--quick]``: the wide workloads, ours beside peers."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import anyio

from benchmarks import peers
from benchmarks.analytics import data, full_load, loads, ours, peer, views
from benchmarks.analytics.plan import BARS, LOOP, Sizes, notes
from benchmarks.measure import Timing, digest
from benchmarks.report import Measured, compared, conclude, differences

QUICK = 0.05
FULL_LOAD = "full load, "


def run(*options: str) -> int:
    """Print one table; return 1 where a bar is missed or an answer differs.

    ``--quick`` takes a twentieth of the data: the answers count then, not the ratios.
    """
    quick = "--quick" in options
    factor = QUICK if quick else 1.0
    sizes = Sizes().scaled(factor)
    found: dict[str, Any] = {name: peer.run(name, factor) for name in peer.MODULES}
    found["DataScript"] = _datascript(sizes)
    mine, timings = anyio.run(_ours, sizes)
    found[LOOP] = {"version": "of measure.py", "results": {}}
    for name, sides in timings.items():
        mine[name] = Measured(sides["ours"].ms, None, {}, [sides["ours"]])
        sides[LOOP] = Timing(sides["ours"].loop, 0.0)
        for side, timing in sides.items():
            if side != "ours" and found.get(side):
                slow = timing.slow if timing.loop else 1.0
                found[side]["results"][name] = {"ms": timing.ms, "slow": slow}
    apart = differences(mine, found)
    return conclude(found, compared(mine, found, BARS), apart)


async def _ours(sizes: Sizes) -> tuple[dict[str, Measured], dict[str, dict[str, Timing]]]:
    """Return the queries, and what is timed by side: loads, views of the past, full load."""
    mine = await ours.measured(sizes)
    db: Any = ours.database("people", sizes.people)
    alone = await views.past(db, sizes.people)
    db = ours.database("star", sizes.star)
    alone |= await views.scans(db)
    del db
    gc.collect()
    timings = {name: {"ours": timing} for name, timing in alone.items()}
    timings |= await loads.measured(sizes.loads)
    turns = await full_load.measured(sizes.people // 10)
    for what in ("turn p50", "turn p99", "operation"):
        timings[FULL_LOAD + what] = {side: found[what] for side, found in turns.items()}
    return mine, timings


def _datascript(sizes: Sizes) -> Mapping[str, Any] | None:
    """Return what DataScript takes to look through the strings, with a digest as the others."""
    strings = list(data.star(sizes.star).sales.columns[":note"])
    found = peers.datascript(notes(), 0, more={"notes": strings})
    for result in (found or {}).get("results", {}).values():
        result |= digest([(int(result["sum"]),)])
    return found
