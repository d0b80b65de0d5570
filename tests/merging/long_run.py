"""Hold merges to the oracle for as long as one likes.

    python -m tests.merging.long_run --examples 10000 [--seed N] [--processes 2]

Counts merges that had something to merge. Prints the run's seed first and exits with 1 at the first
difference, which it shrinks and prints with the seed of its part.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import secrets
import sys
import time
import traceback

from tests.merging.scenes import Play, play_of, run

PART = 100
BACKENDS = ("asyncio", "trio")


def part(
    work: tuple[int, int], *, shrink: bool = True, scenes: int = PART
) -> tuple[int, int, str | None]:
    """Play one part; return its seed, how many merges it had, and what went wrong or None."""
    number, start = work
    own = start + number
    rng = random.Random(own)
    merges = 0
    for _ in range(scenes):
        play = play_of(rng)
        merged, wrong = played(BACKENDS[number % 2], play)
        merges += merged
        if wrong is None:
            continue
        if shrink:
            play, wrong = shorter(BACKENDS[number % 2], play, wrong)
        return own, merges, f"{play}\n{wrong}"
    return own, merges, None


def played(backend: str, play: Play) -> tuple[int, str | None]:
    """Play a scene; return how many merges it had, and what went wrong or None."""
    try:
        return run(backend, play), None
    except Exception:
        return 0, traceback.format_exc()


def shorter(backend: str, play: Play, wrong: str) -> tuple[Play, str]:
    """Leave out steps as long as something goes wrong."""
    at = 0
    while at < len(play.steps):
        less = play._replace(steps=play.steps[:at] + play.steps[at + 1 :])
        found = played(backend, less)[1]
        if found is None:
            at += 1
        else:
            play, wrong = less, found
    return play, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(f"seed {options.seed}: {options.examples} merges", flush=True)
    begun, done = time.monotonic(), 0
    work = ((i, options.seed) for i in range(10**6))
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        while done < options.examples:
            several = [next(work) for _ in range(2 * options.processes)]
            for own, merges, wrong in pool.imap(part, several):
                if wrong is not None:
                    print(f"The part of seed {own} differs:\n{wrong}", flush=True)
                    return 1
                done += merges
            rate = done / (time.monotonic() - begun)
            print(f"{done} merges, no difference ({rate:.0f} a second)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
