"""``python -m benchmarks [NAME …] [--quick]``: workloads, queries, analytics, guards, commits, ….

All of them without a name; those of ``ALONE`` have options of their own, and come alone.
"""

from __future__ import annotations

import sys

from benchmarks import (
    big,
    collection,
    commits,
    guards,
    history,
    levels,
    lmdb,
    opening,
    queries,
    remote,
    scale,
    turns,
    web,
    workloads,
    writes,
    writing,
)
from benchmarks.analytics import run as analytics

RUNS = {
    "workloads": workloads.run,
    "queries": queries.run,
    "analytics": analytics.run,
    "guards": guards.run,
    "commits": commits.run,
    "opening": opening.run,
    "web": web.run,
    "lmdb": lmdb.run,
    "remote": remote.run,
    "stalls": writing.run,
}
ALONE = {
    "turns": turns.run,
    "scale": scale.run,
    "collection": collection.run,
    "history": history.run,
    "writes": writes.run,
    "big": big.run,
    "levels": levels.run,
}
QUICK = {"queries", "analytics"}
"""Those that take ``--quick``."""


def main() -> int:
    """Run the benchmarks that are named and return 1 where a bar is missed."""
    if sys.argv[1:2] and sys.argv[1] in ALONE:
        return ALONE[sys.argv[1]](*sys.argv[2:])
    options = [word for word in sys.argv[1:] if word.startswith("-")]
    names = [word for word in sys.argv[1:] if word not in options] or list(RUNS)
    unknown = [name for name in names if name not in RUNS]
    unknown += [option for option in options if option != "--quick" or not QUICK & {*names}]
    if unknown:
        print(f"unknown benchmark or option {unknown[0]!r}; known: {', '.join(RUNS)}")
        return 2
    failed = 0
    for name in names:
        print(f"== {name}", flush=True)
        failed |= RUNS[name](*options) if name in QUICK else RUNS[name]()
    return failed


if __name__ == "__main__":
    sys.exit(main())
