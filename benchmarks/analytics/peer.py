"""What a peer of the wide workloads is: a process of its own, ``python -m MODULE FACTOR``.

It makes the data from the same seeds, runs what of the plan has a text or a function for it, and
prints what it took, and a digest of each answer, as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, Final, Protocol

import anyio

from benchmarks.analytics.plan import Sizes, plan
from benchmarks.measure import Timing, digest, timed
from benchmarks.peers import Workload

MODULES: Final = {
    "SQLite": ("sqlite3", "benchmarks.analytics.sqlite"),
    "DuckDB": ("duckdb", "benchmarks.analytics.duck"),
    "polars": ("polars", "benchmarks.analytics.frames"),
    "mnestic": ("mnestic", "benchmarks.analytics.datalog"),
    "fluree": ("fluree", "benchmarks.analytics.sparql"),
}
"""Peer → the package that it needs, and the program that measures it."""
ONCE: Final = {"warm": 0.2, "target": 0.05, "attempts": 2}
"""How each side is timed; ``samples`` come from the workload."""

Call = Callable[[], Any]


class Peer(Protocol):
    """A database in this process."""

    version: str

    def make(self, data: str, count: int) -> None:
        """Take the data up, with the indexes that its queries want."""

    def prepared(self, work: Workload) -> Call | None:
        """Return a call that answers with all rows, or None: the peer has no way to."""

    def rows(self, work: Workload, answer: Any) -> Iterable[Any]:
        """Return the rows of an answer in the common form; not timed."""


async def measured(peer: Peer, sizes: Sizes) -> dict[str, Any]:
    """Return workload → milliseconds, how slow the machine was, and the digest of the answer."""
    timings: dict[str, Timing] = {}
    digests: dict[str, dict[str, int]] = {}
    made = ""
    for work in plan(sizes):
        if work.data != made:
            made = work.data
            peer.make(made, getattr(sizes, made))
            gc.collect()
        prepared = peer.prepared(work)
        if prepared is None:
            continue

        async def call(run: Call = prepared) -> Any:
            return run()

        timings[work.name] = await timed(call, samples=min(work.samples, 7), **ONCE)  # type: ignore[arg-type]
        digests[work.name] = digest(peer.rows(work, prepared()), ordered=work.ordered)
    return {
        name: {"ms": timing.ms, "slow": timing.slow, **digests[name]}
        for name, timing in timings.items()
    }


def serve(make: Callable[[], Peer]) -> None:
    """Be the program of a peer."""
    peer = make()
    results = anyio.run(measured, peer, Sizes().scaled(float(sys.argv[1])))
    print(json.dumps({"version": peer.version, "results": results}), flush=True)
    os._exit(0)  # taking large tables down takes seconds


def run(name: str, factor: float) -> dict[str, Any] | None:
    """Return what a peer measured; None, and a line that says so, where it is not installed."""
    package, module = MODULES[name]
    if find_spec(package) is None:
        print(f"{package} is not installed: {name} is left out.")
        return None
    done = subprocess.run(
        [sys.executable, "-m", module, str(factor)], check=True, stdout=subprocess.PIPE
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
