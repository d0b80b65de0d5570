"""``python -m benchmarks [workloads|commits|opening|web|remote …]``: all of them without a name."""

from __future__ import annotations

import sys

from benchmarks import commits, opening, remote, web, workloads

RUNS = {
    "workloads": workloads.run,
    "commits": commits.run,
    "opening": opening.run,
    "web": web.run,
    "remote": remote.run,
}


def main() -> int:
    """Run the benchmarks that are named and return 1 where a bar is missed."""
    names = sys.argv[1:] or list(RUNS)
    unknown = [name for name in names if name not in RUNS]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known: {', '.join(RUNS)}")
        return 2
    failed = 0
    for name in names:
        print(f"== {name}", flush=True)
        failed |= RUNS[name]()
    return failed


if __name__ == "__main__":
    sys.exit(main())
