"""Simulate for as long as one likes.

    python -m tests.simulation.long_run --seeds 20000 --backend asyncio [--start N] [--processes 2]

Prints the first seed, how far it is, and for each seed that goes wrong what did, and the command
that repeats it. Exits with 1 if any did, after ``--most`` of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import sys
import time
from typing import NamedTuple

from tests.indexes import INDEXES
from tests.simulation.loops import BACKENDS
from tests.simulation.run import simulate

PART = 25


class Part(NamedTuple):
    """What came of some seeds."""

    operations: int
    commits: int
    seconds: float
    wrong: list[tuple[int, str]]


def part(work: tuple[int, int, str, str]) -> Part:
    start, count, backend, index = work
    began = time.process_time()
    operations = commits = 0
    wrong = []
    for seed in range(start, start + count):
        done = simulate(seed, backend, index)
        operations += done.operations
        commits += done.commits
        if done.wrong is not None:
            wrong.append((seed, done.wrong.strip().splitlines()[-1][:300]))
    return Part(operations, commits, time.process_time() - began, wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    parser.add_argument("--index", choices=INDEXES, default="persistent-set")
    parser.add_argument("--start", type=int, default=None, help="the first seed; any, without it")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--most", type=int, default=5, help="seeds that go wrong, then it stops")
    arguments = parser.parse_args()
    start = secrets.randbelow(1 << 40) if arguments.start is None else arguments.start
    print(
        f"{arguments.seeds} seeds from {start} on {arguments.backend}, {arguments.index}",
        flush=True,
    )
    parts = [
        (at, min(PART, start + arguments.seeds - at), arguments.backend, arguments.index)
        for at in range(start, start + arguments.seeds, PART)
    ]
    began, wrong, done, operations, commits, cpu = time.monotonic(), 0, 0, 0, 0, 0.0
    with multiprocessing.Pool(arguments.processes, maxtasksperchild=8) as pool:
        for made, (_, count, *_) in zip(pool.imap(part, parts), parts, strict=True):
            done, cpu = done + count, cpu + made.seconds
            operations, commits = operations + made.operations, commits + made.commits
            for seed, what in made.wrong:
                wrong += 1
                print(f"{seed}: {what}")
                print(
                    f"    python -m tests.simulation.run {seed} "
                    f"--backend {arguments.backend} --index {arguments.index}",
                    flush=True,
                )
            if wrong >= arguments.most:
                pool.terminate()
                break
            if done % (PART * 40) == 0:
                print(f"{done} seeds, {done / (time.monotonic() - began):.1f} a second", flush=True)
    spent = time.monotonic() - began
    print(
        f"{done} seeds with {operations} operations and {commits} commits in {spent:.0f} s: "
        f"{done / spent:.1f} a second, {done / cpu:.1f} a second of one core; {wrong} went wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
