"""Hold the engine to the oracle for as long as one likes.

    python -m tests.query.long_run --examples 100000 [--seed N] [--processes 2]

Prints the run's seed first and exits with 1 at the first difference, which it shrinks and prints
with the seed of its part; ``--seed`` runs the same queries again. In the end it says in how many of
the databases each state of merging was met.
"""

from __future__ import annotations

import argparse
import multiprocessing
import secrets
import sys
import time
import traceback
from collections import Counter
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.query.states import Plan
from tests.query.test_oracle import ANSWERS, ASKED, CASES, Case, Ways, run

PART = 2000
BACKENDS = ("asyncio", "trio")


class Part(NamedTuple):
    """What came of a part: what went wrong, if anything, and the states of merging, counted."""

    seed: int
    wrong: str | None
    met: Counter[str]


def part(
    work: tuple[int, int, int],
    *,
    shrink: bool = True,
    only: str | None = None,
    seen: str | None = None,
) -> Part:
    """Run one part, or ``only`` one way of it, or one view as it is ``seen``."""
    met: Counter[str] = Counter()
    number, start, examples = work
    own = start + number
    backend = BACKENDS[number % 2]

    @seed(own)
    @settings(
        max_examples=-(-examples // ASKED),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(*CASES)
    def compared(case: Case, ways: Ways, plan: Plan) -> None:
        met.update(run(backend, *case, [(seen or view, only or way) for view, way in ways], plan))

    try:
        compared()
    except Exception:
        return Part(own, traceback.format_exc(), met)
    return Part(own, None, met)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(f"seed {options.seed}: {options.examples} queries", flush=True)
    begun, done, met = time.monotonic(), 0, Counter[str]()
    parts = [
        (i, options.seed, min(PART, options.examples - at))
        for i, at in enumerate(range(0, options.examples, PART))
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for one in pool.imap(part, parts):
            if one.wrong is not None:
                print(f"The part of seed {one.seed} differs:\n{one.wrong}", flush=True)
                return 1
            met += one.met
            done = met[ANSWERS]
            rate = done / (time.monotonic() - begun)
            print(f"{done} queries, no difference ({rate:.0f} a second)", flush=True)
    for name, count in sorted(met.items()):
        print(f"{count:8} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
