"""Hold the engine to the oracle for as long as one likes.

    python -m tests.query.long_run --examples 100000 [--seed N] [--processes 2]

Prints the run's seed first and exits with 1 at the first difference, which it shrinks and prints
with the seed of its part; ``--seed`` runs the same queries again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import secrets
import sys
import time
import traceback
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.query.test_oracle import CASES, run

PART = 2000
BACKENDS = ("asyncio", "trio")


def part(
    work: tuple[int, int, int], *, shrink: bool = True, only: str | None = None
) -> tuple[int, str | None]:
    """Run one part, or ``only`` one way of it; return its seed, and what went wrong or None."""
    number, start, examples = work
    own = start + number
    backend = BACKENDS[number % 2]

    @seed(own)
    @settings(
        max_examples=examples,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(*CASES)
    def compared(case: tuple[Any, Any], view: str, way: str, absorb: int, index: str) -> None:
        run(backend, *case, view, only or way, absorb, index)

    try:
        compared()
    except BaseException:
        return own, traceback.format_exc()
    return own, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(f"seed {options.seed}: {options.examples} queries", flush=True)
    begun, done = time.monotonic(), 0
    parts = [
        (i, options.seed, min(PART, options.examples - at))
        for i, at in enumerate(range(0, options.examples, PART))
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for (_, _, examples), (own, wrong) in zip(parts, pool.imap(part, parts), strict=True):
            if wrong is not None:
                print(f"The part of seed {own} differs:\n{wrong}", flush=True)
                return 1
            done += examples
            rate = done / (time.monotonic() - begun)
            print(f"{done} queries, no difference ({rate:.0f} a second)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
