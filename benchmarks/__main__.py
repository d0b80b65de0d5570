"""``python -m benchmarks [workloads|queries [--quick]|guards|commits|opening|web|remote|…]``.

All of them without a name; ``turns`` has options of its own, and comes alone.
"""

from __future__ import annotations

import sys

from benchmarks import commits, guards, opening, queries, remote, turns, web, workloads, writing

RUNS = {
    "workloads": workloads.run,
    "queries": queries.run,
    "guards": guards.run,
    "commits": commits.run,
    "opening": opening.run,
    "web": web.run,
    "remote": remote.run,
    "stalls": writing.run,
}


def main() -> int:
    """Run the benchmarks that are named and return 1 where a bar is missed."""
    if sys.argv[1:2] == ["turns"]:
        return turns.run(*sys.argv[2:])
    options = [word for word in sys.argv[1:] if word.startswith("-")]
    names = [word for word in sys.argv[1:] if word not in options] or list(RUNS)
    unknown = [name for name in names if name not in RUNS]
    unknown += [option for option in options if option != "--quick" or "queries" not in names]
    if unknown:
        print(f"unknown benchmark or option {unknown[0]!r}; known: {', '.join(RUNS)}")
        return 2
    failed = 0
    for name in names:
        print(f"== {name}", flush=True)
        failed |= RUNS[name](*options) if name == "queries" else RUNS[name]()
    return failed


if __name__ == "__main__":
    sys.exit(main())
